// An object of either format in; out come its debug sections in the form that the DWARF reader takes.

import type { ObjectFile, Relocation, Symbol } from '../model.ts';
import type { DebugFile, DebugSection, RelocatedFields } from './dwarfsections.ts';
import { malformed, SHT_REL, SHT_RELA } from './elf.ts';
import type { ElfObject } from './elfobject.ts';
import { RELA_SIZE } from './elfsymbols.ts';
import { R_WASM_SECTION_OFFSET_I32, readRelocations } from './relocations.ts';
import type { Module } from './wasm.ts';
import { x86_64Kind } from './x86_64.ts';

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

function elfDebugFile(object: ElfObject): DebugFile {
  const { name, elf, sections, symbols } = object;
  return {
    name,
    sections: (wanted) =>
      sections
        .filter((section) => section.name === wanted)
        .map(({ section, bytes, flags, relocations }) => {
          const offset = elf.sections[section]?.offset ?? 0;
          if (flags & SHF_COMPRESSED) malformed(elf, offset, `${wanted} as it is`, 'a compressed section');
          return { bytes, offset, relocations: () => plainFields(object, section) ?? tabulate(relocations(), symbols) };
        }),
  };
}

/** Those in the form that compilers write, without an object for each: there are tens of thousands. Undefined for others. */
function plainFields({ elf, symbols }: ElfObject, target: number): RelocatedFields | undefined {
  const [table, other] = elf.sections.filter(
    ({ type, info }) => (type === SHT_RELA || type === SHT_REL) && info === target,
  );
  if (table?.type !== SHT_RELA || other !== undefined || table.bytes.length % RELA_SIZE !== 0) return undefined;
  const { buffer, byteOffset, length } = table.bytes;
  const view = new DataView(buffer, byteOffset, length);
  const end = elf.sections[target]?.bytes.length ?? 0;
  const places = new Uint32Array(length / RELA_SIZE);
  const values = new Float64Array(places.length);
  let previous = 0;
  for (let index = 0, at = 0; at < length; index++, at += RELA_SIZE) {
    const place = view.getUint32(at, true);
    const width = x86_64Kind(view.getUint32(at + 8, true))?.width;
    const symbol = symbols[view.getUint32(at + 12, true)];
    const isPlain = view.getUint32(at + 4, true) === 0 && view.getUint32(at + 20, true) === 0 && place >= previous;
    if (!isPlain || width === undefined || place + width > end || symbol === undefined) return undefined;
    places[index] = previous = place;
    values[index] = symbol.offset + view.getUint32(at + 16, true);
  }
  return { places, values };
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
