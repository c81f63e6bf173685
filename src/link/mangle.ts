// A v0-mangled Rust symbol in; out come the path a person reads, and the closures the path mentions.
// Grammar: https://doc.rust-lang.org/rustc/symbol-mangling/v0.html

/** What a mangled symbol names. */
export interface MangledName {
  /** As a person writes it, hashes left out: `<counter::Circle as counter::Shape>::area`. */
  readonly text: string;
  /** The crate it is written in, which is not always the one it is compiled in: generics. */
  readonly crate: string;
  /** Every closure, coroutine or async block the symbol mentions, itself included, without generic arguments. */
  readonly closures: readonly MangledClosure[];
  /** For a method of a trait implementation: `<T as Trait>`. */
  readonly implementation?: string;
}

interface MangledClosure {
  /** Crate the closure is written in. */
  readonly crate: string;
  /** Path of the function it is written in, e.g. `counter::start`. */
  readonly parent: string;
  /** Position among its siblings: the N of `{closure#N}`. */
  readonly index: number;
}

/** `text` reads on; `plain` is the same path without generic arguments, so that instances of one function compare equal. */
interface Path {
  readonly text: string;
  readonly plain: string;
  readonly crate: string;
  readonly implementation?: string;
}

class NotMangled extends Error {}

/** Answers given before: the same objects come again with every edit. Emptied when full. */
const known = new Map<string, MangledName | undefined>();
const KNOWN_MAX = 1 << 15;

/** Undefined when the symbol is not v0-mangled (a C function, an export, a legacy name). */
export function demangle(symbol: string): MangledName | undefined {
  if (!symbol.startsWith('_R')) return undefined;
  if (known.has(symbol)) return known.get(symbol);
  if (known.size >= KNOWN_MAX) known.clear();
  const name = parse(symbol);
  known.set(symbol, name);
  return name;
}

function parse(symbol: string): MangledName | undefined {
  try {
    const parser = new Parser(symbol);
    const path = parser.path();
    const name = { text: path.text, crate: path.crate, closures: parser.closures };
    return path.implementation === undefined ? name : { ...name, implementation: path.implementation };
  } catch (error) {
    if (error instanceof NotMangled) return undefined;
    throw error;
  }
}

/** The name to show to a person, whatever the mangling. */
export function readable(symbol: string): string {
  const legacy = /^_ZN(.*)17h[0-9a-f]{16}E/.exec(symbol)?.[1];
  if (legacy !== undefined) return legacyPath(legacy) ?? symbol;
  return demangle(symbol)?.text ?? symbol.replace(/_[0-9a-f]{16}$/, '');
}

function legacyPath(encoded: string): string | undefined {
  const parts: string[] = [];
  for (let rest = encoded; rest !== '';) {
    const length = /^\d+/.exec(rest)?.[0];
    if (length === undefined) return undefined;
    const end = length.length + Number(length);
    parts.push(rest.slice(length.length, end));
    rest = rest.slice(end);
  }
  return parts
    .join('::')
    .replaceAll('..', '::')
    .replaceAll('$LT$', '<')
    .replaceAll('$GT$', '>')
    .replaceAll('$u20$', ' ');
}

const BASIC_TYPES: Readonly<Record<string, string>> = {
  a: 'i8', b: 'bool', c: 'char', d: 'f64', e: 'str', f: 'f32', h: 'u8', i: 'isize', j: 'usize', l: 'i32', m: 'u32',
  n: 'i128', o: 'u128', s: 'i16', t: 'u16', u: '()', v: '...', x: 'i64', y: 'u64', z: '!', p: '_',
}; // prettier-ignore

/** Deep enough for real programs, shallow enough that a hostile name cannot exhaust the stack. */
const MAX_DEPTH = 300;

class Parser {
  readonly closures: MangledClosure[] = [];
  readonly #symbol: string;
  #position = 2;
  #depth = 0;

  constructor(symbol: string) {
    this.#symbol = symbol;
  }

  path(): Path {
    return this.#nested(() => {
      const tag = this.#take();
      switch (tag) {
        case 'C': {
          const { name } = this.#identifier();
          return { text: name, plain: name, crate: name };
        }
        case 'M': {
          this.#implPath();
          const self = this.#type();
          return { text: `<${self}>`, plain: `<${self}>`, crate: this.#crateOf(self) };
        }
        case 'X':
        case 'Y': {
          const parent = tag === 'X' ? this.#implPath() : undefined;
          const self = this.#type();
          const trait = this.path().text;
          const text = `<${self} as ${trait}>`;
          return { text, plain: text, crate: parent?.crate ?? this.#crateOf(self), implementation: text };
        }
        case 'N':
          return this.#nestedPath();
        case 'I': {
          const path = this.path();
          const list: string[] = [];
          while (!this.#eat('E')) list.push(this.#genericArgument());
          const shown = list.filter((argument) => argument !== '');
          return { ...path, text: shown.length === 0 ? path.text : `${path.text}::<${shown.join(', ')}>` };
        }
        case 'B':
          return this.#backReference(() => this.path());
        default:
          throw new NotMangled();
      }
    });
  }

  #nestedPath(): Path {
    const namespace = this.#take();
    const parent = this.path();
    const { name, disambiguator } = this.#identifier();
    const kind = { implementation: parent.implementation };
    const extra = kind.implementation === undefined ? {} : { implementation: kind.implementation };
    if (namespace === 'C') {
      this.closures.push({ crate: parent.crate, parent: parent.plain, index: disambiguator });
      const segment = `::{closure#${disambiguator}}`;
      return { text: parent.text + segment, plain: parent.plain + segment, crate: parent.crate };
    }
    if (namespace === 'S') {
      const segment = `::{shim:${name}#${disambiguator}}`;
      return { text: parent.text + segment, plain: parent.plain + segment, crate: parent.crate, ...extra };
    }
    if (/[A-Z]/.test(namespace)) {
      const segment = `::{${namespace}:${name}#${disambiguator}}`;
      return { text: parent.text + segment, plain: parent.plain + segment, crate: parent.crate };
    }
    // Two items of one name in one function differ by the disambiguator only: it belongs to the identity, not to the text.
    const plain = `${parent.plain}::${name}${disambiguator === 0 ? '' : `'${disambiguator}`}`;
    return { text: name === '' ? parent.text : `${parent.text}::${name}`, plain, crate: parent.crate, ...extra };
  }

  #implPath(): Path {
    this.#disambiguator();
    return this.path();
  }

  #type(): string {
    return this.#nested(() => {
      const tag = this.#take();
      const basic = BASIC_TYPES[tag];
      if (basic !== undefined) return basic;
      switch (tag) {
        case 'A': {
          const element = this.#type();
          return `[${element}; ${this.#constant()}]`;
        }
        case 'S':
          return `[${this.#type()}]`;
        case 'T': {
          const list: string[] = [];
          while (!this.#eat('E')) list.push(this.#type());
          return list.length === 1 ? `(${list[0]},)` : `(${list.join(', ')})`;
        }
        case 'R':
        case 'Q': {
          if (this.#eat('L')) this.#base62();
          return `&${tag === 'Q' ? 'mut ' : ''}${this.#type()}`;
        }
        case 'P':
          return `*const ${this.#type()}`;
        case 'O':
          return `*mut ${this.#type()}`;
        case 'F':
          return this.#functionType();
        case 'D':
          return this.#dynType();
        case 'W': {
          const base = this.#type();
          this.#pattern();
          return base;
        }
        case 'B':
          return this.#backReference(() => this.#type());
        default:
          this.#position--;
          return this.path().text;
      }
    });
  }

  #functionType(): string {
    if (this.#eat('G')) this.#base62();
    const unsafe = this.#eat('U') ? 'unsafe ' : '';
    let abi = '';
    if (this.#eat('K'))
      abi = this.#eat('C') ? 'extern "C" ' : `extern "${this.#undisambiguated().replaceAll('_', '-')}" `;
    const parameters: string[] = [];
    while (!this.#eat('E')) parameters.push(this.#type());
    const result = this.#type();
    return `${unsafe}${abi}fn(${parameters.join(', ')})${result === '()' ? '' : ` -> ${result}`}`;
  }

  #dynType(): string {
    if (this.#eat('G')) this.#base62();
    const traits: string[] = [];
    while (!this.#eat('E')) {
      let trait = this.path().text;
      const bindings: string[] = [];
      while (this.#eat('p')) {
        const name = this.#undisambiguated();
        bindings.push(`${name} = ${this.#type()}`);
      }
      if (bindings.length > 0) trait += `<${bindings.join(', ')}>`;
      traits.push(trait);
    }
    if (!this.#eat('L')) throw new NotMangled();
    this.#base62();
    return `dyn ${traits.join(' + ')}`;
  }

  #pattern(): void {
    const tag = this.#take();
    if (tag === 'R') {
      this.#constant();
      this.#constant();
    } else if (tag === 'O') {
      while (!this.#eat('E')) this.#pattern();
    } else if (tag !== 'N') {
      throw new NotMangled();
    }
  }

  #genericArgument(): string {
    if (this.#eat('L')) {
      this.#base62();
      return '';
    }
    return this.#eat('K') ? this.#constant() : this.#type();
  }

  #constant(): string {
    return this.#nested(() => {
      const tag = this.#take();
      switch (tag) {
        case 'p':
          return '_';
        case 'B':
          return this.#backReference(() => this.#constant());
        case 'R':
        case 'Q':
          return `&${this.#constant()}`;
        case 'A':
        case 'T': {
          const list: string[] = [];
          while (!this.#eat('E')) list.push(this.#constant());
          return tag === 'A' ? `[${list.join(', ')}]` : `(${list.join(', ')})`;
        }
        case 'V':
          return this.#constantValue();
        case 'e':
          return JSON.stringify(this.#hex());
        default: {
          if (BASIC_TYPES[tag] === undefined) throw new NotMangled();
          const negative = this.#eat('n') ? '-' : '';
          const digits = this.#hex();
          if (tag === 'b') return digits === '1' ? 'true' : 'false';
          if (tag === 'c') return `'\\u{${digits}}'`;
          return negative + BigInt(`0x${digits === '' ? '0' : digits}`).toString();
        }
      }
    });
  }

  #constantValue(): string {
    const path = this.path().text;
    const form = this.#take();
    if (form === 'U') return path;
    const fields: string[] = [];
    if (form === 'T') {
      while (!this.#eat('E')) fields.push(this.#constant());
      return `${path}(${fields.join(', ')})`;
    }
    if (form !== 'S') throw new NotMangled();
    while (!this.#eat('E')) {
      const { name } = this.#identifier();
      fields.push(`${name}: ${this.#constant()}`);
    }
    return `${path} { ${fields.join(', ')} }`;
  }

  #hex(): string {
    const end = this.#symbol.indexOf('_', this.#position);
    if (end < 0) throw new NotMangled();
    const digits = this.#symbol.slice(this.#position, end);
    if (!/^[0-9a-f]*$/.test(digits)) throw new NotMangled();
    this.#position = end + 1;
    return digits;
  }

  #identifier(): { name: string; disambiguator: number } {
    const disambiguator = this.#disambiguator();
    return { name: this.#undisambiguated(), disambiguator };
  }

  #undisambiguated(): string {
    const punycode = this.#eat('u');
    const digits = /^(?:0|[1-9]\d*)/.exec(this.#symbol.slice(this.#position, this.#position + 10))?.[0];
    if (digits === undefined) throw new NotMangled();
    this.#position += digits.length;
    this.#eat('_');
    const end = this.#position + Number(digits);
    if (end > this.#symbol.length) throw new NotMangled();
    const name = this.#symbol.slice(this.#position, end);
    this.#position = end;
    return punycode ? `punycode{${name}}` : name;
  }

  #disambiguator(): number {
    return this.#eat('s') ? this.#base62() + 1 : 0;
  }

  /** `_` is 0, `0_` is 1, and so on. */
  #base62(): number {
    if (this.#eat('_')) return 0;
    let value = 0;
    for (;;) {
      const digit = this.#take();
      if (digit === '_') return value + 1;
      const at = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'.indexOf(digit);
      if (at < 0) throw new NotMangled();
      value = value * 62 + at;
    }
  }

  /** A back-reference is a byte offset from behind the `_R` to text already read. */
  #backReference<T>(read: () => T): T {
    const target = this.#base62() + 2;
    const resume = this.#position;
    if (target >= resume) throw new NotMangled();
    this.#position = target;
    const value = read();
    this.#position = resume;
    return value;
  }

  #crateOf(text: string): string {
    return /[A-Za-z_]\w*(?=::)/.exec(text)?.[0] ?? '';
  }

  #nested<T>(read: () => T): T {
    if (++this.#depth > MAX_DEPTH) throw new NotMangled();
    const value = read();
    this.#depth--;
    return value;
  }

  #take(): string {
    const character = this.#symbol[this.#position++];
    if (character === undefined) throw new NotMangled();
    return character;
  }

  #eat(character: string): boolean {
    if (this.#symbol[this.#position] !== character) return false;
    this.#position++;
    return true;
  }
}
