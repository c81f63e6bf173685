// A place in memory that threads share; a list of everything published there, which each thread reads for itself, out.
//
// One thread appends, all others read, and nobody waits for anybody. A reader that has been away, or is new, needs of the
// list only what still shows: of patches that store into the same slot, the last one. So a record is dropped once later
// ones store into all of its slots, and the list grows with the slots that the program has, not with the patches that it
// takes. The last patch may be taken back, so it covers no other until the next one comes.
//
// A record that has been dropped still leads to its successors, for readers that have reached it already; its bytes are
// used again when there is no reader.

/** Words of 4 bytes. The epoch, which is the number of the last record, has a cache line to itself: every call reads it. */
const EPOCH = 0;
/** Address of the first record. */
const FIRST = 16;
const READERS = 17;

/** A record: address of the next one, kind, length, number; then that many bytes. */
const HEADER_BYTES = 16;
const [KIND, LENGTH, NUMBER] = [1, 2, 3] as const;
const PATCH = 1;
const UNDO = 2;

const PAGE_BYTES = 65_536;
const GROWTH_PAGES = 16;

/** What a reader gets: a patch, or, without bytes, that the one before it was taken back. */
export interface Entry {
  readonly number: number;
  readonly patch: ArrayBuffer | undefined;
}

interface Area {
  readonly start: number;
  readonly end: number;
}

/** What the appending thread knows of a record. */
interface Kept extends Area {
  readonly slots: readonly number[];
  /** Each thread must have run it once, whatever came later. */
  readonly isForEach: boolean;
  readonly isPatch: boolean;
}

export class Journal {
  readonly #memory: WebAssembly.Memory;
  readonly #start: number;
  readonly #areas: Area[];
  #kept: Kept[] = [];
  /** Dropped, but somebody may be reading them. */
  #dropped: Kept[] = [];

  /** `start`: address of the words; `records`: of memory that is free. */
  constructor(memory: WebAssembly.Memory, start: number, records: Area) {
    this.#memory = memory;
    this.#start = start;
    this.#areas = [records];
  }

  /** The number of the last record. */
  get epoch(): number {
    return Atomics.load(this.#words(), this.#word(EPOCH));
  }

  /** What a thread lacks that has come to the record `number`, in order. */
  read(number: number): Entry[] {
    const entries: Entry[] = [];
    // A thread that is ended just here is a reader for ever: then nothing is used again, and the memory grows.
    Atomics.add(this.#words(), this.#word(READERS), 1);
    try {
      let address = Atomics.load(this.#words(), this.#word(FIRST));
      while (address !== 0) {
        const words = this.#words(address + HEADER_BYTES);
        const at = address >>> 2;
        if ((words[at + NUMBER] ?? 0) > number) entries.push(this.#entry(address));
        address = Atomics.load(words, at);
      }
    } finally {
      Atomics.sub(this.#words(), this.#word(READERS), 1);
    }
    return entries;
  }

  /** `slots`: all that instantiating it stores into. Throws when the memory is full. */
  append(patch: Uint8Array, slots: readonly number[], isForEach: boolean): void {
    this.#link(PATCH, patch, { slots, isForEach, isPatch: true });
    const covered = new Set<number>();
    for (const record of this.#kept.slice(0, -1).toReversed()) {
      if (!record.isForEach && record.slots.every((slot) => covered.has(slot))) this.#drop(record);
      else if (record.isPatch) for (const slot of record.slots) covered.add(slot);
    }
  }

  /** Takes back the last record, which is a patch. */
  undo(): void {
    const undone = this.#kept.at(-1);
    if (undone?.isPatch !== true) throw new Error('expected a patch to take back');
    this.#link(UNDO, new Uint8Array(), { slots: undone.slots, isForEach: false, isPatch: false });
    this.#drop(undone);
  }

  #link(kind: number, bytes: Uint8Array, what: Omit<Kept, 'start' | 'end'>): void {
    if (Atomics.load(this.#words(), this.#word(READERS)) === 0) this.#dropped = [];
    const start = this.#allocate(Math.ceil((HEADER_BYTES + bytes.length) / HEADER_BYTES) * HEADER_BYTES);
    const end = start + HEADER_BYTES + bytes.length;
    const words = this.#words(end);
    const number = this.epoch + 1;
    new Uint8Array(words.buffer).set(bytes, start + HEADER_BYTES);
    words.set([0, kind, bytes.length, number], start >>> 2);
    // Whoever sees the new epoch sees all that was written before it.
    Atomics.store(words, this.#linkAfter(this.#kept.at(-1)), start);
    this.#kept.push({ start, end, ...what });
    Atomics.store(words, this.#word(EPOCH), number);
  }

  /** Not the last one. */
  #drop(record: Kept): void {
    const index = this.#kept.indexOf(record);
    const words = this.#words();
    Atomics.store(words, this.#linkAfter(this.#kept[index - 1]), Atomics.load(words, record.start >>> 2));
    this.#kept.splice(index, 1);
    this.#dropped.push(record);
  }

  /** Between records; when no gap is large enough, memory is added, as the program's own allocator adds its. */
  #allocate(sizeBytes: number): number {
    const used = [...this.#kept, ...this.#dropped].toSorted((one, other) => one.start - other.start);
    for (const { start, end } of this.#areas) {
      let free = align(start);
      for (const record of used) {
        if (record.start < start || record.start >= end) continue;
        if (free + sizeBytes <= record.start) return free;
        free = align(record.end);
      }
      if (free + sizeBytes <= end) return free;
    }
    const pages = Math.max(GROWTH_PAGES, Math.ceil(sizeBytes / PAGE_BYTES));
    const start = this.#memory.grow(pages) * PAGE_BYTES;
    this.#areas.push({ start, end: start + pages * PAGE_BYTES });
    return start;
  }

  /** A copy: neither the compiler nor the text decoder reads shared memory. */
  #entry(address: number): Entry {
    const at = address >>> 2;
    const header = this.#words(address + HEADER_BYTES);
    const [kind, length = 0, number = 0] = [header[at + KIND], header[at + LENGTH], header[at + NUMBER]];
    if (kind === UNDO) return { number, patch: undefined };
    const { buffer } = this.#words(address + HEADER_BYTES + length);
    const patch = new ArrayBuffer(length);
    new Uint8Array(patch).set(new Uint8Array(buffer, address + HEADER_BYTES, length));
    return { number, patch };
  }

  /** The word that holds the address of the record after this one, or of the first. */
  #linkAfter(record: Kept | undefined): number {
    return record === undefined ? this.#word(FIRST) : record.start >>> 2;
  }

  #word(index: number): number {
    return (this.#start >>> 2) + index;
  }

  /** Of all the memory, as it is now, at least up to `end`: another thread may have added to it, unseen by this one. */
  #words(end = 0): Int32Array {
    if (this.#memory.buffer.byteLength < end) this.#memory.grow(0);
    return new Int32Array(this.#memory.buffer);
  }
}

function align(address: number): number {
  return Math.ceil(address / HEADER_BYTES) * HEADER_BYTES;
}
