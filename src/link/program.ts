// What is running: for every symbol the slot or the address that stands for it, and the objects it was linked from.
//
// A Program changes only by `commit`. A link in progress writes to a Draft, which reads through to the Program; a patch
// that is refused, or that a client could not apply, is forgotten with its Draft.

import type { AtomKind, ObjectFile, ObjectSource, Signature, Symbol } from '../model.ts';
import type { Threads } from './guard.ts';
import type { TypeDigests } from './layout.ts';
import { homeOf } from './promoted.ts';

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

/** Where the next new slot and the next new byte of memory go. */
export interface FreeSpace {
  readonly slot: number;
  /** Undefined when slots can always be added. */
  readonly slotEnd?: number;
  readonly areas: readonly Area[];
}

/** Memory that patches take from its beginning. Each patch starts at a multiple of `alignment`. */
export interface Area {
  readonly address: number;
  readonly end: number;
  readonly alignment: number;
}

/** In which of the areas new memory of a kind is; what is missing takes none (code of wasm), or cannot be had. */
export type AreaOf = Readonly<Partial<Record<AtomKind, number>>>;

/** Where the base linker put things. */
export interface BaseMap {
  /** Address of an input section, by `OBJECT:SECTION`. */
  readonly segments: ReadonlyMap<string, number>;
  /** What is found by a symbol alone, or by `localKey`: data, and code that has no slot. */
  readonly data: ReadonlyMap<string, Place>;
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
  readonly map: BaseMap;
  /** The base's memory as it is before the program starts. */
  readonly initial: (address: number, sizeBytes: number) => Uint8Array;
  readonly free: FreeSpace;
  readonly areaOf: AreaOf;
  readonly objects: readonly ObjectSource[];
  readonly hostConstants: string;
  /** Of a wasm program with threads. */
  readonly threads?: Threads;
}

export class Program {
  base: string;
  readonly ambiguous: ReadonlySet<string>;
  readonly merged: MergedSlots;
  readonly map: BaseMap;
  readonly areaOf: AreaOf;
  readonly initial: (address: number, sizeBytes: number) => Uint8Array;
  readonly functions: Map<string, Entry>;
  readonly data: Map<string, Place>;
  /** Addresses of anonymous constants, by `Comparison.key`. */
  readonly constants: Map<string, readonly number[]> = new Map();
  readonly objects: Map<string, LinkedObject>;
  /** Types of code that patches replaced, and that newer code may have to meet. */
  readonly gone: Map<string, readonly string[]> = new Map();
  /** What the host set up when the program started, which code names by position. Equal texts, equal constants. */
  readonly hostConstants: string;
  readonly threads: Threads | undefined;
  version: number;
  free: FreeSpace;

  constructor(start: ProgramStart) {
    this.base = start.base;
    this.version = start.version;
    this.functions = start.functions;
    this.ambiguous = start.ambiguous;
    this.merged = start.merged;
    this.map = start.map;
    this.areaOf = start.areaOf;
    this.initial = start.initial;
    this.free = start.free;
    this.hostConstants = start.hostConstants;
    this.threads = start.threads;
    this.data = new Map(start.map.data);
    this.objects = new Map(start.objects.map((source) => [source.name, { source, fromBase: true }]));
  }

  commit(draft: Draft): void {
    for (const [key, entry] of draft.functions) this.functions.set(key, entry);
    for (const [name, place] of draft.data) this.data.set(name, place);
    for (const [key, addresses] of draft.constants) this.constants.set(key, addresses);
    for (const name of draft.removedObjects) this.objects.delete(name);
    for (const [name, object] of draft.objects) this.objects.set(name, object);
    for (const [name, digests] of draft.gone) this.gone.set(name, digests);
    this.free = draft.free;
    this.version = draft.version;
  }

  /** What a patch made of the base is a base of its own now. */
  rebase(base: string, version: number): void {
    this.base = base;
    this.version = version;
  }

  /** For a patch that was sent and taken back: its memory may still be in use. */
  abandon(draft: Draft): void {
    this.free = { ...this.free, areas: draft.free.areas };
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
  /** The areas' `address` as this patch begins. */
  readonly starts: readonly number[];
  gone: TypeDigests = new Map();
  version: number;
  free: FreeSpace;

  constructor(program: Program) {
    this.program = program;
    this.version = program.version;
    const areas = program.free.areas.map((area) => ({ ...area, address: alignUp(area.address, area.alignment) }));
    this.starts = areas.map(({ address }) => address);
    this.free = { ...program.free, areas };
  }

  /** The slot a symbol means when code in `object` names it. */
  entry(object: ObjectFile, symbol: Symbol): Entry | undefined {
    if (symbol.binding !== 'local') return this.named(symbol.name);
    const own = this.named(localKey(object, symbol));
    if (own !== undefined) return own;
    const entry = this.named(symbol.name);
    return entry?.object === homeOf(object, symbol) ? entry : undefined;
  }

  named(key: string): Entry | undefined {
    return this.functions.get(key) ?? this.program.functions.get(key);
  }

  enter(object: ObjectFile, symbol: Symbol, entry: Entry): void {
    this.functions.set(symbol.binding === 'local' ? localKey(object, symbol) : symbol.name, entry);
  }

  /** A slot for one more function, or undefined when they are used up. */
  newEntry(signature: Signature, object?: string): Entry | undefined {
    const { slot, slotEnd = Infinity } = this.free;
    if (slot >= slotEnd) return undefined;
    this.free = { ...this.free, slot: slot + 1 };
    return { slot, signature, ...(object !== undefined && { object }) };
  }

  /** The address a symbol means when code in `object` names it. */
  place(object: ObjectFile, symbol: Symbol): Place | undefined {
    if (symbol.binding !== 'local') return this.placeOf(symbol.name);
    return this.placeOf(localKey(object, symbol)) ?? (isMangled(symbol) ? this.placeOf(symbol.name) : undefined);
  }

  enterPlace(object: ObjectFile, symbol: Symbol, place: Place): void {
    const isLocal = symbol.binding === 'local';
    if (!isLocal || isMangled(symbol)) this.data.set(symbol.name, place);
    if (isLocal) this.data.set(localKey(object, symbol), place);
  }

  placeOf(key: string): Place | undefined {
    return this.data.get(key) ?? this.program.data.get(key);
  }

  /**
   * Whether a variable that has no place of its own is one that has, seen by the optimiser in another way: it takes what
   * only one unit uses apart, `NAME.0`, `NAME.1`, and together again when an edit leads others to it.
   */
  isApart(symbol: Pick<Symbol, 'name'>): boolean {
    if (!isMangled(symbol)) return false;
    const { name } = symbol;
    const whole = wholeOf(name);
    for (const places of [this.data, this.program.data]) {
      for (const other of places.keys())
        if (other !== name && other.startsWith(whole) && wholeOf(other) === whole) return true;
    }
    return false;
  }

  constantAt(key: string): readonly number[] {
    return this.constants.get(key) ?? this.program.constants.get(key) ?? [];
  }

  /** Room in an area, or undefined when it is full. */
  allocate(area: number, sizeBytes: number, alignment: number): number | undefined {
    const free = this.free.areas[area];
    if (free === undefined) throw new Error(`there is no area ${area}`);
    const address = alignUp(free.address, alignment);
    if (address + sizeBytes > free.end) return undefined;
    this.free = { ...this.free, areas: this.free.areas.with(area, { ...free, address: address + sizeBytes }) };
    return address;
  }
}

/** Under what a local symbol is known: others may define one of the same name. */
export function localKey(object: Pick<ObjectFile, 'name'>, symbol: Pick<Symbol, 'name' | 'unit'>): string {
  return `${homeOf(object, symbol)}\0${symbol.name}`;
}

/** Mangled names have no dots. */
function wholeOf(name: string): string {
  return name.replace(/\..*$/s, '');
}

/** Such a name is of one crate, and means one thing in it; of a local symbol of C, others may have the name. */
function isMangled({ name }: Pick<Symbol, 'name'>): boolean {
  return /^_(?:R|ZN)/.test(name);
}

function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}
