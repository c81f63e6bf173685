// A Program and the objects of a newer build in; out comes a plan that takes the one to the other, or why there is none.
//
// In phases: (1) compare what changed; (2) check that the new code may meet the old memory; (3) take as roots the changed
// functions that are running and the constants to rewrite; (4) follow every relocation from the roots, finding a slot or
// an address for each target, and adding what the program does not have yet. Nothing is written to the Program.

import type { Atom, Build, Diagnostic, ObjectFile, Refusal, Relocation, Symbol } from '../model.ts';
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

export function link(program: Program, build: Build, library: Library, target: Target, companion?: Companion): Outcome {
  return new Link(program, build, library, target, companion).run();
}

/** Ends the link with a refusal from any depth. */
class Refused extends Error {
  readonly refusal: Refusal;
  constructor(refusal: Refusal) {
    super(refusal.reason);
    this.refusal = refusal;
  }
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
      this.#checkExports(changes);
    if (refusal !== undefined) return { kind: 'refused', refusal };
    try {
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
      if (error instanceof Refused) return { kind: 'refused', refusal: error.refusal };
      if (error instanceof Unlinkable) return { kind: 'refused', refusal: { reason: error.message, remedy: 'reload' } };
      throw error;
    }
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
    for (const { symbol } of pairs.keys()) {
      if (symbol.kind !== 'data') continue;
      const place = this.#draft.place(symbol.name);
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

  /** Changed functions that are running, and those that call a changed one which has no slot of its own. */
  #roots(changes: readonly Change[]): { definition: Definition; entry: Entry }[] {
    const roots = new Map<string, { definition: Definition; entry: Entry }>();
    const seen = new Set<Symbol>();
    const queue = changes.map(({ after }) => after).filter(({ symbol }) => symbol.kind === 'function');
    for (let definition = queue.pop(); definition !== undefined; definition = queue.pop()) {
      const { object, symbol } = definition;
      if (seen.has(symbol)) continue;
      seen.add(symbol);
      const entry = this.#draft.entry(object, symbol);
      if (entry !== undefined) {
        // With another signature nothing that runs can call the new body: it gets a slot when new code reaches it.
        if (entry.signature === symbol.signature) roots.set(`${object.name}\0${symbol.name}`, { definition, entry });
      } else if (symbol.binding === 'local' && this.#program.ambiguous.has(symbol.name)) {
        queue.push(...this.#callers(definition));
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
      throw new Refused({ reason, remedy: 'reload' });
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
      const place = this.#draft.place(after.symbol.name);
      if (place === undefined) continue;
      if (before.atom.kind === 'constant' || after.atom.kind === 'constant') {
        this.#planData(after, place.address - after.symbol.offset);
        rewritten.push(after);
      } else {
        this.#warnings.push({
          severity: 'warning',
          text: `static \`${readable(after.symbol.name)}\` has another initial value; the running program keeps the value it has`,
          hint: 'reload the page to start from the new value',
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
    if ('refused' in match) throw new Refused(match.refused);
    for (const [from, to] of match.rewritten) {
      const addresses = this.#draft.constantAt(from.key);
      this.#draft.constants.set(from.key, []);
      this.#draft.constants.set(to.key, [...this.#draft.constantAt(to.key), ...addresses]);
      const definition = definitionOf(to.object, anonymousSymbol(to));
      if (definition === undefined) continue;
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
    this.#queue.push(() => {
      const relocations = this.#resolveAll(object, atom);
      this.#functions.push({
        name: symbol.name,
        slot: entry.slot,
        signature: entry.signature,
        body: atom.bytes,
        relocations,
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
      throw new Refused({ reason, remedy: 'reload' });
    }
    const replacement = this.#fromCompanion(symbol);
    if (replacement === undefined) this.#unresolved.add(symbol.name);
    return replacement;
  }

  #planData({ object, atom }: Definition, address: number, fresh = false): void {
    this.#queue.push(() => {
      this.#data.push({ address, atom, relocations: this.#resolveAll(object, atom), fresh });
    });
  }

  #resolveAll(object: ObjectFile, atom: Atom): Resolved[] {
    return atom.relocations.map((relocation) => this.#resolve(object, relocation));
  }

  #resolve(object: ObjectFile, relocation: Relocation): Resolved {
    const { offset, kind, addend } = relocation;
    const targetKind = this.#target.targetKind(relocation);
    if (targetKind === 'signature') {
      const signature = object.signatures[relocation.symbol];
      if (signature === undefined) throw new Error(`${object.name}: no signature ${relocation.symbol}`);
      return { offset, kind, value: 0, signature };
    }
    const symbol = symbolAt(object, relocation.symbol);
    if (targetKind === 'name') return { offset, kind, value: addend, name: symbol.name };
    if (targetKind === 'function') {
      const entry = this.#functionEntry(object, symbol);
      return { offset, kind, value: entry.slot, signature: entry.signature };
    }
    return { offset, kind, value: this.#address(object, symbol) + addend };
  }

  #functionEntry(object: ObjectFile, symbol: Symbol): Entry {
    const fromCompanion = object === this.#companion?.object;
    if (fromCompanion && symbol.atom === undefined) return this.#import(symbol);
    for (const alias of this.#target.aliases(symbol)) {
      if (this.#target.isOfOneBuild(alias)) continue;
      const entry =
        alias === symbol.name && !fromCompanion ? this.#draft.entry(object, symbol) : this.#draft.named(alias);
      if (entry !== undefined && entry.signature === symbol.signature) return entry;
    }
    const own = definitionOf(object, symbol);
    if (own !== undefined && !fromCompanion) return this.#add(own);
    const found = this.#library.find(symbol.name) ?? own ?? this.#fromCompanion(symbol);
    if (found !== undefined) return found.symbol.atom === undefined ? this.#import(found.symbol) : this.#add(found);
    if (!this.#target.isHostFunction(symbol)) {
      throw new Refused({ reason: `nothing on the link line defines \`${readable(symbol.name)}\``, remedy: 'reload' });
    }
    this.#unresolved.add(symbol.name);
    return { slot: 0, signature: symbol.signature ?? '' };
  }

  /** Gives a function that the program does not have a slot, and its body a place in the patch. */
  #add(definition: Definition): Entry {
    const { object, symbol } = definition;
    const entry = this.#draft.newEntry(symbol.signature ?? '', object.name);
    this.#draft.enter(object, symbol, entry);
    this.#planFunction(definition, entry);
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
    if (known !== undefined && known.signature === symbol.signature) return known;
    const { slot } = this.#draft.free;
    this.#draft.free = { ...this.#draft.free, slot: slot + 1 };
    const entry = { slot, signature: symbol.signature ?? '' };
    this.#imported.set(field, entry);
    if (stable) this.#draft.functions.set(symbol.name, entry);
    this.#imports.push({ field, slot, signature: entry.signature });
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
    if (own !== undefined && isAnonymous(symbol)) {
      const key = this.#comparison.key(object, own.atom);
      const known = this.#draft.constantAt(key)[0];
      if (known !== undefined) return known + symbol.offset;
      const address = this.#allocate(own.atom);
      this.#draft.constants.set(key, [address]);
      this.#planData(own, address, true);
      return address + symbol.offset;
    }
    const place = this.#draft.place(symbol.name);
    if (place !== undefined) return place.address;
    const found = own ?? this.#library.find(symbol.name);
    if (found === undefined) {
      throw new Refused({ reason: `nothing on the link line defines \`${readable(symbol.name)}\``, remedy: 'reload' });
    }
    const address = this.#allocate(found.atom) + found.symbol.offset;
    this.#draft.data.set(symbol.name, { address, sizeBytes: found.symbol.sizeBytes });
    this.#planData(found, address - found.symbol.offset, true);
    return address;
  }

  #allocate(atom: Atom): number {
    if (atom.kind === 'tls') {
      throw new Refused({
        reason: `\`${atom.name}\` is a new thread-local of a multi-threaded program`,
        remedy: 'reload',
      });
    }
    const address = this.#draft.allocate(atom.sizeBytes, atom.alignment);
    if (address === undefined) {
      throw new Refused({ reason: 'the memory reserved for patches is used up', remedy: 'reload' });
    }
    return address;
  }
}

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
