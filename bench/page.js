// A wasm program in; how long an edit of it takes to reach the page, beside rustc alone and a full rebuild, and what
// starting takes, out. What the figures mean is told in bench.js.
import { copyFileSync, cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { createBuilder } from '../dist/build/builder.js';
import { requireToolchain } from '../dist/build/toolchain.js';
import { alternate, apply, makeCopies, openFloor, pause, ROOT } from './copies.js';
import { Figures } from './figures.js';
import { EDITED_STEP, fileOfFunction, largeCrate } from './large.js';
import { serve, serveFolder } from './serve.js';

const FUNCTIONS = 10_000;
const START_ROUNDS = 3;

// ----------------------------------------------------------------------------------------------------------- programs
//
// `edit(number)` is a one-function edit that no other number makes: the file, its text, and what the page sees of it, as
// an expression over `glue`, the module that wasm-bindgen wrote, and its value.

export const counter = {
  name: 'counter',
  write(folder) {
    const source = join(ROOT, 'examples/counter');
    for (const name of ['Cargo.toml', 'Cargo.lock', 'index.html', 'public', 'src', 'shapes/Cargo.toml', 'shapes/src'])
      cpSync(join(source, name), join(folder, name), { recursive: true });
  },
  edit(number) {
    const file = 'src/lib.rs';
    const text = readFileSync(join(ROOT, 'examples/counter', file), 'utf8');
    const edited = text.replace('{notes} notes"', `{notes} notes, edit ${number}."`);
    if (edited === text) throw new Error(`expected \`report\` in examples/counter/${file}`);
    return { file, text: edited, expression: `/edit (\\d+)/.exec(glue.report('page'))?.[1]`, value: String(number) };
  },
};

export const large = {
  name: 'large',
  write(folder) {
    const files = largeCrate(FUNCTIONS);
    for (const [file, text] of Object.entries(files)) {
      mkdirSync(dirname(join(folder, file)), { recursive: true });
      writeFileSync(join(folder, file), text);
    }
    copyFileSync(join(ROOT, 'examples/counter/Cargo.lock'), join(folder, 'Cargo.lock'));
  },
  edit(number) {
    const index = (number * 37 * EDITED_STEP) % FUNCTIONS;
    const constant = 10_000 + number;
    const file = fileOfFunction(index);
    const text = largeCrate(FUNCTIONS, new Map([[index, constant]]))[file];
    return { file, text, expression: `glue.call(${index}, 0)`, value: constant };
  },
};

// -------------------------------------------------------------------------------------------------------- measurement

export async function measurePage(program, browser, { rounds, nodeFlags, progress }) {
  const folders = makeCopies(program);
  const toolchain = await requireToolchain({ directory: folders.live, features: [] });
  progress(`${program.name}: building`);
  const plain = await openPlain(program, folders.plain, toolchain, browser);
  const floor = await openFloor(program, folders.floor, toolchain);
  const first = await serve(folders.live);
  await first.close();

  const figures = new Figures();
  let number = 0;
  for (let round = 1; round <= START_ROUNDS; round++) {
    progress(`${program.name}: start ${round} of ${START_ROUNDS}`);
    number++;
    apply(folders.live, program.edit(number));
    const server = await serve(folders.live);
    await server.close();
    apply(folders.plain, program.edit(number));
    figures.add({ start_ms: server.readyMs, plain_start_ms: await plain.build() });
  }

  const live = await openLive(program, folders.live, browser, nodeFlags);
  await alternate(program, { live, floor, plain }, number, { rounds, progress }, figures);
  if (program === large) figures.add({ resident_mb: live.residentMb(), functions: FUNCTIONS });
  await live.close();
  await plain.close();
  return figures.medians();
}

async function openLive(program, folder, browser, nodeFlags) {
  const server = await serve(folder, { nodeFlags });
  const page = await browser.newPage();
  await page.goto(server.url);
  await page.waitForFunction(() => globalThis.__hotslot !== undefined);
  return {
    async edit(edit) {
      await arm(page, program, edit);
      await pause();
      const started = Date.now();
      apply(folder, edit);
      const answer = await server.answer([join(folder, edit.file)]);
      if (answer.event !== 'patch') throw new Error(`expected a patch, found ${JSON.stringify(answer)}`);
      const live = (await page.evaluate(() => globalThis.seen)) - started;
      return {
        live_ms: live,
        own_ms: live - answer.rustcMs,
        patch_bytes: answer.bytes,
      };
    },
    residentMb: server.residentMb,
    async close() {
      await page.close();
      await server.close();
    },
  };
}

/** `seen` in the page becomes a promise of the time at which it has the edit, looked for at every patch. */
async function arm(page, { name }, { expression, value }) {
  await page.evaluate(`import('/pkg/${name}.js').then((glue) => {
    globalThis.seen = new Promise((resolve) => {
      addEventListener('hotslot:patch', () => {
        if (${expression} === ${JSON.stringify(value)}) resolve(Date.now());
      });
    });
  })`);
}

/** The time at which a page that is being loaded has the edit: as soon as its program has started. */
async function look(page, { name }, { expression, value }) {
  // Starting the program has been done already, or is the same that the page does.
  const [found, time] = await page.evaluate(`import('/pkg/${name}.js').then(async (glue) => {
    await glue.default();
    return [${expression}, Date.now()];
  })`);
  if (found !== value) throw new Error(`the rebuilt page gives ${found}, not ${value}`);
  return time;
}

async function openPlain(program, folder, toolchain, browser) {
  const builder = await createBuilder(
    { directory: folder, features: [], arenaBytes: undefined, report: () => {} },
    toolchain,
  );
  const outDir = join(folder, 'pkg');
  const build = async () => {
    const started = performance.now();
    await builder.plain(outDir, new AbortController().signal);
    return performance.now() - started;
  };
  await build();
  const server = await serveFolder(folder, outDir);
  const page = await browser.newPage();
  return {
    build,
    async edit(edit) {
      await pause();
      const started = Date.now();
      apply(folder, edit);
      await build();
      await page.goto(server.url);
      const seen = await look(page, program, edit);
      // A page that draws takes time from the others.
      await page.goto('about:blank');
      return seen - started;
    },
    async close() {
      await page.close();
      await server.close();
      await builder.close();
    },
  };
}
