// A native program's objects in; out come the objects to link instead, in which every function of the user's is reached
// through a stub, and which slot each stub jumps through.
//
//     foo:  …body…                      foo.impl:  …body…
//     bar:  call foo            →       bar.impl:  call foo        slots:  .quad foo.impl
//                                       foo:       jmp *slots+0(%rip)      .quad bar.impl
//                                       bar:       jmp *slots+8(%rip)
//
// A definition is renamed in its object's symbol table, and the stub object takes the name over: so the linker itself
// leads calls, vtables and function pointers of every object to the stub. What names a function by its section, within
// one object, is changed to name the stub. What belongs to the body goes on naming the body: unwind tables, debug
// information, jump tables.
//
// All stubs are in one object and 8 bytes each, as slots are: slot N is at slots + 8 N and its stub at stubs + 8 N. Behind
// them are slots that nothing uses yet, with their stubs: for functions that patches add.

import type { ObjectSource, Relocation, Rewrite } from '../model.ts';
import { Writer } from '../object/bytes.ts';
import { SHF_ALLOC, SHF_EXECINSTR, SHF_MERGE, SHF_WRITE, sectionsOf, SHT_SYMTAB, writeElf } from '../object/elf.ts';
import { type ElfAtom, type ElfObject, type ElfSymbol, readElfObject } from '../object/elfobject.ts';
import { meansStart } from '../object/elfparts.ts';
import { type ElfSymbolEntry, readSymbols } from '../object/elfsymbols.ts';
import { editElf, type NewElfRelocation, writeElfObject } from '../object/elfwriter.ts';
import { stubFrames } from '../object/frames.ts';
import { x86_64 } from '../object/x86_64.ts';

/** What the base is linked from, and what a Program must know of it. Slots are numbered as they are here. */
export interface Stubbed {
  readonly rewrite: Rewrite;
  readonly slots: readonly StubSlot[];
  /** How many there are in all; those that `slots` does not tell of are free. */
  readonly slotCount: number;
}

export interface StubSlot {
  /** As the code names it. */
  readonly name: string;
  /** Of the `ObjectSource` that defines it. */
  readonly object: string;
  /** Another object may define another function of this name. */
  readonly isLocal: boolean;
  /** The optimiser may give several names to one body: the first slot that holds it. */
  readonly sharedWith?: number;
}

/** File name of the object with the stubs. */
const STUB_OBJECT = 'hotslot-stubs.o';
/** Slots kept free for functions that patches add; 16 bytes of the program each. */
const FREE_SLOTS = 1 << 14;

/** Symbols of the stub object. The agent asks for those of the slots. */
export const SLOTS_START = '__hotslot_slots_start';
export const SLOTS_END = '__hotslot_slots_end';
export const STUBS_START = '__hotslot_stubs_start';
/** Bytes of a slot, and of a stub. */
export const SLOT_BYTES = 8;

/** Begins the name of a symbol that only says where something is: `__hotslot_at:OBJECT:SECTION or SYMBOL`. */
export const ANCHOR = '__hotslot_at:';

/** Throws MalformedError when an object is none. */
export function stubObjects(objects: readonly ObjectSource[]): Stubbed {
  const slots: StubSlot[] = [];
  const stubs: Stub[] = [];
  const rewritten = new Map<string, Uint8Array>();
  for (const source of objects) {
    const object = readElfObject(source.bytes(), source.name);
    const own = functionsOf(object);
    const first = new Map<number, number>();
    for (const { symbol, stub } of own) {
      const slot = slots.length;
      const sharedWith = first.get(symbol.atom);
      if (sharedWith === undefined) first.set(symbol.atom, slot);
      stubs.push(stub);
      slots.push({
        name: symbol.name,
        object: source.name,
        isLocal: symbol.binding === 'local',
        ...(sharedWith !== undefined && { sharedWith }),
      });
    }
    const edited = rewriteObject(object, own);
    if (edited !== undefined) rewritten.set(source.name, edited);
  }
  const added = new Map([[STUB_OBJECT, stubObject(stubs)]]);
  return { rewrite: { objects: rewritten, added }, slots, slotCount: slots.length + FREE_SLOTS };
}

interface Stub {
  readonly name: string;
  readonly body: string;
  readonly visibility: ElfSymbol['visibility'];
}

interface Stubbable {
  /** Index in the object's symbols. */
  readonly index: number;
  readonly symbol: ElfSymbol & { readonly atom: number };
  readonly stub: Stub;
}

/** The functions of an object that get a stub: those that are a section's beginning, which in Rust are all. */
function functionsOf(object: ElfObject): Stubbable[] {
  return object.symbols.flatMap((symbol, index): Stubbable[] => {
    const { name, atom: at, binding, visibility } = symbol;
    const atom = at === undefined ? undefined : object.atoms[at];
    if (symbol.type !== 'function' || at === undefined || atom?.kind !== 'code' || symbol.offset !== 0) return [];
    // Of weak ones and those in a COMDAT the linker chooses which object's counts.
    if (binding === 'weak' || atom.comdat !== undefined || !isSwappable(name)) return [];
    const unique = binding === 'local' ? `${name}.${object.name}` : name;
    const stub = { name: unique, body: `${unique}.impl`, visibility: binding === 'local' ? 'hidden' : visibility };
    return [{ index, symbol: { ...symbol, atom: at }, stub }];
  });
}

/**
 * What is called before the agent is there, by the unwinder, or under names that linkers and std know. Patches cannot
 * change it either. `__rustc` is the crate that rustc keeps allocator shims in (v0: `_RNvCs…_7___rustc…`).
 */
function isSwappable(name: string): boolean {
  if (name === 'main' || name === '_start' || name === 'rust_eh_personality') return false;
  return !/^(?:__rust_|__rdl_|__rg_|_RNvC(?:s[0-9A-Za-z]*_)?7___rustc)/.test(name);
}

/** Undefined when there is nothing to change. */
function rewriteObject(object: ElfObject, functions: readonly Stubbable[]): Uint8Array | undefined {
  const { elf } = object;
  const table = sectionsOf(elf, SHT_SYMTAB)[0];
  if (table === undefined) return undefined;
  const symbols = readSymbols(elf, table);
  const stubOf = new Map<number, number>();
  const byAtom = new Map<number, number>();
  for (const { index, symbol, stub } of functions) {
    const entry = symbols[index];
    if (entry === undefined) continue;
    symbols[index] = { ...entry, name: stub.body, binding: 'global', visibility: 'hidden' };
    stubOf.set(index, symbols.length);
    if (!byAtom.has(symbol.atom)) byAtom.set(symbol.atom, symbols.length);
    symbols.push({ ...entry, name: stub.name, binding: 'global', type: 'none', section: 'undefined', sizeBytes: 0 });
  }
  for (const [index, { type, atom }] of object.symbols.entries()) {
    const stub = type === 'section' && atom !== undefined ? byAtom.get(atom) : undefined;
    if (stub !== undefined) stubOf.set(index, stub);
  }
  const relocations = new Map<number, readonly Relocation[]>();
  for (const atom of object.atoms) {
    if (atom.section === undefined || isUnwindTable(atom)) continue;
    let changed = false;
    const edited = atom.relocations.map((relocation) => {
      const stub = stubOf.get(relocation.symbol);
      if (stub === undefined || !meansStart(atom, relocation)) return relocation;
      changed = true;
      return { ...relocation, symbol: stub };
    });
    if (changed) relocations.set(atom.section, edited);
  }
  const anchors = anchorsOf(object);
  if (functions.length === 0 && anchors.length === 0) return undefined;
  return writeElf(editElf(elf, { symbols: [...symbols, ...anchors], relocations }));
}

function isUnwindTable({ name }: ElfAtom): boolean {
  return name === '.eh_frame' || name.startsWith('.gcc_except_table');
}

/** Symbols for data that the finished program would not tell the place of: local statics, and constants without a name. */
function anchorsOf(object: ElfObject): ElfSymbolEntry[] {
  const names = new Map<string, number>();
  for (const { name } of object.atoms) names.set(name, (names.get(name) ?? 0) + 1);
  const named = new Set<number>();
  const anchors: ElfSymbolEntry[] = [];
  const add = (name: string, section: number, value: number, sizeBytes: number): void => {
    anchors.push({
      name: `${ANCHOR}${object.name}:${name}`,
      binding: 'local',
      type: 'object',
      visibility: 'default',
      section,
      value,
      sizeBytes,
    });
  };
  for (const { name, kind, binding, atom, section, type, offset, sizeBytes } of object.symbols) {
    if (kind !== 'data' || atom === undefined || section === undefined || type === 'tls') continue;
    if (binding !== 'local') named.add(atom);
    else if (name.startsWith('_')) {
      named.add(atom);
      add(name, section, offset, sizeBytes);
    }
  }
  for (const atom of object.atoms) {
    const { index, name, kind, flags, section, sizeBytes } = atom;
    if ((kind !== 'constant' && kind !== 'data') || section === undefined || flags & SHF_MERGE) continue;
    if (!named.has(index) && !isUnwindTable(atom) && names.get(name) === 1 && sizeBytes > 0) {
      add(name, section, 0, sizeBytes);
    }
  }
  return anchors;
}

// Sections of the stub object, by index.
const STUBS = 0;
const SLOTS = 1;
const FRAMES = 2;
// And the first symbols.
const SLOTS_SYMBOL = 0;
const STUBS_SYMBOL = 2;
/** jmp *disp32(%rip) */
const JUMP = [0xff, 0x25, 0, 0, 0, 0, 0x66, 0x90];
const JUMP_FIELD = 2;

function stubObject(stubs: readonly Stub[]): Uint8Array {
  const count = stubs.length + FREE_SLOTS;
  const sizeBytes = count * SLOT_BYTES;
  const code = new Writer(sizeBytes);
  for (let slot = 0; slot < count; slot++) code.bytes(JUMP);
  const own = (name: string, section: number, value: number): ElfSymbolEntry => {
    return { name, binding: 'global', type: 'none', visibility: 'hidden', section, value, sizeBytes: 0 };
  };
  const symbols: ElfSymbolEntry[] = [
    own(SLOTS_START, SLOTS, 0),
    own(SLOTS_END, SLOTS, sizeBytes),
    own(STUBS_START, STUBS, 0),
  ];
  const relocations: NewElfRelocation[] = [];
  const { number: distance } = x86_64.R_X86_64_PC32;
  for (let slot = 0; slot < count; slot++) {
    const at = slot * SLOT_BYTES;
    relocations.push({
      section: STUBS,
      offset: at + JUMP_FIELD,
      kind: distance,
      symbol: SLOTS_SYMBOL,
      addend: at - 4,
    });
  }
  for (const [slot, { name, body, visibility }] of stubs.entries()) {
    const value = slot * SLOT_BYTES;
    const symbol = symbols.length;
    symbols.push(
      { name, binding: 'global', type: 'function', visibility, section: STUBS, value, sizeBytes: SLOT_BYTES },
      {
        name: body,
        binding: 'global',
        type: 'none',
        visibility: 'hidden',
        section: 'undefined',
        value: 0,
        sizeBytes: 0,
      },
    );
    relocations.push({
      section: SLOTS,
      offset: value,
      kind: x86_64.R_X86_64_64.number,
      symbol: symbol + 1,
      addend: 0,
    });
  }
  const frames = stubFrames(sizeBytes);
  relocations.push({ section: FRAMES, offset: frames.textField, kind: distance, symbol: STUBS_SYMBOL, addend: 0 });
  return writeElfObject({
    sections: [
      { name: '.text.hotslot', flags: SHF_ALLOC | SHF_EXECINSTR, alignment: 16, bytes: code.finish() },
      {
        name: '.data.hotslot',
        flags: SHF_ALLOC | SHF_WRITE,
        alignment: SLOT_BYTES,
        bytes: new Uint8Array(sizeBytes),
      },
      { name: '.eh_frame', flags: SHF_ALLOC, alignment: 8, bytes: frames.bytes },
    ],
    symbols,
    relocations,
  });
}
