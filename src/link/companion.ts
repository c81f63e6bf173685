// A finished module of wasm-bindgen in; out comes an ObjectFile to link from, as if it had never been linked.
//
// Some functions exist only there: the shims that turn JavaScript values into table indices, and casts that wasm-bindgen
// writes in place of a function it interpreted. Their bodies name other functions by index. Walking a body finds those
// indices again, and naming them by the module's name section gives relocations.

import type { Atom, Image, ObjectFile, Relocation, Signature, Symbol } from '../model.ts';
import { walkBody } from '../object/operators.ts';
import * as R from '../object/relocations.ts';
import { readModule, section } from '../object/wasm.ts';
import { hostConstants, readFunctions } from './base.ts';
import type { Companion } from './link.ts';
import { Unlinkable } from './target.ts';

export function openCompanion(image: Image): Companion {
  const module = readModule(image.module, 'wasm-bindgen output');
  const functions = readFunctions(module);
  const bodies = section(module, 'code')?.bodies ?? [];
  const imports = (section(module, 'import')?.imports ?? []).filter((item) => item.kind === 'function');
  const tables = section(module, 'table')?.tables ?? [];
  const globals = section(module, 'global')?.globals ?? [];
  const tags = section(module, 'tag')?.types ?? [];

  const symbols: Symbol[] = functions.all.map(({ signature, name }, index) => {
    const item = imports[index];
    const text = name ?? item?.name ?? `function ${index}`;
    const symbol = {
      name: text,
      kind: 'function',
      binding: 'global',
      offset: 0,
      sizeBytes: 0,
      signature,
      exported: false,
    } as const;
    if (item !== undefined) return { ...symbol, importName: item.name, importModule: item.module };
    return { ...symbol, atom: index - functions.imported };
  });
  const firstTable = symbols.length;
  for (const { type } of tables)
    symbols.push(indirect('table', type === 'funcref' ? '__indirect_function_table' : '__wbindgen_externrefs'));
  const firstGlobal = symbols.length;
  for (const index of globals.keys())
    symbols.push(indirect('global', index === 0 ? '__stack_pointer' : `global ${index}`));
  const firstTag = symbols.length;
  for (const index of tags.keys()) symbols.push(indirect('tag', index === 0 ? '__cpp_exception' : `tag ${index}`));

  const first = { table: firstTable, global: firstGlobal, tag: firstTag };
  const atoms = bodies.map((body, index) => {
    const { name, signature } = functions.all[functions.imported + index] ?? { name: undefined, signature: '' };
    return new Body(index, name ?? `function ${functions.imported + index}`, body, signature, first);
  });
  const object: ObjectFile = {
    name: 'wasm-bindgen output',
    atoms,
    symbols,
    signatures: section(module, 'type')?.types ?? [],
  };
  const exports = (section(module, 'export')?.exports ?? []).flatMap(({ name, kind, index }): [string, number][] =>
    kind === 'function' ? [[name, index]] : [],
  );
  return { object, exports: new Map(exports), hostConstants: hostConstants(image.glue) };
}

function indirect(kind: 'table' | 'global' | 'tag', name: string): Symbol {
  return { name, kind, binding: 'global', offset: 0, sizeBytes: 0, exported: false };
}

/** A function of the module; it is walked only when something wants its relocations. */
class Body implements Atom {
  readonly kind = 'code';
  readonly alignment = 1;
  readonly index: number;
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly signature: Signature;
  readonly #first: Readonly<Record<'table' | 'global' | 'tag', number>>;
  #relocations: readonly Relocation[] | undefined;

  constructor(
    index: number,
    name: string,
    bytes: Uint8Array,
    signature: Signature,
    first: Readonly<Record<'table' | 'global' | 'tag', number>>,
  ) {
    this.index = index;
    this.name = name;
    this.bytes = bytes;
    this.signature = signature;
    this.#first = first;
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  get relocations(): readonly Relocation[] {
    this.#relocations ??= this.#walk();
    return this.#relocations;
  }

  #walk(): Relocation[] {
    const relocations: Relocation[] = [];
    const add = (kind: number, offset: number, symbol: number): void => {
      relocations.push({ offset, kind, symbol, addend: 0 });
    };
    walkBody(this.bytes, {
      index: (space, index, offset) => {
        switch (space) {
          case 'function':
            return add(R.R_WASM_FUNCTION_INDEX_LEB, offset, index);
          case 'type':
            return add(R.R_WASM_TYPE_INDEX_LEB, offset, index);
          case 'table':
            return add(R.R_WASM_TABLE_NUMBER_LEB, offset, this.#first.table + index);
          case 'global':
            return add(R.R_WASM_GLOBAL_INDEX_LEB, offset, this.#first.global + index);
          case 'tag':
            return add(R.R_WASM_TAG_INDEX_LEB, offset, this.#first.tag + index);
          case 'data':
          case 'element':
            throw new Unlinkable(`\`${this.name}\` names a segment of its module`);
          case 'memory':
          case 'local':
            return undefined;
        }
      },
    });
    return relocations.sort((a, b) => a.offset - b.offset);
  }
}
