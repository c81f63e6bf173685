// The relocation kinds of x86-64 ELF as data: which field each one fills, and by which formula. A kind and the values of
// its formula's letters → bytes of that field.
// https://gitlab.com/x86-psABIs/x86-64-ABI, section 4.4.1, table 4.9; of thread-locals, https://www.akkadia.org/drepper/tls.pdf

/**
 * What the letters of the formulas stand for, in bytes. Those of the psABI: A the addend; B what the image was moved by
 * when it was loaded; G where in the GOT the symbol's entry is; GOT the GOT's address; L the address of the symbol's PLT
 * entry, or of the symbol itself if it is within reach; P the address of the field; S the symbol's address; Z its size.
 * Of a thread-local symbol: M its module's number; D its offset in that module's block; T its offset from the thread
 * pointer, negative for a variable of the program. Its G is the offset of the entry that its kind asks for: of T
 * (GOTTPOFF), of the pair M and D (TLSGD), of the pair M and 0 (TLSLD), or of the descriptor (TLSDESC).
 */
export type RelocationLetter = 'A' | 'B' | 'D' | 'G' | 'GOT' | 'L' | 'M' | 'P' | 'S' | 'T' | 'Z';

/** Of the letters, those that a formula names. */
export type RelocationValues = Readonly<Partial<Record<RelocationLetter, number>>>;

export interface FieldKind {
  /** As it stands in a file. */
  readonly number: number;
  /** Of the field, in bytes; 0 marks a place and fills nothing, 16 is a pair that only a loader fills. */
  readonly width: 0 | 1 | 2 | 4 | 8 | 16;
  /** How the value must fit; `either`: as a signed or as an unsigned number. 64 bits hold every value. */
  readonly range: 'signed' | 'unsigned' | 'either' | 'all';
  /** Letters, each with its sign. Empty when only a loader can tell the value. */
  readonly formula: string;
}

/**
 * By the specification's name. Kinds 39 and 40 (`_BND`) were withdrawn; `RELATIVE64` is of x32; the `CODE_*` kinds stand
 * in instructions that are that many bytes longer for an APX prefix.
 */
export const x86_64 = {
  R_X86_64_NONE: { number: 0, width: 0, range: 'all', formula: '' },
  R_X86_64_64: { number: 1, width: 8, range: 'all', formula: 'S+A' },
  R_X86_64_PC32: { number: 2, width: 4, range: 'signed', formula: 'S+A-P' },
  R_X86_64_GOT32: { number: 3, width: 4, range: 'signed', formula: 'G+A' },
  R_X86_64_PLT32: { number: 4, width: 4, range: 'signed', formula: 'L+A-P' },
  R_X86_64_COPY: { number: 5, width: 0, range: 'all', formula: '' },
  R_X86_64_GLOB_DAT: { number: 6, width: 8, range: 'all', formula: 'S' },
  R_X86_64_JUMP_SLOT: { number: 7, width: 8, range: 'all', formula: 'S' },
  R_X86_64_RELATIVE: { number: 8, width: 8, range: 'all', formula: 'B+A' },
  R_X86_64_GOTPCREL: { number: 9, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_32: { number: 10, width: 4, range: 'unsigned', formula: 'S+A' },
  R_X86_64_32S: { number: 11, width: 4, range: 'signed', formula: 'S+A' },
  R_X86_64_16: { number: 12, width: 2, range: 'either', formula: 'S+A' },
  R_X86_64_PC16: { number: 13, width: 2, range: 'signed', formula: 'S+A-P' },
  R_X86_64_8: { number: 14, width: 1, range: 'either', formula: 'S+A' },
  R_X86_64_PC8: { number: 15, width: 1, range: 'signed', formula: 'S+A-P' },
  R_X86_64_DTPMOD64: { number: 16, width: 8, range: 'all', formula: 'M' },
  R_X86_64_DTPOFF64: { number: 17, width: 8, range: 'all', formula: 'D+A' },
  R_X86_64_TPOFF64: { number: 18, width: 8, range: 'all', formula: 'T+A' },
  R_X86_64_TLSGD: { number: 19, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_TLSLD: { number: 20, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_DTPOFF32: { number: 21, width: 4, range: 'signed', formula: 'D+A' },
  R_X86_64_GOTTPOFF: { number: 22, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_TPOFF32: { number: 23, width: 4, range: 'signed', formula: 'T+A' },
  R_X86_64_PC64: { number: 24, width: 8, range: 'all', formula: 'S+A-P' },
  R_X86_64_GOTOFF64: { number: 25, width: 8, range: 'all', formula: 'S+A-GOT' },
  R_X86_64_GOTPC32: { number: 26, width: 4, range: 'signed', formula: 'GOT+A-P' },
  R_X86_64_GOT64: { number: 27, width: 8, range: 'all', formula: 'G+A' },
  R_X86_64_GOTPCREL64: { number: 28, width: 8, range: 'all', formula: 'G+GOT+A-P' },
  R_X86_64_GOTPC64: { number: 29, width: 8, range: 'all', formula: 'GOT+A-P' },
  R_X86_64_GOTPLT64: { number: 30, width: 8, range: 'all', formula: 'G+A' },
  R_X86_64_PLTOFF64: { number: 31, width: 8, range: 'all', formula: 'L+A-GOT' },
  R_X86_64_SIZE32: { number: 32, width: 4, range: 'unsigned', formula: 'Z+A' },
  R_X86_64_SIZE64: { number: 33, width: 8, range: 'all', formula: 'Z+A' },
  R_X86_64_GOTPC32_TLSDESC: { number: 34, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_TLSDESC_CALL: { number: 35, width: 0, range: 'all', formula: '' },
  R_X86_64_TLSDESC: { number: 36, width: 16, range: 'all', formula: '' },
  R_X86_64_IRELATIVE: { number: 37, width: 8, range: 'all', formula: '' },
  R_X86_64_RELATIVE64: { number: 38, width: 8, range: 'all', formula: 'B+A' },
  R_X86_64_GOTPCRELX: { number: 41, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_REX_GOTPCRELX: { number: 42, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_CODE_4_GOTPCRELX: { number: 43, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_CODE_4_GOTTPOFF: { number: 44, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_CODE_4_GOTPC32_TLSDESC: { number: 45, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_CODE_5_GOTPCRELX: { number: 46, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_CODE_5_GOTTPOFF: { number: 47, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_CODE_5_GOTPC32_TLSDESC: { number: 48, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_CODE_6_GOTPCRELX: { number: 49, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_CODE_6_GOTTPOFF: { number: 50, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
  R_X86_64_CODE_6_GOTPC32_TLSDESC: { number: 51, width: 4, range: 'signed', formula: 'G+GOT+A-P' },
} as const;

export type X86_64Name = keyof typeof x86_64;

/** A kind with its name and its formula taken apart. */
export interface X86_64Kind extends FieldKind {
  readonly name: X86_64Name;
  readonly terms: readonly { readonly letter: RelocationLetter; readonly sign: 1 | -1 }[];
}

/** By number. */
const byNumber: readonly (X86_64Kind | undefined)[] = tabulate();

/** The kind of that number; undefined when the specification has none, or has withdrawn it. */
export function x86_64Kind(number: number): X86_64Kind | undefined {
  return byNumber[number];
}

/** A value that a relocation's field cannot hold, or a field that is not there. */
export class RelocationError extends Error {
  /** The kind's name, or its number when that is not known. */
  readonly kind: string;
  /** Of the field, in the bytes that were to be changed. */
  readonly offset: number;
  readonly expected: string;

  constructor(kind: string, offset: number, expected: string, found: string) {
    super(`${kind}: expected ${expected}, found ${found} (at offset ${hex(offset)})`);
    this.name = 'RelocationError';
    this.kind = kind;
    this.offset = offset;
    this.expected = expected;
  }
}

/** What the kind's formula gives; throws when it names a letter that `values` leave out. */
export function relocationValue(kind: X86_64Kind, values: RelocationValues): number {
  let sum = 0;
  for (const { letter, sign } of kind.terms) {
    const value = values[letter];
    if (value === undefined) throw new Error(`${kind.name} is ${kind.formula}, and no ${letter} is given`);
    sum += sign * value;
  }
  return sum;
}

/** Whether the field holds the value: so that a caller can choose a thunk before anything is written. */
export function fitsRelocation(kind: X86_64Kind, value: number): boolean {
  if (kind.range === 'all') return true;
  const span = 2 ** (8 * kind.width);
  return value >= (kind.range === 'unsigned' ? 0 : -span / 2) && value < (kind.range === 'signed' ? span / 2 : span);
}

/** Writes the field at `offset`; throws RelocationError, and then has written nothing. Kinds without a field are no-ops. */
export function applyRelocation(view: DataView, offset: number, kind: number, values: RelocationValues): void {
  const known = x86_64Kind(kind);
  if (known === undefined) throw new RelocationError(`kind ${kind}`, offset, 'a relocation kind of x86-64', `${kind}`);
  const { name, width } = known;
  if (width === 0) return;
  if (known.terms.length === 0) throw new RelocationError(name, offset, 'a kind that a linker can apply', name);
  if (!(offset >= 0 && offset + width <= view.byteLength)) {
    throw new RelocationError(name, offset, `a field of ${width} bytes`, `the end at ${hex(view.byteLength)}`);
  }
  const value = relocationValue(known, values);
  if (!fitsRelocation(known, value)) {
    throw new RelocationError(name, offset, `${known.formula} in ${describeRange(known)}`, hex(value));
  }
  if (width === 1) view.setInt8(offset, value);
  else if (width === 2) view.setInt16(offset, value, true);
  else view.setInt32(offset, value, true);
  if (width === 8) view.setInt32(offset + 4, Math.floor(value / 2 ** 32), true);
}

function tabulate(): (X86_64Kind | undefined)[] {
  const table: (X86_64Kind | undefined)[] = [];
  for (const [name, kind] of Object.entries(x86_64) as [X86_64Name, FieldKind][]) {
    const terms = [...kind.formula.matchAll(/([+-]?)([A-Z]+)/g)].map(([, sign, letter]) => ({
      letter: letter as RelocationLetter,
      sign: sign === '-' ? (-1 as const) : (1 as const),
    }));
    table[kind.number] = { ...kind, name, terms };
  }
  return table;
}

function describeRange({ range, width }: X86_64Kind): string {
  const bits = 8 * width;
  return range === 'either' ? `${bits} bits` : `${bits} bits, ${range}`;
}

function hex(value: number): string {
  return value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
}
