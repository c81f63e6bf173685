// The name section ↔ the names of functions; its other subsections stay as bytes, in their place.
// https://webassembly.github.io/spec/core/appendix/custom.html#name-section

import { Reader, Writer } from './bytes.ts';
import { readCount, readName, readU32, sizeOfUnsigned, writeName, writeUnsigned } from './leb128.ts';
import { customSection, type Module } from './wasm.ts';

export type NameSubsection = {
  /** Bytes of the size field, when it is padded beyond what the size needs. */
  readonly sizeWidth?: number;
} & (
  | { readonly kind: 'functions'; readonly names: ReadonlyMap<number, string> }
  | { readonly kind: 'other'; readonly id: number; readonly bytes: Uint8Array }
);

const FUNCTIONS = 1;

/** `bytes` is the content of the custom section `name`, behind its own name. */
export function readNames(bytes: Uint8Array, file = 'name section', origin = 0): readonly NameSubsection[] {
  const reader = new Reader(bytes, file, origin);
  const subsections: NameSubsection[] = [];
  while (!reader.atEnd) {
    const id = reader.u8('a subsection of names');
    const start = reader.position;
    const size = readU32(reader, 'the size of a subsection');
    const width = reader.position - start;
    const content = reader.within(size, 'a subsection of names');
    subsections.push({
      ...(id === FUNCTIONS
        ? { kind: 'functions', names: readNameMap(content) }
        : { kind: 'other', id, bytes: content.source }),
      ...(width > sizeOfUnsigned(size) && { sizeWidth: width }),
    });
  }
  return subsections;
}

/** The content of a custom section `name`. Function names go out in the order of the map. */
export function writeNames(subsections: readonly NameSubsection[]): Uint8Array<ArrayBuffer> {
  const writer = new Writer(1 << 12);
  for (const subsection of subsections) {
    const isFunctions = subsection.kind === 'functions';
    const content = isFunctions ? writeNameMap(subsection.names) : subsection.bytes;
    writer.u8(isFunctions ? FUNCTIONS : subsection.id);
    writeUnsigned(writer, content.length, subsection.sizeWidth);
    writer.bytes(content);
  }
  return writer.finish();
}

/** By function index; empty when the module has no name section. */
export function functionNames(module: Module): ReadonlyMap<number, string> {
  const custom = customSection(module, 'name');
  if (custom === undefined) return new Map();
  const subsections = readNames(custom.bytes, module.name, custom.offset);
  return subsections.find((subsection) => subsection.kind === 'functions')?.names ?? new Map();
}

function readNameMap(reader: Reader): Map<number, string> {
  const names = new Map<number, string>();
  for (let count = readCount(reader, 'function names'); count > 0; count--) {
    const start = reader.position;
    const index = readU32(reader, 'a function index');
    if (names.has(index)) reader.fail('a function not named before', `function ${index}`, start);
    names.set(index, readName(reader, 'the name of a function'));
  }
  reader.end('the function names');
  return names;
}

function writeNameMap(names: ReadonlyMap<number, string>): Uint8Array {
  const writer = new Writer(1 << 12);
  writeUnsigned(writer, names.size);
  for (const [index, name] of names) {
    writeUnsigned(writer, index);
    writeName(writer, name);
  }
  return writer.finish();
}
