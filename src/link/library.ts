// The workspace's objects and the archives on the link line in; out comes the object that defines a given symbol.
//
// Code that the base does not hold (a generic used for the first time, a function of std that nothing called) is pulled
// from here. An archive's own symbol index names the member; workspace objects are indexed when first asked. Of an archive
// nothing but that index stays in memory: the archives of a server come to hundreds of megabytes.

import type { ArchiveSource, ObjectFile, ObjectSource, Symbol } from '../model.ts';
import { readArchive } from '../object/archive.ts';
import { ELF_MAGIC, readElf, sectionsOf, SHT_SYMTAB } from '../object/elf.ts';
import { readElfParts } from '../object/elfparts.ts';
import { readSymbols } from '../object/elfsymbols.ts';
import { readObject as readWasmObject } from '../object/linking.ts';
import { type Definition, definitionOf } from './diff.ts';
import { demote } from './promoted.ts';

/** What stays of an archive. */
interface Index {
  readonly stamp: string;
  readonly symbols: ReadonlyMap<string, Place>;
}

/** Of a member in its archive. */
interface Place {
  readonly member: string;
  readonly start: number;
  readonly sizeBytes: number;
}

export class Library {
  #workspace: readonly ObjectSource[] = [];
  #archiveSources: readonly ArchiveSource[] = [];
  readonly #objects = new Map<string, ObjectFile>();
  readonly #defined = new Map<string, Summary & { readonly stamp: string }>();
  readonly #promoting = new WeakSet<ObjectFile>();
  readonly #archives = new Map<string, Index>();
  /** Paths of those that were looked at since the last `use`. */
  readonly #current = new Set<string>();
  readonly #members = new Map<string, ObjectFile>();
  /** What an object defines for itself, and for others, by name, once something was looked for in it. */
  readonly #locals = new WeakMap<ObjectFile, ReadonlyMap<string, Symbol>>();
  readonly #symbols = new WeakMap<ObjectFile, ReadonlyMap<string, Symbol>>();

  /** What the next look-ups are to find: the objects of one build, and the archives it was linked with. */
  use(objects: readonly ObjectSource[], archives: readonly ArchiveSource[]): void {
    this.#workspace = objects;
    this.#archiveSources = archives;
    this.#current.clear();
  }

  /** A workspace object, kept until `keep` lets go of it. */
  read(source: ObjectSource): ObjectFile {
    const id = identity(source);
    const known = this.#objects.get(id);
    if (known !== undefined) return known;
    const read = readObject(source.bytes(), source.name);
    const object = demote(read);
    if (object !== read) this.#promoting.add(object);
    this.#objects.set(id, object);
    return object;
  }

  /** Whether other units use symbols that would be a workspace object's own, or it uses theirs. */
  isPromoting(object: ObjectFile): boolean {
    return this.#promoting.has(object);
  }

  /** Forgets every object read but these. */
  keep(sources: Iterable<ObjectSource>): void {
    const kept = new Set([...sources].map(identity));
    for (const id of this.#objects.keys()) if (!kept.has(id)) this.#objects.delete(id);
  }

  /** Does the look-ups' one-off work ahead of the first edit that needs it. */
  warm(source: ObjectSource | ArchiveSource): void {
    if (!('path' in source)) {
      this.#summary(source);
      return;
    }
    const { symbols } = this.#archive(source);
    // Most of what new code needs and the program lacks is in these, one large object each.
    if (!/\/lib(?:std|core|alloc)-[0-9a-f]+\.rlib$/.test(source.path)) return;
    for (const place of new Set(symbols.values()))
      if (isElf(source.bytes(place.start, ELF_MAGIC.length))) this.#member(source, place);
  }

  find(name: string): Definition | undefined {
    for (const source of this.#workspace) {
      if (!this.#summary(source).names.has(name)) continue;
      const found = this.#definition(this.read(source), name);
      if (found !== undefined) return found;
    }
    for (const source of this.#archiveSources) {
      const place = this.#archive(source).symbols.get(name);
      if (place === undefined) continue;
      const found = this.#definition(this.#member(source, place), name);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  /** A local symbol of a workspace object. */
  local(source: ObjectSource, name: string): Definition | undefined {
    return this.#definition(this.read(source), name, true);
  }

  #definition(object: ObjectFile, name: string, isLocal = false): Definition | undefined {
    const known = isLocal ? this.#locals : this.#symbols;
    let symbols = known.get(object);
    if (symbols === undefined) {
      const defined = object.symbols.filter(
        ({ atom, binding }) => atom !== undefined && (binding === 'local') === isLocal,
      );
      symbols = new Map(defined.map((symbol) => [symbol.name, symbol]));
      known.set(object, symbols);
    }
    const symbol = symbols.get(name);
    return symbol === undefined ? undefined : definitionOf(object, symbol);
  }

  /** The other units of its crate whose local symbols a workspace object uses. */
  units(source: ObjectSource): ReadonlySet<string> {
    return this.#summary(source).units;
  }

  #summary(source: ObjectSource): Summary {
    const known = this.#defined.get(source.name);
    if (known?.stamp === source.stamp) return known;
    const summary = { ...summarise(this.#objects.get(identity(source)), source), stamp: source.stamp };
    this.#defined.set(source.name, summary);
    return summary;
  }

  #member({ path, bytes }: ArchiveSource, { member, start, sizeBytes }: Place): ObjectFile {
    const label = `${path}(${member})`;
    const known = this.#members.get(label);
    if (known !== undefined) return known;
    const object = readObject(bytes(start, sizeBytes), label);
    this.#members.set(label, object);
    return object;
  }

  #archive({ path, stamp, bytes }: ArchiveSource): Index {
    const known = this.#archives.get(path);
    if (known !== undefined && this.#current.has(path)) return known;
    this.#current.add(path);
    const now = stamp();
    if (known?.stamp === now) return known;
    for (const label of this.#members.keys()) if (label.startsWith(`${path}(`)) this.#members.delete(label);
    const index = { stamp: now, symbols: placesOf(bytes(), path) };
    this.#archives.set(path, index);
    return index;
  }
}

/** By symbol. */
function placesOf(bytes: Uint8Array, path: string): Map<string, Place> {
  const { members, symbols } = readArchive(bytes, path);
  const places = new Map(
    members.map((member) => {
      const { name, bytes: content } = member;
      return [member, { member: name, start: content.byteOffset - bytes.byteOffset, sizeBytes: content.length }];
    }),
  );
  const found = new Map<string, Place>();
  for (const [symbol, member] of symbols) {
    const place = places.get(member);
    if (place !== undefined) found.set(symbol, place);
  }
  return found;
}

/** In the format that its first bytes tell. */
function readObject(bytes: Uint8Array, name: string): ObjectFile {
  return isElf(bytes) ? readElfParts(bytes, name) : readWasmObject(bytes, name);
}

function isElf(bytes: Uint8Array): boolean {
  return ELF_MAGIC.every((byte, index) => bytes[index] === byte);
}

/** What an object has to do with others, which takes its symbols alone. */
interface Summary {
  /** What it defines for them. */
  readonly names: ReadonlySet<string>;
  readonly units: ReadonlySet<string>;
}

function summarise(object: ObjectFile | undefined, { name, bytes }: ObjectSource): Summary {
  const names = new Set<string>();
  const units = new Set<string>();
  const content = object === undefined ? bytes() : undefined;
  if (content !== undefined && isElf(content)) {
    const elf = readElf(content, name);
    for (const table of sectionsOf(elf, SHT_SYMTAB)) {
      for (const symbol of readSymbols(elf, table)) {
        if (typeof symbol.section === 'number' && symbol.binding !== 'local') names.add(symbol.name);
      }
    }
    return { names, units };
  }
  for (const symbol of (object ?? demote(readObject(bytes(), name))).symbols) {
    if (symbol.atom !== undefined && symbol.binding !== 'local') names.add(symbol.name);
    if (symbol.unit !== undefined) units.add(symbol.unit);
  }
  return { names, units };
}

function identity({ name, stamp }: ObjectSource): string {
  return `${name}\0${stamp}`;
}
