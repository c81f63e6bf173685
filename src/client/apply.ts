// A patch and the running program in; the program with the patch, and a way back, out.
//
// The program is one instance of the base module. Its function table and memory are all that a patch touches: the
// active segments of the patch's module write new entries and bytes when it is instantiated. So what they overwrite is
// saved first, and putting it back is the undo.

import type { PatchFrame, PatchHeader } from './protocol.ts';

/** A running instance, with the JavaScript functions that patches brought so far, by import name. */
export interface Program {
  readonly exports: WebAssembly.Exports;
  readonly memory: WebAssembly.Memory;
  readonly table: WebAssembly.Table;
  functions: ReadonlyMap<string, WebAssembly.ImportValue>;
  /** False when another instance that shares the memory does that. */
  writesData: boolean;
}

/** A patch with everything asynchronous behind it: `apply` can run between two calls of the program. */
export interface Prepared {
  readonly header: PatchHeader;
  readonly module: WebAssembly.Module;
  readonly glue?: GlueModule;
  /** All of it as it came. */
  readonly frame: ArrayBuffer;
}

/** wasm-bindgen's JavaScript as the server serves it for a patch. The result has one object per import module. */
export interface GlueModule {
  __hotslot_bind(wasm: object): Record<string, Record<string, WebAssembly.ImportValue>>;
}

export function openProgram(exports: WebAssembly.Exports): Program {
  const { memory, __hotslot_table: table } = exports;
  if (!(memory instanceof WebAssembly.Memory) || !(table instanceof WebAssembly.Table)) {
    throw new Error('the module was not prepared for patches: it must export `memory` and `__hotslot_table`');
  }
  return { exports, memory, table, functions: new Map(), writesData: true };
}

export async function prepare({ header, module }: PatchFrame): Promise<Prepared> {
  const frame = module.buffer;
  const compiled = compile(module);
  if (header.glue === undefined) return { header, module: await compiled, frame };
  // Settled together, so that neither rejection is left without a handler.
  const [wasm, glue] = await Promise.all([compiled, import(header.glue.url) as Promise<GlueModule>]);
  return { header, module: wasm, glue, frame };
}

/** Below this a module compiles sooner than the page, busy with its own work, would come back to it. */
const SMALL_BYTES = 1 << 16;

async function compile(module: Uint8Array<ArrayBuffer>): Promise<WebAssembly.Module> {
  return module.length < SMALL_BYTES ? new WebAssembly.Module(module) : WebAssembly.compile(module);
}

/**
 * Applies `patch` wholly and returns how to undo it, or throws and leaves the program as it was. (A table that has
 * grown stays grown, by empty entries that nothing reaches.)
 */
export function apply(program: Program, { header, module, glue }: Prepared): () => void {
  const before = program.functions;
  const functions = glue === undefined ? before : new Map([...before, ...bind(program, header, glue)]);
  const imports = resolveImports(program, functions, module);

  const missing = header.tableLength - program.table.length;
  if (missing > 0) program.table.grow(missing);
  const restore = save(program, header);
  try {
    instantiate(program, module, imports);
  } catch (error) {
    restore();
    throw error;
  }
  program.functions = functions;
  return () => {
    restore();
    program.functions = before;
  };
}

/** Instantiating is the effect: the table keeps the functions alive. Only with threads is there something left to write. */
function instantiate(program: Program, module: WebAssembly.Module, imports: WebAssembly.Imports): void {
  const { data, thread_locals: threadLocals } = new WebAssembly.Instance(module, imports).exports;
  if (program.writesData && typeof data === 'function') data();
  if (typeof threadLocals === 'function') threadLocals();
}

/** Copies what the patch overwrites; the result puts it back. Throws when a slot or range does not exist. */
function save({ table, memory, writesData }: Program, { slots, ranges }: PatchHeader): () => void {
  const entries = slots.map((slot) => [slot, table.get(slot) as unknown] as const);
  const copies = (writesData ? ranges : []).map(([address, length]) => {
    if (address + length > memory.buffer.byteLength) {
      throw new Error(`the patch writes ${length} bytes at ${address}, memory ends at ${memory.buffer.byteLength}`);
    }
    return [address, new Uint8Array(memory.buffer, address, length).slice()] as const;
  });
  return () => {
    for (const [slot, entry] of entries) table.set(slot, entry);
    for (const [address, bytes] of copies) new Uint8Array(memory.buffer).set(bytes, address);
  };
}

/** The running program answers for `hotslot`; JavaScript that wasm-bindgen wrote for `glue`. */
function resolveImports(
  { exports }: Program,
  functions: ReadonlyMap<string, WebAssembly.ImportValue>,
  module: WebAssembly.Module,
): WebAssembly.Imports {
  const imports: { hotslot: WebAssembly.ModuleImports; glue: WebAssembly.ModuleImports } = { hotslot: {}, glue: {} };
  for (const { module: from, name } of WebAssembly.Module.imports(module)) {
    let value: WebAssembly.ImportValue | undefined;
    if (from === 'glue') value = functions.get(name);
    else if (from === 'hotslot') value = exports[`__hotslot_${name}`] ?? exports[name] ?? exports[`__wbindgen_${name}`];
    else throw new Error(`the patch imports \`${name}\` from \`${from}\`: expected \`hotslot\` or \`glue\``);
    if (value === undefined) throw new Error(`the patch imports \`${name}\` from \`${from}\`, which has no such name`);
    imports[from][name] = value;
  }
  return imports;
}

/**
 * Gives newer glue the program that is running: for its `wasm`, an export that came with a patch is whatever its slot
 * holds at the time, and all others are the instance's own.
 */
function bind(program: Program, header: PatchHeader, glue: GlueModule): [string, WebAssembly.ImportValue][] {
  const slots = header.glue?.exports ?? {};
  const wasm = new Proxy(program.exports, {
    get: (exports, name) => {
      const slot = typeof name === 'string' && Object.hasOwn(slots, name) ? slots[name] : undefined;
      return slot === undefined ? Reflect.get(exports, name) : (program.table.get(slot) as unknown);
    },
  });
  return Object.values(glue.__hotslot_bind(wasm)).flatMap((imports) => Object.entries(imports));
}
