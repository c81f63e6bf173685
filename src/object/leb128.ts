// LEB128 bytes ↔ numbers, and what counts in them: vectors and names. A `number` wherever the value is below 2^53, a
// `bigint` only for a true i64.
// https://webassembly.github.io/spec/core/binary/values.html#integers

import { encodeUtf8, type Reader, Writer } from './bytes.ts';

/** u32: at most 5 bytes, padded forms included. */
export function readU32(reader: Reader, expected = 'an unsigned 32-bit LEB128 number'): number {
  let byte = reader.u8(expected);
  if (byte < 0x80) return byte;
  let value = byte & 0x7f;
  for (let shift = 7; shift < 28; shift += 7) {
    byte = reader.u8(expected);
    value |= (byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  byte = reader.u8(expected);
  if (byte > 0x0f) reader.fail(expected, 'a number beyond 32 bits', reader.position - 1);
  return value + byte * 2 ** 28;
}

/** u64 as far as a `number` is exact: a value from 2^53 on is malformed. */
export function readU64(reader: Reader, expected = 'an unsigned 64-bit LEB128 number'): number {
  const start = reader.position;
  let value = 0;
  let scale = 1;
  for (let count = 0; count < 10; count++) {
    const byte = reader.u8(expected);
    value += (byte & 0x7f) * scale;
    scale *= 128;
    if (byte < 0x80) {
      if (value > Number.MAX_SAFE_INTEGER) reader.fail(`${expected} below 2^53`, 'a larger one', start);
      return value;
    }
  }
  return reader.fail(expected, 'more than 10 bytes', start);
}

export function readS32(reader: Reader, expected = 'a signed 32-bit LEB128 number'): number {
  return readSigned(reader, 32, expected);
}

/** Block types and heap types: a type index, or a negative code. */
export function readS33(reader: Reader, expected = 'a signed 33-bit LEB128 number'): number {
  return readSigned(reader, 33, expected);
}

export function readS64(reader: Reader, expected = 'a signed 64-bit LEB128 number'): bigint {
  const start = reader.position;
  let value = 0n;
  for (let shift = 0n; shift < 70n; shift += 7n) {
    const byte = reader.u8(expected);
    value |= BigInt(byte & 0x7f) << shift;
    if (byte < 0x80) {
      if (shift === 63n && byte !== 0 && byte !== 0x7f) reader.fail(expected, 'a number beyond 64 bits', start);
      return shift === 63n ? BigInt.asIntN(64, value) : BigInt.asIntN(Number(shift) + 7, value);
    }
  }
  return reader.fail(expected, 'more than 10 bytes', start);
}

/** The number of items that follow. Every item takes at least a byte, so no count can make a reader allocate more. */
export function readCount(reader: Reader, items: string): number {
  const start = reader.position;
  const count = readU32(reader, `the number of ${items}`);
  if (count > reader.remaining) reader.fail(`${count} ${items}`, `${reader.remaining} bytes`, start);
  return count;
}

/** A count and that many items. */
export function readVector<T>(reader: Reader, items: string, read: (reader: Reader) => T): T[] {
  const vector: T[] = [];
  for (let count = readCount(reader, items); count > 0; count--) vector.push(read(reader));
  return vector;
}

/** A length in bytes and that many bytes of UTF-8. */
export function readName(reader: Reader, expected: string): string {
  return reader.utf8(readU32(reader, expected), expected);
}

/** Passes over a number of any signedness that takes at most `limit` bytes. */
export function skipLeb(reader: Reader, limit: number, expected: string): void {
  for (let count = 0; count < limit; count++) if (reader.u8(expected) < 0x80) return;
  reader.fail(expected, `more than ${limit} bytes`, reader.position - limit);
}

/** `width` pads to that many bytes; without it the form is minimal. */
export function writeUnsigned(writer: Writer, value: number | bigint, width = 1): void {
  if (value < 0) throw new RangeError(`${value} is negative`);
  let rest = value;
  let count = 0;
  if (typeof rest === 'bigint') {
    for (; rest >= 0x80n; rest >>= 7n, count++) writer.u8(Number(rest & 0x7fn) | 0x80);
  } else {
    for (; rest >= 0x80; rest = Math.floor(rest / 0x80), count++) writer.u8((rest % 0x80) | 0x80);
  }
  pad(writer, Number(rest), 0, count, width);
}

/** `width` pads to that many bytes; without it the form is minimal. */
export function writeSigned(writer: Writer, value: number | bigint, width = 1): void {
  let rest = value;
  let count = 0;
  if (typeof rest === 'bigint') {
    for (; rest >= 0x40n || rest < -0x40n; rest >>= 7n, count++) writer.u8(Number(rest & 0x7fn) | 0x80);
  } else {
    for (; rest >= 0x40 || rest < -0x40; rest = Math.floor(rest / 0x80), count++) {
      writer.u8((((rest % 0x80) + 0x80) % 0x80) | 0x80);
    }
  }
  pad(writer, Number(rest) & 0x7f, rest < 0 ? 0x7f : 0, count, width);
}

export function writeVector<T>(writer: Writer, items: readonly T[], write: (writer: Writer, item: T) => void): void {
  writeUnsigned(writer, items.length);
  for (const item of items) write(writer, item);
}

export function writeName(writer: Writer, name: string): void {
  const text = encodeUtf8(name);
  writeUnsigned(writer, text.length);
  writer.bytes(text);
}

export function encodeUnsigned(value: number | bigint, width?: number): Uint8Array<ArrayBuffer> {
  const writer = new Writer(10);
  writeUnsigned(writer, value, width);
  return writer.finish();
}

export function encodeSigned(value: number | bigint, width?: number): Uint8Array<ArrayBuffer> {
  const writer = new Writer(10);
  writeSigned(writer, value, width);
  return writer.finish();
}

/** Bytes that the minimal unsigned form of `value` takes. */
export function sizeOfUnsigned(value: number | bigint): number {
  let size = 1;
  if (typeof value === 'bigint') for (let rest = value >> 7n; rest > 0n; rest >>= 7n) size++;
  else for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) size++;
  return size;
}

/** Bytes that the minimal signed form of `value` takes. */
export function sizeOfSigned(value: number | bigint): number {
  return encodeSigned(value).length;
}

/** Sign bits of the last byte must agree: a value is written in one way per width. */
function readSigned(reader: Reader, bits: 32 | 33, expected: string): number {
  let value = 0;
  for (let shift = 0; shift < 28; shift += 7) {
    const byte = reader.u8(expected);
    value |= (byte & 0x7f) << shift;
    if (byte < 0x80) return (value << (25 - shift)) >> (25 - shift);
  }
  const byte = reader.u8(expected);
  const high = (byte << 25) >> 25;
  const limit = 2 ** (bits - 29);
  if (byte >= 0x80 || high >= limit || high < -limit) {
    reader.fail(expected, `a number beyond ${bits} bits`, reader.position - 1);
  }
  return value + high * 2 ** 28;
}

function pad(writer: Writer, last: number, fill: number, count: number, width: number): void {
  if (count >= width && width > 1) throw new RangeError(`a number of ${count + 1} bytes does not fit ${width}`);
  if (count + 1 >= width) {
    writer.u8(last);
    return;
  }
  writer.u8(last | 0x80);
  for (let written = count + 1; written < width - 1; written++) writer.u8(fill | 0x80);
  writer.u8(fill);
}
