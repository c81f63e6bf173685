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
declare const pageWorkers: Worker[];

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
const EDITS = 200;

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
    for (const kind of ['worker', 'classic', 'nested']) {
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

  test('a thread that cannot take a patch ends, the others go on, and all hear of it', async () => {
    const pond = await open();
    const warning = pond.page.waitForEvent('console', (message) => message.type() === 'warning');
    const number = await pond.page.evaluate((kind) => startWorker(kind), 'broken');
    await pond.call('begin', number);
    await pond.page.waitForFunction(() => Number(pool['turns']?.()) > 0);
    const told = server.next(({ event }) => event === 'threads');
    const { version } = await swap('fn step() -> u32 {\n    1', 'fn step() -> u32 {\n    2');
    expect(await told).toMatchObject({ version, workers: 7, failed: 1 });
    expect((await warning).text()).toBe(
      `[hotslot] 1 threads could not take version ${version} and ended; reload the page`,
    );
    expect(await pond.ask(...ALL)).toEqual(ALL.map((each) => `worker ${each} says hello`));
    await pond.call('begin', 0);
    await pond.page.waitForFunction(() => pool['latest']?.() === 2);
    await pond.call('stop');
    expect(await pond.answers(1)).toEqual(['steps [2]']);
  });

  test('workers that were terminated while they waited are not waited for', async () => {
    const pond = await open();
    const counted = async (from: string, to: string): Promise<Extract<Event, { event: 'threads' }>> => {
      const told = server.next(({ event }) => event === 'threads');
      await swap(from, to);
      return (await told) as Extract<Event, { event: 'threads' }>;
    };
    expect((await counted('says hello', 'says hi')).workers).toBe(6);
    await pond.page.evaluate(async () => {
      for (const worker of pageWorkers.splice(0)) worker.terminate();
      // Those of rayon's workers are left.
      while ((await navigator.locks.query()).held?.length !== 2)
        await new Promise((resolve) => setTimeout(resolve, 50));
    });
    const { workers, behind } = await counted('says hi', 'says hey');
    expect(workers).toBe(2);
    expect(behind).toBeLessThanOrEqual(2);
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

  test(
    'two hundred edits while all threads draw: each takes them in order, and none leaves anything behind',
    { timeout: 600_000 },
    async () => {
      const pond = await open();
      const modules = await pond.page.evaluate(() => startWorker('late'));
      const threads = pond.page.workers();
      const source = server.read(LIB);
      await pond.page.evaluate(() => {
        const drawn: string[] = [];
        const said: string[] = [];
        Object.assign(globalThis, { drawn, said });
        let asked = 0;
        const draw = (): void => {
          const frame = String(pool['frame']?.());
          if (drawn.at(-1) !== frame) drawn.push(frame);
          const answers = String(pool['answers']?.());
          if (asked === 0 || answers.split('; ').length === asked) {
            if (asked > 0 && said.at(-1) !== answers) said.push(answers);
            pool['forget']?.();
            for (const number of [0, 1, 2, 3]) pool['ask']?.(number);
            asked = 4;
          }
          requestAnimationFrame(draw);
        };
        draw();
      });
      const bytes = (): Promise<unknown> => pond.call('bytes');
      const before = await bytes();
      for (let number = 1; number <= EDITS; number++) {
        const text = source
          .replace('fn colour(_row: u32) -> u32 {\n    0', `fn colour(_row: u32) -> u32 {\n    ${number}`)
          .replace('says hello', `says ${number}`);
        expect(await server.write({ [LIB]: text })).toMatchObject({
          event: 'patch',
          functions: expect.arrayContaining(['pool::colour', 'pool::greet']),
        });
      }
      await pond.page.waitForFunction((last) => {
        const { drawn, said } = globalThis as unknown as { drawn: string[]; said: string[] };
        return drawn.at(-1) === `[${last}]` && said.at(-1)?.split(`says ${last}`).length === 5;
      }, EDITS);
      const { drawn, said } = await pond.page.evaluate(() => {
        const kept = globalThis as unknown as { drawn: string[]; said: string[] };
        return { drawn: kept.drawn, said: kept.said };
      });
      const frames = drawn.flatMap((frame) => JSON.parse(frame) as number[]);
      // No row is of an older version than one of an earlier frame.
      expect(frames).toEqual(frames.toSorted((one, other) => one - other));
      expect(new Set(frames).size).toBeGreaterThan(EDITS / 2);
      for (const number of ALL) {
        const heard = said.map((answers) => Number(new RegExp(`worker ${number} says (\\d+)`).exec(answers)?.[1] ?? 0));
        expect(heard).toEqual(heard.toSorted((one, other) => one - other));
        expect(new Set(heard).size).toBeGreaterThan(EDITS / 2);
        expect(heard.at(-1)).toBe(EDITS);
      }
      expect(await bytes()).toBe(before);
      await pond.expectUndisturbed(threads);
      // What a worker compiles that starts late: the few that still show.
      expect(await pond.page.evaluate(() => startWorker('late'))).toBeLessThan(modules + 10);
    },
  );
});

/** A picture that the raytracer's page has shown. */
interface Picture {
  /** As the page says. */
  readonly version: string;
  /** Mean red, green and blue of each square of 40 × 40 pixels. */
  readonly means: readonly number[];
  /** Of the first pixel; undefined when others differ from it. */
  readonly only: string | undefined;
}

describe('the raytracer', () => {
  let browser: Browser;
  let server: Server;

  beforeAll(async () => {
    browser = await launchBrowser();
    server = await startServer(copyCrate('examples/raytrace', 'raytrace'));
  });
  afterAll(async () => {
    await server.close();
    await browser.close();
  });

  /** Four threads. All pictures from then on are kept. */
  const open = async (): Promise<OpenPage> => {
    const opened = await openPage(browser, server.url, "document.body?.dataset.ready === ''");
    await opened.page.evaluate(() => {
      const pictures: Picture[] = [];
      Object.assign(globalThis, { pictures });
      const canvas = document.querySelector('canvas') as HTMLCanvasElement;
      const look = (): Picture => {
        const { width, height } = canvas;
        const data = canvas.getContext('2d')?.getImageData(0, 0, width, height).data ?? new Uint8ClampedArray();
        const means: number[] = [];
        for (let at = 0; at < data.length; at += 1) {
          const [x, y] = [(at >> 2) % width, Math.floor((at >> 2) / width)];
          const mean = (Math.floor(y / 40) * (width / 40) + Math.floor(x / 40)) * 4 + (at & 3);
          means[mean] = (means[mean] ?? 0) + (data[at] ?? 0) / 1600;
        }
        const pixels = new Uint32Array(data.buffer);
        const only = pixels.every((pixel) => pixel === pixels[0]) ? String(data.slice(0, 3)) : undefined;
        return { version: document.getElementById('version')?.textContent ?? '', means, only };
      };
      // The page writes how many samples it has once it has drawn them.
      const observer = new MutationObserver(() => pictures.push(look()));
      observer.observe(document.getElementById('samples') as HTMLElement, { childList: true });
      const slider = document.getElementById('threads') as HTMLInputElement;
      slider.value = '4';
      slider.dispatchEvent(new Event('input'));
    });
    while (opened.page.workers().length < 4) await opened.page.waitForEvent('worker');
    return opened;
  };

  /** The first ones that the page shows of a version. */
  const pictures = async ({ page }: OpenPage, version: string, count: number): Promise<Picture[]> => {
    const found = await page.waitForFunction(
      ([name, wanted]) => {
        const { pictures: all } = globalThis as unknown as { pictures: Picture[] };
        const shown = all.filter((picture) => picture.version === name);
        return shown.length >= wanted && shown;
      },
      [version, count] as const,
    );
    return (await found.jsonValue()) as Picture[];
  };

  const difference = (one: Picture | undefined, other: Picture | undefined): number =>
    Math.max(...(one?.means ?? []).map((mean, index) => Math.abs(mean - (other?.means[index] ?? NaN))));

  test('shading, camera and scene change in the picture; all of its pixels are of one version', async () => {
    const opened = await open();
    const threads = opened.page.workers();
    const [original] = await pictures(opened, 'as built', 1);
    let last = original;
    let version = 0;
    const take = async (path: string, from: string, to: string, count: number): Promise<Picture[]> => {
      version += 1;
      expect(await server.edit(path, from, to)).toMatchObject({ event: 'patch', version });
      return pictures(opened, `version ${version}`, count);
    };
    for (const [path, from, to] of [
      ['src/trace.rs', 'share = share.tint(hit.surface.colour);', 'share = share.tint(hit.normal * 0.5);'],
      ['src/camera.rs', 'let zoom = 1.9;', 'let zoom = 1.2;'],
      ['src/scene.rs', 'let ring = 11;', 'let ring = 5;'],
    ] as const) {
      const [changed] = await take(path, from, to, 1);
      expect(difference(last, changed)).toBeGreaterThan(15);
      last = changed;
    }
    // As a page shows it in which no older code has run.
    const other = await open();
    const [fresh] = await pictures(other, 'as built', 1);
    expect(difference(last, fresh)).toBeLessThan(5);
    await other.close();

    let light = 'let mut gathered = vector(0.0, 0.0, 0.0);';
    const colours: string[] = [];
    for (const level of ['0.1', '0.4', '0.8']) {
      const flat = `if origin.x < 1e9 {\n        return vector(${level}, ${level}, ${level});\n    }\n    ${light}`;
      const before = light;
      const shown = await take('src/trace.rs', before, flat, 3);
      light = flat;
      const [colour = ''] = new Set(shown.map(({ only }) => only));
      colours.push(colour);
      expect(shown.map(({ only }) => only)).toEqual(shown.map(() => colour));
    }
    expect(new Set(colours).size).toBe(3);
    await server.restore();
    const [restored] = await pictures(opened, `version ${version + 1}`, 1);
    expect(difference(original, restored)).toBeLessThan(5);
    expect(opened.page.workers()).toEqual(threads);
    expect(await opened.isSameDocument()).toBe(true);
    expect(opened.navigations()).toBe(1);
    expect(opened.errors).toEqual([]);
    await opened.close();
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
