// The pure linking stage on small hand-made objects: what counts as a change, what is refused, what a name means.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Comparison, type Definition, definitionOf } from '../src/link/diff.ts';
import { closureRefusal, crateRefusal, matchVtables, vtablesOf } from '../src/link/identity.ts';
import { demangle, readable } from '../src/link/mangle.ts';
import { objectName, readMap } from '../src/link/map.ts';
import { Draft, Program } from '../src/link/program.ts';
import { demote, homeOf, readPromoted } from '../src/link/promoted.ts';
import { wasmTarget } from '../src/link/wasm.ts';
import type { Atom, ObjectFile, Refusal, Relocation, Symbol } from '../src/model.ts';
import { R_WASM_MEMORY_ADDR_SLEB, R_WASM_TABLE_INDEX_I32 } from '../src/object/relocations.ts';

describe('v0 names', () => {
  // What rustc 1.96 writes, and what the mangling's specification says it reads as.
  test.each([
    ['_RNvCsfqzDjq4GkVC_3app5label', 'app::label'],
    ['_RNCNvCsfqzDjq4GkVC_3app4main0B3_', 'app::main::{closure#0}'],
    ['_RNCNvCsfqzDjq4GkVC_3app4mains_0B3_', 'app::main::{closure#1}'],
    ['_RNvXCsfqzDjq4GkVC_3appNtB2_2SqNtB2_5Shape4area', '<app::Sq as app::Shape>::area'],
    ['_RNvYNtCsfqzDjq4GkVC_3app2SqNtB4_5Shape4nameB4_', '<app::Sq as app::Shape>::name'],
    [
      '_RINvNtCs1CYXbLPYCFn_4core3ptr13drop_in_placeDNtCsfqzDjq4GkVC_3app5ShapeEL_EBJ_',
      'core::ptr::drop_in_place::<dyn app::Shape>',
    ],
    [
      '_RNvXsm_NtNtCsk3zbZhqmtP7_12wasm_bindgen7convert6slicesReNtNtB7_6traits11IntoWasmAbi8into_abiB9_',
      '<&str as wasm_bindgen::convert::traits::IntoWasmAbi>::into_abi',
    ],
    ['_ZN4core3fmt9Formatter3pad17h0123456789abcdefE', 'core::fmt::Formatter::pad'],
    ['risky_0cd1cead3f0174fd', 'risky'],
    ['memcpy', 'memcpy'],
  ])('%s', (symbol, path) => {
    expect(readable(symbol)).toBe(path);
  });

  test('a default method and its override have one name, so that their vtables match', () => {
    const provided = demangle('_RNvYNtCsfqzDjq4GkVC_3app2SqNtB4_5Shape4nameB4_');
    const overridden = demangle('_RNvXCsfqzDjq4GkVC_3appNtB2_2SqNtB2_5Shape4name');
    expect(provided?.text).toBe(overridden?.text);
    expect(provided?.implementation).toBe('<app::Sq as app::Shape>');
  });

  test('whatever the text, an answer and no exception', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom(...'RNvCstXMYIKBEDLps_01239abcFTSQ'.split('')), maxLength: 60 }),
        (rest) => {
          demangle(`_R${rest}`);
        },
      ),
    );
  });
});

describe('the linker’s map', () => {
  const map = readMap(
    [
      '    Addr      Off     Size Out     In      Symbol',
      '       -    29fd9    8dfe4 CODE',
      '       -    29fdb       18         deps/app.unit1.run1.rcgu.o:(_RNvCs_3app4main)',
      '       -    29fdb       18                 _RNvCs_3app4main',
      '       -    29ff3       18         deps/libshapes-1f.rlib(shapes-1f.unit2.run1.rcgu.o):(twice)',
      '       -    2a003       18         deps/app.unit1.run1.rcgu.o:(twice)',
      '       -    b7fbd     3f4d DATA',
      '  100000    b7fbe     3ef0 .rodata',
      '  100010    b7fc7       66         deps/app.unit1.run1.rcgu.o:(.rodata..Lanon.f6.0)',
      '  100010    b7fc7       66                 .Lanon.f6.0',
      '  103f4c        0        4 .bss',
      '  103f4c        0        4         deps/app.unit1.run1.rcgu.o:(.bss.COUNT)',
      '  103f4c        0        4                 COUNT',
      '  103f50        0        4                 TOTAL.llvm.unit2x',
      '       -    4e597a    5bba5 CUSTOM(name)',
    ].join('\n'),
  );

  test('names the owner of each function, and the functions that have several', () => {
    expect([...map.functions]).toEqual([['_RNvCs_3app4main', 'app.unit1']]);
    expect([...map.ambiguous]).toEqual(['twice']);
  });

  test('names the functions that were merged into one', () => {
    const merged = readMap(
      [
        '       -    29fd9    8dfe4 CODE',
        '       -    29fdb       18         deps/app.unit1.run1.rcgu.o:(first)',
        '       -    29fdb       18                 first',
        '       -    29fdb       18                 second',
      ].join('\n'),
    );
    expect([...merged.merged]).toEqual([['second', 'first']]);
    expect([...merged.functions.keys()]).toEqual(['first']);
  });

  test('names the address of constants by object and segment, of statics by name', () => {
    expect(map.segments.get('app.unit1:.rodata..Lanon.f6.0')).toBe(0x100010);
    expect(map.data.get('COUNT')).toEqual({ address: 0x103f4c, sizeBytes: 4 });
    expect(map.data.get('TOTAL')).toEqual({ address: 0x103f50, sizeBytes: 4 });
  });

  test('object names do not change from build to build', () => {
    expect(objectName('/a/deps/app.unit1.run1.rcgu.o')).toBe(objectName('/b/app.unit1.run2.rcgu.o'));
    expect(objectName('/a/libshapes-1f.rlib(shapes-1f.unit2.run1.rcgu.o)')).toBe('shapes-1f.unit2');
  });
});

describe('changes', () => {
  const compare = (before: ObjectFile, after: ObjectFile): string[] =>
    new Comparison(wasmTarget).changes([before], [after]).changes.map(({ after: { symbol } }) => symbol.name);

  test('the bytes that relocations fill in do not count', () => {
    const at = (field: number): ObjectFile =>
      object([code('f', [0x41, field, 0, 0, 0, 0, 0x0b], [relocation(1, 'text')]), text('text', 'a')]);
    expect(compare(at(1), at(2))).toEqual([]);
  });

  test('a constant is compared by what it holds, not by its name', () => {
    const holding = (name: string, content: string): ObjectFile =>
      object([code('f', [0x41, 0, 0, 0, 0, 0, 0x0b], [relocation(1, name)]), text(name, content)]);
    expect(compare(holding('.Lanon.1', 'a'), holding('.Lanon.2', 'a'))).toEqual([]);
    expect(compare(holding('.Lanon.1', 'a'), holding('.Lanon.1', 'b'))).toEqual(['f']);
  });

  test('another signature is a change even when the bytes are the same', () => {
    const typed = (signature: string): ObjectFile => object([{ ...code('f', [0x0b], []), signature }]);
    expect(compare(typed('()->()'), typed('(i32)->()'))).toEqual(['f']);
  });

  test('equal keys exactly when constants are equal', () => {
    const key = (content: string): string => {
      const file = object([text('.Lanon.1', content)]);
      const atom = file.atoms[0] as Atom;
      return new Comparison(wasmTarget).key(file, atom);
    };
    fc.assert(
      fc.property(
        fc.string({ maxLength: 4 }),
        fc.string({ maxLength: 4 }),
        (a, b) => (key(a) === key(b)) === (a === b),
      ),
    );
  });
});

describe('symbols that another codegen unit uses', () => {
  const used = (name: string): Symbol => ({
    name,
    kind: name.startsWith('_') ? 'function' : 'data',
    binding: 'global',
    offset: 0,
    sizeBytes: 0,
    exported: false,
    ...(name.startsWith('_') && { signature: '()->()' }),
  });
  /** A function `f` of a unit that names nothing but `name`, of another. */
  const user = (name: string): ObjectFile => {
    const file = object([code('f', [0x41, 0, 0, 0, 0, 0, 0x0b], [{ ...relocation(1, 'f'), offset: 1 }])]);
    const atoms = file.atoms.map((atom) => ({
      ...atom,
      relocations: atom.relocations.map((each) => ({ ...each, symbol: 1 })),
    }));
    return demote({ ...file, atoms, symbols: [...file.symbols, used(name)] });
  };

  test('have the name they had, and are local to the unit they name', () => {
    const [, symbol] = user('anon.1f.3.llvm.unit2x').symbols;
    expect(symbol).toMatchObject({ name: 'anon.1f.3', binding: 'local', unit: 'unit2x' });
    expect(homeOf({ name: 'app-1f.unit1' }, { unit: 'unit2x' })).toBe('app-1f.unit2x');
    expect(homeOf({ name: 'app-1f.unit1' }, {})).toBe('app-1f.unit1');
    const [defined] = demote(object([code('_RNvCs_3app4main.llvm.unit1', [0x0b], [])])).symbols;
    expect(defined).toMatchObject({ name: '_RNvCs_3app4main', binding: 'local', atom: 0 });
    expect(defined).not.toHaveProperty('unit');
  });

  test('a hash of a crate that is never compiled again stays', () => {
    expect(readPromoted('_RNvCs_3std4main.llvm.10684905723776323026')).toBeUndefined();
    expect(readPromoted('switch.table._RNvCs_3app1f.llvm.unit1.llvm.unit2')).toEqual({
      name: 'switch.table._RNvCs_3app1f.llvm.unit1',
      unit: 'unit2',
    });
  });

  test('a constant of another unit is compared by what it holds', () => {
    const holding = (content: string): ObjectFile => ({
      ...demote(object([text('anon.1f.3.llvm.unit2x', content)])),
      name: 'app.unit2x',
    });
    const compare = (before: string, after: string): boolean => {
      const [one, two] = [user('anon.1f.3.llvm.unit2x'), user('anon.1f.3.llvm.unit2x')];
      const homes = new Map([
        [one, holding(before)],
        [two, holding(after)],
      ]);
      const comparison = new Comparison(wasmTarget, (file, symbol) => {
        const home = symbol.unit === undefined ? file : homes.get(file);
        const meant = home?.symbols.find(({ name, atom }) => name === symbol.name && atom !== undefined);
        return home && meant && definitionOf(home, meant);
      });
      return comparison.changes([one], [two]).changes.length === 0;
    };
    expect(compare('a', 'a')).toBe(true);
    expect(compare('a', 'b')).toBe(false);
  });

  test('a function of another unit is not the one of that name in a third', () => {
    const changed = (before: string, after: string): number =>
      new Comparison(wasmTarget).changes([user(before)], [user(after)]).changes.length;
    expect(changed('_RNvCs_3app1g.llvm.unit2x', '_RNvCs_3app1g.llvm.unit2x')).toBe(0);
    expect(changed('_RNvCs_3app1g.llvm.unit2x', '_RNvCs_3app1g.llvm.unit3x')).toBe(1);
  });

  const entry = { slot: 7, signature: '()->()', object: 'app.unit2x' };
  const draft = new Draft(
    new Program({
      base: '',
      version: 0,
      functions: new Map([['app.unit2x\0_RNvCs_3app1g', entry]]),
      ambiguous: new Set(),
      merged: new Map(),
      map: {
        segments: new Map(),
        data: new Map(
          ['_RNvCs_3app5TOTAL.0', '_RNvCs_3app5COUNT'].map((name) => [name, { address: 16, sizeBytes: 4 }]),
        ),
      },
      initial: (_, sizeBytes) => new Uint8Array(sizeBytes),
      free: { slot: 8, areas: [] },
      areaOf: {},
      objects: [],
      hostConstants: '',
    }),
  );

  test('a slot is found by the unit’s own name for the function, and by the others’', () => {
    const [, symbol] = user('_RNvCs_3app1g.llvm.unit2x').symbols as [Symbol, Symbol];
    const [, other] = user('_RNvCs_3app1g.llvm.unit3x').symbols as [Symbol, Symbol];
    expect(draft.entry(object([]), symbol)).toBe(entry);
    expect(draft.entry({ ...object([]), name: 'app.unit2x' }, { ...symbol, unit: 'unit2x' })).toBe(entry);
    expect(draft.entry(object([]), other)).toBeUndefined();
  });

  test('a variable that the optimiser took apart, or put together again, is not a new one', () => {
    expect(['5TOTAL', '5TOTAL.1', '5COUNT.0'].map((name) => draft.isApart({ name: `_RNvCs_3app${name}` }))).toEqual([
      true,
      true,
      true,
    ]);
    expect(
      ['5COUNT', '5TOTAL.0', '3SUM', '3SUM.0'].map((name) => draft.isApart({ name: `_RNvCs_3app${name}` })),
    ).toEqual([false, false, false, false]);
  });
});

describe('identity', () => {
  const closure = (index: string, body = 0x0b): Part =>
    code(`_RNCNvCsfqzDjq4GkVC_3app4main${index}B3_`, [body, 0x0b], []);
  const refusalOf = (before: readonly ObjectFile[], after: readonly ObjectFile[]): Refusal | undefined => {
    const comparison = new Comparison(wasmTarget);
    return closureRefusal(before, after, (a, b) => comparison.same(a, b));
  };
  const named = (parts: readonly Part[]): ObjectFile => ({ ...object(parts), name: 'app.unit1' });

  test('a function that gains a closure is refused by its name', () => {
    const refusal = refusalOf([named([closure('0')])], [named([closure('0'), closure('s_0')])]);
    expect(refusal?.reason).toContain('`app::main` has 2 closures where the running program has 1 closure');
  });

  test('two closures that changed places are refused, and edited ones are not', () => {
    const before = named([closure('0', 1), closure('s_0', 2)]);
    const refusal = refusalOf([before], [named([closure('0', 2), closure('s_0', 1)])]);
    expect(refusal?.reason).toContain('`app::main` has its closures in another order');
    expect(refusalOf([before], [named([closure('0', 3), closure('s_0', 2)])])).toBeUndefined();
    expect(refusalOf([before], [named([closure('0', 2), closure('s_0', 2)])])).toBeUndefined();
  });

  test('a new function may bring closures, and other crates’ closures are not ours to judge', () => {
    expect(refusalOf([named([])], [named([closure('0')])])).toBeUndefined();
    const elsewhere = (parts: readonly Part[]): ObjectFile => ({ ...object(parts), name: 'other.unit1' });
    expect(refusalOf([elsewhere([closure('0')])], [elsewhere([closure('0'), closure('s_0')])])).toBeUndefined();
  });

  test('a crate with another hash is refused; one that shares its name with another is not', () => {
    const app = (...hashes: readonly string[]): ObjectFile =>
      named(hashes.map((hash) => code(`_RNvCs${hash}_3app5label`, [0x0b], [])));
    expect(crateRefusal([app('fqz')], [app('gra')])?.reason).toContain('crate `app`');
    expect(crateRefusal([app('fqz')], [app('fqz', 'gra')])).toBeUndefined();
    expect(crateRefusal([app()], [app('gra')])).toBeUndefined();
  });

  const method = (form: 'X' | 'Y', name: string): string =>
    form === 'Y'
      ? `_RNvYNtCsfqzDjq4GkVC_3app2SqNtB4_5Shape${name}B4_`
      : `_RNvXCsfqzDjq4GkVC_3appNtB2_2SqNtB2_5Shape${name}`;
  const vtable = (sizeBytes: number, methods: readonly string[]): ObjectFile => {
    const words = new Uint32Array([0, sizeBytes, 4, ...methods.map(() => 0)]);
    const relocations = methods.map((name, index) => ({
      ...relocation(12 + 4 * index, name),
      kind: R_WASM_TABLE_INDEX_I32,
    }));
    const bytes = [...new Uint8Array(words.buffer)];
    return object([
      { name: '.Lanon.v', kind: 'constant', bytes, relocations },
      ...methods.map((name) => code(name, [0x0b], [])),
    ]);
  };
  const match = (before: ObjectFile, after: ObjectFile): ReturnType<typeof matchVtables> => {
    const comparison = new Comparison(wasmTarget);
    const read = (file: ObjectFile): ReturnType<typeof vtablesOf> =>
      vtablesOf(file, (owner, atom) => comparison.key(owner, atom), wasmTarget);
    return matchVtables(read(before), read(after));
  };

  test('a default method that was overridden is rewritten in the old vtable', () => {
    const result = match(
      vtable(8, [method('X', '4area'), method('Y', '4name')]),
      vtable(8, [method('X', '4area'), method('X', '4name')]),
    );
    expect('rewritten' in result && result.rewritten.length).toBe(1);
  });

  test('drop glue may come and go', () => {
    const plain = vtable(8, [method('X', '4area')]);
    const glue: Atom['relocations'][number] = { offset: 0, kind: R_WASM_TABLE_INDEX_I32, symbol: 1, addend: 0 };
    const dropped = {
      ...plain,
      atoms: plain.atoms.map((atom) =>
        atom.name === '.Lanon.v' ? { ...atom, relocations: [glue, ...atom.relocations] } : atom,
      ),
    };
    const result = match(plain, dropped);
    expect('rewritten' in result && result.rewritten.length).toBe(1);
  });

  test('a trait with a new method is refused, and a type of another size too', () => {
    const grown = match(vtable(8, [method('X', '4area')]), vtable(8, [method('X', '4name'), method('X', '4area')]));
    expect('refused' in grown && grown.refused.reason).toContain('<app::Sq as app::Shape>');
    const resized = match(vtable(8, [method('X', '4area')]), vtable(16, [method('X', '4area')]));
    expect('refused' in resized && resized.refused.reason).toContain('another size');
  });
});

// ------------------------------------------------------------------------------------------------- objects by hand

interface Part {
  readonly name: string;
  readonly kind: Atom['kind'];
  readonly bytes: readonly number[];
  readonly relocations: readonly NamedRelocation[];
  readonly signature?: string;
}

interface NamedRelocation extends Omit<Relocation, 'symbol'> {
  readonly to: string;
}

function code(name: string, bytes: readonly number[], relocations: readonly NamedRelocation[]): Part {
  return { name, kind: 'code', bytes, relocations, signature: '()->()' };
}

function text(name: string, content: string): Part {
  return { name, kind: 'constant', bytes: [...new TextEncoder().encode(content)], relocations: [] };
}

function relocation(offset: number, to: string): NamedRelocation {
  return { offset, kind: R_WASM_MEMORY_ADDR_SLEB, addend: 0, to };
}

/** Constants are local, as rustc makes them; functions are not. */
function object(parts: readonly Part[]): ObjectFile {
  const symbols = parts.map(({ name, kind, bytes, signature }, atom): Symbol => {
    const symbol = { name, offset: 0, sizeBytes: bytes.length, exported: false, atom };
    return kind === 'code'
      ? { ...symbol, kind: 'function', binding: 'global', signature: signature ?? '()->()' }
      : { ...symbol, kind: 'data', binding: 'local' };
  });
  const atoms = parts.map(({ name, kind, bytes, relocations }, index): Atom => ({
    index,
    name,
    kind,
    bytes: Uint8Array.from(bytes),
    sizeBytes: bytes.length,
    alignment: 4,
    relocations: relocations.map(({ to, ...rest }) => ({
      ...rest,
      symbol: symbols.findIndex(({ name: other }) => other === to),
    })),
  }));
  const file: ObjectFile = { name: 'app.unit1', atoms, symbols, signatures: [] };
  const definitions = symbols.map((symbol): Definition | undefined => definitionOf(file, symbol));
  if (definitions.includes(undefined)) throw new Error('every symbol of a hand-made object is defined');
  return file;
}
