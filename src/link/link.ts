// A Program and the objects of a newer build in; out comes a plan that takes the one to the other, or why there is none.
//
// In phases: (1) compare what changed; (2) check that the new code may meet the old memory; (3) take as roots the changed
// functions that are running and the constants to rewrite; (4) follow every relocation from the roots, finding a slot or
// an address for each target, and adding what the program does not have yet. Nothing is written to the Program.

import type { Atom, Build, Diagnostic, ObjectFile, Patch, Refusal, Relocation, Signature, Symbol } from '../model.ts';
import {
  type Change,
  Comparison,
  type Definition,
  definitionOf,
  isAnonymous,
  namedDefinitions,
  symbolAt,
} from './diff.ts';
import {
  closureRefusal,
  crateRefusal,
  matchVtables,
  namesToTell,
  staticRefusal,
  type Vtable,
  vtablesOf,
} from './identity.ts';
import type { Library } from './library.ts';
import { readable } from './mangle.ts';
import { Draft, type Entry, type Program } from './program.ts';
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

export type Outcome =
  | { readonly kind: 'unchanged'; readonly draft: Draft; readonly warnings: readonly Diagnostic[] }
  | {
      readonly kind: 'patch';
      readonly plan: Plan;
      readonly draft: Draft;
      /** Readable names of what changed, for people. */
      readonly functions: readonly string[];
      readonly warnings: readonly Diagnostic[];
      /** With a companion: the slot that holds each of its exports. */
      readonly exports: Readonly<Record<string, number>>;
    }
  | { readonly kind: 'refused'; readonly refusal: Refusal }
  /** Functions that only a new run of wasm-bindgen can bring. */
  | { readonly kind: 'unresolved'; readonly names: readonly string[] };

export function link<P extends Patch>(
  program: Program,
  build: Build,
  library: Library,
  target: Target<P>,
  companion?: Companion,
): Outcome {
  return new Link(program, build, library, target, companion).run();
}

class Link {
  readonly #program: Program;
  readonly #library: Library;
  readonly #target: Target;
  readonly #companion: Companion | undefined;
  readonly #draft: Draft;
  readonly #comparison: Comparison;
  readonly #build: Build;
  /** Definitions whose relocations are still to be followed. */
  readonly #queue: (() => void)[] = [];
  readonly #functions: PlannedFunction[] = [];
  readonly #data: PlannedData[] = [];
  readonly #imports: PlannedImport[] = [];
  readonly #imported = new Map<string, Entry>();
  /** Where code of this patch will be, for formats that place it, and what belongs to it alone. */
  readonly #bodies = new Map<Atom, number>();
  /** Names of functions whose old callers must not reach the new code. */
  readonly #retyped = new Set<string>();
  /** Slots that have a body coming. Not atoms: LLVM merges equal functions, and then one body has several names. */
  readonly #planned = new Set<number>();
  readonly #unresolved = new Set<string>();
  readonly #warnings: Diagnostic[] = [];

  constructor(program: Program, build: Build, library: Library, target: Target, companion: Companion | undefined) {
    this.#program = program;
    this.#build = build;
    this.#library = library;
    this.#target = target;
    this.#companion = companion;
    this.#draft = new Draft(program);
    this.#comparison = new Comparison(target);
    library.use(build.objects, build.archives);
  }

  run(): Outcome {
    const { before, after } = this.#changedObjects();
    const { changes, pairs } = this.#comparison.changes(before, after);
    this.#followRenamedObjects(pairs);
    const refusal =
      this.#checkHostConstants() ??
      crateRefusal(before, after) ??
      closureRefusal(before, after, (a, b) => this.#comparison.same(a, b)) ??
      this.#checkStatics(pairs) ??
      this.#checkExports(changes) ??
      this.#target.layout?.refusal(before, after, changes, this.#program.gone);
    if (refusal !== undefined) return this.#refused(refusal);
    try {
      this.#enterRetyped(changes);
      const roots = this.#roots(changes);
      for (const { definition, entry } of roots) {
        this.#checkMerged(definition, entry);
        this.#planFunction(definition, entry);
      }
      const statics = this.#rewriteConstants(changes);
      this.#rewriteVtables(before, after);
      this.#drain();
      const exports = this.#companion !== undefined && this.#imports.length > 0 ? this.#exports(this.#companion) : {};
      this.#drain();
      if (this.#unresolved.size > 0) return { kind: 'unresolved', names: [...this.#unresolved] };
      if (this.#target.layout !== undefined) this.#draft.gone = this.#target.layout.gone(before, after, changes);
      if (this.#functions.length === 0 && this.#data.length === 0) {
        return { kind: 'unchanged', draft: this.#draft, warnings: this.#warnings };
      }
      this.#draft.version = this.#program.version + 1;
      return {
        kind: 'patch',
        plan: { functions: this.#functions, data: this.#data, imports: this.#imports },
        draft: this.#draft,
        functions: namesToTell(
          [...roots.map(({ definition }) => definition), ...statics].map(({ object, symbol }) => ({
            name: symbol.name,
            object: object.name,
          })),
        ),
        warnings: this.#warnings,
        exports,
      };
    } catch (error) {
      if (error instanceof Unlinkable) return this.#refused({ reason: error.message });
      throw error;
    }
  }

  #refused(refusal: Omit<Refusal, 'remedy'>): Outcome {
    return { kind: 'refused', refusal: { ...refusal, remedy: this.#target.remedy } };
  }

  // ------------------------------------------------------------------------------------------------------ compare

  #changedObjects(): { before: ObjectFile[]; after: ObjectFile[] } {
    const before: ObjectFile[] = [];
    const after: ObjectFile[] = [];
    const present = new Set<string>();
    for (const source of this.#build.objects) {
      present.add(source.name);
      const linked = this.#program.objects.get(source.name);
      const changed = linked?.source.stamp !== source.stamp;
      if (changed) after.push(this.#library.read(source));
      // Unchanged ones too: the older build that they came from may be thrown away.
      this.#draft.objects.set(source.name, { source, fromBase: !changed && linked.fromBase });
    }
    for (const [name, linked] of this.#program.objects) {
      if (!present.has(name)) this.#draft.removedObjects.add(name);
      else if (this.#draft.objects.get(name)?.source.stamp === linked.source.stamp) continue;
      const object = this.#library.read(linked.source);
      before.push(object);
      if (linked.fromBase) this.#placeBaseConstants(object);
    }
    return { before, after };
  }

  /** The linker's map names the address of every constant of a base object; what lies there is checked before it is used. */
  #placeBaseConstants(object: ObjectFile): void {
    for (const atom of object.atoms) {
      if (atom.kind !== 'constant') continue;
      const address = this.#program.map.segments.get(`${object.name}:${atom.name}`);
      if (address === undefined || !this.#holds(address, atom)) continue;
      const key = this.#comparison.key(object, atom);
      const known = this.#draft.constantAt(key);
      if (!known.includes(address)) this.#draft.constants.set(key, [...known, address]);
    }
  }

  #holds(address: number, atom: Atom): boolean {
    const memory = this.#program.initial(address, atom.sizeBytes);
    if (memory.length !== atom.bytes.length) return false;
    let from = 0;
    for (const { offset, kind } of atom.relocations) {
      for (; from < offset; from++) if (memory[from] !== atom.bytes[from]) return false;
      from += this.#target.width(kind);
    }
    for (; from < memory.length; from++) if (memory[from] !== atom.bytes[from]) return false;
    return true;
  }

  /** A local function whose codegen unit was renamed keeps its slot. */
  #followRenamedObjects(pairs: ReadonlyMap<Definition, Definition>): void {
    for (const [now, old] of pairs) {
      if (now.symbol.kind !== 'function' || now.symbol.binding !== 'local' || now.object.name === old.object.name)
        continue;
      const entry = this.#draft.entry(old.object, old.symbol);
      if (entry !== undefined) this.#draft.enter(now.object, now.symbol, entry);
    }
  }

  // -------------------------------------------------------------------------------------------------------- check

  #checkHostConstants(): Refusal | undefined {
    const constants = this.#companion?.hostConstants;
    if (constants === undefined || constants === this.#program.hostConstants) return undefined;
    return { reason: 'the JavaScript constants that the program starts with are others', remedy: 'reload' };
  }

  #checkStatics(pairs: ReadonlyMap<Definition, Definition>): Refusal | undefined {
    for (const { object, symbol } of pairs.keys()) {
      if (symbol.kind !== 'data') continue;
      const place = this.#draft.place(object, symbol);
      if (place !== undefined && place.sizeBytes !== symbol.sizeBytes) {
        return staticRefusal(symbol.name, place.sizeBytes, symbol.sizeBytes);
      }
    }
    return undefined;
  }

  /** The page's scripts call exported functions by the types they had when it was loaded. */
  #checkExports(changes: readonly Change[]): Refusal | undefined {
    for (const { before, after } of changes) {
      const name = this.#target.describes(after.symbol);
      if (name === undefined) continue;
      if (before !== undefined) {
        return {
          reason: `\`${name}\` takes or returns other types, and the page's scripts know the old ones`,
          remedy: 'reload',
        };
      }
      this.#warnings.push({
        severity: 'warning',
        text: `\`${name}\` is exported for the first time; the page's scripts do not see it yet`,
        hint: 'reload the page to call it from JavaScript',
      });
    }
    return undefined;
  }

  // -------------------------------------------------------------------------------------------------------- roots

  /**
   * A function that takes or returns other types now gets a slot that only new code reaches; in the old one the old code
   * stays, for frames that call it as before. Where the signature is part of the symbol, `#functionEntry` does the same.
   */
  #enterRetyped(changes: readonly Change[]): void {
    const { layout } = this.#target;
    if (layout === undefined) return;
    for (const { before, after } of changes) {
      if (before === undefined || after.symbol.kind !== 'function') continue;
      if (this.#draft.entry(after.object, after.symbol) === undefined) continue;
      if (layout.signatureOf(before) === layout.signatureOf(after)) continue;
      this.#retyped.add(after.symbol.name);
      this.#add(after);
    }
  }

  /** What the program holds by address leads all of it to the new code: that must be callable in the old way. */
  #checkCallable(atom: Atom, object: ObjectFile, subject: string): void {
    for (const { symbol } of atom.relocations) {
      const { name } = symbolAt(object, symbol);
      if (!this.#retyped.has(name)) continue;
      throw new Unlinkable(`\`${readable(name)}\` takes or returns other types, and ${subject} has its address`);
    }
  }

  /** Changed functions that are running, and those that call a changed one which has no slot of its own. */
  #roots(changes: readonly Change[]): { definition: Definition; entry: Entry }[] {
    const roots = new Map<string, { definition: Definition; entry: Entry }>();
    const seen = new Set<Symbol>();
    const changed = changes.filter(({ after }) => after.symbol.kind === 'function');
    const queue = changed.map(({ after }) => after);
    const fresh = new Set(changed.filter(({ before }) => before === undefined).map(({ after }) => after));
    for (let definition = queue.pop(); definition !== undefined; definition = queue.pop()) {
      const { object, symbol } = definition;
      if (seen.has(symbol)) continue;
      seen.add(symbol);
      const entry = this.#draft.entry(object, symbol);
      if (entry !== undefined) {
        // With another signature nothing that runs can call the new body: it gets a slot when new code reaches it.
        if (entry.signature === signatureOf(symbol)) roots.set(`${object.name}\0${symbol.name}`, { definition, entry });
      } else if (symbol.binding === 'local' && this.#program.ambiguous.has(symbol.name)) {
        queue.push(...this.#callers(definition));
      } else if (
        !fresh.has(definition) &&
        this.#draft.place(object, symbol) !== undefined &&
        !this.#target.isOver(symbol)
      ) {
        throw new Unlinkable(`\`${readable(symbol.name)}\` is not reached through a slot, and it changed`);
      }
    }
    return [...roots.values()].toReversed();
  }

  /** One slot cannot hold two bodies: functions that were merged as equal have to be equal still. */
  #checkMerged({ object, symbol, atom }: Definition, { slot }: Entry): void {
    for (const name of this.#program.merged.get(slot) ?? []) {
      const other = object.symbols.find((candidate) => candidate.name === name && candidate.atom !== undefined);
      const definition = other && definitionOf(object, other);
      if (definition === undefined || this.#comparison.same({ object, symbol, atom }, definition)) continue;
      const reason = `\`${readable(symbol.name)}\` and \`${readable(name)}\` were equal, and the optimiser made them one function; now they differ`;
      throw new Unlinkable(reason);
    }
  }

  /** Functions of the same object that name a symbol. */
  #callers(callee: Definition): Definition[] {
    const index = callee.object.symbols.indexOf(callee.symbol);
    return [...namedDefinitions(callee.object)].filter(
      ({ symbol, atom }) =>
        symbol.kind === 'function' &&
        atom.relocations.some(
          (relocation) => relocation.symbol === index && this.#target.targetKind(relocation) === 'function',
        ),
    );
  }

  /** Statics whose bytes changed: constants are rewritten where they lie, the program's own state is kept. */
  #rewriteConstants(changes: readonly Change[]): Definition[] {
    const rewritten: Definition[] = [];
    for (const { before, after } of changes) {
      if (after.symbol.kind !== 'data' || before === undefined) continue;
      const place = this.#draft.place(after.object, after.symbol);
      if (place === undefined) continue;
      if (before.atom.kind === 'constant' || after.atom.kind === 'constant') {
        this.#checkCallable(after.atom, after.object, `\`${readable(after.symbol.name)}\``);
        this.#planData(after, place.address - after.symbol.offset);
        rewritten.push(after);
      } else {
        this.#warnings.push({
          severity: 'warning',
          text: `static \`${readable(after.symbol.name)}\` has another initial value; the running program keeps the value it has`,
          hint: `${this.#target.remedy === 'reload' ? 'reload the page' : 'restart the program'} to start from the new value`,
        });
      }
    }
    return rewritten;
  }

  #rewriteVtables(before: readonly ObjectFile[], after: readonly ObjectFile[]): void {
    const read = (objects: readonly ObjectFile[]): Map<string, Vtable> => {
      const key = (object: ObjectFile, atom: Atom): string => this.#comparison.key(object, atom);
      const all = objects.flatMap((object) => vtablesOf(object, key, this.#target));
      return new Map(all.map((vtable) => [vtable.key, vtable]));
    };
    const old = read(before);
    const now = read(after);
    const gone = [...old.values()].filter(({ key }) => !now.has(key) && this.#draft.constantAt(key).length > 0);
    const come = [...now.values()].filter(({ key }) => !old.has(key));
    const match = matchVtables(gone, come);
    if ('refused' in match) throw new Unlinkable(match.refused.reason);
    for (const [from, to] of match.rewritten) {
      const addresses = this.#draft.constantAt(from.key);
      this.#draft.constants.set(from.key, []);
      this.#draft.constants.set(to.key, [...this.#draft.constantAt(to.key), ...addresses]);
      const definition = definitionOf(to.object, anonymousSymbol(to));
      if (definition === undefined) continue;
      if (addresses.length > 0) this.#checkCallable(to.atom, to.object, 'a vtable');
      for (const address of addresses) this.#planData(definition, address);
    }
  }

  // -------------------------------------------------------------------------------------------------------- reach

  #drain(): void {
    for (let step = this.#queue.shift(); step !== undefined; step = this.#queue.shift()) step();
  }

  #planFunction(definition: Definition, entry: Entry): void {
    const source = this.#source(definition);
    if (source === undefined || this.#planned.has(entry.slot)) return;
    const { object, symbol, atom } = source;
    this.#planned.add(entry.slot);
    const address = this.#program.areaOf.code === undefined ? undefined : this.#allocate(atom);
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

  #planData({ object, atom }: Definition, address: number, fresh = false): void {
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
      if (definition?.symbol.kind === 'function') return bySlot(this.#add(definition));
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
    const own = definitionOf(object, symbol);
    if (own !== undefined && !fromCompanion) return this.#add(own);
    const found = this.#library.find(symbol.name) ?? own ?? this.#fromCompanion(symbol);
    if (found !== undefined) return found.symbol.atom === undefined ? this.#import(found.symbol) : this.#add(found);
    if (!this.#target.isHostFunction(symbol)) {
      throw new Unlinkable(`nothing on the link line defines \`${readable(symbol.name)}\``);
    }
    this.#unresolved.add(symbol.name);
    return { slot: 0, signature: signatureOf(symbol) };
  }

  /** Gives a function that the program does not have a slot, and its body a place in the patch. */
  #add(definition: Definition): Entry {
    const { object, symbol } = definition;
    const entry = this.#newEntry(symbol, object.name);
    this.#draft.enter(object, symbol, entry);
    this.#planFunction(definition, entry);
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
    const own = definitionOf(object, symbol);
    if (own !== undefined && isAnonymous(symbol)) return this.#constant(own);
    const place = this.#draft.place(object, symbol);
    if (place !== undefined) return place.address;
    const found = own ?? this.#library.find(symbol.name);
    if (found === undefined) throw new Unlinkable(`nothing on the link line defines \`${readable(symbol.name)}\``);
    if (this.#program.ambiguous.has(symbol.name) && found.atom.kind !== 'constant') {
      throw new Unlinkable(`several statics of the program are named \`${readable(symbol.name)}\``);
    }
    const address = this.#allocate(found.atom) + found.symbol.offset;
    this.#draft.enterPlace(found.object, found.symbol, { address, sizeBytes: found.symbol.sizeBytes });
    this.#planData(found, address - found.symbol.offset, true);
    return address;
  }

  #constant({ object, symbol, atom }: Definition): number {
    // What belongs to one body (a jump table) is never another's, whatever it holds.
    const isOwned = atom.relocations.some((relocation) => this.#target.meansInside(object, atom, relocation));
    const key = isOwned ? undefined : this.#comparison.key(object, atom);
    const known = key === undefined ? this.#bodies.get(atom) : this.#draft.constantAt(key)[0];
    if (known !== undefined) return known + symbol.offset;
    const address = this.#allocate(atom);
    if (key === undefined) this.#bodies.set(atom, address);
    else this.#draft.constants.set(key, [address]);
    this.#planData({ object, symbol, atom }, address, true);
    return address + symbol.offset;
  }

  #allocate(atom: Atom): number {
    const area = this.#program.areaOf[atom.kind];
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
function signatureOf(symbol: Symbol): Signature {
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

function anonymousSymbol({ object, atom }: Vtable): Symbol {
  const symbol = object.symbols.find((candidate) => candidate.atom === atom.index);
  if (symbol === undefined) throw new Error(`${object.name}: ${atom.name} has no symbol`);
  return symbol;
}
