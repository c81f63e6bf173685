// A map file as wasm-ld writes it (`-Map`) in; out come the address of every piece of data and the owner of every function.
//
//     Addr      Off     Size Out     In      Symbol
//        -    29fdb       18         deps/app.0buxy9.0vt1lx.rcgu.o:(_RNvCs…3app4main)
//   100068    b802f       10         deps/libshapes-1f.rlib(shapes-1f.3x.0v.rcgu.o):(.rodata..Lanon.f61f….1)
//
// The columns are fixed: three right-aligned numbers of 8 characters, then the name, indented by 0 (output section),
// 8 (input chunk) or 16 (symbol).

import { readPromoted } from './promoted.ts';

export interface LinkerMap {
  /** Function symbol → name of the object that defines it. A name defined twice stands in `ambiguous` instead. */
  readonly functions: ReadonlyMap<string, string>;
  readonly ambiguous: ReadonlySet<string>;
  /** Further names of a function: LLVM merges functions that are equal. Further name → the name it stands under. */
  readonly merged: ReadonlyMap<string, string>;
  /** Address of an input segment, by `OBJECT:SEGMENT`. */
  readonly segments: ReadonlyMap<string, number>;
  /** Address of a named data symbol. */
  readonly data: ReadonlyMap<string, { readonly address: number; readonly sizeBytes: number }>;
}

const NAME = 27;
const CHUNK = 8;
const SYMBOL = 16;

export function readMap(text: string): LinkerMap {
  const functions = new Map<string, string>();
  const ambiguous = new Set<string>();
  const merged = new Map<string, string>();
  const segments = new Map<string, number>();
  const data = new Map<string, { address: number; sizeBytes: number }>();
  // Chunks by the thousand come from the same few objects.
  const objects = new Map<string, string>();
  let inCode = false;
  let inData = false;
  let chunkName = '';
  for (let start = 0; start < text.length;) {
    let end = text.indexOf('\n', start);
    if (end < 0) end = text.length;
    const indent = indentation(text, start + NAME, end);
    if (indent === 0) {
      const section = text.slice(start + NAME, end);
      if (/^[A-Z]+$/.test(section) || section.startsWith('CUSTOM')) {
        inCode = section === 'CODE';
        inData = section === 'DATA';
      }
    } else if (indent === CHUNK && (inCode || inData)) {
      const chunk = text.slice(start + NAME + CHUNK, end);
      const split = chunk.lastIndexOf(':(');
      if (split >= 0) {
        const path = chunk.slice(0, split);
        const object = objects.get(path) ?? objectName(path);
        objects.set(path, object);
        const name = chunk.slice(split + 2, -1);
        chunkName = name;
        if (inData) {
          segments.set(`${object}:${name}`, parseInt(text.slice(start, start + 8), 16));
        } else if (functions.has(name)) {
          ambiguous.add(name);
        } else {
          functions.set(name, object);
        }
      }
    } else if (indent === SYMBOL && inCode) {
      const name = text.slice(start + NAME + SYMBOL, end);
      if (name !== chunkName) {
        if (merged.has(name)) ambiguous.add(name);
        merged.set(name, chunkName);
      }
    } else if (indent === SYMBOL && inData) {
      const address = parseInt(text.slice(start, start + 8), 16);
      const sizeBytes = parseInt(text.slice(start + 18, start + 27), 16);
      const name = text.slice(start + NAME + SYMBOL, end);
      data.set(readPromoted(name)?.name ?? name, { address, sizeBytes });
    }
    start = end + 1;
  }
  for (const name of merged.keys()) if (functions.has(name)) ambiguous.add(name);
  for (const name of ambiguous) {
    functions.delete(name);
    merged.delete(name);
  }
  return { functions, ambiguous, merged, segments, data };
}

/**
 * The stable name of an object: crate and codegen unit. rustc puts a part that is new at every run before `.rcgu.o`:
 * `deps/app.UNIT.RUN.rcgu.o` and `libapp-1f.rlib(app-1f.UNIT.RUN.rcgu.o)` are `app.UNIT` and `app-1f.UNIT`.
 */
export function objectName(path: string): string {
  const member = /\(([^()]*)\)$/.exec(path)?.[1];
  const file = member ?? path.slice(path.lastIndexOf('/') + 1);
  return file.endsWith('.rcgu.o') ? file.split('.').slice(0, 2).join('.') : file;
}

function indentation(text: string, start: number, end: number): number {
  let position = start;
  while (position < end && text.charCodeAt(position) === 0x20) position++;
  return position - start;
}
