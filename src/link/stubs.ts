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
import { SHF_ALLOC, SHF_EXECINSTR, SHF_GROUP, SHF_MERGE, SHF_TLS, SHF_WRITE, SHT_PROGBITS } from '../object/elf.ts';
import { ElfEditor } from '../object/elfeditor.ts';
import { meansStart } from '../object/elfparts.ts';
import type { ElfSymbolEntry } from '../object/elfsymbols.ts';
import { writeElfObject } from '../object/elfwriter.ts';
import { stubFrames } from '../object/frames.ts';
import { x86_64 } from '../object/x86_64.ts';

/** What the base is linked from, and what a Program must know of it. */
export interface Stubbed extends Slots {
  readonly rewrite: Rewrite;
}

export interface Slots {
  /** In their order, by which they are numbered. */
  readonly slots: readonly StubSlot[];
  /** How many there are in all; those that `slots` does not tell of are free. */
  readonly slotCount: number;
}

interface StubSlot {
  /** As the code names it. */
  readonly name: string;
  /** As the finished program names its code. */
  readonly body: string;
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
const SLOTS_END = '__hotslot_slots_end';
export const STUBS_START = '__hotslot_stubs_start';
/** Bytes of a slot, and of a stub. */
export const SLOT_BYTES = 8;

/** Begins the name of a symbol that only says where something is: `__hotslot_at:OBJECT:SECTION or SYMBOL`. */
export const ANCHOR = '__hotslot_at:';

/** Objects that stubs have been put into before all are there. */
export class PreparedObjects {
  readonly #byContent = new Map<string, PreparedObject>();

  /** Throws MalformedError when the object is none. */
  add(source: ObjectSource): void {
    this.#byContent.set(contentOf(source), prepare(source));
  }

  /** Each once. */
  take(source: ObjectSource): PreparedObject | undefined {
    const content = contentOf(source);
    const prepared = this.#byContent.get(content);
    this.#byContent.delete(content);
    return prepared;
  }
}

interface PreparedObject {
  readonly functions: readonly Stubbable[];
  /** Undefined when it is linked as it is. */
  readonly parts: readonly Uint8Array[] | undefined;
}

function contentOf({ name, stamp }: ObjectSource): string {
  return `${name} ${stamp}`;
}

function prepare({ name, bytes }: ObjectSource): PreparedObject {
  const object = new ElfEditor(bytes(), name);
  const functions = functionsOf(object);
  return { functions, parts: rewriteObject(object, functions) };
}

/** Throws MalformedError when an object is none. */
export function stubObjects(
  objects: readonly ObjectSource[],
  prepared: PreparedObjects = new PreparedObjects(),
): Stubbed {
  const slots: StubSlot[] = [];
  const stubs: Stub[] = [];
  const rewritten = new Map<string, readonly Uint8Array[]>();
  for (const source of objects) {
    const { name } = source;
    const { functions, parts } = prepared.take(source) ?? prepare(source);
    if (parts !== undefined) rewritten.set(name, parts);
    const first = new Map<number, number>();
    for (const { entry, section, stub } of functions) {
      const slot = slots.length;
      const sharedWith = first.get(section);
      if (sharedWith === undefined) first.set(section, slot);
      stubs.push(stub);
      const isLocal = entry.binding === 'local';
      slots.push({
        name: entry.name,
        body: stub.body,
        object: name,
        isLocal,
        ...(sharedWith !== undefined && { sharedWith }),
      });
    }
  }
  const added = new Map([[STUB_OBJECT, slotObject(stubs)]]);
  return { rewrite: { objects: rewritten, added }, slots, slotCount: slots.length + FREE_SLOTS };
}

interface Stub {
  readonly name: string;
  readonly body: string;
  readonly visibility: ElfSymbolEntry['visibility'];
}

interface Stubbable {
  /** Index in the object's symbols. */
  readonly index: number;
  readonly entry: ElfSymbolEntry;
  /** The index of its section. */
  readonly section: number;
  readonly stub: Stub;
}

/** The functions of an object that get a stub: those that are a section's beginning, which in Rust are all. */
function functionsOf(object: ElfEditor): Stubbable[] {
  const found: Stubbable[] = [];
  object.symbols.forEach((entry, index) => {
    const { name, type, section, value, binding, visibility } = entry;
    if (type !== 'function' || typeof section !== 'number' || value !== 0) return;
    const flags = object.flags(section);
    // Of weak ones and those in a group the linker chooses which object's counts.
    if (!(flags & SHF_EXECINSTR) || flags & SHF_GROUP || binding === 'weak' || !isSwappable(name)) return;
    const unique = binding === 'local' ? `${name}.${object.name}` : name;
    const stub = {
      name: unique,
      body: `${unique}.impl`,
      visibility: binding === 'local' ? 'hidden' : visibility,
    } as const;
    found.push({ index, entry, section, stub });
  });
  return found;
}

/**
 * What is called before the agent is there, by the unwinder, or under names that linkers and std know. Patches cannot
 * change it either. `__rustc` is the crate that rustc keeps allocator shims in (v0: `_RNvCs…_7___rustc…`).
 */
function isSwappable(name: string): boolean {
  if (name === 'main' || name === '_start' || name === 'rust_eh_personality') return false;
  return !/^(?:__rust_|__rdl_|__rg_|_RNvC(?:s[0-9A-Za-z]*_)?7___rustc)/.test(name);
}

/**
 * Undefined when there is nothing to change. Every symbol keeps its index, and local ones stay local beside the global
 * name that they get: so nothing else of the object, debug information above all, has to be rewritten.
 */
function rewriteObject(object: ElfEditor, functions: readonly Stubbable[]): Uint8Array[] | undefined {
  const { symbols } = object;
  /** By the index of a symbol that means a function, or of its section's symbol, that of the stub; 0 for none. */
  const stubOf = new Uint32Array(symbols.length);
  const bySection = new Map<number, number>();
  for (const { index, entry, section, stub } of functions) {
    const body = globalSymbol(stub.body, 'function', 'hidden', section, 0, entry.sizeBytes);
    if (entry.binding === 'local') object.add(body);
    else object.replace(index, body);
    const added = object.add(globalSymbol(stub.name, 'none', stub.visibility, 'undefined', 0, 0));
    stubOf[index] = added;
    if (!bySection.has(section)) bySection.set(section, added);
  }
  symbols.forEach(({ type, section }, index) => {
    const stub = type === 'section' && typeof section === 'number' ? bySection.get(section) : undefined;
    if (stub !== undefined) stubOf[index] = stub;
  });
  const anchors = anchorsOf(object);
  if (functions.length === 0 && anchors.length === 0) return undefined;
  for (const anchor of anchors) object.add(anchor);
  redirect(object, stubOf);
  return object.finish();
}

/** Lets relocations that name a function name the stub. */
function redirect(object: ElfEditor, stubOf: Uint32Array): void {
  for (let table = 0; table < object.sectionCount; table++) {
    const target = object.relocated(table);
    if (target === undefined) continue;
    const flags = object.flags(target);
    if (!(flags & SHF_ALLOC) || isUnwindTable(object.sectionName(target))) continue;
    const source = { kind: flags & SHF_EXECINSTR ? 'code' : 'data' } as const;
    object.redirect(table, stubOf, (relocation) => meansStart(source, relocation));
  }
}

function isUnwindTable(name: string): boolean {
  return name === '.eh_frame' || name.startsWith('.gcc_except_table');
}

/** Symbols for data that the finished program would not tell the place of: local statics, and constants without a name. */
function anchorsOf(object: ElfEditor): ElfSymbolEntry[] {
  const anchors: ElfSymbolEntry[] = [];
  const add = (name: string, section: number, value: number, sizeBytes: number): void => {
    anchors.push(globalSymbol(`${ANCHOR}${object.name}:${name}`, 'object', 'hidden', section, value, sizeBytes));
  };
  const named = new Set<number>();
  for (const { name, type, binding, section, value, sizeBytes } of object.symbols) {
    if (type !== 'object' || typeof section !== 'number') continue;
    if (binding === 'local' && !name.startsWith('_')) continue;
    named.add(section);
    if (binding === 'local') add(name, section, value, sizeBytes);
  }
  let counts: ReadonlyMap<number, number> | undefined;
  for (let section = 0; section < object.sectionCount; section++) {
    const flags = object.flags(section);
    if (!(flags & SHF_ALLOC) || flags & NOT_ANCHORED || object.type(section) !== SHT_PROGBITS) continue;
    const sizeBytes = object.sizeBytes(section);
    const name = object.sectionName(section);
    if (sizeBytes === 0 || named.has(section) || isUnwindTable(name)) continue;
    counts ??= countNames(object);
    if (counts.get(object.nameOffset(section)) === 1) add(name, section, 0, sizeBytes);
  }
  return anchors;
}

/** How many sections have a name, by its place in their table: compilers write each name once. */
function countNames(object: ElfEditor): Map<number, number> {
  const counts = new Map<number, number>();
  for (let section = 0; section < object.sectionCount; section++) {
    const name = object.nameOffset(section);
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return counts;
}

/** Code, thread-locals, and what linkers merge, which has no place of its own; of a group, another object's may count. */
const NOT_ANCHORED = SHF_EXECINSTR | SHF_TLS | SHF_MERGE | SHF_GROUP;

function globalSymbol(
  name: string,
  type: ElfSymbolEntry['type'],
  visibility: ElfSymbolEntry['visibility'],
  section: ElfSymbolEntry['section'],
  value: number,
  sizeBytes: number,
): ElfSymbolEntry {
  return { name, binding: 'global', type, visibility, section, value, sizeBytes };
}

// Sections of the stub object, by index.
const STUBS = 0;
const SLOTS = 1;
// And the first symbols.
const SLOTS_SYMBOL = 0;
const STUBS_SYMBOL = 2;
/** jmp *disp32(%rip) */
const JUMP = [0xff, 0x25, 0, 0, 0, 0, 0x66, 0x90];
const JUMP_FIELD = 2;

/** The object that has the slots, and a stub for each. */
function slotObject(stubs: readonly Stub[]): Uint8Array {
  const count = stubs.length + FREE_SLOTS;
  const sizeBytes = count * SLOT_BYTES;
  const code = new Uint8Array(sizeBytes);
  code.set(JUMP);
  for (let done = JUMP.length; done < sizeBytes; done *= 2) code.copyWithin(done, 0, done);
  const own = (name: string, section: number, value: number): ElfSymbolEntry =>
    globalSymbol(name, 'none', 'hidden', section, value, 0);
  const symbols: ElfSymbolEntry[] = [
    own(SLOTS_START, SLOTS, 0),
    own(SLOTS_END, SLOTS, sizeBytes),
    own(STUBS_START, STUBS, 0),
  ];
  const { number: distance } = x86_64.R_X86_64_PC32;
  const { number: absolute } = x86_64.R_X86_64_64;
  const jumps = Array.from({ length: count }, (_, slot): Relocation => {
    const at = slot * SLOT_BYTES;
    return { offset: at + JUMP_FIELD, kind: distance, symbol: SLOTS_SYMBOL, addend: at - 4 };
  });
  const bodies = stubs.map(({ name, body, visibility }, slot): Relocation => {
    const offset = slot * SLOT_BYTES;
    const symbol = symbols.push(
      globalSymbol(name, 'function', visibility, STUBS, offset, SLOT_BYTES),
      globalSymbol(body, 'none', 'hidden', 'undefined', 0, 0),
    );
    return { offset, kind: absolute, symbol: symbol - 1, addend: 0 };
  });
  const frames = stubFrames(sizeBytes);
  const text = { offset: frames.textField, kind: distance, symbol: STUBS_SYMBOL, addend: 0 };
  return writeElfObject({
    sections: [
      {
        name: '.text.hotslot',
        flags: SHF_ALLOC | SHF_EXECINSTR,
        alignment: 16,
        bytes: code,
        relocations: jumps,
      },
      {
        name: '.data.hotslot',
        flags: SHF_ALLOC | SHF_WRITE,
        alignment: SLOT_BYTES,
        bytes: new Uint8Array(sizeBytes),
        relocations: bodies,
      },
      { name: '.eh_frame', flags: SHF_ALLOC, alignment: 8, bytes: frames.bytes, relocations: [text] },
    ],
    symbols,
  });
}
