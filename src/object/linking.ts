// A relocatable wasm object's bytes → its atoms, symbols and relocations; and small objects of our own → bytes.
// https://github.com/WebAssembly/tool-conventions/blob/main/Linking.md

import type { Atom, AtomKind, ObjectFile, Relocation, Signature, Symbol, SymbolKind } from '../model.ts';
import { MalformedError, Reader, Writer } from './bytes.ts';
import {
  encodeSigned,
  readCount,
  readName,
  readS32,
  readS64,
  readU32,
  readU64,
  writeName,
  writeSigned,
  writeUnsigned,
} from './leb128.ts';
import { relocationKinds } from './relocations.ts';
import {
  customSection,
  type DataSegment,
  type Import,
  type Module,
  readModule,
  section,
  writeModule,
} from './wasm.ts';

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

/** Relocations of one section; offsets count from the start of its content. */
export interface RelocationSection {
  /** Index into `Module.sections`. */
  readonly section: number;
  readonly relocations: readonly Relocation[];
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
const externalKinds = ['function', 'table', 'memory', 'global', 'tag'] as const satisfies Import['kind'][];
/** By number, in a COMDAT. */
const comdatKinds = ['data', 'function', 'global', 'tag', 'table', 'section'] as const;

/** Reads a relocatable object; throws MalformedError. Debug sections are passed over. */
export function readObject(bytes: Uint8Array, name: string): ObjectFile {
  const module = readModule(bytes, name);
  const start = (view: Uint8Array): number => view.byteOffset - bytes.byteOffset;
  const custom = customSection(module, 'linking');
  if (custom === undefined) throw new MalformedError(name, bytes.length, 'a linking section', 'end of file');
  const linking = readLinking(custom.bytes, name, start(custom.bytes));
  const scope = new Scope(module, linking, start(custom.bytes));
  const symbols = linking.symbols.map((entry) => scope.symbol(entry));

  const code = section(module, 'code')?.bodies ?? [];
  const data = section(module, 'data')?.segments ?? [];
  const relocations = relocationsByAtom(module, symbols, scope.signatures.length, start);
  const comdats = comdatNames(linking);
  const names = new Map<number, string>();
  for (const { kind, atom, name: symbolName } of symbols) {
    if (kind === 'function' && atom !== undefined && !names.has(atom)) names.set(atom, symbolName);
  }
  const functions = code.map((body, index): Atom => {
    const signature = scope.signatureOf(scope.importCount('function') + index);
    return {
      index,
      name: names.get(index) ?? `function[${index}]`,
      kind: 'code',
      bytes: body,
      sizeBytes: body.length,
      alignment: 1,
      relocations: relocations.code[index] ?? [],
      signature,
      ...comdats.function(scope.importCount('function') + index),
    };
  });
  const segments = data.map((segment, index): Atom => {
    const info = linking.segments[index] ?? { name: '', alignmentLog2: 0, flags: 0 };
    const own = relocations.data[index] ?? [];
    const kind = atomKind(info, segment, own);
    return {
      index: code.length + index,
      name: info.name,
      kind,
      bytes: kind === 'zero' ? segment.bytes.subarray(0, 0) : segment.bytes,
      sizeBytes: segment.bytes.length,
      alignment: 2 ** info.alignmentLog2,
      relocations: own,
      ...comdats.data(index),
    };
  });
  return {
    name,
    atoms: [...functions, ...segments],
    symbols,
    signatures: scope.signatures,
    ...(linking.initFunctions.length > 0 && { initFunctions: linking.initFunctions }),
  };
}

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
    if (id === SEGMENT_INFO) segments = readAll(content, 'segments', readSegmentInfo);
    else if (id === INIT_FUNCTIONS) initFunctions = readAll(content, 'init functions', readInitFunction);
    else if (id === COMDATS) comdats = readAll(content, 'COMDATs', readComdat);
    else if (id === SYMBOL_TABLE) symbols = readAll(content, 'symbols', readSymbolEntry);
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
    writeUnsigned(content, items.length);
    for (const item of items) write(content, item);
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

/** The content of a `reloc.*` section. Symbols are indices as they stand; nobody has checked them. */
export function readRelocations(bytes: Uint8Array, file: string, origin = 0): RelocationSection {
  const reader = new Reader(bytes, file, origin);
  const index = readU32(reader, 'the index of a section');
  let previous = 0;
  const relocations = readAll(reader, 'relocations', (from): Relocation => {
    const start = from.position;
    const kind = from.u8('a relocation');
    const known = relocationKinds[kind] ?? from.fail('a relocation kind (0 to 26)', `${kind}`, start);
    const offset = readU32(from, 'the offset of a relocation');
    if (offset < previous) from.fail('relocations in the order of their offsets', `${offset} after ${previous}`, start);
    previous = offset;
    const symbol = readU32(from, 'the symbol of a relocation');
    return { offset, kind, symbol, addend: known.hasAddend ? readAddend(from, known.width) : 0 };
  });
  reader.end('the relocations');
  return { section: index, relocations };
}

/** The content of a `reloc.*` section. */
export function writeRelocations({ section: index, relocations }: RelocationSection): Uint8Array<ArrayBuffer> {
  const writer = new Writer();
  writeUnsigned(writer, index);
  writeUnsigned(writer, relocations.length);
  for (const { kind, offset, symbol, addend } of relocations) {
    writer.u8(kind);
    writeUnsigned(writer, offset);
    writeUnsigned(writer, symbol);
    if (relocationKinds[kind]?.hasAddend) writeSigned(writer, addend);
  }
  return writer.finish();
}

/** A data segment of an object of our own, with one symbol for the whole of it, which the linker keeps. */
export interface NewSegment {
  /** `.bss.*`, `.data.*`, … */
  readonly name: string;
  readonly symbol: string;
  readonly sizeBytes: number;
  /** In bytes, a power of two. */
  readonly alignment: number;
  readonly isThreadLocal?: boolean;
}

/** A relocatable object of zeros. `features` as in `target_features`: `atomics`, `bulk-memory`, … */
export function writeObject(
  segments: readonly NewSegment[],
  features: readonly string[] = [],
): Uint8Array<ArrayBuffer> {
  let end = 0;
  const data = segments.map(({ sizeBytes, alignment }): DataSegment => {
    const address = Math.ceil(end / alignment) * alignment;
    end = address + sizeBytes;
    return { flags: 0, memory: 0, offset: constantI32(address), bytes: new Uint8Array(sizeBytes) };
  });
  const linking: Linking = {
    symbols: segments.map(({ symbol, sizeBytes, isThreadLocal }, index) => ({
      kind: 'data',
      flags: SYMBOL_HIDDEN | SYMBOL_NO_STRIP | (isThreadLocal ? SYMBOL_TLS : 0),
      name: symbol,
      place: { segment: index, offset: 0, sizeBytes },
    })),
    segments: segments.map(({ name, alignment, isThreadLocal }) => ({
      name,
      alignmentLog2: Math.log2(alignment),
      flags: isThreadLocal ? SEGMENT_TLS : 0,
    })),
    initFunctions: [],
    comdats: [],
  };
  const memory: Import = {
    module: 'env',
    name: '__linear_memory',
    kind: 'memory',
    limits: { minimum: Math.ceil(end / 0x10000) },
  };
  return writeModule({
    name: 'object',
    sections: [
      { kind: 'import', imports: [memory] },
      { kind: 'data', segments: data },
      { kind: 'custom', name: 'linking', bytes: writeLinking(linking) },
      { kind: 'custom', name: 'target_features', bytes: writeFeatures(features) },
    ],
  });
}

/** The symbol under which `writeArenaObject` reserves memory. */
export const ARENA_SYMBOL = '__hotslot_arena';

/** An object that reserves `sizeBytes` of zeroed memory, aligned to 16, for data of patches to come. */
export function writeArenaObject(sizeBytes: number): Uint8Array<ArrayBuffer> {
  return writeObject([{ name: `.bss.${ARENA_SYMBOL}`, symbol: ARENA_SYMBOL, sizeBytes, alignment: 16 }]);
}

/** Resolves the indices of one object's symbol table. */
class Scope {
  readonly signatures: readonly Signature[];
  readonly #module: Module;
  readonly #offset: number;
  readonly #imports: ReadonlyMap<Import['kind'], readonly Import[]>;
  readonly #functionTypes: readonly number[];
  readonly #dataSegments: readonly DataSegment[];

  constructor(module: Module, linking: Linking, offset: number) {
    this.#module = module;
    this.#offset = offset;
    this.signatures = section(module, 'type')?.types ?? [];
    const imports = section(module, 'import')?.imports ?? [];
    this.#imports = new Map(externalKinds.map((kind) => [kind, imports.filter((item) => item.kind === kind)]));
    const imported = imports.flatMap((item) => (item.kind === 'function' ? [item.type] : []));
    this.#functionTypes = [...imported, ...(section(module, 'function')?.types ?? [])];
    this.#dataSegments = section(module, 'data')?.segments ?? [];
    const bodies = section(module, 'code')?.bodies.length ?? 0;
    if (bodies !== this.#functionTypes.length - imported.length) {
      this.#fail(`${this.#functionTypes.length - imported.length} function bodies`, `${bodies}`);
    }
    if (linking.segments.length > this.#dataSegments.length) {
      this.#fail(`${linking.segments.length} data segments`, `${this.#dataSegments.length}`);
    }
  }

  importCount(kind: Import['kind']): number {
    return this.#imports.get(kind)?.length ?? 0;
  }

  signatureOf(functionIndex: number): Signature {
    const type = this.#functionTypes[functionIndex];
    const signature = type === undefined ? undefined : this.signatures[type];
    return signature ?? this.#fail('a function with a type', `function ${functionIndex}`);
  }

  symbol(entry: SymbolEntry): Symbol {
    const { flags } = entry;
    const base = {
      kind: entry.kind,
      binding: flags & SYMBOL_LOCAL ? 'local' : flags & SYMBOL_WEAK ? 'weak' : 'global',
      offset: 0,
      sizeBytes: 0,
      exported: (flags & SYMBOL_EXPORTED) !== 0,
    } as const;
    if (entry.kind === 'section') return { ...base, name: this.#sectionName(entry.section) };
    if (entry.kind === 'data') {
      const { name, place } = entry;
      if (place === undefined) return { ...base, name };
      const { segment, offset, sizeBytes } = place;
      if (flags & SYMBOL_ABSOLUTE) return { ...base, name, offset, sizeBytes, isAbsolute: true };
      const length = this.#dataSegments[segment]?.bytes.length;
      if (length === undefined || offset > length) this.#fail(`a place for ${name}`, `segment ${segment} + ${offset}`);
      return { ...base, name, atom: this.#bodyCount + segment, offset, sizeBytes };
    }
    const imported = this.#imports.get(entry.kind)?.[entry.index];
    const name = entry.name ?? imported?.name ?? this.#fail('an imported symbol', `${entry.kind} ${entry.index}`);
    const typed = entry.kind === 'function' ? { signature: this.signatureOf(entry.index) } : undefined;
    if (imported !== undefined) {
      return { ...base, name, ...typed, importName: imported.name, importModule: imported.module };
    }
    if (flags & SYMBOL_UNDEFINED) this.#fail('an import', `${entry.kind} ${entry.index}`);
    if (entry.kind !== 'function') return { ...base, name };
    const atom = entry.index - this.importCount('function');
    return { ...base, name, ...typed, atom, sizeBytes: this.#bodySize(atom) };
  }

  get #bodyCount(): number {
    return this.#functionTypes.length - this.importCount('function');
  }

  #bodySize(atom: number): number {
    return section(this.#module, 'code')?.bodies[atom]?.length ?? 0;
  }

  #sectionName(index: number): string {
    const found = this.#module.sections[index] ?? this.#fail('a section', `section ${index}`);
    return found.kind === 'custom' ? found.name : found.kind;
  }

  #fail(expected: string, found: string): never {
    throw new MalformedError(this.#module.name, this.#offset, expected, found);
  }
}

/** Splits the relocations of the code and data sections among function bodies and segments, and rebases them. */
function relocationsByAtom(
  module: Module,
  symbols: readonly Symbol[],
  signatureCount: number,
  start: (view: Uint8Array) => number,
): { code: Relocation[][]; data: Relocation[][] } {
  const result: { code: Relocation[][]; data: Relocation[][] } = { code: [], data: [] };
  for (const custom of module.sections) {
    if (custom.kind !== 'custom' || (custom.name !== 'reloc.CODE' && custom.name !== 'reloc.DATA')) continue;
    const origin = start(custom.bytes);
    const fail = (expected: string, found: string): never => {
      throw new MalformedError(module.name, origin, expected, found);
    };
    const { section: index, relocations } = readRelocations(custom.bytes, module.name, origin);
    const target = module.sections[index];
    if (target?.kind !== 'code' && target?.kind !== 'data') {
      return fail('the index of the code or data section', `section ${index}`);
    }
    const views = target.kind === 'code' ? target.bodies : target.segments.map(({ bytes }) => bytes);
    const byView: Relocation[][] = views.map(() => []);
    let position = 0;
    for (const relocation of relocations) {
      const { kind, offset, symbol } = relocation;
      const { name = '', width = 0, target: named } = relocationKinds[kind] ?? {};
      const targetKind = named === 'type' ? 'type' : symbols[symbol]?.kind;
      if (named === 'type' ? symbol >= signatureCount : named !== 'any' && named !== targetKind) {
        fail(`a ${named} for ${name}`, targetKind === undefined ? `symbol ${symbol}` : `${targetKind} ${symbol}`);
      }
      const endOf = (view: Uint8Array): number => start(view) - (target.offset ?? 0) + view.length;
      let view = views[position];
      while (view !== undefined && offset >= endOf(view)) view = views[++position];
      const within = view === undefined ? -1 : offset - (endOf(view) - view.length);
      if (view === undefined || within < 0 || within + width > view.length) {
        return fail(`${name} inside the ${target.kind} section`, `offset ${offset}`);
      }
      byView[position]?.push({ offset: within, kind, symbol, addend: relocation.addend });
    }
    result[target.kind] = byView;
  }
  return result;
}

function atomKind(info: SegmentInfo, segment: DataSegment, relocations: readonly Relocation[]): AtomKind {
  if (info.flags & SEGMENT_TLS || /^\.t(data|bss)/.test(info.name)) return 'tls';
  if (/^\.rodata/.test(info.name)) return 'constant';
  if (!/^\.bss/.test(info.name)) return 'data';
  return relocations.length === 0 && segment.bytes.every((byte) => byte === 0) ? 'zero' : 'data';
}

/** Which COMDAT a function, or a data segment, of that index belongs to. */
function comdatNames(linking: Linking): Record<'function' | 'data', (index: number) => { comdat?: string }> {
  const names = { function: new Map<number, string>(), data: new Map<number, string>() };
  for (const { name, members } of linking.comdats) {
    for (const { kind, index } of members) if (kind === 'function' || kind === 'data') names[kind].set(index, name);
  }
  const lookup = (of: ReadonlyMap<number, string>) => (index: number) => {
    const comdat = of.get(index);
    return comdat === undefined ? {} : { comdat };
  };
  return { function: lookup(names.function), data: lookup(names.data) };
}

function readAll<T>(reader: Reader, items: string, read: (reader: Reader) => T): T[] {
  const all: T[] = [];
  for (let count = readCount(reader, items); count > 0; count--) all.push(read(reader));
  return all;
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
  const members = readAll(reader, 'members of a COMDAT', (from) => {
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
  writeUnsigned(writer, members.length);
  for (const { kind, index } of members) {
    writer.u8(comdatKinds.indexOf(kind));
    writeUnsigned(writer, index);
  }
}

/** Addends of 32-bit fields are i32, of 64-bit fields i64. */
function readAddend(reader: Reader, width: number): number {
  if (width < 8) return readS32(reader, 'an addend');
  const start = reader.position;
  const addend = readS64(reader, 'an addend');
  if (BigInt.asIntN(54, addend) !== addend) reader.fail('an addend within 2^53', `${addend}`, start);
  return Number(addend);
}

/** https://github.com/WebAssembly/tool-conventions/blob/main/Linking.md#target-features-section */
function writeFeatures(features: readonly string[]): Uint8Array {
  const writer = new Writer();
  writeUnsigned(writer, features.length);
  for (const feature of features) {
    writer.utf8('+');
    writeName(writer, feature);
  }
  return writer.finish();
}

/** `i32.const value; end` */
function constantI32(value: number): Uint8Array {
  return Uint8Array.of(0x41, ...encodeSigned(value), 0x0b);
}
