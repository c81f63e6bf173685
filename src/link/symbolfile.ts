// The functions of a patch in; out come ELF files with their names and lines: one for backtraces, at addresses less a bias,
// and one for debuggers, at those of the process and with what it takes to get from a function to its callers.

import type { ElfSymbolEntry } from '../object/elfsymbols.ts';
import { ET_DYN, SHF_ALLOC, SHF_EXECINSTR } from '../object/elf.ts';
import { type NewElfSection, writeElfObject } from '../object/elfwriter.ts';
import { lineSections, type NamedCode } from './lines.ts';

export function writeSymbolFile(functions: readonly NamedCode[]): Uint8Array {
  return writeFile(functions, { address: 0, sizeBytes: 0 });
}

/**
 * `text` holds all of the functions; `frames` is their `.eh_frame`. Distances in that are right only where it lies in
 * memory, which is where debuggers take a section of such a file to be: at its address.
 */
export function writeDebuggerImage(
  functions: readonly NamedCode[],
  text: { readonly address: number; readonly sizeBytes: number },
  frames?: { readonly address: number; readonly bytes: Uint8Array },
): Uint8Array {
  return writeFile(functions, text, frames && { name: '.eh_frame', flags: SHF_ALLOC, alignment: 8, ...frames });
}

function writeFile(
  functions: readonly NamedCode[],
  { address: textAddress, sizeBytes: textSize }: { readonly address: number; readonly sizeBytes: number },
  frames?: NewElfSection,
): Uint8Array {
  const symbols = functions.map(({ name, address, sizeBytes }): ElfSymbolEntry => ({
    name,
    binding: 'global',
    type: 'function',
    visibility: 'default',
    section: 0,
    value: address,
    sizeBytes,
  }));
  const flags = SHF_ALLOC | SHF_EXECINSTR;
  const text = { name: '.text', flags, alignment: 1, address: textAddress, sizeBytes: textSize };
  const lines = [...lineSections(functions)].map(([name, bytes]) => ({ name, flags: 0, alignment: 1, bytes }));
  return writeElfObject({ type: ET_DYN, sections: [text, ...(frames ? [frames] : []), ...lines], symbols });
}
