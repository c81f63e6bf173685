// Two sets of objects in, before and after; out comes which functions and statics differ.
//
// Two atoms are the same when their bytes are equal outside the fields that relocations fill in, and each relocation
// means the same thing in both. What a relocation means is its target's name; but constants without a name of their own
// (`.Lanon.HASH.N`, renumbered at will by the compiler) are compared by what they hold. So code that merely moved, or
// whose neighbours did, is not a change.

import type { Atom, ObjectFile, Relocation, Symbol, UnwindRecord } from '../model.ts';
import { equalBytes } from '../object/bytes.ts';

/** A symbol in the object that defines it. */
export interface Definition {
  readonly object: ObjectFile;
  readonly symbol: Symbol;
  readonly atom: Atom;
}

/** One function or static that is not the same in both sets. `before` is missing when it is new. */
export interface Change {
  readonly before?: Definition;
  readonly after: Definition;
}

/** What a format says about its relocations, as far as comparing needs it. */
export interface RelocationRules {
  /** Bytes in the atom that the relocation overwrites. */
  readonly width: (kind: number) => number;
  /** True when `Relocation.symbol` is an index of `ObjectFile.signatures`. */
  readonly namesSignature: (kind: number) => boolean;
}

export function definitionOf(object: ObjectFile, symbol: Symbol): Definition | undefined {
  const atom = symbol.atom === undefined ? undefined : object.atoms[symbol.atom];
  return atom === undefined ? undefined : { object, symbol, atom };
}

export function symbolAt(object: ObjectFile, index: number): Symbol {
  const symbol = object.symbols[index];
  if (symbol === undefined) throw new Error(`${object.name}: no symbol ${index}`);
  return symbol;
}

/** A constant the compiler made up: its name says nothing, its content everything. */
export function isAnonymous(symbol: Symbol): boolean {
  return symbol.kind === 'data' && symbol.binding === 'local' && !symbol.name.startsWith('_');
}

/** Named functions and statics defined in an object. */
export function* namedDefinitions(object: ObjectFile): Generator<Definition> {
  for (const symbol of object.symbols) {
    if ((symbol.kind !== 'function' && symbol.kind !== 'data') || isAnonymous(symbol)) continue;
    const definition = definitionOf(object, symbol);
    if (definition !== undefined) yield definition;
  }
}

/** Finds what a symbol of an object means, in that object or another of the same build. */
export type Locate = (object: ObjectFile, symbol: Symbol) => Definition | undefined;

export class Comparison {
  readonly #rules: RelocationRules;
  readonly #locate: Locate;
  /** Pairs of anonymous atoms already found equal or not. */
  readonly #known = new Map<Atom, Map<Atom, boolean>>();
  readonly #keys = new Map<Atom, string>();

  constructor(rules: RelocationRules, locate: Locate = definitionOf) {
    this.#rules = rules;
    this.#locate = locate;
  }

  /**
   * Changed and new definitions, in the order of `after`. Local symbols of one name may stand in several objects: they
   * pair within the object of the same name first.
   */
  changes(
    before: readonly ObjectFile[],
    after: readonly ObjectFile[],
  ): { changes: Change[]; pairs: Map<Definition, Definition> } {
    const earlier = new Map<string, Definition[]>();
    for (const object of before) {
      for (const definition of namedDefinitions(object)) {
        const list = earlier.get(definition.symbol.name);
        if (list === undefined) earlier.set(definition.symbol.name, [definition]);
        else list.push(definition);
      }
    }
    const changes: Change[] = [];
    const pairs = new Map<Definition, Definition>();
    for (const object of after) {
      for (const definition of namedDefinitions(object)) {
        const candidates = earlier.get(definition.symbol.name) ?? [];
        const old = candidates.find((candidate) => candidate.object.name === object.name) ?? candidates[0];
        if (old === undefined) {
          changes.push({ after: definition });
          continue;
        }
        pairs.set(definition, old);
        if (!this.same(old, definition)) changes.push({ before: old, after: definition });
      }
    }
    return { changes, pairs };
  }

  same(a: Definition, b: Definition): boolean {
    return a.symbol.signature === b.symbol.signature && this.#sameAtom(a.object, a.atom, b.object, b.atom);
  }

  #sameAtom(objectA: ObjectFile, a: Atom, objectB: ObjectFile, b: Atom): boolean {
    if (a === b) return true;
    const known = this.#known.get(a)?.get(b);
    if (known !== undefined) return known;
    const answer = this.#compare(objectA, a, objectB, b);
    const row = this.#known.get(a);
    if (row === undefined) this.#known.set(a, new Map([[b, answer]]));
    else row.set(b, answer);
    return answer;
  }

  #compare(objectA: ObjectFile, a: Atom, objectB: ObjectFile, b: Atom): boolean {
    if (a.kind !== b.kind || a.sizeBytes !== b.sizeBytes) return false;
    if (!this.#sameContent(objectA, a, objectB, b)) return false;
    const { unwind = [] } = a;
    const { unwind: others = [] } = b;
    return (
      unwind.length === others.length &&
      unwind.every(({ cie, fde, codeOffset }, index) => {
        const other = others[index];
        return (
          other !== undefined &&
          codeOffset === other.codeOffset &&
          this.#sameContent(objectA, fde, objectB, other.fde) &&
          this.#sameContent(objectA, cie, objectB, other.cie)
        );
      })
    );
  }

  #sameContent(objectA: ObjectFile, a: UnwindRecord, objectB: ObjectFile, b: UnwindRecord): boolean {
    if (a.bytes.length !== b.bytes.length || a.relocations.length !== b.relocations.length) return false;
    let from = 0;
    for (const [index, relocation] of a.relocations.entries()) {
      const other = b.relocations[index];
      if (other === undefined || relocation.offset !== other.offset || relocation.kind !== other.kind) return false;
      if (relocation.addend !== other.addend) return false;
      if (!equalBytes(a.bytes, b.bytes, from, relocation.offset)) return false;
      from = relocation.offset + this.#rules.width(relocation.kind);
      if (!this.#sameTarget(objectA, relocation, objectB, other)) return false;
    }
    return equalBytes(a.bytes, b.bytes, from, a.bytes.length);
  }

  #sameTarget(objectA: ObjectFile, a: Relocation, objectB: ObjectFile, b: Relocation): boolean {
    if (this.#rules.namesSignature(a.kind)) return objectA.signatures[a.symbol] === objectB.signatures[b.symbol];
    const symbolA = symbolAt(objectA, a.symbol);
    const symbolB = symbolAt(objectB, b.symbol);
    if (isAnonymous(symbolA) && isAnonymous(symbolB)) {
      const one = this.#locate(objectA, symbolA);
      const two = this.#locate(objectB, symbolB);
      if (one === undefined || two === undefined || one.symbol.offset !== two.symbol.offset) return false;
      return this.#sameAtom(one.object, one.atom, two.object, two.atom);
    }
    // What a symbol is, ELF knows only where it is defined.
    const isOneKind = symbolA.kind === symbolB.kind || symbolA.atom === undefined || symbolB.atom === undefined;
    // Each unit may have a function of its own by one name, and have specialised it.
    const isOneHome = symbolA.kind !== 'function' || symbolA.unit === symbolB.unit;
    return isOneKind && isOneHome && symbolA.name === symbolB.name && symbolA.signature === symbolB.signature;
  }

  /** What an anonymous constant holds, as text: equal keys, equal constants, whatever object they stand in. */
  key(object: ObjectFile, atom: Atom): string {
    const known = this.#keys.get(atom);
    if (known !== undefined) return known;
    // Constants form no cycles (a constant expression cannot name itself); the mark keeps a damaged object from hanging us.
    this.#keys.set(atom, '(cycle)');
    const bytes = atom.bytes.slice();
    const targets: string[] = [];
    for (const { offset, kind, symbol: index, addend } of atom.relocations) {
      bytes.fill(0, offset, offset + this.#rules.width(kind));
      const symbol = symbolAt(object, index);
      const target = isAnonymous(symbol) ? this.#locate(object, symbol) : undefined;
      const name =
        target === undefined
          ? `${symbol.name} ${symbol.unit ?? ''} ${symbol.signature ?? ''}`
          : `{${this.key(target.object, target.atom)}}+${target.symbol.offset}`;
      targets.push(`${offset} ${kind} ${addend} ${name}`);
    }
    const key = `${atom.kind} ${atom.alignment} ${atom.sizeBytes} ${latin1.decode(bytes)} ${targets.join('\n')}`;
    this.#keys.set(atom, key);
    return key;
  }
}

/** One character for each byte, and no two bytes for one character. */
const latin1 = new TextDecoder('latin1');
