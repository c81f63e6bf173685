// The journal of what threads share: whoever reads it, whenever and however seldom, ends where the publisher is; and it
// stays small.
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Journal } from '../src/client/journal.ts';

const START = 1024;
const RECORDS = { start: 4096, end: 65_536 };

function share(pages = 1): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: pages, maximum: 1024, shared: true });
}

function open(memory: WebAssembly.Memory): Journal {
  return new Journal(memory, START, RECORDS);
}

/** A patch, here: it stores the value into slots. */
interface Stores {
  readonly value: number;
  readonly slots: readonly number[];
  readonly size: number;
}

function write({ value, slots, size }: Stores): Uint8Array {
  return new TextEncoder().encode(JSON.stringify({ value, slots, filler: 'x'.repeat(size) }));
}

function read(patch: ArrayBuffer): Stores {
  return JSON.parse(new TextDecoder().decode(patch)) as Stores;
}

/** A thread, as far as it has to do with the journal: see `Thread` (src/client/threads.ts). */
class Reader {
  readonly slots = new Map<number, number>();
  /** The values of all patches that it has run. */
  readonly ran: number[] = [];
  readonly #journal: Journal;
  #taken = 0;
  #undo: (() => void) | undefined;

  constructor(journal: Journal) {
    this.#journal = journal;
  }

  catchUp(): void {
    for (const { number, patch } of this.#journal.read(this.#taken)) {
      if (patch === undefined) {
        if (this.#taken === number - 1) this.#undo?.();
        this.#undo = undefined;
      } else {
        const { value, slots } = read(patch);
        this.#undo = store(this.slots, slots, value);
        this.ran.push(value);
      }
      this.#taken = number;
    }
    expect(this.#taken).toBe(this.#journal.epoch);
  }
}

function store(table: Map<number, number>, slots: readonly number[], value: number): () => void {
  const before = slots.map((slot) => [slot, table.get(slot)] as const);
  for (const slot of slots) table.set(slot, value);
  return () => {
    for (const [slot, old] of before) {
      if (old === undefined) table.delete(slot);
      else table.set(slot, old);
    }
  };
}

const STEP = fc.oneof(
  fc.record({
    kind: fc.constant('patch' as const),
    slots: fc.uniqueArray(fc.nat(6), { maxLength: 4 }),
    size: fc.nat(3000),
    isForEach: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('undo' as const) }),
  fc.record({ kind: fc.constant('read' as const), reader: fc.nat(3) }),
);

test('readers that come when they like, and late ones, have what the publisher has', () => {
  fc.assert(
    fc.property(fc.array(STEP, { maxLength: 120, size: 'max' }), (steps) => {
      const memory = share();
      const journal = open(memory);
      const table = new Map<number, number>();
      let forEach: number[] = [];
      const readers = Array.from({ length: 4 }, () => new Reader(open(memory)));
      let undo: (() => void) | undefined;
      for (const [value, step] of steps.entries()) {
        if (step.kind === 'patch') {
          const [before, beforeForEach] = [store(table, step.slots, value), forEach];
          if (step.isForEach) forEach = [...forEach, value];
          undo = () => {
            before();
            forEach = beforeForEach;
          };
          journal.append(write({ value, slots: step.slots, size: step.size }), step.slots, step.isForEach);
        } else if (step.kind === 'undo') {
          if (undo === undefined) continue;
          undo();
          undo = undefined;
          journal.undo();
        } else {
          readers[step.reader]?.catchUp();
        }
      }
      const late = new Reader(open(memory));
      for (const reader of [...readers, late]) {
        reader.catchUp();
        expect(reader.slots).toEqual(table);
      }
      expect(late.ran).toEqual(expect.arrayContaining(forEach));
    }),
  );
});

test('ten thousand patches of the same functions take no more memory than a few', () => {
  const memory = share();
  const journal = open(memory);
  const behind = new Reader(open(memory));
  for (let value = 0; value < 10_000; value += 1) {
    journal.append(write({ value, slots: [value % 7, 7], size: value % 900 }), [value % 7, 7], false);
    if (value % 3 === 0) journal.undo();
  }
  expect(memory.buffer.byteLength).toBe(65_536);
  expect(open(memory).read(0).length).toBeLessThan(20);
  behind.catchUp();
  expect([...behind.slots.values()].every((value) => value > 9970)).toBe(true);
});

test('patches that all still show are all kept, in more memory', () => {
  const memory = share();
  const journal = open(memory);
  for (let value = 0; value < 200; value += 1)
    journal.append(write({ value, slots: [value], size: 1000 }), [value], false);
  const reader = new Reader(open(memory));
  reader.catchUp();
  expect([...reader.slots]).toEqual(Array.from({ length: 200 }, (_, value) => [value, value]));
  expect(memory.buffer.byteLength).toBeGreaterThan(200_000);
});

test('a thread that reads meanwhile never gets half a record, nor one out of order', async () => {
  const memory = share();
  const journal = open(memory);
  const reader = new Worker(
    `const { parentPort, workerData } = require('node:worker_threads');
    import(workerData.module).then(({ Journal }) => {
      const journal = new Journal(workerData.memory, ${START}, ${JSON.stringify(RECORDS)});
      parentPort.postMessage('ready');
      let taken = 0, reads = 0;
      while (taken < workerData.last) {
        for (const { number, patch } of journal.read(taken)) {
          const text = new TextDecoder().decode(patch);
          const { value } = JSON.parse(text);
          if (number <= taken || value !== number) throw new Error(number + ' after ' + taken + ': ' + text.slice(0, 50));
          taken = number;
          reads += 1;
        }
      }
      parentPort.postMessage(reads);
    });`,
    {
      eval: true,
      workerData: { module: new URL('../dist/client/journal.js', import.meta.url).href, memory, last: 20_000 },
    },
  );
  await once(reader, 'message');
  const said = once(reader, 'message');
  for (let value = 1; value <= 20_000; value += 1)
    journal.append(write({ value, slots: [value % 3], size: (value * 37) % 500 }), [value % 3], false);
  const [reads] = (await said) as [number];
  // It has run beside the publisher, not after it.
  expect(reads).toBeGreaterThan(100);
  await reader.terminate();
});
