// Unwind tables: an object's `.eh_frame` → which code each entry is about; and entries → `.eh_frame` and its index,
// `.eh_frame_hdr`, as an unwinder takes them.
// https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic/ehframechpt.html

import type { Relocation, UnwindRecord } from '../model.ts';
import { Reader, Writer } from './bytes.ts';
import { skipLeb, writeUnsigned } from './leb128.ts';

/** An entry (FDE) with what it shares with others (its CIE). */
export interface Frame {
  readonly cie: UnwindRecord;
  readonly fde: UnwindRecord;
  /** Where its code begins: symbol and addend, as the relocation has them. */
  readonly code: Relocation;
}

/** DW_EH_PE_pcrel | DW_EH_PE_sdata4: the only way in which code is written down here, as compilers for x86-64 do. */
const PC_RELATIVE = 0x1b;
/** In an entry, behind the length: the distance to its CIE, then where the code begins and how long it is. */
const CODE_FIELD = 4;
const CODE_SIZE_FIELD = 8;

/** The entries of an object's `.eh_frame`. Throws MalformedError. Entries of code that was dropped are left out. */
export function readFrames(bytes: Uint8Array, relocations: readonly Relocation[], file: string): Frame[] {
  const reader = new Reader(bytes, file);
  const cies = new Map<number, UnwindRecord>();
  const frames: Frame[] = [];
  let next = 0;
  while (reader.remaining >= 4) {
    const length = reader.u32le('the length of an unwind record');
    if (length === 0) break;
    const start = reader.position;
    const content = reader.bytes(length, 'an unwind record');
    const own: Relocation[] = [];
    for (let one = relocations[next]; one !== undefined && one.offset < start + length; one = relocations[++next]) {
      own.push({ ...one, offset: one.offset - start });
    }
    const distance = new Reader(content, file, start).u32le('an unwind record');
    if (distance === 0) {
      checkEncoding(new Reader(content, file, start));
      cies.set(start - 4, { bytes: content, relocations: own });
      continue;
    }
    const cie = cies.get(start - distance) ?? reader.fail('the CIE of an unwind record', 'none', start);
    const code = own.find(({ offset }) => offset === CODE_FIELD);
    if (code === undefined) continue;
    // The distance says where the entry lies, which is for whoever places it: two entries that differ in that are equal.
    const fde = content.slice();
    fde.fill(0, 0, CODE_FIELD);
    frames.push({ cie, fde: { bytes: fde, relocations: own.filter((one) => one !== code) }, code });
  }
  return frames;
}

/** Only what says how code addresses are written: the R of the augmentation. */
function checkEncoding(reader: Reader): void {
  reader.skip(4);
  const version = reader.u8();
  let augmentation = '';
  for (let byte = reader.u8(); byte !== 0; byte = reader.u8()) augmentation += String.fromCharCode(byte);
  if (version !== 1 || !augmentation.startsWith('z')) reader.fail('a CIE of version 1 with augmentation data');
  for (const field of ['code alignment', 'data alignment', 'return address', 'augmentation size']) {
    skipLeb(reader, 10, `the ${field} of a CIE`);
  }
  for (const letter of augmentation.slice(1)) {
    if (letter === 'S' || letter === 'B') continue;
    const encoding = reader.u8('an encoding');
    if (letter === 'P') reader.skip((encoding & 7) === 4 ? 8 : 4, 'the personality');
    else if (letter === 'R' && encoding !== PC_RELATIVE) reader.fail('code addresses as 32-bit distances');
  }
}

/** A record in its place: its relocations are the caller's to apply. `offset` is that of its bytes in `.eh_frame`. */
interface PlacedRecord<T> {
  readonly record: T;
  readonly offset: number;
}

export interface FrameTable<C, F> {
  readonly bytes: Uint8Array;
  readonly cies: readonly PlacedRecord<C>[];
  readonly fdes: readonly PlacedRecord<F>[];
}

interface Bytes {
  readonly bytes: Uint8Array;
}

/** `.eh_frame` of these entries; entries with one CIE, as an object, share it. Code addresses are not filled in yet. */
export function joinFrames<C extends Bytes, F extends Bytes>(
  frames: readonly { readonly cie: C; readonly fde: F }[],
): FrameTable<C, F> {
  const writer = new Writer(64 * frames.length);
  const cies: PlacedRecord<C>[] = [];
  const fdes: PlacedRecord<F>[] = [];
  const known = new Map<C, number>();
  const add = (bytes: Uint8Array, distance: (start: number) => number): number => {
    // Padding is DW_CFA_nop.
    const padding = -(4 + bytes.length) & 7;
    writer.u32le(bytes.length + padding);
    const start = writer.length;
    writer.u32le(distance(start));
    writer.bytes(bytes.subarray(4));
    writer.zeros(padding);
    return start;
  };
  for (const { cie, fde } of frames) {
    let at = known.get(cie);
    if (at === undefined) {
      at = add(cie.bytes, () => 0);
      known.set(cie, at);
      cies.push({ record: cie, offset: at });
    }
    const shared = at - 4;
    fdes.push({ record: fde, offset: add(fde.bytes, (start) => start - shared) });
  }
  writer.u32le(0);
  return { bytes: writer.finish(), cies, fdes };
}

/** Of an entry at `address`, writes where its code begins. */
export function placeFrame(view: DataView, offset: number, address: number, codeAddress: number): void {
  view.setInt32(offset + CODE_FIELD, codeAddress - (address + CODE_FIELD), true);
}

/** `.eh_frame_hdr`: entries by their code, for a binary search. */
export function frameIndex(
  address: number,
  tableAddress: number,
  entries: readonly { readonly codeAddress: number; readonly frameAddress: number }[],
): Uint8Array {
  const writer = new Writer(FRAME_INDEX_HEAD + 8 * entries.length);
  // Version; the encodings of the table's address, of the number of entries (udata4), of entries (datarel | sdata4).
  writer.bytes([1, PC_RELATIVE, 0x03, 0x3b]);
  writer.u32le(tableAddress - (address + 4));
  writer.u32le(entries.length);
  for (const { codeAddress, frameAddress } of entries.toSorted((a, b) => a.codeAddress - b.codeAddress)) {
    writer.u32le(codeAddress - address);
    // Of the record with its length.
    writer.u32le(frameAddress - 4 - address);
  }
  return writer.finish();
}

/** Bytes of the index before its entries, of 8 bytes each. */
export const FRAME_INDEX_HEAD = 12;

/** `.eh_frame` for code that keeps nothing on the stack. At `textField` goes the distance to the code. */
export function stubFrames(codeSizeBytes: number): { readonly bytes: Uint8Array; readonly textField: number } {
  const cie = new Writer(20);
  cie.zeros(4);
  cie.bytes([1, 0x7a, 0x52, 0]); // version 1, "zR"
  // Code alignment 1, data alignment -8, return address in register 16, one byte of augmentation data.
  cie.bytes([1, 0x78, 16]);
  writeUnsigned(cie, 1);
  cie.u8(PC_RELATIVE);
  // DW_CFA_def_cfa rsp 8; DW_CFA_offset rip -8; nops up to a multiple of 8.
  cie.bytes([0x0c, 7, 8, 0x90, 1, 0, 0]);
  const fde = new Writer(16);
  fde.zeros(CODE_SIZE_FIELD);
  fde.u32le(codeSizeBytes);
  fde.zeros(1);
  const { bytes, fdes } = joinFrames([{ cie: { bytes: cie.finish() }, fde: { bytes: fde.finish() } }]);
  // Linkers end the table themselves.
  return { bytes: bytes.subarray(0, -4), textField: (fdes[0]?.offset ?? 0) + CODE_FIELD };
}
