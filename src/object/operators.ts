// A function body or a constant expression in; a walk over its instructions, or a copy with other indices, out.
// https://webassembly.github.io/spec/core/binary/instructions.html, and the proposals on threads (0xfe), legacy
// exceptions (0x06–0x09, 0x18, 0x19) and wide arithmetic (0xfc13–0xfc16).

import { Reader, Writer } from './bytes.ts';
import { readCount, readS33, readU32, skipLeb, writeSigned, writeUnsigned } from './leb128.ts';

/** What an index immediate counts. Labels are relative to their instruction and are not reported. */
export type Space = 'function' | 'type' | 'table' | 'memory' | 'global' | 'tag' | 'local' | 'data' | 'element';

export interface Visitor {
  /**
   * An index immediate, at `offset` up to `end` in the body, in LEB128. Type indices in block and value types are
   * signed numbers; all others are unsigned. Called before `operator` of the same instruction.
   */
  index?(space: Space, index: number, offset: number, end: number, signed: boolean): void;
  /** An instruction from `offset` up to `end` in the body. Prefixed opcodes are `prefix << 16 | opcode`. */
  operator?(opcode: number, offset: number, end: number): void;
}

/**
 * One letter per immediate, in the order they stand:
 * `f`unction `t`ype `T`able `m`emory `g`lobal ta`G` `x` local `d`ata `e`lement; `l`abel, `L` label vector;
 * `b`lock type, `h`eap type, `v`alue type vector, `c`atch clauses, `M` memory argument;
 * `i` LEB128 constant, `1` `4` `8` `V`: that many bytes (`V` is 16).
 */
type Immediates = string;
type Rows = readonly (readonly [first: number, last: number, immediates: Immediates])[];

const plain: readonly (Immediates | undefined)[] = table([
  [0x00, 0x01, ''], // unreachable, nop
  [0x02, 0x04, 'b'], // block, loop, if
  [0x05, 0x05, ''], // else
  [0x06, 0x06, 'b'], // try
  [0x07, 0x08, 'G'], // catch, throw
  [0x09, 0x09, 'l'], // rethrow
  [0x0a, 0x0b, ''], // throw_ref, end
  [0x0c, 0x0d, 'l'], // br, br_if
  [0x0e, 0x0e, 'L'], // br_table
  [0x0f, 0x0f, ''], // return
  [0x10, 0x10, 'f'], // call
  [0x11, 0x11, 'tT'], // call_indirect
  [0x12, 0x12, 'f'], // return_call
  [0x13, 0x13, 'tT'], // return_call_indirect
  [0x14, 0x15, 't'], // call_ref, return_call_ref
  [0x18, 0x18, 'l'], // delegate
  [0x19, 0x1b, ''], // catch_all, drop, select
  [0x1c, 0x1c, 'v'], // select t*
  [0x1f, 0x1f, 'bc'], // try_table
  [0x20, 0x22, 'x'], // local.get, .set, .tee
  [0x23, 0x24, 'g'], // global.get, .set
  [0x25, 0x26, 'T'], // table.get, .set
  [0x28, 0x3e, 'M'], // loads and stores
  [0x3f, 0x40, 'm'], // memory.size, .grow
  [0x41, 0x42, 'i'], // i32.const, i64.const
  [0x43, 0x43, '4'], // f32.const
  [0x44, 0x44, '8'], // f64.const
  [0x45, 0xc4, ''], // numeric
  [0xd0, 0xd0, 'h'], // ref.null
  [0xd1, 0xd1, ''], // ref.is_null
  [0xd2, 0xd2, 'f'], // ref.func
  [0xd3, 0xd4, ''], // ref.eq, ref.as_non_null
  [0xd5, 0xd6, 'l'], // br_on_null, br_on_non_null
]);

const prefixed: ReadonlyMap<number, readonly (Immediates | undefined)[]> = new Map([
  [
    0xfc,
    table([
      [0x00, 0x07, ''], // saturating truncations
      [0x08, 0x08, 'dm'], // memory.init
      [0x09, 0x09, 'd'], // data.drop
      [0x0a, 0x0a, 'mm'], // memory.copy
      [0x0b, 0x0b, 'm'], // memory.fill
      [0x0c, 0x0c, 'eT'], // table.init
      [0x0d, 0x0d, 'e'], // elem.drop
      [0x0e, 0x0e, 'TT'], // table.copy
      [0x0f, 0x11, 'T'], // table.grow, .size, .fill
      [0x13, 0x16, ''], // i64.add128, .sub128, .mul_wide_s, .mul_wide_u
    ]),
  ],
  [
    0xfd,
    table([
      [0x00, 0x0b, 'M'], // v128.load…, v128.store
      [0x0c, 0x0d, 'V'], // v128.const, i8x16.shuffle
      [0x0e, 0x14, ''], // swizzle, splats
      [0x15, 0x22, '1'], // extract_lane, replace_lane
      [0x23, 0x53, ''],
      [0x54, 0x5b, 'M1'], // v128.load_lane…, v128.store_lane…
      [0x5c, 0x5d, 'M'], // v128.load32_zero, load64_zero
      [0x5e, 0x99, ''],
      [0x9b, 0xa1, ''],
      [0xa3, 0xa4, ''],
      [0xa7, 0xae, ''],
      [0xb1, 0xb1, ''],
      [0xb5, 0xba, ''],
      [0xbc, 0xc1, ''],
      [0xc3, 0xc4, ''],
      [0xc7, 0xce, ''],
      [0xd1, 0xd1, ''],
      [0xd5, 0xe1, ''],
      [0xe3, 0xed, ''],
      [0xef, 0xff, ''],
      [0x100, 0x113, ''], // relaxed
    ]),
  ],
  [
    0xfe,
    table([
      [0x00, 0x02, 'M'], // memory.atomic.notify, .wait32, .wait64
      [0x03, 0x03, '1'], // atomic.fence
      [0x10, 0x4e, 'M'], // atomic loads, stores and read-modify-writes
    ]),
  ],
]);

/** `body` is a code entry without its size: locals, then instructions. `file` and `origin` are for messages. */
export function walkBody(body: Uint8Array, visitor: Visitor, file = 'function body', origin = 0): void {
  const reader = new Reader(body, file, origin);
  const runs = readCount(reader, 'runs of locals');
  for (let run = 0; run < runs; run++) {
    readU32(reader, 'the number of locals');
    walkValueType(reader, visitor);
  }
  walkExpression(reader, visitor);
  reader.end('the function body');
}

/** Reads instructions up to the `end` that closes the expression. Offsets given to the visitor count in `reader`. */
export function walkExpression(reader: Reader, visitor: Visitor): void {
  for (let depth = 1; depth > 0;) {
    const offset = reader.position;
    const byte = reader.u8('an instruction');
    let opcode = byte;
    let immediates = plain[byte];
    const extended = byte < 0xfc ? undefined : prefixed.get(byte);
    if (extended !== undefined) {
      const code = readU32(reader, 'an opcode');
      opcode = (byte << 16) | code;
      immediates = extended[code];
    }
    if (immediates === undefined) reader.fail('an instruction', `opcode 0x${opcode.toString(16)}`, offset);
    for (let at = 0; at < immediates.length; at++) walkImmediate(immediates.charCodeAt(at), reader, visitor);
    if (byte === END || byte === DELEGATE) depth--;
    else if (immediates.charCodeAt(0) === BLOCK) depth++;
    visitor.operator?.(opcode, offset, reader.position);
  }
}

/**
 * Copies a body into a module whose indices differ: `map` gives the new index for each old one. Locals stay. Memory 0,
 * which loads and stores name by saying nothing, must stay memory 0.
 */
export function rewriteIndices(
  body: Uint8Array,
  map: (space: Space, index: number) => number,
): Uint8Array<ArrayBuffer> {
  const writer = new Writer(body.length + 16);
  let copied = 0;
  walkBody(body, {
    index(space, index, offset, end, signed) {
      if (space === 'local') return;
      writer.copy(body, copied, offset);
      const mapped = map(space, index);
      if (signed) writeSigned(writer, mapped);
      else writeUnsigned(writer, mapped);
      copied = end;
    },
  });
  writer.copy(body, copied, body.length);
  return writer.finish();
}

const END = 0x0b;
const DELEGATE = 0x18;
const BLOCK: number = 'b'.charCodeAt(0);

const letters: Readonly<Record<string, Space>> = {
  f: 'function',
  t: 'type',
  T: 'table',
  m: 'memory',
  g: 'global',
  G: 'tag',
  x: 'local',
  d: 'data',
  e: 'element',
};
/** By the letter's code. */
const spaces: readonly (Space | undefined)[] = Array.from(
  { length: 128 },
  (_, code) => letters[String.fromCharCode(code)],
);

function walkImmediate(letter: number, reader: Reader, visitor: Visitor): void {
  const space = spaces[letter];
  if (space !== undefined) return walkIndex(space, reader, visitor);
  switch (String.fromCharCode(letter)) {
    case 'l':
      return skipLeb(reader, 5, 'a label');
    case 'L': {
      const count = readCount(reader, 'labels');
      for (let label = 0; label <= count; label++) skipLeb(reader, 5, 'a label');
      return;
    }
    case 'b':
      return walkBlockType(reader, visitor);
    case 'h':
      return walkHeapType(reader, visitor);
    case 'v': {
      const count = readCount(reader, 'value types');
      for (let type = 0; type < count; type++) walkValueType(reader, visitor);
      return;
    }
    case 'c':
      return walkCatches(reader, visitor);
    case 'M': {
      // https://webassembly.github.io/spec/core/binary/instructions.html#binary-memarg
      const alignment = readU32(reader, 'a memory argument');
      if (alignment & 0x40) walkIndex('memory', reader, visitor);
      return skipLeb(reader, 10, 'a memory offset');
    }
    case 'i':
      return skipLeb(reader, 10, 'a constant');
    case '1':
      return reader.skip(1, 'a lane');
    case '4':
      return reader.skip(4, 'a 32-bit float');
    case '8':
      return reader.skip(8, 'a 64-bit float');
    default:
      return reader.skip(16, '16 lanes');
  }
}

function walkIndex(space: Space, reader: Reader, visitor: Visitor): void {
  const offset = reader.position;
  const index = readU32(reader, 'an index');
  visitor.index?.(space, index, offset, reader.position, false);
}

/** Value types are single bytes, except a reference to a heap type: `ref null` 0x63, `ref` 0x64. */
function walkValueType(reader: Reader, visitor: Visitor): void {
  const byte = reader.u8('a value type');
  if (byte === 0x63 || byte === 0x64) walkHeapType(reader, visitor);
  else if (byte < 0x40 || byte > 0x7f) reader.fail('a value type', `0x${byte.toString(16)}`, reader.position - 1);
}

function walkBlockType(reader: Reader, visitor: Visitor): void {
  const byte = reader.peek('a block type');
  if (byte >= 0x40 && byte < 0x80) walkValueType(reader, visitor);
  else walkTypeIndex(reader, visitor, 'a block type');
}

function walkHeapType(reader: Reader, visitor: Visitor): void {
  const byte = reader.peek('a heap type');
  if (byte >= 0x40 && byte < 0x80) reader.skip(1);
  else walkTypeIndex(reader, visitor, 'a heap type');
}

function walkTypeIndex(reader: Reader, visitor: Visitor, expected: string): void {
  const offset = reader.position;
  const index = readS33(reader, expected);
  if (index < 0) reader.fail(expected, `${index}`, offset);
  visitor.index?.('type', index, offset, reader.position, true);
}

function walkCatches(reader: Reader, visitor: Visitor): void {
  const count = readCount(reader, 'catch clauses');
  for (let clause = 0; clause < count; clause++) {
    const kind = reader.u8('a catch clause');
    if (kind > 3) reader.fail('a catch clause', `0x${kind.toString(16)}`, reader.position - 1);
    if (kind < 2) walkIndex('tag', reader, visitor);
    skipLeb(reader, 5, 'a label');
  }
}

function table(rows: Rows): readonly (Immediates | undefined)[] {
  const byOpcode = Array.from<Immediates | undefined>({ length: 0x114 });
  for (const [first, last, immediates] of rows) byOpcode.fill(immediates, first, last + 1);
  return byOpcode;
}
