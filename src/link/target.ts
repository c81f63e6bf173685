// What a file format adds to the neutral stages: its relocation kinds, and how a finished plan becomes a patch.

import type {
  Atom,
  Glue,
  ObjectFile,
  Patch,
  PatchHead,
  Refusal,
  Relocation,
  Signature,
  Symbol,
  Unwind,
} from '../model.ts';
import type { Change, Definition, RelocationRules } from './diff.ts';
import type { VtableRules } from './identity.ts';
import type { TypeDigests } from './layout.ts';
import type { Draft } from './program.ts';

/** What the number that a relocation is about is. */
type Meaning =
  /** A function by its slot. */
  | 'slot'
  /** An address, or of a thread-local its offset from the thread pointer. */
  | 'address'
  /** The address of a cell in which the host keeps the address that is meant. */
  | 'cell'
  /** Nothing: `signature` or `name` says it. */
  | 'type'
  | 'name';

/** What a relocation refers to, once that has been found. */
export interface Referent {
  readonly means: Meaning;
  readonly value: number;
  /** The called function's type, or the type a TYPE_INDEX relocation names. */
  readonly signature?: Signature;
  /** A global, a table or a tag by name; of what the host provides, its name there. */
  readonly name?: string;
}

/** A relocation whose target has been found. */
export interface Resolved extends Referent {
  readonly offset: number;
  readonly kind: number;
  readonly addend: number;
}

export interface PlannedFunction {
  readonly name: string;
  readonly slot: number;
  readonly signature: Signature;
  readonly definition: Definition;
  /** Where the atom will be, for formats that place code. */
  readonly address?: number;
  readonly relocations: readonly Resolved[];
  readonly unwind: readonly PlannedUnwind[];
}

interface PlannedUnwind {
  readonly unwind: Unwind;
  readonly cie: readonly Resolved[];
  readonly fde: readonly Resolved[];
}

/** Bytes to write at an address when the patch is applied. */
export interface PlannedData {
  readonly address: number;
  readonly atom: Atom;
  readonly relocations: readonly Resolved[];
  /** The bytes there are zero and nobody has seen them: new data in the arena. */
  readonly fresh: boolean;
}

/** A JavaScript function to put into a slot; it comes from newly loaded glue. */
export interface PlannedImport {
  readonly field: string;
  readonly slot: number;
  readonly signature: Signature;
}

export interface Plan {
  readonly functions: readonly PlannedFunction[];
  readonly data: readonly PlannedData[];
  readonly imports: readonly PlannedImport[];
}

/** Code that a patch cannot hold; the message says why, in words for the user. */
export class Unlinkable extends Error {}

/** What a relocation refers to, as far as its kind tells: `symbol` leaves it to what defines the symbol. */
export type TargetKind = 'function' | 'address' | 'symbol' | 'signature' | 'name';

/** What debug information tells of types. */
interface LayoutRules {
  /** Whether new code takes old memory for another shape. `gone` are types of code that left the program before. */
  readonly refusal: (
    before: readonly ObjectFile[],
    after: readonly ObjectFile[],
    changes: readonly Change[],
    gone: TypeDigests,
  ) => Refusal | undefined;
  /** What is to be remembered of types when a patch is applied. */
  readonly gone: (
    before: readonly ObjectFile[],
    after: readonly ObjectFile[],
    changes: readonly Change[],
  ) => TypeDigests;
  /** What a function takes and returns; undefined when nothing tells. */
  readonly signatureOf: (definition: Definition) => string | undefined;
}

export interface Target<P extends Patch = Patch> extends RelocationRules, VtableRules {
  /** How a user gets the newest code when no patch can bring it. */
  readonly remedy: Refusal['remedy'];
  readonly targetKind: (relocation: Relocation) => TargetKind;
  /** The relocation is about the inside of a function: about its body, not about the slot that leads there. */
  readonly meansInside: (object: ObjectFile, atom: Pick<Atom, 'kind'>, relocation: Relocation) => boolean;
  /** A function that the host provides when no object defines it. */
  readonly isHostFunction: (symbol: Symbol) => boolean;
  /** What the host provides by an address, when no object defines it. */
  readonly hostReferent: (symbol: Symbol) => Referent | undefined;
  /** Code that has begun for good: nothing will call it again. */
  readonly isOver: (symbol: Symbol) => boolean;
  /** A function whose object code is not what runs, since a later tool replaces it (wasm-bindgen's casts). */
  readonly isReplaced: (object: ObjectFile, atom: Atom) => boolean;
  /** A name that a tool numbers anew in every build: another build's function of this name is another function. */
  readonly isOfOneBuild: (name: string) => boolean;
  /** Names under which the base may hold what code calls `symbol`, best first. */
  readonly aliases: (symbol: Symbol) => readonly string[];
  /** When a symbol describes a function that the host calls: that function's name there. */
  readonly describes: (symbol: Symbol) => string | undefined;
  /** For formats whose symbols say nothing of types. */
  readonly layout?: LayoutRules;
  /** May take more of the draft's memory, for what only the format needs. Throws `Unlinkable`. */
  readonly emit: (head: PatchHead, plan: Plan, draft: Draft, glue: Glue | undefined) => P;
}
