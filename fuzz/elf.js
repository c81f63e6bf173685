// Real ELF objects, programs and archives in, mutated; out comes the first input on which a reader does anything but read
// it or throw a MalformedError (another error, a hang, memory beyond reason), or that is written back as something else.
//
//   npx tsc -b && node fuzz/elf.js [--count 10000] [--seed 1]
import { readdirSync, readFileSync } from 'node:fs';

import { readArchive } from '../dist/object/archive.js';
import { ET_REL, readElf, writeElf } from '../dist/object/elf.js';
import { ElfEditor } from '../dist/object/elfeditor.js';
import { readElfImage } from '../dist/object/elfimage.js';
import { readElfObject } from '../dist/object/elfobject.js';
import { fuzzReader, runFromCommandLine } from './reader.js';

const FIXTURES = new URL('../test/fixtures/elf/', import.meta.url);

/** What sizes, counts, offsets and indices are when they are wrong. */
const EDGES = [
  0n,
  1n,
  2n,
  0x7fn,
  0xffn,
  0xff00n,
  0xfff1n,
  0xfff2n,
  0xffffn,
  0x7fff_ffffn,
  0xffff_ffffn,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 1n,
];

/** Runs `count` mutated inputs and returns how many were malformed; throws at the first bug, which its message repeats. */
export function fuzzElf(count, seed) {
  const inputs = readdirSync(FIXTURES).flatMap((name) =>
    elfsIn(name, new Uint8Array(readFileSync(new URL(name, FIXTURES)))),
  );
  return fuzzReader(
    { inputs, mutate: ({ bytes }, random) => mutate(bytes, random), read: readEverything },
    count,
    seed,
  );
}

function elfsIn(name, bytes) {
  if (bytes[0] === 0x7f) return [{ name, bytes }];
  if (bytes[0] !== 0x21) return [];
  return readArchive(bytes, name).members.map((member) => ({ name: `${name}(${member.name})`, bytes: member.bytes }));
}

function readEverything(bytes, name) {
  const elf = readElf(bytes, name);
  if (Buffer.compare(writeElf(elf), bytes) !== 0) throw new Error('what was read is written as something else');
  if (elf.header.type === ET_REL) readAndEdit(bytes, name);
  else readElfImage(bytes, name).relocations();
}

function readAndEdit(bytes, name) {
  for (const section of readElfObject(bytes, name).sections) section.relocations();
  const editor = new ElfEditor(bytes, name);
  const { symbols } = editor;
  if (symbols.length === 0) return;
  editor.replace(symbols.length - 1, { ...symbols.at(-1), name: 'renamed' });
  const added = editor.add({ ...symbols.at(-1), name: 'added', binding: 'global' });
  for (let section = 0; section < editor.sectionCount; section++) {
    editor.sectionName(section);
    if (editor.relocated(section) === undefined) continue;
    editor.redirect(section, new Uint32Array(symbols.length).fill(added), ({ addend }) => addend === 0);
  }
  editor.finish();
}

/** One to three edits: a field of a table or a header, a byte anywhere, bytes moved; or the end cut off. */
function mutate(bytes, random) {
  const result = bytes.slice();
  const view = new DataView(result.buffer);
  const tables = [0, Number(view.getBigUint64(40, true)), Number(view.getBigUint64(32, true))];
  for (let edits = 1 + random(3); edits > 0; edits--) {
    const at = random(result.length);
    switch (random(5)) {
      case 0:
        result[at] = random(256);
        break;
      case 1:
        setField(view, at & ~3, random);
        break;
      case 2:
      case 3:
        setField(view, tables[random(tables.length)] + 4 * random(64), random);
        break;
      default:
        if (random(8) === 0) return result.slice(0, at);
        result.copyWithin(at, random(result.length), random(result.length));
        break;
    }
  }
  return result;
}

function setField(view, at, random) {
  const value = EDGES[random(EDGES.length)] + BigInt(random(3) - 1);
  const width = [2, 4, 8][random(3)];
  if (at + width > view.byteLength) return;
  if (width === 2) view.setUint16(at, Number(value & 0xffffn), true);
  else if (width === 4) view.setUint32(at, Number(value & 0xffff_ffffn), true);
  else view.setBigUint64(at, value, true);
}

runFromCommandLine(import.meta.url, fuzzElf);
