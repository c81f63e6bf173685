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
import { type DebugInfo, debugInfo, type Member, type Type, type Variant, type VariantPart } from '../object/dwarf.ts';
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
  /** An object that says nothing of its types is passed over instead of refused. */
  readonly mayBeSilent?: boolean;
  /** Whether others of the object's crate, which rustc compiled by the same call, tell of types: then it just has none. */
  readonly isTold?: (object: ObjectFile) => boolean;
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
  const reasons: Reason[] = [];
  for (const object of after) {
    if (!changed.has(object)) continue;
    try {
      reasons.push(...differences(before, after, object, options));
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error;
      return { reason: `whether memory keeps its shape cannot be told: ${error.message}`, remedy };
    }
  }
  reasons.sort((a, b) => a.rank - b.rank);
  return reasons[0] && { reason: reasons[0].text, remedy };
}

/**
 * Types of the old objects that the new ones of the same name describe no more, and the old objects' statics: what to
 * remember until the program ends, once the patch is applied. Newer entries replace older ones of the same name. With
 * the edit's changes known, objects that it left as they were are not read. Throws MalformedError.
 */
export function goneTypes(
  before: readonly ObjectFile[],
  after: readonly ObjectFile[],
  { isFixed = () => false, changes }: LayoutOptions & { readonly changes?: readonly Change[] } = {},
): TypeDigests {
  const changed = new Set((changes ?? []).map((change) => change.after.object));
  const gone = new Map<string, readonly string[]>();
  for (const object of before) {
    const now = after.find(({ name }) => name === object.name);
    if (changes !== undefined && now !== undefined && !changed.has(now) && definesAllOf(now, object)) continue;
    if (now !== undefined && isAsBefore([object], now)) continue;
    const present = new Set((now && debugInfo(now))?.typeNames);
    const info = debugInfo(object);
    for (const name of info?.typeNames ?? []) {
      if (present.has(name) || isVtable(name) || !mayChange(name, isFixed)) continue;
      gone.set(name, [
        ...new Set([...(gone.get(name) ?? []), ...(info?.typesNamed(name) ?? []).map((type) => digest(type))]),
      ]);
    }
    for (const { linkageName, type } of info?.statics ?? []) gone.set(staticKey(linkageName), [type.name]);
  }
  return gone;
}

/** The object that it replaced describes the same types and statics: the first that would be asked for each of them. */
function isAsBefore(before: readonly ObjectFile[], object: ObjectFile): boolean {
  const same = before.find(({ name }) => name === object.name);
  const old = same && debugInfo(same);
  return old !== undefined && debugInfo(object)?.isLike(old) === true;
}

/** Code that left an object takes its types with it, and changes nothing else there. */
function definesAllOf(now: ObjectFile, old: ObjectFile): boolean {
  const names = new Set(now.symbols.filter(({ atom }) => atom !== undefined).map(({ name }) => name));
  return old.symbols.every(({ name, kind, atom }) => kind !== 'function' || atom === undefined || names.has(name));
}

/**
 * What a function takes and returns, with the shapes of what it takes by value: `(u32, &app::State)->app::Area#16:…`.
 * Equal texts: a caller compiled for one may call the other. Undefined when the object does not describe the function.
 * Throws MalformedError.
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

/** Of several reasons, people are told the one that is nearest to what they wrote. */
interface Reason {
  readonly text: string;
  /** The lower the nearer. */
  readonly rank: number;
}

function* differences(
  before: readonly ObjectFile[],
  after: readonly ObjectFile[],
  object: ObjectFile,
  { gone, isFixed = () => false, mayBeSilent = false, isTold = () => false }: LayoutOptions,
): Generator<Reason> {
  const now = debugInfo(object);
  if (now === undefined || !now.describesTypes) {
    if (mayBeSilent || isTold(object)) return;
    const crate = object.name.replace(/(?:-[0-9a-f]{16})?\..*$/, '');
    const text = `\`${crate}\` was compiled without full debug information (\`debug = 2\`, \`split-debuginfo = "off"\`), and nothing else tells whether memory keeps its shape`;
    yield { text, rank: 0 };
    return;
  }
  if (isAsBefore(before, object)) return;
  const older = new Older(before, object.name);
  const comparison = new TypeComparison();
  for (const name of now.typeNames) {
    if (isVtable(name) || !mayChange(name, isFixed)) continue;
    const known = older.types(name);
    const types = now.typesNamed(name);
    if (known.length === 0) {
      const digests = gone?.get(name);
      if (digests === undefined || types.every((type) => digests.includes(digest(type)))) continue;
      const text = `\`${name}\` is back with another shape than it had when the program last knew it; ${REMAINS}`;
      yield { text, rank: rankOf(name) };
      continue;
    }
    if (areKnown(types, known, comparison)) continue;
    const [old] = known;
    const [type] = types;
    const difference = known.length === 1 && old && type && comparison.difference(old, type);
    const text = difference
      ? explain(difference, after)
      : `several types are named \`${name}\`, and one of them has another shape; ${REMAINS}`;
    yield { text, rank: rankOf(difference ? difference.type.name : name) };
  }
  const text = staticDifference(older, now, gone);
  if (text !== undefined) yield { text, rank: 1 };
}

/** A type with a name of its own, then what a function holds, then what macros and dependencies made of them. */
function rankOf(name: string): number {
  if (/^\w+(?:::[a-zA-Z]\w*)+(?:<|$)/.test(name) && mayChange(name.replace(/<.*/, ''), () => false)) return 0;
  const depth = name.match(/\{/g)?.length ?? 0;
  return isEnvironment(name) && !/[<]|::_::/.test(name) ? 1 + depth : 10 + depth;
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
      case 'union':
        return this.#parts(old, now) ?? this.#extent(old, now);
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

  /** What is held by value comes first: a field that moved only because of it is not the reason. */
  #parts(old: Type, now: Type): Difference | undefined {
    const strict = isEnvironment(now.name);
    const fields = matchFields(old, now, strict);
    const from = old.variantPart;
    const to = now.variantPart;
    const variants = matchVariants(from?.variants ?? [], to?.variants ?? [], strict);
    const data = variants.pairs.map(([earlier, variant]) => matchFields(earlier.data, variant.data, strict));
    for (const { pairs } of [fields, ...data]) {
      for (const [earlier, { type }] of pairs) {
        const difference = earlier.type.name === type.name ? this.difference(earlier.type, type) : undefined;
        if (difference !== undefined) return difference;
      }
    }
    const text = fieldsText(fields) ?? variantsText(variants, data) ?? tagText(from, to);
    return text === undefined ? undefined : { type: now, text: `has ${text}` };
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

/** What belongs together of two types, and what only one of them has. */
interface Match<T> {
  readonly pairs: readonly (readonly [T, T])[];
  readonly added: readonly T[];
  readonly removed: readonly T[];
}

/**
 * Fields pair by name; one that is left over pairs with one of the same type at the same place, which was renamed. Not so
 * where the compiler chose what is there (`strict`): another captured variable is no rename.
 */
function matchFields(old: Type, now: Type, strict: boolean): Match<Member> {
  const before = fieldsOf(old);
  const after = fieldsOf(now);
  const pairs: [Member, Member][] = [];
  for (const [index, field] of after.entries()) {
    const earlier = before[index];
    if (earlier?.name === field.name) pairs.push([earlier, field]);
  }
  // The usual case, by far.
  if (pairs.length === before.length && pairs.length === after.length) return { pairs, added: [], removed: [] };
  return matched(before, after, [
    ({ name }, other) => name === other.name,
    ({ offset, type }, other) => !strict && offset === other.offset && type.name === other.type.name,
  ]);
}

/** Variants pair by name; one left over pairs with one of the same number, which was renamed. */
function matchVariants(before: readonly Variant[], after: readonly Variant[], strict: boolean): Match<Variant> {
  return matched(before, after, [
    ({ name }, other) => name === other.name,
    ({ value }, other) => !strict && value === other.value,
  ]);
}

/** Pairs by the first rule as far as it goes, what is left by the next; of several that fit, in their order. */
function matched<T>(
  before: readonly T[],
  after: readonly T[],
  rules: readonly ((old: T, now: T) => boolean)[],
): Match<T> {
  const removed = [...before];
  let added = after;
  const pairs: [T, T][] = [];
  for (const fits of rules) {
    added = added.filter((now) => {
      const index = removed.findIndex((old) => fits(old, now));
      const [old] = index === -1 ? [] : removed.splice(index, 1);
      if (old !== undefined) pairs.push([old, now]);
      return old === undefined;
    });
  }
  return { pairs, added, removed };
}

/** Those that only say something to the compiler left out. */
function fieldsOf(type: Type): readonly Member[] {
  return type.members.filter((field) => !field.type.name.startsWith('core::marker::PhantomData<'));
}

function fieldsText({ pairs, added, removed }: Match<Member>): string | undefined {
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

/** `data` are the fields of each pair. */
function variantsText({ pairs, added, removed }: Match<Variant>, data: readonly Match<Member>[]): string | undefined {
  for (const [index, fields] of data.entries()) {
    const text = fieldsText(fields);
    if (text !== undefined) return `in its variant \`${pairs[index]?.[1].name}\` ${text}`;
  }
  const [come] = added;
  if (come !== undefined) return `a new variant \`${come.name}\``;
  const [left] = removed;
  if (left !== undefined) return `no variant \`${left.name}\` now`;
  for (const [earlier, { name, value, offset }] of pairs) {
    if (earlier.value !== value) {
      return `the number ${value ?? 'of no other'} for its variant \`${name}\` now, and had ${earlier.value ?? 'that of no other'}`;
    }
    if (earlier.offset !== offset) return `its variant \`${name}\` at another place now`;
  }
  return undefined;
}

function tagText(from: VariantPart | undefined, to: VariantPart | undefined): string | undefined {
  if (from?.tag?.offset === to?.tag?.offset && from?.tag?.type.name === to?.tag?.type.name) return undefined;
  return 'another way to tell its variants apart now';
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
  crates.lastIndex = 0;
  for (let found = crates.exec(name); found !== null; found = crates.exec(name)) {
    const [, crate = ''] = found;
    if (!rustLibraries.has(crate) && !isFixed(crate)) return true;
  }
  return false;
}

/** The first segment of each path; the rest of the path is passed over. */
const crates = /\b([A-Za-z_]\w*)::(?:[^<>(),;& ]*)/g;

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
function digest(type: Type, depth = 0): string {
  const known = digests.get(type);
  if (known !== undefined) return known;
  if (depth > MAX_DEPTH) return '(deep)';
  digests.set(type, '(circle)');
  const text = hash(shapeText(type, depth + 1));
  digests.set(type, text);
  return text;
}

function shapeText(type: Type, depth: number): string {
  const { kind, name, sizeBytes, alignment, encoding } = type;
  const head = `${kind} ${name} ${sizeBytes} ${alignment} ${encoding}`;
  const inner = (held: Type): string => (isSimple(held) ? held.name : digest(held, depth));
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
