// A folder with a generated program in; the program under `hotslot serve`, or freshly built, and what its functions give
// when they are called, out. One driver is for pages, the other for processes: all that differs between the two is here.
import { execFileSync, spawn } from 'node:child_process';
import { copyFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { build, serveFolder } from '../bench/serve.js';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/**
 * What runs the program. `call` resolves with the results of each function (by its number) for all the arguments; one
 * that did not return gives `threw …`.
 *
 * @typedef {{ call: (ids: number[], args: number[]) => Promise<string[][]>, close: () => Promise<void> }} Instance
 * @typedef {{
 *   platform: 'wasm' | 'native',
 *   folder: string,
 *   prepare: () => void,
 *   open: (server: { url: string }) => Promise<Instance>,
 *   rebuild: () => Promise<Instance>,
 *   startsAnew: boolean,
 *   mayRefuse: boolean,
 * }} Driver `startsAnew`: what `open` gives a second time is an instance of its own, and takes all patches at once.
 */

const PARTS = `[package]
name = "parts"
version = "0.1.0"
edition = "2024"
`;

// -------------------------------------------------------------------------------------------------------------- pages

/** `optimised`: as code is compiled in earnest, inlined across modules. @returns {Driver} */
export function pages(browser, { optimised = false } = {}) {
  const folder = join(ROOT, '.cache/programs');
  return {
    platform: 'wasm',
    folder,
    startsAnew: true,
    // The optimiser may take a variable apart after one edit, and not after another.
    mayRefuse: optimised,
    prepare() {
      const library = 'wasm-bindgen = "0.2"\n';
      const profile = optimised ? '[profile.dev]\nopt-level = 2\n' : '';
      const target = '[lib]\ncrate-type = ["cdylib"]\n';
      writeFileSync(join(folder, 'Cargo.toml'), manifest(target, library) + profile);
      writeFileSync(join(folder, 'parts/Cargo.toml'), PARTS);
      writeFileSync(join(folder, 'index.html'), PAGE);
      // The versions that the set-up has a wasm-bindgen for; cargo leaves out what is not used.
      copyFileSync(join(ROOT, 'examples/counter/Cargo.lock'), join(folder, 'Cargo.lock'));
    },
    open: ({ url }) => openPage(browser, url),
    async rebuild() {
      const outDir = join(folder, 'pkg');
      build(folder, outDir);
      const plain = await serveFolder(folder, outDir);
      const page = await openPage(browser, plain.url);
      return { ...page, close: () => page.close().then(plain.close) };
    },
  };
}

const PAGE = `<!doctype html>
<meta charset="utf-8" />
<title>Generated program</title>
<script type="module">
  import init, { call } from './pkg/app.js';
  await init();
  globalThis.call = call;
</script>
`;

async function openPage(browser, url) {
  const page = await browser.newPage();
  await page.goto(url);
  await page.waitForFunction(() => 'call' in globalThis);
  return {
    call: (ids, args) =>
      page.evaluate(
        ({ indices, all }) =>
          indices.map((index) =>
            all.map((argument) => {
              try {
                return globalThis.call(index, argument);
              } catch (error) {
                return `threw ${error.stack}`;
              }
            }),
          ),
        { indices: ids, all: args },
      ),
    close: () => page.close(),
  };
}

// ---------------------------------------------------------------------------------------------------------- processes

/** @returns {Driver} */
export function processes() {
  const folder = join(ROOT, '.cache/native-programs');
  return {
    platform: 'native',
    folder,
    startsAnew: false,
    mayRefuse: false,
    prepare() {
      writeFileSync(join(folder, 'Cargo.toml'), manifest('', ''));
      writeFileSync(join(folder, 'parts/Cargo.toml'), PARTS);
    },
    open: ({ url }) => openConnection(Number(new URL(url).port)),
    async rebuild() {
      execFileSync('cargo', ['build', '--quiet'], { cwd: folder, stdio: ['ignore', 'ignore', 'inherit'] });
      const target = process.env.CARGO_TARGET_DIR ?? join(folder, 'target');
      const child = spawn(join(target, 'debug/app'), { stdio: ['ignore', 'pipe', 'inherit'] });
      const exited = new Promise((resolve) => child.once('exit', resolve));
      const lines = createInterface({ input: child.stdout });
      const line = await new Promise((resolve) => lines.once('line', resolve));
      const connection = await openConnection(Number(line.split(':').at(-1)));
      return {
        call: (ids, args) => connection.call(ids, args),
        async close() {
          await connection.close();
          child.kill();
          await exited;
        },
      };
    },
  };
}

/** To the `main` that rust.js writes: lines with a function's number and an argument in, texts that end in a NUL out. */
async function openConnection(port) {
  const socket = connect(port, '127.0.0.1').setEncoding('utf8');
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  let received = '';
  let notice = () => {};
  socket.on('data', (text) => {
    received += text;
    notice();
  });
  let hasEnded = false;
  socket.on('error', () => {});
  socket.on('close', () => {
    hasEnded = true;
    notice();
  });
  return {
    async call(ids, args) {
      socket.write(ids.flatMap((id) => args.map((argument) => `${id} ${argument}\n`)).join(''));
      const count = ids.length * args.length;
      const answers = [];
      for (;;) {
        const texts = received.split('\0');
        received = texts.pop();
        answers.push(...texts);
        if (answers.length >= count) break;
        if (hasEnded) throw new Error(`the program ended after ${answers.length} of ${count} calls`);
        await new Promise((resolve) => (notice = resolve));
      }
      return ids.map((_, index) => answers.slice(index * args.length, (index + 1) * args.length));
    },
    async close() {
      socket.destroy();
    },
  };
}

function manifest(target, dependencies) {
  return `[package]
name = "app"
version = "0.1.0"
edition = "2024"

${target}
[dependencies]
parts = { path = "parts" }
${dependencies}
[workspace]
members = ["parts"]
`;
}
