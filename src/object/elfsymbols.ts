// The tables in an ELF file's sections ↔ their entries: symbols, relocations, groups, notes, the dynamic section.
// https://gabi.xinuos.com/elf/05-symtab.html, 06-reloc.html, 03-sheader.html#section-groups, 07-pheader.html#note-sections

import type { Relocation } from '../model.ts';
import { Reader } from './bytes.ts';
import {
  alignUp,
  type Elf,
  type ElfSection,
  hex,
  malformed,
  SHN_ABS,
  SHN_COMMON,
  SHN_LORESERVE,
  SHN_UNDEF,
  SHN_XINDEX,
  SHT_RELA,
  SHT_SYMTAB_SHNDX,
  setXword,
  xwordAt,
} from './elf.ts';
import { StringTable } from './elfstrings.ts';

const bindings = { local: 0, global: 1, weak: 2, unique: 10 } as const;
const types = { none: 0, object: 1, function: 2, section: 3, file: 4, common: 5, tls: 6, ifunc: 10 } as const;
const visibilities = ['default', 'internal', 'hidden', 'protected'] as const;
const bindingOf = invert(bindings);
const typeOf = invert(types);

/** `unique`: one in the whole process (STB_GNU_UNIQUE). */
export type ElfBinding = keyof typeof bindings;
/** `ifunc`: its value is a function that finds the function, once, at start (STT_GNU_IFUNC). */
export type ElfSymbolType = keyof typeof types;
export type ElfVisibility = (typeof visibilities)[number];

/** An entry of a symbol table. */
export interface ElfSymbolEntry {
  readonly name: string;
  readonly binding: ElfBinding;
  readonly type: ElfSymbolType;
  readonly visibility: ElfVisibility;
  /** Where it is defined: the section's index, or no section. */
  readonly section: number | 'undefined' | 'absolute' | 'common';
  /**
   * In an object, the offset in the section; in an image, the address, or of a thread-local the offset in the TLS
   * block; of a common symbol, its alignment.
   */
  readonly value: number;
  readonly sizeBytes: number;
  /** The bits of `st_other` beside the visibility, when there are any. */
  readonly other?: number;
}

export const SYMBOL_SIZE = 24;
export const RELA_SIZE = 24;
const REL_SIZE = 16;
/** Where an entry has its symbol, with an addend or without. */
export const SYMBOL_IN_RELOCATION = 12;
const GRP_COMDAT = 1;

/** The symbols of that table (`SHT_SYMTAB` or `SHT_DYNSYM`), the null symbol included, so that indices hold. */
export function readSymbols(elf: Elf, table: ElfSection): ElfSymbolEntry[] {
  const strings = elf.sections[table.link];
  if (strings === undefined) malformed(elf, table.offset, 'a table of names', `section ${table.link}`);
  const index = elf.sections.indexOf(table);
  const long = elf.sections.find(({ type, link }) => type === SHT_SYMTAB_SHNDX && link === index);
  const names = new StringTable(strings, elf.name);
  return readSymbolTable(elf, table, names, elf.sections.length, long);
}

/** As `readSymbols`, for who has not read the file as an `Elf`. `longSection` is the `SHT_SYMTAB_SHNDX` that belongs to the table. */
export function readSymbolTable(
  file: Pick<Elf, 'name' | 'sizeBytes'>,
  table: ElfSection,
  names: StringTable,
  sectionCount: number,
  longSection?: ElfSection,
): ElfSymbolEntry[] {
  const reader = entriesOf(file, table, SYMBOL_SIZE, 'a symbol table');
  const long = longSection && longIndices(file, longSection);
  return Array.from({ length: table.bytes.length / SYMBOL_SIZE }, (_, index) => {
    const start = index * SYMBOL_SIZE;
    const nameOffset = reader.u32At(start);
    // st_info, st_other, st_shndx
    const word = reader.u32At(start + 4);
    const info = word & 0xff;
    const other = (word >>> 8) & 0xff;
    const number = word >>> 16;
    const value = sxwordAt(reader, start + 8, 'the value of a symbol');
    const sizeBytes = xwordAt(reader, start + 16, 'the size of a symbol');
    const binding = bindingOf.get(info >>> 4) ?? reader.fail('the binding of a symbol', `${info >>> 4}`, start + 4);
    const type = typeOf.get(info & 15) ?? reader.fail('the type of a symbol', `${info & 15}`, start + 4);
    const visibility = visibilities[other & 3] ?? 'default';
    const name = names.at(nameOffset, 'the name of a symbol');
    const section =
      number === SHN_XINDEX
        ? (long?.[index] ?? reader.fail('a table of long section indices', 'none', start + 6))
        : (specialSections.get(number) ?? number);
    if (typeof section === 'number' && (section >= sectionCount || (number === section && number >= SHN_LORESERVE))) {
      reader.fail('the section of a symbol', `section ${section}`, start + 6);
    }
    const entry = { name, binding, type, visibility, section, value, sizeBytes };
    return other > 3 ? { ...entry, other: other & ~3 } : entry;
  });
}

/**
 * The bytes of a symbol table, and of its table of long section indices when one is needed. `nameOffset` says where the
 * table of names has an entry's name.
 */
export function writeSymbols(
  symbols: readonly ElfSymbolEntry[],
  nameOffset: (symbol: ElfSymbolEntry, index: number) => number,
): { bytes: Uint8Array; long?: Uint8Array } {
  const bytes = new Uint8Array(SYMBOL_SIZE * symbols.length);
  const view = new DataView(bytes.buffer);
  let long: Uint8Array | undefined;
  symbols.forEach((symbol, index) => {
    const { binding, type, visibility, section, value, sizeBytes, other = 0 } = symbol;
    const start = index * SYMBOL_SIZE;
    let number = typeof section === 'number' ? section : specialNumbers[section];
    if (typeof section === 'number' && section >= SHN_LORESERVE) {
      long ??= new Uint8Array(4 * symbols.length);
      new DataView(long.buffer).setUint32(4 * index, section, true);
      number = SHN_XINDEX;
    }
    view.setUint32(start, nameOffset(symbol, index), true);
    view.setUint8(start + 4, (bindings[binding] << 4) | types[type]);
    view.setUint8(start + 5, other | visibilities.indexOf(visibility));
    view.setUint16(start + 6, number, true);
    setXword(view, start + 8, value);
    setXword(view, start + 16, sizeBytes);
  });
  return { bytes, ...(long && { long }) };
}

/**
 * The relocations of a `SHT_RELA` or `SHT_REL` section as they stand: offsets count in the section it is for, or are
 * addresses in an image; nobody has checked kinds and symbols. Those of `SHT_REL` have their addends in the field.
 */
export function readRelocationEntries(elf: Elf, section: ElfSection): Relocation[] {
  const hasAddend = section.type === SHT_RELA;
  const size = hasAddend ? RELA_SIZE : REL_SIZE;
  const reader = entriesOf(elf, section, size, 'relocations');
  return Array.from({ length: section.bytes.length / size }, (_, index) =>
    relocationAt(reader, index * size, hasAddend),
  );
}

/** The entry that begins at `position`; as `Reader.u32At`. */
export function relocationAt(reader: Reader, position: number, hasAddend = true): Relocation {
  const offset = xwordAt(reader, position, 'the offset of a relocation');
  const kind = reader.u32At(position + 8);
  const symbol = reader.u32At(position + SYMBOL_IN_RELOCATION);
  return { offset, kind, symbol, addend: hasAddend ? sxwordAt(reader, position + 16, 'an addend') : 0 };
}

/** The content of a `SHT_RELA` section. `moved` gives a symbol's index in the table that it is for. */
export function writeRelocationEntries(
  relocations: readonly Relocation[],
  moved: (symbol: number) => number = (symbol) => symbol,
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(RELA_SIZE * relocations.length);
  const view = new DataView(bytes.buffer);
  let start = 0;
  for (const { offset, kind, symbol, addend } of relocations) {
    setXword(view, start, offset);
    view.setUint32(start + 8, kind, true);
    view.setUint32(start + SYMBOL_IN_RELOCATION, moved(symbol), true);
    setXword(view, start + 16, addend);
    start += RELA_SIZE;
  }
  return bytes;
}

/** Of several objects that bring a COMDAT group of one name, one wins with all its sections. */
export interface ElfGroup {
  readonly isComdat: boolean;
  /** Indices of sections. */
  readonly members: readonly number[];
}

/** The content of a `SHT_GROUP` section. The group's name is the symbol `info` of the table `link`. */
export function readGroup(elf: Elf, section: ElfSection): ElfGroup {
  const reader = entriesOf(elf, section, 4, 'a section group');
  const flags = reader.u32le('the flags of a section group');
  const members: number[] = [];
  while (!reader.atEnd) {
    const index = reader.u32le();
    if (index === 0 || index >= elf.sections.length) {
      reader.fail('a section of the group', `section ${index}`, reader.position - 4);
    }
    members.push(index);
  }
  return { isComdat: (flags & GRP_COMDAT) !== 0, members };
}

export interface ElfNote {
  /** Of whom it is: `GNU`, `stapsdt`, … */
  readonly name: string;
  readonly type: number;
  readonly descriptor: Uint8Array;
}

/** The content of a `SHT_NOTE` section or a `PT_NOTE` segment; `alignment` is the section's or the segment's. */
export function readNotes(bytes: Uint8Array, file: string, origin: number, alignment: number): ElfNote[] {
  const reader = new Reader(bytes, file, origin);
  const notes: ElfNote[] = [];
  const skipTo = (position: number): void => {
    reader.position = Math.min(alignUp(position, alignment === 8 ? 8 : 4), bytes.length);
  };
  while (reader.remaining >= 12) {
    const nameLength = reader.u32le();
    const length = reader.u32le();
    const type = reader.u32le();
    const name = reader.utf8(nameLength, 'the name of a note').replace(/\0+$/, '');
    skipTo(reader.position);
    notes.push({ name, type, descriptor: reader.bytes(length, 'a note') });
    skipTo(reader.position);
  }
  return notes;
}

/** The pairs of a `SHT_DYNAMIC` section, up to `DT_NULL`: tag and value, an address or an offset of a name. */
export function readDynamic(elf: Elf, section: ElfSection): { readonly tag: number; readonly value: number }[] {
  const reader = entriesOf(elf, section, 16, 'the dynamic section');
  const entries: { tag: number; value: number }[] = [];
  while (!reader.atEnd) {
    const tag = readSxword(reader, 'a tag of the dynamic section');
    const value = readSxword(reader, 'a value of the dynamic section');
    if (tag === 0) break;
    entries.push({ tag, value });
  }
  return entries;
}

const specialSections: ReadonlyMap<number, 'undefined' | 'absolute' | 'common'> = new Map([
  [SHN_UNDEF, 'undefined'],
  [SHN_ABS, 'absolute'],
  [SHN_COMMON, 'common'],
]);
const specialNumbers = { undefined: SHN_UNDEF, absolute: SHN_ABS, common: SHN_COMMON } as const;

/** A reader of a section that is nothing but entries of that size. */
function entriesOf(elf: Pick<Elf, 'name' | 'sizeBytes'>, section: ElfSection, size: number, what: string): Reader {
  const { bytes, offset } = section;
  if (bytes.length % size !== 0) malformed(elf, offset, `${what}, each entry ${size} bytes`, `${bytes.length} bytes`);
  return new Reader(bytes, elf.name, bytes.length === 0 ? 0 : offset);
}

/** Section indices of symbols whose own field is too small, by symbol. */
function longIndices(file: Pick<Elf, 'name' | 'sizeBytes'>, section: ElfSection): Uint32Array {
  const reader = entriesOf(file, section, 4, 'section indices');
  return Uint32Array.from({ length: section.bytes.length / 4 }, (_, index) => reader.u32At(4 * index));
}

/** Signed; in magnitude below 2^53. */
function readSxword(reader: Reader, expected: string): number {
  const start = reader.position;
  reader.skip(8, expected);
  return sxwordAt(reader, start, expected);
}

/** As `Reader.u32At`. */
function sxwordAt(reader: Reader, position: number, expected: string): number {
  const value = reader.u32At(position) + 2 ** 32 * (reader.u32At(position + 4) | 0);
  if (!Number.isSafeInteger(value)) reader.fail(`${expected} below 2^53`, hex(value), position);
  return value;
}

function invert<K extends string>(numbers: Readonly<Record<K, number>>): ReadonlyMap<number, K> {
  return new Map(Object.entries<number>(numbers).map(([name, number]) => [number, name as K]));
}
