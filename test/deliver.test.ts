// The server over real HTTP and real sockets: what it serves and to whom, and the journal's rules as a page sees them.
// Pages themselves are in e2e/deliver.test.ts.
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Script } from 'node:vm';
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { WebSocket } from 'ws';
import {
  type ClientMessage,
  type PatchHeader,
  readPatch,
  type ServerMessage,
  writePatch,
} from '../src/client/protocol.ts';
import { checkHost } from '../src/deliver/access.ts';
import { bindGlue, hookGlue } from '../src/deliver/glue.ts';
import { type Base, type Server, type ServerOptions, startServer } from '../src/deliver/server.ts';
import type { Event, WasmPatch } from '../src/model.ts';

const GLUE = `let wasm;
function __wbg_get_imports() { return { "./demo_bg.js": {} }; }
function __wbg_finalize_init(instance, module) {
    wasm = instance.exports;
    wasm.__wbindgen_start();
    return wasm;
}
export { initSync, __wbg_init as default };
`;

let root: string;
let server: Server;
let events: Event[];
let sockets: WebSocket[];

beforeAll(() => {
  // The client is served as compiled.
  execFileSync('node_modules/.bin/tsc', ['-b', 'src/client']);
});

beforeEach(async () => {
  root = mkdtempSync(join(realpathSync(tmpdir()), 'deliver-'));
  events = [];
  sockets = [];
  server = await start();
});

afterEach(async () => {
  vi.useRealTimers();
  for (const socket of sockets) socket.terminate();
  await server.close();
  rmSync(root, { recursive: true });
});

function start(options: Partial<ServerOptions> = {}): Promise<Server> {
  // Of this test: a page of the one before may leave late.
  const own = events;
  const report = (event: Event): void => void own.push(event);
  return startServer({ host: '127.0.0.1', port: 0, root: join(root, 'crate'), name: 'demo', report, ...options });
}

/** Writes files of the crate's folder, by path. */
function write(files: Record<string, string>): void {
  for (const [path, text] of Object.entries({ 'Cargo.toml': '[package]', ...files })) {
    const file = join(root, 'crate', path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
}

function base(changes: Partial<Base> = {}): Base {
  const module = new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
  return { id: 'base-one', version: 0, glue: GLUE, module, directory: join(root, 'pkg'), ...changes };
}

function patch(version: number, changes: Partial<WasmPatch> = {}): WasmPatch {
  const module = new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, version]);
  return {
    kind: 'wasm',
    base: 'base-one',
    version,
    module,
    tableLength: 2,
    slots: [1],
    ranges: [],
    functions: [],
    warnings: [],
    ...changes,
  };
}

interface Answer {
  readonly status: number;
  readonly headers: Record<string, unknown>;
  readonly body: string;
}

/** One request with the path exactly as given. */
async function ask(path: string, headers: Record<string, string> = {}, method = 'GET', to = server): Promise<Answer> {
  const { hostname, port } = new URL(to.url);
  const sent = request({ hostname, port, path, method, headers, agent: false });
  sent.end();
  const [response] = (await once(sent, 'response')) as [import('node:http').IncomingMessage];
  let body = '';
  response.setEncoding('utf8');
  for await (const chunk of response) body += chunk as string;
  return { status: response.statusCode ?? 0, headers: response.headers, body };
}

const status = async (...args: Parameters<typeof ask>): Promise<number> => (await ask(...args)).status;

async function token(): Promise<string> {
  return (JSON.parse((await ask('/@hotslot/session')).body) as { token: string }).token;
}

function socketUrl(query: string): string {
  return `${server.url.replace('http', 'ws')}@hotslot/socket${query}`;
}

/** The status of a socket that must not open. */
async function refusal(query: string, headers: Record<string, string> = {}): Promise<number> {
  const socket = new WebSocket(socketUrl(query), { headers });
  socket.on('error', () => {});
  const [, response] = (await once(socket, 'unexpected-response')) as [unknown, import('node:http').IncomingMessage];
  socket.terminate();
  return response.statusCode ?? 0;
}

/** A page as the server sees one. */
interface Page {
  readonly socket: WebSocket;
  send(message: ClientMessage): void;
  /** The next message, in order. */
  next(): Promise<ServerMessage>;
  hello(at?: Partial<ClientMessage & { type: 'hello' }>): void;
}

async function openPage(): Promise<Page> {
  const socket = new WebSocket(socketUrl(`?token=${await token()}`));
  sockets.push(socket);
  const arrived: ServerMessage[] = [];
  const awaited: ((message: ServerMessage) => void)[] = [];
  socket.on('message', (data: Buffer, binary: boolean) => {
    const message = binary
      ? readPatch(new Uint8Array(data).buffer).header
      : (JSON.parse(data.toString()) as ServerMessage);
    const waiting = awaited.shift();
    if (waiting === undefined) arrived.push(message);
    else waiting(message);
  });
  await once(socket, 'open');
  const send = (message: ClientMessage): void => socket.send(JSON.stringify(message));
  return {
    socket,
    send,
    next: () => {
      const message = arrived.shift();
      return message === undefined ? new Promise((resolve) => awaited.push(resolve)) : Promise.resolve(message);
    },
    hello: (at) => send({ type: 'hello', base: 'base-one', version: 0, state: 'base-one', ...at }),
  };
}

async function joinedPage(): Promise<Page> {
  const page = await openPage();
  page.hello();
  expect(await page.next()).toMatchObject({ type: 'joined' });
  return page;
}

async function nextPatch(page: Page): Promise<PatchHeader> {
  const message = await page.next();
  if (message.type !== 'patch') throw new Error(`expected a patch, got ${message.type}`);
  return message;
}

function accept(page: Page, { state }: PatchHeader): void {
  page.send({ type: 'receipt', state, applied: true, applyMs: 1 });
}

describe('whom it answers', () => {
  test('a name that somebody else controls is refused, names of this machine are not', async () => {
    const { port } = new URL(server.url);
    write({});
    for (const host of ['localhost', '127.0.0.1', '[::1]', 'app.localhost', 'LOCALHOST']) {
      expect([host, await status('/', { host: `${host}:${port}` })]).toEqual([host, 200]);
    }
    for (const host of [
      'evil.example',
      'localhost.evil.example',
      '127.0.0.1.nip.io',
      'evillocalhost',
      '192.168.0.7',
      'a@localhost',
    ]) {
      expect([host, await status('/', { host })]).toEqual([host, 403]);
      expect([host, await refusal(`?token=${await token()}`, { host })]).toEqual([host, 403]);
    }
  });

  test('the host it was told to use is its name too, and a wildcard stands for addresses', () => {
    expect(checkHost({ host: 'box.lan:80' }, 'box.lan')).toBeUndefined();
    expect(checkHost({ host: '192.168.0.7:80' }, '0.0.0.0')).toBeUndefined();
    expect(checkHost({ host: '[fe80::1]:80' }, '::')).toBeUndefined();
    expect(checkHost({ host: 'evil.example' }, '0.0.0.0')).toMatchObject({ status: 403 });
    expect(checkHost({}, '127.0.0.1')).toMatchObject({ status: 403 });
  });

  test('pages of other origins get nothing that drives the program', async () => {
    const { host, origin } = new URL(server.url);
    for (const path of ['/@hotslot/session', '/@hotslot/client.js', '/@hotslot/socket']) {
      for (const headers of [
        { origin: 'http://evil.example' },
        { origin: 'null' },
        { origin: 'http://127.0.0.1:1' },
        { origin: origin.replace('http', 'https') },
        { 'sec-fetch-site': 'cross-site' },
        { 'sec-fetch-site': 'same-site' },
      ]) {
        expect([path, headers, await status(path, { host, ...headers })]).toEqual([path, headers, 403]);
      }
    }
    expect(await status('/@hotslot/session', { host, origin, 'sec-fetch-site': 'same-origin' })).toBe(200);
  });

  test('other sites may link to a page but not include what is here', async () => {
    write({ 'index.html': '<p>', 'data.json': '{}' });
    const site = { 'sec-fetch-site': 'cross-site' };
    expect(await status('/', { ...site, 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' })).toBe(200);
    expect(await status('/', { ...site, 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'iframe' })).toBe(403);
    expect(await status('/data.json', { ...site, 'sec-fetch-mode': 'no-cors' })).toBe(403);
  });

  test('the socket wants the token of this run, and pages of this origin', async () => {
    const known = await token();
    expect(known.length).toBeGreaterThanOrEqual(32);
    expect(await refusal('')).toBe(403);
    expect(await refusal(`?token=${known.slice(1)}x`)).toBe(403);
    expect(await refusal(`?token=${known}é`)).toBe(403);
    expect(await refusal(`?token=${known}`, { origin: 'http://evil.example' })).toBe(403);
    expect(await refusal(`?token=${known}`, { 'sec-fetch-site': 'same-site' })).toBe(403);
    const other = await start();
    expect((JSON.parse((await ask('/@hotslot/session', {}, 'GET', other)).body) as { token: string }).token).not.toBe(
      known,
    );
    await other.close();
  });

  test('only GET and HEAD', async () => {
    write({ 'index.html': '<p>' });
    expect(await ask('/', {}, 'POST')).toMatchObject({ status: 405, headers: { allow: 'GET, HEAD' } });
    const head = await ask('/', {}, 'HEAD');
    expect(head).toMatchObject({ status: 200, body: '' });
    expect(Number(head.headers['content-length'])).toBeGreaterThan(0);
  });

  test('nonsense on the wire ends that connection and nothing else', async () => {
    const { hostname, port } = new URL(server.url);
    for (const text of [
      'GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n',
      'GET // HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
      'GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n',
      'nonsense\r\n\r\n',
    ]) {
      const socket = connect(Number(port), hostname).setEncoding('utf8');
      socket.write(text);
      const [answer] = (await once(socket, 'data')) as [string];
      expect(answer).toMatch(/^HTTP\/1.1 400 /);
      socket.destroy();
    }
    expect(await status('/')).toBe(200);
  });
});

describe('files', () => {
  test('public/ comes first, then the folder; each with its type, validated by ETag', async () => {
    write({
      'public/a.css': 'one',
      'a.css': 'two',
      'assets/b.svg': '<svg/>',
      'c.wasm': '',
      'd.html': '<p>d',
      'e.js': '',
    });
    expect(await ask('/a.css')).toMatchObject({ status: 200, body: 'one' });
    const types = {
      '/a.css': 'text/css',
      '/assets/b.svg': 'image/svg+xml',
      '/c.wasm': 'application/wasm',
      '/e.js': 'text/javascript',
    };
    for (const [path, type] of Object.entries(types)) {
      const { headers } = await ask(path);
      expect(String(headers['content-type']).split(';')[0]).toBe(type);
      expect(headers['cache-control']).toBe('no-cache');
      expect(await status(path, { 'if-none-match': String(headers['etag']) })).toBe(304);
    }
    expect((await ask('/d')).body).toContain('<p>d');
    expect(await ask('/a.css', { range: 'bytes=1-1' })).toMatchObject({ status: 206, body: 'n' });
    expect(await status('/missing.css')).toBe(404);
  });

  test('source, build output, keys and dot-files are not there', async () => {
    write({
      'src/lib.rs': '',
      'build.rs': '',
      'Cargo.lock': '',
      'target/x.js': '',
      '.env': '',
      '.git/config': '',
      'sub/.env': '',
      'key.pem': '',
      'public/.env': '',
    });
    for (const path of [
      '/src/lib.rs',
      '/build.rs',
      '/Cargo.toml',
      '/cargo.TOML',
      '/Cargo.lock',
      '/target/x.js',
      '/.env',
      '/%2eenv',
      '/.git/config',
      '/sub/.env',
      '/key.pem',
    ]) {
      expect([path, await status(path)]).toEqual([path, 404]);
    }
    write({ 'public/.well-known/x.txt': 'ok' });
    expect(await status('/.well-known/x.txt')).toBe(200);
  });

  test('no path leaves the folder', async () => {
    write({ 'a/b.txt': 'b' });
    writeFileSync(join(root, 'secret.txt'), 'secret');
    for (const path of [
      '/../secret.txt',
      '/a/../../secret.txt',
      '/%2e%2e/secret.txt',
      '/.%2E/secret.txt',
      '/..%2fsecret.txt',
      '/a%2f..%2f..%2fsecret.txt',
      '/..%5csecret.txt',
      '/..\\secret.txt',
      '/a/b.txt%00.html',
      '/%zz',
      '/%c0%ae%c0%ae/secret.txt',
    ]) {
      expect([path, await status(path)]).toEqual([path, 400]);
    }
    // Decoded once only: these are strange names, of no file.
    for (const path of [
      '/%252e%252e/secret.txt',
      '/%252e%252e%252fsecret.txt',
      `/${join(root, 'secret.txt')}`,
      '//secret.txt',
    ]) {
      expect([path, await status(path)]).toEqual([path, 404]);
    }
  });

  test('a symbolic link is followed within the folder, and never to what is hidden', async () => {
    write({ 'a.txt': 'a', '.env': 'secret', 'public/x': '' });
    writeFileSync(join(root, 'secret.txt'), 'secret');
    const at = (path: string): string => join(root, 'crate', path);
    symlinkSync(at('a.txt'), at('public/inside.txt'));
    symlinkSync(join(root, 'secret.txt'), at('public/outside.txt'));
    symlinkSync(root, at('folder'));
    symlinkSync(at('.env'), at('public/env.txt'));
    symlinkSync(at('Cargo.toml'), at('manifest.txt'));
    expect(await ask('/inside.txt')).toMatchObject({ status: 200, body: 'a' });
    for (const path of ['/outside.txt', '/folder/secret.txt', '/env.txt', '/manifest.txt']) {
      expect([path, await status(path)]).toEqual([path, 403]);
    }
  });

  test('a client that leaves in the middle of a file, and ranges that make no sense, do not end the server', async () => {
    write({ 'big.bin': 'x'.repeat(20_000_000) });
    const { hostname, port } = new URL(server.url);
    const sent = request({ hostname, port, path: '/big.bin', agent: false });
    sent.end();
    const [response] = (await once(sent, 'response')) as [import('node:http').IncomingMessage];
    await once(response, 'readable');
    response.destroy();
    await ask('/big.bin', { range: 'bytes=9-2' }).catch(() => 'closed');
    expect(await status('/')).toBe(200);
  });
});

describe('pages', () => {
  const CLIENT = '<script type="module" src="/@hotslot/client.js"></script>';
  const START = `<script type="module">import init from '/pkg/demo.js'; await init();</script>`;

  test('a crate without a page gets one that starts the program', async () => {
    write({});
    const page = await ask('/');
    expect(page).toMatchObject({ status: 200, headers: { 'content-type': 'text/html;charset=utf-8' } });
    expect(page.body).toContain('<title>demo</title>');
    expect(page.body).toContain(`<head>${CLIENT}${START}`);
  });

  test('a page that loads the program itself only gets the client', async () => {
    write({
      'index.html': `<!-- <head> --><html><head lang="en"><script type="module">import init from './pkg/demo.js'</script></head><header>`,
      'outside.html': `<script type=module src=./js/start.js></script>`,
      'js/start.js': `import { run } from "./run.mjs"; import 'https://elsewhere.example/x.js'`,
      'js/run.mjs': `import './start.js'; import init from '../pkg/demo.js'`,
      'worker.html': `<script>new Worker('worker.js', { type: 'module' })</script>`,
      'worker.js': `import init from './pkg/demo.js'`,
      'bare.html': `<!doctype html><p>hello`,
    });
    const { body } = await ask('/');
    expect(body).toContain(`<head lang="en">${CLIENT}<script`);
    expect(body).not.toContain(START);
    expect((await ask('/outside.html')).body).not.toContain(START);
    expect((await ask('/worker.html')).body).not.toContain(START);
    expect((await ask('/bare.html')).body).toBe(`<!doctype html>${CLIENT}${START}<p>hello`);
  });

  test("trunk's page works: the program starts, its style sheets are style sheets", async () => {
    write({ 'index.html': `<head><link data-trunk rel="rust"><link data-trunk rel="css" href="a.css"></head>` });
    const { body } = await ask('/');
    expect(body).toContain(START);
    expect(body).toContain('<link data-trunk rel="stylesheet" href="a.css">');
  });

  test('any address without an extension is the page, for browsers that navigate', async () => {
    write({ 'index.html': '<p>home', 'www/index.html': '<p>www' });
    const browser = { accept: 'text/html,*/*' };
    expect((await ask('/items/7', browser)).body).toContain('<p>home');
    expect(await status('/items/7')).toBe(404);
    expect(await status('/items/7.png', browser)).toBe(404);
    expect(await ask('/www?x=1')).toMatchObject({ status: 302, headers: { location: '/www/?x=1' } });
    expect(await ask('//www')).toMatchObject({ status: 302, headers: { location: '/www/' } });
    expect((await ask('/www/')).body).toContain('<p>www');
  });
});

describe('the program', () => {
  test('is wherever a page looks for it, also over files on disk', async () => {
    write({ 'pkg/demo.js': 'stale', 'pkg/other.txt': 'other' });
    expect(await ask('/pkg/demo.js')).toMatchObject({ status: 503 });
    server.publish(base());
    for (const path of ['/pkg/demo.js', '/www/pkg/demo.js', '/demo.js', '/demo.js?v=1']) {
      const glue = await ask(path);
      expect(glue).toMatchObject({ status: 200, headers: { 'content-type': 'text/javascript;charset=utf-8' } });
      expect(glue.body).toContain('__hotslot_client.install(wasm, __hotslot_loaded)');
    }
    const module = await ask('/pkg/demo_bg.wasm');
    expect(module).toMatchObject({ status: 200, headers: { 'content-type': 'application/wasm' } });
    expect(await status('/demo_bg.wasm', { 'if-none-match': String(module.headers['etag']) })).toBe(304);
    expect((await ask('/pkg/other.txt')).body).toBe('other');
  });

  test('a script that is no module gets one, with all that it imports; what it cannot import it throws', async () => {
    const script = { 'sec-fetch-dest': 'script', 'sec-fetch-mode': 'no-cors' };
    const textOf = async (changes: Partial<Base>): Promise<string> => {
      server.publish(base(changes));
      return (await ask('/pkg/demo.js', script)).body;
    };
    const text = await textOf({});
    expect(() => new Script(text)).not.toThrow();
    expect(text).toMatch(/^let wasm_bindgen = /);
    for (const name of ['openProgram', 'connectPage', '__wbg_finalize_init'])
      expect(text).toContain(`function ${name}(`);
    const snippet = await textOf({ glue: `import { a } from './snippets/a.js';\n${GLUE}` });
    expect(() => new Script(snippet).runInNewContext()).toThrow('cannot import /pkg/snippets/a.js');
  });

  test('snippets come from the folder of wasm-bindgen, and nothing else does', async () => {
    mkdirSync(join(root, 'pkg/snippets/x'), { recursive: true });
    writeFileSync(join(root, 'pkg/snippets/x/inline0.js'), 'export const a = 1');
    writeFileSync(join(root, 'pkg/demo.d.ts'), '');
    writeFileSync(join(root, 'secret.txt'), '');
    symlinkSync(join(root, 'secret.txt'), join(root, 'pkg/snippets/x/link.js'));
    server.publish(base());
    expect((await ask('/pkg/snippets/x/inline0.js')).body).toBe('export const a = 1');
    for (const path of ['/pkg/demo.d.ts', '/pkg/snippets/x/link.js', '/pkg/snippets/x/none.js', '/pkg/snippets']) {
      expect([path, await status(path)]).toEqual([path, 404]);
    }
  });

  test('the session may bring the base up to date before a page gets it, and its failure is reported', async () => {
    await server.close();
    let calls = 0;
    server = await start({
      onReloadRequest: async () => {
        calls += 1;
        if (calls === 2) throw new Error('no base today');
        server.publish(base({ id: `base-${calls}` }));
      },
    });
    server.publish(base());
    expect((await ask('/pkg/demo.js')).body).toContain('"base":"base-1"');
    await ask('/pkg/demo_bg.wasm');
    expect((await ask('/pkg/demo.js')).body).toContain('"base":"base-1"');
    expect(events).toContainEqual(
      expect.objectContaining({ event: 'log', text: expect.stringContaining('no base today') }),
    );
  });

  test('a taken port leads to the next one, unless that port is a must', async () => {
    const port = Number(new URL(server.url).port);
    await expect(start({ port, strictPort: true })).rejects.toThrow(`cannot listen on 127.0.0.1:${port}`);
    const other = await start({ port });
    expect(Number(new URL(other.url).port)).toBeGreaterThan(port);
    await other.close();
  });
});

describe('glue', () => {
  test('the client comes in right before the start function, or after the exports without one', () => {
    const hooked = hookGlue(base(), 'state/two');
    expect(hooked).toMatch(
      /^import .*\/journal\/state%2Ftwo\.js'.*\{"base":"base-one","version":0,.*\.load\(\w+\); if \(.*\) await \S*joined\(\);/,
    );
    expect(hooked).toMatch(/\.install\(wasm, __hotslot_loaded\); wasm\.__wbindgen_start\(\)/);
    const without = base({ glue: GLUE.replace('wasm.__wbindgen_start();', '') });
    expect(hookGlue(without, '')).toMatch(
      /wasm = instance\.exports; __hotslot_client\.install\(wasm, __hotslot_loaded\);/,
    );
    expect(hooked.split('\n').length).toBe(GLUE.split('\n').length);
  });

  test('text of another shape is an error that says what was expected', () => {
    expect(() => server.publish(base({ glue: 'export default 1;' }))).toThrow(/expected `function __wbg_finalize_init/);
    expect(() => bindGlue('export default 1;', () => false)).toThrow(/expected `function __wbg_get_imports/);
  });

  test('snippets that the page has already are not loaded again', () => {
    const glue = `import { a } from './snippets/a.js';\nimport * as b from "./snippets/b.js";\nfunction __wbg_get_imports() {}\n`;
    const bound = bindGlue(glue, (file) => file === 'snippets/a.js');
    expect(bound).toContain(`from '/pkg/snippets/a.js'`);
    expect(bound).toContain(`from "./snippets/b.js"`);
  });
});

describe('the wire', () => {
  test('a patch frame reads back as it was written, and a broken one says where', () => {
    const header: PatchHeader = {
      type: 'patch',
      base: 'b',
      version: 1,
      previous: 'b',
      state: 's',
      committed: false,
      tableLength: 3,
      slots: [1],
      ranges: [[8, 4]],
      functions: ['é'],
    };
    const frame = writePatch(header, new Uint8Array([1, 2, 3]));
    expect(readPatch(frame.buffer)).toEqual({ header, module: new Uint8Array([1, 2, 3]) });
    expect(() => readPatch(frame.buffer.slice(0, 20))).toThrow('at offset 4');
    expect(() => readPatch(new ArrayBuffer(2))).toThrow('at least 4 bytes');
  });

  test('what is no message of ours closes that socket only', async () => {
    server.publish(base());
    const good = await joinedPage();
    for (const data of [
      '{',
      '"x"',
      'null',
      '{"type":"joined"}',
      '{"type":"hello","base":1}',
      '{"type":"log","level":"x","text":""}',
      Buffer.from([1]),
    ]) {
      const bad = await openPage();
      bad.socket.send(data);
      expect((await once(bad.socket, 'close'))[0]).toBe(1008);
    }
    const large = await openPage();
    large.socket.send('x'.repeat(2_000_000));
    expect((await once(large.socket, 'close'))[0]).toBe(1009);
    good.send({ type: 'log', level: 'error', text: 'panicked' });
    await vi.waitFor(() =>
      expect(events).toContainEqual({ event: 'log', level: 'error', text: 'panicked', client: '1' }),
    );
  });
});

describe('the journal', () => {
  beforeEach(() => server.publish(base()));

  test('a patch without pages is settled at once; pages that come later get it, as committed', async () => {
    const first = patch(1);
    expect(await server.deliver(first)).toEqual([]);
    server.commit(first);
    const page = await openPage();
    page.hello();
    expect(await page.next()).toMatchObject({ type: 'patch', version: 1, previous: 'base-one', committed: true });
    expect(await page.next()).toMatchObject({ type: 'joined', version: 1 });
    expect(server.clients).toBe(1);
    expect(events).toEqual([{ event: 'client', client: '1', kind: 'page', state: 'joined', version: 1 }]);
  });

  test('every page answers once, and hears of the commit', async () => {
    const pages = [await joinedPage(), await joinedPage()];
    const first = patch(1);
    const receipts = server.deliver(first);
    for (const page of pages) accept(page, await nextPatch(page));
    expect(await receipts).toEqual([
      { client: '1', kind: 'page', version: 1, applied: true, applyMs: 1 },
      { client: '2', kind: 'page', version: 1, applied: true, applyMs: 1 },
    ]);
    server.commit(first);
    for (const page of pages) expect(await page.next()).toMatchObject({ type: 'commit' });
  });

  test('a page that joins meanwhile gets the journal and the pending patch, and its receipt counts', async () => {
    const [first, second] = [patch(1), patch(2)];
    await server.deliver(first);
    server.commit(first);
    const early = await openPage();
    early.hello();
    await early.next();
    await early.next();
    const receipts = server.deliver(second);
    const late = await openPage();
    late.hello();
    expect(await late.next()).toMatchObject({ type: 'patch', version: 1, committed: true });
    expect(await late.next()).toMatchObject({ type: 'joined', version: 1 });
    const pending = await nextPatch(late);
    expect(pending).toMatchObject({ version: 2, committed: false });
    accept(early, await nextPatch(early));
    late.send({ type: 'receipt', state: pending.state, applied: false, reason: 'no room' });
    expect(await receipts).toEqual([
      { client: '1', kind: 'page', version: 2, applied: true, applyMs: 1 },
      { client: '2', kind: 'page', version: 1, applied: false, reason: 'no room' },
    ]);
    server.abandon(second, 'no room');
    expect(await early.next()).toMatchObject({ type: 'abandon', state: pending.state, reason: 'no room' });
    expect(await late.next()).toMatchObject({ type: 'abandon' });
  });

  test('a patch that was abandoned leaves its version to the next, which is another state', async () => {
    const page = await joinedPage();
    const [wrong, right] = [patch(1), patch(1, { slots: [2] })];
    void server.deliver(wrong);
    const abandoned = await nextPatch(page);
    server.abandon(wrong, 'another tab refused');
    await page.next();
    void server.deliver(right);
    const kept = await nextPatch(page);
    expect(kept).toMatchObject({ version: 1, previous: 'base-one' });
    expect(kept.state).not.toBe(abandoned.state);
    server.commit(right);
    const stray = await openPage();
    stray.hello({ version: 1, state: abandoned.state });
    expect(await stray.next()).toMatchObject({ type: 'reload', target: 'base-one' });
    const back = await openPage();
    back.hello({ version: 1, state: kept.state });
    expect(await back.next()).toMatchObject({ type: 'joined', version: 1 });
  });

  test('a page that leaves is not waited for', async () => {
    const page = await joinedPage();
    const receipts = server.deliver(patch(1));
    await nextPatch(page);
    page.socket.close();
    expect(await receipts).toEqual([]);
    expect(events.at(-1)).toEqual({ event: 'client', client: '1', kind: 'page', state: 'left', version: 0 });
    expect(server.clients).toBe(0);
  });

  test('a page that says nothing for ten seconds is asleep: it is let go, and keeps nobody from the patch', async () => {
    const page = await joinedPage();
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const next = patch(1);
    const receipts = server.deliver(next);
    await nextPatch(page);
    const closed = once(page.socket, 'close');
    vi.advanceTimersByTime(10_000);
    expect(await receipts).toEqual([]);
    await closed;
    expect(events).toContainEqual(expect.objectContaining({ event: 'log', client: '1', level: 'warn' }));
    server.commit(next);
    const awake = await openPage();
    awake.hello({});
    expect((await nextPatch(awake)).version).toBe(1);
  });

  test('a worker that says nothing for a second is busy: it keeps its connection, and what it says later counts', async () => {
    const [page, willing, unwilling] = [await joinedPage(), await openPage(), await openPage()];
    for (const worker of [willing, unwilling]) {
      worker.hello({ kind: 'worker' });
      await worker.next();
    }
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const next = patch(1);
    const receipts = server.deliver(next);
    accept(page, await nextPatch(page));
    const [{ state }] = [await nextPatch(willing), await nextPatch(unwilling)];
    vi.advanceTimersByTime(1000);
    expect(await receipts).toMatchObject([{ client: '1', kind: 'page', applied: true }]);
    server.commit(next);
    for (const each of [page, willing, unwilling]) expect(await each.next()).toEqual({ type: 'commit', state });
    willing.send({ type: 'receipt', state, applied: true, applyMs: 1 });
    unwilling.send({ type: 'receipt', state, applied: false, reason: 'no room' });
    expect(await unwilling.next()).toMatchObject({ type: 'reload', reason: 'no room' });
    const second = server.deliver(patch(2));
    for (const each of [page, willing]) accept(each, await nextPatch(each));
    expect(await second).toMatchObject([{ kind: 'page' }, { kind: 'worker', version: 2 }]);
  });

  test('a page without the program gets no patches, and is not waited for', async () => {
    const other = await openPage();
    expect(await server.deliver(patch(1))).toEqual([]);
    expect(server.clients).toBe(0);
    server.tell({ type: 'ok' });
    expect(await other.next()).toEqual({ type: 'ok' });
  });

  test('a connection that no longer answers pings is let go before a patch has to wait for it', async () => {
    await server.close();
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    server = await start();
    const dead = new WebSocket(socketUrl(`?token=${await token()}`), { autoPong: false });
    sockets.push(dead);
    const alive = await openPage();
    const pinged = [once(dead, 'ping'), once(alive.socket, 'ping')];
    const ponged = once(alive.socket, 'pong');
    vi.advanceTimersByTime(5000);
    await Promise.all(pinged);
    // The server has read the first pong when it answers this.
    alive.socket.ping();
    await ponged;
    const closed = once(dead, 'close');
    vi.advanceTimersByTime(5000);
    expect(await closed).toEqual([1006, expect.anything()]);
    expect(alive.socket.readyState).toBe(WebSocket.OPEN);
  });

  test('a page that refused what was committed reloads', async () => {
    const [willing, unwilling] = [await joinedPage(), await joinedPage()];
    const first = patch(1);
    const receipts = server.deliver(first);
    accept(willing, await nextPatch(willing));
    const { state } = await nextPatch(unwilling);
    unwilling.send({ type: 'receipt', state, applied: false, reason: 'no room' });
    await receipts;
    server.commit(first);
    expect(await willing.next()).toMatchObject({ type: 'commit' });
    expect(await unwilling.next()).toMatchObject({ type: 'reload' });
    expect(server.clients).toBe(1);
  });

  test('a page that cannot apply a patch of the journal reloads', async () => {
    const first = patch(1);
    await server.deliver(first);
    server.commit(first);
    const page = await openPage();
    page.hello();
    const { state } = await nextPatch(page);
    await page.next();
    page.send({ type: 'receipt', state, applied: false, reason: 'no room' });
    expect(await page.next()).toMatchObject({ type: 'reload', reason: 'no room' });
  });

  test('a new base settles what is pending and sends the pages of the old one for it', async () => {
    const page = await joinedPage();
    const receipts = server.deliver(patch(1));
    await nextPatch(page);
    server.publish(base({ id: 'base-two', version: 4 }));
    expect(await receipts).toEqual([]);
    expect(await page.next()).toMatchObject({ type: 'reload', target: 'base-two' });
    const fresh = await openPage();
    fresh.hello({ base: 'base-two', version: 4, state: 'base-two' });
    expect(await fresh.next()).toMatchObject({ type: 'joined', version: 4 });
    await expect(server.deliver(patch(1))).rejects.toThrow('patch of base base-one, published is base-two');
  });

  test('a page that came before the first base is told when there is one', async () => {
    await server.close();
    server = await start();
    const [waiting, returning] = [await openPage(), await openPage()];
    returning.hello();
    returning.send({ type: 'log', level: 'info', text: 'said hello' });
    await vi.waitFor(() => expect(events).toContainEqual(expect.objectContaining({ text: 'said hello' })));
    server.publish(base());
    expect(await waiting.next()).toMatchObject({ type: 'reload' });
    expect(await returning.next()).toMatchObject({ type: 'joined' });
  });

  test('only the next version is delivered, one at a time', async () => {
    await expect(server.deliver(patch(2))).rejects.toThrow('patch makes version 2, pages are at 0');
    const first = patch(1);
    await server.deliver(first);
    await expect(server.deliver(patch(1))).rejects.toThrow('version 1 is still pending');
    expect(() => server.commit(patch(1))).toThrow('version 1 is not pending');
    server.commit(first);
    expect(() => server.abandon(first, 'too late')).toThrow('version 1 is not pending');
  });

  test('the last notice stands until it is taken back', async () => {
    const page = await joinedPage();
    server.tell({ type: 'refused', reason: 'static changed size', remedy: 'reload' });
    expect(await page.next()).toMatchObject({ type: 'refused' });
    expect(await (await openPage()).next()).toMatchObject({ type: 'refused', reason: 'static changed size' });
    server.tell({ type: 'ok' });
    expect(await page.next()).toEqual({ type: 'ok' });
    await joinedPage();
  });

  test("a patch's glue is served by its state, bound and with its snippets, while the patch is there", async () => {
    const directory = join(root, 'newer');
    for (const [folder, text] of [
      ['pkg', 'same'],
      ['newer', 'same'],
    ] as const) {
      mkdirSync(join(root, folder, 'snippets'), { recursive: true });
      writeFileSync(join(root, folder, 'snippets/a.js'), text);
    }
    writeFileSync(join(directory, 'snippets/b.js'), 'new');
    writeFileSync(join(directory, 'demo.js'), `import './snippets/a.js';\nimport './snippets/b.js';\n${GLUE}`);
    const page = await joinedPage();
    const first = patch(1, { glue: { directory, file: 'demo.js', exports: { f: 1 } } });
    void server.deliver(first);
    const { glue, state } = await nextPatch(page);
    expect(glue).toEqual({ url: `/@hotslot/glue/${state}/demo.js`, exports: { f: 1 } });
    const { body } = await ask(glue?.url ?? '');
    expect(body).toContain("import '/pkg/snippets/a.js';\nimport './snippets/b.js';");
    expect(body).toContain('export function __hotslot_bind(w)');
    expect((await ask(`/@hotslot/glue/${state}/snippets/b.js`)).body).toBe('new');
    expect(await status(`/@hotslot/glue/${state}/other.js`)).toBe(404);
    server.abandon(first, 'refused');
    expect(await status(glue?.url ?? '')).toBe(404);
  });
});
