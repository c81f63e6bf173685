// Code that asks the loader where a thread-local is in; code that knows out: the program's own block has one place in
// every thread, an offset from the thread pointer. Linkers do the same to a program ("relaxation").
// Drepper, "ELF handling for thread-local storage", section 5.

import { x86_64 } from '../object/x86_64.ts';
import { type Resolved, Unlinkable } from './target.ts';

/** data16 lea x@tlsgd(%rip), %rdi; then a padded call of __tls_get_addr by its name, or through the GOT. */
const GENERAL = [0x66, 0x48, 0x8d, 0x3d];
const GENERAL_CALLS = [
  [0x66, 0x66, 0x48, 0xe8],
  [0x66, 0x48, 0xff, 0x15],
];
/** mov %fs:0, %rax; lea x@tpoff(%rax), %rax */
const GENERAL_RELAXED = [0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x48, 0x8d, 0x80];

/** lea x@tlsld(%rip), %rdi; then the call. */
const LOCAL = [0x48, 0x8d, 0x3d];
const LOCAL_CALLS = [[0xe8], [0xff, 0x15]];
/** mov %fs:0, %rax, as long as what it replaces. */
const LOCAL_RELAXED = [0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0];
const DATA16 = 0x66;

/** Changes the code in place. Gives the relocations that are left; those of thread-locals ask for plain offsets. */
export function relaxThreadLocals(code: Uint8Array, relocations: readonly Resolved[]): readonly Resolved[] {
  const { R_X86_64_TLSGD, R_X86_64_TLSLD } = x86_64;
  if (!relocations.some(({ kind }) => kind === R_X86_64_TLSGD.number || kind === R_X86_64_TLSLD.number)) {
    return relocations;
  }
  const left: Resolved[] = [];
  /** Where the call of __tls_get_addr has its relocation. */
  let gone = -1;
  for (const relocation of relocations) {
    const { offset, kind, addend } = relocation;
    if (offset === gone) continue;
    if (kind === R_X86_64_TLSGD.number) {
      const start = offset - GENERAL.length;
      const call = GENERAL_CALLS.find((bytes) => isAt(code, offset + 4, bytes));
      if (!isAt(code, start, GENERAL) || call === undefined) throw unknownForm();
      code.set(GENERAL_RELAXED, start);
      gone = offset + 4 + call.length;
      // The field counted from its own end.
      left.push({ ...relocation, offset: gone, kind: x86_64.R_X86_64_TPOFF32.number, addend: addend + 4 });
    } else if (kind === R_X86_64_TLSLD.number) {
      const start = offset - LOCAL.length;
      const call = LOCAL_CALLS.find((bytes) => isAt(code, offset + 4, bytes));
      if (!isAt(code, start, LOCAL) || call === undefined) throw unknownForm();
      gone = offset + 4 + call.length;
      code.fill(DATA16, start, gone + 4);
      code.set(LOCAL_RELAXED, gone + 4 - LOCAL_RELAXED.length);
    } else {
      left.push(relocation);
    }
  }
  return left;
}

function isAt(code: Uint8Array, offset: number, bytes: readonly number[]): boolean {
  return bytes.every((byte, index) => code[offset + index] === byte);
}

function unknownForm(): Unlinkable {
  return new Unlinkable('a thread-local is reached by code of a form that only the ordinary linker knows');
}
