// A relocatable ELF object's bytes → its atoms, symbols and relocations, and the sections that take no memory.

import type { Atom, AtomKind, ObjectFile, Relocation, Symbol, SymbolKind } from '../model.ts';
import {
  type Elf,
  type ElfSection,
  ET_REL,
  hex,
  malformed,
  readElf,
  sectionsOf,
  SHF_ALLOC,
  SHF_EXECINSTR,
  SHF_TLS,
  SHF_WRITE,
  SHT_CREL,
  SHT_GROUP,
  SHT_NOBITS,
  SHT_NULL,
  SHT_REL,
  SHT_RELA,
  SHT_STRTAB,
  SHT_SYMTAB,
  SHT_SYMTAB_SHNDX,
} from './elf.ts';
import {
  type ElfSymbolEntry,
  type ElfSymbolType,
  type ElfVisibility,
  readGroup,
  readRelocationEntries,
  readSymbols,
} from './elfsymbols.ts';
import { x86_64Kind } from './x86_64.ts';

/** The model's view of an object, and what only ELF has. */
export interface ElfObject extends ObjectFile {
  readonly atoms: readonly ElfAtom[];
  /** Index for index the file's symbol table, its null symbol included. */
  readonly symbols: readonly ElfSymbol[];
  /** Sections that take no memory: `.debug_*`, `.comment`, `.llvmbc`, … */
  readonly sections: readonly UnloadedSection[];
  readonly elf: Elf;
}

/**
 * A section that takes memory. Of a thread-local atom with zeros at its end (`.tbss`), `bytes` are shorter than
 * `sizeBytes`. What the loader relocates once and then protects (`.data.rel.ro`) is constant.
 */
export interface ElfAtom extends Atom {
  /** The section's index; undefined for the atom that a common symbol asks for. */
  readonly section?: number;
  /** `SHT_*`: `SHT_INIT_ARRAY`, `SHT_NOTE`, `SHT_X86_64_UNWIND`, … */
  readonly type: number;
  /** `SHF_*`: with `SHF_MERGE`, equal entries of `entrySize` bytes may be one; with `SHF_STRINGS` they end in a zero. */
  readonly flags: number;
  readonly entrySize: number;
}

/** Of a section symbol, the name is the section's. A common symbol has an atom of zeros of its own, and is weak. */
export interface ElfSymbol extends Symbol {
  /** `none` for what is not defined here: then `kind` is `data`, as nothing in the object tells what it is. */
  readonly type: ElfSymbolType;
  readonly visibility: ElfVisibility;
  /** The index of the section it is in, be that an atom or not. */
  readonly section?: number;
}

export interface UnloadedSection {
  readonly name: string;
  /** Its index. */
  readonly section: number;
  readonly type: number;
  readonly flags: number;
  readonly bytes: Uint8Array;
  readonly comdat?: string;
  /** In the order of offsets; read at each call, as debug information has them by the ten thousand. */
  readonly relocations: () => readonly Relocation[];
}

/** Reads a relocatable object; throws MalformedError. */
export function readElfObject(bytes: Uint8Array, name: string): ElfObject {
  const elf = readElf(bytes, name);
  if (elf.header.type !== ET_REL) malformed(elf, 16, 'a relocatable object', `type ${elf.header.type}`);
  const [table, second] = sectionsOf(elf, SHT_SYMTAB);
  if (second !== undefined) malformed(elf, second.offset, 'one symbol table', 'a second');
  const entries = table === undefined ? [] : readSymbols(elf, table);
  const relocations = new RelocationReader(elf, entries.length, table);
  const comdats = comdatsOf(elf, entries);

  const atoms: ElfAtom[] = [];
  const atomOf = new Map<number, number>();
  const sections: UnloadedSection[] = [];
  for (const [index, section] of elf.sections.entries()) {
    const { name: sectionName, type, flags, entrySize, sizeBytes, bytes: content } = section;
    const comdat = comdats.get(index);
    if (flags & SHF_ALLOC && type !== SHT_NULL) {
      const atom = {
        index: atoms.length,
        name: sectionName,
        kind: atomKind(section),
        bytes: content,
        sizeBytes,
        alignment: Math.max(section.alignment, 1),
        relocations: relocations.of(index),
        section: index,
        type,
        flags,
        entrySize,
      };
      atomOf.set(index, atom.index);
      atoms.push(comdat === undefined ? atom : { ...atom, comdat });
    } else if (!linkage.has(type)) {
      const unloaded = { name: sectionName, section: index, type, flags, bytes: content };
      const lazy = { ...unloaded, relocations: () => relocations.of(index) };
      sections.push(comdat === undefined ? lazy : { ...lazy, comdat });
    }
  }
  const symbols = entries.map((entry, index): ElfSymbol => {
    const atomIndex = typeof entry.section === 'number' ? atomOf.get(entry.section) : undefined;
    const symbol = readSymbol(elf, entry, atomIndex, atoms);
    if (entry.section !== 'common') return symbol;
    const alignment = Math.max(entry.value, 1);
    if (!Number.isInteger(Math.log2(alignment))) {
      malformed(elf, table?.offset ?? 0, `an alignment of symbol ${index}`, hex(entry.value));
    }
    const kind = entry.type === 'tls' ? 'tls' : 'zero';
    const atom = atoms.length;
    const empty = { type: SHT_NOBITS, flags: SHF_ALLOC | SHF_WRITE, entrySize: 0, bytes: bytes.subarray(0, 0) };
    const { name: atomName, sizeBytes } = entry;
    atoms.push({ ...empty, index: atom, name: atomName, kind, sizeBytes, alignment, relocations: [] });
    return { ...symbol, atom, binding: 'weak' };
  });
  return { name, atoms, symbols, signatures: [], sections, elf };
}

/** Types of sections that only say how the others belong together. */
const linkage: ReadonlySet<number> = new Set([
  SHT_NULL,
  SHT_SYMTAB,
  SHT_SYMTAB_SHNDX,
  SHT_STRTAB,
  SHT_RELA,
  SHT_REL,
  SHT_GROUP,
]);

/** Finds and checks the relocations of a section. */
class RelocationReader {
  readonly #elf: Elf;
  readonly #symbolCount: number;
  readonly #byTarget = new Map<number, ElfSection[]>();

  constructor(elf: Elf, symbolCount: number, symbolTable: ElfSection | undefined) {
    this.#elf = elf;
    this.#symbolCount = symbolCount;
    for (const section of elf.sections) {
      const { type, info, link, offset } = section;
      if (type === SHT_CREL) malformed(elf, offset, 'relocations as SHT_RELA', 'SHT_CREL');
      if (type !== SHT_RELA && type !== SHT_REL) continue;
      if (elf.sections[info] === undefined) malformed(elf, offset, 'a section to relocate', `section ${info}`);
      if (elf.sections[link] !== symbolTable) malformed(elf, offset, 'the symbol table', `section ${link}`);
      const others = this.#byTarget.get(info);
      if (others === undefined) this.#byTarget.set(info, [section]);
      else others.push(section);
    }
  }

  /** Of the section at that index, in the order of offsets. */
  of(index: number): readonly Relocation[] {
    const target = this.#elf.sections[index];
    const result: Relocation[] = [];
    let isOrdered = true;
    let previous = 0;
    for (const section of this.#byTarget.get(index) ?? []) {
      for (const relocation of readRelocationEntries(this.#elf, section)) {
        const { offset, kind, symbol } = relocation;
        const known = x86_64Kind(kind) ?? this.#fail(section, 'a relocation kind of x86-64', `kind ${kind}`);
        if (symbol >= this.#symbolCount && symbol > 0) this.#fail(section, 'a symbol', `symbol ${symbol}`);
        if (offset + known.width > (target?.bytes.length ?? 0)) {
          this.#fail(section, `${known.name} inside ${target?.name}`, `offset ${hex(offset)}`);
        }
        isOrdered &&= offset >= previous;
        previous = offset;
        result.push(relocation);
      }
    }
    return isOrdered ? result : result.sort((a, b) => a.offset - b.offset);
  }

  #fail(section: ElfSection, expected: string, found: string): never {
    return malformed(this.#elf, section.offset, expected, found);
  }
}

function readSymbol(elf: Elf, entry: ElfSymbolEntry, atom: number | undefined, atoms: readonly Atom[]): ElfSymbol {
  const { type, visibility, sizeBytes, value } = entry;
  // Assembly leaves the type of its labels out: where they are then tells.
  const isCode = type === 'none' && atom !== undefined && atoms[atom]?.kind === 'code';
  const kind = isCode ? 'function' : kinds[type];
  const binding = entry.binding === 'unique' ? 'global' : entry.binding;
  const exported = binding !== 'local' && (visibility === 'default' || visibility === 'protected');
  const base = { name: entry.name, kind, binding, offset: 0, sizeBytes, exported, type, visibility } as const;
  if (entry.section === 'absolute') return { ...base, offset: value, isAbsolute: true };
  if (typeof entry.section === 'string') return base;
  const section = elf.sections[entry.section];
  if (section === undefined || !(value >= 0 && value <= section.sizeBytes)) {
    return malformed(elf, section?.offset ?? 0, `a place for ${entry.name}`, `${section?.name} + ${hex(value)}`);
  }
  const name = type === 'section' ? section.name : entry.name;
  const placed = { ...base, name, offset: value, section: entry.section };
  return atom === undefined ? placed : { ...placed, atom };
}

const kinds: Readonly<Record<ElfSymbolType, SymbolKind>> = {
  none: 'data',
  object: 'data',
  function: 'function',
  section: 'section',
  file: 'data',
  common: 'data',
  tls: 'data',
  ifunc: 'function',
};

function atomKind({ name, type, flags }: ElfSection): AtomKind {
  if (flags & SHF_TLS) return 'tls';
  if (flags & SHF_EXECINSTR) return 'code';
  if (type === SHT_NOBITS) return 'zero';
  return flags & SHF_WRITE && !/^\.data\.rel\.ro(\.|$)/.test(name) ? 'data' : 'constant';
}

/** The COMDAT of each section that is in one. */
function comdatsOf(elf: Elf, symbols: readonly ElfSymbolEntry[]): ReadonlyMap<number, string> {
  const names = new Map<number, string>();
  for (const section of sectionsOf(elf, SHT_GROUP)) {
    const signature = symbols[section.info];
    if (signature === undefined) malformed(elf, section.offset, "a group's symbol", `symbol ${section.info}`);
    const { isComdat, members } = readGroup(elf, section);
    if (!isComdat) continue;
    const { type, section: index, name } = signature;
    const group = type === 'section' && typeof index === 'number' ? (elf.sections[index]?.name ?? name) : name;
    for (const member of members) names.set(member, group);
  }
  return names;
}
