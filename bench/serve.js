// A crate's folder in; a running `hotslot serve`, its events and Chromium's pages out. What the benchmark and the
// generated programs have in common.
//
// A native program tells where it listens, as ours do: `listening on http://127.0.0.1:3000`.
import { spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import sirv from 'sirv';
import { findChromium } from '../dist/build/toolchain.js';

const CLI = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const TIMEOUT_MS = 300_000;
const ANSWERS = ['patch', 'unchanged', 'refused', 'failed', 'reload', 'restart', 'exit'];
const LISTENING = /^listening on (?:http:\/\/)?(127\.0\.0\.1:\d+)$/;

/** Resolves when the page is served, or the program listens. `nodeFlags` are Node's own, such as `--cpu-prof`; `flags` hotslot's. */
export async function serve(directory, { nodeFlags = [], flags = [], port = 0 } = {}) {
  const started = performance.now();
  const child = spawn(process.execPath, [...nodeFlags, CLI, 'serve', '--json', '--port', String(port), ...flags], {
    cwd: directory,
    env: { ...process.env, PORT: '0' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  const events = [];
  let notify;
  let listening;
  createInterface({ input: child.stdout }).on('line', (line) => {
    const event = JSON.parse(line);
    if (event.event === 'log') listening ??= LISTENING.exec(event.text)?.[1];
    events.push(event);
    notify?.();
  });

  /** The next event for which `condition` holds; those before it are dropped. */
  async function next(condition) {
    const seen = [];
    const ended = exited.then((code) => `hotslot ended with ${code}`);
    const late = setTimeout(TIMEOUT_MS, 'hotslot did not answer', { ref: false });
    for (;;) {
      while (events.length > 0) {
        const event = events.shift();
        seen.push(event);
        if (condition(event)) return event;
      }
      const arrived = new Promise((resolve) => (notify = resolve));
      const failure = await Promise.race([arrived, ended, late]);
      if (failure !== undefined) throw new Error(`${failure}; events: ${JSON.stringify(seen).slice(-4000)}`);
    }
  }

  /**
   * What becomes of an edit of all these paths: `patch`, `unchanged`, `refused`, `failed`, or the `reload` or `restart`
   * that a new base brings. An edit that the watcher saw in two parts has two answers; the last one counts.
   */
  async function answer(paths) {
    const missing = new Set(paths);
    return next((event) => {
      if (event.event === 'log' && event.text.startsWith('bug in hotslot')) throw new Error(event.text);
      if (event.event === 'change') for (const path of event.paths) missing.delete(path);
      return missing.size === 0 && ANSWERS.includes(event.event);
    });
  }

  const { url, linkMs } = await next(({ event, diagnostics }) => {
    if (event === 'failed') throw new Error(diagnostics.map(({ rendered, text }) => rendered ?? text).join('\n'));
    return event === 'ready';
  });
  const readyMs = performance.now() - started;
  if (url === undefined && listening === undefined) await next(() => listening !== undefined);
  return {
    url: url ?? `http://${listening}/`,
    /** Of the page, or of the program. */
    port: Number(new URL(url ?? `http://${listening}/`).port),
    /** From spawning the process to the served page or the running program. */
    readyMs,
    /** Of it, the link of the program as a whole. */
    linkMs,
    next,
    answer,
    residentMb: () => residentKb(child.pid) / 1024,
    close: async () => {
      child.kill('SIGTERM');
      await exited;
    },
  };
}

/** Memory of a process that is in use, as `ps` shows it. */
export function residentKb(pid) {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]);
}

/** `hotslot build`: what cargo, and for a page wasm-bindgen, makes of the crate, with nothing of hotslot in it. */
export function build(directory, outDir) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, 'build', '--out-dir', outDir], {
    cwd: directory,
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`hotslot build failed:\n${stdout}${stderr}`);
}

export function launchBrowser() {
  return chromium.launch({
    executablePath: findChromium(),
    // The first is for root, as in containers; the rest keeps Chromium from traffic of its own.
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}

/** Serves a crate's page with `outDir` as `pkg/`, as any web server would that is told to send these headers. */
export async function serveFolder(directory, outDir, headers = {}) {
  const options = { dev: true, etag: false };
  const folders = [directory, join(directory, 'public')].map((folder) => sirv(folder, options));
  const output = sirv(outDir, options);
  const server = createServer((request, response) => {
    const missing = () => response.writeHead(404).end();
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    if (request.url.startsWith('/pkg/')) {
      request.url = request.url.slice('/pkg'.length);
      output(request, response, missing);
    } else folders[0](request, response, () => folders[1](request, response, missing));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}
