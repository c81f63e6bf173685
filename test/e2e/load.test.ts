// A server under load, with a WebSocket, an event stream and a TCP connection open, patched 200 times: nobody notices
// anything but the new versions, each of them in its turn.
import { expect, test } from 'vitest';
import { patchUnderLoad } from '../../bench/load.js';

const PATCHES = 200;

// How fast it goes is printed, not asserted: that is the machine's.
test(`${PATCHES} patches under load`, { timeout: 900_000 }, async () => {
  const { figures, perSecond, failures } = await patchUnderLoad({ patches: PATCHES, name: 'e2e' });
  const { requests, max_latency_ms: latency, resident_growth_kb_per_patch: growth } = figures;
  console.log(
    `${requests} requests, ${perSecond} a second, ${latency} ms at worst; ${growth} kB more memory for each patch`,
  );
  expect(failures).toEqual([]);
  expect(figures).toMatchObject({ patches: PATCHES, failed: 0, dropped_sockets: 0 });
});
