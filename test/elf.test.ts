// The ELF part of the object stage on what rustc, gcc, GNU ld and lld wrote: read, written back, relocated as linkers do,
// changed, and broken. Objects of our own go through both linkers and run.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import * as fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';

import { fuzzElf } from '../fuzz/elf.js';
import { readArchive } from '../src/object/archive.ts';
import { MalformedError } from '../src/object/bytes.ts';
import {
  type Elf,
  ET_EXEC,
  ET_REL,
  readElf,
  sectionsOf,
  SHF_ALLOC,
  SHF_EXECINSTR,
  SHF_MERGE,
  SHF_STRINGS,
  SHF_TLS,
  SHF_WRITE,
  SHN_LORESERVE,
  SHT_NOBITS,
  SHT_STRTAB,
  SHT_SYMTAB,
  SHT_SYMTAB_SHNDX,
  SHT_X86_64_UNWIND,
  writeElf,
} from '../src/object/elf.ts';
import { ElfEditor } from '../src/object/elfeditor.ts';
import { bytesAt, type ElfImage, readElfImage } from '../src/object/elfimage.ts';
import { type ElfObject, readElfObject } from '../src/object/elfobject.ts';
import { type ElfSymbolEntry, readGroup, readRelocationEntries, readSymbols } from '../src/object/elfsymbols.ts';
import { writeElfObject } from '../src/object/elfwriter.ts';
import {
  applyRelocation,
  fitsRelocation,
  RelocationError,
  relocationValue,
  type RelocationValues,
  x86_64,
  x86_64Kind,
} from '../src/object/x86_64.ts';

const FIXTURES = new URL('fixtures/elf/', import.meta.url);
const SOURCE = fileURLToPath(new URL('tiny.rs', FIXTURES));
const read = (name: string): Uint8Array => new Uint8Array(readFileSync(new URL(name, FIXTURES)));
const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset);
const object = (name: string): ElfObject => readElfObject(read(name), name);
const image = (name: string): ElfImage => readElfImage(read(name), name);

const members = readArchive(read('libtiny.rlib'), 'libtiny.rlib').members;

/** Every ELF file among the fixtures, those in archives included. */
const files: [string, Uint8Array][] = [
  ...readdirSync(FIXTURES)
    .map((name): [string, Uint8Array] => [name, read(name)])
    .filter(([, bytes]) => bytes[0] === 0x7f),
  ...members.map(({ name, bytes }): [string, Uint8Array] => [`libtiny.rlib(${name})`, bytes]),
];
const objects = files.filter(([name, bytes]) => readElf(bytes, name).header.type === ET_REL);

const scratch = mkdtempSync(join(tmpdir(), 'hotslot-elf-'));
afterAll(() => rmSync(scratch, { recursive: true }));

function save(name: string, bytes: Uint8Array): string {
  const path = join(scratch, name);
  writeFileSync(path, bytes);
  return path;
}

/** The first of the commands that is installed. */
function tool(install: string, ...names: string[]): string {
  const found = names.find((name) => spawnSync(name, ['--version']).status === 0);
  return found ?? expect.fail(`${names[0]} is missing; install it: ${install}`);
}

const linkers: [string, () => string][] = [
  ['GNU ld', () => tool('apt-get install binutils', 'ld.bfd')],
  ['lld', () => tool('apt-get install lld', 'ld.lld', 'ld.lld-22', 'ld.lld-21', 'ld.lld-20', 'ld.lld-19')],
];

function rustc(...args: string[]): void {
  const command = tool("curl --proto '=https' https://sh.rustup.rs | sh", 'rustc');
  execFileSync(command, ['--edition=2021', '-Ccodegen-units=1', ...args], { cwd: scratch, stdio: 'pipe' });
}

/** Compared at once: a list of a million numbers is slow to compare and useless to print. */
function expectSame(actual: Uint8Array, expected: Uint8Array): void {
  if (Buffer.compare(actual, expected) === 0) return;
  const at = expected.findIndex((byte, index) => byte !== actual[index]);
  expect.fail(`differs at offset ${at} (${actual.length} bytes, not ${expected.length})`);
}

function thrown<T extends Error>(type: new (...args: never[]) => T, run: () => unknown): T {
  try {
    run();
  } catch (error) {
    if (error instanceof type) return error;
    throw error;
  }
  return expect.fail('nothing was thrown');
}

function symbolTable(elf: Elf): ElfSymbolEntry[] {
  const [table] = sectionsOf(elf, SHT_SYMTAB);
  return table === undefined ? [] : readSymbols(elf, table);
}

/** Every relocation by names and places, not by indices: what an edit that only moves symbols has to keep. */
function references(of: ElfObject, rename = (name: string): string => name): string[] {
  const list = (owner: string, relocations: ElfObject['atoms'][number]['relocations']): string[] =>
    relocations.map(({ offset, kind, symbol, addend }) => {
      const { name = '', offset: place = 0, section } = of.symbols[symbol] ?? {};
      return `${owner}+${offset} ${kind} ${rename(name)}=${section}+${place} ${addend}`;
    });
  return [
    ...of.atoms.flatMap((atom) => list(`${atom.section}`, atom.relocations)),
    ...of.sections.flatMap((section) => list(`${section.section}`, section.relocations())),
  ];
}

describe('reading and writing', () => {
  test.each(files)('%s is written as it was', (name, bytes) => {
    expectSame(writeElf(readElf(bytes, name)), bytes);
  });

  test('bytes that nothing covers are kept', () => {
    const bytes = new Uint8Array([...read('pie'), 1, 2, 3]);
    const elf = readElf(bytes, 'pie');
    expect(elf.gaps).toMatchObject([{ offset: bytes.length - 3 }]);
    expectSame(writeElf(elf), bytes);
  });

  test('a program without section headers', () => {
    const bytes = read('pie');
    view(bytes).setBigUint64(40, 0n, true);
    view(bytes).setUint32(58, 0, true);
    view(bytes).setUint32(60, 0, true);
    const stripped = readElfImage(bytes, 'stripped');
    expect(stripped.sections).toEqual([]);
    expect(stripped.buildId).toBe(image('pie').buildId);
    expect(stripped.segments.slice(1)).toEqual(image('pie').segments.slice(1));
    expect(stripped.byName.size).toBe(0);
    expectSame(writeElf(stripped.elf), bytes);
  });

  test('more sections than a 16-bit index can name', () => {
    const count = 0x1_0010;
    const bytes = writeElfObject({
      sections: Array.from({ length: count }, (_, index) => ({
        name: `.s${index % 10}`,
        flags: SHF_ALLOC,
        alignment: 1,
        bytes: Uint8Array.of(index & 0xff),
      })),
      symbols: [{ ...defined, name: 'last', section: count - 1, value: 1 }],
    });
    const elf = readElf(bytes, 'many');
    expect(elf.sections.length).toBeGreaterThan(count);
    expect(elf.sections[0]).toMatchObject({ sizeBytes: elf.sections.length });
    expect(sectionsOf(elf, SHT_SYMTAB_SHNDX)).toHaveLength(1);
    expectSame(writeElf(elf), bytes);
    const { atoms, symbols } = readElfObject(bytes, 'many');
    expect(atoms[symbols[1]?.atom ?? 0]).toMatchObject({ name: '.s1', bytes: Uint8Array.of((count - 1) & 0xff) });
    execFileSync(tool('apt-get install binutils', 'readelf'), ['--syms', save('many.o', bytes)], { stdio: 'pipe' });
  });
});

const defined = {
  binding: 'global',
  type: 'none',
  visibility: 'default',
  section: 0,
  value: 0,
  sizeBytes: 0,
} as const satisfies Omit<ElfSymbolEntry, 'name'>;

describe('objects', () => {
  test.each(objects)('%s: symbols, atoms and relocations agree', (name, bytes) => {
    const { atoms, symbols, sections } = readElfObject(bytes, name);
    for (const [index, atom] of atoms.entries()) {
      expect(atom.index).toBe(index);
      const offsets = atom.relocations.map(({ offset }) => offset);
      expect(offsets).toEqual(offsets.toSorted((a, b) => a - b));
      for (const { kind } of atom.relocations) expect(x86_64Kind(kind)?.width).toBeDefined();
    }
    for (const symbol of symbols) {
      if (symbol.kind === 'section' && symbol.atom !== undefined) expect(symbol.name).toBe(atoms[symbol.atom]?.name);
      if (symbol.atom !== undefined) expect(symbol.section).toBe(atoms[symbol.atom]?.section);
    }
    for (const { section } of sections) expect(atoms.some((atom) => atom.section === section)).toBe(false);
  });

  test('a debug build', () => {
    const { atoms, symbols, sections } = object('debug.o');
    const kindOf = (pattern: RegExp): (string | number)[][] =>
      atoms
        .filter(({ name }) => pattern.test(name))
        .map(({ kind, sizeBytes, bytes }) => [kind, sizeBytes, bytes.length]);
    expect(kindOf(/^\.text\.visible$/)).toEqual([['code', 686, 686]]);
    expect(kindOf(/^\.data\..*HITS/)).toEqual([['data', 4, 4]]);
    expect(kindOf(/^\.bss\..*COUNTS/)).toEqual([['zero', 256, 0]]);
    expect(kindOf(/^\.data\.rel\.ro\..*NAMES/)).toEqual([['constant', 48, 48]]);
    expect(kindOf(/^\.tdata\..*DEPTH/)[0]).toEqual(['tls', 4, 4]);
    expect(kindOf(/^\.tbss\..*ZERO/)[0]).toEqual(['tls', 8, 0]);
    expect(atoms.find(({ name }) => name === '.eh_frame')).toMatchObject({ kind: 'constant', type: SHT_X86_64_UNWIND });
    expect(atoms.find(({ name }) => name === '.rodata.str1.1')).toMatchObject({
      flags: SHF_ALLOC | SHF_MERGE | SHF_STRINGS,
      entrySize: 1,
    });
    expect(atoms.filter(({ comdat }) => comdat !== undefined)).toMatchObject([
      { name: '.data.DW.ref.rust_eh_personality', comdat: 'DW.ref.rust_eh_personality' },
    ]);

    const named = (name: string): unknown => symbols.find((symbol) => symbol.name === name);
    expect(named('visible')).toMatchObject({ kind: 'function', binding: 'global', exported: true, sizeBytes: 686 });
    expect(named('DW.ref.rust_eh_personality')).toMatchObject({ kind: 'data', binding: 'weak', visibility: 'hidden' });
    expect(named('rust_eh_personality')).toMatchObject({ binding: 'global', type: 'none', offset: 0 });
    expect(named('rust_eh_personality')).not.toHaveProperty('atom');
    expect(symbols.find(({ type }) => type === 'file')).toMatchObject({ isAbsolute: true, binding: 'local' });

    const info = sections.find(({ name }) => name === '.debug_info');
    expect(info?.bytes.length).toBeGreaterThan(10_000);
    const targets = new Set(info?.relocations().map(({ symbol }) => symbols[symbol]?.name));
    expect(targets).toContain('.debug_str');
    expect(targets).toContain('.text.visible');
  });

  test('a release build finds its jump table and its thread-local', () => {
    const { atoms, symbols } = object('release.o');
    const step = symbols.find(({ name }) => name.startsWith('_ZN4tiny4step'));
    const code = atoms[step?.atom ?? -1];
    const table = atoms.find(({ name }) => name.startsWith('.rodata._ZN4tiny4step'));
    expect(code?.relocations.map(({ symbol }) => symbols[symbol]?.atom)).toContain(table?.index);
    // Its six entries lead to the middle of the function, through the section's symbol.
    const entries = table?.relocations.map(({ symbol, addend }) => [
      symbols[symbol]?.kind,
      symbols[symbol]?.atom,
      addend > 0,
    ]);
    expect(entries).toEqual(Array.from({ length: 6 }, () => ['section', code?.index, true]));
    const kinds = new Set(atoms.flatMap((atom) => atom.relocations.map(({ kind }) => x86_64Kind(kind)?.name)));
    expect(kinds).toContain('R_X86_64_TPOFF32');
    expect(kinds).toContain('R_X86_64_PC32');
  });

  test('common, absolute and thread-local symbols', () => {
    const { atoms, symbols } = object('locals.o');
    const pool = symbols.find(({ name }) => name === 'pool');
    expect(pool).toMatchObject({ kind: 'data', binding: 'weak', sizeBytes: 48 });
    expect(atoms[pool?.atom ?? 0]).toMatchObject({ name: 'pool', kind: 'zero', sizeBytes: 48, alignment: 32 });
    expect(symbols.find(({ name }) => name === 'own')).toMatchObject({ type: 'tls', binding: 'local', offset: 16 });
    const { symbols: others } = object('relocations.o');
    expect(others.find(({ name }) => name === 'small')).toMatchObject({ isAbsolute: true, offset: 0x1234 });
    expect(others.find(({ name }) => name === 'function')).toMatchObject({ kind: 'function', sizeBytes: 1 });
  });

  test('an image is no object, an object no image', () => {
    expect(thrown(MalformedError, () => object('pie')).message).toMatch(/expected a relocatable object/);
    expect(thrown(MalformedError, () => image('debug.o')).message).toMatch(/expected a program or a shared object/);
  });
});

describe('images', () => {
  test('a position-independent program', () => {
    const pie = image('pie');
    expect(pie).toMatchObject({ isPositionIndependent: true, interpreter: '/lib64/ld-linux-x86-64.so.2' });
    expect(pie.needed).toEqual(['libc.so.6']);
    expect(pie.buildId).toMatch(/^[0-9a-f]{40}$/);
    expect(pie.byName.get('_start')?.address).toBe(pie.entry);
    expect(pie.imports.map(({ name }) => name)).toContain('puts');
    expect(pie.byName.get('chosen')).toMatchObject({ type: 'ifunc', binding: 'global' });
    expect(pie.byName.get('optional')).toMatchObject({ type: 'function', binding: 'weak' });
    expect(pie.byName.get('counts')).toMatchObject({ type: 'object', sizeBytes: 256 });
    const main = pie.byName.get('main');
    const holder = pie.segments.find(({ address, sizeBytes }) => {
      return main !== undefined && main.address >= address && main.address < address + sizeBytes;
    });
    expect(holder).toMatchObject({ isReadable: true, isWritable: false, isExecutable: true });
    expect(bytesAt(pie, pie.byName.get('counts')?.address ?? 0, 256)).toEqual(new Uint8Array(256));
    expect(bytesAt(pie, 2 ** 40, 1)).toBeUndefined();
  });

  test('the thread pointer is where the compiled code of the program expects it', () => {
    const pie = image('pie');
    const { tls } = pie;
    const depth = pie.byName.get('depth');
    expect(depth).toMatchObject({ type: 'tls', sizeBytes: 4 });
    expect(new DataView((tls?.bytes ?? Uint8Array.of()).slice().buffer).getInt32(depth?.address ?? 0, true)).toBe(7);
    expect(tls).toMatchObject({ sizeBytes: 56 });
    // `hidden` reads `depth`: its instruction has the offset as its last four bytes, `add %fs:OFFSET, %eax`.
    const hidden = pie.byName.get('hidden');
    const code = bytesAt(pie, hidden?.address ?? 0, hidden?.sizeBytes ?? 0)?.slice() ?? Uint8Array.of();
    const words = Array.from({ length: code.length - 3 }, (_, at) => view(code).getInt32(at, true));
    expect(words).toContain((tls?.threadPointerOffset ?? 0) + (depth?.address ?? 0));
  });

  test('a program at a fixed address', () => {
    const fixed = image('fixed');
    expect(fixed.isPositionIndependent).toBe(false);
    expect(fixed.segments[0]?.address).toBe(0x400000);
    const relocations = fixed.relocations();
    const slot = relocations.find(({ symbol }) => symbol?.name === 'puts');
    expect(slot).toMatchObject({ kind: x86_64.R_X86_64_JUMP_SLOT.number });
    // The other way to a function's address: asked of the program's own code at start.
    const resolved = relocations.find(({ kind }) => kind === x86_64.R_X86_64_IRELATIVE.number);
    expect(fixed.symbols.some(({ address }) => address === resolved?.addend)).toBe(true);
  });

  test('a shared object', () => {
    const shared = image('libimage.so');
    expect(shared.exports.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['main', 'counts', 'depth', 'chosen']),
    );
    expect(shared.exports.map(({ name }) => name)).not.toContain('hidden');
    expect(shared).not.toHaveProperty('interpreter');
    expect(shared.relocations().map(({ kind }) => x86_64Kind(kind)?.name)).toEqual(
      expect.arrayContaining(['R_X86_64_RELATIVE', 'R_X86_64_GLOB_DAT', 'R_X86_64_DTPMOD64', 'R_X86_64_JUMP_SLOT']),
    );
  });
});

/** The object's atoms as the formulas make them, at the addresses that the linker chose. */
function expectLinkedAlike(
  objectName: string,
  imageName: string,
  onEntry: (kind: string, slot: number, target: number) => void,
): void {
  const { atoms, symbols } = object(objectName);
  const linked = image(imageName);
  const got = linked.sections.find(({ name }) => name === '.got');
  const GOT = linked.byName.get('_GLOBAL_OFFSET_TABLE_')?.address ?? got?.address ?? 0;
  for (const atom of atoms.filter(({ relocations }) => relocations.length > 0)) {
    // A symbol at its start tells where the linker put it.
    const marker = symbols.find(
      ({ kind, offset, ...at }) => kind !== 'section' && offset === 0 && at.atom === atom.index,
    );
    const base = linked.byName.get(marker?.name ?? '')?.address ?? expect.fail(`${atom.name} has no symbol`);
    const bytes = atom.bytes.slice();
    const expected = bytesAt(linked, base, bytes.length)?.slice() ?? Uint8Array.of();
    for (const { offset, kind, symbol, addend } of atom.relocations) {
      const known = x86_64Kind(kind) ?? expect.fail(`kind ${kind}`);
      const { name = '' } = symbols[symbol] ?? {};
      const { address: S = 0, sizeBytes: Z = 0 } = linked.byName.get(name) ?? {};
      const T = (linked.tls?.threadPointerOffset ?? 0) + S;
      const values = { A: addend, D: S, G: 0, GOT, L: S, P: base + offset, S, T, Z };
      // Where an entry is in the GOT or the PLT is for the linker to say; what it holds is not.
      const letter = known.terms.find((term) => term.letter === 'G' || (term.letter === 'L' && S === 0))?.letter;
      if (letter !== undefined) {
        const written =
          known.width === 8 ? view(expected).getBigInt64(offset, true) : view(expected).getInt32(offset, true);
        values[letter as 'G' | 'L'] = Number(written) - relocationValue(known, { ...values, [letter]: 0 });
      }
      if (letter === 'G') onEntry(known.name, GOT + values.G, S);
      applyRelocation(view(bytes), offset, kind, values);
    }
    expectSame(bytes, expected);
  }
}

describe('relocations', () => {
  test('give what lld gives in a static program', () => {
    expect(readElf(read('relocations'), 'relocations').header.type).toBe(ET_EXEC);
    const linked = image('relocations');
    const entries: string[] = [];
    expectLinkedAlike('relocations.o', 'relocations', (kind, slot, target) => {
      entries.push(kind.replace('R_X86_64_', ''));
      expect(view(bytesAt(linked, slot, 8) ?? Uint8Array.of()).getBigUint64(0, true)).toBe(BigInt(target));
    });
    expect(entries.sort()).toEqual(['GOT32', 'GOT64', 'GOTPCREL', 'GOTPCRELX', 'REX_GOTPCRELX']);
  });

  test('of thread-locals lead to the entries that the loader fills', () => {
    const filled = new Map(
      image('locals.so')
        .relocations()
        .map(({ address, kind }) => [address, x86_64Kind(kind)?.name]),
    );
    const found: Record<string, unknown> = {};
    expectLinkedAlike(
      'locals.o',
      'locals.so',
      (kind, slot) => (found[kind] = [filled.get(slot), filled.get(slot + 8)]),
    );
    expect(found).toEqual({
      R_X86_64_TLSGD: ['R_X86_64_DTPMOD64', 'R_X86_64_DTPOFF64'],
      R_X86_64_TLSLD: ['R_X86_64_DTPMOD64', undefined],
      R_X86_64_GOTTPOFF: ['R_X86_64_TPOFF64', 'R_X86_64_GLOB_DAT'],
      R_X86_64_GOTPC32_TLSDESC: ['R_X86_64_TLSDESC', undefined],
      R_X86_64_REX_GOTPCRELX: ['R_X86_64_GLOB_DAT', undefined],
    });
  });

  test('the table is whole: unique numbers, formulas of known letters', () => {
    const numbers = Object.values(x86_64).map(({ number }) => number);
    expect(new Set(numbers).size).toBe(numbers.length);
    for (const [name, { number, formula, width }] of Object.entries(x86_64)) {
      const kind = x86_64Kind(number);
      expect(kind?.name).toBe(name);
      const letters = kind?.terms.map(({ letter, sign }) => `${sign === 1 ? '+' : '-'}${letter}`).join('') ?? '';
      expect(letters).toBe(formula === '' ? '' : `+${formula}`);
      expect(letters).toMatch(/^([+-](GOT|[ABDGLMPSTZ]))*$/);
      if (width === 0) expect(formula).toBe('');
    }
    expect(x86_64Kind(39)).toBeUndefined();
    expect(x86_64Kind(1000)).toBeUndefined();
  });

  test('a field holds what fits, and nothing is written when it does not', () => {
    const kinds = Object.values(x86_64).filter(({ formula }) => formula !== '');
    const value = fc.oneof(
      fc.integer({ min: -(2 ** 40), max: 2 ** 40 }),
      fc.constantFrom(
        -(2 ** 31) - 1,
        -(2 ** 31),
        2 ** 31 - 1,
        2 ** 31,
        2 ** 32 - 1,
        2 ** 32,
        -1,
        0,
        -129,
        255,
        256,
        65536,
      ),
    );
    fc.assert(
      fc.property(fc.constantFrom(...kinds), value, ({ number, width, range }, wanted) => {
        const kind = x86_64Kind(number);
        if (kind === undefined) expect.fail(`kind ${number}`);
        // The first letter carries the value, the others are nothing.
        const values: RelocationValues = Object.fromEntries(
          kind.terms.map(({ letter }, index) => [letter, index === 0 ? wanted : 0]),
        );
        expect(relocationValue(kind, values)).toBe(wanted);
        const field = new DataView(new Uint8Array(24).fill(0xaa).buffer);
        const run = (): void => applyRelocation(field, 8, number, values);
        if (!fitsRelocation(kind, wanted)) {
          const error = thrown(RelocationError, run);
          expect(error).toMatchObject({ kind: kind.name, offset: 8 });
          expect(new Uint8Array(field.buffer)).toEqual(new Uint8Array(24).fill(0xaa));
          return;
        }
        run();
        const bits = BigInt.asIntN(8 * width, field.getBigInt64(8, true));
        const unsigned = BigInt.asUintN(8 * width, bits);
        const isNegative = range !== 'unsigned' && wanted < 0;
        expect(isNegative || range === 'signed' || range === 'all' ? bits : unsigned).toBe(BigInt(wanted));
        expect(field.getUint8(7)).toBe(0xaa);
        expect(field.getUint8(8 + width)).toBe(0xaa);
      }),
    );
  });

  test('what cannot be applied says why', () => {
    const field = new DataView(new ArrayBuffer(8));
    const fail = (offset: number, kind: number, values: RelocationValues): string =>
      thrown(RelocationError, () => applyRelocation(field, offset, kind, values)).message;
    const far = { S: 2 ** 40, A: -4, P: 0x1000 };
    expect(fail(0, 2, far)).toBe(
      'R_X86_64_PC32: expected S+A-P in 32 bits, signed, found 0xffffffeffc (at offset 0x0)',
    );
    expect(fail(5, 2, far)).toBe('R_X86_64_PC32: expected a field of 4 bytes, found the end at 0x8 (at offset 0x5)');
    expect(fail(-1, 2, far)).toMatch(/a field of 4 bytes/);
    expect(fail(0, 99, far)).toMatch(/^kind 99: expected a relocation kind of x86-64/);
    expect(fail(0, x86_64.R_X86_64_IRELATIVE.number, far)).toMatch(/expected a kind that a linker can apply/);
    expect(() => applyRelocation(field, 0, 9, far)).toThrow('R_X86_64_GOTPCREL is G+GOT+A-P, and no G is given');
  });
});

function finish(editor: ElfEditor): Uint8Array {
  return new Uint8Array(Buffer.concat(editor.finish()));
}

/** Gives every function a name of its own, as base links do: a local one keeps its symbol, and gets a global one besides. */
function promote(bytes: Uint8Array, name: string, rename: (name: string) => string): Uint8Array {
  const editor = new ElfEditor(bytes, name);
  const others = new Uint32Array(editor.symbols.length);
  for (const [index, symbol] of editor.symbols.entries()) {
    if (symbol.type !== 'function') continue;
    const promoted = { ...symbol, name: rename(symbol.name), visibility: 'hidden' } as const;
    if (symbol.binding === 'local') others[index] = editor.add({ ...promoted, binding: 'global' });
    else editor.replace(index, promoted);
  }
  for (let table = 0; table < editor.sectionCount; table++)
    if (editor.relocated(table) !== undefined) editor.redirect(table, others, () => true);
  return finish(editor);
}

describe('editing', () => {
  test.each(objects.filter(([, bytes]) => symbolTable(readElf(bytes, '')).length > 0))(
    '%s keeps all but the names of functions',
    (name, bytes) => {
      const before = readElfObject(bytes, name);
      const promoted = new Set(before.symbols.flatMap((symbol) => (symbol.type === 'function' ? symbol.name : [])));
      const written = promote(bytes, name, (symbol) => `${symbol}.unit1`);
      const after = readElfObject(written, name);
      expect(references(after)).toEqual(
        references(before, (symbol) => (promoted.has(symbol) ? `${symbol}.unit1` : symbol)),
      );
      expect(after.atoms.map(({ comdat }) => comdat)).toEqual(before.atoms.map(({ comdat }) => comdat));
      for (const [index, atom] of before.atoms.entries()) {
        expectSame(after.atoms[index]?.bytes ?? Uint8Array.of(), atom.bytes);
      }
      for (const [index, { name: section, sizeBytes, type }] of before.elf.sections.entries()) {
        expect(after.elf.sections[index]).toMatchObject({ name: section, type });
        if (![SHT_SYMTAB, SHT_STRTAB, SHT_SYMTAB_SHNDX].includes(type))
          expect(after.elf.sections[index]?.sizeBytes).toBe(sizeBytes);
      }
      for (const group of sectionsOf(after.elf, 17)) expect(readGroup(after.elf, group).isComdat).toBe(true);
      const firstGlobal = after.symbols.findIndex(({ binding }) => binding !== 'local');
      const end = firstGlobal < 0 ? after.symbols.length : firstGlobal;
      expect(sectionsOf(after.elf, SHT_SYMTAB)[0]?.info).toBe(end);
      expect(after.symbols.slice(end).every(({ binding }) => binding !== 'local')).toBe(true);
      // Nothing of it overlaps, and it can be edited again.
      expectSame(writeElf(after.elf), written);
      expect(
        symbolTable(
          readElf(
            promote(written, name, (symbol) => symbol),
            name,
          ),
        ).length,
      ).toBeGreaterThan(0);
    },
  );

  test('only relocations that are asked for name another symbol', () => {
    const bytes = read('release.o');
    const editor = new ElfEditor(bytes, 'release.o');
    const added = editor.add({ ...defined, name: 'elsewhere', section: 'undefined' });
    const tables = Array.from({ length: editor.sectionCount }, (_, section) => section).filter(
      (section) => editor.relocated(section) !== undefined,
    );
    const all = new Uint32Array(editor.symbols.length).fill(added);
    const seen: number[] = [];
    for (const table of tables)
      editor.redirect(table, all, ({ kind, symbol }) => {
        seen.push(symbol);
        return kind === x86_64.R_X86_64_PC32.number;
      });
    const [before, after] = [bytes, finish(editor)].map((file) => {
      const elf = readElf(file, 'release.o');
      return tables.flatMap((table) => readRelocationEntries(elf, elf.sections[table] ?? expect.fail('no section')));
    });
    expect(seen).toEqual(before?.map(({ symbol }) => symbol));
    expect(after).toEqual(
      before?.map((entry) => (entry.kind === x86_64.R_X86_64_PC32.number ? { ...entry, symbol: added } : entry)),
    );
    expect(after?.some(({ symbol }) => symbol === added)).toBe(true);
    expect(after?.some(({ symbol }) => symbol !== added)).toBe(true);
  });

  test('a new name leaves the others, and does not need a new index', () => {
    const bytes = read('release.o');
    const before = readElf(bytes, 'release.o');
    const after = readElf(
      promote(bytes, 'release.o', (name) => name.replace(/^visible$/, 'visible.impl')),
      'release.o',
    );
    const names = symbolTable(after).map(({ name }) => name);
    expect(names).toContain('visible.impl');
    expect(names).not.toContain('visible');
    const count = symbolTable(before).length;
    expect(names.slice(0, count).map((name) => name.replace('.impl', ''))).toEqual(
      symbolTable(before).map(({ name }) => name),
    );
    expect(after.sections.map(({ name }) => name)).toEqual(before.sections.map(({ name }) => name));
  });

  test('a symbol in a section whose index does not fit gets a table for it', () => {
    const count = SHN_LORESERVE;
    const bytes = writeElfObject({
      sections: Array.from({ length: count }, () => ({ name: '.s', flags: SHF_ALLOC, alignment: 1, sizeBytes: 1 })),
      symbols: [{ ...defined, name: 'first', section: 0 }],
    });
    const last = readElf(bytes, 'many').sections.findLastIndex(({ name }) => name === '.s');
    const edit = (file: Uint8Array, name: string): Uint8Array => {
      const editor = new ElfEditor(file, 'many');
      editor.add({ ...defined, name, section: last });
      return finish(editor);
    };
    const once = edit(bytes, 'once');
    const elf = readElf(edit(once, 'twice'), 'many');
    expect(sectionsOf(readElf(once, 'many'), SHT_SYMTAB_SHNDX)).toHaveLength(1);
    expect(sectionsOf(elf, SHT_SYMTAB_SHNDX)).toHaveLength(1);
    const found = symbolTable(elf).filter(({ section }) => section === last);
    expect(found.map(({ name }) => name)).toEqual(['once', 'twice']);
    const readelf = tool('apt-get install binutils', 'readelf');
    const listed = execFileSync(readelf, ['--syms', save('many.o', once)], { encoding: 'utf8', stdio: 'pipe' });
    expect(listed).toMatch(new RegExp(`\\b${last} once`));
  });

  test('an edit that makes no sense is a bug, and says so', () => {
    const editor = new ElfEditor(read('release.o'), 'release.o');
    expect(() => editor.replace(9999, { ...defined, name: 'none', section: 0 })).toThrow('has no symbol 9999');
    editor.add({ ...defined, name: 'late', section: 'absolute', binding: 'local' });
    expect(() => editor.finish()).toThrow(/local symbols in front of all others/);
    const relocations = [{ offset: 0, kind: 1, symbol: 0, addend: 0 }];
    const section = { name: '.text', flags: SHF_ALLOC, alignment: 1, bytes: new Uint8Array(8), relocations };
    expect(() => writeElfObject({ sections: [section], symbols: [] })).toThrow('there is no symbol 0 among 0');
  });

  test.each(linkers)('%s links an object of our own, and it runs', (_name, linker) => {
    // jmp *slot(%rip), as base images have it
    const stub = Uint8Array.of(0xff, 0x25, 0, 0, 0, 0, 0xcc, 0xcc);
    // mov $42, %edi; mov $60, %eax; syscall
    const body = Uint8Array.of(0xbf, 42, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05);
    // mov %fs:thread, %eax; ret
    const reader = Uint8Array.of(0x64, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0xc3);
    const code = SHF_ALLOC | SHF_EXECINSTR;
    const data = SHF_ALLOC | SHF_WRITE;
    const jump = { offset: 2, kind: x86_64.R_X86_64_PC32.number, symbol: 1, addend: -4 };
    const slot = { offset: 0, kind: x86_64.R_X86_64_64.number, symbol: 2, addend: 0 };
    const offset = { offset: 4, kind: x86_64.R_X86_64_TPOFF32.number, symbol: 5, addend: 0 };
    const bytes = writeElfObject({
      sections: [
        { name: '.text', flags: code, alignment: 16, bytes: stub, relocations: [jump] },
        { name: '.data.slots', flags: data, alignment: 8, bytes: new Uint8Array(8), relocations: [slot] },
        { name: '.text.body', flags: code, alignment: 16, bytes: body },
        { name: '.text.reader', flags: code, alignment: 16, bytes: reader, relocations: [offset] },
        { name: '.bss.big', flags: data, alignment: 4096, sizeBytes: 1 << 20 },
        { name: '.tdata', flags: data | SHF_TLS, alignment: 4, bytes: Uint8Array.of(2, 0, 0, 0) },
      ],
      symbols: [
        { ...defined, name: '_start', type: 'function', section: 0, sizeBytes: 6 },
        { ...defined, name: 'slot', binding: 'local', type: 'object', section: 1, sizeBytes: 8 },
        { ...defined, name: 'body', type: 'function', visibility: 'hidden', section: 2, sizeBytes: body.length },
        { ...defined, name: 'reader', type: 'function', section: 3, sizeBytes: reader.length },
        { ...defined, name: 'big', type: 'object', section: 4, sizeBytes: 1 << 20 },
        { ...defined, name: 'thread', binding: 'weak', type: 'tls', section: 5, sizeBytes: 4 },
      ],
    });
    const kinds = readElfObject(bytes, 'made').atoms.map(({ kind }) => kind);
    expect(kinds).toEqual(['code', 'data', 'code', 'code', 'zero', 'tls']);
    expect(readElf(bytes, 'made').sections.find(({ type }) => type === SHT_NOBITS)?.sizeBytes).toBe(1 << 20);
    const program = join(scratch, 'made');
    const output = execFileSync(linker(), ['-o', program, save('made.o', bytes)], { encoding: 'utf8', stdio: 'pipe' });
    expect(output).toBe('');
    const linked = readElfImage(new Uint8Array(readFileSync(program)), 'made');
    expect(linked.byName.get('slot')).toMatchObject({ binding: 'local', sizeBytes: 8 });
    expect(linked.tls?.threadPointerOffset).toBe(-4);
    const placed = bytesAt(linked, linked.byName.get('reader')?.address ?? 0, reader.length)?.slice() ?? reader;
    expect(new DataView(placed.buffer).getInt32(4, true)).toBe(-4);
    expect(spawnSync(program).status).toBe(42);
  });

  test('rustc links an object whose functions were renamed and made global, and panics still unwind', () => {
    const driver = save(
      'driver.rs',
      Buffer.from(
        'unsafe extern "C" { fn visible(i: u32) -> u32; } fn main() { std::process::exit(unsafe { visible(1) } as i32) }',
      ),
    );
    const link = (name: string, bytes: Uint8Array): number | null => {
      rustc(driver, '-o', join(scratch, name), `-Clink-arg=${save(`${name}.o`, bytes)}`);
      return spawnSync(join(scratch, name)).status;
    };
    rustc(SOURCE, '--crate-type=lib', '--emit=obj', '-Cdebuginfo=2', '-o', join(scratch, 'tiny.o'));
    const bytes = new Uint8Array(readFileSync(join(scratch, 'tiny.o')));
    const promoted = promote(bytes, 'tiny.o', (name) => (name === 'visible' ? name : `${name}.unit1`));
    const plain = link('plain', bytes);
    expect(plain).toBeGreaterThan(0);
    expect(link('edited', promoted)).toBe(plain);
    const program = readElfImage(new Uint8Array(readFileSync(join(scratch, 'edited'))), 'edited');
    expect(program.symbols.filter(({ name }) => /^_ZN4tiny7guarded17h\w+E\.unit1$/.test(name))).toHaveLength(1);
    expectSame(writeElf(program.elf), new Uint8Array(readFileSync(join(scratch, 'edited'))));
  }, 60_000);
});

describe('what rustc makes here', () => {
  const levels = ['0', '1', '2', '3'];
  const models = ['pic', 'static'];
  const variants = levels.flatMap((level) => models.map((model): [string, string] => [level, model]));

  test.each(variants)(
    'opt-level %s, %s, is read and written as it was',
    (level, model) => {
      const path = join(scratch, `${level}-${model}.o`);
      rustc(SOURCE, '--emit=obj', '-Cdebuginfo=2', `-Copt-level=${level}`, `-Crelocation-model=${model}`, '-o', path);
      const bytes = new Uint8Array(readFileSync(path));
      const { atoms, symbols, sections, elf } = readElfObject(bytes, path);
      expectSame(writeElf(elf), bytes);
      expect(sections.map((section) => section.relocations().length).some((count) => count > 100)).toBe(true);
      const visible = symbols.find(({ name }) => name === 'visible');
      const code = atoms[visible?.atom ?? -1];
      expect(code).toMatchObject({ name: '.text.visible', kind: 'code', sizeBytes: visible?.sizeBytes });
      expect(code?.relocations.length).toBeGreaterThan(0);
    },
    60_000,
  );
});

const u16 = (at: number, value: number) => (bytes: Uint8Array) => view(bytes).setUint16(at, value, true);
const u64 = (at: number, value: bigint) => (bytes: Uint8Array) => view(bytes).setBigUint64(at, value, true);

describe('malformed input', () => {
  const HEADERS = 40;
  /** Where the header of the first section with that type is. */
  const header = (bytes: Uint8Array, type: number): number => {
    const table = Number(view(bytes).getBigUint64(HEADERS, true));
    return table + 64 * readElf(bytes, '').sections.findIndex((section) => section.type === type);
  };
  const inSection = (type: number, at: number, value: number) => (bytes: Uint8Array) =>
    view(bytes).setUint32(header(bytes, type) + at, value, true);
  const inContent = (type: number, at: number, value: number) => (bytes: Uint8Array) => {
    const start = Number(view(bytes).getBigUint64(header(bytes, type) + 24, true));
    view(bytes).setUint32(start + at, value, true);
  };

  test.each<[string, (bytes: Uint8Array) => void, string, number]>([
    ['magic', u16(0, 0), 'an ELF file', 0],
    ['class', u16(4, 0x0101), '64-bit little-endian ELF', 4],
    ['machine', u16(18, 183), 'an ELF file for x86-64', 18],
    ['version', u16(20, 7), 'ELF version 1', 20],
    ['header size', u16(52, 52), 'a header of 64 bytes', 52],
    ['section header size', u16(58, 40), 'section headers of 64 bytes', 58],
    ['section headers', u64(HEADERS, 1n << 40n), '1 section headers', 11360],
    ['a huge offset', u64(HEADERS, 1n << 63n), 'the offset of the section headers below 2^53', 40],
    ['number of sections', u16(60, 0xfeff), '65279 section headers', 7648],
    ['no number of sections', u16(60, 0), 'the number of sections', 60],
    ['names', u16(62, 0xfe00), 'the section of names', 62],
    ['segments of an object', u16(56, 3), 'program headers of 56 bytes', 54],
  ])('%s', (_name, break_, expected, offset) => {
    const bytes = read('release.o').slice();
    break_(bytes);
    expect(thrown(MalformedError, () => readElfObject(bytes, 'broken'))).toMatchObject({
      expected,
      offset,
      file: 'broken',
    });
  });

  test.each<[string, (bytes: Uint8Array) => void, RegExp]>([
    ['a section behind the end', inSection(1, 32, 0xffff_ffff), /expected a section inside the file/],
    ['two sections in one place', inSection(2, 24, 0), /expected headers and sections that do not overlap/],
    ['an alignment', inSection(1, 48, 3), /expected an alignment that is a power of two/],
    ['half a symbol', inSection(2, 32, 100), /expected a symbol table, each entry 24 bytes, found 100 bytes/],
    ['names of symbols', inSection(2, 40, 9999), /expected a table of names, found section 9999/],
    ['the name of a symbol', inContent(2, 24, 0xffff_ff00), /expected the name of a symbol inside its table/],
    ['the type of a symbol', inContent(2, 28, 0x0f), /expected the type of a symbol, found 15/],
    ['the section of a symbol', inContent(2, 28, 0xfe00_0004), /expected the section of a symbol, found section 65024/],
    ['a kind', inContent(4, 8, 99), /expected a relocation kind of x86-64, found kind 99/],
    ['a symbol', inContent(4, 12, 0xffff), /expected a symbol, found symbol 65535/],
    ['an offset', inContent(4, 0, 0xffff), /expected R_X86_64_\w+ inside \.text.*, found offset 0xffff/],
    ['a target', inSection(4, 44, 9999), /expected a section to relocate, found section 9999/],
    ['relocations of other symbols', inSection(4, 40, 1), /expected the symbol table, found section 1/],
    ['a group', inContent(17, 4, 9999), /expected a section of the group, found section 9999/],
    ['a second table', inSection(17, 4, 2), /expected one symbol table, found a second/],
  ])('%s', (_name, break_, message) => {
    const bytes = read('debug.o').slice();
    break_(bytes);
    expect(thrown(MalformedError, () => readElfObject(bytes, 'broken')).message).toMatch(message);
  });

  test('every beginning of a file is refused', () => {
    const bytes = read('release.o');
    for (let length = 0; length < bytes.length; length += 61) {
      const error = thrown(MalformedError, () => readElfObject(bytes.subarray(0, length), 'cut'));
      expect(error.offset).toBeLessThanOrEqual(length);
    }
  });

  test('mutated files are read or refused, and written as they were', () => {
    const seed = Date.now() % 1_000_000;
    console.log(`fuzz seed ${seed}`);
    expect(fuzzElf(1000, seed)).toBeGreaterThan(200);
  }, 60_000);
});
