// A wasm module's bytes ↔ its sections, without loss. Function bodies, segments and constant expressions are views that
// nobody has looked into, so a module of tens of megabytes reads in milliseconds.
// https://webassembly.github.io/spec/core/binary/modules.html

import type { Signature } from '../model.ts';
import { Reader, Writer } from './bytes.ts';
import {
  readName,
  readU32,
  readU64,
  readVector,
  sizeOfUnsigned,
  writeName,
  writeUnsigned,
  writeVector,
} from './leb128.ts';
import { walkExpression } from './operators.ts';
import { readSignature, readValueType, type ValueType, writeSignature, writeValueType } from './signature.ts';

export interface Module {
  /** For messages. */
  readonly name: string;
  /** In the file's order. */
  readonly sections: readonly Section[];
}

interface Read {
  /** Bytes of the section's size field, when it is padded beyond what the size needs. */
  readonly sizeWidth?: number;
  /** Where the content begins in the file the section was read from; of a custom section, behind its name. */
  readonly offset?: number;
}

export interface CustomSection extends Read {
  readonly kind: 'custom';
  readonly name: string;
  readonly bytes: Uint8Array;
}

export type Section =
  | CustomSection
  | (Read & { readonly kind: 'type'; readonly types: readonly Signature[] })
  | (Read & { readonly kind: 'import'; readonly imports: readonly Import[] })
  /** Of each defined function, the index of its type. */
  | (Read & { readonly kind: 'function'; readonly types: readonly number[] })
  | (Read & { readonly kind: 'table'; readonly tables: readonly Table[] })
  | (Read & { readonly kind: 'memory'; readonly memories: readonly Limits[] })
  /** Of each defined tag, the index of its type. */
  | (Read & { readonly kind: 'tag'; readonly types: readonly number[] })
  | (Read & { readonly kind: 'global'; readonly globals: readonly Global[] })
  | (Read & { readonly kind: 'export'; readonly exports: readonly Export[] })
  | (Read & { readonly kind: 'start'; readonly function: number })
  | (Read & { readonly kind: 'element'; readonly segments: readonly ElementSegment[] })
  | (Read & { readonly kind: 'dataCount'; readonly count: number })
  /** Of each defined function, its code entry without the size: locals, then instructions. */
  | (Read & { readonly kind: 'code'; readonly bodies: readonly Uint8Array[] })
  | (Read & { readonly kind: 'data'; readonly segments: readonly DataSegment[] });

export type SectionKind = Section['kind'];
export type SectionOf<K extends SectionKind> = Extract<Section, { readonly kind: K }>;

/** In pages for a memory, in entries for a table. */
export interface Limits {
  readonly minimum: number;
  readonly maximum?: number;
  readonly shared?: boolean;
  /** Addresses are i64. */
  readonly address64?: boolean;
  /** log2 of the page size in bytes, when the memory says so. */
  readonly pageSizeLog2?: number;
}

export interface Table {
  readonly type: ValueType;
  readonly limits: Limits;
  /** A constant expression, its `end` included. */
  readonly initial?: Uint8Array;
}

export interface GlobalType {
  readonly type: ValueType;
  readonly mutable: boolean;
}

export interface Global extends GlobalType {
  /** A constant expression, its `end` included. */
  readonly initial: Uint8Array;
}

export type Import = { readonly module: string; readonly name: string } & (
  | { readonly kind: 'function' | 'tag'; readonly type: number }
  | { readonly kind: 'table'; readonly table: Table }
  | { readonly kind: 'memory'; readonly limits: Limits }
  | { readonly kind: 'global'; readonly global: GlobalType }
);

export type ExternalKind = Import['kind'];

export interface Export {
  readonly name: string;
  readonly kind: ExternalKind;
  readonly index: number;
}

/** https://webassembly.github.io/spec/core/binary/modules.html#element-section: `flags` chooses one of eight forms. */
export interface ElementSegment {
  readonly flags: number;
  /** Of an active segment. */
  readonly table: number;
  /** Of an active segment: a constant expression, its `end` included. */
  readonly offset?: Uint8Array;
  readonly type: ValueType;
  /** Function indices, or constant expressions. */
  readonly items: readonly number[] | readonly Uint8Array[];
}

export interface DataSegment {
  /** 0 active in memory 0, 1 passive, 2 active with a memory index. */
  readonly flags: 0 | 1 | 2;
  readonly memory: number;
  /** Of an active segment: a constant expression, its `end` included. */
  readonly offset?: Uint8Array;
  readonly bytes: Uint8Array;
}

/** By section id. */
const kinds = [
  'custom',
  'type',
  'import',
  'function',
  'table',
  'memory',
  'global',
  'export',
  'start',
  'element',
  'code',
  'data',
  'dataCount',
  'tag',
] as const satisfies SectionKind[];

const externals = ['function', 'table', 'memory', 'global', 'tag'] as const satisfies ExternalKind[];

/** Reads a whole module; throws MalformedError. */
export function readModule(bytes: Uint8Array, name: string): Module {
  const reader = new Reader(bytes, name);
  const magic = reader.remaining >= 4 ? reader.u32le() : 0;
  if (magic !== 0x6d736100) reader.fail('a wasm module (\\0asm)', 'other bytes', 0);
  const version = reader.u32le('the version');
  if (version !== 1) reader.fail('wasm version 1', `0x${version.toString(16)}`, 4);
  const sections: Section[] = [];
  while (!reader.atEnd) sections.push(readSection(reader));
  return { name, sections };
}

export function writeModule(module: Module): Uint8Array<ArrayBuffer> {
  const writer = new Writer(1 << 16);
  writer.u32le(0x6d736100);
  writer.u32le(1);
  for (const item of module.sections) {
    const content = writeContent(item);
    writer.u8(kinds.indexOf(item.kind));
    writeUnsigned(writer, content.length, item.sizeWidth);
    writer.bytes(content);
  }
  return writer.finish();
}

/** The first section of a kind; every kind but `custom` occurs once at most. */
export function section<K extends SectionKind>(module: Module, kind: K): SectionOf<K> | undefined {
  return module.sections.find((candidate): candidate is SectionOf<K> => candidate.kind === kind);
}

/** The first custom section of that name. */
export function customSection(module: Module, name: string): CustomSection | undefined {
  return module.sections.find(
    (candidate): candidate is CustomSection => candidate.kind === 'custom' && candidate.name === name,
  );
}

function readSection(reader: Reader): Section {
  const start = reader.position;
  const id = reader.u8('a section');
  const kind = kinds[id] ?? reader.fail('a section id', `${id}`, start);
  const sizeStart = reader.position;
  const size = readU32(reader, `the size of the ${kind} section`);
  const width = reader.position - sizeStart;
  const content = reader.within(size, `${kind} section`);
  const read = { offset: content.origin, ...readContent(kind, content) };
  content.end(`the ${kind} section`);
  return width === sizeOfUnsigned(size) ? read : { ...read, sizeWidth: width };
}

function readContent(kind: SectionKind, reader: Reader): Section {
  switch (kind) {
    case 'custom': {
      const name = readName(reader, 'the name of a custom section');
      return { kind, name, offset: reader.offset, bytes: reader.bytes(reader.remaining) };
    }
    case 'type':
      return { kind, types: readVector(reader, 'types', readSignature) };
    case 'import':
      return { kind, imports: readVector(reader, 'imports', readImport) };
    case 'function':
      return { kind, types: readVector(reader, 'functions', readIndex) };
    case 'table':
      return { kind, tables: readVector(reader, 'tables', readTable) };
    case 'memory':
      return { kind, memories: readVector(reader, 'memories', readLimits) };
    case 'tag':
      return { kind, types: readVector(reader, 'tags', readTag) };
    case 'global':
      return { kind, globals: readVector(reader, 'globals', readGlobal) };
    case 'export':
      return { kind, exports: readVector(reader, 'exports', readExport) };
    case 'start':
      return { kind, function: readU32(reader, 'the start function') };
    case 'element':
      return { kind, segments: readVector(reader, 'element segments', readElementSegment) };
    case 'dataCount':
      return { kind, count: readU32(reader, 'the number of data segments') };
    case 'code':
      return { kind, bodies: readVector(reader, 'function bodies', readBody) };
    default:
      return { kind, segments: readVector(reader, 'data segments', readDataSegment) };
  }
}

function writeContent(content: Section): Uint8Array {
  const writer = new Writer(1 << 10);
  switch (content.kind) {
    case 'custom':
      writeName(writer, content.name);
      writer.bytes(content.bytes);
      break;
    case 'type':
      writeVector(writer, content.types, writeSignature);
      break;
    case 'import':
      writeVector(writer, content.imports, writeImport);
      break;
    case 'function':
      writeVector(writer, content.types, writeUnsigned);
      break;
    case 'table':
      writeVector(writer, content.tables, writeTable);
      break;
    case 'memory':
      writeVector(writer, content.memories, writeLimits);
      break;
    case 'tag':
      writeVector(writer, content.types, writeTag);
      break;
    case 'global':
      writeVector(writer, content.globals, writeGlobal);
      break;
    case 'export':
      writeVector(writer, content.exports, writeExport);
      break;
    case 'start':
      writeUnsigned(writer, content.function);
      break;
    case 'element':
      writeVector(writer, content.segments, writeElementSegment);
      break;
    case 'dataCount':
      writeUnsigned(writer, content.count);
      break;
    case 'code':
      writeVector(writer, content.bodies, writeSized);
      break;
    case 'data':
      writeVector(writer, content.segments, writeDataSegment);
      break;
  }
  return writer.finish();
}

function readIndex(reader: Reader): number {
  return readU32(reader, 'an index');
}

function readImport(reader: Reader): Import {
  const module = readName(reader, "an import's module");
  const name = readName(reader, "an import's name");
  const kind = readExternalKind(reader);
  switch (kind) {
    case 'function':
      return { module, name, kind, type: readIndex(reader) };
    case 'tag':
      return { module, name, kind, type: readTag(reader) };
    case 'table':
      return { module, name, kind, table: { type: readValueType(reader), limits: readLimits(reader) } };
    case 'memory':
      return { module, name, kind, limits: readLimits(reader) };
    default:
      return { module, name, kind, global: readGlobalType(reader) };
  }
}

function writeImport(writer: Writer, item: Import): void {
  writeName(writer, item.module);
  writeName(writer, item.name);
  writer.u8(externals.indexOf(item.kind));
  switch (item.kind) {
    case 'function':
      return writeUnsigned(writer, item.type);
    case 'tag':
      return writeTag(writer, item.type);
    case 'table':
      writeValueType(writer, item.table.type);
      return writeLimits(writer, item.table.limits);
    case 'memory':
      return writeLimits(writer, item.limits);
    case 'global':
      return writeGlobalType(writer, item.global);
  }
}

function readExternalKind(reader: Reader): ExternalKind {
  const start = reader.position;
  const code = reader.u8('a kind of import or export');
  return externals[code] ?? reader.fail('a kind of import or export', `0x${code.toString(16)}`, start);
}

/** https://webassembly.github.io/spec/core/binary/types.html#limits; 0x02 and 0x08 as in threads and custom-page-sizes. */
function readLimits(reader: Reader): Limits {
  const start = reader.position;
  const flags = reader.u8('limits');
  if (flags > 0x0f) reader.fail('limits', `flags 0x${flags.toString(16)}`, start);
  return {
    minimum: readU64(reader, 'a minimum'),
    ...(flags & 1 && { maximum: readU64(reader, 'a maximum') }),
    ...(flags & 2 && { shared: true }),
    ...(flags & 4 && { address64: true }),
    ...(flags & 8 && { pageSizeLog2: readU32(reader, 'a page size') }),
  };
}

function writeLimits(writer: Writer, limits: Limits): void {
  const { minimum, maximum, shared, address64, pageSizeLog2 } = limits;
  const isSized = pageSizeLog2 !== undefined;
  writer.u8((maximum === undefined ? 0 : 1) | (shared ? 2 : 0) | (address64 ? 4 : 0) | (isSized ? 8 : 0));
  writeUnsigned(writer, minimum);
  if (maximum !== undefined) writeUnsigned(writer, maximum);
  if (isSized) writeUnsigned(writer, pageSizeLog2);
}

/** 0x40 0x00 announces a table with an initialiser. */
function readTable(reader: Reader): Table {
  const hasInitial = reader.peek('a table') === 0x40;
  if (hasInitial) {
    reader.skip(1);
    readZero(reader, 'a table');
  }
  const table = { type: readValueType(reader), limits: readLimits(reader) };
  return hasInitial ? { ...table, initial: readExpression(reader) } : table;
}

function writeTable(writer: Writer, table: Table): void {
  if (table.initial !== undefined) {
    writer.u8(0x40);
    writer.u8(0);
  }
  writeValueType(writer, table.type);
  writeLimits(writer, table.limits);
  if (table.initial !== undefined) writer.bytes(table.initial);
}

function readTag(reader: Reader): number {
  readZero(reader, 'a tag');
  return readIndex(reader);
}

function writeTag(writer: Writer, type: number): void {
  writer.u8(0);
  writeUnsigned(writer, type);
}

function readGlobalType(reader: Reader): GlobalType {
  const type = readValueType(reader);
  const start = reader.position;
  const mutable = reader.u8('mutability');
  if (mutable > 1) reader.fail('mutability', `0x${mutable.toString(16)}`, start);
  return { type, mutable: mutable === 1 };
}

function writeGlobalType(writer: Writer, type: GlobalType): void {
  writeValueType(writer, type.type);
  writer.u8(type.mutable ? 1 : 0);
}

function readGlobal(reader: Reader): Global {
  const { type, mutable } = readGlobalType(reader);
  return { type, mutable, initial: readExpression(reader) };
}

function writeGlobal(writer: Writer, global: Global): void {
  writeGlobalType(writer, global);
  writer.bytes(global.initial);
}

function readExport(reader: Reader): Export {
  return { name: readName(reader, "an export's name"), kind: readExternalKind(reader), index: readIndex(reader) };
}

function writeExport(writer: Writer, item: Export): void {
  writeName(writer, item.name);
  writer.u8(externals.indexOf(item.kind));
  writeUnsigned(writer, item.index);
}

/** Bit 0: not active. Bit 1: a table index (active), or declarative. Bit 2: expressions in place of function indices. */
function readElementSegment(reader: Reader): ElementSegment {
  const start = reader.position;
  const flags = readU32(reader, 'an element segment');
  if (flags > 7) reader.fail('an element segment', `flags ${flags}`, start);
  const isActive = (flags & 1) === 0;
  const table = isActive && flags & 2 ? readIndex(reader) : 0;
  const offset = isActive ? { offset: readExpression(reader) } : undefined;
  const usesExpressions = (flags & 4) !== 0;
  let type: ValueType = 'funcref';
  if (flags & 3) {
    if (usesExpressions) type = readValueType(reader);
    else readZero(reader, 'an element kind');
  }
  const items = usesExpressions
    ? readVector(reader, 'element expressions', readExpression)
    : readVector(reader, 'elements', readIndex);
  return { flags, table, ...offset, type, items };
}

function writeElementSegment(writer: Writer, segment: ElementSegment): void {
  const { flags, table, offset, type, items } = segment;
  writeUnsigned(writer, flags);
  if ((flags & 3) === 2) writeUnsigned(writer, table);
  if (offset !== undefined) writer.bytes(offset);
  if (flags & 3) {
    if (flags & 4) writeValueType(writer, type);
    else writer.u8(0);
  }
  writeUnsigned(writer, items.length);
  for (const item of items) {
    if (typeof item === 'number') writeUnsigned(writer, item);
    else writer.bytes(item);
  }
}

function readDataSegment(reader: Reader): DataSegment {
  const start = reader.position;
  const flags = readU32(reader, 'a data segment');
  if (flags !== 0 && flags !== 1 && flags !== 2) reader.fail('a data segment', `flags ${flags}`, start);
  const memory = flags === 2 ? readIndex(reader) : 0;
  const offset = flags === 1 ? undefined : { offset: readExpression(reader) };
  return { flags, memory, ...offset, bytes: readSized(reader, 'the bytes of a data segment') };
}

function writeDataSegment(writer: Writer, segment: DataSegment): void {
  writeUnsigned(writer, segment.flags);
  if (segment.flags === 2) writeUnsigned(writer, segment.memory);
  if (segment.offset !== undefined) writer.bytes(segment.offset);
  writeSized(writer, segment.bytes);
}

function readBody(reader: Reader): Uint8Array {
  return readSized(reader, 'function body');
}

function readSized(reader: Reader, expected: string): Uint8Array {
  return reader.bytes(readU32(reader, `the size of ${expected}`), expected);
}

function writeSized(writer: Writer, bytes: Uint8Array): void {
  writeUnsigned(writer, bytes.length);
  writer.bytes(bytes);
}

/** A constant expression, its `end` included. */
function readExpression(reader: Reader): Uint8Array {
  const start = reader.position;
  walkExpression(reader, {});
  const length = reader.position - start;
  reader.position = start;
  return reader.bytes(length);
}

function readZero(reader: Reader, what: string): void {
  const start = reader.position;
  const byte = reader.u8(what);
  if (byte !== 0) reader.fail(`0x00 in ${what}`, `0x${byte.toString(16)}`, start);
}
