// A relocatable ELF object and changes to it → the object with them; and sections, symbols and relocations of our own →
// an object's bytes, as linkers take them.

import type { Relocation } from '../model.ts';
import { Reader, Writer } from './bytes.ts';
import {
  type Elf,
  type ElfSection,
  layOut,
  malformed,
  NULL_SECTION,
  OBJECT_HEADER,
  sectionsOf,
  SHF_GROUP,
  SHF_INFO_LINK,
  SHT_GROUP,
  SHT_LLVM_ADDRSIG,
  SHT_NOBITS,
  SHT_PROGBITS,
  SHT_REL,
  SHT_RELA,
  SHT_STRTAB,
  SHT_SYMTAB,
  SHT_SYMTAB_SHNDX,
  writeElf,
} from './elf.ts';
import { StringTableWriter } from './elfstrings.ts';
import {
  type ElfSymbolEntry,
  readSymbols,
  REL_SIZE,
  RELA_SIZE,
  SYMBOL_SIZE,
  writeRelocationEntries,
  writeSymbols,
} from './elfsymbols.ts';
import { readU32, writeUnsigned } from './leb128.ts';

/** A section of our own. */
export interface NewElfSection {
  readonly name: string;
  /** `SHT_*`; `SHT_PROGBITS` when left out, or `SHT_NOBITS` when only `sizeBytes` is given. */
  readonly type?: number;
  /** `SHF_*` */
  readonly flags: number;
  /** In bytes, a power of two. */
  readonly alignment: number;
  readonly bytes?: Uint8Array;
  /** Of zeros that take no room in the file. */
  readonly sizeBytes?: number;
  readonly entrySize?: number;
}

export interface ElfEdit {
  /** Every symbol: those that were read keep their indices (changed as you like), new ones follow. */
  readonly symbols?: readonly ElfSymbolEntry[];
  /** Sections to add: the first gets the index `elf.sections.length`. */
  readonly sections?: readonly NewElfSection[];
  /** By the index of a section, new or old, all its relocations; their symbols are indices into `symbols`. */
  readonly relocations?: ReadonlyMap<number, readonly Relocation[]>;
}

export interface NewElfObject {
  readonly sections: readonly NewElfSection[];
  /** Their `section` is an index into `sections`. */
  readonly symbols: readonly ElfSymbolEntry[];
  readonly relocations: readonly NewElfRelocation[];
}

export interface NewElfRelocation extends Relocation {
  /** Index into the object's `sections`; `symbol` is one into its `symbols`. */
  readonly section: number;
}

/** The object with symbols of other names; names that the map lacks stay. Relocations follow, as they go by index. */
export function renameSymbols(elf: Elf, names: ReadonlyMap<string, string>): Elf {
  const symbols = readSymbols(elf, symbolTableOf(elf)).map((symbol) => {
    const name = symbol.name === '' ? undefined : names.get(symbol.name);
    return name === undefined ? symbol : { ...symbol, name };
  });
  return editElf(elf, { symbols });
}

/**
 * The object with the edit made, laid out anew. Local symbols have to come first in a symbol table, so a local one that
 * becomes global, and a new local one, move others: everything that names symbols by index (relocations, groups,
 * address-significance tables) is rewritten to follow.
 */
export function editElf(elf: Elf, edit: ElfEdit): Elf {
  const table = symbolTableOf(elf);
  const sections: ElfSection[] = [...elf.sections];
  const names = new Names(sections);
  const replace = (index: number, change: Partial<ElfSection>): void => {
    const section = sections[index];
    if (section === undefined) throw new Error(`there is no section ${index}`);
    sections[index] = { ...section, ...change, ...(change.bytes && { sizeBytes: change.bytes.length }) };
  };
  const append = (section: Partial<ElfSection> & { readonly name: string }): number => {
    const nameOffset = names.add(elf.header.nameSection, section.name);
    const offset = elf.sizeBytes + sections.length;
    sections.push({ ...NULL_SECTION, sizeBytes: section.bytes?.length ?? 0, ...section, nameOffset, offset });
    return sections.length - 1;
  };

  const tableIndex = elf.sections.indexOf(table);
  const before = readSymbols(elf, table);
  const symbols = edit.symbols ?? before;
  if (symbols.length < before.length) throw new Error(`${before.length} symbols are now ${symbols.length}`);
  const order = localsFirst(symbols);
  const position = new Uint32Array(symbols.length);
  for (const [to, from] of order.entries()) position[from] = to;
  const moved = (symbol: number): number =>
    position[symbol] ?? malformed(elf, table.offset, `${symbols.length} symbols`, `symbol ${symbol}`);
  const isMoved = order.some((from, to) => from !== to);

  for (const { bytes, sizeBytes, type, ...section } of edit.sections ?? []) {
    const isEmpty = bytes === undefined;
    append({
      ...section,
      type: type ?? (isEmpty ? SHT_NOBITS : SHT_PROGBITS),
      sizeBytes: bytes?.length ?? sizeBytes ?? 0,
      bytes: bytes ?? NULL_SECTION.bytes,
    });
  }

  const encode = (entries: readonly Relocation[]): Uint8Array => writeRelocationEntries(entries, moved);
  const unplaced = new Map(edit.relocations);
  for (const [index, section] of elf.sections.entries()) {
    const { type, link, info } = section;
    if (link !== tableIndex) continue;
    if (type === SHT_RELA && edit.relocations?.has(info)) {
      replace(index, { bytes: encode(unplaced.get(info) ?? []) });
      unplaced.delete(info);
    } else if ((type === SHT_RELA || type === SHT_REL) && isMoved) {
      replace(index, { bytes: moveSymbols(elf, section, moved) });
    } else if (type === SHT_GROUP && isMoved) {
      replace(index, { info: moved(info) });
    } else if (type === SHT_LLVM_ADDRSIG && isMoved) {
      replace(index, { bytes: moveSignificant(elf, section, moved) });
    }
  }
  for (const [target, entries] of unplaced) {
    const section = sections[target];
    if (section === undefined) throw new Error(`there is no section ${target} to relocate`);
    // It would have to join the group, or a linker that drops the group would keep relocations of nothing.
    if (section.flags & SHF_GROUP) throw new Error(`${section.name} is in a group and had no relocations`);
    append({
      name: `.rela${section.name}`,
      type: SHT_RELA,
      flags: SHF_INFO_LINK,
      link: tableIndex,
      info: target,
      alignment: 8,
      entrySize: RELA_SIZE,
      bytes: encode(entries),
    });
  }

  const oldOffsets = new Reader(table.bytes, elf.name, table.offset);
  const nameOffsets = new Map<ElfSymbolEntry, number>();
  for (const [index, { name }] of before.entries()) {
    const symbol = symbols[index];
    oldOffsets.position = index * SYMBOL_SIZE;
    if (symbol?.name === name) nameOffsets.set(symbol, oldOffsets.u32le());
  }
  const { bytes, long } = writeSymbols(
    order.flatMap((from) => symbols[from] ?? []),
    (symbol) => nameOffsets.get(symbol) ?? names.add(table.link, symbol.name),
  );
  const firstGlobal = order.findIndex((from) => symbols[from]?.binding !== 'local');
  replace(tableIndex, { bytes, info: firstGlobal < 0 ? order.length : firstGlobal });
  const longIndex = sections.findIndex(({ type, link }) => type === SHT_SYMTAB_SHNDX && link === tableIndex);
  if (longIndex >= 0) replace(longIndex, { bytes: long ?? new Uint8Array(4 * order.length) });
  else if (long !== undefined) {
    const type = SHT_SYMTAB_SHNDX;
    append({ name: '.symtab_shndx', type, link: tableIndex, alignment: 4, entrySize: 4, bytes: long });
  }
  names.finish(replace);
  return layOut({ ...elf, sections });
}

/** A relocatable object. It says that it needs no executable stack. */
export function writeElfObject(object: NewElfObject): Uint8Array<ArrayBuffer> {
  const names = new StringTableWriter(new Uint8Array());
  const symbolTable = { name: '.symtab', type: SHT_SYMTAB, link: 2, alignment: 8, entrySize: SYMBOL_SIZE };
  const nameTable = { name: '.strtab', type: SHT_STRTAB, alignment: 1 };
  const base = [NULL_SECTION, symbolTable, nameTable].map((section): ElfSection => ({
    ...NULL_SECTION,
    ...section,
    nameOffset: names.add(section.name),
  }));
  base[2] = { ...NULL_SECTION, ...base[2], bytes: names.finish() };
  const header = { ...OBJECT_HEADER, nameSection: 2 };
  const empty: Elf = { name: 'object', header, segments: [], sections: base, gaps: [], sizeBytes: 0 };
  const relocations = new Map<number, Relocation[]>();
  for (const { section, offset, kind, symbol, addend } of object.relocations) {
    const target = relocations.get(section + base.length);
    const moved = { offset, kind, symbol: symbol + 1, addend };
    if (target === undefined) relocations.set(section + base.length, [moved]);
    else target.push(moved);
  }
  const symbols = object.symbols.map((symbol) => {
    return typeof symbol.section === 'number' ? { ...symbol, section: symbol.section + base.length } : symbol;
  });
  const note = { name: '.note.GNU-stack', flags: 0, alignment: 1, bytes: new Uint8Array() };
  return writeElf(
    editElf(empty, { sections: [...object.sections, note], symbols: [NULL_SYMBOL, ...symbols], relocations }),
  );
}

const NULL_SYMBOL: ElfSymbolEntry = {
  name: '',
  binding: 'local',
  type: 'none',
  visibility: 'default',
  section: 'undefined',
  value: 0,
  sizeBytes: 0,
};

/** The tables of names that an edit adds to; one table may serve both sections and symbols. */
class Names {
  readonly #sections: readonly ElfSection[];
  readonly #writers = new Map<number, StringTableWriter>();

  constructor(sections: readonly ElfSection[]) {
    this.#sections = sections;
  }

  /** Where table `index` has the name now. */
  add(index: number, name: string): number {
    let writer = this.#writers.get(index);
    if (writer === undefined) {
      writer = new StringTableWriter(this.#sections[index]?.bytes ?? new Uint8Array());
      this.#writers.set(index, writer);
    }
    return writer.add(name);
  }

  finish(replace: (index: number, change: Partial<ElfSection>) => void): void {
    for (const [index, writer] of this.#writers) replace(index, { bytes: writer.finish() });
  }
}

/** Where an entry has its symbol, with an addend or without. */
const SYMBOL_IN_RELOCATION = 12;

function symbolTableOf(elf: Elf): ElfSection {
  return sectionsOf(elf, SHT_SYMTAB)[0] ?? malformed(elf, elf.sizeBytes, 'a symbol table', 'none');
}

/** Indices, those of local symbols first; in both parts in their order. */
function localsFirst(symbols: readonly ElfSymbolEntry[]): number[] {
  const indices = [...symbols.keys()];
  const isLocal = (index: number): boolean => symbols[index]?.binding === 'local';
  return [...indices.filter(isLocal), ...indices.filter((index) => !isLocal(index))];
}

/** The section's entries with other symbols; of all else nothing is touched. */
function moveSymbols(elf: Elf, section: ElfSection, moved: (symbol: number) => number): Uint8Array {
  const size = section.type === SHT_RELA ? RELA_SIZE : REL_SIZE;
  if (section.bytes.length % size !== 0) malformed(elf, section.offset, 'relocations', `${section.bytes.length} bytes`);
  const bytes = section.bytes.slice();
  const view = new DataView(bytes.buffer);
  for (let at = SYMBOL_IN_RELOCATION; at < bytes.length; at += size) {
    view.setUint32(at, moved(view.getUint32(at, true)), true);
  }
  return bytes;
}

/** `.llvm_addrsig`: LEB128 indices of symbols whose addresses matter. */
function moveSignificant(elf: Elf, section: ElfSection, moved: (symbol: number) => number): Uint8Array {
  const reader = new Reader(section.bytes, elf.name, section.offset);
  const writer = new Writer(section.bytes.length);
  while (!reader.atEnd) writeUnsigned(writer, moved(readU32(reader, 'the index of a symbol')));
  return writer.finish();
}
