// A reader, and real files to mutate, in; out comes how many mutated inputs it found malformed, or the first bug: another
// error than MalformedError, an offset outside the file, a hang.
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { MalformedError } from '../dist/object/bytes.js';

const SLOW_MS = 2000;

/**
 * `inputs` are `{ name, bytes }`, `mutate(input, random)` gives new bytes, `read(bytes, name)` is what is tested. Returns
 * how many of `count` inputs were malformed; throws at the first bug, with the seed and the run that repeat it.
 */
export function fuzzReader({ inputs, mutate, read }, count, seed) {
  const random = generator(seed);
  let malformed = 0;
  for (let run = 0; run < count; run++) {
    const input = inputs[random(inputs.length)];
    const mutated = mutate(input, random);
    const place = `${input.name}, mutated: seed ${seed}, run ${run}`;
    const started = performance.now();
    try {
      read(mutated, input.name);
    } catch (error) {
      if (!(error instanceof MalformedError)) throw new Error(place, { cause: error });
      if (!(error.offset >= 0 && error.offset <= mutated.length)) {
        throw new Error(`${place}: an offset outside the file`, { cause: error });
      }
      malformed++;
    }
    const ms = performance.now() - started;
    if (ms > SLOW_MS) throw new Error(`${place}: took ${Math.round(ms)} ms`);
  }
  return malformed;
}

/** Runs `fuzz(count, seed)` by the flags of the command line, when the script at `url` was started from there. */
export function runFromCommandLine(url, fuzz) {
  if (process.argv[1] !== fileURLToPath(url)) return;
  const { values } = parseArgs({ options: { count: { type: 'string' }, seed: { type: 'string' } } });
  const count = Number(values.count ?? 10_000);
  const seed = Number(values.seed ?? Date.now() % 1_000_000);
  console.log(`seed ${seed}`);
  console.log(`${count} inputs read, ${fuzz(count, seed)} of them malformed`);
}

/** A linear congruential generator modulo 2^31; gives numbers below `limit`. */
function generator(seed) {
  let state = seed & 0x7fffffff;
  return (limit) => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return Math.floor((state / 0x80000000) * limit);
  };
}
