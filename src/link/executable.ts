// A native program as its linker wrote it and as it runs in; out comes the Program: where its functions, slots, data and
// free memory are.
//
// Reading a file of tens of megabytes takes longer than anything else at the start and needs no process, so it is a step
// of its own.

import type { Build, Executable, RunningProgram } from '../model.ts';
import { bytesAt, type ElfImage, type ImageSymbol, readElfImage } from '../object/elfimage.ts';
import { x86_64 } from '../object/x86_64.ts';
import { Host } from './host.ts';
import { type Area, type Entry, localKey, type Place, Program } from './program.ts';
import { ANCHOR, SLOT_BYTES, SLOTS_START, type Slots, STUBS_START } from './stubs.ts';
import { Unlinkable } from './target.ts';

/** What a program's file says. Addresses are the file's. */
export interface ParsedExecutable {
  readonly image: LoadedImage;
  readonly slots: Slots;
  readonly base: string;
  readonly slotsStart: number;
  readonly stubsStart: number;
  /** What is found by a symbol: code without a slot, and data. Thread-locals by their offset from the thread pointer. */
  readonly places: ReadonlyMap<string, FilePlace>;
  /** Address of an input section, by `OBJECT:SECTION`. */
  readonly segments: ReadonlyMap<string, number>;
  /** Names that statics of several objects have. */
  readonly ambiguous: ReadonlySet<string>;
  /** Cells in which the loader puts the address of what the program imports, by its name. */
  readonly cells: ReadonlyMap<string, number>;
}

/** What stays of interest of a file of tens of megabytes. */
type LoadedImage = Pick<ElfImage, 'segments' | 'isPositionIndependent'>;

interface FilePlace extends Place {
  readonly type: ImageSymbol['type'];
  readonly isLocal: boolean;
}

/** A native program that runs. */
export class ElfProgram extends Program {
  readonly parsed: ParsedExecutable;
  readonly running: RunningProgram;
  readonly host: Host;

  constructor(parsed: ParsedExecutable, running: RunningProgram, build: Build, version: number) {
    const { bias } = running;
    const {
      slots: { slots, slotCount },
      image,
      places,
    } = parsed;
    const data = new Map<string, Place>();
    for (const [name, { address, sizeBytes, type }] of places) {
      data.set(name, { address: type === 'tls' ? address : address + bias, sizeBytes });
    }
    const functions = new Map<string, Entry>();
    const merged = new Map<number, string[]>();
    for (const [slot, { name, object, isLocal, sharedWith }] of slots.entries()) {
      functions.set(isLocal ? localKey({ name: object }, { name }) : name, { slot, signature: '', object });
      if (sharedWith === undefined) continue;
      const names = merged.get(sharedWith) ?? [slots[sharedWith]?.name ?? name];
      for (const one of [sharedWith, slot]) merged.set(one, names);
      names.push(name);
    }
    super({
      base: parsed.base,
      version,
      functions,
      ambiguous: parsed.ambiguous,
      merged,
      map: { data, segments: new Map([...parsed.segments].map(([key, address]) => [key, address + bias])) },
      initial: (address, sizeBytes) => bytesAt(image, address - bias, sizeBytes) ?? new Uint8Array(),
      free: { slot: slots.length, slotEnd: slotCount, areas: areasOf(running, image) },
      areaOf: { code: CODE, constant: CONSTANT, data: DATA, zero: DATA, tls: POOL },
      objects: build.objects,
      hostConstants: '',
    });
    this.parsed = parsed;
    this.running = running;
    this.host = new Host(running, parsed.cells);
  }

  slotAddress(slot: number): number {
    return this.parsed.slotsStart + this.running.bias + SLOT_BYTES * slot;
  }

  stubAddress(slot: number): number {
    return this.parsed.stubsStart + this.running.bias + SLOT_BYTES * slot;
  }
}

/** Areas of the arena, and of each thread's pool. */
export const CODE = 0;
export const CONSTANT = 1;
export const DATA = 2;
export const POOL = 3;

const PAGE_BYTES = 4096;

/**
 * Pages of one patch have three protections, and its segments are to be sorted by address: so each kind has a part of
 * the arena. Code takes whole modules, that each patch may have a symbol file of its own; memory that is not touched
 * costs nothing.
 */
function areasOf(running: RunningProgram, image: LoadedImage): Area[] {
  const { arenaStart, moduleSizeBytes, poolOffset, poolSizeBytes } = running;
  // Code that is not position-independent writes addresses as 32-bit numbers, signed ones too.
  const arenaEnd = image.isPositionIndependent ? running.arenaEnd : Math.min(running.arenaEnd, 2 ** 31);
  const modules = Math.floor((arenaEnd - arenaStart) / moduleSizeBytes);
  const constants = arenaStart + Math.floor((modules * 3) / 4) * moduleSizeBytes;
  const data = arenaStart + Math.floor((modules * 15) / 16) * moduleSizeBytes;
  return [
    { address: arenaStart, end: constants, alignment: moduleSizeBytes },
    { address: constants, end: data, alignment: PAGE_BYTES },
    { address: data, end: arenaEnd, alignment: PAGE_BYTES },
    { address: poolOffset, end: poolOffset + poolSizeBytes, alignment: 1 },
  ];
}

/** Throws MalformedError, and Unlinkable for a program that cannot be patched. `identify` names it by its content. */
export function readExecutable(
  executable: Executable,
  slots: Slots,
  identify: (bytes: Uint8Array) => string,
): ParsedExecutable {
  const bytes = executable.bytes();
  const image = readElfImage(bytes, executable.path);
  const [slotsStart, stubsStart] = [SLOTS_START, STUBS_START].map((name) => {
    const symbol = image.byName.get(name);
    if (symbol !== undefined) return symbol.address;
    throw new Unlinkable('the program was linked without its symbols; set `strip = false` in its profile');
  });
  if (slotsStart === undefined || stubsStart === undefined) throw new Error('two names have two symbols');
  const stubsEnd = stubsStart + SLOT_BYTES * slots.slotCount;
  const threadPointer = image.tls?.threadPointerOffset ?? 0;
  const places = new Map<string, FilePlace>();
  const segments = new Map<string, number>();
  const repeated = new Set<string>();
  const bodies = bodiesOf(image, slots);
  for (const { name, address, sizeBytes, type, binding, visibility, section } of image.symbols) {
    if (name.startsWith(ANCHOR)) {
      const split = name.indexOf(':', ANCHOR.length);
      const object = name.slice(ANCHOR.length, split);
      const rest = name.slice(split + 1);
      if (rest.startsWith('.')) segments.set(`${object}:${rest}`, address);
      else places.set(localKey({ name: object }, { name: rest }), { address, sizeBytes, type, isLocal: true });
      continue;
    }
    if (section === undefined || type === 'ifunc') continue;
    // Functions that have a slot are reached through it alone.
    const isSlotted = (address >= stubsStart && address < stubsEnd) || bodies.has(address);
    if (isSlotted && type !== 'tls') continue;
    // Linkers make hidden symbols local. Of truly local ones, only mangled names are one thing wherever they are used.
    const isLocal = binding === 'local';
    if (isLocal && visibility === 'default' && !/^_(?:R|ZN)/.test(name)) continue;
    const known = places.get(name);
    const place = { address: type === 'tls' ? threadPointer + address : address, sizeBytes, type, isLocal };
    if (known === undefined || (known.isLocal && !isLocal)) places.set(name, place);
    else if (known.isLocal && isLocal && known.address !== place.address) repeated.add(name);
  }
  const ambiguous = new Set<string>();
  for (const name of repeated) {
    const place = places.get(name);
    if (place?.isLocal !== true) continue;
    places.delete(name);
    // Of code, another copy does as well.
    if (place.type !== 'function') ambiguous.add(name);
  }
  return {
    image: loaded(image),
    slots,
    base: image.buildId ?? identify(bytes),
    slotsStart,
    stubsStart,
    places,
    segments,
    ambiguous,
    cells: cellsOf(image),
  };
}

/** Copied: most of the file are debug sections. */
function loaded({ segments, isPositionIndependent }: ElfImage): LoadedImage {
  return { segments: segments.map((segment) => ({ ...segment, bytes: segment.bytes.slice() })), isPositionIndependent };
}

function bodiesOf(image: ElfImage, { slots }: Slots): ReadonlySet<number> {
  const bodies = new Set<number>();
  for (const { body } of slots) {
    const symbol = image.byName.get(body);
    if (symbol !== undefined) bodies.add(symbol.address);
  }
  return bodies;
}

/** Where the loader leaves addresses: R_X86_64_GLOB_DAT and JUMP_SLOT, and of ifuncs in a static program IRELATIVE. */
function cellsOf(image: ElfImage): Map<string, number> {
  const cells = new Map<string, number>();
  const resolvers = new Map<number, string>();
  for (const { type, address, name } of image.symbols) if (type === 'ifunc') resolvers.set(address, name);
  for (const { kind, symbol, address, addend } of image.relocations()) {
    const isCell = kind === x86_64.R_X86_64_GLOB_DAT.number || kind === x86_64.R_X86_64_JUMP_SLOT.number;
    const name = kind === x86_64.R_X86_64_IRELATIVE.number ? resolvers.get(addend) : isCell ? symbol?.name : undefined;
    if (name !== undefined && !cells.has(name)) cells.set(name, address);
  }
  return cells;
}

export function placeExecutable(
  parsed: ParsedExecutable,
  running: RunningProgram,
  build: Build,
  version: number,
): ElfProgram {
  if (parsed.slotsStart + running.bias !== running.slotsStart) {
    throw new Unlinkable('the program that runs is not the one that was linked');
  }
  return new ElfProgram(parsed, running, build, version);
}

/** Both steps at once. */
export function openExecutable(
  executable: Executable,
  build: Build,
  slots: Slots,
  running: RunningProgram,
  version: number,
  identify: (bytes: Uint8Array) => string,
): ElfProgram {
  return placeExecutable(readExecutable(executable, slots, identify), running, build, version);
}
