// Old and new objects in; out comes whether a type that they describe has another shape in the new code, and a text for
// each function that is the same as long as its callers may call it.
//
// Which objects must be read? New code is in the objects that have a changed function, so their types are the ones that
// new code believes in. What it may meet in memory was made by older code, and the shape of that is looked for in every
// object that the edit replaced or removed, first in the one of the same name. That is enough: suppose a type T has
// another shape now, and a value of it exists. Some object O of the running program makes such values, and so describes T.
// If O was not recompiled, T cannot have changed for it: rustc compiles again whatever depends on a changed type, and the
// debug information of O would be other bytes. So O was recompiled, or is gone, and either way its older self is among the
// objects replaced. A type that none of those describe is new, unless code that used it left the program with an earlier
// patch and its values stayed: those types are remembered by digest (`goneTypes`).
//
// A pointer is no more than its name here: what it points to is described too, and compared under its own name. What is
// held by value is compared all the way down, since names are not quite unique.
//
// Whatever changed is refused, also where no value may exist or none survives the call: the analysis that could tell has
// to see every thread's stack.

import type { ObjectFile, Refusal } from '../model.ts';
import { MalformedError } from '../object/bytes.ts';
import { type DebugInfo, debugInfo, type Member, type Type, type Variant } from '../object/dwarf.ts';
import type { Change } from './diff.ts';
import { readable } from './mangle.ts';

/** Digests of types by name. Equal digests, equal shapes. */
export type TypeDigests = ReadonlyMap<string, readonly string[]>;

export interface LayoutOptions {
  /** Types that earlier patches made disappear. */
  readonly gone?: TypeDigests;
  readonly remedy?: Refusal['remedy'];
  /**
   * True for a crate that no edit of this session compiles again: a dependency outside of the workspace. Types that
   * mention no other crate are not looked at. Those of Rust's own libraries never are.
   */
  readonly isFixed?: (crate: string) => boolean;
}

/**
 * `before` are the objects that the edit replaced or removed, `after` those that came; only those of `after` with a
 * change are read, and of `before` what it takes.
 */
export function layoutRefusal(
  before: readonly ObjectFile[],
  after: readonly ObjectFile[],
  changes: readonly Change[],
  options: LayoutOptions = {},
): Refusal | undefined {
  const { remedy = 'restart' } = options;
  const changed = new Set(changes.map((change) => change.after.object));
  for (const object of after) {
    if (!changed.has(object)) continue;
    try {
      const reason = layoutDifference(before, after, object, options);
      if (reason !== undefined) return { reason, remedy };
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error;
      return { reason: `whether memory keeps its shape cannot be told: ${error.message}`, remedy };
    }
  }
  return undefined;
}

/**
 * Types of the old objects that the new ones of the same name describe no more, and the old objects' statics: what to
 * remember until the program ends, once the patch is applied. Newer entries replace older ones of the same name.
 */
export function goneTypes(
  before: readonly ObjectFile[],
  after: readonly ObjectFile[],
  { isFixed = () => false }: LayoutOptions = {},
): TypeDigests {
  const gone = new Map<string, readonly string[]>();
  for (const object of before) {
    const now = after.find(({ name }) => name === object.name);
    const present = new Set((now && debugInfo(now))?.typeNames);
    const info = debugInfo(object);
    for (const name of info?.typeNames ?? []) {
      if (present.has(name) || isVtable(name) || !mayChange(name, isFixed)) continue;
      gone.set(name, [...new Set([...(gone.get(name) ?? []), ...(info?.typesNamed(name) ?? []).map(digest)])]);
    }
    for (const { linkageName, type } of info?.statics ?? []) gone.set(staticKey(linkageName), [type.name]);
  }
  return gone;
}

/**
 * What a function takes and returns, with the shapes of what it takes by value: `(u32, &app::State)->app::Area#16:…`.
 * Equal texts: a caller compiled for one may call the other. Undefined when the object does not describe the function.
 */
export function signatureOf(object: ObjectFile, linkageName: string): string | undefined {
  const described = debugInfo(object)?.functions.get(linkageName);
  if (described === undefined) return undefined;
  return `(${described.parameters.map(shown).join(', ')})->${shown(described.result)}`;
}

function shown(type: Type): string {
  if (type.kind === 'pointer' || type.kind === 'base' || type.kind === 'void') return type.name;
  return `${type.name}#${type.sizeBytes}:${digest(type)}`;
}

// ------------------------------------------------------------------------------------------------------- comparing

function layoutDifference(
  before: readonly ObjectFile[],
  after: readonly ObjectFile[],
  object: ObjectFile,
  { gone, isFixed = () => false }: LayoutOptions,
): string | undefined {
  const now = debugInfo(object);
  if (now === undefined || !now.describesTypes) {
    const crate = object.name.replace(/(?:-[0-9a-f]{16})?\..*$/, '');
    return `\`${crate}\` was compiled without full debug information (\`debug = 2\`, \`split-debuginfo = "off"\`), and nothing else tells whether memory keeps its shape`;
  }
  const older = new Older(before, object.name);
  const comparison = new TypeComparison();
  for (const name of now.typeNames) {
    if (isVtable(name) || !mayChange(name, isFixed)) continue;
    const known = older.types(name);
    const types = now.typesNamed(name);
    if (known.length === 0) {
      const digests = gone?.get(name);
      if (digests === undefined || types.every((type) => digests.includes(digest(type)))) continue;
      return `\`${name}\` is back with another shape than it had when the program last knew it; ${REMAINS}`;
    }
    if (areKnown(types, known, comparison)) continue;
    const [old] = known;
    const [type] = types;
    const difference = known.length === 1 && old && type && comparison.difference(old, type);
    if (difference) return explain(difference, after);
    return `several types are named \`${name}\`, and one of them has another shape; ${REMAINS}`;
  }
  return staticDifference(older, now, gone);
}

/** Of several types of one name, as many as before, each is the one in its place; otherwise each must be one of the old. */
function areKnown(types: readonly Type[], known: readonly Type[], comparison: TypeComparison): boolean {
  return types.every((type, index) => {
    const candidates = types.length === known.length ? known.slice(index, index + 1) : known;
    return candidates.some((old) => comparison.difference(old, type) === undefined);
  });
}

function staticDifference(older: Older, now: DebugInfo, gone: TypeDigests | undefined): string | undefined {
  for (const { linkageName, type } of now.statics) {
    const old = older.staticType(linkageName)?.name ?? gone?.get(staticKey(linkageName))?.[0];
    if (old === undefined || old === type.name) continue;
    const name = readable(linkageName).replace(/::\{constant#.*$/, '');
    return `static \`${name}\` is of type \`${type.name}\` now, and was \`${old}\`; the running program holds the old one`;
  }
  return undefined;
}

/** Statics are remembered beside types: no type's name is like this. */
function staticKey(linkageName: string): string {
  return `static ${linkageName}`;
}

const REMAINS = 'values of it exist in the running program';

/** What the replaced objects say, read one after the other until one knows the answer. */
class Older {
  readonly #objects: readonly ObjectFile[];
  readonly #statics = new Map<string, Type>();
  #staticsRead = false;

  constructor(before: readonly ObjectFile[], name: string) {
    const same = before.filter((object) => object.name === name);
    this.#objects = [...same, ...before.filter((object) => object.name !== name)];
  }

  types(name: string): readonly Type[] {
    for (const object of this.#objects) {
      const found = debugInfo(object)?.typesNamed(name) ?? [];
      if (found.length > 0) return found;
    }
    return [];
  }

  staticType(linkageName: string): Type | undefined {
    if (!this.#staticsRead) {
      this.#staticsRead = true;
      for (const object of this.#objects) {
        for (const known of debugInfo(object)?.statics ?? []) this.#statics.set(known.linkageName, known.type);
      }
    }
    return this.#statics.get(linkageName);
  }
}

/** The innermost type that differs, and how. */
interface Difference {
  readonly type: Type;
  readonly text: string;
}

interface Pair {
  readonly old: Type;
  difference: Difference | undefined;
}

/** Deeper than any value in a program; a chain that long is not followed, and counts as a difference. */
const MAX_DEPTH = 400;

class TypeComparison {
  /** By the new type: mostly one pair each. */
  readonly #known = new Map<Type, Pair[]>();
  #depth = 0;

  /** Two types of one name. */
  difference(old: Type, now: Type): Difference | undefined {
    if (isSimple(now) && old.kind === now.kind) return this.#extent(old, now);
    const pairs = this.#known.get(now) ?? [];
    const known = pairs.find((pair) => pair.old === old);
    if (known !== undefined) return known.difference;
    // A value cannot hold itself; that the pair is known already keeps a damaged file from hanging us.
    const pair: Pair = { old, difference: undefined };
    pairs.push(pair);
    this.#known.set(now, pairs);
    this.#depth++;
    pair.difference = this.#depth > MAX_DEPTH ? { type: now, text: 'is too deep to compare' } : this.#compare(old, now);
    this.#depth--;
    return pair.difference;
  }

  #compare(old: Type, now: Type): Difference | undefined {
    if (old.kind !== now.kind) return { type: now, text: `is ${named[now.kind]} now, and was ${named[old.kind]}` };
    switch (now.kind) {
      case 'array':
        if (old.count !== now.count) return { type: now, text: `has ${now.count} elements now, and had ${old.count}` };
        return this.#held(old.target, now.target) ?? this.#extent(old, now);
      case 'alias':
        return this.#held(old.target, now.target);
      case 'struct':
      case 'union': {
        const strict = isEnvironment(now.name);
        return (
          this.#fields(old, now, { type: now, subject: '', strict }) ??
          this.#variants(old, now, strict) ??
          this.#extent(old, now)
        );
      }
      case 'enumeration':
        return this.#values(old, now) ?? this.#extent(old, now);
      default:
        return this.#extent(old, now);
    }
  }

  /** What is held by value: other names differ as they stand, and are told of by who holds them. */
  #held(old: Type, now: Type): Difference | undefined {
    if (old.name !== now.name) return { type: now, text: `is \`${now.name}\` now, and was \`${old.name}\`` };
    return this.difference(old, now);
  }

  #extent(old: Type, now: Type): Difference | undefined {
    const text =
      old.sizeBytes !== now.sizeBytes
        ? `takes ${now.sizeBytes} bytes now, and took ${old.sizeBytes}`
        : old.alignment !== now.alignment
          ? `is aligned to ${now.alignment} bytes now, and was to ${old.alignment}`
          : old.encoding !== now.encoding
            ? 'is encoded otherwise now'
            : undefined;
    return text === undefined ? undefined : { type: now, text };
  }

  /**
   * Fields pair by name; one that is left over pairs with one of the same type at the same place, which was renamed. Not
   * so where the compiler named and placed them (`strict`): another captured variable is no rename.
   */
  #fields(old: Type, now: Type, owner: Owner): Difference | undefined {
    if (haveSameFields(old, now)) {
      // Nothing to pair: the usual case, by far.
      for (const [index, { type }] of now.members.entries()) {
        const earlier = old.members[index];
        const difference = earlier && this.difference(earlier.type, type);
        if (difference !== undefined) return difference;
      }
      return undefined;
    }
    const before = fieldsOf(old);
    const added: Member[] = [];
    const pairs: [Member, Member][] = [];
    for (const [key, field] of fieldsOf(now)) {
      const earlier = before.get(key);
      if (earlier === undefined) {
        added.push(field);
      } else {
        before.delete(key);
        pairs.push([earlier, field]);
      }
    }
    const removed = [...before.values()];
    for (const field of owner.strict ? [] : [...added]) {
      const index = removed.findIndex(({ offset, type }) => offset === field.offset && type.name === field.type.name);
      const [renamed] = index === -1 ? [] : removed.splice(index, 1);
      if (renamed === undefined) continue;
      added.splice(added.indexOf(field), 1);
      pairs.push([renamed, field]);
    }
    const nested = pairs.find(
      ([earlier, field]) => earlier.type.name === field.type.name && this.difference(earlier.type, field.type),
    );
    if (nested !== undefined) return this.difference(nested[0].type, nested[1].type);
    const text = fieldsText(pairs, added, removed);
    return text === undefined ? undefined : { type: owner.type, text: `has ${owner.subject}${text}` };
  }

  /** Variants pair by name; one left over pairs with one of the same number, which was renamed. */
  #variants(old: Type, now: Type, strict: boolean): Difference | undefined {
    const from = old.variantPart;
    const to = now.variantPart;
    if (from === undefined && to === undefined) return undefined;
    const own = (text: string): Difference => ({ type: now, text });
    if (from === undefined || to === undefined)
      return own(to === undefined ? 'has no variants now' : 'has variants now');
    const removed = [...from.variants];
    const added: Variant[] = [];
    const pairs: [Variant, Variant][] = [];
    const pair = (variant: Variant, like: (other: Variant) => boolean): boolean => {
      const index = removed.findIndex(like);
      const [earlier] = index === -1 ? [] : removed.splice(index, 1);
      if (earlier !== undefined) pairs.push([earlier, variant]);
      return earlier !== undefined;
    };
    for (const variant of to.variants) if (!pair(variant, ({ name }) => name === variant.name)) added.push(variant);
    const unknown = added.filter((variant) => strict || !pair(variant, ({ value }) => value === variant.value));
    for (const [earlier, variant] of pairs) {
      const { name } = variant;
      const subject = `in its variant \`${name}\` `;
      const difference = this.#fields(earlier.data, variant.data, { type: now, subject, strict });
      if (difference !== undefined) return difference;
    }
    const [first] = unknown;
    if (first !== undefined) return own(`has a new variant \`${first.name}\``);
    const [last] = removed;
    if (last !== undefined) return own(`has no variant \`${last.name}\` now`);
    for (const [earlier, { name, value, offset }] of pairs) {
      if (earlier.value !== value) {
        return own(
          `has the number ${value ?? 'of no other'} for its variant \`${name}\` now, and had ${earlier.value}`,
        );
      }
      if (earlier.offset !== offset) return own(`has its variant \`${name}\` at another place now`);
    }
    if (from.tag?.offset !== to.tag?.offset || from.tag?.type.name !== to.tag?.type.name) {
      return own('tells its variants apart in another way now');
    }
    return undefined;
  }

  #values(old: Type, now: Type): Difference | undefined {
    const names = new Map(old.values.map(({ name, value }) => [name, value]));
    const numbers = new Set(old.values.map(({ value }) => value));
    for (const { name, value } of now.values) {
      const earlier = names.get(name);
      if (earlier === undefined && !numbers.has(value)) return { type: now, text: `has a new variant \`${name}\`` };
      if (earlier === undefined || earlier === value) continue;
      return { type: now, text: `has the number ${value} for its variant \`${name}\` now, and had ${earlier}` };
    }
    const left = new Set(now.values.map(({ value }) => value));
    const lost = old.values.find(({ value }) => !left.has(value));
    return lost === undefined ? undefined : { type: now, text: `has no variant \`${lost.name}\` now` };
  }
}

/** What a name says all about. */
function isSimple({ kind }: Type): boolean {
  return kind === 'base' || kind === 'pointer' || kind === 'void' || kind === 'function';
}

/** As far as can be seen without looking into their types. */
function haveSameFields(old: Type, now: Type): boolean {
  return (
    old.members.length === now.members.length &&
    now.members.every(({ name, offset, type }, index) => {
      const earlier = old.members[index];
      return earlier?.offset === offset && earlier.name === name && earlier.type.name === type.name;
    })
  );
}

/** Whose fields are compared, and how a message about them begins. */
interface Owner {
  readonly type: Type;
  readonly subject: string;
  readonly strict: boolean;
}

/**
 * By name; those of one name, which a coroutine may have of variables that hide each other, by their order besides. Those
 * that only say something to the compiler are left out.
 */
function fieldsOf(type: Type): Map<string, Member> {
  const fields = new Map<string, Member>();
  for (const field of type.members) {
    if (field.type.name.startsWith('core::marker::PhantomData<')) continue;
    let key = field.name;
    for (let copy = 1; fields.has(key); copy++) key = `${field.name}#${copy}`;
    fields.set(key, field);
  }
  return fields;
}

function fieldsText(
  pairs: readonly (readonly [Member, Member])[],
  added: readonly Member[],
  removed: readonly Member[],
): string | undefined {
  const field = ({ name, type }: Member): string => `\`${name.replace(/^__(?=\d)/, '')}: ${type.name}\``;
  const retyped = pairs.find(([earlier, now]) => earlier.type.name !== now.type.name);
  if (retyped !== undefined) {
    const [earlier, now] = retyped;
    return `the field ${field(now)}, which was \`${earlier.type.name}\``;
  }
  const [come] = added;
  if (come !== undefined) return `a new field ${field(come)}`;
  const [left] = removed;
  if (left !== undefined) return `no field ${field(left)} now`;
  const moved = pairs.find(([earlier, now]) => earlier.offset !== now.offset);
  if (moved === undefined) return undefined;
  const [earlier, now] = moved;
  return `its field ${field(now)} at byte ${now.offset} now, and had it at ${earlier.offset}`;
}

// ---------------------------------------------------------------------------------------------------------- telling

const named = {
  void: 'nothing',
  base: 'a number',
  pointer: 'a pointer',
  array: 'an array',
  struct: 'a struct or an enum with data',
  union: 'a union',
  enumeration: 'an enum without data',
  function: 'a function',
  alias: 'another name',
  other: 'something else',
} as const;

/** Vtables are compared by what they hold, in `identity.ts`. */
function isVtable(name: string): boolean {
  return name.endsWith('::{vtable_type}');
}

const rustLibraries: ReadonlySet<string> = new Set(['core', 'alloc', 'std', 'proc_macro', 'test']);

/**
 * False for a type whose name mentions fixed crates only. The shape of such a type follows from its definition and from
 * types it mentions, and what those crates say of them: an edit elsewhere reaches none of it. Names of tuples, arrays
 * and the like say what they hold.
 */
function mayChange(name: string, isFixed: (crate: string) => boolean): boolean {
  for (const [, crate = ''] of name.matchAll(/(?<![\w:}>])([A-Za-z_]\w*)::/g)) {
    if (!rustLibraries.has(crate) && !isFixed(crate)) return true;
  }
  return false;
}

/** What the compiler makes of a closure or of an async function or block: `app::slow::{async_fn_env#0}`. */
const environment = /^(.*)::\{(\w+)_env#\d+\}(?:<.*>)?$/;

function isEnvironment(name: string): boolean {
  return name.includes('_env#') && environment.test(name);
}

function explain({ type, text }: Difference, after: readonly ObjectFile[]): string {
  const [, scope = '', kind = ''] = environment.exec(type.name) ?? [];
  if (scope === '') {
    const trait = /^(?:&|&mut |\*const |\*mut |alloc::boxed::Box<)dyn (.*)$/.exec(type.name)?.[1];
    const isOfTrait = trait !== undefined && text.includes('`vtable: ');
    if (!isOfTrait) return `\`${type.name}\` ${text}; ${REMAINS}`;
    return `the trait behind \`${type.name}\` has more or fewer methods now; objects that exist were made with the old ones`;
  }
  const where = functionAround(type.name, scope, after);
  if (kind === 'closure')
    return `a closure in \`${where}\` captures other values now; those that exist hold the old ones`;
  const subject = kind === 'async_fn' ? `\`${where}\` is async and` : `${article(kind)} in \`${where}\``;
  const when = kind.startsWith('async') ? 'across its awaits' : 'while it is suspended';
  return `${subject} holds other values ${when} now; what is suspended in it would run on memory of another shape`;
}

function article(kind: string): string {
  const words = kind.replaceAll('_', ' ');
  return /^[aeiou]/.test(words) ? `an ${words}` : `a ${words}`;
}

/** The function that a closure or an async block is written in, as a person writes its name. */
function functionAround(name: string, scope: string, after: readonly ObjectFile[]): string {
  // Debug information numbers implementations; a symbol names the type they are for.
  const body = scope.includes('{impl#') ? name.replace(/_env#(\d+\}(?:<.*>)?)$/, '#$1') : undefined;
  let path = scope;
  for (const object of body === undefined ? [] : after) {
    const described = debugInfo(object)?.functions.values() ?? [];
    for (const { name: own, linkageName } of described) if (own === body) path = readable(linkageName);
  }
  return path.replace(/(?:::\{[\w#]+\}(?:<.*>)?)+$/, '');
}

// --------------------------------------------------------------------------------------------------------- digesting

const digests = new WeakMap<Type, string>();

/** A type's shape as a short text. Names of fields are left out: they may change. */
function digest(type: Type): string {
  const known = digests.get(type);
  if (known !== undefined) return known;
  digests.set(type, '(circle)');
  const text = hash(shapeText(type));
  digests.set(type, text);
  return text;
}

function shapeText(type: Type): string {
  const { kind, name, sizeBytes, alignment, encoding } = type;
  const head = `${kind} ${name} ${sizeBytes} ${alignment} ${encoding}`;
  const inner = (held: Type): string => (held.kind === 'pointer' || held.kind === 'void' ? held.name : digest(held));
  const fields = (of: Type): string => of.members.map((field) => `${field.offset}:${inner(field.type)}`).join();
  switch (kind) {
    case 'array':
    case 'alias':
      return `${head} ${kind === 'array' ? type.count : ''} ${inner(type.target)}`;
    case 'enumeration':
      return `${head} ${type.values.map(({ value }) => value).join()}`;
    case 'struct':
    case 'union': {
      const part = type.variantPart;
      const variants = part?.variants.map(({ value, offset, data }) => `${value}@${offset} ${fields(data)}`);
      return `${head} ${fields(type)} ${part?.tag?.offset} ${part?.tag?.type.name} ${variants?.join(';')}`;
    }
    default:
      return head;
  }
}

/** FNV-1a over UTF-16 units, twice from different starts: 64 bits. */
function hash(text: string): string {
  let a = 0x811c9dc5;
  let b = 0x9dc5811c;
  for (let index = 0; index < text.length; index++) {
    const unit = text.charCodeAt(index);
    a = Math.imul(a ^ unit, 0x01000193);
    b = Math.imul(b ^ unit, 0x85ebca6b) ^ (b >>> 13);
  }
  return (a >>> 0).toString(36) + (b >>> 0).toString(36);
}
