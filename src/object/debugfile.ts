// An object of either format in; out come its debug sections in the form that the DWARF reader takes.

import type { ObjectFile, Relocation, Symbol } from '../model.ts';
import type { DebugFile, DebugSection, RelocatedFields } from './dwarfsections.ts';
import { malformed } from './elf.ts';
import type { ElfObject } from './elfobject.ts';
import { R_WASM_SECTION_OFFSET_I32, readRelocations } from './relocations.ts';
import type { Module } from './wasm.ts';

/** An object that keeps its debug sections at hand. */
export interface Debugged {
  readonly debug: DebugFile;
}

/** Undefined for an object of our own. */
export function debugFile(object: ObjectFile): DebugFile | undefined {
  if (isDebugged(object)) return object.debug;
  return isElf(object) ? elfDebugFile(object) : undefined;
}

function isDebugged(object: ObjectFile): object is ObjectFile & Debugged {
  return 'debug' in object;
}

function isElf(object: ObjectFile): object is ElfObject {
  return 'elf' in object && 'sections' in object;
}

const SHF_COMPRESSED = 0x800;

function elfDebugFile({ name, elf, sections, symbols }: ElfObject): DebugFile {
  return {
    name,
    sections: (wanted) =>
      sections
        .filter((section) => section.name === wanted)
        .map(({ section, bytes, flags, relocations }) => {
          const offset = elf.sections[section]?.offset ?? 0;
          if (flags & SHF_COMPRESSED) malformed(elf, offset, `${wanted} as it is`, 'a compressed section');
          return { bytes, offset, relocations: () => tabulate(relocations(), symbols) };
        }),
  };
}

function tabulate(relocations: readonly Relocation[], symbols: readonly Symbol[]): RelocatedFields {
  const places = new Uint32Array(relocations.length);
  const values = new Float64Array(relocations.length);
  for (const [index, { offset, symbol, addend }] of relocations.entries()) {
    places[index] = offset;
    values[index] = (symbols[symbol]?.offset ?? 0) + addend;
  }
  return { places, values };
}

/**
 * Of a relocatable wasm module: custom sections, with their relocations in others.
 * https://github.com/WebAssembly/tool-conventions/blob/main/Debugging.md
 */
export function wasmDebugFile({ name, sections }: Module): DebugFile {
  const relocatedFields = (index: number): RelocatedFields => {
    for (const section of sections) {
      if (section.kind !== 'custom' || !section.name.startsWith('reloc..debug_')) continue;
      const found = readRelocations(section.bytes, name, section.offset);
      if (found.section !== index) continue;
      // A symbol of a section is at its start; places in code and data are of no interest to types.
      return tabulate(
        found.relocations.filter(({ kind }) => kind === R_WASM_SECTION_OFFSET_I32),
        [],
      );
    }
    return tabulate([], []);
  };
  return {
    name,
    sections: (wanted) => {
      const found: DebugSection[] = [];
      for (const [index, section] of sections.entries()) {
        if (section.kind !== 'custom' || section.name !== wanted) continue;
        const { bytes, offset = 0 } = section;
        found.push({ bytes, offset, relocations: () => relocatedFields(index) });
      }
      return found;
    },
  };
}
