// Real objects, modules and archives in, mutated; out comes the first input on which a reader does anything but read it
// or throw a MalformedError: another error, a hang, memory beyond reason.
//
//   npx tsc -b && node fuzz/objects.js [--count 10000] [--seed 1]
import { readdirSync, readFileSync } from 'node:fs';

import {
  customSection,
  functionNames,
  readArchive,
  readModule,
  readObject,
  readRelocations,
  rewriteIndices,
  section,
  walkBody,
  writeModule,
} from '../dist/object/index.js';
import { fuzzReader, runFromCommandLine } from './reader.js';

const FIXTURES = new URL('../test/fixtures/object/', import.meta.url);

/** Bytes at which encodings change their meaning. */
const EDGES = [0x00, 0x01, 0x3f, 0x40, 0x7f, 0x80, 0xfc, 0xfd, 0xfe, 0xff];

/** Runs `count` mutated inputs and returns how many were malformed; throws at the first bug, which its message repeats. */
export function fuzzObjects(count, seed) {
  const inputs = readdirSync(FIXTURES)
    .filter((name) => /\.(o|a|rlib|wasm)$/.test(name))
    .map((name) => ({ name, bytes: new Uint8Array(readFileSync(new URL(name, FIXTURES))) }));
  return fuzzReader(
    {
      inputs,
      mutate: ({ bytes }, random) => mutate(bytes, inputs[random(inputs.length)].bytes, random),
      read: readEverything,
    },
    count,
    seed,
  );
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

runFromCommandLine(import.meta.url, fuzzObjects);
