// A file's debug sections in; out come its units, and in each the tree of those entries (DIEs) that tell of types and
// functions. What an entry says is read when asked.
//
// Most entries are of no interest here: local variables, blocks, what was inlined. rustc leaves DW_AT_sibling out, so one
// walk passes over all of them once, by the sizes that their abbreviations tell, and keeps the places of the others.
// DWARF 5 (https://dwarfstd.org/doc/DWARF5.pdf), section 7.5; DWARF 4, section 7.5, where the two differ.

import { type Abbreviation, type Abbreviations, type Attribute, DW_AT, readAbbreviations } from './dwarfabbrev.ts';
import {
  DW_FORM_GNU_str_index,
  DW_FORM_indirect,
  DW_FORM_line_strp,
  DW_FORM_ref_addr,
  DW_FORM_ref_sig8,
  DW_FORM_string,
  DW_FORM_strp,
  DW_FORM_strx,
  DW_FORM_strx1,
  DW_FORM_strx4,
  type Encoding,
  formAt,
  indirectForm,
  readConstant,
  readNumber,
  skipForm,
} from './dwarfforms.ts';
import { type DebugFile, Strings, UnitSection } from './dwarfsections.ts';
import { hex, readHalf, readXword } from './elf.ts';
import { readU32 } from './leb128.ts';

/** What an entry says, as far as types and functions go. References are places. */
export interface Entry {
  readonly name: string | undefined;
  /** `DW_AT_type` */
  readonly type: number | undefined;
  /** `DW_AT_specification` or `DW_AT_abstract_origin`: the entry that says the rest. */
  readonly origin: number | undefined;
  /** `DW_AT_discr` */
  readonly discriminant: number | undefined;
  /** `DW_AT_signature` of a declaration: the place of the type in its own unit. */
  readonly definition: number | undefined;
  /** 0 where nothing is said; so are the other numbers. */
  readonly sizeBytes: number;
  /** In bytes. */
  readonly alignment: number;
  /** `DW_AT_data_member_location` */
  readonly offset: number;
  /** `DW_AT_discr_value`, `DW_AT_discr_list` or `DW_AT_const_value`. */
  readonly value: string | undefined;
  /** `DW_AT_count`, or the upper bound. */
  readonly count: string | undefined;
  readonly encoding: number;
  readonly isDeclaration: boolean;
}

const NOTHING: Entry = {
  name: undefined,
  type: undefined,
  origin: undefined,
  discriminant: undefined,
  definition: undefined,
  sizeBytes: 0,
  alignment: 0,
  offset: 0,
  value: undefined,
  count: undefined,
  encoding: 0,
  isDeclaration: false,
};

/**
 * Where an entry is among all units: section and offset in one number, so that references may cross units and sections.
 * Kept entries have an index in their unit besides, in the order of the file.
 */
const SECTION_SPAN = 2 ** 40;

/** Entries in entries; blocks in functions nest deepest. */
const MAX_NESTING = 2000;

/** All units of a file. */
export class Units {
  readonly list: readonly Unit[];
  readonly strings: Strings;
  readonly #bySignature = new Map<bigint, number>();

  /** Reads the units' headers; throws MalformedError. */
  constructor(file: DebugFile) {
    this.strings = new Strings(file);
    const list: Unit[] = [];
    const tables = new Map<string, Abbreviations>();
    const sections = ['.debug_info', '.debug_types'].flatMap((name) =>
      file.sections(name).map((section) => ({ section, isTypes: name === '.debug_types' })),
    );
    for (const [index, { section, isTypes }] of sections.entries()) {
      const from = new UnitSection(file, section, index * SECTION_SPAN);
      while (!from.reader.atEnd) list.push(readUnit(this, file, from, isTypes, tables));
    }
    for (const { signature, typeAt } of list) {
      if (signature !== undefined && typeAt !== undefined) this.#bySignature.set(signature, typeAt);
    }
    this.list = list;
  }

  /** The unit that holds a place; of a place in none, one that will say so. */
  at(place: number): Unit {
    const [first] = this.list;
    if (first === undefined) throw new RangeError('a place in no unit');
    if (this.list.length === 1) return first;
    return this.list.find(({ start, end }) => place >= start && place < end) ?? first;
  }

  signed(signature: bigint): number | undefined {
    return this.#bySignature.get(signature);
  }
}

const DW_UT_type = 2;
const DW_UT_skeleton = 4;
const DW_UT_split_compile = 5;
const DW_UT_split_type = 6;

/** Sections 7.4 and 7.5.1. */
function readUnit(
  units: Units,
  file: DebugFile,
  section: UnitSection,
  isTypes: boolean,
  tables: Map<string, Abbreviations>,
): Unit {
  const { reader } = section;
  const start = reader.position;
  let length = reader.u32le('the length of a unit');
  const offsetSize = length === 0xffff_ffff ? 8 : 4;
  if (offsetSize === 8) length = readXword(reader, 'the length of a unit');
  else if (length >= 0xffff_fff0) reader.fail('the length of a unit', hex(length), start);
  if (length > reader.remaining) reader.fail(`a unit of ${length} bytes`, `${reader.remaining} bytes`, start);
  const end = reader.position + length;
  const version = readHalf(reader, 'the version of a unit');
  if (version !== 4 && version !== 5) reader.fail('DWARF 4 or 5', `version ${version}`, reader.position - 2);
  let type = isTypes ? DW_UT_type : 1;
  let addressSize = 0;
  if (version === 5) {
    const at = reader.position;
    type = reader.u8('the type of a unit');
    if (type < 1 || type > DW_UT_split_type) reader.fail('a type of units', `${type}`, at);
    addressSize = reader.u8('the size of an address');
  }
  const abbreviationsAt = section.readOffset({ addressSize, offsetSize }, 'the offset of abbreviations');
  if (version === 4) addressSize = reader.u8('the size of an address');
  if (addressSize < 1 || addressSize > 8) reader.fail('the size of an address', `${addressSize}`, reader.position - 1);
  const encoding: Encoding = { addressSize, offsetSize };
  let signature: bigint | undefined;
  let typeAt: number | undefined;
  if (type === DW_UT_type || type === DW_UT_split_type) {
    signature = reader.u64le('the signature of a type');
    const offset = offsetSize === 4 ? reader.u32le('the offset of a type') : readXword(reader, 'the offset of a type');
    typeAt = section.base + start + offset;
  } else if (type === DW_UT_skeleton || type === DW_UT_split_compile) {
    reader.skip(8, 'the identifier of a unit');
  }
  if (reader.position > end) reader.fail('a unit as long as its header', `${length} bytes`, start);
  const key = `${abbreviationsAt} ${addressSize} ${offsetSize}`;
  const abbreviations = tables.get(key) ?? readAbbreviations(file, abbreviationsAt, encoding);
  tables.set(key, abbreviations);
  const unit = { start, first: reader.position, end, encoding, abbreviations, signature, typeAt };
  reader.position = end;
  return new Unit(units, section, unit);
}

interface UnitHeader {
  /** Offsets in the section: of the header, of the first entry, and of what follows. */
  readonly start: number;
  readonly first: number;
  readonly end: number;
  readonly encoding: Encoding;
  readonly abbreviations: Abbreviations;
  /** Of a type unit; and the place of its type. */
  readonly signature: bigint | undefined;
  readonly typeAt: number | undefined;
}

/** One unit. Entries are named by their index among the kept ones. */
export class Unit {
  /** Places. */
  readonly start: number;
  readonly end: number;
  readonly signature: bigint | undefined;
  readonly typeAt: number | undefined;
  readonly #units: Units;
  readonly #section: UnitSection;
  readonly #header: UnitHeader;
  readonly #entry: Mutable<Entry> = { ...NOTHING };
  #tree: Tree | undefined;
  #stringBase: number | undefined;

  constructor(units: Units, section: UnitSection, header: UnitHeader) {
    this.start = section.base + header.start;
    this.end = section.base + header.end;
    this.signature = header.signature;
    this.typeAt = header.typeAt;
    this.#units = units;
    this.#section = section;
    this.#header = header;
  }

  /** Of kept entries. */
  get count(): number {
    return this.#walked().offsets.length;
  }

  tag(index: number): number {
    return this.#walked().abbreviations[index]?.tag ?? 0;
  }

  place(index: number): number {
    return this.#section.base + (this.#walked().offsets[index] ?? 0);
  }

  /** The nearest kept entry around; -1 for the unit's own. */
  parent(index: number): number {
    return this.#walked().parents[index] ?? -1;
  }

  /** Kept entries with that tag right below. */
  children(index: number, tag: number): number[] {
    const { ends, abbreviations } = this.#walked();
    const children: number[] = [];
    const end = ends[index] ?? 0;
    for (let child = index + 1; child < end; child = ends[child] ?? end) {
      if (abbreviations[child]?.tag === tag) children.push(child);
    }
    return children;
  }

  /** True when no kept entry is below. */
  isLeaf(index: number): boolean {
    return this.#walked().ends[index] === index + 1;
  }

  /** The first kept entry with that tag right below. */
  child(index: number, tag: number): number | undefined {
    const { ends, abbreviations } = this.#walked();
    const end = ends[index] ?? 0;
    for (let child = index + 1; child < end; child = ends[child] ?? end) {
      if (abbreviations[child]?.tag === tag) return child;
    }
    return undefined;
  }

  /** The kept entry at a place. */
  indexAt(place: number): number {
    const index = this.lastUpTo(place);
    return index >= 0 && this.place(index) === place
      ? index
      : this.fail('a type or a function', 'another entry', place);
  }

  /** The last kept entry that begins at the place or before it; -1 for none. */
  lastUpTo(place: number): number {
    const { offsets } = this.#walked();
    const offset = place - this.#section.base;
    let from = 0;
    for (let end = offsets.length; from < end;) {
      const middle = (from + end) >>> 1;
      if ((offsets[middle] ?? 0) <= offset) from = middle + 1;
      else end = middle;
    }
    return from - 1;
  }

  /** By equal abbreviations, entries of the same kinds stand in the same places, and name things in the same way. */
  hasTreeOf(other: Unit): boolean {
    const one = this.#walked();
    const two = other.#walked();
    return (
      this.start === other.start &&
      this.end === other.end &&
      this.#stringOffsetsBase() === other.#stringOffsetsBase() &&
      one.offsets.length === two.offsets.length &&
      one.offsets.every(
        (offset, index) => offset === two.offsets[index] && one.parents[index] === two.parents[index],
      ) &&
      one.abbreviations.every((abbreviation, index) => abbreviation.code === two.abbreviations[index]?.code)
    );
  }

  fail(expected: string, found: string, place: number): never {
    const { reader, base } = this.#section;
    const position = place - base;
    return reader.fail(
      expected,
      found,
      position >= 0 && position < reader.source.length ? position : this.#header.start,
    );
  }

  /** What an entry says: one object for all entries, which holds until the next call. There are tens of thousands. */
  entry(index: number): Entry {
    Object.assign(this.#entry, NOTHING);
    for (const attribute of this.#enter(index).attributes) this.#readAttribute(this.#entry, attribute);
    return this.#entry;
  }

  /** What an entry says of its name. */
  name(index: number): string | undefined {
    return this.#text(index, DW_AT.name, DW_AT.name);
  }

  linkageName(index: number): string | undefined {
    return this.#text(index, DW_AT.linkage_name, DW_AT.MIPS_linkage_name);
  }

  #text(index: number, at: number, orAt: number): string | undefined {
    for (const attribute of this.#enter(index).attributes) {
      const form = attribute.form === DW_FORM_indirect ? indirectForm(this.#section.reader) : attribute.form;
      if (attribute.at === at || attribute.at === orAt) return this.#string(form);
      skipForm(this.#section.reader, form, this.#header.encoding);
    }
    return undefined;
  }

  /** Goes to the attributes of an entry. */
  #enter(index: number): Abbreviation {
    const { offsets, abbreviations } = this.#walked();
    const abbreviation = abbreviations[index];
    if (abbreviation === undefined) throw new RangeError(`no entry ${index}`);
    const { reader } = this.#section;
    reader.position = offsets[index] ?? 0;
    readU32(reader);
    return abbreviation;
  }

  #walked(): Tree {
    return (this.#tree ??= this.#walk());
  }

  #walk(): Tree {
    const tree: Tree = { offsets: [], abbreviations: [], parents: [], ends: [] };
    const { reader } = this.#section;
    const { abbreviations, encoding, first, end } = this.#header;
    /** Around the next entry: the index of a kept entry, or that of the nearest one with its bits inverted. */
    const open: number[] = [];
    let around = -1;
    reader.position = first;
    while (reader.position < end) {
      const offset = reader.position;
      const code = readU32(reader, 'an abbreviation code');
      if (code === 0) {
        if (around >= 0) tree.ends[around] = tree.offsets.length;
        around = open.pop() ?? -1;
        // The unit's own entry is closed: what follows fills the unit up.
        if (open.length === 0) break;
        continue;
      }
      const abbreviation = abbreviations.get(code) ?? reader.fail('a known abbreviation', `${code}`, offset);
      const { tag, sizeBytes, hasChildren } = abbreviation;
      if (sizeBytes !== undefined) reader.skip(sizeBytes, 'the attributes of an entry');
      else for (const { form } of abbreviation.attributes) skipForm(reader, form, encoding);
      const isRoot = open.length === 0;
      if (isRoot && !abbreviation.isKept) reader.fail("a unit's own entry", `tag ${hex(tag)}`, offset);
      const isKept = abbreviation.isKept && (around >= 0 || isRoot || !abbreviation.needsParent);
      const index = tree.offsets.length;
      if (isKept) {
        tree.offsets.push(offset);
        tree.abbreviations.push(abbreviation);
        tree.parents.push(around >= 0 ? around : isRoot ? -1 : ~around);
        tree.ends.push(index + 1);
      }
      if (hasChildren) {
        if (open.length === MAX_NESTING) reader.fail(`entries nested less than ${MAX_NESTING} deep`, 'more', offset);
        open.push(around);
        if (isKept) around = index;
        else if (around >= 0) around = ~around;
      } else if (isRoot) break;
    }
    if (reader.position > end) reader.fail('entries inside their unit', 'one that ends behind it', end);
    // A tree that the end of the unit cuts off.
    for (const index of [...open, around]) if (index >= 0) tree.ends[index] = tree.offsets.length;
    return tree;
  }

  #readAttribute(entry: Mutable<Entry>, { at, form: written, value }: Attribute): void {
    const { reader } = this.#section;
    const { encoding } = this.#header;
    const form = written === DW_FORM_indirect ? indirectForm(reader) : written;
    switch (at) {
      case DW_AT.name:
        entry.name = this.#string(form);
        break;
      case DW_AT.type:
        entry.type = this.#reference(form);
        break;
      case DW_AT.abstract_origin:
      case DW_AT.specification:
        entry.origin = this.#reference(form);
        break;
      case DW_AT.discr:
        entry.discriminant = this.#reference(form);
        break;
      case DW_AT.signature:
        entry.definition = this.#reference(form);
        break;
      case DW_AT.byte_size:
        entry.sizeBytes = this.#number(form, value, 'a size');
        break;
      case DW_AT.alignment:
        entry.alignment = this.#number(form, value, 'an alignment');
        break;
      case DW_AT.data_member_location:
        entry.offset = this.#number(form, value, "a member's offset");
        break;
      case DW_AT.encoding:
        entry.encoding = this.#number(form, value, 'an encoding');
        break;
      case DW_AT.declaration:
        entry.isDeclaration = this.#number(form, value, 'a flag') !== 0;
        break;
      case DW_AT.discr_value:
      case DW_AT.discr_list:
      case DW_AT.const_value:
        entry.value = value ?? readConstant(reader, form, encoding);
        break;
      case DW_AT.count:
        entry.count = value ?? readConstant(reader, form, encoding);
        break;
      case DW_AT.upper_bound:
        // rustc gives counts; a bound in another form is told apart all the same.
        entry.count ??= `..=${value ?? readConstant(reader, form, encoding)}`;
        break;
      default:
        skipForm(reader, form, encoding);
    }
  }

  #number(form: number, value: string | undefined, expected: string): number {
    return value === undefined
      ? readNumber(this.#section.reader, form, this.#header.encoding, expected)
      : Number(value);
  }

  #string(form: number): string {
    const { reader } = this.#section;
    const { encoding } = this.#header;
    const { strings } = this.#units;
    if (form === DW_FORM_strp) return strings.at('.debug_str', this.#section.readOffset(encoding, 'a name'));
    if (form === DW_FORM_line_strp) return strings.at('.debug_line_str', this.#section.readOffset(encoding, 'a name'));
    if (form === DW_FORM_strx || form === DW_FORM_GNU_str_index || (form >= DW_FORM_strx1 && form <= DW_FORM_strx4)) {
      const index = readNumber(reader, form, encoding, 'the index of a name');
      const position = reader.position;
      const text = strings.indexed(this.#stringOffsetsBase(), index, encoding);
      reader.position = position;
      return text;
    }
    const start = reader.position;
    if (form !== DW_FORM_string) reader.fail('a name', formAt(reader, form, start).name);
    skipForm(reader, form, encoding);
    const length = reader.position - start - 1;
    reader.position = start;
    const text = reader.utf8(length);
    reader.skip(1);
    return text;
  }

  /** `DW_AT_str_offsets_base` of the unit's own entry; without it, the offsets begin behind one header. */
  #stringOffsetsBase(): number {
    if (this.#stringBase !== undefined) return this.#stringBase;
    const { reader } = this.#section;
    const { first, abbreviations, encoding } = this.#header;
    const resume = reader.position;
    reader.position = first;
    this.#stringBase = encoding.offsetSize === 4 ? 8 : 16;
    for (const { at, form } of abbreviations.get(readU32(reader))?.attributes ?? []) {
      if (at === DW_AT.str_offsets_base) {
        this.#stringBase = this.#section.readOffset(encoding, 'the base of the offsets of names');
        break;
      }
      skipForm(reader, form, encoding);
    }
    reader.position = resume;
    return this.#stringBase;
  }

  /** A place (section 7.5.5.9). */
  #reference(form: number): number {
    const { reader, base } = this.#section;
    const { encoding, start } = this.#header;
    const position = reader.position;
    if (form === DW_FORM_ref_sig8) {
      const signature = reader.u64le('the signature of a type');
      return (
        this.#units.signed(signature) ?? reader.fail('a type with that signature', hex(Number(signature)), position)
      );
    }
    // Of several sections with units, it counts in the first.
    if (form === DW_FORM_ref_addr) return this.#section.readOffset(encoding, 'a reference');
    return base + start + readNumber(reader, form, encoding, 'a reference');
  }
}

/** Kept entries in the order of the file: where each is, what is around it, and the index behind what is in it. */
interface Tree {
  readonly offsets: number[];
  readonly abbreviations: Abbreviation[];
  readonly parents: number[];
  readonly ends: number[];
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
