// Old and new definitions in; out comes whether the new code may meet what the old code left in memory.
//
// A name is not an identity. Closures are numbered by their position in the function, and a vtable is read by position
// too: code that was renumbered or reordered would run on memory of another shape. What cannot be shown to be the same
// thing is refused.

import type { Atom, ObjectFile, Refusal, Relocation } from '../model.ts';
import { type Definition, definitionOf, isAnonymous, symbolAt } from './diff.ts';
import { demangle, readable } from './mangle.ts';

/**
 * The readable names to tell a person of, from the symbols of changed functions: those of the user's own crates, or all
 * when there are none (a generic of std instantiated anew).
 */
export function namesToTell(changed: readonly { readonly name: string; readonly object: string }[]): string[] {
  const crates = new Set(changed.map(({ object }) => crateOf(object)));
  const own = changed.filter(({ name }) => crates.has(demangle(name)?.crate ?? ''));
  return [...new Set((own.length > 0 ? own : changed).map(({ name }) => readable(name)))];
}

/** What objects hold of one function's closures, by their numbers. */
interface Closures {
  /** All that any symbol mentions. */
  readonly numbers: Set<number>;
  /** Those whose own code is there; a generic function has one for each instance. */
  readonly bodies: Map<number, Definition[]>;
}

/** Closures of each function of the given crates, by the function's path. */
function closuresIn(objects: readonly ObjectFile[], crates: ReadonlySet<string>): Map<string, Closures> {
  const found = new Map<string, Closures>();
  for (const object of objects) {
    for (const symbol of object.symbols) {
      const definition = symbol.kind === 'function' ? definitionOf(object, symbol) : undefined;
      const name = definition && demangle(symbol.name);
      if (name === undefined) continue;
      for (const { crate, parent, index } of name.closures) {
        if (!crates.has(crate)) continue;
        const closures = found.get(parent) ?? { numbers: new Set(), bodies: new Map() };
        found.set(parent, closures);
        closures.numbers.add(index);
        const isBody = name.text.endsWith(`::{closure#${index}}`) && name.closures.at(-1)?.parent === parent;
        if (isBody) closures.bodies.set(index, [...(closures.bodies.get(index) ?? []), definition]);
      }
    }
  }
  return found;
}

/** The crate an object belongs to: `shapes-1f5c.3x0` is of `shapes`. */
export function crateOf(objectName: string): string {
  return objectName
    .replace(/\..*$/, '')
    .replace(/-[0-9a-f]{16}$/, '')
    .replaceAll('-', '_');
}

/**
 * A crate that cargo gave another hash, because of other features, dependencies or flags: every name in it is new, also of what
 * is the same. Its statics would start anew beside the old ones, and only what is reached from outside would be new code.
 */
export function crateRefusal(before: readonly ObjectFile[], after: readonly ObjectFile[]): Refusal | undefined {
  const old = crateHashes(before);
  for (const [crate, hashes] of crateHashes(after)) {
    const earlier = old.get(crate);
    // A library and a binary may have one name; they do not both change their hash while one of them keeps it.
    if (earlier === undefined || [...hashes].some((hash) => earlier.has(hash))) continue;
    return {
      reason: `crate \`${crate}\` was compiled with other features, dependencies or flags, and nothing in it is known to be the same`,
      remedy: 'reload',
    };
  }
  return undefined;
}

/** Disambiguators that each crate's own objects give it, by the crate's name. */
function crateHashes(objects: readonly ObjectFile[]): Map<string, Set<string>> {
  const found = new Map<string, Set<string>>();
  for (const object of objects) {
    const crate = crateOf(object.name);
    const root = `_${crate.length}${/^[_\d]/.test(crate) ? '_' : ''}${crate}`;
    for (const { name, atom } of object.symbols) {
      const at = atom === undefined ? -1 : name.indexOf(root);
      const hash = at === -1 ? undefined : /C(s[0-9A-Za-z]*)$/.exec(name.slice(0, at))?.[1];
      if (hash !== undefined) found.set(crate, (found.get(crate) ?? new Set()).add(hash));
    }
  }
  return found;
}

/**
 * A function whose closures carry other numbers now: one came or went, and those behind it in the source moved up or
 * down, or two changed places. A closure that already exists would run another's body on its own captures. Refused until
 * closures are matched by what they capture; of two that changed places and were edited too, nothing shows it yet.
 */
export function closureRefusal(
  before: readonly ObjectFile[],
  after: readonly ObjectFile[],
  same: (a: Definition, b: Definition) => boolean,
): Refusal | undefined {
  const crates = new Set([...before, ...after].map((object) => crateOf(object.name)));
  const old = closuresIn(before, crates);
  for (const [parent, now] of closuresIn(after, crates)) {
    const earlier = old.get(parent);
    if (earlier === undefined) continue;
    const what =
      earlier.numbers.size !== now.numbers.size
        ? `has ${count(now.numbers.size)} where the running program has ${count(earlier.numbers.size)}`
        : [...now.numbers].some((number) => !earlier.numbers.has(number)) || changedPlaces(earlier, now, same)
          ? 'has its closures in another order'
          : undefined;
    if (what === undefined) continue;
    return { reason: `\`${parent}\` ${what}; the closures already created would run the wrong code`, remedy: 'reload' };
  }
  return undefined;
}

/** The code that one number had is now another's, and no longer its own. */
function changedPlaces(earlier: Closures, now: Closures, same: (a: Definition, b: Definition) => boolean): boolean {
  const holds = (number: number, body: Definition): boolean =>
    (earlier.bodies.get(number) ?? []).some((old) => same(old, body));
  const changed = [...now.bodies].filter(([number, bodies]) => !bodies.some((body) => holds(number, body)));
  return changed.some(([number, bodies]) =>
    changed.some(([other]) => other !== number && bodies.some((body) => holds(other, body))),
  );
}

function count(closures: number): string {
  return closures === 1 ? '1 closure' : `${closures} closures`;
}

/** A vtable: drop glue, size, alignment, then one word for each method. */
export interface Vtable {
  readonly object: ObjectFile;
  readonly atom: Atom;
  readonly key: string;
  /** Readable names of the words that are functions, by position; empty where there is none. */
  readonly words: readonly string[];
  /** `<T as Trait>` of the first method that says so. */
  readonly implementation: string | undefined;
  /** Signatures of the methods, by position. */
  readonly signatures: string;
  readonly header: string;
}

/** How a format tells vtables from other constants. */
export interface VtableRules {
  readonly wordBytes: number;
  readonly isFunctionAddress: (object: ObjectFile, relocation: Relocation) => boolean;
}

/** Anonymous constants of an object that have the form of a vtable with at least one method. */
export function vtablesOf(
  object: ObjectFile,
  key: (object: ObjectFile, atom: Atom) => string,
  rules: VtableRules,
): Vtable[] {
  const vtables: Vtable[] = [];
  for (const symbol of object.symbols) {
    const atom = isAnonymous(symbol) ? definitionOf(object, symbol)?.atom : undefined;
    if (atom === undefined || atom.kind !== 'constant') continue;
    const { wordBytes } = rules;
    const words = Array.from({ length: Math.floor(atom.sizeBytes / wordBytes) }, () => '');
    if (atom.sizeBytes % wordBytes !== 0 || words.length < 4) continue;
    const signatures: string[] = [];
    let implementation: string | undefined;
    let fits = true;
    for (const relocation of atom.relocations) {
      const { offset, symbol: index } = relocation;
      const word = offset / wordBytes;
      if (!Number.isInteger(word) || word === 1 || word === 2) fits = false;
      if (!rules.isFunctionAddress(object, relocation)) {
        if (word < 3) fits = false;
        continue;
      }
      const method = symbolAt(object, index);
      const name = demangle(method.name);
      words[word] = name?.text ?? method.name;
      if (word < 3) continue;
      implementation ??= name?.implementation;
      signatures.push(`${word} ${method.signature}`);
    }
    if (!fits || !words.slice(3).some((word) => word !== '')) continue;
    const header = atom.bytes.subarray(wordBytes, 3 * wordBytes).join();
    vtables.push({
      object,
      atom,
      key: key(object, atom),
      words,
      implementation,
      signatures: signatures.join('\n'),
      header,
    });
  }
  return vtables;
}

/**
 * Objects made before the patch keep the vtable they were made with, so a vtable that changed is rewritten where it
 * lies. That is sound only when each word still means the same method and the type has the same size.
 */
export function matchVtables(
  gone: readonly Vtable[],
  come: readonly Vtable[],
): { rewritten: [Vtable, Vtable][] } | { refused: Refusal } {
  const rewritten: [Vtable, Vtable][] = [];
  for (const old of gone) {
    const same = come.find((now) => methods(now) === methods(old));
    if (same !== undefined && same.header === old.header && same.atom.sizeBytes === old.atom.sizeBytes) {
      if (old.signatures !== same.signatures)
        return { refused: vtableRefusal(old, 'a method takes or returns other types') };
      rewritten.push([old, same]);
      continue;
    }
    if (same !== undefined) return { refused: vtableRefusal(old, 'the type behind it has another size') };
    const other = come.find((now) => now.implementation !== undefined && now.implementation === old.implementation);
    if (other !== undefined) return { refused: vtableRefusal(old, 'the trait has other methods, or in another order') };
  }
  return { rewritten };
}

/** What the words mean, drop glue left aside: a type may gain or lose it without moving anything. */
function methods(vtable: Vtable): string {
  return vtable.words.slice(3).join('\n');
}

function vtableRefusal(vtable: Vtable, why: string): Refusal {
  const subject =
    vtable.implementation ?? vtable.words.find((word, index) => index >= 3 && word !== '') ?? 'a trait object';
  return { reason: `objects that exist were made with an older \`${subject}\`: ${why}`, remedy: 'reload' };
}

/** A static cannot change its size where it lies, and what points to it cannot be found. */
export function staticRefusal(symbol: string, from: number, to: number): Refusal {
  return {
    reason: `static \`${readable(symbol)}\` is ${to} bytes in the new code and ${from} in the running program`,
    remedy: 'reload',
  };
}
