// A hotslot that is killed, at whatever moment between a save and its receipt: the program neither stops nor stumbles, and
// the next hotslot goes on from what is on the disk.
import { once } from 'node:events';
import { watch } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import * as fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { copyFerry, type Ferry, MAIN, openFerry } from './ferry.ts';
import { agentSocket } from './harbor.ts';
import { launchServer } from './harness.ts';

const ROUNDS = 20;

let ferry: Ferry | undefined;
afterEach(async () => {
  await ferry?.close();
  await ferry?.server.close();
});

/** The source with both functions at another number. */
function numbered(text: string, number: number): string {
  return text.replace(/"bow-\d+"/, `"bow-${number}"`).replace(/"stern-\d+"/, `"stern-${number}"`);
}

test(`killed at ${ROUNDS} moments: no connection fails, each answer is of a version that was, the next hotslot patches`, async () => {
  const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
  console.log(`SEED=${seed}`);
  const moments = fc.sample(fc.double({ min: 0, max: 1, noNaN: true }), { seed, numRuns: ROUNDS });
  const directory = copyFerry();
  const ends = { before: 0, after: 0 };
  /** From a save to its receipt, lately. */
  let patchMs = 0;
  for (const [round, moment] of moments.entries()) {
    ferry = await openFerry(directory);
    const { server } = ferry;
    const swapped = await server.write({ [MAIN]: numbered(server.read(MAIN), 3 * round + 1) });
    if (swapped.event !== 'patch') expect.fail(JSON.stringify(swapped));
    patchMs = swapped.totalMs;
    const { pid } = await ferry.ask();
    const folder = dirname(await agentSocket(pid));
    ferry.open();
    await ferry.pass(10);

    // Some moments are anywhere; as many are where the patch is about to be sent, which takes no time: names of the new
    // code are written just before.
    const sending = watch(folder);
    const isSending = once(sending, 'change');
    server.save(MAIN, numbered(server.read(MAIN), 3 * round + 2));
    if (round % 2 === 0) await setTimeout(moment * 1.1 * patchMs);
    else await isSending.then(() => (moment < 0.3 ? undefined : setTimeout(moment * 12)));
    sending.close();
    await server.kill();
    await ferry.pass(20);
    await ferry.close();

    expect(ferry.failures).toEqual([]);
    const names = [3 * round + 1, 3 * round + 2].map((number) => [`bow-${number}`, `stern-${number}`] as const);
    for (const side of ['bow', 'stern'] as const) {
      const said = ferry.trips.map((trip) => names.findIndex((name: readonly string[]) => name.includes(trip[side])));
      // The old one, and from some moment on the new one.
      expect(said).toEqual(said.toSorted((a, b) => a - b));
      expect(said[0]).toBe(0);
    }
    expect(new Set(ferry.trips.map((trip) => trip.pid))).toEqual(new Set([pid]));
    expect(ferry.trips.map(({ trip }) => trip)).toEqual(ferry.trips.map((_, index) => index + 1));
    const last = ferry.trips.at(-1);
    expect(names).toContainEqual([last?.bow, last?.stern]);
    ends[last?.bow === names[0]?.[0] ? 'before' : 'after'] += 1;
  }
  console.log(`${ends.before} times the old version went on, ${ends.after} times the new one`);
  // While the next one builds, also what does not compile, the program goes on.
  const orphan = ferry;
  const text = orphan?.server.read(MAIN) ?? '';
  orphan?.server.save(MAIN, text.replace('"bow-', '5 "bow-'));
  const next = launchServer(directory, { folder: 'boat' });
  await next.next(({ event }) => event === 'failed');
  expect(await orphan?.ask()).toMatchObject({ stern: expect.stringMatching(/^stern-/) });
  expect(await next.close()).toBe(130);
  expect(await orphan?.ask()).toMatchObject({ stern: expect.stringMatching(/^stern-/) });
  orphan?.server.save(MAIN, text);
  ferry = await openFerry(directory);
  expect(ferry.server.events).toContainEqual(
    expect.objectContaining({ text: expect.stringMatching(/^ended process \d+, which ran on after its hotslot/) }),
  );
  expect(await ferry.ask()).toMatchObject({ trip: 0, bow: `bow-${3 * ROUNDS - 1}`, stern: `stern-${3 * ROUNDS - 1}` });
});
