// A running process's shared objects in; out comes where code finds what they provide: libc's functions and variables.
//
// What the program imports, its loader has looked up already, with all that decides it (versions, preloaded libraries,
// functions chosen by what the processor can do): the address is in a cell of the program's, and code goes through the
// cell. What it did not import so far is looked up here.

import type { RunningProgram, Symbol } from '../model.ts';
import { type Elf, readElf, readHalf, sectionsOf, SHT_DYNSYM } from '../object/elf.ts';
import { Reader } from '../object/bytes.ts';
import { type ElfSymbolEntry, readSymbols } from '../object/elfsymbols.ts';
import { type Referent, Unlinkable } from './target.ts';

const SHT_GNU_VERSYM = 0x6fffffff;
/** Of a symbol's version: not the default, only for programs that were linked long ago. */
const VERSYM_HIDDEN = 0x8000;

export class Host {
  readonly #running: RunningProgram;
  readonly #cells: ReadonlyMap<string, number>;
  /** Of every library, in the loader's order; read when first asked. */
  #exports: ReadonlyMap<string, ElfSymbolEntry>[] | undefined;

  constructor(running: RunningProgram, cells: ReadonlyMap<string, number>) {
    this.#running = running;
    this.#cells = cells;
  }

  /** Undefined when no library has it. Throws Unlinkable for what only a loader can find. */
  referent({ name }: Symbol): Referent | undefined {
    // It is called by code that looks for thread-locals, and that code is rewritten to find them without it.
    if (name === '__tls_get_addr') return { means: 'address', value: 0, name };
    const cell = this.#cells.get(name);
    if (cell !== undefined) return { means: 'cell', value: cell + this.#running.bias, name };
    const value = this.lookUp(name);
    if (value === 'chosen') {
      throw new Unlinkable(`\`${name}\` is chosen as a program starts, and this one does not use it so far`);
    }
    return value === undefined ? undefined : { means: 'address', value, name };
  }

  /** The address by the libraries' own word, in their order; `chosen` for a function that is found by calling one. */
  lookUp(name: string): number | 'chosen' | undefined {
    this.#exports ??= this.#running.libraries.map(({ path, bytes }) => defaultExports(readElf(bytes(), path)));
    for (const [index, exports] of this.#exports.entries()) {
      const symbol = exports.get(name);
      if (symbol === undefined) continue;
      if (symbol.type === 'tls') throw new Unlinkable(`\`${name}\` is a thread-local of a library`);
      if (symbol.type === 'ifunc') return 'chosen';
      return (this.#running.libraries[index]?.bias ?? 0) + symbol.value;
    }
    return undefined;
  }
}

/** Dynamic symbols by name, in the version that a program gets that is linked today. */
function defaultExports(elf: Elf): ReadonlyMap<string, ElfSymbolEntry> {
  const table = sectionsOf(elf, SHT_DYNSYM)[0];
  const exports = new Map<string, ElfSymbolEntry>();
  if (table === undefined) return exports;
  const versions = sectionsOf(elf, SHT_GNU_VERSYM)[0];
  const reader = versions && new Reader(versions.bytes, elf.name, versions.offset);
  for (const symbol of readSymbols(elf, table)) {
    const version = reader === undefined ? 0 : readHalf(reader, 'the version of a symbol');
    if (symbol.section === 'undefined' || symbol.binding === 'local' || version & VERSYM_HIDDEN) continue;
    if (!exports.has(symbol.name)) exports.set(symbol.name, symbol);
  }
  return exports;
}
