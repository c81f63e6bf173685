// Wasm threads: at every save all of them run the new code, also those that have been waiting since before it.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Browser, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createBuilder, type Builder } from '../../src/build/builder.ts';
import { requireToolchain } from '../../src/build/toolchain.ts';
import type { Build, Event } from '../../src/model.ts';
import { Web } from '../../src/web.ts';
import { launchBrowser } from './browser.ts';
import { type Answer, copyCrate, openPage, type OpenPage, type Server, startServer } from './harness.ts';

const LIB = 'src/lib.rs';
const TARGET = fileURLToPath(new URL('../../.cache/target', import.meta.url));

/** What the page has for the tests. */
declare const pool: Record<string, (...given: unknown[]) => unknown>;
declare const startWorker: (kind: string) => Promise<number>;

/** A page with four workers of its own and two of rayon's. */
class Pond {
  readonly open: OpenPage;

  constructor(open: OpenPage) {
    this.open = open;
  }

  get page(): Page {
    return this.open.page;
  }

  call(name: string, ...given: readonly unknown[]): Promise<unknown> {
    return this.page.evaluate(([wanted, values]) => pool[wanted]?.(...values), [name, given] as const);
  }

  /** What so many threads have to say, in order. */
  async answers(count: number): Promise<string[]> {
    const said = await this.page.waitForFunction((wanted) => {
      const answers = String(pool['answers']?.());
      return answers.split('; ').length >= wanted && answers !== '' && answers;
    }, count);
    await this.call('forget');
    return String(await said.jsonValue()).split('; ');
  }

  async ask(...numbers: readonly number[]): Promise<string[]> {
    for (const number of numbers) await this.call('ask', number);
    return this.answers(numbers.length);
  }

  /** The very same threads and memory as at the beginning. */
  async expectUndisturbed(threads: readonly unknown[]): Promise<void> {
    expect(this.page.workers()).toEqual(threads);
    expect(await this.open.isSameDocument()).toBe(true);
    expect(this.open.navigations()).toBe(1);
    expect(this.open.errors).toEqual([]);
  }
}

const ALL = [0, 1, 2, 3];

describe('a program that is edited', () => {
  let browser: Browser;
  let server: Server;
  const ponds: Pond[] = [];

  beforeAll(async () => {
    browser = await launchBrowser();
    server = await startServer(copyCrate('test/fixtures/pool', 'pool'));
  });
  afterEach(async () => {
    for (const pond of ponds.splice(0)) await pond.open.close();
    await server.restore();
  });
  afterAll(async () => {
    await server.close();
    await browser.close();
  });

  const open = async (): Promise<Pond> => {
    const pond = new Pond(await openPage(browser, server.url, 'window.ready === true'));
    ponds.push(pond);
    return pond;
  };
  const swap = async (from: string, to: string): Promise<Extract<Answer, { event: 'patch' }>> => {
    const answer = await server.edit(LIB, from, to);
    if (answer.event !== 'patch') throw new Error(`expected a patch, got ${JSON.stringify(answer, null, 2)}`);
    expect(answer.clients).toBe(ponds.length);
    return answer;
  };

  test('workers that wait since before the patch call the new function', async () => {
    const pond = await open();
    const threads = pond.page.workers();
    expect(threads.length).toBe(6);
    expect(await pond.ask(...ALL)).toEqual(ALL.map((number) => `worker ${number} says hello`));
    const told = server.next(({ event }) => event === 'threads');
    expect((await swap('says hello', 'says good day')).functions).toEqual(['pool::greet']);
    const { workers: count, behind } = (await told) as Extract<Event, { event: 'threads' }>;
    expect(count).toBe(6);
    // Nobody has called anything since; rayon's own look around now and then.
    expect(behind).toBeGreaterThanOrEqual(4);
    expect(await pond.ask(...ALL)).toEqual(ALL.map((number) => `worker ${number} says good day`));
    await pond.expectUndisturbed(threads);
    expect(await pond.call('asked')).toBe(8);
  });

  test('a closure that rayon calls in parallel', async () => {
    const pond = await open();
    expect(await pond.call('sum', 1000)).toBe(999_000);
    await swap('number * 2', 'number * 3');
    expect(await pond.call('sum', 1000)).toBe(1_498_500);
    expect(pond.open.errors).toEqual([]);
  });

  test('a boxed closure of a new type, sent to workers that wait', async () => {
    const pond = await open();
    const threads = pond.page.workers();
    await swap(
      '    ask(worker);\n',
      '    let kept = vec![worker; 2];\n    send(worker, Box::new(move || format!("{kept:?} is new")));\n',
    );
    for (const number of ALL) await pond.call('hand_over', number);
    expect(await pond.answers(4)).toEqual(ALL.map((number) => `[${number}, ${number}] is new`));
    await pond.expectUndisturbed(threads);
  });

  // Nothing of the user's is on the way from rayon's wait to the closure: only guards in the library's own calls help.
  test('a closure of a new type, spawned on workers that wait in library code', async () => {
    const pond = await open();
    await swap(
      '    tell("not spawned".to_owned());',
      `    for number in 0..4 {
        rayon::spawn(move || tell(format!("spawned {number}")));
    }`,
    );
    await pond.call('spawn');
    expect(await pond.answers(4)).toEqual(['spawned 0', 'spawned 1', 'spawned 2', 'spawned 3']);
    expect(pond.open.errors).toEqual([]);
  });

  test('a long job takes up new code at its next call', async () => {
    const pond = await open();
    await pond.call('begin', 2);
    await pond.page.waitForFunction(() => Number(pool['turns']?.()) > 0);
    for (const number of [2, 3]) {
      await swap(`fn step() -> u32 {\n    ${number - 1}`, `fn step() -> u32 {\n    ${number}`);
      await pond.page.waitForFunction((latest) => pool['latest']?.() === latest, number);
    }
    await pond.call('stop');
    expect(await pond.answers(1)).toEqual(['steps [1, 2, 3]']);
  });

  test('a new static is there once; a new thread-local once for each thread, with its initial value', async () => {
    const pond = await open();
    await swap(
      'fn greet(worker: usize) -> String {\n',
      `static GREETED: AtomicU32 = AtomicU32::new(100);
thread_local! {
    static MINE: Cell<u32> = const { Cell::new(40) };
    static LIST: std::cell::RefCell<Vec<u32>> = std::cell::RefCell::new(vec![1, 2]);
}

fn greet(worker: usize) -> String {
    GREETED.fetch_add(1, Ordering::Relaxed);
    MINE.set(MINE.get() + 1);
    LIST.with_borrow_mut(|list| list.push(3));
    if worker < 8 {
        return format!("{worker}: {} {:?}", MINE.get(), LIST.with_borrow(|list| list.clone()));
    }
`,
    );
    expect(await pond.ask(...ALL)).toEqual(ALL.map((number) => `${number}: 41 [1, 2, 3]`));
    await swap('MINE.set(MINE.get() + 1)', 'MINE.set(MINE.get() + 2)');
    expect(await pond.ask(...ALL)).toEqual(ALL.map((number) => `${number}: 43 [1, 2, 3, 3]`));
    await swap('format!("{worker}: {} {:?}", MINE.get(),', 'format!("{} {:?}", GREETED.load(Ordering::Relaxed),');
    expect(await pond.ask(1)).toEqual(['109 [1, 2, 3, 3, 3]']);
  });

  test('a worker that starts after three patches, however it is started', async () => {
    const pond = await open();
    await swap('worker {worker} says hello', 'one {worker}');
    await swap(
      'fn greet(worker: usize) -> String {\n',
      'thread_local!(static BEGUN: Cell<usize> = const { Cell::new(7) });\nfn greet(worker: usize) -> String {\n    BEGUN.set(BEGUN.get() + 1);\n',
    );
    await swap('format!("one {worker}")', 'format!("three {worker} {}", BEGUN.get())');
    for (const kind of ['module', 'classic', 'nested']) {
      const number = await pond.page.evaluate((name) => startWorker(name), kind);
      expect(await pond.ask(number)).toEqual([`three ${number} 8`]);
    }
    expect(await pond.ask(0)).toEqual(['three 0 8']);
    expect(pond.open.errors).toEqual([]);
  });

  test('a page that is loaded after patches starts all its threads with them', async () => {
    await swap('says hello', 'says welcome');
    const pond = await open();
    expect(await pond.ask(...ALL)).toEqual(ALL.map((number) => `worker ${number} says welcome`));
  });

  test('a patch that one page cannot take is taken back in every thread of the other', async () => {
    const [one, other] = [await open(), await open()];
    await one.call('begin', 2);
    await one.page.waitForFunction(() => Number(pool['turns']?.()) > 0);
    await other.page.evaluate(() => {
      WebAssembly.Module = new Proxy(WebAssembly.Module, {
        construct: () => {
          throw new Error('no room');
        },
      });
    });
    const refused = await server.edit(LIB, 'fn step() -> u32 {\n    1', 'fn step() -> u32 {\n    2');
    expect(refused.event === 'refused' && refused.reason).toContain('no room');
    await one.page.waitForFunction(() => pool['latest']?.() === 1);
    await one.call('stop');
    const [steps = ''] = await one.answers(1);
    expect(['steps [1]', 'steps [1, 2, 1]']).toContain(steps);
    expect(await other.ask(0)).toEqual(['worker 0 says hello']);
    await ponds.pop()?.open.close();
    await swap('says hello', 'says hi');
    expect(await one.ask(...ALL)).toEqual(ALL.map((number) => `worker ${number} says hi`));
  });

  test('what threads cannot take while they run is refused in words', async () => {
    const pond = await open();
    const threads = pond.page.workers();
    expect(
      await server.edit(
        LIB,
        'fn greet(worker: usize) -> String {\n',
        '#[wasm_bindgen]\nextern "C" {\n    fn parseFloat(text: &str) -> f64;\n}\n\nfn greet(worker: usize) -> String {\n    let worker = parseFloat(&worker.to_string());\n',
      ),
    ).toMatchObject({ event: 'refused', reason: expect.stringContaining('comes from JavaScript'), remedy: 'reload' });
    expect(await server.edit(LIB, 'WEIGHTS: [u32; 3] = [1, 2, 3]', 'WEIGHTS: [u32; 3] = [4, 5, 6]')).toMatchObject({
      event: 'refused',
      remedy: 'reload',
    });
    expect(await pond.ask(...ALL)).toEqual(ALL.map((number) => `worker ${number} says hello`));
    await pond.expectUndisturbed(threads);
  });
});

/** Patches without a rustc before each: two builds, and the way from one to the other and back. */
describe('patches in quick succession', () => {
  let browser: Browser;
  let builder: Builder;
  let web: Web;
  let directory: string;
  let open: OpenPage;
  let builds: readonly Build[];
  const closing = new AbortController();

  beforeAll(async () => {
    browser = await launchBrowser();
    directory = copyCrate('test/fixtures/pool', 'pool');
    const options = { directory, threads: true, features: [], targetDirectory: TARGET, report: () => {} };
    builder = await createBuilder({ ...options, arenaBytes: 8 << 20 }, await requireToolchain(options));
    const path = join(directory, LIB);
    const source = readFileSync(path, 'utf8');
    const built = async (text: string): Promise<Build> => {
      writeFileSync(path, text);
      const build = await builder.update({ paths: [path], at: 0 }, closing.signal);
      if (build.kind === 'failed') throw new Error(JSON.stringify(build.diagnostics));
      return build;
    };
    const first = await builder.base(closing.signal);
    if (first.kind === 'failed') throw new Error(JSON.stringify(first.diagnostics));
    const changed = source.replace('fn colour(_row: u32) -> u32 {\n    0', 'fn colour(_row: u32) -> u32 {\n    1');
    const second = await built(changed);
    const third = await built(changed.replace('says hello', 'says good night'));
    writeFileSync(path, source);
    builds = [first, second, third];
    web = new Web({ host: '127.0.0.1', port: 0, strictPort: false, report: () => {} }, builder);
    await web.open({ onVisit: async () => {}, onEnd: () => {} });
  });
  afterEach(() => open.close());
  afterAll(async () => {
    closing.abort();
    await web.close();
    await builder.close();
    await browser.close();
  });

  /** Serves the first build. The result makes the page's program what another says. */
  const publish = async (): Promise<(build: Build | undefined) => Promise<void>> => {
    const [base] = builds;
    if (base === undefined) throw new Error('expected a build');
    const { linker } = await web.publish(base, 0, '');
    return async (build) => {
      const outcome = linker.link(build ?? base);
      if (outcome.kind !== 'patch') throw new Error(JSON.stringify(outcome));
      const made = linker.patch(outcome);
      if ('refusal' in made) throw new Error(made.refusal.reason);
      const { patch } = made;
      const receipts = await web.deliver(patch);
      expect(receipts).toMatchObject([{ applied: true }]);
      web.commit(patch);
      linker.commit(outcome.draft);
    };
  };

  test('two within 10 ms are both taken, in order, by workers that wait meanwhile', async () => {
    const take = await publish();
    open = await openPage(browser, web.url, 'window.ready === true');
    const pond = new Pond(open);
    await pond.page.evaluate(() => {
      const times: number[] = [];
      Object.assign(globalThis, { times });
      addEventListener('hotslot:patch', () => times.push(performance.now()));
    });
    const gaps: number[] = [];
    // A machine that is busy may need several attempts to be that quick.
    for (let attempt = 0; attempt < 20 && Math.min(...gaps) >= 10; attempt++) {
      await take(builds[1]);
      await take(builds[2]);
      expect(await pond.ask(...ALL)).toEqual(ALL.map((number) => `worker ${number} says good night`));
      expect(await pond.call('frame')).toBe('[1]');
      const times = await pond.page.evaluate(() => (globalThis as unknown as { times: number[] }).times);
      gaps.push((times.at(-1) ?? 0) - (times.at(-2) ?? 0));
      await take(builds[0]);
    }
    expect(Math.min(...gaps)).toBeLessThan(10);
  });

  test('two hundred while all threads draw: no trap, no frame of other values, little memory', async () => {
    const take = await publish();
    open = await openPage(browser, web.url, 'window.ready === true');
    const pond = new Pond(open);
    const threads = pond.page.workers();
    await pond.page.evaluate(() => {
      const frames: Record<string, number> = {};
      Object.assign(globalThis, { frames });
      const draw = (): void => {
        const frame = String(pool['frame']?.());
        frames[frame] = (frames[frame] ?? 0) + 1;
        setTimeout(draw);
      };
      draw();
    });
    const bytes = (): Promise<unknown> => pond.page.evaluate(() => (pool['bytes'] as () => number)());
    const before = await bytes();
    for (let patch = 0; patch < 100; patch++) {
      await take(builds[1]);
      await take(builds[0]);
    }
    expect(await pond.call('frame')).toBe('[0]');
    const frames = await pond.page.evaluate(() => (globalThis as unknown as { frames: Record<string, number> }).frames);
    // A frame that was begun before a patch may have rows of both.
    expect(Object.keys(frames).filter((frame) => !['[0]', '[1]', '[0, 1]'].includes(frame))).toEqual([]);
    expect(frames['[1]']).toBeGreaterThan(0);
    expect(await bytes()).toBe(before);
    expect(await pond.ask(...ALL)).toEqual(ALL.map((number) => `worker ${number} says hello`));
    await pond.expectUndisturbed(threads);
  });
});

describe('a crate with a configuration of its own', () => {
  test('is recognised by its flags, and needs no other', async () => {
    const directory = copyCrate('test/fixtures/pool', 'pool-flags');
    const flags = [
      '-Ctarget-feature=+atomics,+bulk-memory,+mutable-globals',
      ...['--shared-memory', '--import-memory', '--max-memory=1073741824'].map((flag) => `-Clink-arg=${flag}`),
      ...['__wasm_init_tls', '__tls_size', '__tls_align', '__tls_base', '__heap_base'].map(
        (name) => `-Clink-arg=--export=${name}`,
      ),
    ];
    const config = join(directory, '.cargo/config.toml');
    mkdirSync(dirname(config), { recursive: true });
    writeFileSync(config, `[target.wasm32-unknown-unknown]\nrustflags = ${JSON.stringify(flags)}\n`);
    const manifest = join(directory, 'Cargo.toml');
    writeFileSync(manifest, readFileSync(manifest, 'utf8').replace('threads = true\n', ''));
    const server = await startServer(directory);
    const browser = await launchBrowser();
    try {
      const pond = new Pond(await openPage(browser, server.url, 'window.ready === true'));
      expect((await server.edit(LIB, 'says hello', 'says good day')).event).toBe('patch');
      expect(await pond.ask(...ALL)).toEqual(ALL.map((number) => `worker ${number} says good day`));
    } finally {
      await server.close();
      await browser.close();
    }
  });
});
