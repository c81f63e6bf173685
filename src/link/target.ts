// What a file format adds to the neutral stages: its relocation kinds, and how a finished plan becomes a patch.

import type { Atom, ObjectFile, Relocation, Signature, Symbol } from '../model.ts';
import type { RelocationRules } from './diff.ts';
import type { VtableRules } from './identity.ts';

/** A relocation whose target has been found. */
export interface Resolved {
  readonly offset: number;
  readonly kind: number;
  /** What the relocated field means: a slot, an address with addend, or nothing where `name` says it. */
  readonly value: number;
  /** The called function's type, or the type a TYPE_INDEX relocation names. */
  readonly signature?: Signature;
  /** A global, a table or a tag by name. */
  readonly name?: string;
}

export interface PlannedFunction {
  readonly name: string;
  readonly slot: number;
  readonly signature: Signature;
  readonly body: Uint8Array;
  readonly relocations: readonly Resolved[];
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

/** What a relocation refers to, as far as the neutral stage must tell. */
export type TargetKind = 'function' | 'address' | 'signature' | 'name';

export interface Target extends RelocationRules, VtableRules {
  readonly targetKind: (relocation: Relocation) => TargetKind;
  /** A function that the host provides when no object defines it. */
  readonly isHostFunction: (symbol: Symbol) => boolean;
  /** A function whose object code is not what runs, since a later tool replaces it (wasm-bindgen's casts). */
  readonly isReplaced: (object: ObjectFile, atom: Atom) => boolean;
  /** A name that a tool numbers anew in every build: another build's function of this name is another function. */
  readonly isOfOneBuild: (name: string) => boolean;
  /** Names under which the base may hold what code calls `symbol`, best first. */
  readonly aliases: (symbol: Symbol) => readonly string[];
  /** When a symbol describes a function that the host calls: that function's name there. */
  readonly describes: (symbol: Symbol) => string | undefined;
  readonly emit: (plan: Plan) => Uint8Array;
}
