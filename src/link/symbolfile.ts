// The functions of a patch in; out comes an ELF file with their names and lines, for backtraces and debuggers.

import type { ElfSymbolEntry } from '../object/elfsymbols.ts';
import { ET_DYN, SHF_ALLOC, SHF_EXECINSTR } from '../object/elf.ts';
import { writeElfObject } from '../object/elfwriter.ts';
import { lineSections, type NamedCode } from './lines.ts';

export function writeSymbolFile(functions: readonly NamedCode[]): Uint8Array {
  const symbols = functions.map(({ name, address, sizeBytes }): ElfSymbolEntry => ({
    name,
    binding: 'global',
    type: 'function',
    visibility: 'default',
    section: 0,
    value: address,
    sizeBytes,
  }));
  const text = { name: '.text', flags: SHF_ALLOC | SHF_EXECINSTR, alignment: 1, sizeBytes: 0 };
  const lines = [...lineSections(functions)].map(([name, bytes]) => ({ name, flags: 0, alignment: 1, bytes }));
  return writeElfObject({ type: ET_DYN, sections: [text, ...lines], symbols });
}
