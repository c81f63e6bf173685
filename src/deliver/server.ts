// The base and its patches in; a page that runs them, over HTTP, out. What a crate's page expects of a development
// server is here; who may ask is in access.ts, files in files.ts, pages that are open in socket.ts.
//
// Where things are:
//   /@hotslot/…            the client, the socket, the journal, the glue of patches: for pages of this origin only
//   …/pkg/NAME.js, …       the program, wherever the page looks for it; also /NAME.js when no file has that name
//   /                      public/ of the crate, then the crate's folder

import { randomBytes, timingSafeEqual } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server as HttpServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join } from 'node:path';
import type { Duplex } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { WebSocketServer } from 'ws';
import type { Notice } from '../client/protocol.ts';
import type { Event, WasmPatch, Receipt } from '../model.ts';
import { checkHost, checkOrigin, checkSite, type Denial, readPath } from './access.ts';
import { classicScript } from './classic.ts';
import { type Files, openFiles } from './files.ts';
import { bindGlue, hookGlue, journalModule, workletModule } from './glue.ts';
import { completePage, defaultPage, scriptReferences } from './pages.ts';
import { Clients } from './socket.ts';

export interface ServerOptions {
  /** The address to listen on; `127.0.0.1` unless the user wants others to reach the program. */
  readonly host: string;
  /** When it is taken, the next free one, unless `strictPort`. 0 for any. */
  readonly port: number;
  readonly strictPort?: boolean;
  /** The crate's folder: `index.html`, `public/`. */
  readonly root: string;
  /** `counter` for `/pkg/counter.js` and `/pkg/counter_bg.wasm`. */
  readonly name: string;
  readonly report: (event: Event) => void;
  /** Awaited before a page gets the program: the moment to bring a base up to date. */
  readonly onReloadRequest?: () => Promise<void>;
}

/** A program as built and rewritten; patches lead away from it. */
export interface Base {
  /** Equal ids mean equal programs. */
  readonly id: string;
  /** Of the program as in `module`; the first patch makes the next. */
  readonly version: number;
  /** wasm-bindgen's JavaScript, as it wrote it. */
  readonly glue: string;
  /** wasm-bindgen's module, rewritten to take patches. */
  readonly module: Uint8Array;
  /** Where wasm-bindgen wrote the rest (`snippets/`). */
  readonly directory: string;
  /** Its threads share a memory: pages have to be isolated from other origins. */
  readonly isThreaded?: boolean;
}

export interface Server {
  /** With a slash at the end. */
  readonly url: string;
  /** Pages that run the program. */
  readonly clients: number;
  /** A new base. Forgets all patches; pages that run something else reload. Throws when the glue is not understood. */
  publish(base: Base): void;
  /**
   * Sends the next patch to all pages and collects what they say; a page that left says nothing, and one that is
   * silent for 10 seconds has left, until it wakes up. `commit` or `abandon` must follow. Throws when the patch is not the next one.
   */
  deliver(patch: WasmPatch): Promise<readonly Receipt[]>;
  /** The patch stays: pages that join later get it too. A page that refused it reloads. */
  commit(patch: WasmPatch): void;
  /** Pages that applied the patch undo it. */
  abandon(patch: WasmPatch, reason: string): void;
  /** Shown at all pages, and at those that connect later, until the next notice. */
  tell(notice: Notice): void;
  close(): Promise<void>;
}

const MAX_MESSAGE_BYTES = 1024 * 1024;
const PORTS_TO_TRY = 100;
/** To find out whether a page starts the program by itself. */
const SCRIPTS_TO_READ = 100;
const SCRIPT = 'text/javascript;charset=utf-8';
const PAGE = 'text/html;charset=utf-8';
const CLIENT_MODULES: readonly string[] = [
  'client.js',
  'apply.js',
  'complaints.js',
  'connection.js',
  'journal.js',
  'protocol.js',
  'threads.js',
  'worklet.js',
];
/** Compiled, also when this file runs from its source (as the tests do). */
const CLIENT_DIRECTORY: string = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? '../../dist/client/' : '../client/', import.meta.url),
);

export async function startServer(options: ServerOptions): Promise<Server> {
  const { host, name, root, report } = options;
  const token = randomBytes(24).toString('base64url');
  const clients = new Clients(report);
  const files = openFiles(root);
  const sockets = new WebSocketServer({ noServer: true, maxPayload: MAX_MESSAGE_BYTES });
  let base: Base | undefined;

  const http = createServer((request, response) => {
    answer(request, response).catch((error: unknown) => {
      report({ event: 'log', level: 'error', text: `${request.method} ${request.url}: ${describe(error)}` });
      if (response.headersSent) response.destroy();
      else reply(response, 500, 'the server failed; its terminal says why');
    });
  });
  http.on('upgrade', (request, socket, head) => {
    socket.on('error', () => socket.destroy());
    const denial = checkUpgrade(request);
    if (denial !== undefined) refuseUpgrade(socket, denial);
    else sockets.handleUpgrade(request, socket, head, (accepted) => clients.add(accepted));
  });

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { headers } = request;
    response.setHeader('Cache-Control', 'no-cache');
    if (base?.isThreaded === true) {
      // https://html.spec.whatwg.org/multipage/webappapis.html#dom-crossoriginisolated: no shared memory otherwise.
      response.setHeader('Cross-Origin-Opener-Policy', 'same-origin');
      response.setHeader('Cross-Origin-Embedder-Policy', 'require-corp');
    }
    const denial = checkHost(headers, host) ?? checkSite(headers);
    if (denial !== undefined) return reply(response, denial.status, denial.reason);
    const path = readPath(request.url ?? '');
    if ('reason' in path) return reply(response, path.status, path.reason);
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.setHeader('Allow', 'GET, HEAD');
      return reply(response, 405, 'expected GET or HEAD');
    }
    if (path[0] === '@hotslot') return answerOwn(request, response, path.slice(1));

    const packaged = path.lastIndexOf('pkg');
    if (packaged !== -1 && (await answerProgram(request, response, path.slice(packaged + 1)))) return;
    const found = await files.find(path);
    switch (found.kind) {
      case 'file':
        if (found.path.endsWith('.html')) return sendPage(response, await readFile(found.path, 'utf8'), path);
        return files.send(request, response, found);
      case 'folder': {
        const query = /\?.*$/s.exec(request.url ?? '')?.[0] ?? '';
        const target = path.filter((segment) => segment !== '').map((segment) => encodeURIComponent(segment));
        response.setHeader('Location', `/${target.join('/')}/${query}`);
        return reply(response, 302, 'the folder is over there');
      }
      case 'refused':
        return reply(response, 403, found.reason);
      case 'none':
        break;
    }
    if (await answerProgram(request, response, path)) return;
    if (path.join('') === '' || isNavigation(request, path)) {
      const index = await files.find(['index.html']);
      return sendPage(response, index.kind === 'file' ? await readFile(index.path, 'utf8') : defaultPage(name), []);
    }
    return reply(response, 404, 'not found');
  }

  async function answerOwn(request: IncomingMessage, response: ServerResponse, path: readonly string[]): Promise<void> {
    const denial = checkOrigin(request.headers);
    if (denial !== undefined) return reply(response, denial.status, denial.reason);
    response.setHeader('Cross-Origin-Resource-Policy', 'same-origin');
    const [first = '', state = '', ...rest] = path;
    if (path.length === 1 && first === 'session') {
      return reply(response, 200, JSON.stringify({ token, base: base?.id }), 'application/json');
    }
    if (path.length === 1 && first === 'socket') {
      response.setHeader('Upgrade', 'websocket');
      return reply(response, 426, 'expected a WebSocket');
    }
    const text = await readOwn(path);
    if (text !== undefined) return reply(response, 200, text, SCRIPT);
    const glue = first === 'glue' ? clients.find(state)?.patch.glue : undefined;
    if (glue === undefined) return reply(response, 404, 'not found');
    return sendSnippet(response, glue.directory, rest);
  }

  /** A module of ours, or the glue of a patch, by its path below `/@hotslot/`. */
  async function readOwn(path: readonly string[]): Promise<string | undefined> {
    const [first = '', second = '', ...rest] = path;
    if (path.length === 1 && CLIENT_MODULES.includes(first)) return readFile(join(CLIENT_DIRECTORY, first), 'utf8');
    const isModule = path.length === 2 && second.endsWith('.js');
    if (isModule && first === 'journal') return journalModule(clients.journal(second.slice(0, -3)));
    if (isModule && first === 'worklet') {
      const header = clients.find(second.slice(0, -3))?.header;
      return header?.glue && workletModule(header.glue.url, header.state);
    }
    const glue = first === 'glue' ? clients.find(second)?.patch.glue : undefined;
    if (glue === undefined || rest.join('/') !== glue.file) return undefined;
    const text = await readFile(join(glue.directory, glue.file), 'utf8');
    const same = await Promise.all(
      listSnippets(text).map(async (file) => [file, await sameFile(glue.directory, base?.directory, file)] as const),
    );
    const shared = new Map(same);
    return bindGlue(text, (file) => shared.get(file) === true);
  }

  /** The program's glue, as what it was asked for: as a module, or as a script that is none. */
  async function readGlue(current: Base, request: IncomingMessage): Promise<string> {
    const { 'sec-fetch-dest': destination, 'sec-fetch-mode': mode } = request.headers;
    // https://fetch.spec.whatwg.org/#concept-request-mode: modules are fetched with `cors`, always.
    if (destination !== 'script' || mode !== 'no-cors') return hookGlue(current, clients.state);
    const entry = `/pkg/${encodeURIComponent(name)}.js`;
    try {
      return await classicScript(entry, async (path) => {
        if (path === entry) return hookGlue(current, clients.state, false);
        const segments = readPath(path);
        const text = 'reason' in segments ? undefined : await readOwn(segments.slice(1));
        if (text === undefined) throw new Error(`a script that is not a module cannot import ${path}`);
        return text;
      });
    } catch (error) {
      const text = `${name}.js: ${describe(error)}; load it as a module`;
      report({ event: 'log', level: 'error', text });
      return `throw new Error(${JSON.stringify(text)});\n`;
    }
  }

  /** `path` within the package. False when it names nothing of it. */
  async function answerProgram(
    request: IncomingMessage,
    response: ServerResponse,
    path: readonly string[],
  ): Promise<boolean> {
    // A snippet that imports the package it is part of means its main file, which a bundler knows.
    if (path.join('') === '' && request.headers['sec-fetch-dest'] === 'script') {
      response.setHeader('Location', `/pkg/${encodeURIComponent(name)}.js`);
      reply(response, 302, 'the main file is over there');
      return true;
    }
    const isGlue = path.length === 1 && path[0] === `${name}.js`;
    const isModule = path.length === 1 && path[0] === `${name}_bg.wasm`;
    if (!isGlue && !isModule && path[0] !== 'snippets') return false;
    response.setHeader('Cross-Origin-Resource-Policy', 'same-origin');
    // Only for the glue: the module that the page fetches next must be of the same base.
    if (isGlue) {
      await options.onReloadRequest?.().catch((error: unknown) => {
        report({ event: 'log', level: 'error', text: `before a page load: ${describe(error)}` });
      });
    }
    if (base === undefined) {
      reply(response, 503, 'the program is not built yet');
    } else if (isGlue) {
      reply(response, 200, await readGlue(base, request), SCRIPT);
    } else if (isModule) {
      const tag = `"${encodeURIComponent(base.id)}"`;
      response.setHeader('ETag', tag);
      if (request.headers['if-none-match'] === tag) response.writeHead(304).end();
      else reply(response, 200, base.module, 'application/wasm');
    } else {
      await sendSnippet(response, base.directory, path);
    }
    return true;
  }

  async function sendPage(response: ServerResponse, html: string, path: readonly string[]): Promise<void> {
    reply(response, 200, completePage(html, name, await mentions(files, html, path, `${name}.js`)), PAGE);
  }

  function checkUpgrade(request: IncomingMessage): Denial | undefined {
    const [path, query] = (request.url ?? '').split('?', 2);
    if (path !== '/@hotslot/socket') return { status: 400, reason: 'no socket here' };
    const given = Buffer.from(new URLSearchParams(query).get('token') ?? '');
    const expected = Buffer.from(token);
    const known = given.length === expected.length && timingSafeEqual(given, expected);
    return (
      checkHost(request.headers, host) ??
      checkOrigin(request.headers) ??
      (known ? undefined : { status: 403, reason: 'expected the token of this run' })
    );
  }

  const port = await listen(http, options);
  http.on('error', (error) => report({ event: 'log', level: 'error', text: `server: ${error.message}` }));
  return {
    url: `http://${urlHost(host)}:${port}/`,
    get clients() {
      return clients.size;
    },
    publish(next) {
      // To hear early of glue that is not understood.
      hookGlue(next, next.id);
      base = next;
      clients.publish(next);
    },
    deliver: async (patch) => clients.deliver(patch),
    commit: (patch) => clients.commit(patch),
    abandon: (patch, reason) => clients.abandon(patch, reason),
    tell: (notice) => clients.tell(notice),
    close: async () => {
      clients.close();
      sockets.close();
      const closed = new Promise<void>((resolve) => http.close(() => resolve()));
      http.closeAllConnections();
      await closed;
    },
  };
}

/** Listens on the first free port from the one wanted; the result is the port. */
async function listen(http: HttpServer, { host, port, strictPort }: ServerOptions): Promise<number> {
  const last = strictPort === true || port === 0 ? port : Math.min(port + PORTS_TO_TRY, 65_535);
  for (let candidate = port; ; candidate += 1) {
    try {
      await new Promise<void>((resolve, reject) => {
        http.once('error', reject);
        http.listen(candidate, host, () => {
          http.off('error', reject);
          resolve();
        });
      });
      return (http.address() as AddressInfo).port;
    } catch (error) {
      const taken = (error as NodeJS.ErrnoException).code === 'EADDRINUSE';
      if (!taken || candidate >= last) throw new Error(`cannot listen on ${host}:${candidate}`, { cause: error });
    }
  }
}

/** An address to type into a browser on this machine. */
function urlHost(host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1';
  if (host === '::') return '[::1]';
  return host.includes(':') ? `[${host}]` : host;
}

function reply(
  response: ServerResponse,
  status: number,
  body: string | Uint8Array,
  type = 'text/plain;charset=utf-8',
): void {
  const bytes = typeof body === 'string' ? Buffer.from(body) : body;
  response.writeHead(status, {
    'Content-Type': type,
    'Content-Length': bytes.length,
    'X-Content-Type-Options': 'nosniff',
  });
  response.end(bytes);
}

function refuseUpgrade(socket: Duplex, { status, reason }: Denial): void {
  const title = status === 403 ? 'Forbidden' : 'Bad Request';
  const head = `HTTP/1.1 ${status} ${title}\r\nConnection: close\r\nContent-Type: text/plain\r\n`;
  socket.end(`${head}Content-Length: ${Buffer.byteLength(reason)}\r\n\r\n${reason}`);
}

/** A page of a program that routes by itself; a missing file must stay an error. */
function isNavigation({ headers }: IncomingMessage, path: readonly string[]): boolean {
  return headers.accept?.includes('text/html') === true && extname(path.at(-1) ?? '') === '';
}

/** Whether a page, or a script of the crate that it may load, mentions `word`. */
async function mentions(files: Files, html: string, page: readonly string[], word: string): Promise<boolean> {
  const seen = new Set<string>();
  const texts: { readonly text: string; readonly url: URL }[] = [{ text: html, url: crateUrl(page) }];
  for (const { text, url } of texts) {
    if (text.includes(word)) return true;
    for (const reference of scriptReferences(text)) {
      const target = URL.canParse(reference, url.href) ? new URL(reference, url) : undefined;
      if (target?.host !== url.host || seen.has(target.pathname) || seen.size === SCRIPTS_TO_READ) continue;
      seen.add(target.pathname);
      const path = readPath(target.pathname);
      const found = 'reason' in path ? undefined : await files.find(path);
      if (found?.kind === 'file') texts.push({ text: await readFile(found.path, 'utf8'), url: target });
    }
  }
  return false;
}

/** For resolving what is written in a file of the crate. */
function crateUrl(path: readonly string[]): URL {
  return new URL(`http://crate.invalid/${path.map((segment) => encodeURIComponent(segment)).join('/')}`);
}

/** JavaScript that a crate brings along (`#[wasm_bindgen(module = …)]`, `inline_js`). */
async function sendSnippet(response: ServerResponse, directory: string, path: readonly string[]): Promise<void> {
  const found = path[0] === 'snippets' && (await openFiles(directory).find(path));
  if (found && found.kind === 'file') reply(response, 200, await readFile(found.path), SCRIPT);
  else reply(response, 404, 'not found');
}

function listSnippets(glue: string): readonly string[] {
  return [...glue.matchAll(/['"]\.\/(snippets\/[^'"\n]+)['"]/g)].flatMap(([, file]) => file ?? []);
}

async function sameFile(one: string, other: string | undefined, file: string): Promise<boolean> {
  if (other === undefined) return false;
  const [first, second] = await Promise.all(
    [one, other].map((folder) => readFile(join(folder, file)).catch(() => undefined)),
  );
  return first !== undefined && second !== undefined && first.equals(second);
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
