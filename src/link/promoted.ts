// An object that link-time optimisation of a crate's codegen units went over in; the same with its local symbols as they
// were before out.
//
// What code uses that was inlined from another unit may be local to that unit. LLVM then makes it global, for the linker
// to find, and names it for its unit: `NAME.llvm.UNIT`. When no other unit needs it any more, it is `NAME` again, and
// local. Neither says anything about the program: here it is always `NAME`, local to its unit, and a symbol that another
// unit names it by says which unit that is.

import type { ObjectFile, Symbol } from '../model.ts';

/** Units have letters in their names; digits alone are a hash, of crates that were not compiled for patches. */
const PROMOTED = /^(.+)\.llvm\.([0-9a-z]*[a-z][0-9a-z]*)$/s;

/** What a promoted symbol was called before, and the unit that it is of. */
export function readPromoted(name: string): { readonly name: string; readonly unit: string } | undefined {
  // Hardly any name is one.
  const [, original, unit] = name.includes('.llvm.') ? (PROMOTED.exec(name) ?? []) : [];
  return original === undefined || unit === undefined ? undefined : { name: original, unit };
}

export function demote(object: ObjectFile): ObjectFile {
  if (!object.symbols.some(({ name }) => readPromoted(name) !== undefined)) return object;
  const symbols = object.symbols.map((symbol): Symbol => {
    const promoted = readPromoted(symbol.name);
    if (promoted === undefined) return symbol;
    const local = { ...symbol, name: promoted.name, binding: 'local' } as const;
    return symbol.atom === undefined ? { ...local, unit: promoted.unit } : local;
  });
  return { ...object, symbols };
}

/** The object that a local symbol belongs to. */
export function homeOf(object: Pick<ObjectFile, 'name'>, { unit }: Pick<Symbol, 'unit'>): string {
  if (unit === undefined) return object.name;
  // Units are named within their crate: `app-1f.UNIT`.
  return `${object.name.slice(0, object.name.indexOf('.') + 1)}${unit}`;
}
