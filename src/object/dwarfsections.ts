// A file's debug sections in; out come the offsets in them with relocations applied, and the names that they point to.

import { MalformedError, Reader } from './bytes.ts';
import type { Encoding } from './dwarfforms.ts';
import { readXword } from './elf.ts';
import { StringTable } from './elfstrings.ts';

/** A debug section as its container holds it. */
export interface DebugSection {
  readonly bytes: Uint8Array;
  /** Where it begins in the file. */
  readonly offset: number;
  /** Read when asked. */
  readonly relocations: () => RelocatedFields;
}

/** Fields that a linker would fill in: their offsets, ascending, and for each the offset that it means in another section. */
export interface RelocatedFields {
  readonly places: Uint32Array;
  readonly values: Float64Array;
}

/** A file with debug information, of whatever format. */
export interface DebugFile {
  readonly name: string;
  /** All sections of that name: `.debug_info`, … */
  readonly sections: (name: string) => readonly DebugSection[];
}

/** A section with offsets into others. `base` is added to offsets in it to tell places in several sections apart. */
export class UnitSection {
  readonly base: number;
  readonly reader: Reader;
  readonly #section: DebugSection;
  #relocations: RelocatedFields | undefined;
  /** Of the relocation behind the last one found: fields are mostly read in order. */
  #next = 0;

  constructor(file: DebugFile, section: DebugSection, base: number) {
    this.#section = section;
    this.base = base;
    this.reader = new Reader(section.bytes, file.name, section.bytes.length === 0 ? 0 : section.offset);
  }

  /** An offset into another section: the field at the reader's position, or what its relocation says. */
  readOffset(encoding: Encoding, expected: string): number {
    const at = this.reader.position;
    const field = encoding.offsetSize === 4 ? this.reader.u32le(expected) : readXword(this.reader, expected);
    const { places, values } = (this.#relocations ??= this.#section.relocations());
    let next = this.#next;
    if (places[next] !== at) {
      next = 0;
      for (let end = places.length; next < end;) {
        const middle = (next + end) >>> 1;
        if ((places[middle] ?? 0) < at) next = middle + 1;
        else end = middle;
      }
    }
    if (places[next] !== at) return field;
    this.#next = next + 1;
    return values[next] ?? field;
  }
}

/** The tables that names are in. */
export class Strings {
  readonly #file: DebugFile;
  readonly #tables = new Map<string, StringTable>();
  #offsets: UnitSection | undefined;

  constructor(file: DebugFile) {
    this.#file = file;
  }

  at(section: '.debug_str' | '.debug_line_str', offset: number): string {
    let table = this.#tables.get(section);
    if (table === undefined) {
      const [found] = this.#file.sections(section);
      table = new StringTable(found ?? { bytes: new Uint8Array(), offset: 0 }, this.#file.name);
      this.#tables.set(section, table);
    }
    return table.at(offset, `a name in ${section}`);
  }

  /** By its index from `base` on (section 7.26). */
  indexed(base: number, index: number, encoding: Encoding): string {
    const [found] = this.#file.sections('.debug_str_offsets');
    if (found === undefined) throw new MalformedError(this.#file.name, 0, 'a section .debug_str_offsets', 'none');
    const offsets = (this.#offsets ??= new UnitSection(this.#file, found, 0));
    const at = base + index * encoding.offsetSize;
    if (!(at >= 0 && at < found.bytes.length)) offsets.reader.fail('the offset of a name', `index ${index}`, 0);
    offsets.reader.position = at;
    return this.at('.debug_str', offsets.readOffset(encoding, 'the offset of a name'));
  }
}
