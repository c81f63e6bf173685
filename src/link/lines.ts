// The functions of a patch and the debug information of their objects in; out come debug sections that tell the source
// line of each instruction, at the addresses of the patch.
//
// An object's line table has a sequence for each of its functions, which begins with the function's address. Those of the
// patch are copied, in the address goes the new one, and a unit of our own names the functions and refers to the table.
// What was inlined where is left out: a frame is named by its function.
// DWARF 4 (https://dwarfstd.org/doc/DWARF4.pdf), sections 2 and 6.2; DWARF 5, where the two differ

import type { Atom, ObjectFile, Relocation } from '../model.ts';
import { encodeUtf8, MalformedError, Reader, Writer } from '../object/bytes.ts';
import { readAbbreviations } from '../object/dwarfabbrev.ts';
import { DW_FORM_line_strp, DW_FORM_string, DW_FORM_strp, type Encoding, skipForm } from '../object/dwarfforms.ts';
import { type ElfSection, readHalf, SHT_RELA } from '../object/elf.ts';
import { type ElfParts, isElfParts } from '../object/elfparts.ts';
import { readRelocationEntries, RELA_SIZE } from '../object/elfsymbols.ts';
import { readU32, writeUnsigned } from '../object/leb128.ts';
import { readable } from './mangle.ts';

/** A function of a patch, in the symbol file's terms. */
export interface NamedCode {
  readonly name: string;
  readonly address: number;
  readonly sizeBytes: number;
  readonly object: ObjectFile;
  readonly atom: Atom;
}

/** By name. Objects without lines, or with lines of another form than compilers write, are left out. */
export function lineSections(functions: readonly NamedCode[]): ReadonlyMap<string, Uint8Array> {
  const byObject = new Map<ElfParts, NamedCode[]>();
  for (const one of functions) {
    if (!isElfParts(one.object)) continue;
    const others = byObject.get(one.object);
    if (others === undefined) byObject.set(one.object, [one]);
    else others.push(one);
  }
  const sections = new Sections();
  for (const [object, own] of byObject) {
    try {
      sections.add(object, own);
    } catch (error) {
      // A backtrace without lines is better than no patch.
      if (!(error instanceof MalformedError)) throw error;
    }
  }
  return sections.finish();
}

const DW_TAG_compile_unit = 0x11;
const DW_TAG_subprogram = 0x2e;
const DW_TAG_namespace = 0x39;
const DW_AT_name = 0x03;
const DW_AT_stmt_list = 0x10;
const DW_AT_low_pc = 0x11;
const DW_AT_high_pc = 0x12;
const DW_AT_language = 0x13;
const DW_AT_comp_dir = 0x1b;
const DW_AT_ranges = 0x55;
const DW_AT_linkage_name = 0x6e;
const DW_FORM_addr = 0x01;
const DW_FORM_data2 = 0x05;
const DW_FORM_data8 = 0x07;
const DW_FORM_sec_offset = 0x17;
const DW_LANG_Rust = 0x1c;

/** What our units have: their entries' abbreviations by code, each an attribute and a form by turns. */
const ABBREVIATIONS = [
  [1, DW_TAG_compile_unit, 1, DW_AT_name, DW_FORM_string, DW_AT_comp_dir, DW_FORM_string],
  [DW_AT_language, DW_FORM_data2, DW_AT_stmt_list, DW_FORM_sec_offset],
  [DW_AT_low_pc, DW_FORM_addr, DW_AT_ranges, DW_FORM_sec_offset, 0, 0],
  [2, DW_TAG_subprogram, 0, DW_AT_name, DW_FORM_string, DW_AT_linkage_name, DW_FORM_string],
  [DW_AT_low_pc, DW_FORM_addr, DW_AT_high_pc, DW_FORM_data8, 0, 0],
  [3, DW_TAG_namespace, 1, DW_AT_name, DW_FORM_string, 0, 0, 0],
].flat();

class Sections {
  readonly #lines = new Writer(4096);
  readonly #lineNames = new Writer(0);
  readonly #units = new Writer(1024);
  readonly #ranges = new Writer(256);

  add(object: ElfParts, functions: readonly NamedCode[]): void {
    const root = readRoot(object);
    const table = sectionOf(object, '.debug_line');
    if (root === undefined || table === undefined) return;
    const lines = this.#lines.length;
    if (!this.#copyLines(object, table, functions)) return;
    const ranges = this.#ranges.length;
    const unit = new Writer(256);
    unit.bytes([4, 0]); // The version,
    unit.u32le(0); // where the abbreviations are,
    unit.u8(8); // and the size of an address.
    unit.u8(1);
    text(unit, root.name);
    text(unit, root.directory);
    unit.bytes([DW_LANG_Rust, 0]);
    unit.u32le(lines);
    address(unit, 0);
    unit.u32le(ranges);
    for (const one of functions) {
      const path = segments(readable(one.name));
      const name = path.pop() ?? '';
      for (const namespace of path) {
        unit.u8(3);
        text(unit, namespace);
      }
      unit.u8(2);
      text(unit, name);
      text(unit, one.name);
      address(unit, one.address);
      address(unit, one.sizeBytes);
      unit.zeros(path.length);
      address(this.#ranges, one.address);
      address(this.#ranges, one.address + one.sizeBytes);
    }
    unit.u8(0);
    this.#ranges.zeros(16);
    this.#units.u32le(unit.length);
    this.#units.bytes(unit.finish());
  }

  /** The table's header and the sequences of these functions; false when there are none. */
  #copyLines(object: ElfParts, table: Section, functions: readonly NamedCode[]): boolean {
    const { bytes } = table;
    const reader = new Reader(bytes, object.name);
    const length = reader.u32le('the length of a line table');
    const version = readHalf(reader, 'the version of a line table');
    // One table for the object, in the 32-bit format.
    if (length !== bytes.length - 4 || (version !== 4 && version !== 5)) return false;
    if (version === 5) reader.skip(2);
    const program = reader.u32le('the length of a header') + reader.position;
    const relocations = relocationsOf(object, table);
    const places = new Map(functions.map(({ atom, address: place }) => [atom, place]));

    const copy = new Writer(1024);
    copy.bytes(bytes.subarray(0, program));
    const names = this.#lineNames.length;
    const head = new DataView(copy.finish().buffer);
    const starts = relocations.filter(({ offset }) => offset >= program);
    for (const { offset, addend } of relocations) if (offset < program) head.setUint32(offset, names + addend, true);
    let found = false;
    for (const [index, { offset, symbol }] of starts.entries()) {
      const atom = object.atoms[object.symbols[symbol]?.atom ?? -1];
      const place = atom && places.get(atom);
      if (place === undefined) continue;
      // DW_LNE_set_address: 0, the length, the opcode, and here the address.
      const start = offset - SET_ADDRESS.length;
      if (SET_ADDRESS.some((byte, at) => bytes[start + at] !== byte)) return false;
      const next = starts[index + 1];
      copy.bytes(SET_ADDRESS);
      address(copy, place);
      copy.bytes(bytes.subarray(offset + 8, next === undefined ? bytes.length : next.offset - SET_ADDRESS.length));
      found = true;
    }
    if (!found) return false;
    if (version === 5) this.#lineNames.bytes(sectionOf(object, '.debug_line_str')?.bytes ?? []);
    const finished = copy.finish();
    new DataView(finished.buffer).setUint32(0, finished.length - 4, true);
    this.#lines.bytes(finished);
    return true;
  }

  finish(): ReadonlyMap<string, Uint8Array> {
    if (this.#units.length === 0) return new Map();
    const abbreviations = new Writer(64);
    for (const value of ABBREVIATIONS) writeUnsigned(abbreviations, value);
    return new Map([
      ['.debug_line', this.#lines.finish()],
      ['.debug_line_str', this.#lineNames.finish()],
      ['.debug_info', this.#units.finish()],
      ['.debug_abbrev', abbreviations.finish()],
      ['.debug_ranges', this.#ranges.finish()],
    ]);
  }
}

/** Of a path, as debuggers take it apart: `a::<b::C as d::E>::f::<g::H>` has three. */
function segments(path: string): string[] {
  let depth = 0;
  const parts = [''];
  for (const token of path.match(/::(?!<)|->|./gsu) ?? []) {
    if ('<([{'.includes(token)) depth += 1;
    if ('>)]}'.includes(token)) depth -= 1;
    if (token === '::' && depth === 0) parts.push('');
    else parts.push(`${parts.pop()}${token}`);
  }
  return parts;
}

const SET_ADDRESS = [0, 9, 2];

interface Section {
  readonly section: number;
  readonly bytes: Uint8Array;
}

function sectionOf(object: ElfParts, name: string): Section | undefined {
  return object.sections.find((section) => section.name === name);
}

/** Those of a section's beginning, when `most` says how many. */
function relocationsOf(object: ElfParts, { section }: Section, most = Infinity): Relocation[] {
  const own = object.elf.sections.find(({ type, info }) => type === SHT_RELA && info === section);
  if (own === undefined) return [];
  const part: ElfSection = { ...own, bytes: own.bytes.subarray(0, Math.min(own.bytes.length, RELA_SIZE * most)) };
  return readRelocationEntries(object.elf, part);
}

/** More fields than the first entry of a unit has. */
const ROOT_FIELDS = 32;

/** What the object's unit is called, and the folder that its paths count from. */
function readRoot(object: ElfParts): { readonly name: string; readonly directory: string } | undefined {
  const info = sectionOf(object, '.debug_info');
  if (info === undefined) return undefined;
  const targets = new Map(relocationsOf(object, info, ROOT_FIELDS).map(({ offset, addend }) => [offset, addend]));
  const reader = new Reader(info.bytes, object.name);
  reader.skip(4, 'the length of a unit');
  const version = readHalf(reader, 'the version of a unit');
  const encoding: Encoding = { addressSize: 8, offsetSize: 4 };
  const offset = (): number => {
    const at = reader.position;
    const field = reader.u32le('an offset');
    return targets.get(at) ?? field;
  };
  if (version === 5) reader.skip(2);
  const abbreviationsAt = offset();
  if (version !== 5) reader.skip(1);
  const file = {
    name: object.name,
    sections: (name: string) =>
      object.sections
        .filter((section) => section.name === name)
        .map(({ bytes }) => ({ bytes, offset: 0, relocations: () => NO_FIELDS })),
  };
  const abbreviation = readAbbreviations(file, abbreviationsAt, encoding).get(readU32(reader));
  const texts = new Map<number, string>();
  for (const { at, form } of abbreviation?.attributes ?? []) {
    if (form === DW_FORM_strp) texts.set(at, textAt(object, '.debug_str', offset()));
    else if (form === DW_FORM_line_strp) texts.set(at, textAt(object, '.debug_line_str', offset()));
    else skipForm(reader, form, encoding);
  }
  return { name: texts.get(DW_AT_name) ?? '', directory: texts.get(DW_AT_comp_dir) ?? '' };
}

const NO_FIELDS = { places: new Uint32Array(), values: new Float64Array() };

function textAt(object: ElfParts, section: string, offset: number): string {
  const bytes = sectionOf(object, section)?.bytes ?? new Uint8Array();
  const end = bytes.indexOf(0, offset);
  const reader = new Reader(bytes, object.name);
  reader.position = Math.min(offset, bytes.length);
  return reader.utf8(Math.max(end - offset, 0));
}

function text(writer: Writer, value: string): void {
  writer.bytes(encodeUtf8(value));
  writer.u8(0);
}

function address(writer: Writer, value: number): void {
  writer.u64le(BigInt(value));
}
