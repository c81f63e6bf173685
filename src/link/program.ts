// What is running: for every symbol the slot or the address that stands for it, and the objects it was linked from.
//
// A Program changes only by `commit`. A link in progress writes to a Draft, which reads through to the Program; a patch
// that is refused, or that a client could not apply, is forgotten with its Draft.

import type { ObjectFile, ObjectSource, Signature, Symbol } from '../model.ts';
import type { LinkerMap } from './map.ts';

/** A function that can be called through its slot. */
export interface Entry {
  readonly slot: number;
  readonly signature: Signature;
  /** The workspace object that defines it; a local symbol belongs to this object only. */
  readonly object?: string;
}

export interface Place {
  readonly address: number;
  readonly sizeBytes: number;
}

/** A workspace object as it was last linked in. */
export interface LinkedObject {
  readonly source: ObjectSource;
  /** Where the linker put its segments; missing once a patch has replaced it. */
  readonly fromBase: boolean;
}

/** Where the next new slot and the next new byte of data go. */
export interface FreeSpace {
  readonly slot: number;
  readonly address: number;
  readonly addressEnd: number;
}

/** Slots that stand for several functions of the user's, equal when the base was compiled: the names of each. */
export type MergedSlots = ReadonlyMap<number, readonly string[]>;

export interface ProgramStart {
  readonly base: string;
  readonly version: number;
  readonly functions: Map<string, Entry>;
  /** Names that stand for several functions of the base, none of which has a slot. */
  readonly ambiguous: ReadonlySet<string>;
  readonly merged: MergedSlots;
  readonly map: LinkerMap;
  /** The base's memory as it is before the program starts. */
  readonly initial: (address: number, sizeBytes: number) => Uint8Array;
  readonly free: FreeSpace;
  readonly objects: readonly ObjectSource[];
  readonly hostConstants: string;
}

export class Program {
  readonly base: string;
  readonly ambiguous: ReadonlySet<string>;
  readonly merged: MergedSlots;
  readonly map: LinkerMap;
  readonly initial: (address: number, sizeBytes: number) => Uint8Array;
  readonly functions: Map<string, Entry>;
  readonly data: Map<string, Place>;
  /** Addresses of anonymous constants, by `Comparison.key`. */
  readonly constants: Map<string, readonly number[]> = new Map();
  readonly objects: Map<string, LinkedObject>;
  /** What the host set up when the program started, which code names by position. Equal texts, equal constants. */
  readonly hostConstants: string;
  version: number;
  free: FreeSpace;

  constructor(start: ProgramStart) {
    this.base = start.base;
    this.version = start.version;
    this.functions = start.functions;
    this.ambiguous = start.ambiguous;
    this.merged = start.merged;
    this.map = start.map;
    this.initial = start.initial;
    this.free = start.free;
    this.hostConstants = start.hostConstants;
    this.data = new Map(start.map.data);
    this.objects = new Map(start.objects.map((source) => [source.name, { source, fromBase: true }]));
  }

  commit(draft: Draft): void {
    for (const [key, entry] of draft.functions) this.functions.set(key, entry);
    for (const [name, place] of draft.data) this.data.set(name, place);
    for (const [key, addresses] of draft.constants) this.constants.set(key, addresses);
    for (const name of draft.removedObjects) this.objects.delete(name);
    for (const [name, object] of draft.objects) this.objects.set(name, object);
    this.free = draft.free;
    this.version = draft.version;
  }
}

/** Changes on top of a Program, not yet part of it. */
export class Draft {
  readonly program: Program;
  readonly functions: Map<string, Entry> = new Map();
  readonly data: Map<string, Place> = new Map();
  readonly constants: Map<string, readonly number[]> = new Map();
  readonly objects: Map<string, LinkedObject> = new Map();
  readonly removedObjects: Set<string> = new Set();
  version: number;
  free: FreeSpace;

  constructor(program: Program) {
    this.program = program;
    this.version = program.version;
    this.free = program.free;
  }

  /** The slot a symbol means when code in `object` names it. */
  entry(object: ObjectFile, symbol: Symbol): Entry | undefined {
    if (symbol.binding !== 'local') return this.named(symbol.name);
    const own = this.named(localKey(object, symbol));
    if (own !== undefined) return own;
    const entry = this.named(symbol.name);
    return entry?.object === object.name ? entry : undefined;
  }

  named(key: string): Entry | undefined {
    return this.functions.get(key) ?? this.program.functions.get(key);
  }

  enter(object: ObjectFile, symbol: Symbol, entry: Entry): void {
    this.functions.set(symbol.binding === 'local' ? localKey(object, symbol) : symbol.name, entry);
  }

  newEntry(signature: Signature, object: string): Entry {
    const { slot } = this.free;
    this.free = { ...this.free, slot: slot + 1 };
    return { slot, signature, object };
  }

  place(name: string): Place | undefined {
    return this.data.get(name) ?? this.program.data.get(name);
  }

  constantAt(key: string): readonly number[] {
    return this.constants.get(key) ?? this.program.constants.get(key) ?? [];
  }

  /** Room in the arena, or undefined when it is full. */
  allocate(sizeBytes: number, alignment: number): number | undefined {
    const address = Math.ceil(this.free.address / alignment) * alignment;
    if (address + sizeBytes > this.free.addressEnd) return undefined;
    this.free = { ...this.free, address: address + sizeBytes };
    return address;
  }
}

function localKey(object: ObjectFile, symbol: Symbol): string {
  return `${object.name}\0${symbol.name}`;
}
