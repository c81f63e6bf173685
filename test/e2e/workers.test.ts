// A program in workers and audio worklets, each with a memory of its own: edit → see, in all of them.
import type { Browser, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { Event } from '../../src/model.ts';
import { launchBrowser } from './browser.ts';
import { type Answer, copyCrate, openPage, type OpenPage, type Server, startServer } from './harness.ts';

const LIB = 'src/lib.rs';
const QUANTUM = 128;
const RATE = 48_000;

type Kind = 'module' | 'classic' | 'script' | 'nested' | 'shared' | 'thread' | 'copy';

/** What the page has for the tests. */
declare const band: Record<string, (...given: unknown[]) => unknown>;
declare const start: (kind: Kind) => number;
declare const ask: (...call: unknown[]) => Promise<unknown>;
declare const end: (player: number) => void;
declare const perform: (context: BaseAudioContext, isThread?: boolean) => Promise<number>;
declare global {
  interface Window {
    context?: BaseAudioContext;
    rendered?: Promise<AudioBuffer>;
  }
}

let browser: Browser;
let server: Server;
const stages: Stage[] = [];

beforeAll(async () => {
  browser = await launchBrowser();
  server = await startServer(copyCrate('test/fixtures/band', 'band'));
});
afterEach(async () => {
  for (const stage of stages.splice(0)) await stage.open.close();
  await server.restore();
});
afterAll(async () => {
  await server.close();
  await browser.close();
});

/** A page that runs the program itself, and starts it elsewhere. */
class Stage {
  readonly open: OpenPage;

  constructor(open: OpenPage) {
    this.open = open;
  }

  get page(): Page {
    return this.open.page;
  }

  /** Resolves when the program runs there, and takes patches. It gets a name at once, for the time when it does. */
  async start(kind: Kind): Promise<number> {
    const joins = kind === 'copy' ? undefined : joined('worker');
    const player = await this.page.evaluate((each) => start(each), kind);
    expect(await this.ask(player, 'tune', kind)).toBeNull();
    await joins;
    return player;
  }

  ask(player: number, ...call: readonly unknown[]): Promise<unknown> {
    return this.page.evaluate((given) => ask(...given), [player, ...call]);
  }

  async expectUndisturbed(): Promise<void> {
    expect(await this.open.isSameDocument()).toBe(true);
    expect(this.open.navigations()).toBe(1);
    expect(this.open.errors).toEqual([]);
  }
}

async function openStage(url = server.url): Promise<Stage> {
  const stage = new Stage(await openPage(browser, url, 'window.ready === true'));
  stages.push(stage);
  return stage;
}

function joined(kind: string): Promise<Event> {
  return server.next((event) => event.event === 'client' && event.state === 'joined' && event.kind === kind);
}

function left(kind: string): Promise<Event> {
  return server.next((event) => event.event === 'client' && event.state === 'left' && event.kind === kind);
}

async function swap(from: string, to: string): Promise<Extract<Answer, { event: 'patch' }>> {
  const answer = await server.edit(LIB, from, to);
  if (answer.event !== 'patch') throw new Error(`expected a patch, got ${JSON.stringify(answer, null, 2)}`);
  return answer;
}

const CHORD = 'fn chord(_number: u32) -> String {\n    "C".to_owned()';
/** With a function of JavaScript that nothing used before. */
const IMPORTED = `#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = Math)]
    fn max(one: f64, other: f64) -> f64;
}

fn chord(number: u32) -> String {
    format!("max {}", max(number as f64, 3.0))`;

// ------------------------------------------------------------------------------------------------------------ workers

test('the page, each kind of worker, and a second instance in the page: all run the new code, each with what it had', async () => {
  const stage = await openStage();
  const kinds = ['module', 'classic', 'script', 'nested', 'shared', 'copy'] as const;
  for (const [player, kind] of kinds.entries()) {
    expect(await stage.start(kind)).toBe(player);
    expect(await stage.ask(player, 'play')).toBe(`${kind} plays C 1`);
  }
  const workers = stage.page.workers();
  expect(await swap('"C".to_owned()', '"G".to_owned()')).toMatchObject({ clients: 6, workers: 5 });
  for (const [player, kind] of kinds.entries()) expect(await stage.ask(player, 'play')).toBe(`${kind} plays G 2`);
  expect(await stage.page.evaluate(() => band['play']?.())).toBe(' plays G 1');
  await server.restore();

  // Also what needs a newer version of the glue.
  expect(await swap(CHORD, IMPORTED)).toMatchObject({ clients: 6, workers: 5 });
  for (const [player, kind] of kinds.entries()) expect(await stage.ask(player, 'play')).toBe(`${kind} plays max 3 3`);
  for (const [player, kind] of kinds.entries()) expect(await stage.ask(player, 'play')).toBe(`${kind} plays max 4 4`);
  expect(stage.page.workers()).toEqual(workers);
  await stage.expectUndisturbed();
});

test('a worker that is ended, and started anew after three patches, begins with the current code', async () => {
  const stage = await openStage();
  const old = await stage.start('module');
  expect(await stage.ask(old, 'first')).toBe('C');
  await swap('"C".to_owned()', '"D".to_owned()');
  await swap('"D".to_owned()', '"E".to_owned()');
  const { version } = await swap(
    'fn chord(_number: u32) -> String {\n    "E".to_owned()',
    IMPORTED.replace('3.0', '6.0'),
  );
  const gone = left('worker');
  await stage.page.evaluate((player) => end(player), old);
  expect(await gone).toMatchObject({ version });
  for (const kind of ['module', 'classic', 'script', 'nested', 'shared', 'copy'] as const) {
    const player = await stage.start(kind);
    // Already its first function, that is; and no version after it is missed.
    expect([kind, await stage.ask(player, 'first')]).toEqual([kind, 'max 7']);
    expect(await stage.ask(player, 'play')).toBe(`${kind} plays max 6 1`);
  }
  await swap('6.0', '9.0');
  for (const player of [1, 2, 3, 4, 5, 6]) expect(await stage.ask(player, 'play')).toContain(' plays max 9 2');
  await stage.expectUndisturbed();
});

test('a page and a worker that know no modules', async () => {
  const joins = joined('worker');
  const open = await openPage(browser, `${server.url}script.html`, 'window.ready === true');
  const stage = new Stage(open);
  stages.push(stage);
  await joins;
  const play = (): Promise<unknown> => stage.page.evaluate(() => band['play']?.());
  expect([await play(), await stage.ask(0, 'play')]).toEqual([' plays C 1', ' plays C 1']);
  expect(await swap('"C".to_owned()', '"G".to_owned()')).toMatchObject({ clients: 2, workers: 1 });
  expect([await play(), await stage.ask(0, 'play')]).toEqual([' plays G 2', ' plays G 2']);
  await swap('fn chord(_number: u32) -> String {\n    "G".to_owned()', IMPORTED);
  expect([await play(), await stage.ask(0, 'play')]).toEqual([' plays max 3 3', ' plays max 3 3']);
  await stage.expectUndisturbed();
});

test('what one worker cannot take, none has, and the worker is named', async () => {
  const stage = await openStage();
  const players = [await stage.start('module'), await stage.start('classic')];
  await stage.page.workers()[1]?.evaluate(() => {
    WebAssembly.Module = new Proxy(WebAssembly.Module, {
      construct: () => {
        throw new Error('no room');
      },
    });
  });
  const refused = await server.edit(LIB, '"C".to_owned()', '"F".to_owned()');
  expect(refused.event === 'refused' && refused.reason).toMatch(/^worker \d+ could not apply it: .*no room/);
  for (const player of players) expect(await stage.ask(player, 'play')).toContain('plays C 1');
  expect(await stage.page.evaluate(() => band['play']?.())).toBe(' plays C 1');
  await stage.expectUndisturbed();
});

test('a worker that is busy keeps nobody waiting, and has each version when it is done', async () => {
  const stage = await openStage();
  const player = await stage.start('classic');
  let release: () => void = () => {};
  const held = new Promise<void>((resolve) => (release = resolve));
  await stage.page.route('**/hold', async (route) => {
    await held;
    await route.fulfill({ body: 'done' });
  });
  const waiting = stage.ask(player, 'wait', '/hold');
  await stage.page.waitForRequest('**/hold');
  const { clients, totalMs } = await swap('"C".to_owned()', '"A".to_owned()');
  expect(clients).toBe(1);
  expect(totalMs).toBeLessThan(9000);
  await swap('"A".to_owned()', '"B".to_owned()');
  expect(await stage.page.evaluate(() => band['play']?.())).toBe(' plays B 1');
  release();
  expect(await waiting).toBe('done');
  expect(await stage.ask(player, 'play')).toBe('classic plays B 1');
  expect(await swap('"B".to_owned()', '"H".to_owned()')).toMatchObject({ clients: 2, workers: 1 });
  expect(await stage.ask(player, 'play')).toBe('classic plays H 2');
  await stage.expectUndisturbed();
});

test('a page that runs the program in a worker only is reloaded when there is a new base', async () => {
  const solo = await openPage(browser, `${server.url}solo.html`, 'window.ready === true');
  expect(await solo.page.evaluate(() => ask('play'))).toBe(' plays C 1');
  // Other exports than the page's scripts know.
  const answer = await server.edit(LIB, 'pub fn tune(name: String) {', 'pub fn tune(name: String, _again: bool) {');
  expect(answer).toMatchObject({ event: 'refused', remedy: 'reload' });
  await solo.page
    .context()
    .newPage()
    .then((page) => page.goto(server.url));
  await solo.reloaded();
  expect(await solo.page.evaluate(() => ask('play'))).toBe(' plays C 1');
  await solo.close();
});

// ----------------------------------------------------------------------------------------------------- audio worklets

/** What the program in a worklet is to render, from its first frame on. */
function saw(from: number, to: number, level: number): number[] {
  return Array.from({ length: to - from }, (_, index) => Math.fround((((from + index) % 1024) / 1024) * level));
}

test('in the middle of a rendering: the sound changes from one quantum to the next, and its phase goes on', async () => {
  const stage = await openStage();
  const joins = joined('worklet');
  const player = await stage.page.evaluate(
    async ([quantum, rate]) => {
      const context = new OfflineAudioContext(1, 40 * quantum, rate);
      window.context = context;
      const number = await perform(context);
      const suspended = context.suspend((20 * quantum) / rate);
      window.rendered = context.startRendering();
      await suspended;
      return number;
    },
    [QUANTUM, RATE] as const,
  );
  await joins;
  await stage.ask(player, 'tune', 'worklet');
  expect(await stage.ask(player, 'play')).toBe('worklet plays C 1');
  expect(await swap('phase * 0.25', 'phase * 0.5')).toMatchObject({ clients: 2, worklets: 1 });
  await swap('"C".to_owned()', '"G".to_owned()');
  expect(await stage.ask(player, 'play')).toBe('worklet plays G 2');

  const gone = left('worklet');
  const samples = await stage.page.evaluate(async () => {
    await (window.context as OfflineAudioContext).resume();
    return [...((await window.rendered)?.getChannelData(0) ?? [])];
  });
  expect(samples).toEqual([...saw(0, 20 * QUANTUM, 0.25), ...saw(20 * QUANTUM, 40 * QUANTUM, 0.5)]);
  // A worklet that is over holds nobody up.
  await gone;
  expect((await swap('"G".to_owned()', '"H".to_owned()')).clients).toBe(1);
  await stage.expectUndisturbed();
});

test('the client asks nothing of a worklet that the program does not ask', async () => {
  const stage = await openStage();
  const known = await stage.page.evaluate(async () => {
    const { audioWorklet } = (window.context = new OfflineAudioContext(1, 128, 48_000));
    await audioWorklet.addModule('/@hotslot/client.js');
    return new AudioWorkletNode(window.context, 'hotslot', { numberOfOutputs: 0 }).port !== undefined;
  });
  expect(known).toBe(true);
  await stage.expectUndisturbed();
});

test('while it sounds: a worklet takes one patch after the other, new JavaScript too, and a later one begins with all', async () => {
  const stage = await openStage();
  const begin = async (): Promise<number> => {
    const joins = joined('worklet');
    const player = await stage.page.evaluate(async () => {
      const context = new AudioContext();
      const number = await perform(context);
      await context.resume();
      return number;
    });
    await joins;
    await stage.ask(player, 'tune', `worklet ${player}`);
    return player;
  };
  const early = await begin();
  expect(await stage.ask(early, 'play')).toBe('worklet 0 plays C 1');
  expect(await swap('"C".to_owned()', '"D".to_owned()')).toMatchObject({ clients: 2, worklets: 1 });
  expect(await stage.ask(early, 'play')).toBe('worklet 0 plays D 2');
  await swap('fn chord(_number: u32) -> String {\n    "D".to_owned()', IMPORTED);
  expect(await stage.ask(early, 'play')).toBe('worklet 0 plays max 3 3');
  const late = await begin();
  expect(await stage.ask(late, 'first')).toBe('max 7');
  expect(await swap('3.0', '5.0')).toMatchObject({ clients: 3, worklets: 2 });
  expect(await stage.ask(early, 'play')).toBe('worklet 0 plays max 5 4');
  expect(await stage.ask(late, 'play')).toBe('worklet 1 plays max 5 1');
  await stage.expectUndisturbed();
});

// It builds the program another way.
test(
  'with threads: a worklet and a worker without modules, which share the memory of the page',
  { timeout: 600_000 },
  async () => {
    const threaded = await startServer(copyCrate('test/fixtures/band', 'band-threads'), { args: ['--threads'] });
    try {
      const stage = await openStage(threaded.url);
      const player = await stage.page.evaluate(async () => {
        start('thread');
        const context = new AudioContext();
        const number = await perform(context, true);
        await context.resume();
        return number;
      });
      const play = (): Promise<readonly unknown[]> =>
        Promise.all([stage.page.evaluate(() => band['play']?.()), stage.ask(0, 'play'), stage.ask(player, 'play')]);
      expect(await play()).toEqual(Array(3).fill(' plays C 1'));
      const told = threaded.next(({ event }) => event === 'threads');
      expect(await threaded.edit(LIB, '"C".to_owned()', '"G".to_owned()')).toMatchObject({
        event: 'patch',
        clients: 1,
      });
      expect(await told).toMatchObject({ workers: 2 });
      expect(await play()).toEqual(Array(3).fill(' plays G 2'));
      expect(await stage.page.evaluate(() => band['total']?.())).toBe(6);
      await threaded.restore();
      expect(await play()).toEqual(Array(3).fill(' plays C 3'));
      await stage.expectUndisturbed();
    } finally {
      await threaded.close();
    }
  },
);
