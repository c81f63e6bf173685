// The types that cross stages, and nothing else. Every value here is immutable: a stage reads what it is given and
// returns something new.
//
//   edit → build → read → diff → identify → check → link → deliver → apply → receipt

// ---------------------------------------------------------------------------------------------------- edit, build

/** Paths changed since the last build. Absolute, no duplicates. One that turns out to be still written to comes again. */
export interface Edit {
  readonly paths: readonly string[];
  /** `performance.now()` when the first of the paths was noticed. */
  readonly at: number;
}

/** One object file as rustc left it. `stamp` changes whenever the content may have (inode, size and mtime, or a hash). */
export interface ObjectSource {
  /** Stable across builds: crate file name and codegen unit, e.g. `counter.0buxy9q22lj26dh02ddi6kvye`. */
  readonly name: string;
  readonly stamp: string;
  /** The bytes, read at the first call. A later build does not change them. */
  readonly bytes: () => Uint8Array;
}

/** A library whose members are linked on demand: an rlib of a dependency or of the standard library. */
export interface ArchiveSource {
  readonly path: string;
  /** As of an object, at the time of the call. */
  readonly stamp: () => string;
  /** The whole file as it is now, or `sizeBytes` of it from `start` on. */
  readonly bytes: (start?: number, sizeBytes?: number) => Uint8Array;
}

/** One successful run of rustc over what the edit touched. */
export interface Build {
  readonly kind: 'built';
  /** Every workspace object of the program as it stands now, in link order, unchanged ones included. */
  readonly objects: readonly ObjectSource[];
  /** What else is on the link line, in its order. */
  readonly archives: readonly ArchiveSource[];
  /** Wall time of rustc (or of cargo, for the base), in milliseconds. */
  readonly rustcMs: number;
}

/** Nothing in between: a build that did not succeed brings only what people have to read. */
export interface BuildFailure {
  readonly kind: 'failed';
  readonly diagnostics: readonly Diagnostic[];
  readonly rustcMs: number;
}

/** What the ordinary linker and wasm-bindgen make of a build. */
export interface Image {
  /** wasm-bindgen's output module, `NAME_bg.wasm`. */
  readonly module: Uint8Array;
  /** The linker's map (`-Map`): where it put every function and every piece of data. */
  readonly map: string;
  /** wasm-bindgen's JavaScript, `NAME.js`. */
  readonly glue: string;
  /** The folder wasm-bindgen wrote into; holds the glue, the module and `snippets/`. */
  readonly directory: string;
}

/** What the ordinary linker makes of a native build whose objects had stubs put in. */
export interface Executable {
  readonly path: string;
  readonly bytes: () => Uint8Array;
}

/** How the objects of a native build are changed before they are linked. */
export interface Rewrite {
  /** By `ObjectSource.name`: bytes to link in its place, in pieces. */
  readonly objects: ReadonlyMap<string, readonly Uint8Array[]>;
  /** Objects to link besides, by a file name of their own. */
  readonly added: ReadonlyMap<string, Uint8Array>;
}

/** For people. One value serves the terminal, the JSON stream, the page and editors. */
export interface Diagnostic {
  readonly severity: 'error' | 'warning' | 'note';
  readonly text: string;
  /** e.g. `E0308`, when the compiler gave one. */
  readonly code?: string;
  readonly place?: Place;
  readonly notes?: readonly string[];
  /** What to do about it. */
  readonly hint?: string;
  /** As rustc would print it, ANSI colours included. */
  readonly rendered?: string;
}

/** A position in a source file; `line` and `column` count from 1. */
export interface Place {
  readonly path: string;
  readonly line: number;
  readonly column: number;
  readonly lineText?: string;
}

// ---------------------------------------------------------------------------------------------------------- object

/** One object as read. Its bytes are views of the file; it knows no addresses. */
export interface ObjectFile {
  /** Where it came from, for messages: a path, or `archive(member)`. */
  readonly name: string;
  readonly atoms: readonly Atom[];
  readonly symbols: readonly Symbol[];
  /** Function types that TYPE_INDEX relocations and `call_indirect` name by index (wasm only). */
  readonly signatures: readonly Signature[];
  /** Constructors to run at start, as `symbols` by index; the lowest priority number first. */
  readonly initFunctions?: readonly { readonly priority: number; readonly symbol: number }[];
}

/**
 * What memory an atom wants: executable, read-only, writable, writable and zero at the start (no bytes in the file),
 * or one copy per thread.
 */
export type AtomKind = 'code' | 'constant' | 'data' | 'zero' | 'tls';

/** The smallest bytes that move as one: a function body, a data object. */
export interface Atom {
  /** Position in `ObjectFile.atoms`. */
  readonly index: number;
  /** The segment's or section's name; for a wasm function, its symbol's name. */
  readonly name: string;
  readonly kind: AtomKind;
  /** For a wasm function: the code entry without its size prefix (locals, then instructions). Empty for `zero`. */
  readonly bytes: Uint8Array;
  /** In memory; equals `bytes.length` except for `zero`. */
  readonly sizeBytes: number;
  /** In bytes, a power of two. */
  readonly alignment: number;
  /** Ordered by offset. */
  readonly relocations: readonly Relocation[];
  /** Of a wasm function. */
  readonly signature?: Signature;
  /** Of several objects that bring a COMDAT of one name, only one keeps its atoms. */
  readonly comdat?: string;
  /** Of ELF code: how to unwind its frames, entry by entry. */
  readonly unwind?: readonly Unwind[];
}

/** An entry of an unwind table. It belongs to code, and goes where the code goes. */
export interface Unwind {
  readonly cie: UnwindRecord;
  readonly fde: UnwindRecord;
  /** In the atom, of the code that it is about. */
  readonly codeOffset: number;
}

/** A record of `.eh_frame` behind its length field. Where its code begins is not among its relocations. */
export interface UnwindRecord {
  readonly bytes: Uint8Array;
  readonly relocations: readonly Relocation[];
}

/** At `offset` in the atom write a value derived from `symbol + addend`, as `kind` says. */
export interface Relocation {
  readonly offset: number;
  /** `R_WASM_*` or `R_X86_64_*`, numbered as in the specification. */
  readonly kind: number;
  /** Index into `ObjectFile.symbols`; for TYPE_INDEX relocations, into `ObjectFile.signatures`. */
  readonly symbol: number;
  readonly addend: number;
}

export type SymbolKind = 'function' | 'data' | 'global' | 'table' | 'tag' | 'section';

/** A name for a place in an atom, or for something that another object, or the host, defines. */
export interface Symbol {
  readonly name: string;
  readonly kind: SymbolKind;
  readonly binding: 'global' | 'weak' | 'local';
  /** Index into `ObjectFile.atoms`; undefined when the symbol is not defined here. */
  readonly atom?: number;
  /** Of a local symbol that another codegen unit of the crate defines: which one (`link/promoted.ts`). */
  readonly unit?: string;
  /** Within the atom; of an absolute symbol, its value. */
  readonly offset: number;
  /** Defined as a number, in no atom. */
  readonly isAbsolute?: boolean;
  readonly sizeBytes: number;
  /** Of a function, defined here or not. */
  readonly signature?: Signature;
  /** The field name a wasm import has when nothing defines the symbol (`import_name`), and its module. */
  readonly importName?: string;
  readonly importModule?: string;
  /** The name the linker exports a defined symbol by, when it is not `name` (`export_name`). */
  readonly exported: boolean;
}

/** A function type in one canonical text, e.g. `(i32,i32)->(i64)`; equal types have equal texts. */
export type Signature = string;

// ------------------------------------------------------------------------------------------------------------ link

/** What every patch says, whatever it is made for. */
export interface PatchHead {
  /** Identifies the base image it belongs to. */
  readonly base: string;
  /** The version reached by applying it; versions are strictly sequential. */
  readonly version: number;
  /** What it changes, in names a person reads. */
  readonly functions: readonly string[];
  readonly warnings: readonly Diagnostic[];
}

/** Everything needed to go from version n to n+1; self-contained; applied wholly or not at all. */
export type Patch = WasmPatch | ElfPatch;

export interface WasmPatch extends PatchHead {
  readonly kind: 'wasm';
  /** A wasm module; instantiating it is the patch. Imports come from `hotslot` (the running instance) and `glue`. */
  readonly module: Uint8Array;
  /** Entries the function table must have before the module is instantiated. */
  readonly tableLength: number;
  /** What instantiating it overwrites, so that a client can save it and undo: table entries, ... */
  readonly slots: readonly number[];
  /** ... and ranges of memory, as [address, length in bytes]. */
  readonly ranges: readonly (readonly [number, number])[];
  /** Present when a JavaScript function is imported for the first time. */
  readonly glue?: Glue;
}

/**
 * Memory to add to a native program and values to store in it. Addresses are those of the running process. The first
 * three lists are sorted by address and do not overlap. The agent's side is `crates/agent/src/wire.rs`.
 */
export interface ElfPatch extends PatchHead {
  readonly kind: 'elf';
  readonly segments: readonly ElfSegment[];
  /** Over data of the program, or of earlier patches. */
  readonly writes: readonly { readonly address: number; readonly bytes: Uint8Array }[];
  /** Code addresses to store, each in one step, after all else is in place. */
  readonly slots: readonly { readonly address: number; readonly value: number }[];
  readonly unwind: readonly { readonly ehFrameHdr: number; readonly textStart: number; readonly textEnd: number }[];
  /**
   * What new thread-locals begin as, in every thread there is and will be; `offset` in the pool. Sorted, and beyond those
   * of every earlier patch, abandoned ones included: a thread may still use what an abandoned patch brought.
   */
  readonly threadLocals: readonly { readonly offset: number; readonly bytes: Uint8Array }[];
  /** An ELF file with names and lines of the new code, for backtraces. */
  readonly symbols: Uint8Array;
  /** Makes one for debuggers, with its unwind tables besides and all addresses absolute; absent when there is no code. */
  readonly image?: () => Uint8Array;
}

/** New memory: whole pages of the arena; zeros after `bytes`. */
export interface ElfSegment {
  readonly address: number;
  readonly sizeBytes: number;
  readonly access: 'read' | 'write' | 'execute';
  readonly bytes: Uint8Array;
}

/** A native program as its agent finds it in memory. Addresses are absolute. */
export interface RunningProgram {
  readonly pid: number;
  /** Added to addresses in the program's file. */
  readonly bias: number;
  readonly slotsStart: number;
  readonly slotsEnd: number;
  /** Where patches may put their segments. */
  readonly arenaStart: number;
  readonly arenaEnd: number;
  /** Backtraces find names in one symbol file per so many bytes of the arena. */
  readonly moduleSizeBytes: number;
  /** Added to addresses in a symbol file. */
  readonly symbolBias: number;
  /** The PT_TLS header as the program sees it; absent when it has no thread-locals. */
  readonly tls?: { readonly address: number; readonly sizeBytes: number; readonly alignment: number };
  /** Each thread's pool for new thread-locals, as an offset from its thread pointer. */
  readonly poolOffset: number;
  readonly poolSizeBytes: number;
  /** Shared objects in its memory: code that it did not import yet is found in them. */
  readonly libraries: readonly { readonly path: string; readonly bias: number; readonly bytes: () => Uint8Array }[];
}

/** wasm-bindgen's JavaScript for a newer build, to be bound to the instance that is already running. */
export interface Glue {
  /** The folder to serve it from, and the file in it. */
  readonly directory: string;
  readonly file: string;
  /** What its `wasm.NAME` must mean: the function table's slot that holds the export. */
  readonly exports: Readonly<Record<string, number>>;
}

/** A change that cannot be made in the running program. It stays on its version, unharmed. */
export interface Refusal {
  readonly reason: string;
  readonly remedy: 'reload' | 'restart';
  readonly place?: Place;
}

// --------------------------------------------------------------------------------------------------------- deliver

/** A client's answer to a patch: the version it runs now, or why not. */
export type Receipt = { readonly client: string; readonly kind?: ClientKind; readonly version: number } & (
  | { readonly applied: true; readonly applyMs: number }
  | { readonly applied: false; readonly reason: string }
);

/** What a wasm program runs in. */
export type ClientKind = 'page' | 'worker' | 'worklet';

/** What happened, as people, editors and tests read it: one line of `--json` each (docs/events.md). */
export type Event = { /** Which of several programs it is about. */ readonly program?: string } & (
  | {
      readonly event: 'ready';
      readonly url?: string;
      readonly version: number;
      /** Of `ms`, the time from rustc's objects to what runs. */
      readonly linkMs: number;
      readonly ms: number;
    }
  | { readonly event: 'change'; readonly paths: readonly string[] }
  | {
      readonly event: 'patch';
      readonly version: number;
      readonly functions: readonly string[];
      readonly bytes: number;
      readonly rustcMs: number;
      readonly linkMs: number;
      readonly applyMs: number;
      /** From noticing the edit to the last receipt. */
      readonly totalMs: number;
      readonly clients: number;
      /** How many of them are workers, and audio worklets; absent when none. */
      readonly workers?: number;
      readonly worklets?: number;
      readonly warnings: readonly Diagnostic[];
    }
  | {
      readonly event: 'refused';
      readonly reason: string;
      readonly remedy: 'reload' | 'restart';
      readonly place?: Place;
    }
  | { readonly event: 'failed'; readonly diagnostics: readonly Diagnostic[] }
  | { readonly event: 'unchanged'; readonly rustcMs: number; readonly warnings: readonly Diagnostic[] }
  | { readonly event: 'reload'; readonly reason: string; readonly version: number }
  | { readonly event: 'restart'; readonly reason: string; readonly version: number; readonly handedOver: boolean }
  | {
      readonly event: 'exit';
      readonly program: string;
      readonly status: number;
      readonly signal?: string;
      readonly version: number;
    }
  /** Of a program with threads, shortly after its page took a patch. */
  | {
      readonly event: 'threads';
      readonly client: string;
      readonly version: number;
      /** Besides the page's own. */
      readonly workers: number;
      /** Have not called a function since: they take the patch when they do. */
      readonly behind: number;
      /** Could not take it, and ended. */
      readonly failed?: number;
      /** From when the page had it until the last of the others did. */
      readonly ms: number;
    }
  | { readonly event: 'undo'; readonly version: number; readonly reason: string }
  | {
      readonly event: 'client';
      readonly client: string;
      readonly kind: ClientKind;
      readonly state: 'joined' | 'left';
      readonly version: number;
    }
  | {
      readonly event: 'log';
      readonly level: 'error' | 'warn' | 'info';
      readonly text: string;
      readonly client?: string;
    }
  | { readonly event: 'progress'; readonly text: string; readonly done?: number; readonly total?: number }
);
