// A relocatable ELF object → the parts that can be linked one by one, as the neutral stages take them.
//
// Sections are containers: what moves as one is a section for most, but each entry of a section of constants that
// linkers merge, and no section at all for unwind tables, whose entries go with the code they are about. And assemblers
// name what is local by its section and an offset: here every relocation names the function or data it is about.

import type { Atom, ObjectFile, Relocation, Symbol, Unwind } from '../model.ts';
import { type Elf, SHF_MERGE, SHF_STRINGS } from './elf.ts';
import { type ElfAtom, type ElfObject, type ElfSymbol, readElfObject, type UnloadedSection } from './elfobject.ts';
import { readFrames } from './frames.ts';
import { x86_64Kind } from './x86_64.ts';

/** With what is about the parts, but takes no memory: debug information. Symbols are the file's, and more behind them. */
export interface ElfParts extends ObjectFile {
  readonly sections: readonly UnloadedSection[];
  readonly elf: Elf;
}

/** Reads a relocatable object as parts; throws MalformedError. */
export function readElfParts(bytes: Uint8Array, name: string): ElfParts {
  return new Parts(readElfObject(bytes, name)).object();
}

export function isElfParts(object: ObjectFile): object is ElfParts {
  return 'elf' in object && 'sections' in object;
}

/**
 * Whether a relocation in `atom` means the beginning of what its symbol is, and so a function as others call it; or
 * something in its inside, as jump tables do, and so that very body.
 */
export function meansStart(atom: Pick<Atom, 'kind'>, { kind, addend }: Relocation): boolean {
  if (!isDistance(kind)) return addend === 0;
  // Code counts from the end of the 4-byte field, which is the end of the instruction. Data that holds distances to code
  // is a jump table.
  return atom.kind === 'code' && addend === -4;
}

function isDistance(kind: number): boolean {
  return x86_64Kind(kind)?.terms.some(({ letter }) => letter === 'P') ?? false;
}

class Parts {
  readonly #object: ElfObject;
  readonly #atoms: Atom[] = [];
  readonly #symbols: Symbol[] = [];
  /** Of a merged section, by its atom's index: the pieces' offsets, and the first piece's index in `#atoms`. */
  readonly #pieces = new Map<number, { readonly starts: readonly number[]; readonly first: number }>();
  /** By an old atom's index, the new one's; missing of pieces and unwind tables. */
  readonly #moved = new Map<number, number>();
  /** Symbols of each old atom but its section's own, by offset. */
  readonly #named = new Map<number, { readonly offset: number; readonly index: number }[]>();
  readonly #pieceSymbols = new Map<number, number>();

  constructor(object: ElfObject) {
    this.#object = object;
  }

  object(): ElfParts {
    const { name, atoms, symbols, sections, elf } = this.#object;
    for (const atom of atoms) this.#addAtom(atom);
    for (const [index, { atom, type, offset }] of symbols.entries()) {
      if (atom === undefined || type === 'section') continue;
      const others = this.#named.get(atom);
      if (others === undefined) this.#named.set(atom, [{ offset, index }]);
      else others.push({ offset, index });
    }
    for (const others of this.#named.values()) others.sort((a, b) => a.offset - b.offset);
    for (const symbol of symbols) this.#symbols.push(this.#symbol(symbol));
    const frames = this.#frames();
    for (const atom of atoms) {
      const at = this.#moved.get(atom.index);
      const moved = at === undefined ? undefined : this.#atoms[at];
      if (at === undefined || moved === undefined) continue;
      const unwind = frames.get(atom.index);
      const relocations = atom.relocations.map((relocation) => this.#relocation(relocation, atom));
      this.#atoms[at] = { ...moved, relocations, ...(unwind && { unwind }) };
    }
    return { name, atoms: this.#atoms, symbols: this.#symbols, signatures: [], sections, elf };
  }

  #addAtom(atom: ElfAtom): void {
    if (isFrames(atom)) return;
    const index = this.#atoms.length;
    const { name, kind, bytes, sizeBytes, alignment, comdat } = atom;
    if (!isMerged(atom)) {
      this.#moved.set(atom.index, index);
      const whole = { index, name, kind, bytes, sizeBytes, alignment, relocations: [] };
      this.#atoms.push(comdat === undefined ? whole : { ...whole, comdat });
      return;
    }
    const starts = piecesOf(atom);
    this.#pieces.set(atom.index, { starts, first: index });
    for (const [position, start] of starts.entries()) {
      const piece = bytes.subarray(start, starts[position + 1] ?? bytes.length);
      const at = this.#atoms.length;
      this.#atoms.push({ index: at, name, kind, bytes: piece, sizeBytes: piece.length, alignment, relocations: [] });
    }
  }

  #symbol(symbol: ElfSymbol): Symbol {
    const { name, kind, binding, offset, sizeBytes, exported, isAbsolute, atom: at } = symbol;
    // One that no relocation will name any more, unless the section has no other: then it is the constant's own.
    const isCode = at !== undefined && this.#object.atoms[at]?.kind === 'code';
    const own = kind === 'section' ? (isCode ? 'function' : 'data') : kind;
    const moved: Symbol = { name, kind: own, binding, offset, sizeBytes, exported };
    if (isAbsolute === true) return { ...moved, isAbsolute };
    if (at === undefined) return moved;
    const whole = this.#moved.get(at);
    if (whole !== undefined) {
      const isShadowed = kind === 'section' && this.#named.has(at);
      return isShadowed ? { ...moved, kind: 'section', atom: whole } : { ...moved, atom: whole };
    }
    const piece = this.#piece(at, offset);
    return piece === undefined ? moved : { ...moved, atom: piece.index, offset: offset - piece.start };
  }

  /** The relocation by the name of what it is about. */
  #relocation(relocation: Relocation, source?: ElfAtom): Relocation {
    const symbol = this.#object.symbols[relocation.symbol];
    const at = symbol?.atom;
    if (symbol?.type !== 'section' || at === undefined) return relocation;
    const bias = source?.kind === 'code' && isDistance(relocation.kind) ? 4 : 0;
    const place = relocation.addend + bias;
    const piece = this.#piece(at, place);
    if (piece !== undefined) {
      return { ...relocation, symbol: this.#pieceSymbol(piece.index), addend: relocation.addend - piece.start };
    }
    const named = this.#named.get(at)?.findLast(({ offset }) => offset <= place) ?? this.#named.get(at)?.[0];
    if (named === undefined) return relocation;
    return { ...relocation, symbol: named.index, addend: relocation.addend - named.offset };
  }

  #piece(atom: number, offset: number): { readonly index: number; readonly start: number } | undefined {
    const pieces = this.#pieces.get(atom);
    if (pieces === undefined) return undefined;
    const { starts, first } = pieces;
    let low = 0;
    let high = starts.length;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if ((starts[middle] ?? 0) <= offset) low = middle;
      else high = middle;
    }
    return { index: first + low, start: starts[low] ?? 0 };
  }

  /** A symbol for a piece that nothing names. */
  #pieceSymbol(atom: number): number {
    const known = this.#pieceSymbols.get(atom);
    if (known !== undefined) return known;
    const index = this.#symbols.length;
    const sizeBytes = this.#atoms[atom]?.sizeBytes ?? 0;
    this.#symbols.push({ name: '', kind: 'data', binding: 'local', offset: 0, sizeBytes, exported: false, atom });
    this.#pieceSymbols.set(atom, index);
    return index;
  }

  /** Entries of the unwind tables by the atom of their code. */
  #frames(): Map<number, Unwind[]> {
    const found = new Map<number, Unwind[]>();
    for (const table of this.#object.atoms.filter(isFrames)) {
      const cies = new Map<Unwind['cie'], Unwind['cie']>();
      const named = (record: Unwind['cie']): Unwind['cie'] => ({
        ...record,
        relocations: record.relocations.map((relocation) => this.#relocation(relocation)),
      });
      for (const { cie, fde, code } of readFrames(table.bytes, table.relocations, this.#object.name)) {
        const symbol = this.#object.symbols[code.symbol];
        if (symbol?.atom === undefined) continue;
        const shared = cies.get(cie) ?? named(cie);
        cies.set(cie, shared);
        const unwind = { cie: shared, fde: named(fde), codeOffset: symbol.offset + code.addend };
        const others = found.get(symbol.atom);
        if (others === undefined) found.set(symbol.atom, [unwind]);
        else others.push(unwind);
      }
    }
    return found;
  }
}

function isFrames({ name }: ElfAtom): boolean {
  return name === '.eh_frame';
}

/** Constants of which linkers keep one of each kind. Theirs is the right to say where one ends: it has no symbol of its own. */
function isMerged({ kind, flags, entrySize, bytes, relocations }: ElfAtom): boolean {
  const splits = entrySize > 0 && bytes.length % entrySize === 0 && bytes.length > 0;
  return kind === 'constant' && (flags & SHF_MERGE) !== 0 && splits && relocations.length === 0;
}

/** Where each entry begins: of strings, behind a zero. */
function piecesOf({ bytes, flags, entrySize }: ElfAtom): number[] {
  const starts: number[] = [];
  const isText = (flags & SHF_STRINGS) !== 0;
  let begins = true;
  for (let at = 0; at < bytes.length; at += entrySize) {
    if (begins || !isText) starts.push(at);
    begins = isText && bytes.subarray(at, at + entrySize).every((byte) => byte === 0);
  }
  return starts;
}
