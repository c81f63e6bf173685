// One instance of a program with threads in; an instance that brings itself up to date, whatever it was doing, out.
//
// The instances share nothing but the memory, so all that ties them together lies there, in a place that the base keeps
// free: the epoch, the list of everything published so far, and what each thread has taken of it. The first instance that
// runs is the publisher: it hears from the server, writes a patch's data, adds the patch to the list, and moves the epoch,
// in this order. Every guard in the code of the others (src/link/guard.ts) sees that, and calls `catchUp`, which takes
// from the list what is new, without returning to an event loop: a thread may not have one for minutes.

import { apply, openProgram, type Prepared, type Program } from './apply.ts';
import { type Entry, Journal } from './journal.ts';
import { readPatch } from './protocol.ts';

/** Not 0 when there is a publisher. In words of 4 bytes; those before are the journal's. */
const CLAIMED = 32;
const COUNT = 33;
/** The last record that each thread has taken, or FAILED. */
const TAKEN = 48;
const MAX_THREADS = 1024;
const FAILED = -2;
/** The number in the name of the lock that each thread asks for; negative while it has not heard that it holds it. */
const LOCKS = TAKEN + MAX_THREADS;
/** When each thread took it, in milliseconds since 1970, as floats of 8 bytes. */
const TIMES_OFFSET = 4 * (LOCKS + MAX_THREADS);
const RECORDS_OFFSET = TIMES_OFFSET + 8 * MAX_THREADS;

/** A program does not wait longer than this for a browser that gives no locks. */
const LOCK_TIMEOUT_MS = 1000;

/** `(module (import "h" "s" (func)) (export "s" (func 0)))`: only a function of a module can be put into a table. */
const SHIM: Uint8Array<ArrayBuffer> = Uint8Array.from(
  '\0asm\x01\0\0\0\x01\x04\x01`\0\0\x02\x07\x01\x01h\x01s\0\0\x07\x05\x01\x01s\0\0',
  // An audio worklet has no encoder.
  (character) => character.charCodeAt(0),
);

/**
 * Whoever terminates a worker does not tell it. But then the browser gives up its locks; in Chromium only after two seconds
 * when the worker waits in wasm.
 */
const lock: { readonly number: number; isHeld: boolean; onHeld: () => void } = {
  number: 1 + Math.floor(Math.random() * 0x7fff_fffe),
  isHeld: false,
  onHeld: () => {},
};

const asked: Promise<void> = new Promise((settled) => {
  // An audio worklet has not even a navigator.
  if (typeof document !== 'undefined' || typeof navigator === 'undefined') return settled();
  if (navigator.locks === undefined) return settled();
  const hold = (): Promise<never> => {
    lock.isHeld = true;
    lock.onHeld();
    settled();
    return new Promise(() => {});
  };
  navigator.locks.request(nameOf(lock.number), hold).catch(() => settled());
  setTimeout(settled, LOCK_TIMEOUT_MS);
});

/**
 * Resolves when a worker has its lock. Its glue waits for that before it runs anything: a worker gets no lock any more once
 * it does not return to its event loop. With `initSync` nothing can be awaited; such a worker may be taken for alive.
 */
export function settle(): Promise<void> {
  return asked;
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
  readonly #seen: WebAssembly.Global<'i32'>;
  readonly #threadLocals: WebAssembly.Global<'i32'> | undefined;
  readonly #begin: (thread: Thread) => void;
  readonly #journal: Journal;
  #index = -1;
  /** The last record. */
  #taken = 0;
  /** For the next record, should it say so. */
  #undo: (() => void) | undefined;
  /** By index: other threads whose locks were held once, and those whose locks no longer are. */
  readonly #held = new Set<number>();
  readonly #gone = new Set<number>();

  /** `begin` is called once, before the first function of the program runs that a patch can change. */
  constructor(exports: WebAssembly.Exports, begin: (thread: Thread) => void) {
    this.program = { ...openProgram(exports), writesData: false };
    this.#start = numberOf(exports, '__hotslot_threads');
    const records = { start: this.#start + RECORDS_OFFSET, end: numberOf(exports, '__hotslot_threads_end') };
    this.#journal = new Journal(this.program.memory, this.#start, records);
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
    if (isFirst) this.program.writesData = true;
    lock.onHeld = () => this.#record(LOCKS, lock.number);
    if (lock.isHeld) lock.onHeld();
    else this.#record(LOCKS, -lock.number);
    return isFirst;
  }

  /** Takes everything published. Throws when that cannot be done; then the thread must not go on. */
  catchUp(): void {
    const before = this.#taken;
    while (this.#taken < this.#journal.epoch) {
      try {
        for (const entry of this.#journal.read(this.#taken)) this.#take(entry);
      } catch (error) {
        this.#tell(FAILED);
        const reason = 'hotslot: this thread could not take a patch that others have taken; reload the page';
        throw new Error(reason, { cause: error });
      }
    }
    if (this.#taken !== before && this.#index < MAX_THREADS) this.#times()[this.#index] = now();
    this.#tell(this.#taken);
  }

  /** Applies a patch here and shows it to all others; the result takes it back, here and there, while it is the last. */
  publish(patch: Prepared): () => void {
    const undo = apply(this.program, patch);
    try {
      const isForEach = WebAssembly.Module.exports(patch.module).some(({ name }) => name === 'thread_locals');
      this.#journal.append(new Uint8Array(patch.frame), patch.header.slots, isForEach);
    } catch (error) {
      undo();
      throw error;
    }
    this.#published();
    return () => {
      undo();
      this.#journal.undo();
      this.#published();
    };
  }

  /** Whether every other thread has everything published, but for those that `tally` found gone. */
  get isTakenByAll(): boolean {
    const { epoch } = this.#journal;
    return this.#others().every((index) => this.#load(TAKEN + index) >= epoch);
  }

  async tally(): Promise<Tally> {
    await this.#findGone();
    const { epoch } = this.#journal;
    const others = this.#others();
    const taken = others.map((index) => this.#load(TAKEN + index));
    return {
      workers: others.length,
      behind: taken.filter((number) => number !== FAILED && number < epoch).length,
      failed: taken.filter((number) => number === FAILED).length,
      takenAt: Math.max(0, ...others.map((index) => this.#times()[index] ?? 0)),
    };
  }

  #take({ number, patch: frame }: Entry): void {
    if (frame === undefined) {
      // Without the patch before it, there is nothing to take back: that one was dropped.
      if (this.#taken === number - 1) this.#undo?.();
      this.#undo = undefined;
    } else {
      const { header, module } = readPatch(frame);
      this.#undo = apply(this.program, { header, module: new WebAssembly.Module(module), frame });
    }
    this.#taken = number;
  }

  #published(): void {
    this.#taken = this.#journal.epoch;
    this.#tell(this.#taken);
  }

  #tell(taken: number): void {
    this.#seen.value = this.#taken;
    this.#record(TAKEN, taken);
  }

  /** The indices of all that ever were and are not known to be gone. */
  #others(): number[] {
    const count = Math.min(this.#load(COUNT), MAX_THREADS);
    return Array.from({ length: count }, (_, index) => index).filter(
      (index) => index !== this.#index && !this.#gone.has(index),
    );
  }

  async #findGone(): Promise<void> {
    // Before asking: what holds a lock by now is among the answers, or gone.
    const numbers = this.#others().map((index) => [index, this.#load(LOCKS + index)] as const);
    const { held } = (await navigator.locks?.query()) ?? {};
    if (held === undefined) return;
    const names = new Set(held.map(({ name }) => name));
    for (const [index, number] of numbers) {
      if (names.has(nameOf(Math.abs(number)))) this.#held.add(index);
      else if (number > 0 || this.#held.has(index)) this.#gone.add(index);
    }
  }

  #record(column: number, value: number): void {
    if (this.#index < MAX_THREADS) this.#store(column + this.#index, value);
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

  #words(): Int32Array {
    return new Int32Array(this.program.memory.buffer);
  }
}

/** Milliseconds since 1970, by a clock that all threads of a page read alike; an audio worklet has a coarser one. */
export function now(): number {
  if (typeof performance === 'undefined') return Date.now();
  return performance.timeOrigin + performance.now();
}

function nameOf(number: number): string {
  return `hotslot:${number}`;
}

function numberOf(exports: WebAssembly.Exports, name: string): number {
  return (exports[name] as WebAssembly.Global<'i32'>).value;
}
