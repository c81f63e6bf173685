// A relocatable ELF object's bytes in; out, the same with other symbols, and relocations that name others.
//
// Symbols keep their indices and sections their places in the file, so nothing else has to be written anew, or even read,
// debug information above all: hundreds of objects are edited while someone waits for a program to start. The tables that
// grow go behind all others, with the headers.

import type { Relocation } from '../model.ts';
import { Reader } from './bytes.ts';
import {
  alignUp,
  type ElfHeader,
  type ElfSection,
  HEADER_SIZE,
  readLayout,
  readSection,
  SECTION_SIZE,
  setXword,
  SHT_NOBITS,
  SHT_NULL,
  SHT_RELA,
  SHT_STRTAB,
  SHT_SYMTAB,
  SHT_SYMTAB_SHNDX,
  xwordAt,
} from './elf.ts';
import { StringTable, StringTableWriter } from './elfstrings.ts';
import {
  type ElfSymbolEntry,
  readSymbolTable,
  RELA_SIZE,
  relocationAt,
  SYMBOL_IN_RELOCATION,
  SYMBOL_SIZE,
  writeSymbols,
} from './elfsymbols.ts';

// Fields of a section's header, and of the file's (https://gabi.xinuos.com/elf/03-sheader.html, 02-eheader.html).
const NAME = 0;
const TYPE = 4;
const FLAGS = 8;
const OFFSET = 24;
const SIZE = 32;
const LINK = 40;
const INFO = 44;
const ALIGNMENT = 48;
const ENTRY_SIZE = 56;
const SECTION_HEADERS = 40;

export class ElfEditor {
  readonly name: string;
  readonly sectionCount: number;
  /** As they were read, by index; empty when there is no table of them. */
  readonly symbols: readonly ElfSymbolEntry[];
  readonly #reader: Reader;
  readonly #header: ElfHeader;
  readonly #sectionNames: StringTable;
  /** The symbol table, and that of section indices beside it: 0 for none. */
  readonly #table: number;
  readonly #long: number;
  readonly #after: ElfSymbolEntry[];
  /** By their names, which another symbol may get: indices of those that were replaced. */
  readonly #replaced = new Map<string, number>();
  /** By the place of a field in the file: the symbol that a relocation shall name. */
  readonly #redirected = new Map<number, number>();

  /** Throws MalformedError. Of sections only those are looked into that someone asks for. */
  constructor(bytes: Uint8Array, name: string) {
    const reader = new Reader(bytes, name);
    const { header, sectionCount } = readLayout(reader);
    this.name = name;
    this.sectionCount = sectionCount;
    this.#reader = reader;
    this.#header = header;
    this.#table = this.#find((section) => this.type(section) === SHT_SYMTAB);
    const table = this.#section(this.#table);
    this.#long = this.#find(
      (section) => this.type(section) === SHT_SYMTAB_SHNDX && this.#field(section, LINK) === this.#table,
    );
    if (this.#table !== 0 && this.#section(table.link).type !== SHT_STRTAB)
      reader.fail('a table of names', `section ${table.link}`, this.#at(this.#table) + LINK);
    // As a rule one table has the names of both.
    this.#sectionNames = new StringTable(this.#section(header.nameSection), name);
    const names =
      table.link === header.nameSection ? this.#sectionNames : new StringTable(this.#section(table.link), name);
    const file = { name, sizeBytes: bytes.length };
    const long = this.#long === 0 ? undefined : this.#section(this.#long);
    this.symbols = this.#table === 0 ? [] : readSymbolTable(file, table, names, sectionCount, long);
    this.#after = [...this.symbols];
  }

  /** `SHT_*` */
  type(section: number): number {
    return this.#field(section, TYPE);
  }

  /** `SHF_*`; none has a bit above the 32nd. */
  flags(section: number): number {
    return this.#field(section, FLAGS);
  }

  sizeBytes(section: number): number {
    return xwordAt(this.#reader, this.#at(section) + SIZE, 'the size of a section');
  }

  sectionName(section: number): string {
    return this.#sectionNames.at(this.nameOffset(section), 'the name of a section');
  }

  /** Where the name is in the table of them. */
  nameOffset(section: number): number {
    return this.#field(section, NAME);
  }

  /** The section that a table of relocations is for; undefined of all other sections. */
  relocated(section: number): number | undefined {
    const target = this.#field(section, INFO);
    return this.type(section) === SHT_RELA && target < this.sectionCount ? target : undefined;
  }

  /** A local symbol stays local and another does not become it: local ones come first in a table. */
  replace(index: number, symbol: ElfSymbolEntry): void {
    const before = this.symbols[index];
    if (before === undefined) throw new Error(`${this.name} has no symbol ${index}`);
    this.#after[index] = symbol;
    this.#replaced.set(before.name, index);
  }

  /** Its index. It must not be local. */
  add(symbol: ElfSymbolEntry): number {
    return this.#after.push(symbol) - 1;
  }

  /** In that table of relocations, lets those name `others[symbol]` that `applies` holds for; 0 is for what stays. */
  redirect(table: number, others: Uint32Array, applies: (relocation: Relocation) => boolean): void {
    const { offset, sizeBytes } = this.#section(table);
    if (sizeBytes % RELA_SIZE !== 0) this.#reader.fail('relocations', `${sizeBytes} bytes`, offset);
    if (sizeBytes > 0 && offset < HEADER_SIZE) this.#reader.fail('relocations behind the header', 'others', offset);
    for (let at = offset; at < offset + sizeBytes; at += RELA_SIZE) {
      const other = others[this.#reader.u32At(at + SYMBOL_IN_RELOCATION)] ?? 0;
      if (other !== 0 && applies(relocationAt(this.#reader, at)))
        this.#redirected.set(at + SYMBOL_IN_RELOCATION, other);
    }
  }

  /** The object with all that was asked for, in pieces: most of it is what was read, and not copied. */
  finish(): Uint8Array[] {
    const firstGlobal = this.#countLocals();
    const table = this.#section(this.#table);
    const names = new StringTableWriter(this.#section(table.link).bytes);
    const { bytes, long } = writeSymbols(this.#after, (symbol, index) => {
      const named = symbol === this.symbols[index] ? index : this.#replaced.get(symbol.name);
      return named === undefined ? names.add(symbol.name) : this.#reader.u32At(table.offset + SYMBOL_SIZE * named);
    });
    const contents = new Map([[this.#table, bytes]]);
    if (this.#long !== 0) contents.set(this.#long, long ?? new Uint8Array(4 * this.#after.length));
    else if (long !== undefined) contents.set(this.sectionCount, long);
    contents.set(table.link, names.finish());

    const { source } = this.#reader;
    const kept = this.#endOfOthers(contents);
    let end = kept;
    const moved = Array.from(contents, ([section, content]) => {
      const offset = alignUp(end, 8);
      end = offset + content.length;
      return { section, content, offset };
    });
    const headers = alignUp(end, 8);
    const count = contents.has(this.sectionCount) ? this.sectionCount + 1 : this.sectionCount;
    const tail = new Uint8Array(headers - kept + SECTION_SIZE * count);
    tail.set(source.subarray(this.#at(0), this.#at(this.sectionCount)), headers - kept);
    const view = new DataView(tail.buffer, headers - kept);
    for (const { section, content, offset } of moved) {
      tail.set(content, offset - kept);
      setXword(view, SECTION_SIZE * section + OFFSET, offset);
      setXword(view, SECTION_SIZE * section + SIZE, content.length);
    }
    view.setUint32(SECTION_SIZE * this.#table + INFO, firstGlobal, true);
    if (count > this.sectionCount) {
      // Without a name. So many sections are counted in the null section's header.
      const added = SECTION_SIZE * this.sectionCount;
      view.setUint32(added + TYPE, SHT_SYMTAB_SHNDX, true);
      view.setUint32(added + LINK, this.#table, true);
      setXword(view, added + ALIGNMENT, 4);
      setXword(view, added + ENTRY_SIZE, 4);
      setXword(view, SIZE, count);
    }
    const header = new Uint8Array(source.subarray(0, HEADER_SIZE));
    setXword(new DataView(header.buffer), SECTION_HEADERS, headers);
    return [header, ...this.#relocated(kept), tail];
  }

  /** What is behind the header up to there. */
  #relocated(end: number): Uint8Array[] {
    const { source } = this.#reader;
    let from = end;
    let to = HEADER_SIZE;
    for (const field of this.#redirected.keys()) {
      from = Math.min(from, field);
      to = Math.max(to, field + 4);
    }
    if (this.#redirected.size === 0) return [source.subarray(HEADER_SIZE, end)];
    const changed = new Uint8Array(source.subarray(from, to));
    const view = new DataView(changed.buffer);
    for (const [field, symbol] of this.#redirected) view.setUint32(field - from, symbol, true);
    return [source.subarray(HEADER_SIZE, from), changed, source.subarray(to, end)];
  }

  #at(section: number): number {
    return this.#header.sectionOffset + SECTION_SIZE * section;
  }

  #field(section: number, field: number): number {
    return this.#reader.u32At(this.#at(section) + field);
  }

  #section(section: number): ElfSection {
    if (section >= this.sectionCount) this.#reader.fail('a section', `section ${section}`, this.#at(0));
    return readSection(this.#reader, this.#at(section));
  }

  #find(matches: (section: number) => boolean): number {
    for (let section = 1; section < this.sectionCount; section++) if (matches(section)) return section;
    return 0;
  }

  #countLocals(): number {
    const firstGlobal = this.#after.findIndex(({ binding }) => binding !== 'local');
    const count = firstGlobal < 0 ? this.#after.length : firstGlobal;
    if (this.#table === 0) this.#reader.fail('a symbol table', 'none');
    if (this.#after.some(({ binding }, index) => binding === 'local' && index > count))
      this.#reader.fail('local symbols in front of all others', 'one behind', this.#section(this.#table).offset);
    return count;
  }

  /** Behind there, nothing stays: the tables that grow are the last ones as a rule. */
  #endOfOthers(moved: ReadonlyMap<number, Uint8Array>): number {
    const { source } = this.#reader;
    if (this.#header.segmentOffset !== 0) return source.length;
    let end = 0;
    for (let section = 1; section < this.sectionCount; section++) {
      const type = this.type(section);
      if (moved.has(section) || type === SHT_NOBITS || type === SHT_NULL) continue;
      const offset = xwordAt(this.#reader, this.#at(section) + OFFSET, 'the offset of a section');
      end = Math.max(end, offset + this.sizeBytes(section));
    }
    return Math.max(HEADER_SIZE, Math.min(end, source.length));
  }
}
