// Bytes in, numbers, views and names out (Reader), and the way back (Writer). The only place that indexes raw bytes, so
// the only place where a bound has to be right.

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

/** Input that is not what its format says. `offset` counts from the first byte of `file`. */
export class MalformedError extends Error {
  readonly file: string;
  readonly offset: number;
  readonly expected: string;

  constructor(file: string, offset: number, expected: string, found: string) {
    super(`${file}: expected ${expected}, found ${found} (at offset 0x${offset.toString(16)})`);
    this.name = 'MalformedError';
    this.file = file;
    this.offset = offset;
    this.expected = expected;
  }
}

/** Reads forwards over untrusted bytes. Everything out of bounds is a MalformedError that names what was expected. */
export class Reader {
  readonly source: Uint8Array;
  /** For messages. */
  readonly file: string;
  /** Where `source` begins in the file. */
  readonly origin: number;
  /** Of the next byte, in `source`. */
  position: number;
  readonly #view: DataView;

  constructor(source: Uint8Array, file: string, origin = 0) {
    this.source = source;
    this.file = file;
    this.origin = origin;
    this.position = 0;
    this.#view = new DataView(source.buffer, source.byteOffset, source.byteLength);
  }

  /** Bytes left. */
  get remaining(): number {
    return this.source.length - this.position;
  }

  get atEnd(): boolean {
    return this.position >= this.source.length;
  }

  /** Offset in the file of the next byte. */
  get offset(): number {
    return this.origin + this.position;
  }

  fail(expected: string, found?: string, position: number = this.position): never {
    const end = this.origin === 0 ? 'end of file' : 'the end';
    throw new MalformedError(this.file, this.origin + position, expected, found ?? end);
  }

  u8(expected = 'a byte'): number {
    const byte = this.source[this.position];
    if (byte === undefined) this.fail(expected);
    this.position++;
    return byte;
  }

  /** The next byte, not consumed. */
  peek(expected = 'a byte'): number {
    return this.source[this.position] ?? this.fail(expected);
  }

  u32le(expected = 'a 32-bit number'): number {
    return this.#view.getUint32(this.#advance(4, expected), true);
  }

  u32be(expected = 'a 32-bit number'): number {
    return this.#view.getUint32(this.#advance(4, expected), false);
  }

  u64le(expected = 'a 64-bit number'): bigint {
    return this.#view.getBigUint64(this.#advance(8, expected), true);
  }

  u64be(expected = 'a 64-bit number'): bigint {
    return this.#view.getBigUint64(this.#advance(8, expected), false);
  }

  f32(expected = 'a 32-bit float'): number {
    return this.#view.getFloat32(this.#advance(4, expected), true);
  }

  f64(expected = 'a 64-bit float'): number {
    return this.#view.getFloat64(this.#advance(8, expected), true);
  }

  /** At `position`, which stays inside: of an entry of a table whose end was checked, as there are too many to move over. */
  u32At(position: number): number {
    return this.#view.getUint32(position, true);
  }

  /** A view, not a copy. */
  bytes(length: number, expected = 'bytes'): Uint8Array {
    const start = this.#advance(length, expected);
    return new Uint8Array(this.source.buffer, this.source.byteOffset + start, length);
  }

  skip(length: number, expected = 'bytes'): void {
    this.#advance(length, expected);
  }

  /** A reader of the next `length` bytes, whose messages count from the same file's start. */
  within(length: number, expected: string): Reader {
    const origin = this.offset;
    return new Reader(this.bytes(length, expected), this.file, origin);
  }

  utf8(length: number, expected = 'a name'): string {
    const position = this.position;
    const bytes = this.bytes(length, expected);
    try {
      return decoder.decode(bytes);
    } catch {
      return this.fail(`${expected} in UTF-8`, 'other bytes', position);
    }
  }

  /** Fails unless everything was read. */
  end(what: string): void {
    if (!this.atEnd) this.fail(`the end of ${what}`, `${this.remaining} bytes more`);
  }

  #advance(length: number, expected: string): number {
    const start = this.position;
    if (length > this.source.length - start) {
      this.fail(expected, this.atEnd ? undefined : `${this.remaining} of ${length} bytes`);
    }
    this.position = start + length;
    return start;
  }
}

/** Grows as needed; `finish` gives what was written. */
export class Writer {
  #bytes: Uint8Array<ArrayBuffer>;
  /** Of `#bytes`, once there was need of it: many a writer takes a few bytes only. */
  #view: DataView | undefined;
  #length = 0;

  constructor(capacity = 256) {
    this.#bytes = new Uint8Array(capacity);
  }

  get length(): number {
    return this.#length;
  }

  u8(value: number): void {
    const start = this.#reserve(1);
    this.#bytes[start] = value;
  }

  u32le(value: number): void {
    const start = this.#reserve(4);
    this.#viewed().setUint32(start, value, true);
  }

  u32be(value: number): void {
    const start = this.#reserve(4);
    this.#viewed().setUint32(start, value, false);
  }

  u64le(value: bigint): void {
    const start = this.#reserve(8);
    this.#viewed().setBigUint64(start, value, true);
  }

  u64be(value: bigint): void {
    const start = this.#reserve(8);
    this.#viewed().setBigUint64(start, value, false);
  }

  f32(value: number): void {
    const start = this.#reserve(4);
    this.#viewed().setFloat32(start, value, true);
  }

  f64(value: number): void {
    const start = this.#reserve(8);
    this.#viewed().setFloat64(start, value, true);
  }

  bytes(bytes: ArrayLike<number>): void {
    const start = this.#reserve(bytes.length);
    this.#bytes.set(bytes, start);
  }

  /** `source` from `start` up to `end`. */
  copy(source: Uint8Array, start: number, end: number): void {
    const target = this.#reserve(end - start);
    this.#bytes.set(source.subarray(start, end), target);
  }

  zeros(count: number): void {
    this.#reserve(count);
  }

  utf8(text: string): void {
    this.bytes(encoder.encode(text));
  }

  /** The bytes written so far, as a view; writing on may or may not show in it. */
  finish(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.#length);
  }

  #viewed(): DataView {
    return (this.#view ??= new DataView(this.#bytes.buffer));
  }

  #reserve(count: number): number {
    const start = this.#length;
    const length = start + count;
    if (length > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(length, this.#bytes.length * 2));
      grown.set(this.#bytes.subarray(0, start));
      this.#bytes = grown;
      this.#view = undefined;
    }
    this.#length = length;
    return start;
  }
}

/** A name's bytes in UTF-8. */
export function encodeUtf8(text: string): Uint8Array {
  return encoder.encode(text);
}

/** True when no byte is other than zero. */
export function isZero(bytes: Uint8Array): boolean {
  for (const byte of bytes) if (byte !== 0) return false;
  return true;
}

/** From one offset up to another, in both. */
export function equalBytes(a: Uint8Array, b: Uint8Array, from = 0, to: number = a.length): boolean {
  for (let index = from; index < to; index++) if (a[index] !== b[index]) return false;
  return true;
}
