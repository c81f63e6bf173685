// The object stage on what rustc, LLVM, wasm-ld and wasm-bindgen wrote: read, written back, walked, and broken.
import { readdirSync, readFileSync } from 'node:fs';

import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';

import { fuzzObjects } from '../fuzz/objects.js';
import {
  ARENA_SYMBOL,
  customSection,
  type DataSegment,
  type ElementSegment,
  encodeSignature,
  encodeSigned,
  encodeUnsigned,
  formatSignature,
  functionNames,
  MalformedError,
  type Module,
  parameterCount,
  parseSignature,
  Reader,
  readArchive,
  readLinking,
  readModule,
  readNames,
  readObject,
  readRelocations,
  readS32,
  readS33,
  readS64,
  readU32,
  readU64,
  relocationKinds,
  rewriteIndices,
  type Section,
  section,
  sizeOfSigned,
  sizeOfUnsigned,
  type Space,
  walkBody,
  writeArchive,
  writeArenaObject,
  writeLinking,
  writeModule,
  writeNames,
  writeObject,
  writeRelocations,
} from '../src/object/index.ts';

const FIXTURES = new URL('fixtures/object/', import.meta.url);
const read = (name: string): Uint8Array => new Uint8Array(readFileSync(new URL(name, FIXTURES)));
const fixtures = (pattern: RegExp): string[] => readdirSync(FIXTURES).filter((name) => pattern.test(name));

/** Every wasm file among the fixtures, those in archives included. */
const wasmFiles: [string, Uint8Array][] = [
  ...fixtures(/\.(o|wasm)$/).map((name): [string, Uint8Array] => [name, read(name)]),
  ...readArchive(read('libtiny.rlib'), 'libtiny.rlib').members.map(({ name, bytes }): [string, Uint8Array] => [
    `libtiny.rlib(${name})`,
    bytes,
  ]),
];

/** Compared at once: a list of a million numbers is slow to compare and useless to print. */
function expectSame(actual: Uint8Array, expected: Uint8Array): void {
  if (Buffer.compare(actual, expected) === 0) return;
  const at = expected.findIndex((byte, index) => byte !== actual[index]);
  expect.fail(`differs at offset ${at} (${actual.length} bytes, not ${expected.length})`);
}

const reader = (bytes: Uint8Array): Reader => new Reader(bytes, 'numbers');
const bodiesOf = (name: string): readonly Uint8Array[] => section(readModule(read(name), name), 'code')?.bodies ?? [];
const identity = (_space: Space, index: number): number => index;

/** A module of these sections, written, read, and written again as it was. */
function roundTrip(...sections: Section[]): Module {
  const bytes = writeModule({ name: 'made', sections });
  const module = readModule(bytes, 'made');
  expectSame(writeModule(module), bytes);
  return module;
}

function thrown(run: () => unknown): MalformedError {
  try {
    run();
  } catch (error) {
    if (error instanceof MalformedError) return error;
    throw error;
  }
  return expect.fail('nothing was thrown');
}

describe('LEB128', () => {
  const u32 = fc.nat({ max: 0xffff_ffff });
  const s32 = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });

  test('what was written is read, minimal or padded', () => {
    fc.assert(
      fc.property(u32, s32, (unsigned, signed) => {
        expect(readU32(reader(encodeUnsigned(unsigned)))).toBe(unsigned);
        expect(readU32(reader(encodeUnsigned(unsigned, 5)))).toBe(unsigned);
        expect(readS32(reader(encodeSigned(signed)))).toBe(signed);
        expect(readS32(reader(encodeSigned(signed, 5)))).toBe(signed);
      }),
    );
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), (unsigned, signed) => {
        expect(readU64(reader(encodeUnsigned(unsigned, 10)))).toBe(unsigned);
        expect(readU64(reader(encodeUnsigned(BigInt(unsigned))))).toBe(unsigned);
        expect(readS64(reader(encodeSigned(signed)))).toBe(signed);
        expect(readS64(reader(encodeSigned(signed, 10)))).toBe(signed);
      }),
    );
    fc.assert(
      fc.property(fc.integer({ min: -(2 ** 32), max: 2 ** 32 - 1 }), (value) => {
        expect(readS33(reader(encodeSigned(value)))).toBe(value);
        expect(readS64(reader(encodeSigned(value)))).toBe(BigInt(value));
      }),
    );
  });

  test('sizes are those of the minimal form, and padding has the width asked for', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.maxSafeInteger(), (unsigned, signed) => {
        expect(sizeOfUnsigned(unsigned)).toBe(encodeUnsigned(unsigned).length);
        expect(sizeOfUnsigned(BigInt(unsigned))).toBe(sizeOfUnsigned(unsigned));
        expect(sizeOfSigned(signed)).toBe(encodeSigned(BigInt(signed)).length);
        expect(encodeUnsigned(unsigned, 10)).toHaveLength(10);
        expect(encodeSigned(signed, 10)).toHaveLength(10);
      }),
    );
    expect(() => encodeUnsigned(0x80, 1)).not.toThrow();
    expect(() => encodeUnsigned(2 ** 35, 5)).toThrow(RangeError);
    expect(() => encodeUnsigned(-1)).toThrow(RangeError);
  });

  test.each([
    ['u32', readU32, [0xff, 0xff, 0xff, 0xff, 0x10]],
    ['u32', readU32, [0x80, 0x80, 0x80, 0x80, 0x80, 0x00]],
    ['s32', readS32, [0xff, 0xff, 0xff, 0xff, 0x4f]],
    ['s33', readS33, [0xff, 0xff, 0xff, 0xff, 0x2f]],
    ['u64', readU64, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f]],
    ['s64', readS64, [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]],
    ['s64', readS64, [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]],
  ])('%s out of its range is malformed', (_type, decode, bytes) => {
    expect(thrown(() => decode(reader(Uint8Array.from(bytes)))).expected).toContain('LEB128 number');
  });
});

describe('archives', () => {
  const objects = ['relocations32.o', 'relocations64.o'];

  test.each(['gnu.a', 'sym64.a', 'bsd.a'])('%s: members and the index', (name) => {
    const archive = readArchive(read(name), name);
    expect(archive.format).toBe(name === 'bsd.a' ? 'bsd' : 'gnu');
    expect(archive.members.map((member) => member.name)).toEqual(objects);
    for (const member of archive.members) {
      // BSD pads a member with newlines up to a multiple of eight.
      expectSame(member.bytes.subarray(0, read(member.name).length), read(member.name));
    }
    expect(archive.index?.map(({ symbol, member }) => `${symbol} ${member.name}`)).toEqual([
      'code relocations32.o',
      'table relocations32.o',
      'perthread relocations32.o',
      'constructor relocations32.o',
      'shared relocations32.o',
      'code relocations64.o',
      'table relocations64.o',
      'perthread relocations64.o',
    ]);
    expect(archive.symbols.get('code')).toBe(archive.members[0]);
  });

  test.each(['gnu.a', 'libtiny.rlib'])('%s: what was read is written back, byte for byte', (name) => {
    expectSame(writeArchive(readArchive(read(name), name)), read(name));
  });

  test('an rlib: names beyond fifteen characters, symbols of Rust', () => {
    const archive = readArchive(read('libtiny.rlib'), 'libtiny.rlib');
    expect(archive.members.map(({ name }) => name.replace(/\.[0-9a-f]{16}-/, '.HASH-'))).toEqual([
      'lib.rmeta',
      'libtiny.tiny.HASH-cgu.0.rcgu.o',
      'libtiny.tiny.HASH-cgu.1.rcgu.o',
    ]);
    const symbol = [...archive.symbols.keys()].find((name) => name.endsWith('7counter4next'));
    const member = archive.symbols.get(symbol ?? '');
    const object = readObject(member?.bytes ?? new Uint8Array(), 'member');
    expect(object.symbols.find(({ name }) => name === symbol)).toMatchObject({
      kind: 'function',
      signature: '()->(i32)',
    });
  });

  test.each<[string, (bytes: Uint8Array) => Uint8Array, string]>([
    [
      'no archive',
      () => Uint8Array.of(1, 2, 3),
      'lib.a: expected an archive (!<arch>), found other bytes (at offset 0x0)',
    ],
    [
      'cut in a header',
      (bytes) => bytes.subarray(0, 20),
      'lib.a: expected an archive member header, found 12 of 60 bytes (at offset 0x8)',
    ],
    [
      'cut in a member',
      (bytes) => bytes.subarray(0, 300),
      'lib.a: expected archive member relocations32.o/, found 74 of 920 bytes (at offset 0xe2)',
    ],
    [
      'an index that points nowhere',
      (bytes) => bytes.with(75, 7),
      'lib.a: expected the offset of an archive member, found 0x7 (at offset 0x4c)',
    ],
  ])('malformed: %s', (_what, damage, message) => {
    expect(thrown(() => readArchive(damage(read('gnu.a')), 'lib.a')).message).toBe(message);
  });
});

describe('modules', () => {
  test.each(wasmFiles)('%s: what was read is written back, byte for byte', (name, bytes) => {
    const module = readModule(bytes, name);
    expectSame(writeModule(module), bytes);
    for (const item of module.sections) {
      if (item.kind !== 'custom') continue;
      if (item.name === 'name') expectSame(writeNames(readNames(item.bytes)), item.bytes);
      if (item.name === 'linking') {
        const linking = readLinking(item.bytes, name);
        // wasm-ld --emit-relocs does not pad the sizes of subsections; LLVM and we do.
        if (name === 'linked.wasm') expect(readLinking(writeLinking(linking), name)).toEqual(linking);
        else expectSame(writeLinking(linking), item.bytes);
      }
      if (item.name.startsWith('reloc.')) expectSame(writeRelocations(readRelocations(item.bytes, name)), item.bytes);
    }
  });

  test('the output of wasm-bindgen, in parts', () => {
    const module = readModule(read('bindgen.wasm'), 'bindgen.wasm');
    const names = functionNames(module);
    const imports = section(module, 'import')?.imports ?? [];
    const functions = section(module, 'function')?.types ?? [];
    const bodies = section(module, 'code')?.bodies ?? [];
    expect(functions).toHaveLength(bodies.length);
    const importCount = imports.filter(({ kind }) => kind === 'function').length;
    expect(Math.max(...names.keys())).toBeLessThan(importCount + bodies.length);
    expect([...names.values()].filter((name) => name.endsWith(' externref shim')).length).toBeGreaterThan(0);
    expect(section(module, 'memory')?.memories).toEqual([{ minimum: 17 }]);
    expect(section(module, 'table')?.tables.map(({ type }) => type)).toEqual(['funcref', 'externref']);
    expect(section(module, 'export')?.exports.map(({ name }) => name)).toContain('__wbindgen_externrefs');
    expect(section(module, 'global')?.globals[0]).toMatchObject({ type: 'i32', mutable: true });
    expect(customSection(module, 'producers')?.bytes.length).toBeGreaterThan(0);
    expect(customSection(module, 'absent')).toBeUndefined();
    expect(section(module, 'start')).toBeUndefined();
  });

  test('all forms of element and data segments', () => {
    const offset = Uint8Array.of(0x41, 0, 0x0b);
    const item = Uint8Array.of(0xd2, 0, 0x0b);
    const elements: ElementSegment[] = [0, 1, 2, 3, 4, 5, 6, 7].map((flags) => ({
      flags,
      table: 0,
      ...((flags & 1) === 0 && { offset }),
      type: 'funcref',
      items: flags & 4 ? [item, item] : [0, 0],
    }));
    const data: DataSegment[] = [
      { flags: 0, memory: 0, offset, bytes: Uint8Array.of(1) },
      { flags: 1, memory: 0, bytes: Uint8Array.of(2, 3) },
      { flags: 2, memory: 0, offset, bytes: new Uint8Array() },
    ];
    const module = roundTrip(
      { kind: 'type', types: ['()->()'] },
      { kind: 'function', types: [0] },
      { kind: 'table', tables: [{ type: 'funcref', limits: { minimum: 2 } }] },
      { kind: 'memory', memories: [{ minimum: 1 }] },
      { kind: 'start', function: 0 },
      { kind: 'element', segments: elements },
      { kind: 'dataCount', count: 3 },
      { kind: 'code', bodies: [Uint8Array.of(0, 0x0b)] },
      { kind: 'data', segments: data },
    );
    expect(section(module, 'element')?.segments).toEqual(elements);
    expect(section(module, 'data')?.segments).toEqual(data);
    expect(WebAssembly.validate(writeModule(module))).toBe(true);
  });

  test('all forms of imports, limits, tables, tags and globals', () => {
    const imports = [
      { module: 'm', name: 'f', kind: 'function', type: 0 },
      { module: 'm', name: 't', kind: 'table', table: { type: 'externref', limits: { minimum: 0, maximum: 7 } } },
      { module: 'm', name: 'm', kind: 'memory', limits: { minimum: 1, maximum: 65_536, shared: true } },
      { module: 'm', name: 'g', kind: 'global', global: { type: '(ref null 0)', mutable: true } },
      { module: 'm', name: 'e', kind: 'tag', type: 0 },
    ] as const;
    const memories = [
      { minimum: 1, maximum: 2 ** 48, address64: true },
      { minimum: 1, pageSizeLog2: 0 },
    ];
    const initial = Uint8Array.of(0xd0, 0x70, 0x0b);
    const tables = [{ type: '(ref func)', limits: { minimum: 1 }, initial }];
    const globals = [{ type: 'funcref', mutable: false, initial }];
    const module = roundTrip(
      { kind: 'type', types: ['(i32,i64,f32,f64,v128)->(funcref,externref,exnref,(ref null extern),(ref 0))'] },
      { kind: 'import', imports },
      { kind: 'table', tables },
      { kind: 'memory', memories },
      { kind: 'tag', types: [0] },
      { kind: 'global', globals },
      { kind: 'export', exports: [{ name: 'naïve', kind: 'tag', index: 1 }] },
    );
    expect(section(module, 'import')?.imports).toEqual(imports);
    expect(section(module, 'memory')?.memories).toEqual(memories);
    expect(section(module, 'table')?.tables).toEqual(tables);
    expect(section(module, 'global')?.globals).toEqual(globals);
    expect(section(module, 'export')?.exports[0]?.name).toBe('naïve');
  });

  test('a padded section size stays padded, and gives way when the content outgrows it', () => {
    const bytes = Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 8, 0x81, 0, 3);
    const module = readModule(bytes, 'padded');
    expect(module.sections).toEqual([{ kind: 'start', function: 3, offset: 11, sizeWidth: 2 }]);
    expectSame(writeModule(module), bytes);
    const custom: Section = { kind: 'custom', name: 'x', bytes: new Uint8Array(200), sizeWidth: 1 };
    expect(readModule(writeModule({ name: 'grown', sections: [custom] }), 'grown').sections[0]).toMatchObject({
      kind: 'custom',
      bytes: custom.bytes,
    });
  });

  test('signatures: text and bytes say the same', () => {
    const heap = fc.oneof(fc.constantFrom('func', 'extern', 'any', 'exn', 'none'), fc.nat(5000).map(String));
    const type = fc.oneof(
      fc.constantFrom('i32', 'i64', 'f32', 'f64', 'v128', 'funcref', 'externref', 'exnref'),
      heap.map((name) => `(ref ${name})`),
      heap.map((name) => `(ref null ${name})`),
    );
    fc.assert(
      fc.property(fc.array(type), fc.array(type), (parameters, results) => {
        const signature = formatSignature(parameters, results);
        expect(parseSignature(signature)).toEqual({ parameters, results });
        expect(parameterCount(signature)).toBe(parameters.length);
        const module = roundTrip({ kind: 'type', types: [signature] });
        expect(section(module, 'type')?.types).toEqual([signature]);
      }),
    );
    expect([...encodeSignature('(i32,i32)->(i64)')]).toEqual([0x60, 2, 0x7f, 0x7f, 1, 0x7e]);
    expect(() => encodeSignature('(i33)->()')).toThrow(TypeError);
    expect(() => parseSignature('i32')).toThrow(TypeError);
  });

  const header = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
  test.each<[string, number[], string]>([
    ['no module', [1, 2, 3, 4, 5], 'expected a wasm module (\\0asm), found other bytes (at offset 0x0)'],
    ['a component', [0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0], 'expected wasm version 1, found 0x1000d (at offset 0x4)'],
    ['an unknown section', [...header, 14, 0], 'expected a section id, found 14 (at offset 0x8)'],
    ['a section cut off', [...header, 10, 9, 1], 'expected code section, found 1 of 9 bytes (at offset 0xa)'],
    ['a body cut off', [...header, 10, 2, 1, 9], 'expected function body, found the end (at offset 0xc)'],
    ['a count beyond the file', [...header, 3, 2, 0x7f, 0], 'expected 127 functions, found 1 bytes (at offset 0xa)'],
    [
      'bytes left over',
      [...header, 8, 2, 0, 0],
      'expected the end of the start section, found 1 bytes more (at offset 0xb)',
    ],
    [
      'a type that is no function',
      [...header, 1, 2, 1, 0x5f],
      'expected a function type (0x60), found 0x5f (at offset 0xb)',
    ],
    ['a value type', [...header, 1, 4, 1, 0x60, 1, 0x12], 'expected a value type, found 0x12 (at offset 0xd)'],
    ['an import kind', [...header, 2, 4, 1, 0, 0, 9], 'expected a kind of import or export, found 0x9 (at offset 0xd)'],
    [
      'a name',
      [...header, 0, 2, 1, 0xff],
      'expected the name of a custom section in UTF-8, found other bytes (at offset 0xb)',
    ],
    ['a global', [...header, 6, 3, 1, 0x7f, 2], 'expected mutability, found 0x2 (at offset 0xc)'],
    [
      'an expression',
      [...header, 6, 4, 1, 0x7f, 0, 0xff],
      'expected an instruction, found opcode 0xff (at offset 0xd)',
    ],
    ['an element segment', [...header, 9, 2, 1, 8], 'expected an element segment, found flags 8 (at offset 0xb)'],
    ['a data segment', [...header, 11, 2, 1, 3], 'expected a data segment, found flags 3 (at offset 0xb)'],
  ])('malformed: %s', (_what, bytes, message) => {
    expect(thrown(() => readModule(Uint8Array.from(bytes), 'x.wasm')).message).toBe(`x.wasm: ${message}`);
  });
});

describe('relocatable objects', () => {
  const object = readObject(read('relocations32.o'), 'relocations32.o');
  const symbol = (name: string): (typeof object.symbols)[number] => {
    return object.symbols.find((candidate) => candidate.name === name) ?? expect.fail(`no symbol ${name}`);
  };
  const described = (name: string): string[] => {
    const atom = object.atoms.find((candidate) => candidate.name === name) ?? expect.fail(`no atom ${name}`);
    return atom.relocations.map(({ offset, kind, symbol: index, addend }) => {
      const { name: kindName, target } = relocationKinds[kind] ?? expect.fail(`no kind ${kind}`);
      const named = target === 'type' ? object.signatures[index] : object.symbols[index]?.name;
      return `${offset} ${kindName} ${named} ${addend}`;
    });
  };

  test('every relocation kind of LLVM 22', () => {
    const seen = ['relocations32.o', 'relocations64.o'].flatMap((name) =>
      readModule(read(name), name).sections.flatMap((item) => {
        if (item.kind !== 'custom' || !item.name.startsWith('reloc.')) return [];
        return readRelocations(item.bytes, name).relocations.map(({ kind }) => kind);
      }),
    );
    expect([...new Set(seen)].sort((a, b) => a - b)).toEqual([...relocationKinds.keys()]);
  });

  test('relocations of a function count from its body', () => {
    expect(described('code')).toEqual([
      '9 R_WASM_MEMORY_ADDR_LEB table 8',
      '16 R_WASM_MEMORY_ADDR_SLEB table -4',
      '23 R_WASM_TABLE_INDEX_SLEB callee 0',
      '30 R_WASM_TABLE_INDEX_REL_SLEB local 0',
      '37 R_WASM_MEMORY_ADDR_REL_SLEB table 0',
      '44 R_WASM_MEMORY_ADDR_TLS_SLEB perthread 0',
      '51 R_WASM_GLOBAL_INDEX_LEB __stack_pointer 0',
      '58 R_WASM_GLOBAL_INDEX_LEB missing 0',
      '71 R_WASM_TYPE_INDEX_LEB (i32,i64)->(f32) 0',
      '76 R_WASM_TABLE_NUMBER_LEB __indirect_function_table 0',
      '87 R_WASM_FUNCTION_INDEX_LEB callee 0',
      '96 R_WASM_FUNCTION_INDEX_LEB imported 0',
      '104 R_WASM_TAG_INDEX_LEB __cpp_exception 0',
    ]);
    expect(described('.data.table')).toEqual([
      '0 R_WASM_TABLE_INDEX_I32 callee 0',
      '4 R_WASM_MEMORY_ADDR_I32 text 2',
      '8 R_WASM_MEMORY_ADDR_LOCREL_I32 text 0',
    ]);
  });

  test('the field of every relocation holds a number of the width its kind says', () => {
    for (const name of fixtures(/\.o$/)) {
      for (const atom of readObject(read(name), name).atoms) {
        for (const { offset, kind } of atom.relocations) {
          const { encoding, width } = relocationKinds[kind] ?? expect.fail(`no kind ${kind}`);
          const field = atom.bytes.subarray(offset, offset + width);
          expect(field).toHaveLength(width);
          if (encoding === 'le') continue;
          // Padded: every byte but the last goes on.
          expect([...field].map((byte) => byte >= 0x80)).toEqual([...field].map((_, at) => at < width - 1));
        }
      }
    }
  });

  test('atoms: kind, size, alignment, COMDAT, constructors', () => {
    expect(object.atoms.map(({ name, kind, sizeBytes, alignment }) => [name, kind, sizeBytes, alignment])).toEqual([
      ['code', 'code', 110, 1],
      ['local', 'code', 2, 1],
      ['constructor', 'code', 8, 1],
      ['shared', 'code', 2, 1],
      ['.data.table', 'data', 12, 8],
      ['.rodata.text', 'constant', 5, 1],
      ['.bss.zeros', 'zero', 64, 16],
      ['.tdata.perthread', 'tls', 4, 1],
    ]);
    expect(object.atoms.flatMap(({ comdat }) => comdat ?? [])).toEqual(['shared']);
    expect(object.atoms[6]?.bytes).toHaveLength(0);
    expect(object.atoms[0]?.signature).toBe('(i32)->(i32)');
    const [init] = object.initFunctions ?? [];
    expect(init?.priority).toBe(42);
    expect(object.symbols[init?.symbol ?? -1]?.name).toBe('constructor');
  });

  test('symbols: kind, binding, place, imports', () => {
    expect(symbol('code')).toMatchObject({ kind: 'function', binding: 'global', atom: 0, signature: '(i32)->(i32)' });
    expect(symbol('local')).toMatchObject({ kind: 'function', binding: 'local', atom: 1 });
    expect(symbol('constructor')).toMatchObject({ kind: 'function', binding: 'weak', atom: 2 });
    expect(symbol('text')).toMatchObject({ kind: 'data', binding: 'local', atom: 5, offset: 0, sizeBytes: 5 });
    expect(symbol('imported')).toMatchObject({
      importModule: 'host',
      importName: 'field',
      signature: '(externref)->()',
    });
    expect(symbol('imported').atom).toBeUndefined();
    expect(symbol('__stack_pointer')).toMatchObject({ kind: 'global', importName: '__stack_pointer' });
    expect(symbol('__cpp_exception').kind).toBe('tag');
    expect(symbol('__indirect_function_table').kind).toBe('table');
    expect(symbol('.debug_info').kind).toBe('section');
  });

  test('an absolute symbol is a number in no atom', () => {
    const module = readModule(read('relocations64.o'), 'absolute.o');
    const linking = readLinking(customSection(module, 'linking')?.bytes ?? new Uint8Array(), 'absolute.o');
    const place = { segment: 0, offset: 4096, sizeBytes: 4 };
    const bytes = writeLinking({
      ...linking,
      symbols: [...linking.symbols, { kind: 'data', flags: 0x200, name: 'absolute', place }],
    });
    const sections = module.sections.map((item) =>
      item.kind === 'custom' && item.name === 'linking' ? { ...item, bytes } : item,
    );
    const { symbols } = readObject(writeModule({ ...module, sections }), 'absolute.o');
    expect(symbols.at(-1)).toMatchObject({ name: 'absolute', isAbsolute: true, offset: 4096 });
    expect(symbols.at(-1)).not.toHaveProperty('atom');
  });

  test('what rustc makes of a static, zeros, a vtable', () => {
    const tiny = readObject(read('tiny.o'), 'tiny.o');
    const kindOf = (pattern: RegExp): string[] =>
      tiny.atoms.filter(({ name }) => pattern.test(name)).map(({ kind, sizeBytes }) => `${kind} ${sizeBytes}`);
    expect(kindOf(/5COUNT$/)).toEqual(['data 4']);
    expect(kindOf(/5ZEROS$/)).toEqual(['zero 32']);
    const vtables = tiny.atoms.filter(({ relocations, kind }) => {
      return kind === 'constant' && relocations.some(({ kind: relocation }) => relocation === 2);
    });
    expect(vtables.map(({ sizeBytes }) => sizeBytes)).toEqual([20]);
  });

  test('an object of our own is read back, and an engine takes it for a module', () => {
    const arena = readObject(writeArenaObject(1 << 20), 'arena.o');
    expect(arena.atoms).toMatchObject([{ kind: 'zero', sizeBytes: 1 << 20, alignment: 16 }]);
    expect(arena.symbols).toMatchObject([{ name: ARENA_SYMBOL, kind: 'data', atom: 0, sizeBytes: 1 << 20 }]);
    const bytes = writeObject(
      [
        { name: '.bss.a', symbol: 'a', sizeBytes: 3, alignment: 1 },
        { name: '.tbss.b', symbol: 'b', sizeBytes: 64, alignment: 64, isThreadLocal: true },
      ],
      ['atomics', 'bulk-memory'],
    );
    expect(readObject(bytes, 'two.o').atoms).toMatchObject([
      { kind: 'zero', sizeBytes: 3 },
      { kind: 'tls', sizeBytes: 64, alignment: 64 },
    ]);
    expect(WebAssembly.validate(bytes)).toBe(true);
  });

  test('cut off anywhere, an object is malformed, at an offset inside what is left', () => {
    const bytes = read('relocations32.o');
    for (let length = 0; length < bytes.length; length++) {
      const part = bytes.subarray(0, length);
      // Cut between sections it is shorter but sound, as long as the linking section is there.
      let error: unknown;
      try {
        readObject(part, 'cut.o');
      } catch (caught) {
        error = caught;
      }
      if (error === undefined) expect(customSection(readModule(part, 'cut.o'), 'linking')).toBeDefined();
      else expect(error).toBeInstanceOf(MalformedError);
      if (error instanceof MalformedError) expect(error.offset).toBeLessThanOrEqual(length);
    }
    expect(thrown(() => readObject(bytes.subarray(0, 8), 'cut.o')).message).toBe(
      'cut.o: expected a linking section, found end of file (at offset 0x8)',
    );
  });

  test('a relocation is held against the symbol it names', () => {
    const { sections } = readModule(read('relocations32.o'), 'bad.o');
    const damage = (relocation: { offset: number; kind: number; symbol: number; addend: number }): string => {
      const code = sections.findIndex(({ kind }) => kind === 'code');
      const bytes = writeRelocations({ section: code, relocations: [relocation] });
      const changed = sections.map((item) =>
        item.kind === 'custom' && item.name === 'reloc.CODE' ? { ...item, bytes } : item,
      );
      return thrown(() => readObject(writeModule({ name: 'bad.o', sections: changed }), 'bad.o')).message;
    };
    expect(damage({ offset: 0x59, kind: 0, symbol: 1, addend: 0 })).toMatch(
      /^bad\.o: expected a function for R_WASM_FUNCTION_INDEX_LEB, found data 1 \(at offset 0x/,
    );
    expect(damage({ offset: 0x59, kind: 0, symbol: 999, addend: 0 })).toContain('found symbol 999');
    expect(damage({ offset: 0, kind: 0, symbol: 0, addend: 0 })).toContain('inside the code section, found offset 0');
    expect(damage({ offset: 5000, kind: 0, symbol: 0, addend: 0 })).toContain('inside the code section');
  });
});

describe('instructions', () => {
  interface Step {
    readonly opcode: number;
    readonly offset: number;
    readonly indices: string[];
  }
  function steps(body: Uint8Array): Step[] {
    const all: Step[] = [];
    let indices: string[] = [];
    walkBody(body, {
      index(space, index) {
        indices.push(`${space} ${index}`);
      },
      operator(opcode, offset) {
        all.push({ opcode, offset, indices });
        indices = [];
      },
    });
    return all;
  }
  test('one of each, as another disassembler divides them', () => {
    const expected = readFileSync(new URL('opcodes.txt', FIXTURES), 'utf8')
      .split('\n')
      .filter((line) => /^\d/.test(line))
      .map((line) => line.split(' ').slice(0, 2).map(Number));
    const [body = new Uint8Array()] = bodiesOf('opcodes.wasm');
    const walked = steps(body);
    // The last is the function's own `end`.
    expect(walked.pop()).toMatchObject({ opcode: 0x0b, offset: body.length - 1 });
    expect(walked.map(({ offset, opcode }) => [offset, opcode])).toEqual(expected);
    expect(expected.length).toBeGreaterThan(500);
  });

  test('exceptions, tail calls and wide arithmetic as LLVM writes them', () => {
    const [body = new Uint8Array()] = bodiesOf('exceptions.o');
    const walked = steps(body).map(({ opcode, indices }) => [opcode.toString(16), ...indices].join(' '));
    expect(walked.join(', ')).toBe(
      '2, 2 type 1, 2, 2, 1f tag 0 tag 0, 20 local 0, 12 function 0, b, b, ' +
        '42, 42, 42, 42, fc0013, fc0015, 1a, 1a, 41, b, f, b, a, b, a, b',
    );
  });

  test('typed references, several memories, 64-bit offsets', () => {
    const body = Uint8Array.from(
      [
        [1, 1, 0x63, 5], // a local of type (ref null 5)
        [0x20, 0, 0xd4], // ref.as_non_null
        [0x14, 6, 0x15, 7], // call_ref 6, return_call_ref 7
        [0xd5, 0, 0xd6, 0, 0xd3], // br_on_null, br_on_non_null, ref.eq
        [0xd0, 8, 0xd0, 0x70], // ref.null 8, ref.null func
        [0x1c, 1, 0x64, 9], // select (ref 9)
        [0x02, 0xc0, 0, 0x0b], // block with type 64
        [0x28, 0x42, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], // i32.load of memory 3
        [0xfc, 10, 1, 2], // memory.copy 1 2
        [0xfd, 0x54, 0x40, 4, 0, 15], // v128.load8_lane of memory 4
        [0x0b],
      ].flat(),
    );
    const indices = steps(body).flatMap((step) => step.indices);
    expect(indices.join(', ')).toBe(
      'type 5, local 0, type 6, type 7, type 8, type 9, type 64, memory 3, memory 1, memory 2, memory 4',
    );
    const moved = steps(rewriteIndices(body, (_space, index) => index + 1000)).flatMap((step) => step.indices);
    expect(moved.join(', ')).toBe(
      'type 1005, local 0, type 1006, type 1007, type 1008, type 1009, type 1064, ' +
        'memory 1003, memory 1001, memory 1002, memory 1004',
    );
  });

  test.each(wasmFiles)('%s: bodies copied with the same indices are the same but for padding', (name, bytes) => {
    for (const body of section(readModule(bytes, name), 'code')?.bodies ?? []) {
      const copy = rewriteIndices(body, identity);
      const shape = (step: Step): unknown => [step.opcode, step.indices];
      if (name === 'bindgen.wasm') expectSame(copy, body);
      else expect(steps(copy).map(shape)).toEqual(steps(body).map(shape));
      expect(copy.length).toBeLessThanOrEqual(body.length);
      expectSame(rewriteIndices(copy, identity), copy);
    }
  });

  test('indices moved and moved back are the indices there were', () => {
    const shift: Partial<Record<Space, number>> = { function: 200, type: 70, global: 3, table: 1 };
    const move = (by: 1 | -1) => (space: Space, index: number) => index + by * (shift[space] ?? 0);
    for (const body of bodiesOf('bindgen.wasm')) {
      const moved = rewriteIndices(body, move(1));
      const calls = (of: Uint8Array): string[] =>
        steps(of).flatMap(({ opcode, indices }) => (opcode === 0x10 ? indices : []));
      expect(calls(moved)).toEqual(calls(body).map((call) => `function ${Number(call.slice(9)) + 200}`));
      expectSame(rewriteIndices(moved, move(-1)), body);
    }
  });

  test.each<[string, number[], string]>([
    ['an unknown opcode', [0, 0x27, 0x0b], 'expected an instruction, found opcode 0x27 (at offset 0x1)'],
    [
      'an unknown SIMD opcode',
      [0, 0xfd, 0x9a, 1, 0x0b],
      'expected an instruction, found opcode 0xfd009a (at offset 0x1)',
    ],
    ['no end', [0, 0x01], 'expected an instruction, found end of file (at offset 0x2)'],
    [
      'bytes behind the end',
      [0, 0x0b, 0x0b],
      'expected the end of the function body, found 1 bytes more (at offset 0x2)',
    ],
    ['a constant cut off', [0, 0x44, 1, 2], 'expected a 64-bit float, found 2 of 8 bytes (at offset 0x2)'],
    ['a block type', [0, 0x02, 0x80, 0x7f, 0x0b], 'expected a block type, found -128 (at offset 0x2)'],
    ['a catch clause', [0, 0x1f, 0x40, 1, 4, 0, 0x0b], 'expected a catch clause, found 0x4 (at offset 0x4)'],
    ['too many labels', [0, 0x0e, 0x7f, 0x0b], 'expected 127 labels, found 1 bytes (at offset 0x2)'],
  ])('malformed: %s', (_what, bytes, message) => {
    expect(thrown(() => walkBody(Uint8Array.from(bytes), {}, 'f')).message).toBe(`f: ${message}`);
  });
});

test('mutated objects, modules and archives are read or malformed, nothing else', () => {
  const seed = Date.now() % 1_000_000;
  console.log(`fuzz seed ${seed}`);
  expect(fuzzObjects(1000, seed)).toBeGreaterThan(100);
});
