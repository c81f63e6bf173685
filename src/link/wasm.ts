// The wasm side of linking: a plan in, a patch module out.
//
// Instantiating the module is the patch. Its active element segments store the new functions into their slots, its
// active data segments write the data, and both happen before anything else can run. It imports the running program's
// memory, tables and stack pointer, and nothing by function: whatever code calls, it calls through a slot, so that the
// next patch reaches this one's calls too.
//
// With threads, each of them instantiates the module, and the data must be written once: then the segments are passive,
// and two exported functions copy them: `data` for the thread that publishes the patch, `thread_locals` for each.
//
// Code is spliced, not re-assembled. Branches in wasm count nesting levels, not bytes, so an instruction may become
// longer or shorter; and relocations say where every index and address stands. `call f` becomes `i32.const SLOT;
// call_indirect`, padded numbers become minimal ones.

import type { Signature, WasmPatch } from '../model.ts';
import { Writer } from '../object/bytes.ts';
import { encodeSigned, writeSigned, writeUnsigned } from '../object/leb128.ts';
import { writeNames } from '../object/names.ts';
import * as R from '../object/relocations.ts';
import { relocationKinds } from '../object/relocations.ts';
import {
  type DataSegment,
  type ElementSegment,
  type Export,
  type Import,
  type Section,
  writeModule,
} from '../object/wasm.ts';
import { symbolAt } from './diff.ts';
import { guard, isIndirectCall, type Threads } from './guard.ts';
import { readable } from './mangle.ts';
import { type Plan, type PlannedData, type Resolved, type Target, type TargetKind, Unlinkable } from './target.ts';

export const wasmTarget: Target<WasmPatch> = {
  remedy: 'reload',
  wordBytes: 4,
  width: (kind) => kindOf(kind).width,
  namesSignature: (kind) => kindOf(kind).target === 'type',
  targetKind: ({ kind }) => targetKinds[kindOf(kind).target],
  isFunctionAddress: (_object, { kind }) => kind === R.R_WASM_TABLE_INDEX_I32,
  meansInside: () => false,
  isOver: () => false,
  hostReferent: () => undefined,
  isHostFunction: (symbol) => symbol.kind === 'function' && symbol.importModule !== undefined,
  // wasm-bindgen runs `describe` functions at build time and puts what they describe in place of their callers.
  isReplaced: (object, atom) =>
    atom.relocations.some(({ kind, symbol: index }) => {
      if (kindOf(kind).target !== 'function') return false;
      const { name, importName } = symbolAt(object, index);
      return name.includes('breaks_if_inlined') || (importName ?? name).startsWith('__wbindgen_describe');
    }),
  // The generated casts of closures: `Closure(Closure { … shim_idx: 18 … }) -> Externref`.
  isOfOneBuild: (name) => name.includes('shim_idx'),
  // A function that takes or gives JavaScript values keeps its i32 form under a second name once wasm-bindgen ran.
  // https://github.com/wasm-bindgen/wasm-bindgen: an exported function `NAME_HASH` comes with a function that tells its
  // types; those of imported functions begin with `__wbg_`.
  describes: ({ name }) => /^__wbindgen_describe_(?!__wbg_)(.+)_[0-9a-f]{16}$/.exec(name)?.[1],
  aliases: ({ name, importName = '' }) => [`${name} externref shim`, name, ...(INTRINSICS.get(importName) ?? [])],
  emit: (head, plan, draft, glue) => ({
    kind: 'wasm',
    ...head,
    module: emit(plan, draft.program.threads),
    tableLength: draft.free.slot,
    slots: [...plan.imports, ...plan.functions].map(({ slot }) => slot),
    ranges: plan.data.filter(isShared).map(({ address, atom }) => [address, atom.sizeBytes]),
    ...(glue && { glue }),
  }),
};

/** How many entries of the table of JavaScript values are constants that every program shares. */
export const EXTERNREF_STATICS_END = '__wbindgen_externref_statics_end';

/** Imports that wasm-bindgen knows how to do in wasm, and the functions that do it. */
const INTRINSICS: ReadonlyMap<string, readonly string[]> = new Map([
  ['__wbindgen_object_drop_ref', ['__externref_table_dealloc']],
  ['__wbindgen_object_clone_ref', ['__wbindgen_object_clone_ref']],
  [EXTERNREF_STATICS_END, [EXTERNREF_STATICS_END]],
]);

const targetKinds: Readonly<Record<R.RelocationKind['target'], TargetKind>> = {
  function: 'function',
  data: 'address',
  type: 'signature',
  global: 'name',
  table: 'name',
  tag: 'name',
  section: 'name',
  any: 'name',
};

function kindOf(kind: number): R.RelocationKind {
  const known = relocationKinds[kind];
  if (known === undefined) throw new Unlinkable(`relocation kind ${kind} is unknown`);
  return known;
}

const CALL = 0x10;
const CALL_INDIRECT = 0x11;
const RETURN_CALL = 0x12;
const RETURN_CALL_INDIRECT = 0x13;
const TABLE_GET = 0x25;
const I32_CONST = 0x41;
const END = 0x0b;
const GLOBAL_GET = 0x23;
const I32_ADD = 0x6a;
const REF_FUNC = 0xd2;
const MEMORY_INIT = [0xfc, 0x08];

/** Any shared memory has a maximum, and this is the largest. */
const SHARED = { minimum: 0, maximum: 0x10000, shared: true };

/** The function table is the patch's first table, whatever its index in the program. */
const FUNCTION_TABLE = 0;

function emit(plan: Plan, threads: Threads | undefined): Uint8Array {
  return new Emitter(plan, threads).emit();
}

/** All but thread-locals, whose addresses are offsets. */
function isShared({ atom }: PlannedData): boolean {
  return atom.kind !== 'tls';
}

class Emitter {
  readonly #plan: Plan;
  readonly #types = new Map<Signature, number>();
  readonly #imports: Import[] = [];
  readonly #globals = new Map<string, number>();
  readonly #tables = new Map<string, number>([['__indirect_function_table', FUNCTION_TABLE]]);
  readonly #tags = new Map<string, number>();

  readonly #threads: Threads | undefined;
  #guardBytes: Uint8Array | undefined;

  constructor(plan: Plan, threads: Threads | undefined) {
    this.#plan = plan;
    this.#threads = threads;
  }

  emit(): Uint8Array {
    const { functions, imports, data } = this.#plan;
    this.#imports.push(
      { module: 'hotslot', name: 'memory', kind: 'memory', limits: this.#threads ? SHARED : { minimum: 0 } },
      { module: 'hotslot', name: 'table', kind: 'table', table: { type: 'funcref', limits: { minimum: 0 } } },
      ...imports.map(({ field, signature }): Import => ({
        module: 'glue',
        name: field,
        kind: 'function',
        type: this.#type(signature),
      })),
    );
    const bodies = functions.map(({ name, definition, relocations }) =>
      this.#splice(name, definition.atom.bytes, relocations),
    );
    const types = functions.map(({ signature }) => this.#type(signature));
    const slots = [...imports, ...functions].map(({ slot }, index): [number, number] => [slot, index]);
    const names = new Map(functions.map(({ name }, index) => [imports.length + index, readable(name).slice(0, 120)]));
    const written = data.filter(({ atom, fresh }) => atom.kind !== 'zero' || !fresh);
    const segments = written.map((one) => segment(one, this.#threads !== undefined));
    const exports: Export[] = [];
    const copy = (name: string, isMeant: (data: PlannedData) => boolean): void => {
      if (!written.some(isMeant)) return;
      exports.push({ name, kind: 'function', index: imports.length + bodies.length });
      bodies.push(this.#copy(written, isMeant));
      types.push(this.#type('()->()'));
    };
    if (this.#threads !== undefined) {
      copy('data', isShared);
      copy('thread_locals', (one) => !isShared(one));
    }
    const sections: Section[] = [
      { kind: 'type', types: [...this.#types.keys()] },
      { kind: 'import', imports: this.#imports },
    ];
    if (bodies.length > 0) sections.push({ kind: 'function', types });
    if (exports.length > 0) sections.push({ kind: 'export', exports });
    if (slots.length > 0) sections.push({ kind: 'element', segments: elements(slots) });
    if (exports.length > 0) sections.push({ kind: 'dataCount', count: segments.length });
    if (bodies.length > 0) sections.push({ kind: 'code', bodies });
    if (segments.length > 0) sections.push({ kind: 'data', segments });
    if (functions.length > 0) {
      sections.push({ kind: 'custom', name: 'name', bytes: writeNames([{ kind: 'functions', names }]) });
    }
    return writeModule({ name: 'patch', sections });
  }

  /** A function that writes the segments that are meant, of all that there are. */
  #copy(written: readonly PlannedData[], isMeant: (data: PlannedData) => boolean): Uint8Array {
    const writer = new Writer();
    writer.u8(0);
    for (const [index, one] of written.entries()) {
      if (!isMeant(one)) continue;
      writer.u8(I32_CONST);
      writeSigned(writer, one.address | 0);
      if (!isShared(one)) {
        writer.u8(GLOBAL_GET);
        writeUnsigned(writer, this.#global(one.atom.name, '__tls_base'));
        writer.u8(I32_ADD);
      }
      writer.u8(I32_CONST);
      writeSigned(writer, 0);
      writer.u8(I32_CONST);
      writeSigned(writer, one.atom.sizeBytes);
      writer.bytes(MEMORY_INIT);
      writeUnsigned(writer, index);
      writer.u8(0);
    }
    writer.u8(END);
    return writer.finish();
  }

  /** What has to stand before a call, in a program with threads. */
  #guard(): Uint8Array {
    if (this.#threads === undefined) return NOTHING;
    if (this.#guardBytes !== undefined) return this.#guardBytes;
    const sync = new Writer(16);
    sync.u8(I32_CONST);
    writeSigned(sync, this.#threads.syncSlot);
    sync.u8(CALL_INDIRECT);
    writeUnsigned(sync, this.#type('()->()'));
    writeUnsigned(sync, FUNCTION_TABLE);
    this.#guardBytes = guard(this.#threads, this.#global('', 'seen'), sync.finish());
    return this.#guardBytes;
  }

  #type(signature: Signature): number {
    const known = this.#types.get(signature);
    if (known !== undefined) return known;
    const index = this.#types.size;
    this.#types.set(signature, index);
    return index;
  }

  /** A code entry with every relocation applied. */
  #splice(name: string, body: Uint8Array, relocations: readonly Resolved[]): Uint8Array {
    const writer = new Writer(body.length + 16);
    let copied = 0;
    for (const relocation of relocations) {
      const { offset, kind, value, signature } = relocation;
      const end = endOfLeb(body, offset);
      if (kind === R.R_WASM_FUNCTION_INDEX_LEB) {
        writer.copy(body, copied, offset - 1);
        this.#call(writer, name, body[offset - 1], value, signature ?? '');
      } else {
        const isCall = kind === R.R_WASM_TYPE_INDEX_LEB && isIndirectCall(body[offset - 1]);
        writer.copy(body, copied, isCall ? offset - 1 : offset);
        if (isCall) {
          writer.bytes(this.#guard());
          writer.u8(body[offset - 1] ?? CALL_INDIRECT);
        }
        this.#immediate(writer, name, relocation);
      }
      copied = end;
    }
    writer.copy(body, copied, body.length);
    return writer.finish();
  }

  #call(writer: Writer, name: string, opcode: number | undefined, slot: number, signature: Signature): void {
    if (opcode !== REF_FUNC) writer.bytes(this.#guard());
    writer.u8(I32_CONST);
    writeSigned(writer, slot);
    if (opcode === REF_FUNC) {
      writer.u8(TABLE_GET);
    } else if (opcode === CALL || opcode === RETURN_CALL) {
      writer.u8(opcode === CALL ? CALL_INDIRECT : RETURN_CALL_INDIRECT);
      writeUnsigned(writer, this.#type(signature));
    } else {
      throw new Unlinkable(
        `\`${readable(name)}\` names a function in an instruction of kind 0x${opcode?.toString(16)}`,
      );
    }
    writeUnsigned(writer, FUNCTION_TABLE);
  }

  #immediate(writer: Writer, name: string, { kind, value, addend, signature, name: target }: Resolved): void {
    switch (kind) {
      case R.R_WASM_TABLE_INDEX_SLEB:
      case R.R_WASM_MEMORY_ADDR_SLEB:
      case R.R_WASM_MEMORY_ADDR_TLS_SLEB:
        return writeSigned(writer, (value + addend) | 0);
      case R.R_WASM_MEMORY_ADDR_LEB:
        return writeUnsigned(writer, (value + addend) >>> 0);
      case R.R_WASM_TYPE_INDEX_LEB:
        // As a signed number, which block types want and every other place reads the same.
        return writeSigned(writer, this.#type(signature ?? ''));
      case R.R_WASM_GLOBAL_INDEX_LEB:
        return writeUnsigned(writer, this.#global(name, target ?? ''));
      case R.R_WASM_TABLE_NUMBER_LEB:
        return writeUnsigned(writer, this.#table(name, target ?? ''));
      case R.R_WASM_TAG_INDEX_LEB:
        return writeUnsigned(writer, this.#tag(name, target ?? ''));
      default:
        throw new Unlinkable(
          `\`${readable(name)}\` needs ${kindOf(kind).name}, which only position-independent code has`,
        );
    }
  }

  #global(user: string, name: string): number {
    const known = this.#globals.get(name);
    if (known !== undefined) return known;
    const ours = GLOBALS.get(name);
    if (ours === undefined) throw new Unlinkable(`\`${readable(user)}\` uses the global \`${name}\``);
    const index = this.#globals.size;
    this.#globals.set(name, index);
    this.#imports.push({
      module: 'hotslot',
      name: ours,
      kind: 'global',
      global: { type: 'i32', mutable: true },
    });
    return index;
  }

  #table(user: string, name: string): number {
    const known = this.#tables.get(name);
    if (known !== undefined) return known;
    if (name !== '__wbindgen_externrefs') throw new Unlinkable(`\`${readable(user)}\` uses the table \`${name}\``);
    const index = this.#tables.size;
    this.#tables.set(name, index);
    const table = { type: 'externref', limits: { minimum: 0 } };
    this.#imports.push({ module: 'hotslot', name: 'externrefs', kind: 'table', table });
    return index;
  }

  #tag(user: string, name: string): number {
    const known = this.#tags.get(name);
    if (known !== undefined) return known;
    if (name !== '__cpp_exception') throw new Unlinkable(`\`${readable(user)}\` uses the exception tag \`${name}\``);
    const index = this.#tags.size;
    this.#tags.set(name, index);
    this.#imports.push({ module: 'hotslot', name: 'exception', kind: 'tag', type: this.#type('(i32)->()') });
    return index;
  }
}

const NOTHING = new Uint8Array();

/** Globals of each instance: what code calls them, and as what the client has them. */
const GLOBALS: ReadonlyMap<string, string> = new Map([
  ['__stack_pointer', 'stack_pointer'],
  ['__tls_base', '__tls_base'],
  ['seen', 'seen'],
]);

/** https://webassembly.github.io/spec/core/binary/values.html#integers: the last byte has its high bit clear. */
function endOfLeb(bytes: Uint8Array, offset: number): number {
  let end = offset;
  while ((bytes[end] ?? 0) >= 0x80) end++;
  return end + 1;
}

export function constantExpression(value: number): Uint8Array {
  return Uint8Array.of(I32_CONST, ...encodeSigned(value | 0), END);
}

/** One segment for each run of neighbouring slots. */
function elements(slots: readonly (readonly [slot: number, index: number])[]): ElementSegment[] {
  const sorted = slots.toSorted(([a], [b]) => a - b);
  const segments: ElementSegment[] = [];
  let items: number[] = [];
  let next = -1;
  for (const [slot, index] of sorted) {
    if (slot !== next) {
      items = [];
      segments.push({ flags: 0, table: FUNCTION_TABLE, offset: constantExpression(slot), type: 'funcref', items });
    }
    items.push(index);
    next = slot + 1;
  }
  return segments;
}

function segment({ address, atom, relocations }: PlannedData, isPassive: boolean): DataSegment {
  const bytes = new Uint8Array(atom.sizeBytes);
  bytes.set(atom.bytes);
  const view = new DataView(bytes.buffer);
  for (const { offset, kind, value, addend } of relocations) {
    if (kind !== R.R_WASM_TABLE_INDEX_I32 && kind !== R.R_WASM_MEMORY_ADDR_I32) {
      throw new Unlinkable(`\`${atom.name}\` needs ${kindOf(kind).name}, which no data of a running program has`);
    }
    view.setUint32(offset, (value + addend) >>> 0, true);
  }
  return isPassive
    ? { flags: 1, memory: 0, bytes }
    : { flags: 0, memory: 0, offset: constantExpression(address), bytes };
}
