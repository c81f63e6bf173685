// An ELF file's bytes for x86-64 ↔ its headers, segments and sections, without loss: objects, programs, shared objects.
// Contents of sections are views that nobody has looked into, so a program of tens of megabytes reads in milliseconds.
// https://gabi.xinuos.com (the generic ABI, chapters 2 to 5 and 7); https://gitlab.com/x86-psABIs/x86-64-ABI

import { isZero, MalformedError, Reader, Writer } from './bytes.ts';
import { StringTable } from './elfstrings.ts';

export interface Elf {
  /** For messages. */
  readonly name: string;
  readonly header: ElfHeader;
  readonly segments: readonly ElfSegment[];
  /** By index; the first is the null section, as symbols and links count it. Empty when the file has no table of them. */
  readonly sections: readonly ElfSection[];
  /** Bytes other than zero that neither a header nor a section covers, e.g. what a tool put behind the end. */
  readonly gaps: readonly Gap[];
  /** Of the file, in bytes. */
  readonly sizeBytes: number;
}

/** The file's header but for what follows from the rest: counts of headers, and how large they are. */
export interface ElfHeader {
  /** The identification: magic, class, byte order, version, operating system. */
  readonly identification: Uint8Array;
  /** `ET_*` */
  readonly type: number;
  /** Address to start at, 0 for none. */
  readonly entry: number;
  readonly flags: number;
  /** Where the program headers are in the file, 0 for nowhere; ... */
  readonly segmentOffset: number;
  /** ... and the section headers. */
  readonly sectionOffset: number;
  /** In bytes, of a header of each kind, as the file says even when it has none. */
  readonly segmentEntrySize: number;
  readonly sectionEntrySize: number;
  /** Index of the section that holds the sections' names. */
  readonly nameSection: number;
}

/** A program header. Addresses, offsets and sizes are in bytes. */
export interface ElfSegment {
  /** `PT_*` */
  readonly type: number;
  /** `PF_*` */
  readonly flags: number;
  readonly offset: number;
  readonly address: number;
  readonly physicalAddress: number;
  readonly fileSizeBytes: number;
  readonly sizeBytes: number;
  readonly alignment: number;
}

/** A section header, and what it is about. */
export interface ElfSection {
  readonly name: string;
  /** Where the name is in the table of names. */
  readonly nameOffset: number;
  /** `SHT_*` */
  readonly type: number;
  /** `SHF_*` */
  readonly flags: number;
  readonly address: number;
  readonly offset: number;
  /** In memory, and in the file unless the type is `SHT_NOBITS`. */
  readonly sizeBytes: number;
  /** What they mean depends on the type. */
  readonly link: number;
  readonly info: number;
  /** 0 and 1 alike mean none. */
  readonly alignment: number;
  readonly entrySize: number;
  /** Empty for `SHT_NOBITS`. */
  readonly bytes: Uint8Array;
}

interface Gap {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

export const ET_REL = 1;
export const ET_EXEC = 2;
export const ET_DYN = 3;

export const PT_LOAD = 1;
export const PT_INTERP = 3;
export const PT_NOTE = 4;
export const PT_TLS = 7;

export const PF_X = 1;
export const PF_W = 2;
export const PF_R = 4;

export const SHT_NULL = 0;
export const SHT_PROGBITS = 1;
export const SHT_SYMTAB = 2;
export const SHT_STRTAB = 3;
export const SHT_RELA = 4;
export const SHT_DYNAMIC = 6;
export const SHT_NOTE = 7;
export const SHT_NOBITS = 8;
export const SHT_REL = 9;
export const SHT_DYNSYM = 11;
export const SHT_GROUP = 17;
export const SHT_SYMTAB_SHNDX = 18;
export const SHT_CREL = 0x40000014;
export const SHT_X86_64_UNWIND = 0x70000001;

export const SHF_WRITE = 0x1;
export const SHF_ALLOC = 0x2;
export const SHF_EXECINSTR = 0x4;
export const SHF_MERGE = 0x10;
export const SHF_STRINGS = 0x20;
export const SHF_INFO_LINK = 0x40;
export const SHF_GROUP = 0x200;
export const SHF_TLS = 0x400;

/** Section indices from here on mean something else than a section. */
export const SHN_LORESERVE = 0xff00;
export const SHN_UNDEF = 0;
export const SHN_ABS = 0xfff1;
export const SHN_COMMON = 0xfff2;
/** The index did not fit: it is elsewhere. */
export const SHN_XINDEX = 0xffff;

export const HEADER_SIZE = 64;
const SEGMENT_SIZE = 56;
const PAGE_SIZE = 4096;
export const SECTION_SIZE = 64;
const EM_X86_64 = 62;
/** Likewise of the number of segments. */
const PN_XNUM = 0xffff;
const MAGIC = 0x464c457f;
/** How every ELF file begins. */
export const ELF_MAGIC: readonly number[] = [0x7f, 0x45, 0x4c, 0x46];
/** Magic, 64-bit, little-endian, version 1; System V. */
const IDENTIFICATION = [...ELF_MAGIC, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/** What every section has, for sections of our own. */
export const NULL_SECTION: ElfSection = {
  name: '',
  nameOffset: 0,
  type: SHT_NULL,
  flags: 0,
  address: 0,
  offset: 0,
  sizeBytes: 0,
  link: 0,
  info: 0,
  alignment: 0,
  entrySize: 0,
  bytes: new Uint8Array(),
};

/** The header of a relocatable object that has yet to be laid out. */
export const OBJECT_HEADER: ElfHeader = {
  identification: Uint8Array.from(IDENTIFICATION),
  type: ET_REL,
  entry: 0,
  flags: 0,
  segmentOffset: 0,
  sectionOffset: 0,
  segmentEntrySize: 0,
  sectionEntrySize: SECTION_SIZE,
  nameSection: 0,
};

/** Reads headers only; throws MalformedError. Symbols, relocations and notes are for who needs them. */
export function readElf(bytes: Uint8Array, name: string): Elf {
  const reader = new Reader(bytes, name);
  const { header, segmentCount, sectionCount } = readLayout(reader);
  const segments = readSegments(reader, header.segmentOffset, segmentCount);
  const { sectionOffset, nameSection } = header;
  const names =
    nameSection === 0
      ? undefined
      : new StringTable(readSection(reader, sectionOffset + nameSection * SECTION_SIZE), name);
  const sections = Array.from({ length: sectionCount }, (_, index) =>
    readSection(reader, sectionOffset + index * SECTION_SIZE, names),
  );
  const elf = { name, header, segments, sections, gaps: [], sizeBytes: bytes.length };
  return { ...elf, gaps: gapsOf(elf, bytes) };
}

/** The header, and how many headers there are of segments and sections; those of sections are inside the file. */
export function readLayout(reader: Reader): { header: ElfHeader; segmentCount: number; sectionCount: number } {
  const { header, segmentCount, sectionCount } = readHeader(reader);
  // Counts and indices that do not fit into the header are in the null section's header.
  const first = header.sectionOffset === 0 ? undefined : readSection(reader, header.sectionOffset);
  const count = sectionCount || (first?.sizeBytes ?? 0);
  if (first !== undefined && sectionCount === 0 && count < SHN_LORESERVE) {
    reader.fail('the number of sections', `${count}`, 60);
  }
  const isLong = segmentCount === PN_XNUM && first !== undefined;
  if (isLong && first.info < PN_XNUM) reader.fail('the number of segments', `${first.info}`, 56);
  const nameSection = header.nameSection === SHN_XINDEX ? (first?.link ?? 0) : header.nameSection;
  checkTable(reader, header.sectionOffset, count, SECTION_SIZE, 'section headers');
  if (nameSection >= count && count > 0) reader.fail('the section of names', `section ${nameSection}`, 62);
  return { header: { ...header, nameSection }, segmentCount: isLong ? first.info : segmentCount, sectionCount: count };
}

/** The file again: what `readElf` read, byte for byte. Offsets are taken as they stand; `layOut` gives new ones. */
export function writeElf(elf: Elf): Uint8Array<ArrayBuffer> {
  const { header, segments, sections } = elf;
  const bytes = new Uint8Array(elf.sizeBytes);
  for (const section of sections) bytes.set(section.bytes, section.bytes.length === 0 ? 0 : section.offset);
  for (const gap of elf.gaps) bytes.set(gap.bytes, gap.offset);
  bytes.set(writeHeader(elf), 0);
  if (segments.length > 0) bytes.set(writeSegments(segments), header.segmentOffset);
  if (sections.length > 0) bytes.set(writeSections(sections), header.sectionOffset);
  return bytes;
}

/** Gives the sections of a relocatable object places in the file, in their order, and the headers after them. */
export function layOut(elf: Elf): Elf {
  let end = HEADER_SIZE;
  const sections = elf.sections.map((section) => {
    if (section.type === SHT_NULL) return section;
    // Linkers place the content in memory as its alignment asks; in the file it is a courtesy, and not worth more.
    const offset = alignUp(end, Math.min(section.alignment, PAGE_SIZE));
    end = offset + section.bytes.length;
    return { ...section, offset };
  });
  // What the header has no room for.
  const { nameSection } = elf.header;
  sections[0] = {
    ...NULL_SECTION,
    sizeBytes: sections.length < SHN_LORESERVE ? 0 : sections.length,
    link: nameSection < SHN_LORESERVE ? 0 : nameSection,
  };
  const sectionOffset = alignUp(end, 8);
  const sizeBytes = sectionOffset + SECTION_SIZE * sections.length;
  return { ...elf, header: { ...elf.header, sectionOffset }, sections, gaps: [], sizeBytes };
}

/** The next multiple of `alignment`, which is a power of two, or 0 for none. */
export function alignUp(value: number, alignment: number): number {
  return alignment > 1 ? Math.ceil(value / alignment) * alignment : value;
}

/** The sections of that type. */
export function sectionsOf(elf: Elf, type: number): readonly ElfSection[] {
  return elf.sections.filter((section) => section.type === type);
}

function readHeader(reader: Reader): { header: ElfHeader; segmentCount: number; sectionCount: number } {
  const magic = reader.remaining < HEADER_SIZE ? 0 : reader.u32le();
  if (magic !== MAGIC) reader.fail('an ELF file', 'other bytes', 0);
  const [format = 0, order = 0] = reader.bytes(2);
  if (format !== 2 || order !== 1) reader.fail('64-bit little-endian ELF', `class ${format}, order ${order}`, 4);
  reader.position = 0;
  const identification = reader.bytes(16);
  const type = readHalf(reader);
  const machine = readHalf(reader);
  if (machine !== EM_X86_64) reader.fail('an ELF file for x86-64', `machine ${machine}`, 18);
  const version = reader.u32le();
  if (version !== 1) reader.fail('ELF version 1', `${version}`, 20);
  const entry = readXword(reader, 'the entry point');
  const segmentOffset = readXword(reader, 'the offset of the program headers');
  const sectionOffset = readXword(reader, 'the offset of the section headers');
  const flags = reader.u32le();
  const size = readHalf(reader);
  if (size !== HEADER_SIZE) reader.fail(`a header of ${HEADER_SIZE} bytes`, `${size}`, 52);
  const segmentEntrySize = readHalf(reader);
  const segmentCount = readHalf(reader);
  const sectionEntrySize = readHalf(reader);
  const sectionCount = readHalf(reader);
  const nameSection = readHalf(reader);
  if (segmentCount > 0 && segmentEntrySize !== SEGMENT_SIZE) {
    reader.fail(`program headers of ${SEGMENT_SIZE} bytes`, `${segmentEntrySize}`, 54);
  }
  if (sectionOffset > 0 && sectionEntrySize !== SECTION_SIZE) {
    reader.fail(`section headers of ${SECTION_SIZE} bytes`, `${sectionEntrySize}`, 58);
  }
  if (sectionOffset === 0 && sectionCount > 0) reader.fail('the offset of the section headers', '0', 40);
  const header = {
    identification,
    type,
    entry,
    flags,
    segmentOffset,
    sectionOffset,
    segmentEntrySize,
    sectionEntrySize,
    nameSection,
  };
  return { header, segmentCount, sectionCount };
}

function writeHeader({ header, segments, sections }: Elf): Uint8Array {
  const writer = new Writer(HEADER_SIZE);
  writer.bytes(header.identification);
  writeHalf(writer, header.type);
  writeHalf(writer, EM_X86_64);
  writer.u32le(1);
  writeXword(writer, header.entry);
  writeXword(writer, header.segmentOffset);
  writeXword(writer, header.sectionOffset);
  writer.u32le(header.flags);
  writeHalf(writer, HEADER_SIZE);
  writeHalf(writer, header.segmentEntrySize);
  writeHalf(writer, Math.min(segments.length, PN_XNUM));
  writeHalf(writer, header.sectionEntrySize);
  writeHalf(writer, sections.length < SHN_LORESERVE ? sections.length : 0);
  writeHalf(writer, header.nameSection < SHN_LORESERVE ? header.nameSection : SHN_XINDEX);
  return writer.finish();
}

function readSegments(reader: Reader, offset: number, count: number): ElfSegment[] {
  checkTable(reader, offset, count, SEGMENT_SIZE, 'program headers');
  return Array.from({ length: count }, (_, index) => {
    const start = offset + index * SEGMENT_SIZE;
    reader.position = start;
    const segment = {
      type: reader.u32le(),
      flags: reader.u32le(),
      offset: readXword(reader, 'the offset of a segment'),
      address: readXword(reader, 'the address of a segment'),
      physicalAddress: readXword(reader, 'the physical address of a segment'),
      fileSizeBytes: readXword(reader, 'the size of a segment'),
      sizeBytes: readXword(reader, 'the size of a segment'),
      alignment: readXword(reader, 'the alignment of a segment'),
    };
    if (segment.offset + segment.fileSizeBytes > reader.source.length) {
      reader.fail('a segment inside the file', `its end at ${hex(segment.offset + segment.fileSizeBytes)}`, start);
    }
    return segment;
  });
}

function writeSegments(segments: readonly ElfSegment[]): Uint8Array {
  const writer = new Writer(SEGMENT_SIZE * segments.length);
  for (const segment of segments) {
    writer.u32le(segment.type);
    writer.u32le(segment.flags);
    writeXword(writer, segment.offset);
    writeXword(writer, segment.address);
    writeXword(writer, segment.physicalAddress);
    writeXword(writer, segment.fileSizeBytes);
    writeXword(writer, segment.sizeBytes);
    writeXword(writer, segment.alignment);
  }
  return writer.finish();
}

/** The section whose header is at `start` in the file; not named without a table of names. */
export function readSection(reader: Reader, start: number, names?: StringTable): ElfSection {
  checkTable(reader, start, 1, SECTION_SIZE, 'section headers');
  const nameOffset = reader.u32At(start);
  const type = reader.u32At(start + 4);
  const flags = xwordAt(reader, start + 8, 'the flags of a section');
  const address = xwordAt(reader, start + 16, 'the address of a section');
  const offset = xwordAt(reader, start + 24, 'the offset of a section');
  const sizeBytes = xwordAt(reader, start + 32, 'the size of a section');
  const link = reader.u32At(start + 40);
  const info = reader.u32At(start + 44);
  const alignment = xwordAt(reader, start + 48, 'the alignment of a section');
  const entrySize = xwordAt(reader, start + 56, "the size of a section's entries");
  if (alignment > 1 && !Number.isInteger(Math.log2(alignment))) {
    reader.fail('an alignment that is a power of two', hex(alignment), start + 48);
  }
  const length = type === SHT_NOBITS || type === SHT_NULL ? 0 : sizeBytes;
  if (length > 0 && offset + length > reader.source.length) {
    reader.fail('a section inside the file', `its end at ${hex(offset + length)}`, start + 24);
  }
  reader.position = length === 0 ? 0 : offset;
  const bytes = reader.bytes(length);
  const name = names?.at(nameOffset, 'the name of a section') ?? '';
  return { name, nameOffset, type, flags, address, offset, sizeBytes, link, info, alignment, entrySize, bytes };
}

function writeSections(sections: readonly ElfSection[]): Uint8Array {
  const bytes = new Uint8Array(SECTION_SIZE * sections.length);
  const view = new DataView(bytes.buffer);
  let start = 0;
  for (const section of sections) {
    view.setUint32(start, section.nameOffset, true);
    view.setUint32(start + 4, section.type, true);
    setXword(view, start + 8, section.flags);
    setXword(view, start + 16, section.address);
    setXword(view, start + 24, section.offset);
    setXword(view, start + 32, section.sizeBytes);
    view.setUint32(start + 40, section.link, true);
    view.setUint32(start + 44, section.info, true);
    setXword(view, start + 48, section.alignment);
    setXword(view, start + 56, section.entrySize);
    start += SECTION_SIZE;
  }
  return bytes;
}

/** That many headers are in the file: so no count makes anyone allocate more than the file could ask for. */
function checkTable(reader: Reader, offset: number, count: number, size: number, what: string): void {
  if (count === 0 || offset + count * size <= reader.source.length) return;
  reader.fail(`${count} ${what}`, 'end of file', Math.min(offset, reader.source.length));
}

function gapsOf(elf: Elf, bytes: Uint8Array): Gap[] {
  const { header, segments, sections } = elf;
  const table = (offset: number, length: number): Gap => ({ offset, bytes: bytes.subarray(offset, offset + length) });
  const covered = [
    table(0, HEADER_SIZE),
    table(header.segmentOffset, segments.length * SEGMENT_SIZE),
    table(header.sectionOffset, sections.length * SECTION_SIZE),
    ...sections,
  ].filter((part) => part.bytes.length > 0);
  covered.sort((a, b) => a.offset - b.offset);
  const gaps: Gap[] = [];
  let end = 0;
  const pass = (offset: number): void => {
    if (offset < end)
      malformed(elf, offset, 'headers and sections that do not overlap', `a second use of ${hex(offset)}`);
    if (offset === end) return;
    const between = bytes.subarray(end, offset);
    if (!isZero(between)) gaps.push({ offset: end, bytes: between });
  };
  for (const part of covered) {
    pass(part.offset);
    end = part.offset + part.bytes.length;
  }
  pass(bytes.length);
  return gaps;
}

export function readHalf(reader: Reader, expected = 'a 16-bit number'): number {
  const low = reader.u8(expected);
  return low | (reader.u8(expected) << 8);
}

function writeHalf(writer: Writer, value: number): void {
  writer.u8(value & 0xff);
  writer.u8(value >>> 8);
}

/** Unsigned; addresses and sizes of what runs on x86-64 are below 2^53. */
export function readXword(reader: Reader, expected: string): number {
  const start = reader.position;
  reader.skip(8, expected);
  return xwordAt(reader, start, expected);
}

/** As `Reader.u32At`. */
export function xwordAt(reader: Reader, position: number, expected: string): number {
  const value = reader.u32At(position) + 2 ** 32 * reader.u32At(position + 4);
  if (value > Number.MAX_SAFE_INTEGER) reader.fail(`${expected} below 2^53`, hex(value), position);
  return value;
}

/** Signed or unsigned, in two's complement. */
export function setXword(view: DataView, position: number, value: number): void {
  view.setUint32(position, value, true);
  view.setUint32(position + 4, Math.floor(value / 2 ** 32), true);
}

function writeXword(writer: Writer, value: number): void {
  writer.u32le(value);
  writer.u32le(Math.floor(value / 2 ** 32));
}

export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/** A failure at a place that no reader stands at. */
export function malformed(
  elf: Pick<Elf, 'name' | 'sizeBytes'>,
  offset: number,
  expected: string,
  found: string,
): never {
  throw new MalformedError(elf.name, Math.min(offset, elf.sizeBytes), expected, found);
}
