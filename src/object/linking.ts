// A relocatable wasm object's bytes → its atoms, symbols and relocations; and small objects of our own → bytes.
// https://github.com/WebAssembly/tool-conventions/blob/main/Linking.md

import type { Atom, AtomKind, ObjectFile, Relocation, Signature, Symbol } from '../model.ts';
import { isZero, MalformedError, Writer } from './bytes.ts';
import { type Debugged, wasmDebugFile } from './debugfile.ts';
import { encodeSigned, writeName, writeVector } from './leb128.ts';
import { readRelocations, relocationKinds } from './relocations.ts';
import {
  type Linking,
  readLinking,
  SEGMENT_TLS,
  type SegmentInfo,
  SYMBOL_ABSOLUTE,
  SYMBOL_EXPORTED,
  SYMBOL_HIDDEN,
  SYMBOL_LOCAL,
  SYMBOL_NO_STRIP,
  SYMBOL_TLS,
  SYMBOL_UNDEFINED,
  SYMBOL_WEAK,
  type SymbolEntry,
  writeLinking,
} from './symbols.ts';
import { customSection, type DataSegment, type Import, type Module, readModule, section, writeModule } from './wasm.ts';

const externalKinds = ['function', 'table', 'memory', 'global', 'tag'] as const satisfies Import['kind'][];

/** Reads a relocatable object; throws MalformedError. Debug sections are for who asks. */
export function readObject(bytes: Uint8Array, name: string): ObjectFile & Debugged {
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
    const functionIndex = scope.importCount('function') + index;
    const atom: Atom = {
      index,
      name: names.get(index) ?? `function[${index}]`,
      kind: 'code',
      bytes: body,
      sizeBytes: body.length,
      alignment: 1,
      relocations: relocations.code[index] ?? [],
      signature: scope.signatureOf(functionIndex),
    };
    const comdat = comdats.function.get(functionIndex);
    return comdat === undefined ? atom : { ...atom, comdat };
  });
  const segments = data.map((segment, index): Atom => {
    const info = linking.segments[index] ?? { name: '', alignmentLog2: 0, flags: 0 };
    const own = relocations.data[index] ?? [];
    const kind = atomKind(info, segment, own);
    const atom: Atom = {
      index: code.length + index,
      name: info.name,
      kind,
      bytes: kind === 'zero' ? segment.bytes.subarray(0, 0) : segment.bytes,
      sizeBytes: segment.bytes.length,
      alignment: 2 ** info.alignmentLog2,
      relocations: own,
    };
    const comdat = comdats.data.get(index);
    return comdat === undefined ? atom : { ...atom, comdat };
  });
  return {
    name,
    atoms: [...functions, ...segments],
    symbols,
    signatures: scope.signatures,
    debug: wasmDebugFile(module),
    ...(linking.initFunctions.length > 0 && { initFunctions: linking.initFunctions }),
  };
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
/** With threads also: where they meet, and in each thread's own block room for new thread-locals. */
export const THREADS_SYMBOL = '__hotslot_threads';
export const THREAD_LOCALS_SYMBOL = '__hotslot_thread_locals';

/** Holds the words that threads share, and the patches as long as there is room. */
const THREADS_BYTES = 1 << 20;
/** Each thread copies them when it starts. */
const THREAD_LOCALS_BYTES = 1 << 13;

/**
 * An object that reserves `sizeBytes` of zeroed memory, aligned to 16, for data of patches to come; with threads also
 * what they need to take patches.
 */
export function writeArenaObject(sizeBytes: number, threads = false): Uint8Array<ArrayBuffer> {
  const arena = { name: `.bss.${ARENA_SYMBOL}`, symbol: ARENA_SYMBOL, sizeBytes, alignment: 16 };
  if (!threads) return writeObject([arena]);
  return writeObject(
    [
      arena,
      // Its first word is read at every call: a cache line that nothing else shares.
      { name: `.bss.${THREADS_SYMBOL}`, symbol: THREADS_SYMBOL, sizeBytes: THREADS_BYTES, alignment: 64 },
      {
        name: `.tbss.${THREAD_LOCALS_SYMBOL}`,
        symbol: THREAD_LOCALS_SYMBOL,
        sizeBytes: THREAD_LOCALS_BYTES,
        alignment: 16,
        isThreadLocal: true,
      },
    ],
    ['atomics', 'bulk-memory', 'mutable-globals'],
  );
}

/** Resolves the indices of one object's symbol table. */
class Scope {
  readonly signatures: readonly Signature[];
  readonly #module: Module;
  readonly #offset: number;
  readonly #imports: ReadonlyMap<Import['kind'], readonly Import[]>;
  readonly #functionTypes: readonly number[];
  readonly #bodies: readonly Uint8Array[];
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
    this.#bodies = section(module, 'code')?.bodies ?? [];
    const defined = this.#functionTypes.length - imported.length;
    if (this.#bodies.length !== defined) this.#fail(`${defined} function bodies`, `${this.#bodies.length}`);
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

  /** Each kind of symbol as one literal: objects have thousands, and spreading one into another costs microseconds. */
  symbol(entry: SymbolEntry): Symbol {
    const { flags, kind } = entry;
    const binding = flags & SYMBOL_LOCAL ? 'local' : flags & SYMBOL_WEAK ? 'weak' : 'global';
    const exported = (flags & SYMBOL_EXPORTED) !== 0;
    if (kind === 'section') {
      return { kind, binding, exported, name: this.#sectionName(entry.section), offset: 0, sizeBytes: 0 };
    }
    if (kind === 'data') {
      const { name, place } = entry;
      if (place === undefined) return { kind, binding, exported, name, offset: 0, sizeBytes: 0 };
      const { segment, offset, sizeBytes } = place;
      if (flags & SYMBOL_ABSOLUTE) return { kind, binding, exported, name, offset, sizeBytes, isAbsolute: true };
      const length = this.#dataSegments[segment]?.bytes.length;
      if (length === undefined || offset > length) this.#fail(`a place for ${name}`, `segment ${segment} + ${offset}`);
      return { kind, binding, exported, name, offset, sizeBytes, atom: this.#bodies.length + segment };
    }
    const imported = this.#imports.get(kind)?.[entry.index];
    const name = entry.name ?? imported?.name ?? this.#fail('an imported symbol', `${kind} ${entry.index}`);
    if (imported === undefined && flags & SYMBOL_UNDEFINED) this.#fail('an import', `${kind} ${entry.index}`);
    if (kind !== 'function') {
      if (imported === undefined) return { kind, binding, exported, name, offset: 0, sizeBytes: 0 };
      const { name: importName, module: importModule } = imported;
      return { kind, binding, exported, name, offset: 0, sizeBytes: 0, importName, importModule };
    }
    const signature = this.signatureOf(entry.index);
    if (imported !== undefined) {
      const { name: importName, module: importModule } = imported;
      return { kind, binding, exported, name, offset: 0, sizeBytes: 0, signature, importName, importModule };
    }
    const atom = entry.index - this.importCount('function');
    const sizeBytes = this.#bodies[atom]?.length ?? 0;
    return { kind, binding, exported, name, offset: 0, sizeBytes, signature, atom };
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
    const begins = views.map((view) => start(view) - (target.offset ?? 0));
    const ends = views.map((view, at) => (begins[at] ?? 0) + view.length);
    const byView: Relocation[][] = views.map(() => []);
    let position = 0;
    for (const relocation of relocations) {
      const { kind, offset, symbol } = relocation;
      const { name = '', width = 0, target: named } = relocationKinds[kind] ?? {};
      const targetKind = named === 'type' ? 'type' : symbols[symbol]?.kind;
      if (named === 'type' ? symbol >= signatureCount : named !== 'any' && named !== targetKind) {
        fail(`a ${named} for ${name}`, targetKind === undefined ? `symbol ${symbol}` : `${targetKind} ${symbol}`);
      }
      while (position < ends.length && offset >= (ends[position] ?? 0)) position++;
      const within = offset - (begins[position] ?? Infinity);
      if (within < 0 || offset + width > (ends[position] ?? 0)) {
        return fail(`${name} inside the ${target.kind} section`, `offset ${offset}`);
      }
      byView[position]?.push({ offset: within, kind, symbol, addend: relocation.addend });
    }
    result[target.kind] = byView;
  }
  return result;
}

function atomKind(info: SegmentInfo, segment: DataSegment, relocations: readonly Relocation[]): AtomKind {
  const { name, flags } = info;
  if (flags & SEGMENT_TLS || name.startsWith('.tdata') || name.startsWith('.tbss')) return 'tls';
  if (name.startsWith('.rodata')) return 'constant';
  return name.startsWith('.bss') && relocations.length === 0 && isZero(segment.bytes) ? 'zero' : 'data';
}

/** The COMDAT of each function and of each data segment that is in one, by index. */
function comdatNames(linking: Linking): Record<'function' | 'data', ReadonlyMap<number, string>> {
  const names = { function: new Map<number, string>(), data: new Map<number, string>() };
  for (const { name, members } of linking.comdats) {
    for (const { kind, index } of members) if (kind === 'function' || kind === 'data') names[kind].set(index, name);
  }
  return names;
}

/** https://github.com/WebAssembly/tool-conventions/blob/main/Linking.md#target-features-section */
function writeFeatures(features: readonly string[]): Uint8Array {
  const writer = new Writer();
  writeVector(writer, features, (to, feature) => {
    to.utf8('+');
    writeName(to, feature);
  });
  return writer.finish();
}

/** `i32.const value; end` */
function constantI32(value: number): Uint8Array {
  return Uint8Array.of(0x41, ...encodeSigned(value), 0x0b);
}
