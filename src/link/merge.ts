// A base module and a patch for it in; out comes the module that the base is once the patch has been applied.
//
// To instantiate a patch is to store functions into slots and to write data, by active segments. Segments are applied in
// their order, before anything of the module runs: behind those of the base they do the same. So a program that starts
// from the merged module never ran the code that the patch replaced, as if the linker had made it.

import { functionNames, readNames, writeNames } from '../object/names.ts';
import { rewriteIndices, type Space } from '../object/operators.ts';
import { type CustomSection, readModule, type Section, section, writeModule } from '../object/wasm.ts';

/** Before the names under which a base exports what patches import. */
const EXPORTED = '__hotslot_';

/** The patch must not import from newer glue. Undefined for a base without data when the patch has some: there is no place for it. */
export function mergePatch(base: Uint8Array, patch: Uint8Array): Uint8Array | undefined {
  const module = readModule(base, 'base');
  const added = readModule(patch, 'patch');
  const exports = new Map((section(module, 'export')?.exports ?? []).map(({ name, index }) => [name, index]));

  // The patch's imports, by space and index there, are what the base exports for patches.
  const imported: Partial<Record<Space, number[]>> = {};
  for (const { kind, name } of section(added, 'import')?.imports ?? []) {
    if (kind === 'function') throw new Error('functions of newer glue are for a running page only');
    const index = kind === 'memory' ? 0 : exports.get(`${EXPORTED}${name}`);
    if (index === undefined) throw new Error(`the base has no ${EXPORTED}${name}`);
    (imported[kind] ??= []).push(index);
  }

  const types = [...(section(module, 'type')?.types ?? [])];
  const typeOf = (section(added, 'type')?.types ?? []).map((type) => {
    const known = types.indexOf(type);
    return known >= 0 ? known : types.push(type) - 1;
  });
  const functions = section(module, 'function')?.types ?? [];
  const first =
    functions.length + (section(module, 'import')?.imports ?? []).filter(({ kind }) => kind === 'function').length;
  const map = (space: Space, index: number): number => {
    if (space === 'type') return typeOf[index] ?? fail(`type ${index}`);
    if (space === 'function') return first + index;
    return imported[space]?.[index] ?? fail(`${space} ${index}`);
  };

  const written = section(added, 'data')?.segments ?? [];
  const initial = section(module, 'data')?.segments;
  if (initial === undefined && written.length > 0) return undefined;
  const data = [...(initial ?? []), ...written];
  const elements = (section(added, 'element')?.segments ?? []).map((segment) => {
    const table = map('table', segment.table);
    const items = (segment.items as readonly number[]).map((index) => first + index);
    return { ...segment, flags: table === 0 ? 0 : 2, table, items };
  });
  const bodies = (section(added, 'code')?.bodies ?? []).map((body) => rewriteIndices(body, map));
  const replaced: Partial<Record<Section['kind'], Section>> = {
    type: { kind: 'type', types },
    function: {
      kind: 'function',
      types: [...functions, ...(section(added, 'function')?.types ?? []).map((type) => map('type', type))],
    },
    element: { kind: 'element', segments: [...(section(module, 'element')?.segments ?? []), ...elements] },
    dataCount: { kind: 'dataCount', count: data.length },
    code: { kind: 'code', bodies: [...(section(module, 'code')?.bodies ?? []), ...bodies] },
    data: { kind: 'data', segments: data },
  };
  const sections = module.sections.map((old) =>
    old.kind === 'custom' && old.name === 'name'
      ? withNames(old, functionNames(added), first)
      : (replaced[old.kind] ?? old),
  );
  return writeModule({ name: module.name, sections });
}

function withNames(old: CustomSection, added: ReadonlyMap<number, string>, first: number): CustomSection {
  const more = Array.from(added, ([index, name]) => [first + index, name] as const);
  const parts = readNames(old.bytes).map((part) =>
    part.kind === 'functions' ? { ...part, names: new Map([...part.names, ...more]) } : part,
  );
  return { kind: 'custom', name: old.name, bytes: writeNames(parts) };
}

function fail(what: string): never {
  throw new Error(`the patch names ${what}, which it does not have`);
}
