// A crate's folder in; a running `hotslot serve`, its events and Chromium's pages out. What the benchmark and the
// generated programs have in common.
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

/** Resolves when the page is served. `nodeFlags` are Node's own, such as `--cpu-prof`. */
export async function serve(directory, { nodeFlags = [], port = 0 } = {}) {
  const started = performance.now();
  const child = spawn(process.execPath, [...nodeFlags, CLI, 'serve', '--json', '--port', String(port)], {
    cwd: directory,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  const events = [];
  let notify;
  createInterface({ input: child.stdout }).on('line', (line) => {
    events.push(JSON.parse(line));
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
   * What becomes of an edit of all these paths: `patch`, `unchanged`, `refused`, `failed`, or the `reload` that a new
   * base brings. An edit that the watcher saw in two parts has two answers; the last one counts.
   */
  async function answer(paths) {
    const missing = new Set(paths);
    return next((event) => {
      if (event.event === 'log' && event.text.startsWith('bug in hotslot')) throw new Error(event.text);
      if (event.event === 'change') for (const path of event.paths) missing.delete(path);
      return missing.size === 0 && ['patch', 'unchanged', 'refused', 'failed', 'reload'].includes(event.event);
    });
  }

  const { url } = await next(({ event, diagnostics }) => {
    if (event === 'failed') throw new Error(diagnostics.map(({ rendered, text }) => rendered ?? text).join('\n'));
    return event === 'ready';
  });
  return {
    url,
    /** From spawning the process to the served page. */
    readyMs: performance.now() - started,
    next,
    answer,
    residentMb: () => Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))[1]) / 1024,
    close: async () => {
      child.kill('SIGTERM');
      await exited;
    },
  };
}

/** `hotslot build`: what wasm-bindgen makes of the crate, with nothing of hotslot in it. */
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

/** Serves a crate's page with `outDir` as `pkg/`, as any web server would. */
export async function serveFolder(directory, outDir) {
  const options = { dev: true, etag: false };
  const folders = [directory, join(directory, 'public')].map((folder) => sirv(folder, options));
  const output = sirv(outDir, options);
  const server = createServer((request, response) => {
    const missing = () => response.writeHead(404).end();
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
