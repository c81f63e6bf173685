// Real objects in, their debug sections mutated; out comes the first one on which the DWARF reader, or the comparison of
// layouts, does anything but read it or throw a MalformedError.
//
//   npx tsc -b && node fuzz/dwarf.js [--count 10000] [--seed 1]
import { readFileSync } from 'node:fs';

import { layoutRefusal, signatureOf } from '../dist/link/layout.js';
import { debugFile } from '../dist/object/debugfile.js';
import { debugInfo } from '../dist/object/dwarf.js';
import { readElfObject } from '../dist/object/elfobject.js';
import { readObject } from '../dist/object/linking.js';
import { fuzzReader, runFromCommandLine } from './reader.js';

const FIXTURE = new URL('../test/fixtures/elf/debug.o', import.meta.url);
const SECTIONS = ['info', 'abbrev', 'str', 'str_offsets', 'types', 'line_str'].map((name) => `.debug_${name}`);
const EDGES = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_fff0, 0xffff_ffff];

/**
 * Runs `count` mutations of objects, `{ name, bytes }`, and returns how many were malformed; throws at the first bug, which
 * its message repeats.
 */
export function fuzzDwarf(count, seed, objects = [{ name: 'debug.o', bytes: new Uint8Array(readFileSync(FIXTURE)) }]) {
  const inputs = objects.map(({ name, bytes }) => {
    const original = readAny(bytes, name);
    const found = SECTIONS.flatMap((section) => debugFile(original).sections(section));
    const sections = found.map((section) => ({ offset: section.offset, sizeBytes: section.bytes.length }));
    return { name, bytes, sections: [...sections, ...relocationsOf(original)], original };
  });
  const byName = new Map(inputs.map((input) => [input.name, input.original]));
  const read = (bytes, name) => readEverything(readAny(bytes, name), byName.get(name));
  return fuzzReader({ inputs, mutate, read }, count, seed);
}

function readAny(bytes, name) {
  return bytes[0] === 0 ? readObject(bytes, name) : readElfObject(bytes, name);
}

function relocationsOf({ elf }) {
  return elf?.sections.filter(({ name }) => name === '.rela.debug_info') ?? [];
}

function readEverything(object, original) {
  // Says itself what it cannot read.
  layoutRefusal([original], [object], [{ after: { object } }]);
  const info = debugInfo(object);
  for (const name of info?.typeNames ?? []) info.typesNamed(name).forEach(readType);
  for (const name of info?.functions.keys() ?? []) signatureOf(object, name);
  for (const { type } of info?.statics ?? []) readType(type);
}

function readType({ name, members, variantPart, values, count, target }) {
  return [name, members, variantPart, values, count, target].length;
}

/** One to three edits of a debug section: a byte, a word, bytes moved. */
function mutate({ bytes, sections }, random) {
  const result = bytes.slice();
  const view = new DataView(result.buffer);
  for (let edits = 1 + random(3); edits > 0; edits--) {
    const { offset, sizeBytes } = sections[random(sections.length)];
    const at = offset + random(sizeBytes);
    switch (random(4)) {
      case 0:
        result[at] = random(256);
        break;
      case 1:
        result[at] ^= 1 << random(8);
        break;
      case 2:
        if (at + 4 <= result.length) view.setUint32(at, EDGES[random(EDGES.length)], true);
        break;
      default: {
        const from = offset + random(sizeBytes);
        const length = Math.min(random(64), offset + sizeBytes - Math.max(from, at));
        result.copyWithin(at, from, from + length);
      }
    }
  }
  return result;
}

runFromCommandLine(import.meta.url, fuzzDwarf);
