// The parts of native linking that need no compiler: objects of rustc's taken apart, stubs put in, thread-locals relaxed.
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { Comparison, definitionOf } from '../src/link/diff.ts';
import { PreparedObjects, stubObjects } from '../src/link/stubs.ts';
import type { Resolved } from '../src/link/target.ts';
import { relaxThreadLocals } from '../src/link/threadlocals.ts';
import type { ObjectFile } from '../src/model.ts';
import { readElfObject } from '../src/object/elfobject.ts';
import { meansStart, readElfParts } from '../src/object/elfparts.ts';
import { frameIndex, joinFrames, placeFrame, readFrames } from '../src/object/frames.ts';
import { x86_64, x86_64Kind } from '../src/object/x86_64.ts';

const bytesOf = (name: string): Uint8Array => readFileSync(new URL(`fixtures/elf/${name}.o`, import.meta.url));
const FIXTURES = ['debug', 'release', 'static'];

describe.each(FIXTURES)('%s', (name) => {
  const bytes = bytesOf(name);
  const parts = readElfParts(bytes, name);
  const whole = readElfObject(bytes, name);

  test('every relocation names a function or data, and the place that it named before', () => {
    for (const atom of parts.atoms) {
      for (const { symbol } of atom.relocations) expect(parts.symbols[symbol]?.kind).not.toBe('section');
    }
    // Places are compared as section and offset, which pieces of merged sections do not move.
    const starts = new Map<number, number>();
    for (const old of whole.atoms) {
      let at = 0;
      for (const one of parts.atoms) {
        if (one.name !== old.name || one.bytes.buffer !== old.bytes.buffer) continue;
        if (one.sizeBytes !== 0) starts.set(one.index, one.bytes.byteOffset - old.bytes.byteOffset);
        at += one.sizeBytes;
      }
      if (old.name !== '.eh_frame') expect(at).toBe(old.sizeBytes);
    }
    for (const atom of parts.atoms) {
      const before = whole.atoms.find((old) => old.name === atom.name);
      for (const [index, { symbol, addend }] of atom.relocations.entries()) {
        const old = before?.relocations[index];
        const was = old && whole.symbols[old.symbol];
        const is = parts.symbols[symbol];
        if (old === undefined || was?.atom === undefined || is?.atom === undefined) continue;
        expect((starts.get(is.atom) ?? 0) + is.offset + addend).toBe(was.offset + old.addend);
        expect(parts.atoms[is.atom]?.name).toBe(whole.atoms[was.atom]?.name);
      }
    }
  });

  test('constants that linkers merge are parts of their own', () => {
    const texts = parts.atoms.filter((atom) => atom.name.startsWith('.rodata.str'));
    for (const text of texts) expect(text.bytes.indexOf(0)).toBe(text.bytes.length - 1);
    for (const atom of parts.atoms.filter((one) => one.name === '.rodata.cst16')) expect(atom.sizeBytes).toBe(16);
  });

  test('functions have their unwind entries, which survive a table of our own', () => {
    const functions = parts.atoms.filter((atom) => atom.kind === 'code' && atom.sizeBytes > 0);
    for (const { unwind } of functions) expect(unwind?.map(({ codeOffset }) => codeOffset)).toEqual([0]);
    const entries = functions.flatMap(({ unwind = [] }) => unwind);
    const table = joinFrames(entries);
    const view = new DataView(table.bytes.buffer, table.bytes.byteOffset);
    const start = 0x1000;
    const index = table.fdes.map(({ offset }, at) => {
      placeFrame(view, offset, start + offset, 0x8000 + 16 * at);
      return { codeAddress: 0x8000 + 16 * at, frameAddress: start + offset };
    });
    // The same reader needs to be told what a linker would have resolved: where the code is.
    const code = table.fdes.map(({ offset }, symbol) => ({ offset: offset + 4, kind: 2, symbol, addend: 0 }));
    const again = readFrames(table.bytes, code, 'joined');
    expect(again.map(({ code: { symbol } }) => symbol)).toEqual(entries.map((_, at) => at));
    for (const [at, { cie, fde }] of again.entries()) {
      const entry = entries[at];
      expect(cie.bytes.subarray(4, entry?.cie.bytes.length)).toEqual(entry?.cie.bytes.subarray(4));
      expect(fde.bytes.subarray(8, entry?.fde.bytes.length)).toEqual(entry?.fde.bytes.subarray(8));
    }
    const header = frameIndex(0x500, start, index.toReversed());
    const words = new DataView(header.buffer, header.byteOffset);
    for (const [at, { codeAddress, frameAddress }] of index.entries()) {
      expect(0x500 + words.getInt32(12 + 8 * at, true)).toBe(codeAddress);
      expect(0x500 + words.getInt32(16 + 8 * at, true) + 4).toBe(frameAddress);
    }
  });

  test('an object equals itself, read anew', () => {
    const again: ObjectFile = readElfParts(bytesOf(name), name);
    const rules = { width: (kind: number) => x86_64Kind(kind)?.width ?? 0, namesSignature: () => false };
    const comparison = new Comparison(rules);
    expect(comparison.changes([parts], [again]).changes).toEqual([]);
    for (const [index, symbol] of parts.symbols.entries()) {
      const one = definitionOf(parts, symbol);
      const other = again.symbols[index];
      const two = other && definitionOf(again, other);
      if (one === undefined || two === undefined) continue;
      expect(comparison.key(parts, one.atom)).toBe(comparison.key(again, two.atom));
    }
  });

  test('stubs put in ahead are those that are put in when all is there, unless the object has changed', () => {
    const source = { name, stamp: 'one', bytes: () => bytesOf(name) };
    const prepared = new PreparedObjects();
    prepared.add(source);
    const unread = { ...source, bytes: () => expect.unreachable('what was prepared is not read again') };
    expect(stubObjects([unread], prepared)).toEqual(stubObjects([source]));
    prepared.add({ ...source, bytes: () => bytesOf(FIXTURES.find((other) => other !== name) ?? '') });
    expect(stubObjects([{ ...source, stamp: 'two' }], prepared)).toEqual(stubObjects([source]));
  });

  test('stubs take the functions’ names, and slots begin with the functions', () => {
    const stubbed = stubObjects([{ name, stamp: '', bytes: () => bytesOf(name) }]);
    const object = readElfObject(new Uint8Array(Buffer.concat(stubbed.rewrite.objects.get(name) ?? [])), name);
    const added = readElfObject(stubbed.rewrite.added.get('hotslot-stubs.o') ?? new Uint8Array(), 'stubs');
    const find = (file: typeof object, wanted: string) => file.symbols.find((symbol) => symbol.name === wanted);
    expect(stubbed.slots.map((slot) => slot.name)).not.toContain('main');
    expect(stubbed.slots.map((slot) => slot.name)).toContain('visible');
    const [stubs, slots] = ['.text.hotslot', '.data.hotslot'].map((one) =>
      added.atoms.find((atom) => atom.name === one),
    );
    expect(slots?.sizeBytes).toBe(8 * stubbed.slotCount);
    expect(stubs?.sizeBytes).toBe(8 * stubbed.slotCount);
    for (const [slot, { name: own, isLocal }] of stubbed.slots.entries()) {
      const stubName = isLocal ? `${own}.${name}` : own;
      expect(find(added, stubName)).toMatchObject({ offset: 8 * slot, atom: stubs?.index });
      expect(find(object, stubName)?.atom).toBeUndefined();
      const body = find(object, `${stubName}.impl`);
      expect(body).toMatchObject({ offset: 0, binding: 'global', visibility: 'hidden' });
      const start = slots?.relocations.find(({ offset }) => offset === 8 * slot);
      expect(added.symbols[start?.symbol ?? -1]?.name).toBe(`${stubName}.impl`);
      const jump = stubs?.relocations[slot];
      expect(jump).toMatchObject({ offset: 8 * slot + 2, addend: 8 * slot - 4 });
    }
    // What means a function as such goes to its stub; unwind tables and jump tables stay with the body.
    const bodies = new Set(stubbed.slots.map(({ name: own, isLocal }) => `${isLocal ? `${own}.${name}` : own}.impl`));
    for (const atom of object.atoms.filter((one) => one.name !== '.eh_frame')) {
      for (const relocation of atom.relocations) {
        const symbol = object.symbols[relocation.symbol];
        const holds =
          symbol?.type === 'section' && object.symbols.some((one) => one.atom === symbol.atom && bodies.has(one.name));
        if (symbol !== undefined && (holds || bodies.has(symbol.name)))
          expect(meansStart(atom, relocation)).toBe(false);
      }
    }
  });
});

describe('thread-locals', () => {
  const resolved = (kind: { readonly number: number }, offset: number): Resolved => ({
    offset,
    kind: kind.number,
    addend: -4,
    means: 'address',
    value: -64,
  });
  const call = resolved(x86_64.R_X86_64_PLT32, 0);

  // Drepper, figures 20 and 21; the second form of each is that of -fno-plt.
  test.each([
    [[0x66, 0x48, 0x8d, 0x3d, 0, 0, 0, 0, 0x66, 0x66, 0x48, 0xe8, 0, 0, 0, 0], 12],
    [[0x66, 0x48, 0x8d, 0x3d, 0, 0, 0, 0, 0x66, 0x48, 0xff, 0x15, 0, 0, 0, 0], 12],
  ])('by name: asked for once, then known', (sequence, field) => {
    const code = Uint8Array.from([0x90, ...sequence, 0xc3]);
    const left = relaxThreadLocals(code, [resolved(x86_64.R_X86_64_TLSGD, 5), { ...call, offset: 13 }]);
    const expected = [0x90, 0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x48, 0x8d, 0x80, 0, 0, 0, 0, 0xc3];
    expect([...code]).toEqual(expected);
    expect(left).toEqual([{ ...resolved(x86_64.R_X86_64_TPOFF32, field + 1), addend: 0 }]);
  });

  test.each([
    [[0x48, 0x8d, 0x3d, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0], 9],
    [[0x48, 0x8d, 0x3d, 0, 0, 0, 0, 0xff, 0x15, 0, 0, 0, 0], 10],
  ])('by the module: only the offsets are left', (sequence, field) => {
    const code = Uint8Array.from([0x90, ...sequence, 0xc3]);
    const offset = { ...resolved(x86_64.R_X86_64_DTPOFF32, 20), addend: 0 };
    const left = relaxThreadLocals(code, [resolved(x86_64.R_X86_64_TLSLD, 4), { ...call, offset: field }, offset]);
    const load = [0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0];
    expect([...code]).toEqual([0x90, ...Array(sequence.length - load.length).fill(0x66), ...load, 0xc3]);
    expect(left).toEqual([offset]);
  });

  test('in code of another form, not at all', () => {
    const code = new Uint8Array(32);
    expect(() => relaxThreadLocals(code, [resolved(x86_64.R_X86_64_TLSGD, 8)])).toThrow('thread-local');
  });
});
