// Server and client together in Chromium, on a base and patches assembled here by hand: what each test shows is what a
// page does, nothing of how the linker comes to a patch.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser, BrowserContext, Page, WebSocketRoute } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { type PatchHeader, writePatch } from '../../src/client/protocol.ts';
import { type Base, type Server, startServer } from '../../src/deliver/server.ts';
import type { Event, WasmPatch, Receipt } from '../../src/model.ts';
import { launchBrowser } from './browser.ts';

// ----------------------------------------------------------------------------------------------------- the program
//
// `value()` goes through slot 1 and returns what is at STATE plus what the current version adds; `bump()` adds one to
// STATE. The start function stores `value()` at FIRST: what the program saw before anybody could call it.

const STATE = 1024;
const FIRST = 1028;
const TEXT = 2048;
const PAGE_BYTES = 65_536;

const I32 = 0x7f;
const CONST = 0x41;
const END = 0x0b;
const LOAD = [0x28, 2, 0];
const STORE = [0x36, 2, 0];
const ADD = 0x6a;
const CALL = 0x10;
const CALL_INDIRECT = 0x11;

type Bytes = readonly number[];

function unsigned(value: number): Bytes {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...unsigned(value >>> 7)];
}

function signed(value: number): Bytes {
  return value >= -0x40 && value < 0x40 ? [value & 0x7f] : [(value & 0x7f) | 0x80, ...signed(value >> 7)];
}

const constant = (value: number): Bytes => [CONST, ...signed(value)];
const name = (text: string): Bytes => [...unsigned(text.length), ...Buffer.from(text)];
const vector = (items: readonly Bytes[]): Bytes => [...unsigned(items.length), ...items.flat()];
const section = (id: number, items: readonly Bytes[]): Bytes => {
  const content = vector(items);
  return items.length === 0 ? [] : [id, ...unsigned(content.length), ...content];
};
const body = (code: Bytes): Bytes => [...unsigned(code.length + 2), 0, ...code, END];
const data = (address: number, bytes: Bytes): Bytes => [
  0,
  ...constant(address),
  END,
  ...vector(bytes.map((byte) => [byte])),
];
const element = (slot: number, functions: Bytes): Bytes => [
  0,
  ...constant(slot),
  END,
  ...vector(functions.map((index) => [index])),
];
const assemble = (...sections: readonly Bytes[]): Uint8Array =>
  Uint8Array.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, ...sections.flat()]);

const TYPES = section(1, [
  [0x60, 0, 1, I32],
  [0x60, 0, 0],
  [0x60, 1, I32, 1, I32],
]);
const loadState = [...constant(STATE), ...LOAD];

function baseModule(): Uint8Array {
  return assemble(
    TYPES,
    section(3, [[0], [0], [1], [1]]),
    section(4, [[0x70, 0, 2]]),
    section(5, [[0, 1]]),
    section(6, [[I32, 1, ...constant(1000), END]]),
    section(7, [
      [...name('memory'), 2, 0],
      [...name('__hotslot_table'), 1, 0],
      [...name('__hotslot_stack_pointer'), 3, 0],
      [...name('value'), 0, 0],
      [...name('bump'), 0, 2],
      [...name('__wbindgen_start'), 0, 3],
    ]),
    section(9, [element(1, [1])]),
    section(10, [
      body([...constant(1), CALL_INDIRECT, 0, 0]),
      body(loadState),
      body([...constant(STATE), ...loadState, ...constant(1), ADD, ...STORE]),
      body([...constant(FIRST), CALL, 0, ...STORE]),
    ]),
    section(11, [data(STATE, [10])]),
  );
}

/** As `wasm-bindgen --target web` lays it out. */
function baseGlue(imports = '{}'): string {
  return `
export const value = () => wasm.value();
export const bump = () => wasm.bump();
export const read = (address) => new DataView(wasm.memory.buffer).getInt32(address, true);
export const grow = () => wasm.memory.grow(1);
export const slot = (index) => wasm.__hotslot_table.get(index) === null ? null : wasm.__hotslot_table.get(index)();
function __wbg_get_imports() {
    return { __proto__: null, "./demo_bg.js": ${imports} };
}
let wasm;
function __wbg_finalize_init(instance, module) {
    wasm = instance.exports;
    wasm.__wbindgen_start();
    return wasm;
}
export function initSync({ module }) {
    return __wbg_finalize_init(new WebAssembly.Instance(new WebAssembly.Module(module), __wbg_get_imports()));
}
export default async function __wbg_init(path = new URL('demo_bg.wasm', import.meta.url)) {
    const { instance, module } = await WebAssembly.instantiateStreaming(fetch(path), __wbg_get_imports());
    return __wbg_finalize_init(instance, module);
}
`;
}

interface Content {
  /** The new `value()`: STATE plus this, which grows with each patch of a test. */
  readonly adds: number;
  /** Where `value()` gets its body. */
  readonly slot?: number;
  readonly data?: readonly (readonly [address: number, bytes: Bytes])[];
  /** A function (i32) → i32 to pass the result through. */
  readonly through?: { readonly from: string; readonly name: string };
}

function patchModule({ adds, slot = 1, data: segments = [], through }: Content): Uint8Array {
  const imports: Bytes[] = [
    [...name('hotslot'), ...name('memory'), 2, 0, 1],
    [...name('hotslot'), ...name('table'), 1, 0x70, 0, 1],
    [...name('hotslot'), ...name('stack_pointer'), 3, I32, 1],
  ];
  if (through !== undefined) imports.push([...name(through.from), ...name(through.name), 0, 2]);
  const result = [...loadState, ...constant(adds), ADD];
  return assemble(
    TYPES,
    section(2, imports),
    section(3, [[0]]),
    section(9, [element(slot, [through === undefined ? 0 : 1])]),
    section(10, [body(through === undefined ? result : [...result, CALL, 0])]),
    section(
      11,
      segments.map(([address, bytes]) => data(address, bytes)),
    ),
  );
}

function patch(version: number, content: Content, changes: Partial<WasmPatch> = {}): WasmPatch {
  return {
    kind: 'wasm',
    base: 'base-one',
    version,
    module: patchModule(content),
    tableLength: 2,
    slots: [content.slot ?? 1],
    ranges: (content.data ?? []).map(([address, bytes]) => [address, bytes.length]),
    functions: ['demo::value'],
    warnings: [],
    ...changes,
  };
}

// ------------------------------------------------------------------------------------------------------- the stage

declare global {
  interface Window {
    demo: Record<'value' | 'bump' | 'grow', () => number> & Record<'read' | 'slot', (at: number) => number | null>;
    __hotslot: { readonly version: number };
  }
}

let browser: Browser;
let context: BrowserContext;
let root: string;
let server: Server;
let events: Event[];
let base: Base;

beforeAll(async () => {
  execFileSync('node_modules/.bin/tsc', ['-b', 'src/client']);
  browser = await launchBrowser();
});

afterAll(() => browser.close());

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'deliver-'));
  events = [];
  context = await browser.newContext();
  base = { id: 'base-one', version: 0, glue: baseGlue(), module: baseModule(), directory: root };
  writeFileSync(
    join(root, 'index.html'),
    `<script type="module">import init, * as demo from './pkg/demo.js'; await init(); globalThis.demo = demo;</script>`,
  );
  server = await start();
  server.publish(base);
});

afterEach(async () => {
  await context.close();
  await server.close();
  rmSync(root, { recursive: true });
});

function start(port = 0): Promise<Server> {
  const own = events;
  return startServer({
    host: '127.0.0.1',
    port,
    strictPort: true,
    root,
    name: 'demo',
    report: (event) => void own.push(event),
  });
}

async function openPage(path = ''): Promise<Page> {
  const page = await context.newPage();
  await page.goto(server.url + path);
  await started(page);
  return page;
}

/** The program runs, and this document is not one that the test has seen before. */
async function started(page: Page): Promise<void> {
  await page.waitForFunction(() => 'demo' in globalThis && !('seen' in globalThis));
  await page.evaluate(() => Object.assign(globalThis, { seen: true }));
}

const stillThere = (page: Page): Promise<boolean> => page.evaluate(() => 'seen' in globalThis);
const value = (page: Page): Promise<number> => page.evaluate(() => window.demo.value());
const bump = (page: Page): Promise<number> => page.evaluate(() => window.demo.bump());
const read = (page: Page, address: number): Promise<number | null> =>
  page.evaluate((at) => window.demo.read(at), address);
const version = (page: Page): Promise<number> => page.evaluate(() => window.__hotslot.version);

async function deliver(next: WasmPatch): Promise<readonly Receipt[]> {
  const receipts = await server.deliver(next);
  if (receipts.every(({ applied }) => applied)) server.commit(next);
  else server.abandon(next, 'a page refused it');
  return receipts;
}

const refusal = (receipt: Receipt | undefined): string =>
  receipt === undefined || receipt.applied ? 'applied' : receipt.reason;

test('a patch changes what the open page does, and keeps what it has', async () => {
  const page = await openPage();
  await bump(page);
  expect(await value(page)).toBe(11);
  await page.evaluate(() => {
    globalThis.addEventListener('hotslot:patch', (event) => {
      Object.assign(globalThis, { heard: (event as CustomEvent<{ version: number }>).detail });
    });
  });
  const receipts = await deliver(patch(1, { adds: 100 }));
  expect(receipts).toEqual([{ client: '1', kind: 'page', version: 1, applied: true, applyMs: expect.any(Number) }]);
  expect(await value(page)).toBe(111);
  expect(await page.evaluate(() => Reflect.get(globalThis, 'heard') as unknown)).toEqual({ version: 1 });
  await deliver(patch(2, { adds: 200, slot: 7 }, { tableLength: 8 }));
  expect(await value(page)).toBe(111);
  expect(await page.evaluate(() => window.demo.slot(7))).toBe(211);
  expect(await stillThere(page)).toBe(true);
});

test('what is abandoned is undone, table and memory', async () => {
  const page = await openPage();
  await deliver(patch(1, { adds: 100, data: [[TEXT, [1, 2, 3, 4]]] }));
  const before = await read(page, TEXT);
  const second = patch(2, { adds: 200, data: [[TEXT, [9, 9, 9, 9]]] });
  await server.deliver(second);
  expect(await value(page)).toBe(210);
  expect(await read(page, TEXT)).not.toBe(before);
  server.abandon(second, 'changed my mind');
  await page.waitForFunction(() => window.__hotslot.version === 1);
  expect(await value(page)).toBe(110);
  expect(await read(page, TEXT)).toBe(before);
  await deliver(patch(2, { adds: 300 }));
  expect(await value(page)).toBe(310);
});

test('a patch that fails halfway leaves no trace', async () => {
  const page = await openPage();
  // The slot and the first segment are written before the second one, outside of memory, traps.
  const halfway = patch(
    1,
    {
      adds: 100,
      data: [
        [TEXT, [1, 2, 3, 4]],
        [2 * PAGE_BYTES, [1]],
      ],
    },
    { ranges: [[TEXT, 4]] },
  );
  const [receipt] = await deliver(halfway);
  expect(refusal(receipt)).toMatch(/RuntimeError.*out of bounds/);
  expect(await value(page)).toBe(10);
  expect(await read(page, TEXT)).toBe(0);
  expect(await version(page)).toBe(0);
});

test('what a page lacks is found before anything is touched', async () => {
  const page = await openPage();
  const refusals: [WasmPatch, RegExp][] = [
    [patch(1, { adds: 1, through: { from: 'glue', name: '__wbg_none' } }), /imports `__wbg_none` from `glue`/],
    [patch(1, { adds: 1, through: { from: 'hotslot', name: 'none' } }), /imports `none` from `hotslot`/],
    [patch(1, { adds: 1, through: { from: 'env', name: 'none' } }), /imports `none` from `env`: expected/],
    [patch(1, { adds: 1 }, { module: Uint8Array.of(1, 2, 3) }), /CompileError/],
    [patch(1, { adds: 1, data: [[PAGE_BYTES - 1, [1, 2]]] }), /writes 2 bytes at 65535, memory ends at 65536/],
    [patch(1, { adds: 1 }, { slots: [50] }), /RangeError/],
    [patch(1, { adds: 1 }, { tableLength: 2 ** 31 }), /RangeError|TypeError/],
  ];
  for (const [next, reason] of refusals) expect(refusal((await deliver(next))[0])).toMatch(reason);
  expect(await value(page)).toBe(10);
  expect((await deliver(patch(1, { adds: 5 })))[0]).toMatchObject({ applied: true, version: 1 });
  expect(await value(page)).toBe(15);
});

test('a page that comes late has the current version before its first function runs', async () => {
  await deliver(patch(1, { adds: 100 }));
  await deliver(patch(2, { adds: 200 }));
  const page = await openPage();
  expect(await read(page, FIRST)).toBe(210);
  expect(await version(page)).toBe(2);
});

test('however the page starts the program', async () => {
  writeFileSync(
    join(root, 'sync.html'),
    `<script type="module">
      import * as demo from './pkg/demo.js';
      demo.initSync({ module: await (await fetch('./pkg/demo_bg.wasm')).arrayBuffer() });
      globalThis.demo = demo;
    </script>`,
  );
  writeFileSync(
    join(root, 'url.html'),
    `<script type="module">
      import init, * as demo from './demo.js';
      await init('/demo_bg.wasm');
      globalThis.demo = demo;
    </script>`,
  );
  await deliver(patch(1, { adds: 100 }));
  for (const path of ['sync.html', 'url.html']) {
    const page = await openPage(path);
    expect([path, await read(page, FIRST)]).toEqual([path, 110]);
  }
  await deliver(patch(2, { adds: 200 }));
  for (const page of context.pages()) expect(await value(page)).toBe(210);
});

test('a program in a worker takes patches too', async () => {
  writeFileSync(
    join(root, 'worker.js'),
    `import init, { value } from './pkg/demo.js';
    await init();
    globalThis.addEventListener('message', () => postMessage(value()));
    postMessage('ready');`,
  );
  writeFileSync(
    join(root, 'worker.html'),
    `<script>
      const worker = new Worker('worker.js', { type: 'module' });
      const next = () => new Promise((resolve) => worker.addEventListener('message', (event) => resolve(event.data), { once: true }));
      const ready = next();
      const ask = () => { const answer = next(); worker.postMessage('value'); return answer; };
    </script>`,
  );
  await deliver(patch(1, { adds: 100 }));
  const page = await context.newPage();
  await page.goto(`${server.url}worker.html`);
  expect(await page.evaluate('ready')).toBe('ready');
  expect(await page.evaluate('ask()')).toBe(110);
  // A worker begins with what came with its glue, and does not wait for its connection.
  await vi.waitFor(() => expect(server.clients).toBe(1), 10_000);
  expect(await deliver(patch(2, { adds: 200 }))).toMatchObject([{ applied: true }]);
  expect(await page.evaluate('ask()')).toBe(210);
});

test('a page that starts the program later than a patch arrives takes it along', async () => {
  writeFileSync(
    join(root, 'later.html'),
    `<script type="module">
      import init, * as demo from './pkg/demo.js';
      globalThis.start = async () => { await init(); globalThis.demo = demo; };
    </script>`,
  );
  const page = await context.newPage();
  await page.goto(`${server.url}later.html`);
  await page.waitForFunction(() => 'start' in globalThis);
  expect(await deliver(patch(1, { adds: 100 }))).toMatchObject([{ applied: true }]);
  const undone = patch(2, { adds: 200 });
  await server.deliver(undone);
  server.abandon(undone, 'changed my mind');
  await page.waitForFunction(() => window.__hotslot.version === 1);
  await page.evaluate(() => (Reflect.get(globalThis, 'start') as () => Promise<void>)());
  expect(await read(page, FIRST)).toBe(110);
});

test('a reloaded page comes back to the current version', async () => {
  const page = await openPage();
  for (const adds of [100, 200, 300]) await deliver(patch(adds / 100, { adds }));
  await bump(page);
  expect(await value(page)).toBe(311);
  await page.reload();
  await started(page);
  expect(await value(page)).toBe(310);
  expect(await deliver(patch(4, { adds: 400 }))).toMatchObject([{ applied: true, version: 4 }]);
  expect(await value(page)).toBe(410);
});

test('two tabs go together; when one refuses, both stay', async () => {
  const [roomy, small] = [await openPage(), await openPage()];
  expect(await deliver(patch(1, { adds: 100 }))).toHaveLength(2);
  await roomy.evaluate(() => window.demo.grow());
  const receipts = await deliver(patch(2, { adds: 200, data: [[PAGE_BYTES + 8, [1]]] }));
  expect(receipts.filter(({ applied }) => applied)).toHaveLength(1);
  expect(receipts).toHaveLength(2);
  await roomy.waitForFunction(() => window.__hotslot.version === 1);
  for (const page of [roomy, small]) expect([await value(page), await version(page)]).toEqual([110, 1]);
  expect(await deliver(patch(2, { adds: 300 }))).toMatchObject([{ applied: true }, { applied: true }]);
  for (const page of [roomy, small]) expect(await value(page)).toBe(310);
});

test('a gap between versions, and a patch of another history, are refused', async () => {
  const routes: WebSocketRoute[] = [];
  const answers: unknown[] = [];
  const page = await context.newPage();
  await page.routeWebSocket(/@hotslot\/socket/, (route) => {
    const up = route.connectToServer();
    route.onMessage((message) => {
      const sent = JSON.parse(String(message)) as { type: string };
      if (sent.type === 'receipt') answers.push(sent);
      up.send(message);
    });
    routes.push(route);
  });
  await page.goto(server.url);
  await started(page);
  const header: PatchHeader = {
    type: 'patch',
    base: 'base-one',
    version: 1,
    previous: 'base-one',
    state: 'next',
    committed: false,
    tableLength: 2,
    slots: [1],
    ranges: [],
    functions: [],
  };
  const wrong: [Partial<PatchHeader>, string][] = [
    [{ version: 2 }, 'the patch makes version 2, this page is at 0'],
    [{ version: 0 }, 'the patch makes version 0, this page is at 0'],
    [{ base: 'other' }, 'the patch is for base other, this page loaded base-one'],
    [{ previous: 'other' }, 'the patch follows another version 0'],
  ];
  for (const [change] of wrong)
    routes[0]?.send(Buffer.from(writePatch({ ...header, ...change }, patchModule({ adds: 100 }))));
  await vi.waitFor(() => expect(answers).toHaveLength(wrong.length));
  expect(answers).toEqual(
    wrong.map(([, reason]) => expect.objectContaining({ applied: false, reason: `Error: ${reason}` })),
  );
  expect(await value(page)).toBe(10);
});

test('when the server dies, a page keeps running, and goes on with one that knows its version', async () => {
  const page = await openPage();
  const first = patch(1, { adds: 100 });
  await deliver(first);
  await bump(page);
  // Nobody agreed on this one: the page must not keep it.
  await server.deliver(patch(2, { adds: 200 }));
  expect(await value(page)).toBe(211);
  const port = Number(new URL(server.url).port);
  await server.close();
  await page.waitForFunction(() => window.__hotslot.version === 1);
  expect(await value(page)).toBe(111);

  server = await start(port);
  server.publish(base);
  await server.deliver(first);
  server.commit(first);
  await vi.waitFor(() => expect(server.clients).toBe(1), 10_000);
  expect(await deliver(patch(2, { adds: 300 }))).toMatchObject([{ applied: true, version: 2 }]);
  expect(await value(page)).toBe(311);
  expect(await stillThere(page)).toBe(true);
});

test('with a server that does not know its version, the page reloads', async () => {
  const page = await openPage();
  await deliver(patch(1, { adds: 100 }));
  const port = Number(new URL(server.url).port);
  await server.close();
  server = await start(port);
  server.publish(base);
  await started(page);
  expect(await value(page)).toBe(10);
  await vi.waitFor(() => expect(server.clients).toBe(1));
});

test('a new base reloads the page once, even when the page gets the old one again', async () => {
  const page = await openPage();
  server.publish({ ...base, id: 'base-two', version: 1 });
  await started(page);
  expect(await version(page)).toBe(1);

  // A copy of the program from somewhere else, such as a service worker's cache.
  const old = await (await fetch(`${server.url}pkg/demo.js`)).text();
  await page.route('**/pkg/demo.js', (route) => route.fulfill({ contentType: 'text/javascript', body: old }));
  const complaint = page.waitForEvent('console', (message) => message.text().includes('reloading did not help'));
  server.publish({ ...base, id: 'base-three', version: 2 });
  await complaint;
  await started(page);
  expect(await value(page)).toBe(10);
});

test('JavaScript imported for the first time comes with the patch, bound to the running program', async () => {
  const directory = join(root, 'newer');
  mkdirSync(join(directory, 'snippets'), { recursive: true });
  writeFileSync(join(directory, 'snippets/triple.js'), 'export const triple = (number) => 3 * number;');
  writeFileSync(
    join(directory, 'demo.js'),
    `import { triple } from './snippets/triple.js';\n${baseGlue(`{ __wbg_triple: (number) => triple(number) + wasm.added() + wasm.value.length }`)}`,
  );
  const page = await openPage();
  await bump(page);
  // Slot 2 is an export that the base does not have.
  const brought = patch(
    1,
    { adds: 1, through: { from: 'glue', name: '__wbg_triple' } },
    { glue: { directory, file: 'demo.js', exports: { added: 2 } }, tableLength: 3, slots: [1, 2] },
  );
  const first = patch(1, { adds: 0, slot: 2 }, { tableLength: 3 });
  await deliver(first);
  expect(await deliver({ ...brought, version: 2 })).toMatchObject([{ applied: true }]);
  expect(await value(page)).toBe(3 * (11 + 1) + 11);
  // A later patch may use it too.
  await deliver(patch(3, { adds: 2, through: { from: 'glue', name: '__wbg_triple' } }));
  expect(await value(page)).toBe(3 * (11 + 2) + 11);
  expect(await read(await openPage(), FIRST)).toBe(3 * (10 + 2) + 10);
});

test('what a page complains about reaches the server, and the console still has it', async () => {
  const page = await openPage();
  const shown: string[] = [];
  page.on('console', (message) => shown.push(message.text()));
  await page.evaluate(() => {
    console.error('panicked at src/lib.rs:1:1');
    setTimeout(() => {
      throw new TypeError('uncaught one');
    });
    void Promise.reject(new RangeError('rejected one'));
  });
  for (const text of ['panicked at src/lib.rs:1:1', 'TypeError: uncaught one', 'RangeError: rejected one']) {
    await vi.waitFor(() => {
      expect(events).toContainEqual(
        expect.objectContaining({ event: 'log', level: 'error', client: '1', text: expect.stringContaining(text) }),
      );
    });
  }
  expect(shown).toContain('panicked at src/lib.rs:1:1');
  server.tell({ type: 'failed', diagnostics: [{ severity: 'error', text: 'mismatched types', code: 'E0308' }] });
  await vi.waitFor(() => expect(shown).toContain('[hotslot] error[E0308]: mismatched types'));
});

// What a page can try; these run in it.
const fetchInPage = (url: string): Promise<string> =>
  fetch(url).then(
    () => 'done',
    () => 'failed',
  );
const loadInPage = (attributes: { src: string; type: string }): Promise<string> =>
  new Promise((resolve) => {
    const script = Object.assign(document.createElement('script'), attributes);
    script.addEventListener('load', () => resolve('done'));
    script.addEventListener('error', () => resolve('failed'));
    document.head.append(script);
  });
const connectInPage = (url: string): Promise<string> =>
  new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.addEventListener('open', () => resolve('done'));
    socket.addEventListener('error', () => resolve('failed'));
  });

test('a page of another origin gets neither the token nor the program; one of this origin does', async () => {
  const other = await start();
  const { token } = (await (await fetch(`${server.url}@hotslot/session`)).json()) as { token: string };
  for (const [from, outcome] of [
    [other, 'failed'],
    [server, 'done'],
  ] as const) {
    const page = await context.newPage();
    await page.goto(from.url);
    expect(
      await Promise.all([
        page.evaluate(fetchInPage, `${server.url}@hotslot/session`),
        page.evaluate(fetchInPage, `${server.url}pkg/demo_bg.wasm`),
        page.evaluate(loadInPage, { src: `${server.url}@hotslot/client.js`, type: 'module' }),
        page.evaluate(loadInPage, { src: `${server.url}pkg/demo.js`, type: 'module' }),
        page.evaluate(loadInPage, { src: `${server.url}@hotslot/client.js`, type: '' }),
        page.evaluate(loadInPage, { src: `${server.url}pkg/demo.js`, type: '' }),
        page.evaluate(connectInPage, `${server.url.replace('http', 'ws')}@hotslot/socket?token=${token}`),
      ]),
    ).toEqual(Array(7).fill(outcome));
  }
  await other.close();
});
