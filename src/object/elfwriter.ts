// Sections, symbols and relocations of our own → an ELF object's bytes, as linkers take them.

import type { Relocation } from '../model.ts';
import {
  type Elf,
  type ElfSection,
  ET_REL,
  layOut,
  NULL_SECTION,
  OBJECT_HEADER,
  SHF_INFO_LINK,
  SHT_NOBITS,
  SHT_PROGBITS,
  SHT_RELA,
  SHT_STRTAB,
  SHT_SYMTAB,
  SHT_SYMTAB_SHNDX,
  writeElf,
} from './elf.ts';
import { StringTableWriter } from './elfstrings.ts';
import { type ElfSymbolEntry, RELA_SIZE, SYMBOL_SIZE, writeRelocationEntries, writeSymbols } from './elfsymbols.ts';

/** A section of our own. */
export interface NewElfSection {
  readonly name: string;
  /** `SHF_*` */
  readonly flags: number;
  /** In memory, where that is known. */
  readonly address?: number;
  /** In bytes, a power of two. */
  readonly alignment: number;
  readonly bytes?: Uint8Array;
  /** Of zeros that take no room in the file. */
  readonly sizeBytes?: number;
  /** Their `symbol` is an index into the object's `symbols`. */
  readonly relocations?: readonly Relocation[];
}

export interface NewElfObject {
  /** `ET_*`; `ET_REL` when left out. */
  readonly type?: number;
  readonly sections: readonly NewElfSection[];
  /** Their `section` is an index into `sections`. */
  readonly symbols: readonly ElfSymbolEntry[];
}

/** A relocatable object, or a file that differs from one in its type. It says that it needs no executable stack. */
export function writeElfObject({ type = ET_REL, ...object }: NewElfObject): Uint8Array<ArrayBuffer> {
  const names = new StringTableWriter();
  const sections: ElfSection[] = [NULL_SECTION];
  const add = ({ name, ...section }: Partial<ElfSection> & { readonly name: string }): void => {
    const sizeBytes = section.bytes?.length ?? 0;
    sections.push({ ...NULL_SECTION, sizeBytes, ...section, name, nameOffset: names.add(name) });
  };

  const order = localsFirst(object.symbols);
  const position = new Uint32Array(order.length);
  for (const [to, from] of order.entries()) position[from] = to + 1;
  const moved = (symbol: number): number => {
    const to = position[symbol];
    if (to === undefined) throw new Error(`there is no symbol ${symbol} among ${order.length}`);
    return to;
  };
  const symbols = [NULL_SYMBOL, ...order.flatMap((from) => object.symbols[from] ?? [])].map((symbol) =>
    typeof symbol.section === 'number' ? { ...symbol, section: symbol.section + FIRST } : symbol,
  );
  const { bytes, long } = writeSymbols(symbols, ({ name }) => names.add(name));
  const entrySize = SYMBOL_SIZE;
  add({ name: '.symtab', type: SHT_SYMTAB, link: NAMES, info: countLocals(symbols), alignment: 8, entrySize, bytes });
  add({ name: '.strtab', type: SHT_STRTAB, alignment: 1 });
  const own: readonly NewElfSection[] = [...object.sections, NO_EXECUTABLE_STACK];
  for (const { name, flags, address = 0, alignment, bytes: content, sizeBytes = 0 } of own) {
    const filled = content ? { type: SHT_PROGBITS, bytes: content } : { type: SHT_NOBITS, sizeBytes };
    add({ name, flags, address, alignment, ...filled });
  }

  for (const [index, { name, relocations }] of object.sections.entries()) {
    if (relocations === undefined) continue;
    add({
      name: `.rela${name}`,
      type: SHT_RELA,
      flags: SHF_INFO_LINK,
      link: TABLE,
      info: index + FIRST,
      alignment: 8,
      entrySize: RELA_SIZE,
      bytes: writeRelocationEntries(relocations, moved),
    });
  }
  if (long !== undefined) add({ ...LONG_INDICES, link: TABLE, bytes: long });
  const strings = names.finish();
  sections[NAMES] = { ...NULL_SECTION, ...sections[NAMES], bytes: strings, sizeBytes: strings.length };
  const header = { ...OBJECT_HEADER, type, nameSection: NAMES };
  const elf: Elf = { name: 'object', header, segments: [], sections, gaps: [], sizeBytes: 0 };
  return writeElf(layOut(elf));
}

// Sections of our objects, by index.
const TABLE = 1;
const NAMES = 2;
const FIRST = 3;

const LONG_INDICES = { name: '.symtab_shndx', type: SHT_SYMTAB_SHNDX, alignment: 4, entrySize: 4 };
const NO_EXECUTABLE_STACK = { name: '.note.GNU-stack', flags: 0, alignment: 1, bytes: new Uint8Array() };
const NULL_SYMBOL: ElfSymbolEntry = {
  name: '',
  binding: 'local',
  type: 'none',
  visibility: 'default',
  section: 'undefined',
  value: 0,
  sizeBytes: 0,
};

/** Indices, those of local symbols first; in both parts in their order. */
function localsFirst(symbols: readonly ElfSymbolEntry[]): number[] {
  const indices = [...symbols.keys()];
  const isLocal = (index: number): boolean => symbols[index]?.binding === 'local';
  return [...indices.filter(isLocal), ...indices.filter((index) => !isLocal(index))];
}

function countLocals(symbols: readonly ElfSymbolEntry[]): number {
  const first = symbols.findIndex(({ binding }) => binding !== 'local');
  return first < 0 ? symbols.length : first;
}
