// An object's debug information in; out come its types, with all that decides where things are in memory, and what its
// functions take and return. Read unit by unit and entry by entry, when asked.
//
// What rustc writes: structs, tuples, wide pointers and closures' environments are structures; `Box<T>` and references are
// named pointers; an enum with data is a structure whose variant part has a structure for each variant; so is a
// coroutine, with a variant for each place where it may be suspended.
// https://rustc-dev-guide.rust-lang.org/debuginfo/rust-codegen.html; DWARF 5, chapter 5

import type { ObjectFile } from '../model.ts';
import { debugFile } from './debugfile.ts';
import { DW_TAG } from './dwarfabbrev.ts';
import { describeSame } from './dwarfsame.ts';
import type { DebugFile } from './dwarfsections.ts';
import { type Unit, Units } from './dwarfunit.ts';

export type TypeKind =
  | 'void'
  | 'base'
  | 'pointer'
  | 'array'
  | 'struct'
  | 'union'
  /** Without data: names for numbers. */
  | 'enumeration'
  | 'function'
  /** Another name for a type, or the type with a qualifier. */
  | 'alias'
  | 'other';

export interface Member {
  readonly name: string;
  /** In bytes. */
  readonly offset: number;
  readonly type: Type;
}

/** The variants of an enum with data, or the states of a coroutine. */
export interface VariantPart {
  /** Where the number is that tells which one it is; an enum with one inhabited variant has none. */
  readonly tag?: Member;
  readonly variants: readonly Variant[];
}

export interface Variant {
  readonly name: string;
  /** As text; absent for the variant whose own data tells it by being none of the other numbers. */
  readonly value?: string;
  /** Its data; of a coroutine what it holds while it is suspended there. */
  readonly data: Type;
  readonly offset: number;
}

export interface FunctionType {
  readonly linkageName: string;
  /** As rustc writes it: `app::{impl#0}::handle::{async_fn#0}`. */
  readonly name: string;
  readonly parameters: readonly Type[];
  readonly result: Type;
}

export interface StaticType {
  readonly linkageName: string;
  readonly name: string;
  readonly type: Type;
}

/** Of a description within another: of types without a name that hold types without a name, only damaged files have more. */
const MAX_LENGTH = 4096;
const MAX_DEPTH = 64;

const kinds: ReadonlyMap<number, TypeKind> = new Map<number, TypeKind>([
  [DW_TAG.base_type, 'base'],
  [DW_TAG.pointer_type, 'pointer'],
  [DW_TAG.reference_type, 'pointer'],
  [DW_TAG.rvalue_reference_type, 'pointer'],
  [DW_TAG.array_type, 'array'],
  [DW_TAG.structure_type, 'struct'],
  [DW_TAG.class_type, 'struct'],
  [DW_TAG.union_type, 'union'],
  [DW_TAG.enumeration_type, 'enumeration'],
  [DW_TAG.subroutine_type, 'function'],
  [DW_TAG.typedef, 'alias'],
  [DW_TAG.const_type, 'alias'],
  [DW_TAG.volatile_type, 'alias'],
  [DW_TAG.restrict_type, 'alias'],
  [DW_TAG.atomic_type, 'alias'],
  [DW_TAG.string_type, 'other'],
  [DW_TAG.ptr_to_member_type, 'other'],
  [DW_TAG.set_type, 'other'],
  [DW_TAG.subrange_type, 'other'],
  [DW_TAG.file_type, 'other'],
  [DW_TAG.packed_type, 'alias'],
  [DW_TAG.interface_type, 'other'],
  [DW_TAG.unspecified_type, 'other'],
]);

/** A type as one unit describes it. Each is one object per file, so types may be told apart by identity. */
export class Type {
  readonly kind: TypeKind;
  readonly sizeBytes: number;
  /** In bytes; 0 where the debug information does not say. */
  readonly alignment: number;
  /** `DW_ATE_*` of a base type. */
  readonly encoding: number;
  readonly #info: DebugInfo;
  readonly #unit: Unit;
  readonly #index: number;
  readonly #ownName: string | undefined;
  readonly #target: number | undefined;
  #name: string | undefined;
  #members: readonly Member[] | undefined;
  #variantPart: VariantPart | null | undefined;

  /** With an index of -1, of the type that nothing is written of: `()`. */
  constructor(info: DebugInfo, unit: Unit, index: number, kind: TypeKind) {
    const entry = index < 0 ? undefined : unit.entry(index);
    this.kind = kind;
    this.sizeBytes = entry?.sizeBytes ?? 0;
    this.alignment = entry?.alignment ?? 0;
    this.encoding = entry?.encoding ?? 0;
    this.#ownName = entry?.name;
    this.#target = entry?.type;
    this.#info = info;
    this.#unit = unit;
    this.#index = index;
  }

  /** As rustc writes it, namespaces and generic arguments included: `alloc::vec::Vec<app::State>`. */
  get name(): string {
    return (this.#name ??= this.#describe(0));
  }

  /** Fields of a structure or union, parameters of a function. */
  get members(): readonly Member[] {
    return (this.#members ??= this.#readMembers());
  }

  get variantPart(): VariantPart | undefined {
    if (this.#variantPart === undefined) this.#variantPart = this.#readVariants() ?? null;
    return this.#variantPart ?? undefined;
  }

  /** What a pointer points to, an array holds, an alias stands for, a function returns, an enumeration counts with. */
  get target(): Type {
    return this.#info.typeAt(this.#target);
  }

  /** Of an array: how many there are, in each dimension. */
  get count(): string {
    return this.#unit
      .children(this.#index, DW_TAG.subrange_type)
      .map((index) => this.#unit.entry(index).count ?? '')
      .join('][');
  }

  /** Names and numbers of an enumeration. */
  get values(): readonly { readonly name: string; readonly value: string }[] {
    return this.#unit.children(this.#index, DW_TAG.enumerator).map((index) => {
      const { name = '', value = '' } = this.#unit.entry(index);
      return { name, value };
    });
  }

  #describe(depth: number): string {
    const name = this.#ownName;
    if (name !== undefined) return this.#info.qualified(this.#unit, this.#index, name);
    if (this.kind === 'void') return '()';
    if (depth > MAX_DEPTH) return '…';
    // In a circle, what is around is not told again.
    this.#name = '…';
    const nested = (type: Type): string => {
      const text = type.#name ?? (type.#name = type.#describe(depth + 1));
      return text.length > MAX_LENGTH ? '…' : text;
    };
    switch (this.kind) {
      case 'pointer':
        return `*${nested(this.target)}`;
      case 'array':
        return `[${nested(this.target)}; ${this.count}]`;
      case 'function':
        return `fn(${this.members.map(({ type }) => nested(type)).join(', ')}) -> ${nested(this.target)}`;
      default:
        return `{${this.kind}}`;
    }
  }

  #readMembers(): Member[] {
    const tag = this.kind === 'function' ? DW_TAG.formal_parameter : DW_TAG.member;
    return this.#unit.children(this.#index, tag).map((index) => this.#info.member(this.#unit, index));
  }

  #readVariants(): VariantPart | undefined {
    const unit = this.#unit;
    const part = unit.child(this.#index, DW_TAG.variant_part);
    if (part === undefined) return undefined;
    const { discriminant } = unit.entry(part);
    const variants: Variant[] = [];
    for (const index of unit.children(part, DW_TAG.variant)) {
      const { value } = unit.entry(index);
      for (const child of unit.children(index, DW_TAG.member)) {
        const { name, offset, type } = this.#info.member(unit, child);
        variants.push({ name, offset, data: type, ...(value !== undefined && { value }) });
      }
    }
    if (discriminant === undefined) return { variants };
    return { tag: this.#info.member(unit, unit.indexAt(discriminant)), variants };
  }
}

/** What an object says of its types and functions. Throws MalformedError from whatever reads it first. */
export class DebugInfo {
  readonly #file: DebugFile;
  readonly #units: Units;
  readonly #types = new Map<number, Type>();
  readonly #scopes = new Map<number, string>();
  #void: Type | undefined;
  #named: ReadonlyMap<string, readonly number[]> | undefined;
  #functions: ReadonlyMap<string, FunctionType> | undefined;
  #statics: readonly StaticType[] | undefined;

  constructor(file: DebugFile) {
    this.#file = file;
    this.#units = new Units(file);
  }

  /** True when it is plain to see that types and statics are described as `other` describes them. */
  isLike(other: DebugInfo): boolean {
    return describeSame({ file: this.#file, units: this.#units }, { file: other.#file, units: other.#units });
  }

  /** Names of structures, unions and enumerations that `typesNamed` gives. */
  get typeNames(): Iterable<string> {
    return this.#indexed().keys();
  }

  /**
   * The structures, unions and enumerations of that name. Several of one name are different types that rustc does not
   * tell apart: in blocks of one function, of two versions of a crate.
   */
  typesNamed(name: string): readonly Type[] {
    return (this.#indexed().get(name) ?? []).map((place) => this.typeAt(place));
  }

  /** True when anything is said of types at all, be it that one is `u32`. */
  get describesTypes(): boolean {
    return this.#units.list.some((unit) => {
      for (let index = 0; index < unit.count; index++) if (kinds.has(unit.tag(index))) return true;
      return false;
    });
  }

  /** Places of types, by name. */
  #indexed(): ReadonlyMap<string, readonly number[]> {
    if (this.#named !== undefined) return this.#named;
    const named = new Map<string, number[]>();
    for (const unit of this.#units.list) {
      for (let index = 0; index < unit.count; index++) {
        const kind = kinds.get(unit.tag(index));
        if (kind !== 'struct' && kind !== 'union' && kind !== 'enumeration') continue;
        // In a structure with variants: the data of one of them, which is part of the type around it.
        const parent = unit.parent(index);
        if (unit.tag(parent) === DW_TAG.structure_type && unit.child(parent, DW_TAG.variant_part) !== undefined)
          continue;
        const own = unit.name(index);
        // Without children it may be no more than a declaration.
        if (own === undefined || (unit.isLeaf(index) && unit.entry(index).isDeclaration)) continue;
        const name = this.qualified(unit, index, own);
        const same = named.get(name);
        if (same === undefined) named.set(name, [unit.place(index)]);
        else same.push(unit.place(index));
      }
    }
    return (this.#named = named);
  }

  /** By linkage name. */
  get functions(): ReadonlyMap<string, FunctionType> {
    if (this.#functions !== undefined) return this.#functions;
    const functions = new Map<string, FunctionType>();
    for (const unit of this.#units.list) {
      for (let index = 0; index < unit.count; index++) {
        if (unit.tag(index) !== DW_TAG.subprogram) continue;
        const linkageName = unit.linkageName(index);
        // What has an origin says its name there, and says it once.
        if (linkageName === undefined || functions.has(linkageName)) continue;
        functions.set(linkageName, new LazyFunction(this, unit, index, linkageName));
      }
    }
    return (this.#functions = functions);
  }

  get statics(): readonly StaticType[] {
    return (this.#statics ??= this.#units.list.flatMap((unit) => {
      const found: StaticType[] = [];
      for (let index = 0; index < unit.count; index++) {
        if (unit.tag(index) !== DW_TAG.variable) continue;
        const linkageName = unit.linkageName(index);
        if (linkageName === undefined) continue;
        const { name = '', type } = unit.entry(index);
        found.push({ linkageName, name: this.qualified(unit, index, name), type: this.typeAt(type) });
      }
      return found;
    }));
  }

  /** @internal The type at a place; of none, `()`. */
  typeAt(place: number | undefined): Type {
    if (place === undefined) {
      return (this.#void ??= new Type(this, this.#units.at(0), -1, 'void'));
    }
    const known = this.#types.get(place);
    if (known !== undefined) return known;
    const unit = this.#units.at(place);
    const index = unit.indexAt(place);
    const { definition } = unit.entry(index);
    // In a unit of its own, and only declared here.
    if (definition === undefined) return this.typeOf(unit, index);
    const other = this.#units.at(definition);
    return this.typeOf(other, other.indexAt(definition));
  }

  /** @internal */
  typeOf(unit: Unit, index: number): Type {
    const place = unit.place(index);
    const known = this.#types.get(place);
    if (known !== undefined) return known;
    const kind = kinds.get(unit.tag(index)) ?? unit.fail('a type', `tag 0x${unit.tag(index).toString(16)}`, place);
    const type = new Type(this, unit, index, kind);
    this.#types.set(place, type);
    return type;
  }

  /** @internal A member or a parameter; of a function, what it returns. An entry's origin may say the type. */
  member(unit: Unit, index: number): Member {
    const { name = '', offset, type, origin } = unit.entry(index);
    if (type !== undefined || origin === undefined) return { name, offset, type: this.typeAt(type) };
    const other = this.#units.at(origin);
    return { name, offset, type: this.typeAt(other.entry(other.indexAt(origin)).type) };
  }

  /** @internal `name` behind the names of the namespaces and types around an entry. */
  qualified(unit: Unit, index: number, name: string): string {
    const scope = this.#scope(unit, unit.parent(index));
    return scope === '' ? name : `${scope}::${name}`;
  }

  #scope(unit: Unit, index: number): string {
    if (index < 0) return '';
    const tag = unit.tag(index);
    const isScope = tag === DW_TAG.namespace || tag === DW_TAG.module || kinds.has(tag);
    if (!isScope) return tag === DW_TAG.subprogram ? this.#scope(unit, unit.parent(index)) : '';
    const place = unit.place(index);
    const known = this.#scopes.get(place);
    if (known !== undefined) return known;
    const scope = this.qualified(unit, index, unit.name(index) ?? '');
    this.#scopes.set(place, scope);
    return scope;
  }
}

/** Reads its types when asked: of an object's thousands of functions, a patch changes a few. */
class LazyFunction implements FunctionType {
  readonly linkageName: string;
  readonly #info: DebugInfo;
  readonly #unit: Unit;
  readonly #index: number;

  constructor(info: DebugInfo, unit: Unit, index: number, linkageName: string) {
    this.#info = info;
    this.#unit = unit;
    this.#index = index;
    this.linkageName = linkageName;
  }

  get name(): string {
    return this.#info.qualified(this.#unit, this.#index, this.#unit.name(this.#index) ?? '');
  }

  get parameters(): readonly Type[] {
    const unit = this.#unit;
    return unit.children(this.#index, DW_TAG.formal_parameter).map((index) => this.#info.member(unit, index).type);
  }

  get result(): Type {
    return this.#info.member(this.#unit, this.#index).type;
  }
}

const known = new WeakMap<ObjectFile, DebugInfo>();

/** An object's debug information; undefined when it has none. Throws MalformedError. */
export function debugInfo(object: ObjectFile): DebugInfo | undefined {
  const read = known.get(object);
  if (read !== undefined) return read;
  const file = debugFile(object);
  if (file === undefined || file.sections('.debug_info').length === 0) return undefined;
  const info = new DebugInfo(file);
  known.set(object, info);
  return info;
}
