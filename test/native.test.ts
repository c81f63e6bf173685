// The native side of linking, with real programs: rustc's objects, the system's linkers, a running process.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { elfTarget } from '../src/link/elf.ts';
import { type ElfProgram, openExecutable } from '../src/link/executable.ts';
import { Library } from '../src/link/library.ts';
import { link } from '../src/link/link.ts';
import { makePatch } from '../src/link/patch.ts';
import { stubObjects } from '../src/link/stubs.ts';
import type { Build, ElfPatch, Refusal } from '../src/model.ts';
import { Crate, type Flavour, RunningProcess } from './native/toolchain.ts';

const fixture = (name: string): string => readFileSync(new URL(`fixtures/native/${name}.rs`, import.meta.url), 'utf8');
const FLAVOURS: readonly Flavour[] = [
  { name: 'debug, PIE, lld', flags: [] },
  { name: 'optimised, PIE, GNU ld', flags: ['-Copt-level=2', '-Clink-dead-code'], link: ['-fuse-ld=bfd'] },
  { name: 'debug, fixed, GNU ld', flags: ['-Crelocation-model=static'], link: ['-fuse-ld=bfd'] },
  {
    name: 'optimised, fixed, lld',
    flags: ['-Copt-level=3', '-Clink-dead-code', '-Cdwarf-version=5', '-Crelocation-model=static'],
  },
];

/** A program that runs, and the source it was made of. */
class Session {
  readonly #crate: Crate;
  readonly program: ElfProgram;
  readonly #library = new Library();
  #commit: () => void = () => undefined;
  #abandon: () => void = () => undefined;
  readonly process: RunningProcess;
  source: string;
  /** The program's source, when edits are of the library that it uses. */
  readonly #user: string | undefined;

  private constructor(crate: Crate, program: ElfProgram, process: RunningProcess, source: string, user?: string) {
    this.#crate = crate;
    this.program = program;
    this.process = process;
    this.source = source;
    this.#user = user;
  }

  static async start(crate: Crate, source: string, user?: string): Promise<Session> {
    const build = await Session.#compile(crate, source, user);
    const stubbed = stubObjects(build.objects);
    const executable = await crate.link(stubbed.rewrite);
    const process = await RunningProcess.start(executable);
    const identify = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
    const program = openExecutable(executable, build, stubbed, process.program, 0, identify);
    return new Session(crate, program, process, source, user);
  }

  static #compile(crate: Crate, source: string, user: string | undefined): Promise<Build> {
    return user === undefined ? crate.compile(source) : crate.compile(user, source);
  }

  /** Edits the source and links what rustc makes of it; the patch is not sent. */
  async link(...edits: readonly (readonly [from: string, to: string])[]): Promise<ElfPatch | Refusal> {
    let source = this.source;
    for (const [from, to] of edits) {
      if (!source.includes(from)) throw new Error(`the source has no \`${from}\``);
      source = source.replace(from, to);
    }
    const build = await Session.#compile(this.#crate, source, this.#user);
    const target = elfTarget(this.program);
    const outcome = link(this.program, build, this.#library, target);
    if (outcome.kind === 'refused') return outcome.refusal;
    if (outcome.kind !== 'patch') throw new Error(`the outcome is ${outcome.kind}`);
    const patch = makePatch(outcome, target);
    this.source = source;
    this.#commit = () => this.program.commit(outcome.draft);
    this.#abandon = () => this.program.abandon(outcome.draft);
    return patch;
  }

  /** As `edit`, but the program is asked to go back. */
  async undone(...edits: readonly (readonly [from: string, to: string])[]): Promise<void> {
    const { source } = this;
    const patch = await this.link(...edits);
    if ('reason' in patch) throw new Error(`refused: ${patch.reason}`);
    await this.process.undo(patch);
    this.#abandon();
    this.source = source;
  }

  /** Edits the source; what was running runs the new code. */
  async edit(...edits: readonly (readonly [from: string, to: string])[]): Promise<ElfPatch> {
    const patch = await this.link(...edits);
    if ('reason' in patch) throw new Error(`refused: ${patch.reason}`);
    await this.process.apply(patch);
    this.#commit();
    return patch;
  }
}

describe.each(FLAVOURS)('$name', (flavour) => {
  let crate: Crate;
  let session: Session;
  beforeAll(async () => {
    crate = new Crate(flavour);
    session = await Session.start(crate, fixture('program'));
  }, 60_000);
  afterAll(async () => {
    await session?.process.close();
    crate.remove();
  });

  const ask = (line: string): Promise<string> => session.process.ask(line);

  test('a helper, also where it is called by pointer', { timeout: 60_000 }, async () => {
    expect(await ask('helper')).toBe('2');
    const patch = await session.edit(['    x + 1\n', '    x + 100\n']);
    expect(patch.functions).toEqual(['app::helper']);
    expect(await ask('helper')).toBe('101');
    expect(await ask('table')).toBe('303');
    await session.edit(['    x + 100\n', '    x + 1\n']);
    expect(await ask('table')).toBe('6');
  });

  test('texts, of the same length and of another', { timeout: 60_000 }, async () => {
    expect([await ask('kind 1'), await ask('kind 2')]).toEqual(['one', 'a few']);
    await session.edit(['"one"', '"uno"'], ['"a few"', '"some of them"'], ['"hello"', '"hullo"']);
    expect([await ask('kind 0'), await ask('kind 1'), await ask('kind 2')]).toEqual(['none', 'uno', 'some of them']);
    expect(await ask('greet')).toBe('hullo');
  });

  test('a function in an object that mentions no type', { timeout: 60_000 }, async () => {
    expect(await ask('strike')).toBe('1');
    const patch = await session.edit(['super::ring();', 'super::ring(); super::ring();']);
    expect(patch.functions).toEqual(['app::bell::strike']);
    expect(await ask('strike')).toBe('3');
  });

  test('a jump table', { timeout: 60_000 }, async () => {
    const answers = async (): Promise<string[]> => {
      const all: string[] = [];
      for (const n of [0, 1, 2, 3, 4, 5, 6]) all.push(await ask(`jump ${n}`));
      return all;
    };
    expect(await answers()).toEqual(['2', '20', '238', '12', '15', '3', '0']);
    await session.edit(['helper(33) * 7', 'twice(helper(33)) - 3']);
    expect(await answers()).toEqual(['2', '20', '67', '12', '15', '3', '0']);
  });

  test('a new function, new texts, and code of std that the program did not have', { timeout: 60_000 }, async () => {
    const body = `
    let mut map = std::collections::BTreeMap::new();
    for (index, word) in line.split('-').enumerate() {
        map.entry(word.parse::<f64>().unwrap_or(fallback()).to_bits()).or_insert_with(Vec::new).push(index as u16);
    }
    let mut all: Vec<_> = map.into_iter().map(|(bits, v)| format!("{:e}:{v:?}", f64::from_bits(bits))).collect();
    all.sort_by(|a, b| b.cmp(a));
    all.join("|")
}

#[inline(never)]
fn fallback() -> f64 {
    0.5
}
`;
    await session.edit(['    line.to_owned()\n}\n', body]);
    expect(await ask('extra 1.25-2-x-2')).toBe('5e-1:[2]|2e0:[1, 3]|1.25e0:[0]');
    await session.edit(['    0.5\n', '    "0.25".parse().unwrap()\n']);
    expect(await ask('extra x')).toBe('2.5e-1:[0]');
    await session.edit(['unwrap_or(fallback())', 'unwrap_or(4.0)'], ['fn fallback()', '#[cfg(any())]\nfn fallback()']);
    expect(await ask('extra x')).toBe('4e0:[0]');
    await session.edit(
      ['unwrap_or(4.0)', 'unwrap_or(fallback(2).into())'],
      ['#[cfg(any())]\nfn fallback() -> f64 {\n    "0.25".parse().unwrap()', 'fn fallback(x: u8) -> u8 {\n    x * 3'],
    );
    expect(await ask('extra x')).toBe('6e0:[0]');
  });

  test('thread-locals keep what is in them; new ones begin as they should', { timeout: 60_000 }, async () => {
    expect([await ask('count'), await ask('count'), await ask('thread')]).toEqual(['6', '7', '6']);
    expect([await ask('lazy'), await ask('lazy')]).toEqual(['lazy!', 'lazy!!']);
    await session.edit(
      [
        'COUNT.set(COUNT.get() + 1);',
        "COUNT.set(COUNT.get() + 10); STEP.set(STEP.get() + 1); FRESH.with_borrow_mut(|f| f.push('x'));",
      ],
      ['COUNT.get().to_string()', 'format!("{} {} {}", COUNT.get(), STEP.get(), FRESH.with_borrow(|f| f.clone()))'],
      [
        'thread_local! {',
        `thread_local! {
    static STEP: Cell<u64> = const { Cell::new(40) };
    static FRESH: std::cell::RefCell<String> = std::cell::RefCell::new(String::from("new"));`,
      ],
      ['lazy.take() + "!"', 'lazy.take() + "?"'],
    );
    expect([await ask('count'), await ask('count')]).toEqual(['17 41 newx', '27 42 newxx']);
    expect([await ask('thread'), await ask('thread')]).toEqual(['15 41 newx', '15 41 newx']);
    expect(await ask('lazy')).toBe('lazy!!?');
    await session.edit(['STEP.get() + 1', 'STEP.get() + 2']);
    expect(await ask('count')).toBe('37 44 newxxx');
  });

  test('statics keep what is in them; new ones begin as they should', { timeout: 60_000 }, async () => {
    expect([await ask('total'), await ask('total')]).toEqual(['7', '8']);
    await session.edit(
      [
        'TOTAL.fetch_add(1, Ordering::Relaxed).to_string()',
        'format!("{} {} {}", TOTAL.fetch_add(1, Ordering::Relaxed), ADDED.fetch_add(5, Ordering::Relaxed), NAMES[1])',
      ],
      [
        'static TOTAL',
        'static ADDED: AtomicU32 = AtomicU32::new(30);\nstatic NAMES: [&str; 2] = ["a", "b"];\nstatic TOTAL',
      ],
    );
    expect([await ask('total'), await ask('total')]).toEqual(['9 30 b', '10 35 b']);
    const patch = await session.edit(['AtomicU32::new(7)', 'AtomicU32::new(70)'], ['fetch_add(5', 'fetch_add(6']);
    expect(patch.warnings.map(({ text }) => text).join()).toContain('app::TOTAL');
    expect(await ask('total')).toBe('11 40 b');
    const refusal = await session.link([
      'static NAMES: [&str; 2] = ["a", "b"]',
      'static NAMES: [&str; 3] = ["a", "b", "c"]',
    ]);
    expect(refusal).toMatchObject({ remedy: 'restart', reason: expect.stringContaining('app::NAMES') });
  });

  test('the body of a closure that is in its box already', { timeout: 60_000 }, async () => {
    expect(await ask('boxed 1')).toBe('2');
    await session.edit(['move |x| x + base', 'move |x| (x + base) * 1000']);
    expect(await ask('boxed 1')).toBe('2000');
  });

  test('a method of a trait object, and one that a vtable did not have', { timeout: 60_000 }, async () => {
    expect(await ask('shapes')).toBe('shape 9, circle 2 6');
    await session.edit(['self.0 * self.0\n', 'self.0 * self.0 + 1\n'], ['"shape".to_string()', '"form".to_string()']);
    expect(await ask('shapes')).toBe('form 10, circle 2 6');
    await session.edit([
      'self.0 * self.0 + 1\n        }\n',
      'self.0 * self.0\n        }\n        fn name(&self) -> String {\n            "square".to_string()\n        }\n',
    ]);
    expect(await ask('shapes')).toBe('square 9, circle 2 6');
  });

  test('a panic in new code is caught, and its backtrace names the code', { timeout: 60_000 }, async () => {
    expect(await ask('risky 4')).toContain('4 is too much');
    await session.edit([
      'if x > 3 { panic!("{x} is too much") } else { x }',
      'if x > 2 { panic!("{x} is way too much") } else { x * 2 }',
    ]);
    expect(await ask('risky 2')).toBe('4');
    const answer = await ask('risky 3');
    expect(answer).toContain('3 is way too much');
    const line = session.source.slice(0, session.source.indexOf('way too much')).split('\n').length;
    expect(answer).toMatch(new RegExp(`: app::risky;\\s+at \\S*app.rs:${line}:\\d+;`));
    // Once more, in a module that std has not seen yet.
    await session.edit(['is way too much', 'is far too much']);
    expect(await ask('risky 3')).toContain('app::risky');
  });

  test('a function that takes other types is for new callers only', { timeout: 60_000 }, async () => {
    await session.edit(
      ['|| risky(number as usize)', '|| risky(number as usize, 6.5)'],
      ['fn risky(x: usize) -> usize {', 'fn risky(x: usize, limit: f64) -> usize {'],
      ['if x > 2 {', 'if x as f64 > limit {'],
    );
    expect(await ask('risky 6')).toBe('12');
    expect(await ask('risky 7')).toContain('7 is far too much');
    const refusal = await session.link(
      ['fn helper(x: u32) -> u32 {', 'fn helper(x: u32) -> u32 where u32: Copy {'],
      ['pub struct Square(pub u32)', 'pub struct Square(pub u32, pub u64)'],
      ['Square(3)', 'Square(3, 4)'],
    );
    expect(refusal).toMatchObject({ remedy: 'restart', reason: expect.stringContaining('app::shapes::Square') });
    expect(await ask('risky 6')).toBe('12');
  });

  test('memory for patches that is used up is a reason to restart', { timeout: 60_000 }, async () => {
    const { free } = session.program;
    session.program.free = { ...free, areas: free.areas.map((area) => ({ ...area, end: area.address })) };
    const refusal = await session.link(['    x + 1\n', '    x + 5\n']);
    expect(refusal).toMatchObject({ remedy: 'restart', reason: expect.stringContaining('used up') });
    session.program.free = { ...free, slotEnd: free.slot };
    const full = await session.link(
      ['    x + 1\n', '    x + added(5)\n'],
      ['fn main() {', '#[inline(never)]\nfn added(x: u32) -> u32 {\n    x.pow(3)\n}\n\nfn main() {'],
    );
    expect(full).toMatchObject({ remedy: 'restart', reason: expect.stringContaining('used up') });
    session.program.free = free;
    expect(await ask('helper')).toBe('2');
  });

  test('a patch that is taken back leaves nothing, and the next one works', { timeout: 60_000 }, async () => {
    await session.undone(['    x + 1\n', '    x + 7\n']);
    expect(await ask('helper')).toBe('2');
    await session.edit(['    x + 1\n', '    x + 8\n']);
    expect(await ask('helper')).toBe('9');
  });
});

describe.each(FLAVOURS.slice(0, 2))('a library, $name', (flavour) => {
  let crate: Crate;
  let session: Session;
  beforeAll(async () => {
    crate = new Crate(flavour);
    session = await Session.start(crate, fixture('library'), fixture('user'));
  }, 60_000);
  afterAll(async () => {
    await session?.process.close();
    crate.remove();
  });
  const ask = (line: string): Promise<string> => session.process.ask(line);

  test('its thread-locals, old and new', { timeout: 60_000 }, async () => {
    expect([await ask('visits'), await ask('visits'), await ask('thread')]).toEqual(['101', '102', '101']);
    expect([await ask('remember a'), await ask('remember b')]).toEqual(['a', 'a,b']);
    await session.edit(
      ['VISITS.set(VISITS.get() + 1);', 'VISITS.set(VISITS.get() + 5); ROUNDS.set(ROUNDS.get() + 1);'],
      ['VISITS.get().to_string()', 'format!("{} {}", VISITS.get(), ROUNDS.get())'],
      ['static VISITS', 'pub static ROUNDS: Cell<u8> = const { Cell::new(7) };\n    static VISITS'],
      ['words.join(",")', 'words.join("-")'],
    );
    expect([await ask('visits'), await ask('visits'), await ask('thread')]).toEqual(['107 8', '112 9', '105 8']);
    expect(await ask('remember c')).toBe('a-b-c');
  });

  test('functions of the C library that nothing called before', { timeout: 60_000 }, async () => {
    expect(await ask('process')).toBe('1');
    await session.edit([
      'CALLS.fetch_add(1, Ordering::Relaxed).to_string()',
      `
    unsafe extern "C" {
        safe fn getppid() -> i32;
        fn atoll(text: *const std::ffi::c_char) -> i64;
        fn strlen(text: *const std::ffi::c_char) -> usize;
        fn getpgid(pid: i32) -> i32;
    }
    let by_pointer: unsafe extern "C" fn(i32) -> i32 = std::hint::black_box(getpgid);
    let number = unsafe { atoll(c"1234".as_ptr()) };
    let length = unsafe { strlen(c"12345".as_ptr()) };
    format!("{} {number} {length} {} {}", getppid(), unsafe { by_pointer(0) > 0 }, CALLS.load(Ordering::Relaxed))`,
    ]);
    expect(await ask('process')).toBe(`${process.pid} 1234 5 true 2`);
  });

  test('a vtable that another crate holds', { timeout: 60_000 }, async () => {
    expect(await ask('visit word')).toBe('WORD');
    await session.edit(['word.to_uppercase()', 'format!("{}!", word.to_lowercase())']);
    expect(await ask('visit WORD')).toBe('word!');
  });
});
