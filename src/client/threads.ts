// One instance of a program with threads in; an instance that brings itself up to date, whatever it was doing, out.
//
// The instances share nothing but the memory, so all that ties them together lies there, in a place that the base keeps
// free: the epoch, the list of everything published so far, and what each thread has taken of it. The first instance that
// runs is the publisher: it hears from the server, writes a patch's data, adds the patch to the list, and moves the epoch,
// in this order. Every guard in the code of the others (src/link/guard.ts) sees that, and calls `catchUp`, which takes
// from the list what is new, without returning to an event loop: a thread may not have one for minutes.

import { apply, openProgram, type Prepared, type Program } from './apply.ts';
import { readPatch } from './protocol.ts';

/** Words of 4 bytes. The epoch has a cache line to itself: it is read at every call. */
const EPOCH = 0;
/** Not 0 when there is a publisher. */
const CLAIMED = 16;
const COUNT = 17;
/** Of the first record, and of the memory for further ones. */
const FIRST = 18;
const FREE = 19;
const FREE_END = 20;
/** What each thread has taken, or FAILED. */
const TAKEN = 32;
const MAX_THREADS = 1024;
const FAILED = -2;
/** The number in the name of a lock that each thread holds as long as it lives; 0 while it has none. */
const LOCKS = TAKEN + MAX_THREADS;
/** When each thread took it, in milliseconds since 1970, as floats of 8 bytes. */
const TIMES_OFFSET = 4 * (LOCKS + MAX_THREADS);
const RECORDS_OFFSET = TIMES_OFFSET + 8 * MAX_THREADS;

/** A record: address of the next one, kind, length; then that many bytes. */
const RECORD_BYTES = 16;
const PATCH = 1;
const UNDO = 2;

const PAGE_BYTES = 65_536;
const GROWTH_PAGES = 16;

/** `(module (import "h" "s" (func)) (export "s" (func 0)))`: only a function of a module can be put into a table. */
const SHIM: Uint8Array<ArrayBuffer> = new TextEncoder().encode(
  '\0asm\x01\0\0\0\x01\x04\x01`\0\0\x02\x07\x01\x01h\x01s\0\0\x07\x05\x01\x01s\0\0',
);

/**
 * Whoever terminates a worker does not tell it. But the browser then gives up its locks. It is granted by the worker's
 * event loop: one that never gets there is taken for alive.
 */
const lock: { readonly number: number; isHeld: boolean; onHeld: () => void } = {
  number: 1 + Math.floor(Math.random() * 0x7fff_fffe),
  isHeld: false,
  onHeld: () => {},
};
if (typeof document === 'undefined') {
  const hold = (): Promise<never> => {
    lock.isHeld = true;
    lock.onHeld();
    return new Promise(() => {});
  };
  void navigator.locks?.request(nameOf(lock.number), hold).catch(() => undefined);
}

/** Where the other threads are with the newest patch. */
export interface Tally {
  readonly workers: number;
  /** Have not come by a guard since. */
  readonly behind: number;
  /** Could not take a patch, and cannot go on. */
  readonly failed: number;
  /** When the last of the others took something. */
  readonly takenAt: number;
}

export class Thread {
  readonly program: Program;
  readonly #start: number;
  readonly #end: number;
  readonly #seen: WebAssembly.Global<'i32'>;
  readonly #threadLocals: WebAssembly.Global<'i32'> | undefined;
  readonly #begin: (thread: Thread) => void;
  #index = -1;
  #taken = 0;
  /** Address of the last record taken. */
  #last = 0;
  #undo: (() => void) | undefined;

  /** `begin` is called once, before the first function of the program runs that a patch can change. */
  constructor(exports: WebAssembly.Exports, begin: (thread: Thread) => void) {
    this.program = { ...openProgram(exports), writesData: false };
    this.#start = numberOf(exports, '__hotslot_threads');
    this.#end = numberOf(exports, '__hotslot_threads_end');
    this.#seen = exports['__hotslot_seen'] as WebAssembly.Global<'i32'>;
    this.#threadLocals = exports['__tls_base'] as WebAssembly.Global<'i32'> | undefined;
    this.#begin = begin;
    const imports = { h: { s: () => this.sync() } };
    const shim = new WebAssembly.Instance(new WebAssembly.Module(SHIM), imports);
    this.program.table.set(numberOf(exports, '__hotslot_sync_slot'), shim.exports['s']);
  }

  /** What guards call. */
  sync(): void {
    // The thread is being set up: it has no thread-locals yet, and runs nothing of the user's.
    if (this.#threadLocals?.value === 0) return;
    if (this.#index < 0) {
      this.#index = Atomics.add(this.#words(), this.#word(COUNT), 1);
      this.#begin(this);
    }
    this.catchUp();
  }

  /** Whether this is the first thread of all. It is asked once, by `begin`. */
  claim(): boolean {
    const isFirst = Atomics.compareExchange(this.#words(), this.#word(CLAIMED), 0, 1) === 0;
    if (isFirst) {
      this.#store(FREE, this.#start + RECORDS_OFFSET);
      this.#store(FREE_END, this.#end);
      this.program.writesData = true;
    }
    lock.onHeld = () => this.#record(LOCKS, lock.number);
    if (lock.isHeld) lock.onHeld();
    return isFirst;
  }

  /** Takes everything published. Throws when that cannot be done; then the thread must not go on. */
  catchUp(): void {
    const before = this.#taken;
    while (this.#taken < this.#load(EPOCH)) {
      try {
        this.#take(Atomics.load(this.#words(), this.#link()));
      } catch (error) {
        this.#tell(FAILED);
        const reason = 'hotslot: this thread could not take a patch that others have taken; reload the page';
        throw new Error(reason, { cause: error });
      }
    }
    if (this.#taken !== before && this.#index < MAX_THREADS) this.#times()[this.#index] = now();
    this.#tell(this.#taken);
  }

  /** Applies a patch here and shows it to all others; the result takes it back, here and there. */
  publish(patch: Prepared): () => void {
    const undo = apply(this.program, patch);
    try {
      this.#append(PATCH, new Uint8Array(patch.frame));
    } catch (error) {
      undo();
      throw error;
    }
    return () => {
      undo();
      this.#append(UNDO, new Uint8Array());
    };
  }

  /** Whether every other thread that ever was has everything published. */
  get isTakenByAll(): boolean {
    const epoch = this.#load(EPOCH);
    for (let index = 0; index < this.#count; index++)
      if (index !== this.#index && this.#load(TAKEN + index) < epoch) return false;
    return true;
  }

  async tally(): Promise<Tally> {
    const epoch = this.#load(EPOCH);
    const locks = await navigator.locks?.query();
    const held = locks?.held && new Set(locks.held.map(({ name }) => name));
    let [workers, behind, failed, takenAt] = [0, 0, 0, 0];
    for (let index = 0; index < this.#count; index++) {
      if (index === this.#index || this.#isGone(index, held)) continue;
      const taken = this.#load(TAKEN + index);
      workers += 1;
      takenAt = Math.max(takenAt, this.#times()[index] ?? 0);
      if (taken === FAILED) failed += 1;
      else if (taken < epoch) behind += 1;
    }
    return { workers, behind, failed, takenAt };
  }

  #take(address: number): void {
    const words = this.#words(address + RECORD_BYTES);
    const kind = words[(address >>> 2) + 1];
    const length = words[(address >>> 2) + 2] ?? 0;
    if (kind === UNDO) {
      this.#undo?.();
      this.#undo = undefined;
    } else {
      // A copy: neither the compiler nor the text decoder reads shared memory.
      const { buffer } = this.#words(address + RECORD_BYTES + length);
      const frame = new ArrayBuffer(length);
      new Uint8Array(frame).set(new Uint8Array(buffer, address + RECORD_BYTES, length));
      const { header, module } = readPatch(frame);
      this.#undo = apply(this.program, { header, module: new WebAssembly.Module(module), frame });
    }
    this.#last = address;
    this.#taken += 1;
  }

  #append(kind: number, bytes: Uint8Array): void {
    const address = this.#allocate(RECORD_BYTES + bytes.length);
    const words = this.#words(address + RECORD_BYTES + bytes.length);
    new Uint8Array(words.buffer).set(bytes, address + RECORD_BYTES);
    words.set([0, kind, bytes.length], address >>> 2);
    // Whoever sees the new epoch sees all that was written before it.
    Atomics.store(words, this.#link(), address);
    this.#last = address;
    this.#taken += 1;
    this.#store(EPOCH, this.#taken);
    this.#tell(this.#taken);
  }

  /** From what the base keeps free; when that is used up, memory is added, as the program's own allocator adds its. */
  #allocate(sizeBytes: number): number {
    const size = Math.ceil(sizeBytes / RECORD_BYTES) * RECORD_BYTES;
    if (this.#load(FREE) + size > this.#load(FREE_END)) {
      const pages = Math.max(GROWTH_PAGES, Math.ceil(size / PAGE_BYTES));
      const start = this.program.memory.grow(pages) * PAGE_BYTES;
      this.#store(FREE, start);
      this.#store(FREE_END, start + pages * PAGE_BYTES);
    }
    const address = this.#load(FREE);
    this.#store(FREE, address + size);
    return address;
  }

  #tell(taken: number): void {
    this.#seen.value = this.#taken;
    this.#record(TAKEN, taken);
  }

  get #count(): number {
    return Math.min(this.#load(COUNT), MAX_THREADS);
  }

  #record(column: number, value: number): void {
    if (this.#index < MAX_THREADS) this.#store(column + this.#index, value);
  }

  #isGone(index: number, held: ReadonlySet<string | undefined> | undefined): boolean {
    const number = this.#load(LOCKS + index);
    return number !== 0 && held?.has(nameOf(number)) === false;
  }

  /** The word that holds the address of the record after the last one taken. */
  #link(): number {
    return this.#last === 0 ? this.#word(FIRST) : this.#last >>> 2;
  }

  #word(index: number): number {
    return (this.#start >>> 2) + index;
  }

  #load(index: number): number {
    return Atomics.load(this.#words(), this.#word(index));
  }

  #store(index: number, value: number): void {
    Atomics.store(this.#words(), this.#word(index), value);
  }

  #times(): Float64Array {
    return new Float64Array(this.program.memory.buffer, this.#start + TIMES_OFFSET, MAX_THREADS);
  }

  /** Of all the memory, as it is now, at least up to `end`: another thread may have added to it, unseen by this one. */
  #words(end = 0): Int32Array {
    const { memory } = this.program;
    if (memory.buffer.byteLength < end) memory.grow(0);
    return new Int32Array(memory.buffer);
  }
}

/** Milliseconds since 1970, by a clock that all threads of a page read alike. */
export function now(): number {
  return performance.timeOrigin + performance.now();
}

function nameOf(number: number): string {
  return `hotslot:${number}`;
}

function numberOf(exports: WebAssembly.Exports, name: string): number {
  return (exports[name] as WebAssembly.Global<'i32'>).value;
}
