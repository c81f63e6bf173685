// A string table's bytes → names by offset; names to add → the table with them at its end.
// https://gabi.xinuos.com/elf/04-strtab.html

import { Reader, Writer } from './bytes.ts';

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Names are slices of one string: tables of megabytes, and symbols by the ten thousand, are decoded in one call. That
 * needs a byte to be a character, which mangled names are; a table with other text is read name by name.
 */
export class StringTable {
  readonly #reader: Reader;
  readonly #text: string | undefined;

  /** `table.offset` is where it begins in the file. */
  constructor(table: { readonly bytes: Uint8Array; readonly offset: number }, file: string) {
    const { bytes, offset } = table;
    this.#reader = new Reader(bytes, file, bytes.length === 0 ? 0 : offset);
    this.#text = decodeAscii(bytes);
  }

  /** The name that begins at `offset`; `expected` says what it is the name of. */
  at(offset: number, expected: string): string {
    if (offset === 0 && this.#reader.source.length === 0) return '';
    const isInside = offset >= 0 && offset < this.#reader.source.length;
    if (!isInside) this.#reader.fail(`${expected} inside its table`, `offset ${offset}`, 0);
    const end = this.#text?.indexOf('\0', offset) ?? this.#reader.source.indexOf(0, offset);
    this.#reader.position = offset;
    if (end < 0) this.#reader.fail(`${expected}, closed by a NUL`);
    return this.#text?.slice(offset, end) ?? this.#reader.utf8(end - offset, expected);
  }
}

/** Adds names behind those of a table, which keep their offsets. */
export class StringTableWriter {
  readonly #writer: Writer;
  readonly #added = new Map<string, number>([['', 0]]);

  constructor(bytes: Uint8Array) {
    this.#writer = new Writer(bytes.length + 256);
    this.#writer.bytes(bytes);
    if (bytes.length === 0) this.#writer.u8(0);
  }

  /** Its offset. */
  add(name: string): number {
    const known = this.#added.get(name);
    if (known !== undefined) return known;
    const offset = this.#writer.length;
    this.#writer.utf8(name);
    this.#writer.u8(0);
    this.#added.set(name, offset);
    return offset;
  }

  finish(): Uint8Array {
    return this.#writer.finish();
  }
}

function decodeAscii(bytes: Uint8Array): string | undefined {
  try {
    const text = decoder.decode(bytes);
    return text.length === bytes.length ? text : undefined;
  } catch {
    return undefined;
  }
}
