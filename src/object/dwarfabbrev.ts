// The section of abbreviations in; out come the kinds of entries that a unit has: tag, attributes, forms.
// DWARF 5, sections 7.5.3 and 7.5.4

import { Reader } from './bytes.ts';
import { DW_FORM_implicit_const, type Encoding, fixedSize, formAt } from './dwarfforms.ts';
import type { DebugFile } from './dwarfsections.ts';
import { readS64, readU32 } from './leb128.ts';

export const DW_TAG = {
  array_type: 0x01,
  class_type: 0x02,
  enumeration_type: 0x04,
  formal_parameter: 0x05,
  member: 0x0d,
  pointer_type: 0x0f,
  reference_type: 0x10,
  compile_unit: 0x11,
  string_type: 0x12,
  structure_type: 0x13,
  subroutine_type: 0x15,
  typedef: 0x16,
  union_type: 0x17,
  variant: 0x19,
  inheritance: 0x1c,
  module: 0x1e,
  ptr_to_member_type: 0x1f,
  set_type: 0x20,
  subrange_type: 0x21,
  base_type: 0x24,
  const_type: 0x26,
  enumerator: 0x28,
  file_type: 0x29,
  packed_type: 0x2d,
  subprogram: 0x2e,
  variant_part: 0x33,
  variable: 0x34,
  volatile_type: 0x35,
  restrict_type: 0x37,
  interface_type: 0x38,
  namespace: 0x39,
  unspecified_type: 0x3b,
  partial_unit: 0x3c,
  type_unit: 0x41,
  rvalue_reference_type: 0x42,
  atomic_type: 0x47,
  skeleton_unit: 0x4a,
} as const;

const kept: ReadonlySet<number> = new Set(Object.values(DW_TAG));

export const DW_AT = {
  name: 0x03,
  byte_size: 0x0b,
  discr: 0x15,
  discr_value: 0x16,
  const_value: 0x1c,
  upper_bound: 0x2f,
  abstract_origin: 0x31,
  count: 0x37,
  data_member_location: 0x38,
  declaration: 0x3c,
  discr_list: 0x3d,
  encoding: 0x3e,
  specification: 0x47,
  type: 0x49,
  signature: 0x69,
  linkage_name: 0x6e,
  str_offsets_base: 0x72,
  alignment: 0x88,
  MIPS_linkage_name: 0x2007,
} as const;

export interface Attribute {
  readonly at: number;
  readonly form: number;
  /** Of `DW_FORM_implicit_const`. */
  readonly value?: string;
}

export interface Abbreviation {
  readonly code: number;
  readonly tag: number;
  readonly hasChildren: boolean;
  readonly isKept: boolean;
  /** Its entries are of interest only right below another kept one: elsewhere they belong to a block or to what was inlined. */
  readonly needsParent: boolean;
  readonly attributes: readonly Attribute[];
  /** Of the attributes in an entry, in bytes, where the forms tell. */
  readonly sizeBytes: number | undefined;
}

/** By code. */
export type Abbreviations = ReadonlyMap<number, Abbreviation>;

/** The abbreviations at an offset; throws MalformedError. */
export function readAbbreviations(file: DebugFile, offset: number, encoding: Encoding): Abbreviations {
  const [section] = file.sections('.debug_abbrev');
  const bytes = section?.bytes ?? new Uint8Array();
  const reader = new Reader(bytes, file.name, bytes.length === 0 ? 0 : (section?.offset ?? 0));
  if (!(offset >= 0 && offset < bytes.length)) reader.fail('abbreviations', `the offset ${offset}`);
  reader.position = offset;
  const abbreviations = new Map<number, Abbreviation>();
  for (let code = readU32(reader, 'the code of an abbreviation'); code !== 0; code = readU32(reader)) {
    const tag = readU32(reader, 'a tag');
    const hasChildren = reader.u8('whether an entry has children') !== 0;
    const attributes: Attribute[] = [];
    let sizeBytes: number | undefined = 0;
    for (;;) {
      const at = readU32(reader, 'an attribute');
      const position = reader.position;
      const form = readU32(reader, 'a form');
      if (at === 0 && form === 0) break;
      const fixed: number | undefined = fixedSize(formAt(reader, form, position), encoding);
      sizeBytes = sizeBytes === undefined || fixed === undefined ? undefined : sizeBytes + fixed;
      attributes.push(form === DW_FORM_implicit_const ? { at, form, value: `${readS64(reader)}` } : { at, form });
    }
    if (abbreviations.has(code)) reader.fail('codes that differ', `a second ${code}`);
    const needsParent = tag === DW_TAG.formal_parameter || tag === DW_TAG.variable;
    abbreviations.set(code, { code, tag, hasChildren, isKept: kept.has(tag), needsParent, attributes, sizeBytes });
  }
  return abbreviations;
}
