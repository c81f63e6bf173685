// Debug information written here byte by byte, for what rustc does not write on this machine: every form, both sizes of
// offsets, types in units of their own, and types that no program has.
import { describe, expect, test } from 'vitest';

import { layoutRefusal } from '../src/link/layout.ts';
import type { ObjectFile } from '../src/model.ts';
import { MalformedError, Writer } from '../src/object/bytes.ts';
import type { Debugged } from '../src/object/debugfile.ts';
import { DebugInfo } from '../src/object/dwarf.ts';
import type { DebugFile } from '../src/object/dwarfsections.ts';
import { writeSigned, writeUnsigned } from '../src/object/leb128.ts';

const TAG = {
  compile_unit: 0x11,
  structure_type: 0x13,
  base_type: 0x24,
  member: 0x0d,
  type_unit: 0x41,
  formal_parameter: 0x05,
  subroutine_type: 0x15,
  lexical_block: 0x0b,
  inlined_subroutine: 0x1d,
  subprogram: 0x2e,
  namespace: 0x39,
};
const AT = {
  name: 0x03,
  byte_size: 0x0b,
  data_member_location: 0x38,
  type: 0x49,
  signature: 0x69,
  str_offsets_base: 0x72,
  linkage_name: 0x6e,
};
const UNKNOWN_AT = 0x3ffe;
const string = 0x08;
const data1 = 0x0b;
const ref4 = 0x13;

/** An attribute: its number, its form, and the bytes of its value; of an implicit constant, the value. */
type Attribute = readonly [at: number, form: number, value: readonly number[], implicit?: number];

interface Die {
  readonly tag: number;
  readonly attributes: readonly Attribute[];
  readonly children?: readonly Die[];
}

const text = (value: string): number[] => [...new TextEncoder().encode(`${value}\0`)];
const named = (tag: number, name: string, ...attributes: Attribute[]): Die => ({
  tag,
  attributes: [...attributes, [AT.name, string, text(name)]],
});

function little(value: number, width: number): number[] {
  return Array.from({ length: width }, (_, index) => Math.floor(value / 256 ** index) % 256);
}

interface Layout {
  readonly version?: 4 | 5;
  readonly is64?: boolean;
  /** In a section of types, or a unit that says so: the signature, and which of its entries the type is. */
  readonly signature?: number;
  readonly typeOffset?: number;
}

/** A unit with one entry around `children`, and the abbreviations it takes; each entry has its own. */
function unit(
  children: readonly Die[],
  layout: Layout = {},
  attributes: readonly Attribute[] = [],
): [number[], number[]] {
  const { version = 5, is64 = false, signature, typeOffset = 0 } = layout;
  const abbreviations = new Writer();
  const entries = new Writer();
  let codes = 0;
  const write = (die: Die): void => {
    writeUnsigned(abbreviations, ++codes);
    writeUnsigned(entries, codes);
    writeUnsigned(abbreviations, die.tag);
    abbreviations.u8(die.children === undefined ? 0 : 1);
    for (const [at, form, value, implicit] of die.attributes) {
      writeUnsigned(abbreviations, at);
      writeUnsigned(abbreviations, form);
      if (implicit !== undefined) writeSigned(abbreviations, implicit);
      entries.bytes(value);
    }
    abbreviations.bytes([0, 0]);
    die.children?.forEach(write);
    if (die.children !== undefined) entries.u8(0);
  };
  write({ tag: signature === undefined ? TAG.compile_unit : TAG.type_unit, attributes, children });
  abbreviations.u8(0);
  const offsetSize = is64 ? 8 : 4;
  const offset = little(0, offsetSize);
  const isType = signature !== undefined;
  const body = [
    ...little(version, 2),
    ...(version === 5 ? [isType ? 2 : 1, 4, ...offset] : [...offset, 4]),
    ...(isType ? [...little(signature, 8), ...little(typeOffset, offsetSize)] : []),
    ...entries.finish(),
  ];
  const length = is64 ? [0xff, 0xff, 0xff, 0xff, ...little(body.length, 8)] : little(body.length, 4);
  return [[...length, ...body], [...abbreviations.finish()]];
}

function file(sections: Readonly<Record<string, readonly number[]>>): DebugFile {
  return {
    name: 'made',
    sections: (name) => {
      const bytes = sections[name];
      if (bytes === undefined) return [];
      const relocations = () => ({ places: new Uint32Array(), values: new Float64Array() });
      return [{ bytes: Uint8Array.from(bytes), offset: 0, relocations }];
    },
  };
}

function read(children: readonly Die[], layout?: Layout, more: Record<string, readonly number[]> = {}): DebugInfo {
  const [info, abbreviations] = unit(children, layout);
  return new DebugInfo(file({ '.debug_info': info, '.debug_abbrev': abbreviations, ...more }));
}

const sizes = [
  ['32-bit', { is64: false }],
  ['64-bit', { is64: true }],
] as const;

describe.each(sizes)('the %s format', (_, layout) => {
  const offset = little(1, layout.is64 ? 8 : 4);

  test.each([
    ['DW_FORM_addr', 0x01, [1, 2, 3, 4]],
    ['DW_FORM_block2', 0x03, [2, 0, 9, 9]],
    ['DW_FORM_block4', 0x04, [1, 0, 0, 0, 9]],
    ['DW_FORM_data2', 0x05, [1, 2]],
    ['DW_FORM_data4', 0x06, [1, 2, 3, 4]],
    ['DW_FORM_data8', 0x07, [1, 2, 3, 4, 5, 6, 7, 8]],
    ['DW_FORM_string', 0x08, text('skipped')],
    ['DW_FORM_block', 0x09, [3, 9, 9, 9]],
    ['DW_FORM_block1', 0x0a, [2, 9, 9]],
    ['DW_FORM_data1', 0x0b, [1]],
    ['DW_FORM_flag', 0x0c, [1]],
    ['DW_FORM_sdata', 0x0d, [0xff, 0x7f]],
    ['DW_FORM_strp', 0x0e, offset],
    ['DW_FORM_udata', 0x0f, [0xff, 0xff, 3]],
    ['DW_FORM_ref_addr', 0x10, offset],
    ['DW_FORM_ref1', 0x11, [1]],
    ['DW_FORM_ref2', 0x12, [1, 2]],
    ['DW_FORM_ref4', 0x13, [1, 2, 3, 4]],
    ['DW_FORM_ref8', 0x14, [1, 2, 3, 4, 5, 6, 7, 8]],
    ['DW_FORM_ref_udata', 0x15, [0x81, 1]],
    ['DW_FORM_indirect', 0x16, [0x0a, 2, 9, 9]],
    ['DW_FORM_sec_offset', 0x17, offset],
    ['DW_FORM_exprloc', 0x18, [1, 9]],
    ['DW_FORM_flag_present', 0x19, []],
    ['DW_FORM_strx', 0x1a, [1]],
    ['DW_FORM_addrx', 0x1b, [0x80, 1]],
    ['DW_FORM_ref_sup4', 0x1c, [1, 2, 3, 4]],
    ['DW_FORM_strp_sup', 0x1d, offset],
    ['DW_FORM_data16', 0x1e, little(7, 16)],
    ['DW_FORM_line_strp', 0x1f, offset],
    ['DW_FORM_ref_sig8', 0x20, [1, 2, 3, 4, 5, 6, 7, 8]],
    ['DW_FORM_loclistx', 0x22, [0x80, 1]],
    ['DW_FORM_rnglistx', 0x23, [1]],
    ['DW_FORM_ref_sup8', 0x24, [1, 2, 3, 4, 5, 6, 7, 8]],
    ['DW_FORM_strx1', 0x25, [1]],
    ['DW_FORM_strx2', 0x26, [1, 2]],
    ['DW_FORM_strx3', 0x27, [1, 2, 3]],
    ['DW_FORM_strx4', 0x28, [1, 2, 3, 4]],
    ['DW_FORM_addrx1', 0x29, [1]],
    ['DW_FORM_addrx2', 0x2a, [1, 2]],
    ['DW_FORM_addrx3', 0x2b, [1, 2, 3]],
    ['DW_FORM_addrx4', 0x2c, [1, 2, 3, 4]],
    ['DW_FORM_GNU_addr_index', 0x1f01, [1]],
    ['DW_FORM_GNU_str_index', 0x1f02, [1]],
    ['DW_FORM_GNU_ref_alt', 0x1f20, offset],
    ['DW_FORM_GNU_strp_alt', 0x1f21, offset],
  ])('%s is passed over', (_name, form, value) => {
    const info = read(
      [
        named(TAG.structure_type, 'S', [UNKNOWN_AT, form, value]),
        named(TAG.structure_type, 'T', [AT.byte_size, data1, [7]]),
      ],
      layout,
    );
    expect([...info.typeNames]).toEqual(['S', 'T']);
    expect(info.typesNamed('T')[0]?.sizeBytes).toBe(7);
  });

  test.each([
    ['DW_FORM_string', 0x08, text('two')],
    ['DW_FORM_strp', 0x0e, little(4, layout.is64 ? 8 : 4)],
    ['DW_FORM_line_strp', 0x1f, little(2, layout.is64 ? 8 : 4)],
    ['DW_FORM_strx', 0x1a, [1]],
    ['DW_FORM_strx1', 0x25, [1]],
    ['DW_FORM_strx2', 0x26, [1, 0]],
    ['DW_FORM_strx3', 0x27, [1, 0, 0]],
    ['DW_FORM_strx4', 0x28, [1, 0, 0, 0]],
    ['DW_FORM_GNU_str_index', 0x1f02, [1]],
    ['DW_FORM_indirect', 0x16, [0x25, 1]],
  ])('a name as %s', (_name, form, value) => {
    const width = layout.is64 ? 8 : 4;
    const offsets = [...little(0, 2 * width), ...little(0, width), ...little(4, width)];
    const info = read([{ tag: TAG.structure_type, attributes: [[AT.name, form, value]] }], layout, {
      '.debug_str': [...text('one'), ...text('two')],
      '.debug_line_str': [...text('1'), ...text('two')],
      '.debug_str_offsets': offsets,
    });
    expect([...info.typeNames]).toEqual(['two']);
  });

  test.each([
    ['DW_FORM_data1', 0x0b, [200]],
    ['DW_FORM_data2', 0x05, [200, 0]],
    ['DW_FORM_data4', 0x06, [200, 0, 0, 0]],
    ['DW_FORM_data8', 0x07, little(200, 8)],
    ['DW_FORM_udata', 0x0f, [0xc8, 1]],
    ['DW_FORM_sdata', 0x0d, [0xc8, 1]],
    ['DW_FORM_indirect', 0x16, [0x0b, 200]],
    ['DW_FORM_implicit_const', 0x21, [], 200],
  ] as const)('a size as %s', (_name, form, value, implicit?: number) => {
    const size: Attribute =
      implicit === undefined ? [AT.byte_size, form, value] : [AT.byte_size, form, value, implicit];
    expect(read([named(TAG.structure_type, 'S', size)], layout).typesNamed('S')[0]?.sizeBytes).toBe(200);
  });

  test('a type in a unit of its own', () => {
    const member = {
      tag: TAG.member,
      attributes: [
        [AT.name, string, text('m')],
        [AT.type, 0x20, little(77, 8)],
      ],
    } as const;
    const [info, abbreviations] = unit([{ ...named(TAG.structure_type, 'S'), children: [member] }], {
      ...layout,
      version: 4,
    });
    // Behind the header: one byte of code for the unit's own entry, which has no attributes.
    const header = layout.is64 ? 12 + 2 + 8 + 1 + 8 + 8 : 4 + 2 + 4 + 1 + 8 + 4;
    const types = { ...layout, version: 4, signature: 77, typeOffset: header + 1 } as const;
    const [other, otherAbbreviations] = unit([named(TAG.structure_type, 'Far', [AT.byte_size, data1, [9]])], types);
    // Abbreviations of the second unit begin where those of the first end.
    const at = layout.is64 ? 14 : 6;
    other.splice(at, layout.is64 ? 8 : 4, ...little(abbreviations.length, layout.is64 ? 8 : 4));
    const sections = {
      '.debug_info': info,
      '.debug_types': other,
      '.debug_abbrev': [...abbreviations, ...otherAbbreviations],
    };
    const [type] = new DebugInfo(file(sections)).typesNamed('S');
    expect(type?.members.map(({ name, type: of }) => [name, of.name, of.sizeBytes])).toEqual([['m', 'Far', 9]]);
  });
});

describe('references', () => {
  const HEADER = 12;
  // The unit's own entry is one byte, the first type follows: its code, its size, its name.
  const first = HEADER + 1;

  test.each([
    ['DW_FORM_ref_addr', 0x10, little(first, 4)],
    ['DW_FORM_ref1', 0x11, [first]],
    ['DW_FORM_ref2', 0x12, [first, 0]],
    ['DW_FORM_ref4', 0x13, little(first, 4)],
    ['DW_FORM_ref8', 0x14, little(first, 8)],
    ['DW_FORM_ref_udata', 0x15, [first]],
  ])('%s', (_name, form, value) => {
    const base = named(TAG.base_type, 'u32', [AT.byte_size, data1, [4]]);
    const member = { tag: TAG.member, attributes: [[AT.type, form, value]] } as const;
    const info = read([base, { ...named(TAG.structure_type, 'S'), children: [member] }]);
    expect(info.typesNamed('S')[0]?.members[0]?.type).toMatchObject({ kind: 'base', name: 'u32', sizeBytes: 4 });
  });

  test.each([
    ['nothing', 0xffff],
    ['the header', 3],
  ])('to %s', (_name, place) => {
    const member = { tag: TAG.member, attributes: [[AT.type, ref4, little(place, 4)]] } as const;
    const [type] = read([{ ...named(TAG.structure_type, 'S'), children: [member] }]).typesNamed('S');
    expect(() => type?.members).toThrow(MalformedError);
    expect(() => type?.members).toThrow('expected a type or a function');
  });

  test('by a signature that no type has', () => {
    const member = { tag: TAG.member, attributes: [[AT.type, 0x20, little(5, 8)]] } as const;
    const [type] = read([{ ...named(TAG.structure_type, 'S'), children: [member] }]).typesNamed('S');
    expect(() => type?.members).toThrow('expected a type with that signature, found 0x5');
  });
});

describe('types that no program has', () => {
  const object = (debug: DebugFile): ObjectFile & Debugged => ({
    name: 'a.o',
    atoms: [],
    symbols: [],
    signatures: [],
    debug,
  });
  const symbol = { name: 'f', kind: 'function', binding: 'local', offset: 0, sizeBytes: 0, exported: false } as const;
  const atom = {
    index: 0,
    name: 'f',
    kind: 'code',
    bytes: new Uint8Array(),
    sizeBytes: 0,
    alignment: 1,
    relocations: [],
  } as const;

  /** Compared with itself, beside another name that nothing has: or it would be plain that nothing changed. */
  function reason(children: readonly Die[]): string | undefined {
    const [info, abbreviations] = unit(children);
    const make = (name: string): ObjectFile =>
      object(file({ '.debug_info': info, '.debug_abbrev': abbreviations, '.debug_str': [...text(name)] }));
    const after = make('now');
    return layoutRefusal([make('before')], [after], [{ after: { object: after, symbol, atom } }])?.reason;
  }

  const struct = (name: string, place: number): Die => ({
    ...named(TAG.structure_type, name),
    children: [
      {
        tag: TAG.member,
        attributes: [
          [AT.name, string, text('m')],
          [AT.type, ref4, little(place, 4)],
        ],
      },
    ],
  });

  test('a type that holds itself', () => {
    expect(reason([struct('app::S', 13)])).toBeUndefined();
  });

  test('a type of too many types', () => {
    // Codes up to 127 take one byte, those behind two: names make up for it, so that each entry is as long.
    const size = 20;
    const chain = Array.from({ length: 600 }, (_, index): Die => {
      const codes = [2 * index + 2, 2 * index + 3].filter((code) => code > 127).length;
      return struct(
        `app::${'x'.repeat(2 - codes)}${String(index).padStart(3, '0')}`.slice(0, 10),
        13 + size * Math.min(index + 1, 599),
      );
    });
    const [info] = unit(chain);
    expect(info.length).toBe(12 + 1 + size * 600 + 1);
    expect(reason(chain)).toContain('is too deep to compare');
  });
});

test('function types that take and return each other, without a name', () => {
  const HEADER = 12;
  // A pair that name each other twice: described in full, each level would be twice as long as the next.
  const parameter = (place: number): Die => ({
    tag: TAG.formal_parameter,
    attributes: [[AT.type, ref4, little(place, 4)]],
  });
  const size = 1 + 2 * 5 + 1;
  const pair = [0, 1].map((index): Die => {
    const other = HEADER + 1 + size * (1 - index);
    return { tag: TAG.subroutine_type, attributes: [], children: [parameter(other), parameter(other)] };
  });
  const member: Die = { tag: TAG.member, attributes: [[AT.type, ref4, little(HEADER + 1, 4)]] };
  const [type] = read([...pair, { ...named(TAG.structure_type, 'S'), children: [member] }]).typesNamed('S');
  expect(type?.members[0]?.type.name).toBe('fn(fn(…, …) -> (), fn(…, …) -> ()) -> ()');
});

test('a type in a block of a function belongs to what the function is in', () => {
  const block: Die = { tag: TAG.lexical_block, attributes: [], children: [named(TAG.structure_type, 'S')] };
  const parameter: Die = { tag: TAG.formal_parameter, attributes: [] };
  const inlined: Die = { tag: TAG.inlined_subroutine, attributes: [], children: [parameter] };
  const linked: Attribute = [AT.linkage_name, string, text('f')];
  const body: Die = { ...named(TAG.subprogram, 'f', linked), children: [parameter, inlined, block] };
  const info = read([{ ...named(TAG.namespace, 'app'), children: [body] }]);
  expect([...info.typeNames]).toEqual(['app::S']);
  expect(info.functions.get('f')).toMatchObject({
    name: 'app::f',
    parameters: [{ name: '()' }],
    result: { name: '()' },
  });
});

test('a string of names that is not closed', () => {
  const info = read(
    [{ tag: TAG.structure_type, attributes: [[AT.name, 0x0e, little(0, 4)]] }],
    {},
    { '.debug_str': [65, 66] },
  );
  expect(() => [...info.typeNames]).toThrow(MalformedError);
});

test('names by index without a table', () => {
  const info = read([{ tag: TAG.structure_type, attributes: [[AT.name, 0x25, [1]]] }]);
  expect(() => [...info.typeNames]).toThrow('expected a section .debug_str_offsets, found none');
});

test('the base of the offsets of names', () => {
  const base: Attribute = [AT.str_offsets_base, 0x17, little(3, 4)];
  const [info, abbreviations] = unit([{ tag: TAG.structure_type, attributes: [[AT.name, 0x25, [0]]] }], {}, [base]);
  const sections = {
    '.debug_info': info,
    '.debug_abbrev': abbreviations,
    '.debug_str': [0, ...text('S')],
    '.debug_str_offsets': [9, 9, 9, 1, 0, 0, 0],
  };
  expect([...new DebugInfo(file(sections)).typeNames]).toEqual(['S']);
});
