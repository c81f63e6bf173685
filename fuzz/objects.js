// Real objects, modules and archives in, mutated; out comes the first input on which a reader does anything but read it
// or throw a MalformedError: another error, a hang, memory beyond reason.
//
//   npx tsc -b && node fuzz/objects.js [--count 10000] [--seed 1]
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import {
  customSection,
  functionNames,
  MalformedError,
  readArchive,
  readModule,
  readObject,
  readRelocations,
  rewriteIndices,
  section,
  walkBody,
  writeModule,
} from '../dist/object/index.js';

const FIXTURES = new URL('../test/fixtures/object/', import.meta.url);
const SLOW_MS = 2000;

/** Bytes at which encodings change their meaning. */
const EDGES = [0x00, 0x01, 0x3f, 0x40, 0x7f, 0x80, 0xfc, 0xfd, 0xfe, 0xff];

/** Runs `count` mutated inputs and returns how many were malformed; throws at the first bug, which its message repeats. */
export function fuzzObjects(count, seed) {
  const random = generator(seed);
  const inputs = readdirSync(FIXTURES)
    .filter((name) => /\.(o|a|rlib|wasm)$/.test(name))
    .map((name) => ({ name, bytes: new Uint8Array(readFileSync(new URL(name, FIXTURES))) }));
  let malformed = 0;
  for (let run = 0; run < count; run++) {
    const { name, bytes } = inputs[random(inputs.length)];
    const mutated = mutate(bytes, inputs[random(inputs.length)].bytes, random);
    const started = performance.now();
    try {
      readEverything(mutated, name);
    } catch (error) {
      if (!(error instanceof MalformedError)) {
        throw new Error(`${name}, mutated: seed ${seed}, run ${run}`, { cause: error });
      }
      if (!(error.offset >= 0 && error.offset <= mutated.length)) {
        throw new Error(`${name}, mutated: seed ${seed}, run ${run}: an offset outside the file`, { cause: error });
      }
      malformed++;
    }
    const ms = performance.now() - started;
    if (ms > SLOW_MS) throw new Error(`${name}, mutated: seed ${seed}, run ${run}: took ${Math.round(ms)} ms`);
  }
  return malformed;
}

function readEverything(bytes, name) {
  if (bytes[0] !== 0x21) return readWasm(bytes, name);
  for (const member of readArchive(bytes, name).members) readWasm(member.bytes, `${name}(${member.name})`);
}

function readWasm(bytes, name) {
  const module = readModule(bytes, name);
  writeModule(module);
  functionNames(module);
  for (const { kind, name: custom, bytes: content, offset } of module.sections) {
    if (kind === 'custom' && custom.startsWith('reloc.')) readRelocations(content, name, offset);
  }
  for (const body of section(module, 'code')?.bodies ?? []) {
    const origin = body.byteOffset - bytes.byteOffset;
    walkBody(body, {}, name, origin);
    rewriteIndices(body, (_space, index) => index);
  }
  if (customSection(module, 'linking') !== undefined) readObject(bytes, name);
}

/** One to three edits: bytes changed, removed, repeated, or taken from another file; or the end cut off. */
function mutate(bytes, other, random) {
  let result = bytes.slice();
  for (let edits = 1 + random(3); edits > 0 && result.length > 0; edits--) {
    const at = random(result.length);
    const length = 1 + random(Math.min(16, result.length - at));
    switch (random(6)) {
      case 0:
        result[at] = random(256);
        break;
      case 1:
        result[at] = EDGES[random(EDGES.length)];
        break;
      case 2:
        result = join(result.subarray(0, at), result.subarray(at + length));
        break;
      case 3:
        result = join(result.subarray(0, at + length), result.subarray(at));
        break;
      case 4: {
        const from = random(other.length);
        result.set(other.subarray(from, from + Math.min(length, other.length - from)), at);
        break;
      }
      default:
        if (random(8) === 0) result = result.slice(0, at);
        break;
    }
  }
  return result;
}

function join(before, after) {
  const joined = new Uint8Array(before.length + after.length);
  joined.set(before);
  joined.set(after, before.length);
  return joined;
}

/** A linear congruential generator modulo 2^31; gives numbers below `limit`. */
function generator(seed) {
  let state = seed & 0x7fffffff;
  return (limit) => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return Math.floor((state / 0x80000000) * limit);
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { count: { type: 'string' }, seed: { type: 'string' } } });
  const count = Number(values.count ?? 10_000);
  const seed = Number(values.seed ?? Date.now() % 1_000_000);
  console.log(`seed ${seed}`);
  console.log(`${count} inputs read, ${fuzzObjects(count, seed)} of them malformed`);
}
