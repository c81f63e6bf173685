// Function types: bytes ↔ one canonical text, so that equal types are equal strings.
// https://webassembly.github.io/spec/core/binary/types.html

import type { Signature } from '../model.ts';
import { type Reader, Writer } from './bytes.ts';
import { readCount, readS33, writeSigned, writeUnsigned } from './leb128.ts';

/** `i32 i64 f32 f64 v128 funcref externref exnref …`, or `(ref HEAP)`, `(ref null HEAP)` with a type index or a name. */
export type ValueType = string;

/** https://webassembly.github.io/spec/core/binary/types.html#value-types */
const valueTypes: ReadonlyMap<number, ValueType> = new Map([
  [0x7f, 'i32'],
  [0x7e, 'i64'],
  [0x7d, 'f32'],
  [0x7c, 'f64'],
  [0x7b, 'v128'],
  [0x74, 'nullexnref'],
  [0x73, 'nullfuncref'],
  [0x72, 'nullexternref'],
  [0x71, 'nullref'],
  [0x70, 'funcref'],
  [0x6f, 'externref'],
  [0x6e, 'anyref'],
  [0x6d, 'eqref'],
  [0x6c, 'i31ref'],
  [0x6b, 'structref'],
  [0x6a, 'arrayref'],
  [0x69, 'exnref'],
]);
const heapTypes: ReadonlyMap<number, string> = new Map([
  [0x74, 'noexn'],
  [0x73, 'nofunc'],
  [0x72, 'noextern'],
  [0x71, 'none'],
  [0x70, 'func'],
  [0x6f, 'extern'],
  [0x6e, 'any'],
  [0x6d, 'eq'],
  [0x6c, 'i31'],
  [0x6b, 'struct'],
  [0x6a, 'array'],
  [0x69, 'exn'],
]);
const valueCodes: ReadonlyMap<ValueType, number> = new Map([...valueTypes].map(([code, type]) => [type, code]));
const heapCodes: ReadonlyMap<string, number> = new Map([...heapTypes].map(([code, type]) => [type, code]));

/** The value types of a signature's text. */
export function parseSignature(signature: Signature): { parameters: ValueType[]; results: ValueType[] } {
  const arrow = signature.indexOf(')->(');
  if (!signature.startsWith('(') || arrow < 0 || !signature.endsWith(')')) {
    throw new TypeError(`not a signature: ${signature}`);
  }
  return { parameters: listed(signature.slice(1, arrow)), results: listed(signature.slice(arrow + 4, -1)) };
}

export function formatSignature(parameters: readonly ValueType[], results: readonly ValueType[]): Signature {
  return `(${parameters.join(',')})->(${results.join(',')})`;
}

export function parameterCount(signature: Signature): number {
  return parseSignature(signature).parameters.length;
}

/** As it stands in a type section. */
export function encodeSignature(signature: Signature): Uint8Array<ArrayBuffer> {
  const writer = new Writer(16);
  writeSignature(writer, signature);
  return writer.finish();
}

export function readSignature(reader: Reader): Signature {
  const start = reader.position;
  const form = reader.u8('a function type');
  if (form !== 0x60) reader.fail('a function type (0x60)', `0x${form.toString(16)}`, start);
  const parameters = readTypes(reader, 'parameters');
  return formatSignature(parameters, readTypes(reader, 'results'));
}

export function writeSignature(writer: Writer, signature: Signature): void {
  const { parameters, results } = parseSignature(signature);
  writer.u8(0x60);
  for (const types of [parameters, results]) {
    writeUnsigned(writer, types.length);
    for (const type of types) writeValueType(writer, type);
  }
}

export function readValueType(reader: Reader): ValueType {
  const start = reader.position;
  const code = reader.u8('a value type');
  if (code === 0x63) return `(ref null ${readHeapType(reader)})`;
  if (code === 0x64) return `(ref ${readHeapType(reader)})`;
  return valueTypes.get(code) ?? reader.fail('a value type', `0x${code.toString(16)}`, start);
}

export function writeValueType(writer: Writer, type: ValueType): void {
  const code = valueCodes.get(type);
  if (code !== undefined) return writer.u8(code);
  const [, nullable, heap] = /^\(ref (null )?(\w+)\)$/.exec(type) ?? [];
  if (heap === undefined) throw new TypeError(`not a value type: ${type}`);
  writer.u8(nullable === undefined ? 0x64 : 0x63);
  const heapCode = heapCodes.get(heap);
  if (heapCode !== undefined) writer.u8(heapCode);
  else if (/^\d+$/.test(heap)) writeSigned(writer, Number(heap));
  else throw new TypeError(`not a heap type: ${heap}`);
}

function readHeapType(reader: Reader): string {
  const start = reader.position;
  const code = readS33(reader, 'a heap type');
  if (code >= 0) return `${code}`;
  return heapTypes.get(code & 0x7f) ?? reader.fail('a heap type', `${code}`, start);
}

function readTypes(reader: Reader, items: string): ValueType[] {
  const count = readCount(reader, items);
  return Array.from({ length: count }, () => readValueType(reader));
}

function listed(types: string): ValueType[] {
  return types === '' ? [] : types.split(',');
}
