// The `linking` section of a relocatable object: bytes ↔ symbol table, segment names, init functions and COMDATs.
// https://github.com/WebAssembly/tool-conventions/blob/main/Linking.md#linking-metadata-section

import type { SymbolKind } from '../model.ts';
import { Reader, Writer } from './bytes.ts';
import { readName, readU32, readU64, readVector, writeName, writeUnsigned, writeVector } from './leb128.ts';

/** What the `linking` section says. Names and numbers as in the specification. */
export interface Linking {
  readonly symbols: readonly SymbolEntry[];
  /** Of each data segment. */
  readonly segments: readonly SegmentInfo[];
  readonly initFunctions: readonly InitFunction[];
  readonly comdats: readonly Comdat[];
}

export type SymbolEntry = { readonly flags: number } & (
  | {
      readonly kind: 'function' | 'global' | 'tag' | 'table';
      readonly index: number;
      /** An undefined symbol without a name has its import's. */
      readonly name?: string;
    }
  | {
      readonly kind: 'data';
      readonly name: string;
      /** Undefined with the symbol. */
      readonly place?: { readonly segment: number; readonly offset: number; readonly sizeBytes: number };
    }
  | { readonly kind: 'section'; readonly section: number }
);

export interface SegmentInfo {
  readonly name: string;
  readonly alignmentLog2: number;
  readonly flags: number;
}

export interface InitFunction {
  readonly priority: number;
  /** Index into the symbol table. */
  readonly symbol: number;
}

/** Of several objects that bring a COMDAT of one name, one wins with all its members. */
export interface Comdat {
  readonly name: string;
  readonly members: readonly {
    readonly kind: 'data' | 'function' | 'global' | 'tag' | 'table' | 'section';
    readonly index: number;
  }[];
}

export const SYMBOL_WEAK = 0x01;
export const SYMBOL_LOCAL = 0x02;
export const SYMBOL_HIDDEN = 0x04;
export const SYMBOL_UNDEFINED = 0x10;
export const SYMBOL_EXPORTED = 0x20;
export const SYMBOL_EXPLICIT_NAME = 0x40;
export const SYMBOL_NO_STRIP = 0x80;
export const SYMBOL_TLS = 0x100;
export const SYMBOL_ABSOLUTE = 0x200;

export const SEGMENT_STRINGS = 0x1;
export const SEGMENT_TLS = 0x2;
export const SEGMENT_RETAIN = 0x4;

const VERSION = 2;
const SEGMENT_INFO = 5;
const INIT_FUNCTIONS = 6;
const COMDATS = 7;
const SYMBOL_TABLE = 8;

/** By number, in the symbol table. */
const symbolKinds = ['function', 'data', 'global', 'section', 'tag', 'table'] as const satisfies SymbolKind[];
/** By number, in a COMDAT. */
const comdatKinds = ['data', 'function', 'global', 'tag', 'table', 'section'] as const;

/** The content of the `linking` section. `origin` is where it begins in the file. */
export function readLinking(bytes: Uint8Array, file: string, origin = 0): Linking {
  const reader = new Reader(bytes, file, origin);
  const version = readU32(reader, 'the version of the linking section');
  if (version !== VERSION) reader.fail(`version ${VERSION} of the linking section`, `${version}`, 0);
  let symbols: readonly SymbolEntry[] = [];
  let segments: readonly SegmentInfo[] = [];
  let initFunctions: readonly InitFunction[] = [];
  let comdats: readonly Comdat[] = [];
  while (!reader.atEnd) {
    const start = reader.position;
    const id = reader.u8('a linking subsection');
    const content = reader.within(readU32(reader, 'the size of a linking subsection'), 'a linking subsection');
    if (id === SEGMENT_INFO) segments = readVector(content, 'segments', readSegmentInfo);
    else if (id === INIT_FUNCTIONS) initFunctions = readVector(content, 'init functions', readInitFunction);
    else if (id === COMDATS) comdats = readVector(content, 'COMDATs', readComdat);
    else if (id === SYMBOL_TABLE) symbols = readVector(content, 'symbols', readSymbolEntry);
    else reader.fail('a linking subsection (5 to 8)', `${id}`, start);
    content.end('the linking subsection');
  }
  for (const { symbol } of initFunctions) {
    if (symbols[symbol]?.kind !== 'function') reader.fail('the symbol of an init function', `symbol ${symbol}`);
  }
  return { symbols, segments, initFunctions, comdats };
}

/** The content of a `linking` section, in LLVM's order and with its padded sizes. */
export function writeLinking(linking: Linking): Uint8Array<ArrayBuffer> {
  const writer = new Writer();
  writeUnsigned(writer, VERSION);
  const subsection = <T>(id: number, items: readonly T[], write: (to: Writer, item: T) => void): void => {
    if (items.length === 0) return;
    const content = new Writer();
    writeVector(content, items, write);
    writer.u8(id);
    writeUnsigned(writer, content.length, 5);
    writer.bytes(content.finish());
  };
  subsection(SYMBOL_TABLE, linking.symbols, writeSymbolEntry);
  subsection(SEGMENT_INFO, linking.segments, writeSegmentInfo);
  subsection(INIT_FUNCTIONS, linking.initFunctions, writeInitFunction);
  subsection(COMDATS, linking.comdats, writeComdat);
  return writer.finish();
}

function readSymbolEntry(reader: Reader): SymbolEntry {
  const start = reader.position;
  const code = reader.u8('a symbol');
  const kind = symbolKinds[code] ?? reader.fail('a kind of symbol (0 to 5)', `${code}`, start);
  const flags = readU32(reader, "a symbol's flags");
  const isDefined = (flags & SYMBOL_UNDEFINED) === 0;
  if (kind === 'section') return { kind, flags, section: readU32(reader, "a section symbol's section") };
  if (kind === 'data') {
    const name = readName(reader, "a symbol's name");
    if (!isDefined) return { kind, flags, name };
    const segment = readU32(reader, "a data symbol's segment");
    const offset = readU64(reader, "a data symbol's offset");
    return { kind, flags, name, place: { segment, offset, sizeBytes: readU64(reader, "a data symbol's size") } };
  }
  const index = readU32(reader, "a symbol's index");
  if (!isDefined && (flags & SYMBOL_EXPLICIT_NAME) === 0) return { kind, flags, index };
  return { kind, flags, index, name: readName(reader, "a symbol's name") };
}

function writeSymbolEntry(writer: Writer, entry: SymbolEntry): void {
  writer.u8(symbolKinds.indexOf(entry.kind));
  writeUnsigned(writer, entry.flags);
  if (entry.kind === 'section') return writeUnsigned(writer, entry.section);
  if (entry.kind === 'data') {
    writeName(writer, entry.name);
    if (entry.place === undefined) return;
    writeUnsigned(writer, entry.place.segment);
    writeUnsigned(writer, entry.place.offset);
    return writeUnsigned(writer, entry.place.sizeBytes);
  }
  writeUnsigned(writer, entry.index);
  if (entry.name !== undefined) writeName(writer, entry.name);
}

function readSegmentInfo(reader: Reader): SegmentInfo {
  const name = readName(reader, "a segment's name");
  const start = reader.position;
  const alignmentLog2 = readU32(reader, "a segment's alignment");
  if (alignmentLog2 > 31) reader.fail("a segment's alignment", `2^${alignmentLog2}`, start);
  return { name, alignmentLog2, flags: readU32(reader, "a segment's flags") };
}

function writeSegmentInfo(writer: Writer, info: SegmentInfo): void {
  writeName(writer, info.name);
  writeUnsigned(writer, info.alignmentLog2);
  writeUnsigned(writer, info.flags);
}

function readInitFunction(reader: Reader): InitFunction {
  return { priority: readU32(reader, 'a priority'), symbol: readU32(reader, 'the symbol of an init function') };
}

function writeInitFunction(writer: Writer, { priority, symbol }: InitFunction): void {
  writeUnsigned(writer, priority);
  writeUnsigned(writer, symbol);
}

function readComdat(reader: Reader): Comdat {
  const name = readName(reader, "a COMDAT's name");
  const start = reader.position;
  const flags = readU32(reader, "a COMDAT's flags");
  if (flags !== 0) reader.fail("a COMDAT's flags (0)", `${flags}`, start);
  const members = readVector(reader, 'members of a COMDAT', (from) => {
    const at = from.position;
    const code = from.u8('a member of a COMDAT');
    const kind = comdatKinds[code] ?? from.fail('a kind of COMDAT member (0 to 5)', `${code}`, at);
    return { kind, index: readU32(from, 'the index of a COMDAT member') };
  });
  return { name, members };
}

function writeComdat(writer: Writer, { name, members }: Comdat): void {
  writeName(writer, name);
  writeUnsigned(writer, 0);
  writeVector(writer, members, (to, { kind, index }) => {
    to.u8(comdatKinds.indexOf(kind));
    writeUnsigned(to, index);
  });
}
