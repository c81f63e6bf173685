// The forms in which DWARF writes the value of an attribute: how long each is, and what number or text it holds.
// DWARF 5 (https://dwarfstd.org/doc/DWARF5.pdf), sections 7.5.5 and 7.5.6; those of GNU as GCC's dwarf2.h numbers them.

import type { Reader } from './bytes.ts';
import { readHalf, readXword } from './elf.ts';
import { readS64, readU32, readU64, skipLeb } from './leb128.ts';

/** What the header of a unit says about the sizes of fields in it. */
export interface Encoding {
  /** In bytes. */
  readonly addressSize: number;
  /** 4 in the 32-bit format, 8 in the 64-bit one (section 7.4). */
  readonly offsetSize: 4 | 8;
}

/** A number of bytes, or what tells it. */
type Extent = number | 'address' | 'offset' | 'leb' | 'string' | 'block' | 'block1' | 'block2' | 'block4' | 'indirect';

export interface Form {
  /** As in the specification, verbatim. */
  readonly name: string;
  readonly extent: Extent;
}

export const DW_FORM_string = 0x08;
const DW_FORM_sdata = 0x0d;
export const DW_FORM_strp = 0x0e;
const DW_FORM_udata = 0x0f;
export const DW_FORM_ref_addr = 0x10;
const DW_FORM_ref_udata = 0x15;
export const DW_FORM_indirect = 0x16;
const DW_FORM_flag_present = 0x19;
export const DW_FORM_strx = 0x1a;
export const DW_FORM_line_strp = 0x1f;
export const DW_FORM_ref_sig8 = 0x20;
export const DW_FORM_implicit_const = 0x21;
export const DW_FORM_strx1 = 0x25;
export const DW_FORM_strx4 = 0x28;
export const DW_FORM_GNU_str_index = 0x1f02;

/** By number. */
const forms: ReadonlyMap<number, Form> = new Map(
  Object.entries({
    DW_FORM_addr: [0x01, 'address'],
    DW_FORM_block2: [0x03, 'block2'],
    DW_FORM_block4: [0x04, 'block4'],
    DW_FORM_data2: [0x05, 2],
    DW_FORM_data4: [0x06, 4],
    DW_FORM_data8: [0x07, 8],
    DW_FORM_string: [DW_FORM_string, 'string'],
    DW_FORM_block: [0x09, 'block'],
    DW_FORM_block1: [0x0a, 'block1'],
    DW_FORM_data1: [0x0b, 1],
    DW_FORM_flag: [0x0c, 1],
    DW_FORM_sdata: [DW_FORM_sdata, 'leb'],
    DW_FORM_strp: [DW_FORM_strp, 'offset'],
    DW_FORM_udata: [DW_FORM_udata, 'leb'],
    DW_FORM_ref_addr: [DW_FORM_ref_addr, 'offset'],
    DW_FORM_ref1: [0x11, 1],
    DW_FORM_ref2: [0x12, 2],
    DW_FORM_ref4: [0x13, 4],
    DW_FORM_ref8: [0x14, 8],
    DW_FORM_ref_udata: [DW_FORM_ref_udata, 'leb'],
    DW_FORM_indirect: [DW_FORM_indirect, 'indirect'],
    DW_FORM_sec_offset: [0x17, 'offset'],
    DW_FORM_exprloc: [0x18, 'block'],
    DW_FORM_flag_present: [DW_FORM_flag_present, 0],
    DW_FORM_strx: [DW_FORM_strx, 'leb'],
    DW_FORM_addrx: [0x1b, 'leb'],
    DW_FORM_ref_sup4: [0x1c, 4],
    DW_FORM_strp_sup: [0x1d, 'offset'],
    DW_FORM_data16: [0x1e, 16],
    DW_FORM_line_strp: [DW_FORM_line_strp, 'offset'],
    DW_FORM_ref_sig8: [DW_FORM_ref_sig8, 8],
    DW_FORM_implicit_const: [DW_FORM_implicit_const, 0],
    DW_FORM_loclistx: [0x22, 'leb'],
    DW_FORM_rnglistx: [0x23, 'leb'],
    DW_FORM_ref_sup8: [0x24, 8],
    DW_FORM_strx1: [DW_FORM_strx1, 1],
    DW_FORM_strx2: [0x26, 2],
    DW_FORM_strx3: [0x27, 3],
    DW_FORM_strx4: [DW_FORM_strx4, 4],
    DW_FORM_addrx1: [0x29, 1],
    DW_FORM_addrx2: [0x2a, 2],
    DW_FORM_addrx3: [0x2b, 3],
    DW_FORM_addrx4: [0x2c, 4],
    DW_FORM_GNU_addr_index: [0x1f01, 'leb'],
    DW_FORM_GNU_str_index: [DW_FORM_GNU_str_index, 'leb'],
    DW_FORM_GNU_ref_alt: [0x1f20, 'offset'],
    DW_FORM_GNU_strp_alt: [0x1f21, 'offset'],
  } satisfies Record<string, [number, Extent]>).map(([name, [number, extent]]) => [number, { name, extent }]),
);

/** Fails, naming the form, when it is none of the specification's. */
export function formAt(reader: Reader, number: number, position: number): Form {
  return forms.get(number) ?? reader.fail('a form of DWARF 5', `form 0x${number.toString(16)}`, position);
}

/** In bytes, where every value of the form is as long in that encoding. */
export function fixedSize({ extent }: Form, encoding: Encoding): number | undefined {
  if (typeof extent === 'number') return extent;
  if (extent === 'address') return encoding.addressSize;
  return extent === 'offset' ? encoding.offsetSize : undefined;
}

/** Passes over a value. */
export function skipForm(reader: Reader, form: number, encoding: Encoding): void {
  const known = formAt(reader, form, reader.position);
  const size = fixedSize(known, encoding);
  if (size !== undefined) {
    reader.skip(size, known.name);
    return;
  }
  switch (known.extent) {
    case 'leb':
      skipLeb(reader, 10, known.name);
      break;
    case 'string':
      while (reader.u8('a string, closed by a NUL') !== 0);
      break;
    case 'indirect':
      skipForm(reader, indirectForm(reader), encoding);
      break;
    default:
      reader.skip(blockLength(reader, known), known.name);
  }
}

/** The form that a value of `DW_FORM_indirect` names. It is never that form itself, nor one whose value is elsewhere. */
export function indirectForm(reader: Reader): number {
  const start = reader.position;
  const form = readU32(reader, 'a form');
  if (form === DW_FORM_indirect || form === DW_FORM_implicit_const) {
    reader.fail('a form with a value', formAt(reader, form, start).name, start);
  }
  return form;
}

/** A constant, a flag, an offset or an index below 2^53; fails for forms of other kinds. */
export function readNumber(reader: Reader, form: number, encoding: Encoding, expected: string): number {
  const start = reader.position;
  if (form === DW_FORM_flag_present) return 1;
  if (form === DW_FORM_indirect) return readNumber(reader, indirectForm(reader), encoding, expected);
  if (form === DW_FORM_sdata) {
    const value = Number(readS64(reader, expected));
    return Number.isSafeInteger(value) ? value : reader.fail(`${expected} below 2^53`, `${value}`, start);
  }
  const known = formAt(reader, form, start);
  if (known.extent === 'leb') return readU64(reader, expected);
  switch (fixedSize(known, encoding)) {
    case 1:
      return reader.u8(expected);
    case 2:
      return readHalf(reader, expected);
    case 3:
      return readHalf(reader, expected) + 0x10000 * reader.u8(expected);
    case 4:
      return reader.u32le(expected);
    case 8:
      return readXword(reader, expected);
    default:
      return reader.fail(expected, known.name, start);
  }
}

/** A constant of any length as text: equal texts of one form, equal constants. */
export function readConstant(reader: Reader, form: number, encoding: Encoding): string {
  if (form === DW_FORM_sdata) return `${readS64(reader)}`;
  if (form === DW_FORM_indirect) return readConstant(reader, indirectForm(reader), encoding);
  const known = formAt(reader, form, reader.position);
  const { extent } = known;
  if (extent === 8) return `${reader.u64le()}`;
  if (extent === 16) return `${reader.u64le() + (reader.u64le() << 64n)}`;
  if (extent === 'leb') return `${readBig(reader, known.name)}`;
  if (typeof extent === 'number') return `${readNumber(reader, form, encoding, 'a constant')}`;
  if (extent === 'address' || extent === 'offset' || extent === 'string' || extent === 'indirect') {
    return reader.fail('a constant', known.name);
  }
  return [...reader.bytes(blockLength(reader, known), known.name)].join(' ');
}

/** Discriminants may need all of 64 bits. */
function readBig(reader: Reader, expected: string): bigint {
  let value = 0n;
  for (let shift = 0n; shift < 70n; shift += 7n) {
    const byte = reader.u8(expected);
    value |= BigInt(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  return reader.fail(expected, 'more than 10 bytes', reader.position - 10);
}

function blockLength(reader: Reader, form: Form): number {
  const expected = `the length of ${form.name}`;
  if (form.extent === 'block1') return reader.u8(expected);
  if (form.extent === 'block2') return readHalf(reader, expected);
  return form.extent === 'block4' ? reader.u32le(expected) : readU64(reader, expected);
}
