// Code of a program with threads in; the same code, which notices when there is a newer version, out.
//
// Every thread is an instance of its own, with a function table of its own, and nobody can write to the table of a thread
// that is busy or waits. So a thread brings itself up to date. A word of the shared memory, the **epoch**, counts what has
// been published; a global of each instance says how much of it the thread has **seen**. A guard compares the two:
//
//     i32.const EPOCH  i32.load  global.get $seen  i32.ne  if  call $sync  end
//
// It stands before each call through a slot. And before each indirect call, also of the standard library: a thread may be
// handed a pointer to a function that its own table does not have yet, and what hands it over (a lock, a channel) makes
// the new epoch visible before the pointer.

import { Writer } from '../object/bytes.ts';
import { writeSigned, writeUnsigned } from '../object/leb128.ts';
import { walkBody } from '../object/operators.ts';
import type { Module } from '../object/wasm.ts';
import { section } from '../object/wasm.ts';

/** What code needs to know to guard itself. */
export interface Threads {
  /** Address of the epoch. */
  readonly epoch: number;
  /** Holds the JavaScript function that brings a thread up to date. */
  readonly syncSlot: number;
}

const IF = 0x04;
const END = 0x0b;
const CALL_INDIRECT = 0x11;
const RETURN_CALL_INDIRECT = 0x13;
const GLOBAL_GET = 0x23;
const I32_LOAD = 0x28;
const I32_CONST = 0x41;
const I32_NE = 0x47;
const MEMORY_INIT = 0xfc0008;
const NO_RESULT = 0x40;

/** `sync`: the instructions that bring the thread up to date; `seen` is the index of the global. */
export function guard({ epoch }: Threads, seen: number, sync: Uint8Array): Uint8Array {
  const writer = new Writer(24);
  writer.u8(I32_CONST);
  writeSigned(writer, epoch | 0);
  // Aligned to 4 bytes. Plain: an atomic load costs more, and what a guard must see happened before by other means.
  writer.bytes([I32_LOAD, 2, 0, GLOBAL_GET]);
  writeUnsigned(writer, seen);
  writer.bytes([I32_NE, IF, NO_RESULT]);
  writer.bytes(sync);
  writer.u8(END);
  return writer.finish();
}

export function isIndirectCall(opcode: number | undefined): boolean {
  return opcode === CALL_INDIRECT || opcode === RETURN_CALL_INDIRECT;
}

/** A body with a guard before each indirect call. The index of the callee stays on the stack below. */
export function guardIndirectCalls(body: Uint8Array, inserted: Uint8Array): Uint8Array {
  // Looking for the byte is much faster than a walk, and half of all bodies have none.
  if (!body.includes(CALL_INDIRECT) && !body.includes(RETURN_CALL_INDIRECT)) return body;
  const calls: number[] = [];
  walkBody(body, {
    operator: (opcode, offset) => {
      if (isIndirectCall(opcode)) calls.push(offset);
    },
  });
  if (calls.length === 0) return body;
  const writer = new Writer(body.length + calls.length * inserted.length);
  let copied = 0;
  for (const offset of calls) {
    writer.copy(body, copied, offset);
    writer.bytes(inserted);
    copied = offset;
  }
  writer.copy(body, copied, body.length);
  return writer.finish();
}

/** Which passive data segment a function writes where: `i32.const ADDRESS; i32.const 0; i32.const SIZE; memory.init N`. */
export function initialisations(
  module: Module,
  body: Uint8Array,
): { readonly start: number; readonly bytes: Uint8Array }[] {
  const segments = section(module, 'data')?.segments ?? [];
  const constants: (number | undefined)[] = [];
  const found: { start: number; bytes: Uint8Array }[] = [];
  let named = 0;
  walkBody(body, {
    index: (space, index) => {
      if (space === 'data') named = index;
    },
    operator: (opcode, offset, end) => {
      if (opcode === MEMORY_INIT) {
        const start = constants.at(-3);
        const segment = segments[named];
        if (start !== undefined && segment !== undefined) found.push({ start, bytes: segment.bytes });
      }
      constants.push(opcode === I32_CONST ? readSigned(body.subarray(offset + 1, end)) >>> 0 : undefined);
    },
  });
  return found;
}

/** The operand of an `i32.const`. */
function readSigned(bytes: Uint8Array): number {
  let value = 0;
  let shift = 0;
  for (const byte of bytes) {
    value |= (byte & 0x7f) << shift;
    shift += 7;
    if (byte < 0x80) return shift < 32 && (byte & 0x40) !== 0 ? value | (-1 << shift) : value;
  }
  return value;
}
