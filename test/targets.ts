// A running program in; out, tests of what every kind of program shows: source is saved, and what runs does by it, with
// everything it had. Pages and native programs run the same edits of the same source, test/fixtures/garden.
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Answer, Server } from './e2e/harness.ts';

/** What can be pressed; beside each, what the program says then. */
export type Button = 'water' | 'bed' | 'look' | 'count' | 'price' | 'season' | 'motto';

/** Someone who uses the program, and counts along what it must remember. */
export interface Visitor {
  /** What the program says then, without spaces around it. */
  click(button: Button): Promise<string>;
  /** What `water` says as long as nothing was lost: an `Rc<RefCell<…>>`, a static and a thread-local. */
  readonly memory: string;
  /** One more click, and all state is as before; and nothing else has happened to the program. */
  expectUndisturbed(): Promise<void>;
}

/** The garden as a program of some kind, run by hotslot. Each test begins with the sources as they are in the fixture. */
export interface Target {
  /** Edits are of the copy in `directory`. */
  readonly server: Server;
  readonly directory: string;
  /** The folder of its package. */
  readonly package: string;
  /** What brings a change that was refused. */
  readonly remedy: 'reload' | 'restart';
  open(): Promise<Visitor>;
}

type Patched = Extract<Answer, { event: 'patch' }>;

export const LIB = 'app/src/lib.rs';
export const PLANTS = 'plants/src/lib.rs';

/** The whole body of `look`, the place for whatever a test wants to try. */
export const QUIET = '"a quiet garden".to_owned()';

function expectPatch(answer: Answer): Patched {
  if (answer.event !== 'patch') throw new Error(`expected a patch, got ${JSON.stringify(answer, null, 2)}`);
  expect(answer.clients).toBe(1);
  return answer;
}

export function testEdits(target: Target): void {
  const edit = (path: string, from: string, to: string): Promise<Answer> => target.server.edit(path, from, to);
  /** The same, for an edit that has to reach the running program. */
  const change = async (path: string, from: string, to: string): Promise<Patched> =>
    expectPatch(await edit(path, from, to));

  test('the body of a closure that was made before', async () => {
    const visitor = await target.open();
    await visitor.click('water');
    await change(LIB, 'format!("can {},', 'format!("the can: {},');
    expect(await visitor.click('water')).toBe(visitor.memory.replace('can', 'the can:'));
    await change(LIB, 'can.poured += 1;', 'can.poured += 1;\n        let poured = can.poured * 10;');
    await change(LIB, 'the can: {}, clicks {}, steps {}", can.poured', 'ten cans: {}, clicks {}, steps {}", poured');
    expect(await visitor.click('water')).toBe(visitor.memory.replace(/can (\d+)/, 'ten cans: $10'));
  });

  test('a plain function', async () => {
    const visitor = await target.open();
    expect(await visitor.click('look')).toBe('a quiet garden');
    expect((await change(LIB, 'a quiet garden', 'a lively garden')).functions).toEqual(['garden::look']);
    expect(await visitor.click('look')).toBe('a lively garden');
    await visitor.expectUndisturbed();
  });

  test('a string of another length', async () => {
    const visitor = await target.open();
    await change(LIB, 'a quiet garden', 'a garden in which nobody says a word');
    expect(await visitor.click('look')).toBe('a garden in which nobody says a word');
    await change(LIB, '"a garden in which nobody says a word"', '""');
    expect(await visitor.click('look')).toBe('');
    await visitor.expectUndisturbed();
  });

  test('a new function with a new string', async () => {
    const visitor = await target.open();
    await change(LIB, QUIET, 'visitors(2)\n}\n\nfn visitors(count: usize) -> String {\n    "bee ".repeat(count)');
    expect(await visitor.click('look')).toBe('bee bee');
    await visitor.expectUndisturbed();
  });

  test('a new static and a new thread-local, which two later patches keep', async () => {
    const visitor = await target.open();
    await change(
      LIB,
      QUIET,
      `watch()
}

use std::sync::atomic::{AtomicU32, Ordering};
static LOOKS: AtomicU32 = AtomicU32::new(100);
thread_local! {
    static SEEN: RefCell<Vec<u32>> = RefCell::new(vec![7]);
    static LEFT: std::cell::Cell<u32> = const { std::cell::Cell::new(3) };
}

fn watch() -> String {
    let looks = LOOKS.fetch_add(1, Ordering::Relaxed);
    LEFT.set(LEFT.get().saturating_sub(1));
    SEEN.with_borrow_mut(|seen| seen.push(looks));
    SEEN.with_borrow(|seen| format!("{seen:?} {}", LEFT.get()))`,
    );
    expect(await visitor.click('look')).toBe('[7, 100] 2');
    expect(await visitor.click('look')).toBe('[7, 100, 101] 1');
    await change(LIB, 'format!("{seen:?} {}"', 'format!("seen {seen:?} {}"');
    expect(await visitor.click('look')).toBe('seen [7, 100, 101, 102] 0');
    await change(LIB, 'seen.push(looks)', 'seen.insert(0, looks)');
    expect(await visitor.click('look')).toBe('seen [103, 7, 100, 101, 102] 0');
    await visitor.expectUndisturbed();
  });

  test('a method of a trait object', async () => {
    const visitor = await target.open();
    expect(await visitor.click('bed')).toBe('gnome 1, rose 4');
    await change(LIB, '"gnome".to_owned()', '"dwarf".to_owned()');
    expect(await visitor.click('bed')).toBe('dwarf 1, rose 4');
    await visitor.expectUndisturbed();
  });

  test('a default method overridden, for an object that was boxed before, and the default again', async () => {
    const visitor = await target.open();
    const gnome = '"gnome".to_owned()\n    }\n';
    const tall = `${gnome}\n    fn height(&self) -> u32 {\n        7\n    }\n`;
    await change(LIB, gnome, tall);
    expect(await visitor.click('bed')).toBe('gnome 7, rose 4');
    await change(LIB, '        7\n', '        8\n');
    expect(await visitor.click('bed')).toBe('gnome 8, rose 4');
    await change(LIB, tall.replace('7', '8'), gnome);
    expect(await visitor.click('bed')).toBe('gnome 1, rose 4');
    await visitor.expectUndisturbed();
  });

  test('the default method itself', async () => {
    const visitor = await target.open();
    await change(PLANTS, '        1\n', '        2\n');
    expect(await visitor.click('bed')).toBe('gnome 2, rose 4');
    await visitor.expectUndisturbed();
  });

  test('an object that was boxed before gets drop glue', async () => {
    const visitor = await target.open();
    await change(
      LIB,
      'struct Gnome;',
      `struct Gnome;

impl Drop for Gnome {
    fn drop(&mut self) {
        page::say("the gnome is gone");
    }
}`,
    );
    expect(await visitor.click('bed')).toBe('gnome 1, rose 4');
    await visitor.expectUndisturbed();
  });

  test('a path dependency: a function, a method, and a generic function', async () => {
    const visitor = await target.open();
    expect(await visitor.click('count')).toBe('3 plants, best Some(9)');
    await change(PLANTS, '{count} plants', '{count} flowers');
    expect(await visitor.click('count')).toBe('3 flowers, best Some(9)');
    await change(PLANTS, 'self.age * 2', 'self.age * 3');
    expect(await visitor.click('bed')).toBe('gnome 1, rose 6');
    await change(PLANTS, 'each > best', 'each < best');
    expect(await visitor.click('count')).toBe('3 flowers, best Some(3)');
    await visitor.expectUndisturbed();
  });

  test('one edit of two crates', async () => {
    const visitor = await target.open();
    const { server } = target;
    const answer = await server.write({
      [PLANTS]: server.edited(PLANTS, '{count} plants', '{count} sorts'),
      [LIB]: server.edited(LIB, 'best {:?}', 'the best {:?}'),
    });
    expectPatch(answer);
    expect(await visitor.click('count')).toBe('3 sorts, the best Some(9)');
    await visitor.expectUndisturbed();
  });

  test('a new module in a new file', async () => {
    const visitor = await target.open();
    const { server } = target;
    const answer = await server.write({
      'app/src/pond.rs': 'pub fn fish() -> String {\n    "carp".to_owned()\n}\n',
      [LIB]: server.read(LIB).replace('mod page;', 'mod page;\nmod pond;').replace(QUIET, 'pond::fish()'),
    });
    expectPatch(answer);
    expect(await visitor.click('look')).toBe('carp');
    await change('app/src/pond.rs', 'carp', 'pike');
    expect(await visitor.click('look')).toBe('pike');
    await visitor.expectUndisturbed();
  });

  test('HashMap, number formats, float parsing and sorting, used for the first time', async () => {
    const visitor = await target.open();
    await change(
      LIB,
      QUIET,
      `measure()
}

fn measure() -> String {
    let parsed = "2.50 -1 1e2 0.1".split(' ').flat_map(str::parse::<f64>);
    let mut numbers: Vec<f64> = parsed.collect();
    numbers.sort_by(|one, other| other.total_cmp(one));
    let mut lengths = std::collections::HashMap::new();
    for word in ["rose", "lily", "fern", "moss", "ivy"] {
        *lengths.entry(word.len()).or_insert(0) += 1;
    }
    let mut lengths: Vec<_> = lengths.into_iter().collect();
    lengths.sort();
    format!("{numbers:?} {lengths:?} {:0>8.3}|{:#06x}", numbers[1], 255)`,
    );
    expect(await visitor.click('look')).toBe('[100.0, 2.5, 0.1, -1.0] [(3, 1), (4, 4)] 0002.500|0x00ff');
    await visitor.expectUndisturbed();
  });

  test('a table of constants', async () => {
    const visitor = await target.open();
    expect(await visitor.click('price')).toBe('60');
    await change(LIB, '[10, 20, 30]', '[10, 20, 70]');
    expect(await visitor.click('price')).toBe('100');
    await visitor.expectUndisturbed();
  });

  test('a file that is included', async () => {
    const visitor = await target.open();
    expect(await visitor.click('motto')).toBe('Grow.');
    await change('app/src/motto.txt', 'Grow.', 'Grow, and let grow.');
    expect(await visitor.click('motto')).toBe('Grow, and let grow.');
    await visitor.expectUndisturbed();
  });

  test('A, B, and A again', async () => {
    const visitor = await target.open();
    const names: string[] = [];
    for (const [from, to] of [
      ['quiet', 'noisy'],
      ['noisy', 'quiet'],
      ['quiet', 'noisy'],
      ['noisy', 'quiet'],
    ] as const) {
      await change(LIB, `a ${from} garden`, `a ${to} garden`);
      names.push(await visitor.click('look'));
    }
    expect(names).toEqual(['a noisy garden', 'a quiet garden', 'a noisy garden', 'a quiet garden']);
    await visitor.expectUndisturbed();
  });

  test('ten edits, each made while the one before is being built, end in the last one', async () => {
    const visitor = await target.open();
    const { server } = target;
    const numbered = (number: string): string => original.replace('a quiet garden', `garden number ${number}`);
    const original = server.read(LIB);
    const from = server.events.length;
    for (let count = 1; count < 10; count += 1) {
      const noticed = server.next(({ event }) => event === 'change');
      server.save(LIB, numbered(String(count)));
      await noticed;
    }
    expectPatch(await server.write({ [LIB]: numbered('ten') }));
    expect(await visitor.click('look')).toBe('garden number ten');
    const patches = server.events.slice(from).filter(({ event }) => event === 'patch');
    expect(patches.length).toBeLessThan(10);
    await visitor.expectUndisturbed();
  });

  test('a comment changes nothing', async () => {
    const visitor = await target.open();
    expect(await edit(LIB, QUIET, `/* Hush! */ ${QUIET}`)).toMatchObject({ event: 'unchanged', warnings: [] });
    await visitor.expectUndisturbed();
  });

  // ------------------------------------------------------------------------------------------- what cannot be taken

  test('a static that changed its size is refused by name; edits without it go on', async () => {
    const visitor = await target.open();
    const small = 'static PRICES: [u32; 3] = [10, 20, 30];';
    expect(await edit(LIB, small, 'static PRICES: [u32; 4] = [10, 20, 30, 40];')).toEqual({
      event: 'refused',
      reason: 'static `garden::PRICES` is 16 bytes in the new code and 12 in the running program',
      remedy: target.remedy,
    });
    expect(await visitor.click('price')).toBe('60');
    await visitor.expectUndisturbed();

    // As long as it is in the source, it is what every edit is about.
    expect((await edit(LIB, 'a quiet garden', 'a waiting garden')).event).toBe('refused');
    expect(await visitor.click('look')).toBe('a quiet garden');

    await change(LIB, 'static PRICES: [u32; 4] = [10, 20, 30, 40];', small);
    expect(await visitor.click('look')).toBe('a waiting garden');
    expect(await visitor.click('price')).toBe('60');
    await visitor.expectUndisturbed();
  });

  test('a function with a closure more is refused, as its closures are known by their number', async () => {
    const visitor = await target.open();
    const look = 'on_click("look", look);';
    expect(await edit(LIB, look, 'on_click("look", || format!("{}!", look()));')).toEqual({
      event: 'refused',
      reason:
        '`garden::start` has 6 closures where the running program has 5 closures; the closures already created would run the wrong code',
      remedy: target.remedy,
    });
    expect(await visitor.click('look')).toBe('a quiet garden');
    expect(await visitor.click('motto')).toBe('Grow.');
    await visitor.expectUndisturbed();
  });

  test('a trait that gains a method is refused, as objects with the old table live', async () => {
    const visitor = await target.open();
    const answer = await edit(
      PLANTS,
      'fn name(&self) -> String;\n',
      'fn thirst(&self) -> u32 {\n        3\n    }\n\n    fn name(&self) -> String;\n',
    );
    expect(answer).toMatchObject({
      event: 'refused',
      reason: expect.stringMatching(
        /Plant.*objects that exist were made with|objects that exist were made with.*Plant/,
      ),
      remedy: target.remedy,
    });
    expect(await visitor.click('bed')).toBe('gnome 1, rose 4');
    await visitor.expectUndisturbed();
  });

  test('a feature switched on in Cargo.toml makes it another crate', async () => {
    const visitor = await target.open();
    expect(await visitor.click('season')).toBe('winter');
    const manifest = join(target.package, 'Cargo.toml');
    expect(await edit(manifest, 'default = []', 'default = ["bloom"]')).toMatchObject({
      event: 'refused',
      reason: expect.stringContaining('crate `garden` was compiled with other features, dependencies or flags'),
      remedy: target.remedy,
    });
    expect(await visitor.click('season')).toBe('winter');
    await visitor.expectUndisturbed();
  });

  test('another initial value of a static that the program writes: kept, with a warning', async () => {
    const visitor = await target.open();
    await visitor.click('water');
    const answer = await edit('app/src/visits.rs', 'AtomicU32::new(0)', 'AtomicU32::new(500)');
    expect(answer).toMatchObject({
      warnings: [
        {
          severity: 'warning',
          text: 'static `garden::visits::CLICKS` has another initial value; the running program keeps the value it has',
          hint: expect.stringMatching(`^${target.remedy} the .* to start from the new value$`),
        },
      ],
    });
    await visitor.expectUndisturbed();
  });

  test('what does not compile is reported with its place, and then mended', async () => {
    const visitor = await target.open();
    expect(await edit(LIB, QUIET, '5')).toMatchObject({
      event: 'failed',
      diagnostics: [
        {
          severity: 'error',
          code: 'E0308',
          text: 'mismatched types',
          place: {
            path: join(target.directory, LIB),
            line: lineOf(target.server, LIB, '    5\n'),
            column: 5,
            lineText: '    5',
          },
        },
      ],
    });
    expect(await visitor.click('look')).toBe('a quiet garden');
    await change(LIB, 'fn look() -> String {\n    5', 'fn look() -> String {\n    5.to_string()');
    expect(await visitor.click('look')).toBe('5');
    await visitor.expectUndisturbed();
  });

  test('an error in a dependency, and then its fix', async () => {
    const visitor = await target.open();
    expect(await edit(PLANTS, '{count} plants', '{cuont} plants')).toMatchObject({
      event: 'failed',
      diagnostics: [{ code: 'E0425', place: { path: join(target.directory, PLANTS) } }],
    });
    await change(PLANTS, '{cuont} plants', '{count} weeds');
    expect(await visitor.click('count')).toBe('3 weeds, best Some(9)');
    await visitor.expectUndisturbed();
  });

  test('a broken Cargo.toml, an edit meanwhile, and then the fix', async () => {
    const visitor = await target.open();
    const manifest = join(target.package, 'Cargo.toml');
    expect(await edit(manifest, 'default = []', 'default = [')).toMatchObject({
      event: 'failed',
      diagnostics: [{ severity: 'error', place: { path: join(target.directory, manifest) } }],
    });
    expect((await edit(LIB, 'a quiet garden', 'a garden to be')).event).toBe('failed');
    expect(await visitor.click('look')).toBe('a quiet garden');
    await change(manifest, 'default = [', 'default = []');
    expect(await visitor.click('look')).toBe('a garden to be');
    await visitor.expectUndisturbed();
  });

  test('a panic in new code is reported with its place and leaves the rest alive, and then its fix', async () => {
    const visitor = await target.open();
    const { server } = target;
    await change(LIB, QUIET, 'panic!("the gate is stuck")');
    const place = `panicked at app/src/lib.rs:${lineOf(server, LIB, 'the gate is stuck')}:5`;
    const told = ['the gate is stuck', place].map((text) =>
      server.next((event) => event.event === 'log' && event.text.includes(text)),
    );
    await visitor.click('look');
    await Promise.all(told);
    expect(await visitor.click('water')).toBe(visitor.memory);

    await change(LIB, 'panic!("the gate is stuck")', '"open again".to_owned()');
    expect(await visitor.click('look')).toBe('open again');
    expect(await visitor.click('water')).toBe(visitor.memory);
  });
}

/** Counted from 1. */
function lineOf(server: Server, path: string, text: string): number {
  const source = server.read(path);
  return source.slice(0, source.indexOf(text)).split('\n').length;
}
