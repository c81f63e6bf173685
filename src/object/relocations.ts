// The relocation kinds of wasm objects, as data: what each one names and the field that it fills. And a `reloc.*` section:
// bytes ↔ relocations.
// https://github.com/WebAssembly/tool-conventions/blob/main/Linking.md#relocation-sections

import type { Relocation } from '../model.ts';
import { Reader, Writer } from './bytes.ts';
import { readS32, readS64, readU32, readVector, writeSigned, writeUnsigned, writeVector } from './leb128.ts';

export interface RelocationKind {
  /** As in the specification, verbatim. */
  readonly name: string;
  /** What `symbol` must be. `any`: whatever has an address; it is reached through a global. */
  readonly target: 'function' | 'data' | 'type' | 'global' | 'table' | 'tag' | 'section' | 'any';
  /** How the value stands in the bytes: padded LEB128, unsigned or signed, or little-endian. */
  readonly encoding: 'leb' | 'sleb' | 'le';
  /** Of the field, in bytes. */
  readonly width: 4 | 5 | 8 | 10;
  readonly hasAddend: boolean;
}

/** Relocations of one section; offsets count from the start of its content. */
export interface RelocationSection {
  /** Index into `Module.sections`. */
  readonly section: number;
  readonly relocations: readonly Relocation[];
}

export const R_WASM_FUNCTION_INDEX_LEB = 0;
export const R_WASM_TABLE_INDEX_SLEB = 1;
export const R_WASM_TABLE_INDEX_I32 = 2;
export const R_WASM_MEMORY_ADDR_LEB = 3;
export const R_WASM_MEMORY_ADDR_SLEB = 4;
export const R_WASM_MEMORY_ADDR_I32 = 5;
export const R_WASM_TYPE_INDEX_LEB = 6;
export const R_WASM_GLOBAL_INDEX_LEB = 7;
export const R_WASM_FUNCTION_OFFSET_I32 = 8;
export const R_WASM_SECTION_OFFSET_I32 = 9;
export const R_WASM_TAG_INDEX_LEB = 10;
export const R_WASM_MEMORY_ADDR_REL_SLEB = 11;
export const R_WASM_TABLE_INDEX_REL_SLEB = 12;
export const R_WASM_GLOBAL_INDEX_I32 = 13;
export const R_WASM_MEMORY_ADDR_LEB64 = 14;
export const R_WASM_MEMORY_ADDR_SLEB64 = 15;
export const R_WASM_MEMORY_ADDR_I64 = 16;
export const R_WASM_MEMORY_ADDR_REL_SLEB64 = 17;
export const R_WASM_TABLE_INDEX_SLEB64 = 18;
export const R_WASM_TABLE_INDEX_I64 = 19;
export const R_WASM_TABLE_NUMBER_LEB = 20;
export const R_WASM_MEMORY_ADDR_TLS_SLEB = 21;
export const R_WASM_FUNCTION_OFFSET_I64 = 22;
export const R_WASM_MEMORY_ADDR_LOCREL_I32 = 23;
export const R_WASM_TABLE_INDEX_REL_SLEB64 = 24;
export const R_WASM_MEMORY_ADDR_TLS_SLEB64 = 25;
export const R_WASM_FUNCTION_INDEX_I32 = 26;

/** By number. */
export const relocationKinds: readonly RelocationKind[] = [
  { name: 'R_WASM_FUNCTION_INDEX_LEB', target: 'function', encoding: 'leb', width: 5, hasAddend: false },
  { name: 'R_WASM_TABLE_INDEX_SLEB', target: 'function', encoding: 'sleb', width: 5, hasAddend: false },
  { name: 'R_WASM_TABLE_INDEX_I32', target: 'function', encoding: 'le', width: 4, hasAddend: false },
  { name: 'R_WASM_MEMORY_ADDR_LEB', target: 'data', encoding: 'leb', width: 5, hasAddend: true },
  { name: 'R_WASM_MEMORY_ADDR_SLEB', target: 'data', encoding: 'sleb', width: 5, hasAddend: true },
  { name: 'R_WASM_MEMORY_ADDR_I32', target: 'data', encoding: 'le', width: 4, hasAddend: true },
  { name: 'R_WASM_TYPE_INDEX_LEB', target: 'type', encoding: 'leb', width: 5, hasAddend: false },
  { name: 'R_WASM_GLOBAL_INDEX_LEB', target: 'any', encoding: 'leb', width: 5, hasAddend: false },
  { name: 'R_WASM_FUNCTION_OFFSET_I32', target: 'function', encoding: 'le', width: 4, hasAddend: true },
  { name: 'R_WASM_SECTION_OFFSET_I32', target: 'section', encoding: 'le', width: 4, hasAddend: true },
  { name: 'R_WASM_TAG_INDEX_LEB', target: 'tag', encoding: 'leb', width: 5, hasAddend: false },
  { name: 'R_WASM_MEMORY_ADDR_REL_SLEB', target: 'data', encoding: 'sleb', width: 5, hasAddend: true },
  { name: 'R_WASM_TABLE_INDEX_REL_SLEB', target: 'function', encoding: 'sleb', width: 5, hasAddend: false },
  { name: 'R_WASM_GLOBAL_INDEX_I32', target: 'any', encoding: 'le', width: 4, hasAddend: false },
  { name: 'R_WASM_MEMORY_ADDR_LEB64', target: 'data', encoding: 'leb', width: 10, hasAddend: true },
  { name: 'R_WASM_MEMORY_ADDR_SLEB64', target: 'data', encoding: 'sleb', width: 10, hasAddend: true },
  { name: 'R_WASM_MEMORY_ADDR_I64', target: 'data', encoding: 'le', width: 8, hasAddend: true },
  { name: 'R_WASM_MEMORY_ADDR_REL_SLEB64', target: 'data', encoding: 'sleb', width: 10, hasAddend: true },
  { name: 'R_WASM_TABLE_INDEX_SLEB64', target: 'function', encoding: 'sleb', width: 10, hasAddend: false },
  { name: 'R_WASM_TABLE_INDEX_I64', target: 'function', encoding: 'le', width: 8, hasAddend: false },
  { name: 'R_WASM_TABLE_NUMBER_LEB', target: 'table', encoding: 'leb', width: 5, hasAddend: false },
  { name: 'R_WASM_MEMORY_ADDR_TLS_SLEB', target: 'data', encoding: 'sleb', width: 5, hasAddend: true },
  { name: 'R_WASM_FUNCTION_OFFSET_I64', target: 'function', encoding: 'le', width: 8, hasAddend: true },
  { name: 'R_WASM_MEMORY_ADDR_LOCREL_I32', target: 'data', encoding: 'le', width: 4, hasAddend: true },
  { name: 'R_WASM_TABLE_INDEX_REL_SLEB64', target: 'function', encoding: 'sleb', width: 10, hasAddend: false },
  { name: 'R_WASM_MEMORY_ADDR_TLS_SLEB64', target: 'data', encoding: 'sleb', width: 10, hasAddend: true },
  { name: 'R_WASM_FUNCTION_INDEX_I32', target: 'function', encoding: 'le', width: 4, hasAddend: false },
];

/** The content of a `reloc.*` section. Symbols are indices as they stand; nobody has checked them. */
export function readRelocations(bytes: Uint8Array, file: string, origin = 0): RelocationSection {
  const reader = new Reader(bytes, file, origin);
  const index = readU32(reader, 'the index of a section');
  let previous = 0;
  const relocations = readVector(reader, 'relocations', (from): Relocation => {
    const start = from.position;
    const kind = from.u8('a relocation');
    const known = relocationKinds[kind] ?? from.fail('a relocation kind (0 to 26)', `${kind}`, start);
    const offset = readU32(from, 'the offset of a relocation');
    if (offset < previous) from.fail('relocations in the order of their offsets', `${offset} after ${previous}`, start);
    previous = offset;
    const symbol = readU32(from, 'the symbol of a relocation');
    return { offset, kind, symbol, addend: known.hasAddend ? readAddend(from, known.width) : 0 };
  });
  reader.end('the relocations');
  return { section: index, relocations };
}

/** The content of a `reloc.*` section. */
export function writeRelocations({ section: index, relocations }: RelocationSection): Uint8Array<ArrayBuffer> {
  const writer = new Writer();
  writeUnsigned(writer, index);
  writeVector(writer, relocations, (to, { kind, offset, symbol, addend }) => {
    to.u8(kind);
    writeUnsigned(to, offset);
    writeUnsigned(to, symbol);
    if (relocationKinds[kind]?.hasAddend) writeSigned(to, addend);
  });
  return writer.finish();
}

/** Addends of 32-bit fields are i32, of 64-bit fields i64. */
function readAddend(reader: Reader, width: number): number {
  if (width < 8) return readS32(reader, 'an addend');
  const start = reader.position;
  const addend = readS64(reader, 'an addend');
  if (BigInt.asIntN(54, addend) !== addend) reader.fail('an addend within 2^53', `${addend}`, start);
  return Number(addend);
}
