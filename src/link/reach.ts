// What a patch begins with in: changed functions, constants to rewrite. Out comes a plan of all that they reach and the
// program does not have yet, with a slot or an address for whatever a relocation names.

import type { Atom, ObjectFile, Relocation, Signature, Symbol } from '../model.ts';
import { type Comparison, type Definition, definitionOf, isAnonymous, type Locate, symbolAt } from './diff.ts';
import type { Library } from './library.ts';
import { readable } from './mangle.ts';
import type { Draft, Entry } from './program.ts';
import {
  type Plan,
  type PlannedData,
  type PlannedFunction,
  type PlannedImport,
  type Referent,
  type Resolved,
  type Target,
  Unlinkable,
} from './target.ts';

/** A finished image of the newer build: where functions come from that only wasm-bindgen can make. */
export interface Companion {
  readonly object: ObjectFile;
  /** Export name → index in `object.symbols`. */
  readonly exports: ReadonlyMap<string, number>;
  /** As `Program.hostConstants`. */
  readonly hostConstants: string;
}

export interface Reachable {
  readonly plan: Plan;
  /** With a companion that the plan imports from: the slot that holds each of its exports. */
  readonly exports: Readonly<Record<string, number>>;
  /** Functions that only a new run of wasm-bindgen can bring. */
  readonly unresolved: readonly string[];
}

/** Writes to the draft, and throws `Unlinkable`. */
export class Reach {
  readonly #draft: Draft;
  readonly #library: Library;
  readonly #target: Target;
  readonly #comparison: Comparison;
  readonly #locate: Locate;
  readonly #companion: Companion | undefined;
  /** Definitions whose relocations are still to be followed. */
  readonly #queue: (() => void)[] = [];
  readonly #functions: PlannedFunction[] = [];
  readonly #data: PlannedData[] = [];
  readonly #imports: PlannedImport[] = [];
  readonly #imported = new Map<string, Entry>();
  /** Where code of this patch will be, for formats that place it, and what belongs to it alone. */
  readonly #bodies = new Map<Atom, number>();
  /** Slots that have a body coming. Not atoms: LLVM merges equal functions, and then one body has several names. */
  readonly #planned = new Set<number>();
  readonly #unresolved = new Set<string>();

  constructor(
    draft: Draft,
    library: Library,
    target: Target,
    comparison: Comparison,
    locate: Locate,
    companion: Companion | undefined,
  ) {
    this.#draft = draft;
    this.#library = library;
    this.#target = target;
    this.#comparison = comparison;
    this.#locate = locate;
    this.#companion = companion;
  }

  /** Follows every relocation from what was planned. */
  finish(): Reachable {
    this.#drain();
    const exports = this.#companion !== undefined && this.#imports.length > 0 ? this.#exports(this.#companion) : {};
    this.#drain();
    const plan = { functions: this.#functions, data: this.#data, imports: this.#imports };
    return { plan, exports, unresolved: [...this.#unresolved] };
  }

  #drain(): void {
    for (let step = this.#queue.shift(); step !== undefined; step = this.#queue.shift()) step();
  }

  /** A slot gets this body. */
  planFunction(definition: Definition, entry: Entry): void {
    const source = this.#source(definition);
    if (source === undefined || this.#planned.has(entry.slot)) return;
    const { object, symbol, atom } = source;
    this.#planned.add(entry.slot);
    const address = this.#draft.program.areaOf.code === undefined ? undefined : this.#allocate(atom);
    if (address !== undefined) this.#bodies.set(atom, address);
    this.#queue.push(() => {
      const relocations = this.#resolveAll(object, atom, atom.relocations);
      const unwind = (atom.unwind ?? []).map((one) => ({
        unwind: one,
        cie: this.#resolveAll(object, UNWIND_TABLE, one.cie.relocations),
        fde: this.#resolveAll(object, UNWIND_TABLE, one.fde.relocations),
      }));
      this.#functions.push({
        name: symbol.name,
        slot: entry.slot,
        signature: entry.signature,
        definition: source,
        ...(address !== undefined && { address }),
        relocations,
        unwind,
      });
    });
  }

  /** Where a function's body is to come from: its object, unless wasm-bindgen puts something else in its place. */
  #source(definition: Definition): Definition | undefined {
    const { object, symbol, atom } = definition;
    if (object === this.#companion?.object || !this.#target.isReplaced(object, atom)) return definition;
    if (this.#companion === undefined) {
      this.#unresolved.add(symbol.name);
      return undefined;
    }
    if (atom.relocations.some((relocation) => this.#target.targetKind(relocation) === 'address')) {
      const reason = `\`${readable(symbol.name)}\` crosses to JavaScript in a way that cannot be swapped in the page`;
      throw new Unlinkable(reason);
    }
    const replacement = this.#fromCompanion(symbol);
    if (replacement === undefined) this.#unresolved.add(symbol.name);
    return replacement;
  }

  /** Memory gets this content. */
  planData({ object, atom }: Definition, address: number, fresh = false): void {
    this.#queue.push(() => {
      this.#data.push({ address, atom, relocations: this.#resolveAll(object, atom, atom.relocations), fresh });
    });
  }

  #resolveAll(object: ObjectFile, atom: Pick<Atom, 'kind'>, relocations: readonly Relocation[]): Resolved[] {
    return relocations.map((relocation) => {
      const { offset, kind, addend } = relocation;
      return { offset, kind, addend, ...this.#referent(object, atom, relocation) };
    });
  }

  #referent(object: ObjectFile, atom: Pick<Atom, 'kind'>, relocation: Relocation): Referent {
    const targetKind = this.#target.targetKind(relocation);
    if (targetKind === 'signature') {
      const signature = object.signatures[relocation.symbol];
      if (signature === undefined) throw new Error(`${object.name}: no signature ${relocation.symbol}`);
      return { means: 'type', value: 0, signature };
    }
    const symbol = symbolAt(object, relocation.symbol);
    switch (targetKind) {
      case 'name':
        return { means: 'name', value: 0, name: symbol.name };
      case 'function':
        return bySlot(this.#functionEntry(object, symbol));
      case 'address':
        return { means: 'address', value: this.#address(object, symbol) };
      case 'symbol':
        break;
    }
    return this.#target.meansInside(object, atom, relocation)
      ? { means: 'address', value: this.#inside(object, symbol) }
      : this.#found(object, symbol);
  }

  /** Whatever it is: a function with a slot, something that has a place, something new, or the host's. */
  #found(object: ObjectFile, symbol: Symbol): Referent {
    const entry = this.#draft.entry(object, symbol);
    if (entry !== undefined) return bySlot(entry);
    if (symbol.isAbsolute === true) return { means: 'address', value: symbol.offset };
    const own = definitionOf(object, symbol);
    const isKnown = this.#draft.place(object, symbol) !== undefined;
    if (!isKnown) {
      const definition = own ?? this.#library.find(symbol.name);
      if (definition?.symbol.kind === 'function') return bySlot(this.add(definition));
      if (definition === undefined) {
        const host = this.#target.hostReferent(symbol);
        if (host !== undefined) return host;
        if (symbol.binding === 'weak') return { means: 'address', value: 0 };
      }
    }
    return { means: 'address', value: this.#address(object, symbol) };
  }

  /** Where a function's body of this patch will be. */
  #inside(object: ObjectFile, symbol: Symbol): number {
    const atom = definitionOf(object, symbol)?.atom;
    const address = atom === undefined ? undefined : this.#bodies.get(atom);
    if (address === undefined)
      throw new Unlinkable(`the code of \`${readable(symbol.name)}\` is used from outside of it`);
    return address + symbol.offset;
  }

  #functionEntry(object: ObjectFile, symbol: Symbol): Entry {
    const fromCompanion = object === this.#companion?.object;
    if (fromCompanion && symbol.atom === undefined) return this.#import(symbol);
    for (const alias of this.#target.aliases(symbol)) {
      if (this.#target.isOfOneBuild(alias)) continue;
      const entry =
        alias === symbol.name && !fromCompanion ? this.#draft.entry(object, symbol) : this.#draft.named(alias);
      if (entry !== undefined && entry.signature === signatureOf(symbol)) return entry;
    }
    const own = this.#locate(object, symbol);
    if (own !== undefined && !fromCompanion) return this.add(own);
    const found = this.#library.find(symbol.name) ?? own ?? this.#fromCompanion(symbol);
    if (found !== undefined) return found.symbol.atom === undefined ? this.#import(found.symbol) : this.add(found);
    if (!this.#target.isHostFunction(symbol)) {
      throw new Unlinkable(`nothing on the link line defines \`${readable(symbol.name)}\``);
    }
    this.#unresolved.add(symbol.name);
    return { slot: 0, signature: signatureOf(symbol) };
  }

  /** Gives a function that the program does not have a slot, and its body a place in the patch. */
  add(definition: Definition): Entry {
    const { object, symbol } = definition;
    const entry = this.#newEntry(symbol, object.name);
    this.#draft.enter(object, symbol, entry);
    this.planFunction(definition, entry);
    return entry;
  }

  #newEntry(symbol: Symbol, object?: string): Entry {
    const entry = this.#draft.newEntry(signatureOf(symbol), object);
    if (entry === undefined) throw new Unlinkable('the slots kept free for new functions are used up');
    return entry;
  }

  #fromCompanion(symbol: Symbol): Definition | undefined {
    if (this.#companion === undefined) return undefined;
    const { object } = this.#companion;
    for (const alias of this.#target.aliases(symbol)) {
      const found = object.symbols.find(
        (candidate) => candidate.name === alias && candidate.signature === symbol.signature,
      );
      // An import has no atom: an empty one stands for it, and the caller looks at the symbol.
      if (found !== undefined) return definitionOf(object, found) ?? { object, symbol: found, atom: NO_ATOM };
    }
    return undefined;
  }

  /** A JavaScript function of the companion's glue. The ones wasm-bindgen names by content are shared with older glue. */
  #import(symbol: Symbol): Entry {
    const field = symbol.importName ?? symbol.name;
    const stable = field.startsWith('__wbg_');
    const known = stable ? this.#draft.named(symbol.name) : this.#imported.get(field);
    if (known !== undefined && known.signature === signatureOf(symbol)) return known;
    const entry = this.#newEntry(symbol);
    this.#imported.set(field, entry);
    if (stable) this.#draft.functions.set(symbol.name, entry);
    this.#imports.push({ field, ...entry });
    return entry;
  }

  #exports({ object, exports }: Companion): Record<string, number> {
    const slots: Record<string, number> = {};
    for (const [name, index] of exports) {
      // The program has started; what starts it is not for the new glue to call.
      if (name !== '__wbindgen_start') slots[name] = this.#functionEntry(object, symbolAt(object, index)).slot;
    }
    return slots;
  }

  #address(object: ObjectFile, symbol: Symbol): number {
    const own = this.#locate(object, symbol);
    if (own !== undefined && isAnonymous(symbol)) return this.#constant(own);
    const place = this.#draft.place(object, symbol);
    if (place !== undefined) return place.address;
    const found = own ?? this.#library.find(symbol.name);
    if (found === undefined) throw new Unlinkable(`nothing on the link line defines \`${readable(symbol.name)}\``);
    if (this.#draft.program.ambiguous.has(symbol.name) && found.atom.kind !== 'constant') {
      throw new Unlinkable(`several statics of the program are named \`${readable(symbol.name)}\``);
    }
    if (found.atom.kind !== 'constant' && this.#draft.isApart(symbol)) {
      const reason = `the optimiser keeps the parts of \`${readable(symbol.name)}\` elsewhere than in the running program`;
      throw new Unlinkable(reason);
    }
    const address = this.#allocate(found.atom) + found.symbol.offset;
    this.#draft.enterPlace(found.object, found.symbol, { address, sizeBytes: found.symbol.sizeBytes });
    this.planData(found, address - found.symbol.offset, true);
    return address;
  }

  #constant({ object, symbol, atom }: Definition): number {
    // What belongs to one body (a jump table) is never another's, whatever it holds.
    const isOwned = atom.relocations.some((relocation) => this.#target.meansInside(object, atom, relocation));
    if (atom.kind !== 'constant') {
      throw new Unlinkable(`${object.name} has a variable without a name of its own, and new code uses it`);
    }
    const key = isOwned ? undefined : this.#comparison.key(object, atom);
    const known = key === undefined ? this.#bodies.get(atom) : this.#draft.constantAt(key)[0];
    if (known !== undefined) return known + symbol.offset;
    const address = this.#allocate(atom);
    if (key === undefined) this.#bodies.set(atom, address);
    else this.#draft.constants.set(key, [address]);
    this.planData({ object, symbol, atom }, address, true);
    return address + symbol.offset;
  }

  #allocate(atom: Atom): number {
    const area = this.#draft.program.areaOf[atom.kind];
    if (area === undefined) {
      throw new Unlinkable(`\`${atom.name}\` is a new thread-local of a multi-threaded program`);
    }
    const address = this.#draft.allocate(area, atom.sizeBytes, atom.alignment);
    if (address === undefined) throw new Unlinkable('the memory reserved for patches is used up');
    return address;
  }
}

function bySlot({ slot, signature }: Entry): Referent {
  return { means: 'slot', value: slot, signature };
}

/** ELF knows no types of functions: they all have the same. */
export function signatureOf(symbol: Symbol): Signature {
  return symbol.signature ?? '';
}

/** Unwind tables are data about code. */
const UNWIND_TABLE = { kind: 'constant' } as const;

const NO_ATOM: Atom = {
  index: -1,
  name: '',
  kind: 'code',
  bytes: new Uint8Array(),
  sizeBytes: 0,
  alignment: 1,
  relocations: [],
};
