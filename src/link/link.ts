// A Program and the objects of a newer build in; out comes a plan that takes the one to the other, or why there is none.
//
// In phases: (1) compare what changed; (2) check that the new code may meet the old memory; (3) take as roots the changed
// functions that are running and the constants to rewrite; (4) follow every relocation from the roots, finding a slot or
// an address for each target, and adding what the program does not have yet. Nothing is written to the Program.

import type { Atom, Build, Diagnostic, ObjectFile, ObjectSource, Patch, Refusal, Symbol } from '../model.ts';
import {
  type Change,
  Comparison,
  type Definition,
  definitionOf,
  type Locate,
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
import { homeOf } from './promoted.ts';
import { type Companion, Reach, signatureOf } from './reach.ts';
import { type Plan, type Target, Unlinkable } from './target.ts';

export type { Companion } from './reach.ts';

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
  readonly #reach: Reach;
  /** Names of functions whose old callers must not reach the new code. */
  readonly #retyped = new Set<string>();
  readonly #warnings: Diagnostic[] = [];
  /** Objects of the running program that the build has others for. */
  readonly #older = new Set<ObjectFile>();

  constructor(program: Program, build: Build, library: Library, target: Target, companion: Companion | undefined) {
    this.#program = program;
    this.#build = build;
    this.#library = library;
    this.#target = target;
    this.#companion = companion;
    this.#draft = new Draft(program);
    const locate: Locate = (object, symbol) => this.#locate(object, symbol);
    this.#comparison = new Comparison(target, locate);
    this.#reach = new Reach(this.#draft, library, target, this.#comparison, locate, companion);
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
        this.#reach.planFunction(definition, entry);
      }
      const statics = this.#rewriteConstants(changes);
      this.#rewriteVtables(before, after);
      const { plan, exports, unresolved } = this.#reach.finish();
      if (this.#program.threads !== undefined) this.#checkThreads(plan, unresolved);
      if (unresolved.length > 0) return { kind: 'unresolved', names: unresolved };
      if (this.#target.layout !== undefined) {
        const types = this.#target.layout.gone(before, after, changes);
        this.#draft.gone = new Map([...types, ...this.#retired(before, pairs)]);
      }
      if (plan.functions.length === 0 && plan.data.length === 0) {
        return { kind: 'unchanged', draft: this.#draft, warnings: this.#warnings };
      }
      this.#draft.version = this.#program.version + 1;
      return {
        kind: 'patch',
        plan,
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

  /** What every thread would have to take at the same moment, or can only take when it is idle. */
  #checkThreads({ data }: Plan, unresolved: readonly string[]): void {
    const rewritten = data.find(({ fresh }) => !fresh);
    if (rewritten !== undefined) {
      const symbol = rewritten.atom.name.replace(/^\.\w+\./, '');
      const name = symbol.startsWith('_') ? `\`${readable(symbol)}\`` : 'a vtable';
      throw new Unlinkable(`${name} has other contents, and threads that run older code may be reading it`);
    }
    if (unresolved.length > 0) {
      const names = unresolved.map((name) => `\`${readable(name)}\``).join(', ');
      throw new Unlinkable(`${names} comes from JavaScript, which threads that are running cannot load`);
    }
  }

  #refused(refusal: Omit<Refusal, 'remedy'>): Outcome {
    return { kind: 'refused', refusal: { ...refusal, remedy: this.#target.remedy } };
  }

  // ------------------------------------------------------------------------------------------------------ compare

  #changedObjects(): { before: ObjectFile[]; after: ObjectFile[] } {
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
      this.#older.add(this.#library.read(linked.source));
    }
    for (const source of this.#users(new Set([...after, ...this.#older]))) {
      const object = this.#library.read(source);
      after.push(object);
      this.#older.add({ ...object, atoms: object.atoms.map((atom) => ({ ...atom })) });
    }
    const before = [...this.#older];
    for (const object of before) {
      if (this.#program.objects.get(object.name)?.fromBase === true) this.#placeBaseConstants(object);
    }
    return { before, after };
  }

  /** Objects that are what they were, byte for byte, and use what is not: a constant of another unit, by its number. */
  #users(changed: ReadonlySet<ObjectFile>): readonly ObjectSource[] {
    if (![...changed].some((object) => this.#library.isPromoting(object))) return [];
    const names = new Set(Array.from(changed, ({ name }) => name));
    const users = this.#build.objects.filter(({ name }) => !names.has(name));
    const found: ObjectSource[] = [];
    // What uses a constant that uses such a one, too.
    for (let last = -1; last < found.length;) {
      last = found.length;
      for (const source of users) {
        if (names.has(source.name)) continue;
        if (![...this.#library.units(source)].some((unit) => names.has(homeOf(source, { unit })))) continue;
        names.add(source.name);
        found.push(source);
      }
    }
    return found;
  }

  /** Where a symbol is defined: in the object, or in the unit of the same crate that has promoted it. */
  #locate(object: ObjectFile, symbol: Symbol): Definition | undefined {
    if (symbol.unit === undefined) return definitionOf(object, symbol);
    const home = homeOf(object, symbol);
    const source = this.#older.has(object)
      ? this.#program.objects.get(home)?.source
      : this.#build.objects.find(({ name }) => name === home);
    return source && this.#library.local(source, symbol.name);
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
      if (after.symbol.kind !== 'function') continue;
      if (this.#draft.entry(after.object, after.symbol) === undefined) continue;
      const retired = this.#program.gone.get(retiredKey(after))?.[0];
      if (before === undefined && retired === undefined) continue;
      const earlier = before === undefined ? retired : (layout.signatureOf(before) ?? '');
      if (earlier === (layout.signatureOf(after) ?? '')) continue;
      this.#retyped.add(after.symbol.name);
      this.#reach.add(after);
    }
  }

  /** Functions that the source has no more, and what they took: one of the name may come back. */
  *#retired(
    before: readonly ObjectFile[],
    pairs: ReadonlyMap<Definition, Definition>,
  ): Generator<[string, readonly string[]]> {
    const kept = new Set([...pairs.values()].map(({ symbol }) => symbol));
    for (const definition of before.flatMap((object) => [...namedDefinitions(object)])) {
      const { object, symbol } = definition;
      if (symbol.kind !== 'function' || kept.has(symbol)) continue;
      if (this.#draft.entry(object, symbol) === undefined) continue;
      yield [retiredKey(definition), [this.#target.layout?.signatureOf(definition) ?? '']];
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
        this.#reach.planData(after, place.address - after.symbol.offset);
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
      for (const address of addresses) this.#reach.planData(definition, address);
    }
  }
}

/** Kept with types that are gone, none of which has such a name. */
function retiredKey({ symbol }: Definition): string {
  return `function ${symbol.name}`;
}

function anonymousSymbol({ object, atom }: Vtable): Symbol {
  const symbol = object.symbols.find((candidate) => candidate.atom === atom.index);
  if (symbol === undefined) throw new Error(`${object.name}: ${atom.name} has no symbol`);
  return symbol;
}
