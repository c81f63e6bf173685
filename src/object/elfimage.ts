// A linked ELF program's or shared object's bytes → what a linker of patches needs of it: where everything is.

import {
  alignUp,
  type Elf,
  type ElfSection,
  type ElfSegment,
  ET_DYN,
  ET_EXEC,
  malformed,
  PF_R,
  PF_W,
  PF_X,
  PT_INTERP,
  PT_LOAD,
  PT_NOTE,
  PT_TLS,
  readElf,
  sectionsOf,
  SHF_ALLOC,
  SHT_DYNAMIC,
  SHT_DYNSYM,
  SHT_NOTE,
  SHT_RELA,
  SHT_SYMTAB,
} from './elf.ts';
import { StringTable } from './elfstrings.ts';
import {
  type ElfBinding,
  type ElfSymbolType,
  type ElfVisibility,
  readDynamic,
  readNotes,
  readRelocationEntries,
  readSymbols,
} from './elfsymbols.ts';

/** Addresses are those of the file: a position-independent image is moved as a whole when it is loaded. */
export interface ElfImage {
  /** For messages. */
  readonly name: string;
  /** ET_DYN: a PIE, a static PIE or a shared object. */
  readonly isPositionIndependent: boolean;
  /** A program may have none: static ones and shared objects do not. */
  readonly interpreter?: string;
  /** In hexadecimal, as `file` prints it. */
  readonly buildId?: string;
  /** 0 for none. */
  readonly entry: number;
  /** What is loaded, by rising address. */
  readonly segments: readonly ImageSegment[];
  readonly tls?: TlsTemplate;
  /** Those that take memory, by index in the file. */
  readonly sections: readonly ImageSection[];
  /**
   * Every symbol defined in it, local ones included, in the file's order, but for sections' and files' own. From the
   * symbol table, or of a stripped file from the dynamic one.
   */
  readonly symbols: readonly ImageSymbol[];
  /** Of several symbols of one name, a global one before a weak one before the first local one. */
  readonly byName: ReadonlyMap<string, ImageSymbol>;
  /** Dynamic symbols that it leaves to others: of a program, what it calls in the C library. */
  readonly imports: readonly ImageSymbol[];
  /** Dynamic symbols that others find in it. */
  readonly exports: readonly ImageSymbol[];
  /** Shared objects that it asks for (DT_NEEDED). */
  readonly needed: readonly string[];
  /** What the loader relocates; read at each call. DT_RELR's, all of them RELATIVE, are not among them. */
  readonly relocations: () => readonly ImageRelocation[];
  readonly elf: Elf;
}

export interface ImageSegment {
  readonly address: number;
  /** In memory; what `bytes` do not reach is zero. */
  readonly sizeBytes: number;
  readonly isReadable: boolean;
  readonly isWritable: boolean;
  readonly isExecutable: boolean;
  readonly alignment: number;
  /** Where it is in the file. */
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/**
 * What a thread's copy of the thread-locals begins as: `bytes`, then zeros up to `sizeBytes`.
 *
 * On x86-64 the thread pointer TP (what %fs:0 holds) is the end of the program's own block: the block lies directly below
 * it, as low as its alignment asks for. So in terms of the file's addresses TP is alignUp(address + sizeBytes, alignment)
 * whichever alignment `address` has itself, and the block begins at TP + (address - that), a negative number:
 * `threadPointerOffset`. A thread-local symbol's value counts from the block's start, so T, the offset from TP that
 * R_X86_64_TPOFF32 writes, is `threadPointerOffset + value`. It holds for the program alone: where a shared object's block
 * goes, its loader decides. (Drepper, "ELF handling for thread-local storage", variant II.)
 */
export interface TlsTemplate {
  readonly address: number;
  readonly sizeBytes: number;
  readonly alignment: number;
  readonly bytes: Uint8Array;
  readonly threadPointerOffset: number;
}

export interface ImageSection {
  readonly name: string;
  readonly index: number;
  /** `SHT_*` */
  readonly type: number;
  /** `SHF_*` */
  readonly flags: number;
  readonly address: number;
  readonly sizeBytes: number;
  /** Empty for `SHT_NOBITS`. */
  readonly bytes: Uint8Array;
}

export interface ImageSymbol {
  readonly name: string;
  /** Of a thread-local (`tls`), the offset in the TLS block; of an import 0, or where its PLT entry is. */
  readonly address: number;
  readonly sizeBytes: number;
  readonly type: ElfSymbolType;
  readonly binding: ElfBinding;
  readonly visibility: ElfVisibility;
  /** Its section's index; undefined of an import and of an absolute symbol. */
  readonly section?: number;
}

export interface ImageRelocation {
  readonly address: number;
  /** `R_X86_64_*` */
  readonly kind: number;
  /** Undefined for kinds that need none. */
  readonly symbol?: ImageSymbol;
  readonly addend: number;
}

const NT_GNU_BUILD_ID = 3;
const DT_NEEDED = 1;

/** Reads a program or a shared object; throws MalformedError. */
export function readElfImage(bytes: Uint8Array, name: string): ElfImage {
  const elf = readElf(bytes, name);
  const { type, entry } = elf.header;
  if (type !== ET_EXEC && type !== ET_DYN) malformed(elf, 16, 'a program or a shared object', `type ${type}`);
  const contents = (segment: ElfSegment): Uint8Array =>
    bytes.subarray(segment.offset, segment.offset + segment.fileSizeBytes);
  const segments = elf.segments.filter((segment) => segment.type === PT_LOAD);
  const interpreter = elf.segments.find((segment) => segment.type === PT_INTERP);
  const template = elf.segments.find((segment) => segment.type === PT_TLS);

  const dynamicTable = sectionsOf(elf, SHT_DYNSYM)[0];
  const dynamic = dynamicTable === undefined ? [] : readTable(elf, dynamicTable);
  const table = sectionsOf(elf, SHT_SYMTAB)[0];
  const own = table === undefined ? dynamic : readTable(elf, table);
  const symbols = own.filter((symbol) => symbol.isDefined && symbol.type !== 'section' && symbol.type !== 'file');
  const buildId = readBuildId(elf, contents);
  return {
    name,
    isPositionIndependent: type === ET_DYN,
    ...(interpreter && { interpreter: text(elf, interpreter, contents(interpreter)) }),
    ...(buildId !== undefined && { buildId }),
    entry,
    segments: segments.map((segment) => ({
      address: segment.address,
      sizeBytes: segment.sizeBytes,
      isReadable: (segment.flags & PF_R) !== 0,
      isWritable: (segment.flags & PF_W) !== 0,
      isExecutable: (segment.flags & PF_X) !== 0,
      alignment: Math.max(segment.alignment, 1),
      offset: segment.offset,
      bytes: contents(segment),
    })),
    ...(template && { tls: readTemplate(elf, template, contents(template)) }),
    sections: elf.sections.flatMap((section, index) =>
      section.flags & SHF_ALLOC ? [imageSection(section, index)] : [],
    ),
    symbols,
    byName: indexByName(symbols),
    imports: dynamic.filter((symbol) => !symbol.isDefined && symbol.name !== ''),
    exports: dynamic.filter((symbol) => symbol.isDefined && symbol.binding !== 'local'),
    needed: readNeeded(elf),
    relocations: () => readRelocations(elf, dynamicTable, dynamic),
    elf,
  };
}

/** The program's bytes at an address of the file, zeros included; undefined when no segment has all of them. */
export function bytesAt(image: Pick<ElfImage, 'segments'>, address: number, length: number): Uint8Array | undefined {
  for (const segment of image.segments) {
    const start = address - segment.address;
    if (start < 0 || start + length > segment.sizeBytes) continue;
    const stored = segment.bytes.subarray(start, start + length);
    if (stored.length === length) return stored;
    const filled = new Uint8Array(length);
    filled.set(stored);
    return filled;
  }
  return undefined;
}

interface TableSymbol extends ImageSymbol {
  readonly isDefined: boolean;
}

function readTable(elf: Elf, table: ElfSection): TableSymbol[] {
  return readSymbols(elf, table).map(({ name, type, binding, visibility, section, value, sizeBytes }) => ({
    name,
    address: value,
    sizeBytes,
    type,
    binding,
    visibility,
    isDefined: section !== 'undefined',
    ...(typeof section === 'number' && { section }),
  }));
}

function indexByName(symbols: readonly ImageSymbol[]): ReadonlyMap<string, ImageSymbol> {
  const byName = new Map<string, ImageSymbol>();
  for (const symbol of symbols) {
    const known = byName.get(symbol.name);
    if (known === undefined || precedence[symbol.binding] > precedence[known.binding]) byName.set(symbol.name, symbol);
  }
  return byName;
}

const precedence: Readonly<Record<ElfBinding, number>> = { local: 0, weak: 1, global: 2, unique: 2 };

function imageSection(section: ElfSection, index: number): ImageSection {
  const { name, type, flags, address, sizeBytes, bytes } = section;
  return { name, index, type, flags, address, sizeBytes, bytes };
}

function readTemplate(elf: Elf, segment: ElfSegment, bytes: Uint8Array): TlsTemplate {
  const { address, sizeBytes } = segment;
  const alignment = Math.max(segment.alignment, 1);
  if (!Number.isInteger(Math.log2(alignment))) {
    malformed(elf, elf.header.segmentOffset, 'a TLS alignment that is a power of two', `${alignment}`);
  }
  const threadPointerOffset = address - alignUp(address + sizeBytes, alignment);
  return { address, sizeBytes, alignment, bytes, threadPointerOffset };
}

function readBuildId(elf: Elf, contents: (segment: ElfSegment) => Uint8Array): string | undefined {
  // mold has one segment for notes of 4 and of 8 bytes alignment, which then says 8 for all of them; sections tell each.
  const sections = sectionsOf(elf, SHT_NOTE);
  const segments = elf.segments.filter(({ type }) => type === PT_NOTE);
  const places = sections.length > 0 ? sections : segments.map((each) => ({ ...each, bytes: contents(each) }));
  for (const { bytes, offset, alignment } of places) {
    for (const { name, type, descriptor } of readNotes(bytes, elf.name, offset, alignment)) {
      if (name !== 'GNU' || type !== NT_GNU_BUILD_ID) continue;
      return Array.from(descriptor, (byte) => byte.toString(16).padStart(2, '0')).join('');
    }
  }
  return undefined;
}

function readNeeded(elf: Elf): string[] {
  const section = sectionsOf(elf, SHT_DYNAMIC)[0];
  const strings = section && elf.sections[section.link];
  if (section === undefined || strings === undefined) return [];
  const names = new StringTable(strings, elf.name);
  const needed = readDynamic(elf, section).filter(({ tag }) => tag === DT_NEEDED);
  return needed.map(({ value }) => names.at(value, 'the name of a shared object'));
}

function readRelocations(
  elf: Elf,
  dynamicTable: ElfSection | undefined,
  dynamic: readonly ImageSymbol[],
): ImageRelocation[] {
  return elf.sections.flatMap((section) => {
    if (section.type !== SHT_RELA || !(section.flags & SHF_ALLOC)) return [];
    return readRelocationEntries(elf, section).map(({ offset, kind, symbol: index, addend }): ImageRelocation => {
      if (index === 0) return { address: offset, kind, addend };
      const symbol = elf.sections[section.link] === dynamicTable ? dynamic[index] : undefined;
      if (symbol === undefined) malformed(elf, section.offset, 'a dynamic symbol', `symbol ${index}`);
      return { address: offset, kind, symbol, addend };
    });
  });
}

function text(elf: Elf, segment: ElfSegment, bytes: Uint8Array): string {
  return new StringTable({ bytes, offset: segment.offset }, elf.name).at(0, 'the name of the interpreter');
}
