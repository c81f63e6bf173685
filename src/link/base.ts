// wasm-bindgen's output and the linker's map in; out come the module that the page runs instead, and the Program it is.
//
// Each function of the workspace moves to a new index at the end, and a stub takes its place:
//
//     (func $label (param i32 i32)              (func $label (param i32 i32)
//       …body…)                        →          local.get 0  local.get 1  i32.const SLOT  call_indirect)
//                                               (func $label' …body…)        table[SLOT] = $label'
//
// so every call, vtable and function pointer of the program goes through the slot without a byte of other code changed.
// A stub costs unoptimised code a tenth. A table of fixed size, or a typed reference in a global and `call_ref`, in the stub
// or in its callers, were no faster in Chromium 156; nor was `call_indirect` in the callers, beyond what could be measured.
// Functions of the standard library and of dependencies, and imported ones, get a slot too, but no stub: patches call
// everything by slot.

import type { Build, Image, Signature } from '../model.ts';
import { Writer } from '../object/bytes.ts';
import { encodeUnsigned, writeSigned, writeUnsigned } from '../object/leb128.ts';
import { ARENA_SYMBOL, THREAD_LOCALS_SYMBOL, THREADS_SYMBOL } from '../object/linking.ts';
import { functionNames, readNames, writeNames } from '../object/names.ts';
import { parameterCount } from '../object/signature.ts';
import {
  type Export,
  type Global,
  type Module,
  readModule,
  type Section,
  section,
  writeModule,
} from '../object/wasm.ts';
import { guard, guardIndirectCalls, initialisations, type Threads } from './guard.ts';
import { type LinkerMap, readMap } from './map.ts';
import { type AreaOf, type Area, type Entry, localKey, type Place, Program } from './program.ts';
import { readPromoted } from './promoted.ts';
import { Unlinkable } from './target.ts';
import { constantExpression, EXTERNREF_STATICS_END } from './wasm.ts';

/** Of an export `SYMBOL`, what wasm-bindgen learns its types from. */
const DESCRIBE = '__wbindgen_describe_';

const NUMBER: Signature = '()->(i32)';
const NOTHING: Signature = '()->()';

const CALL = 0x10;
const CALL_INDIRECT = 0x11;
const I32_CONST = 0x41;
const END = 0x0b;

/** Table entries kept free for functions that patches add. An empty entry costs the page a pointer. */
const FREE_SLOTS = 1 << 16;

export interface Base {
  readonly module: Uint8Array;
  readonly program: Program;
}

/** `identify` names the base by its content; `map` is the image's, when it has been read already. */
export function openBase(
  image: Image,
  build: Build,
  version: number,
  identify: (module: Uint8Array) => string,
  map: LinkerMap = readMap(image.map),
): Base {
  const module = readModule(image.module, 'wasm-bindgen output');
  const functions = readFunctions(module);
  const table = functionTable(module);
  const workspace = new Set(build.objects.map(({ name }) => name));
  const stubbed = userFunctions(functions, map, workspace);

  // Slots lie behind the program's own entries, in the order of the functions.
  const slotOf = (index: number): number => table.minimum + index;
  const slots = functions.all.map((_, index) => index);
  const signatures = [...(section(module, 'type')?.types ?? [])];
  const bodies = [...(section(module, 'code')?.bodies ?? [])];
  const types = [...(section(module, 'function')?.types ?? [])];
  const names = new Map(functions.names);
  const typeOf = (signature: Signature): number => {
    const known = signatures.indexOf(signature);
    return known < 0 ? signatures.push(signature) - 1 : known;
  };
  const add = (signature: Signature, body: Uint8Array): number => {
    types.push(typeOf(signature));
    return functions.imported + bodies.push(body) - 1;
  };

  // With threads, a function to do nothing in the place of the client's until there is a client, and one to call it.
  const shared = isShared(module) ? threadsOf(map, slotOf(slots.length)) : undefined;
  const firstGlobal = section(module, 'global')?.globals.length ?? 0;
  let checked: Uint8Array = new Uint8Array();
  if (shared !== undefined) {
    slots.push(add(NOTHING, Uint8Array.of(0, END)));
    const sync = add(NOTHING, Uint8Array.of(0, ...callSlot(shared.syncSlot, typeOf(NOTHING), table.index), END));
    checked = guard(shared, firstGlobal, Uint8Array.of(CALL, ...encodeUnsigned(sync)));
    for (const [at, body] of bodies.entries()) {
      if (at < functions.all.length - functions.imported) bodies[at] = guardIndirectCalls(body, checked);
    }
  }
  const parameters = signatures.map(parameterCount);
  for (const index of stubbed.keys()) {
    const { type } = functions.all[index] ?? fail(`no function ${index}`);
    const moved = functions.imported + bodies.length;
    const at = index - functions.imported;
    bodies.push(bodies[at] ?? fail(`function ${index} has no body`));
    bodies[at] = stub(checked, parameters[type] ?? fail(`no type ${type}`), callSlot(slotOf(index), type, table.index));
    types.push(type);
    slots[index] = moved;
    // The name goes with the body: it is what a stack trace shows.
    const name = names.get(index);
    names.delete(index);
    if (name !== undefined) names.set(moved, name);
  }

  // wasm-bindgen writes this number in place of each call that asks for it. Patches call: they get a function.
  const externrefs = (section(module, 'table')?.tables ?? []).find(({ type }) => type === 'externref');
  const extra = new Map<string, Entry>();
  if (externrefs !== undefined) {
    extra.set(EXTERNREF_STATICS_END, { slot: slotOf(slots.length), signature: NUMBER });
    // No locals; then the constant expression, which ends as a body does.
    slots.push(add(NUMBER, Uint8Array.of(0, ...constantExpression(externrefs.limits.minimum))));
  }

  const rewritten = writeModule({
    name: module.name,
    sections: replace(module, {
      type: { kind: 'type', types: signatures },
      global: {
        kind: 'global',
        globals: [...(section(module, 'global')?.globals ?? []), ...(shared?.globals ?? [])],
      },
      function: { kind: 'function', types },
      code: { kind: 'code', bodies },
      table: resizedTable(module, table, slotOf(slots.length) + FREE_SLOTS),
      export: {
        kind: 'export',
        exports: [
          ...(section(module, 'export')?.exports ?? []),
          ...ownExports(module, table.index),
          ...(shared?.globals ?? []).map(({ name }, index): Export => ({
            name: `__hotslot_${name}`,
            kind: 'global',
            index: firstGlobal + index,
          })),
        ],
      },
      element: {
        kind: 'element',
        segments: [
          ...(section(module, 'element')?.segments ?? []),
          {
            flags: table.index === 0 ? 0 : 2,
            table: table.index,
            offset: constantExpression(table.minimum),
            type: 'funcref',
            items: slots,
          },
        ],
      },
      names,
    }),
  });

  const entries = new Map<string, Entry>(extra);
  const ambiguous = new Set(map.ambiguous);
  for (const [index, { signature, name }] of functions.all.entries()) {
    if (name === undefined) continue;
    if (functions.repeated.has(name) || ambiguous.has(name)) {
      ambiguous.add(name);
      continue;
    }
    const user = stubbed.get(index);
    const entry: Entry = { slot: slotOf(index), signature, ...(user && { object: user.object }) };
    entries.set(name, entry);
    if (user !== undefined && user.symbol !== name) entries.set(user.symbol, entry);
  }
  const merged = new Map<number, string[]>();
  for (const [name, first] of map.merged) {
    const entry = entries.get(first);
    if (entry === undefined || entries.has(name) || ambiguous.has(name)) continue;
    entries.set(name, entry);
    if (entry.object === undefined) continue;
    const known = merged.get(entry.slot) ?? [readPromoted(first)?.name ?? first];
    merged.set(entry.slot, [...known, readPromoted(name)?.name ?? name]);
  }
  enterPromoted(entries, ambiguous);
  const program = new Program({
    base: identify(rewritten),
    version,
    functions: entries,
    ambiguous,
    merged,
    map,
    initial: initialMemory(module, functions),
    free: {
      slot: slotOf(slots.length),
      areas: areasOf(map, shared !== undefined),
    },
    areaOf: shared === undefined ? IN_ARENA : { ...IN_ARENA, tls: 1 },
    objects: build.objects,
    hostConstants: hostConstants(image.glue),
    ...(shared && { threads: shared }),
  });
  return { module: rewritten, program };
}

/** Under the names that functions had before they were promoted: local to their unit, and to all if only one has the name. */
function enterPromoted(entries: Map<string, Entry>, ambiguous: ReadonlySet<string>): void {
  const once = new Map<string, Entry | undefined>();
  for (const [full, entry] of entries) {
    const promoted = readPromoted(full);
    if (promoted === undefined || entry.object === undefined) continue;
    const { name } = promoted;
    entries.set(localKey({ name: entry.object }, { name }), entry);
    once.set(name, once.has(name) || entries.has(name) || ambiguous.has(name) ? undefined : entry);
  }
  for (const [name, entry] of once) if (entry !== undefined) entries.set(name, entry);
}

/** The part of the glue that puts JavaScript constants into the table of values, where code finds them by index. */
export function hostConstants(glue: string): string {
  return /__wbindgen_init_externref_table[^}]*/.exec(glue)?.[0] ?? '';
}

interface Functions {
  readonly all: readonly { readonly type: number; readonly signature: Signature; readonly name: string | undefined }[];
  readonly imported: number;
  readonly names: ReadonlyMap<number, string>;
  readonly repeated: ReadonlySet<string>;
}

/** Functions by index, imported ones first. */
export function readFunctions(module: Module): Functions {
  const signatures = section(module, 'type')?.types ?? [];
  const names = functionNames(module);
  const imports = (section(module, 'import')?.imports ?? []).flatMap((item) =>
    item.kind === 'function' ? [item.type] : [],
  );
  const types = [...imports, ...(section(module, 'function')?.types ?? [])];
  const seen = new Set<string>();
  const repeated = new Set<string>();
  const all = types.map((type, index) => {
    const name = names.get(index);
    if (name !== undefined && seen.has(name)) repeated.add(name);
    if (name !== undefined) seen.add(name);
    return { type, signature: signatures[type] ?? fail(`no type ${type}`), name };
  });
  return { all, imported: imports.length, names, repeated };
}

/**
 * Functions whose code the user can edit: index → the symbol and the object that define it. wasm-bindgen renames an
 * exported function from its symbol `NAME_HASH` to `NAME`.
 */
function userFunctions(
  { all, imported, repeated }: Functions,
  map: LinkerMap,
  workspace: ReadonlySet<string>,
): Map<number, { symbol: string; object: string }> {
  const exported = new Map<string, string>();
  for (const description of map.functions.keys()) {
    if (!description.startsWith(DESCRIBE)) continue;
    const symbol = description.slice(DESCRIBE.length);
    const name = /^(.+)_[0-9a-f]{16}$/.exec(symbol)?.[1];
    const object = map.functions.get(symbol);
    if (name !== undefined && object !== undefined && workspace.has(object)) exported.set(name, symbol);
  }
  const found = new Map<number, { symbol: string; object: string }>();
  for (const [index, { name }] of all.entries()) {
    if (index < imported || name === undefined || repeated.has(name) || map.ambiguous.has(name)) continue;
    const symbol = map.functions.has(name) ? name : exported.get(name);
    const object = symbol === undefined ? undefined : map.functions.get(symbol);
    if (symbol !== undefined && object !== undefined && workspace.has(object)) found.set(index, { symbol, object });
  }
  return found;
}

function stub(checked: Uint8Array, parameters: number, call: Uint8Array): Uint8Array {
  const writer = new Writer(32);
  writer.u8(0);
  writer.bytes(checked);
  for (let index = 0; index < parameters; index++) {
    writer.u8(0x20);
    writeUnsigned(writer, index);
  }
  writer.bytes(call);
  writer.u8(END);
  return writer.finish();
}

/** Instructions that call what a slot holds. */
function callSlot(slot: number, type: number, table: number): Uint8Array {
  const writer = new Writer(16);
  writer.u8(I32_CONST);
  writeSigned(writer, slot);
  writer.u8(CALL_INDIRECT);
  writeUnsigned(writer, type);
  writeUnsigned(writer, table);
  return writer.finish();
}

/** Each thread has an instance of its own, and they share an imported memory. */
function isShared(module: Module): boolean {
  return (section(module, 'import')?.imports ?? []).some((item) => item.kind === 'memory' && item.limits.shared);
}

interface SharedProgram extends Threads {
  /** To be appended, the seen epoch first. */
  readonly globals: readonly (Global & { readonly name: string })[];
}

function threadsOf(map: LinkerMap, syncSlot: number): SharedProgram {
  const { address, sizeBytes } = placeOf(map, THREADS_SYMBOL);
  const constant = (name: string, value: number): Global & { name: string } => ({
    name,
    type: 'i32',
    mutable: false,
    initial: constantExpression(value),
  });
  return {
    epoch: address,
    syncSlot,
    globals: [
      // A new thread has seen nothing, and finds that out at its first guard.
      { ...constant('seen', -1), mutable: true },
      constant('threads', address),
      constant('threads_end', address + sizeBytes),
      constant('sync_slot', syncSlot),
    ],
  };
}

const IN_ARENA: AreaOf = { constant: 0, data: 0, zero: 0 };

function areasOf(map: LinkerMap, isThreaded: boolean): Area[] {
  return (isThreaded ? [ARENA_SYMBOL, THREAD_LOCALS_SYMBOL] : [ARENA_SYMBOL]).map((symbol) => {
    const { address, sizeBytes } = placeOf(map, symbol);
    return { address, end: address + sizeBytes, alignment: 1 };
  });
}

function placeOf(map: LinkerMap, symbol: string): Place {
  const place = map.data.get(symbol);
  if (place === undefined) throw new Unlinkable(`the linker's map has no ${symbol}`);
  return place;
}

interface FunctionTable {
  readonly index: number;
  readonly minimum: number;
}

function functionTable(module: Module): FunctionTable {
  const tables = section(module, 'table')?.tables ?? [];
  const index = tables.findIndex(({ type }) => type === 'funcref');
  const table = tables[index];
  if (table === undefined) throw new Unlinkable('the program has no function table of its own');
  return { index, minimum: table.limits.minimum };
}

function resizedTable(module: Module, { index }: FunctionTable, minimum: number): Section {
  const tables = [...(section(module, 'table')?.tables ?? [])];
  const table = tables[index] ?? fail('no function table');
  // Without a maximum: patches may outgrow what is kept free.
  tables[index] = { ...table, limits: { minimum } };
  return { kind: 'table', tables };
}

/** What patches import from the running program. */
function ownExports(module: Module, functionTableIndex: number): Export[] {
  const globals = section(module, 'global')?.globals ?? [];
  // The linker makes `__stack_pointer` its first global.
  if (globals[0]?.mutable !== true || globals[0].type !== 'i32')
    throw new Unlinkable('the program has no stack pointer');
  const exports: Export[] = [
    { name: '__hotslot_table', kind: 'table', index: functionTableIndex },
    { name: '__hotslot_stack_pointer', kind: 'global', index: 0 },
  ];
  const externrefs = (section(module, 'table')?.tables ?? []).findIndex(({ type }) => type === 'externref');
  if (externrefs >= 0) exports.push({ name: '__hotslot_externrefs', kind: 'table', index: externrefs });
  if (section(module, 'tag') !== undefined) exports.push({ name: '__hotslot_exception', kind: 'tag', index: 0 });
  return exports;
}

interface Replacements {
  readonly type: Section;
  readonly global: Section;
  readonly function: Section;
  readonly code: Section;
  readonly table: Section;
  readonly export: Section;
  readonly element: Section;
  readonly names: ReadonlyMap<number, string>;
}

function replace(module: Module, replacements: Replacements): Section[] {
  const sections = module.sections.map((old): Section => {
    switch (old.kind) {
      case 'type':
      case 'global':
      case 'function':
      case 'code':
      case 'table':
      case 'export':
      case 'element':
        return replacements[old.kind];
      case 'custom': {
        if (old.name !== 'name') return old;
        const parts = readNames(old.bytes, `${module.name}: name section`);
        const bytes = writeNames(
          parts.map((part) => (part.kind === 'functions' ? { kind: 'functions', names: replacements.names } : part)),
        );
        return { kind: 'custom', name: 'name', bytes };
      }
      default:
        return old;
    }
  });
  if (section(module, 'element') === undefined)
    insertBefore(sections, replacements.element, ['dataCount', 'code', 'data', 'custom']);
  if (section(module, 'export') === undefined) insertBefore(sections, replacements.export, ['start', 'element']);
  return sections;
}

function insertBefore(sections: Section[], inserted: Section, kinds: readonly Section['kind'][]): void {
  const index = sections.findIndex(({ kind }) => kinds.includes(kind));
  sections.splice(index < 0 ? sections.length : index, 0, inserted);
}

/** The memory as the data segments leave it; what no segment covers is zero. */
function initialMemory(
  module: Module,
  { all, imported }: Functions,
): (address: number, sizeBytes: number) => Uint8Array {
  // With threads, the first of them writes the segments.
  const writer = all.findIndex(({ name }, index) => name === '__wasm_init_memory' && index >= imported);
  const body = writer < 0 ? undefined : section(module, 'code')?.bodies[writer - imported];
  const active = (section(module, 'data')?.segments ?? []).flatMap(({ flags, offset, bytes }) => {
    const start = flags === 1 || offset === undefined ? undefined : constantValue(offset);
    return start === undefined ? [] : [{ start, bytes }];
  });
  const segments = body === undefined ? active : [...active, ...initialisations(module, body)];
  return (address, sizeBytes) => {
    const memory = new Uint8Array(sizeBytes);
    for (const { start, bytes } of segments) {
      const from = Math.max(address, start);
      const to = Math.min(address + sizeBytes, start + bytes.length);
      if (from < to) memory.set(bytes.subarray(from - start, to - start), from - address);
    }
    return memory;
  };
}

/** The N of `i32.const N; end`. */
function constantValue(expression: Uint8Array): number | undefined {
  if (expression[0] !== 0x41) return undefined;
  let value = 0;
  let shift = 0;
  for (const byte of expression.subarray(1)) {
    value |= (byte & 0x7f) << shift;
    shift += 7;
    if (byte < 0x80) return (shift < 32 && (byte & 0x40) !== 0 ? value | (-1 << shift) : value) >>> 0;
  }
  return undefined;
}

function fail(what: string): never {
  throw new Error(`wasm-bindgen output: ${what}`);
}
