// A string table's bytes → names by offset; names to add → the table with them at its end.
// https://gabi.xinuos.com/elf/04-strtab.html

import { encodeUtf8, Reader } from './bytes.ts';

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
  readonly #before: Uint8Array;
  /** Encoded all at once: a call for each takes longer than all else that is done with it. */
  readonly #added: string[] = [];
  #length: number;

  constructor(bytes: Uint8Array = new Uint8Array()) {
    this.#before = bytes.length === 0 ? new Uint8Array(1) : bytes;
    this.#length = this.#before.length;
  }

  /** Its offset. */
  add(name: string): number {
    if (name === '') return 0;
    const offset = this.#length;
    this.#added.push(name, '\0');
    this.#length += 1 + (ASCII.test(name) ? name.length : encodeUtf8(name).length);
    return offset;
  }

  finish(): Uint8Array {
    const bytes = new Uint8Array(this.#length);
    bytes.set(this.#before);
    bytes.set(encodeUtf8(this.#added.join('')), this.#before.length);
    return bytes;
  }
}

/** The printable part. */
const ASCII = /^[ -~]*$/;

function decodeAscii(bytes: Uint8Array): string | undefined {
  try {
    const text = decoder.decode(bytes);
    return text.length === bytes.length ? text : undefined;
  } catch {
    return undefined;
  }
}
