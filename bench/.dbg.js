// Two programs in: examples/counter and a generated crate of many functions. Out: how long an edit takes to reach the
// page, beside what rustc alone takes for such an edit and what a full rebuild takes; and what starting takes.
//
//   npm run bench [-- --json] [--rounds 9] [--only counter|large] [--cpu-prof FOLDER]
//
// Each program stands in three copies with the same source, all of them built before anything is measured:
//   live    `hotslot serve` and an open page. live_ms runs from just before the file is written until the page has called
//           the edited function and seen its new result, which it does in the handler of `hotslot:patch`.
//   floor   rustc_ms: the wall time of one rustc as a child process, from spawn to exit, with the very arguments that
//           hotslot uses: the link is skipped.
//   plain   rebuild_ms: cargo build, wasm-bindgen, and a page load until the page has called the edited function.
// own_ms is live_ms less what the session reports as rustc's time in the same edit. The rounds alternate, so that noise
// meets all alike. Starting is measured likewise, each time after an edit: start_ms from spawning hotslot to its `ready`,
// plain_start_ms cargo build and wasm-bindgen. All figures are medians.
import { spawn } from 'node:child_process';
import { copyFileSync, cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { createBuilder } from '/work/main/dist/build/builder.js';
import { readCaptures } from '/work/main/dist/build/capture.js';
import { requireToolchain } from '/work/main/dist/build/toolchain.js';
import { EDITED_STEP, fileOfFunction, largeCrate } from '/work/main/bench/large.js';
import { launchBrowser, serve, serveFolder } from '/work/main/bench/serve.js';

const ROOT = fileURLToPath('file:///work/main/');
const FOLDER = join(ROOT, '.cache/bench');
const COPIES = ['live', 'floor', 'plain'];
const FUNCTIONS = 10_000;
const START_ROUNDS = 1;
/** rustc writes its caches after hotslot has what it wants; the next measurement shall not run beside that. */
const PAUSE_MS = 700;

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '9' },
    only: { type: 'string' },
    'cpu-prof': { type: 'string' },
  },
});

// ----------------------------------------------------------------------------------------------------------- programs
//
// `edit(number)` is a one-function edit that no other number makes: the file, its text, and what the page sees of it, as
// an expression over `glue`, the module that wasm-bindgen wrote, and its value.

const counter = {
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

const large = {
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

async function measure(program, browser) {
  const folders = Object.fromEntries(COPIES.map((copy) => [copy, join(FOLDER, program.name, copy)]));
  for (const folder of Object.values(folders)) {
    rmSync(join(folder, 'src'), { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    program.write(folder);
  }
  const toolchain = await requireToolchain({ directory: folders.live, features: [] });
  progress(`${program.name}: building`);
  const plain = await openPlain(program, folders.plain, toolchain, browser);
  const floor = await openFloor(program, folders.floor, toolchain);
  const first = await serve(folders.live);
  await first.close();

  const figures = {};
  const add = (name, value) => (figures[name] ??= []).push(value);
  let number = 0;
  for (let round = 1; round <= START_ROUNDS; round++) {
    progress(`${program.name}: start ${round} of ${START_ROUNDS}`);
    number++;
    apply(folders.live, program.edit(number));
    const server = await serve(folders.live);
    add('start_ms', server.readyMs);
    await server.close();
    apply(folders.plain, program.edit(number));
    add('plain_start_ms', await plain.build());
  }

  const profile = options['cpu-prof'];
  const nodeFlags = profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profile}`];
  const live = await openLive(program, folders.live, browser, nodeFlags);
  const rounds = Number(options.rounds);
  // The first round finds caches cold that a session then keeps warm, and is not counted.
  for (let round = 0; round <= rounds; round++) {
    progress(`${program.name}: round ${round} of ${rounds}`);
    number++;
    const figuresOfRound = {
      ...(await live.edit(program.edit(number))),
      rustc_ms: await floor.edit(program.edit(number)),
      rebuild_ms: await plain.edit(program.edit(number)),
    };
    if (round > 0) for (const [name, value] of Object.entries(figuresOfRound)) add(name, value);
  }
  if (program === large) add('resident_mb', live.residentMb());
  await live.close();
  await plain.close();

  if (program === large) add('functions', FUNCTIONS);
  return Object.fromEntries(Object.entries(figures).map(([name, all]) => [name, hundredths(median(all))]));
}

async function openLive(program, folder, browser, nodeFlags) {
  const server = await serve(folder, { nodeFlags });
  const page = await browser.newPage();
  await page.goto(server.url);
  await page.waitForFunction(() => globalThis.__hotslot !== undefined);
  return {
    async edit(edit) {
      await arm(page, program, edit);
      await setTimeout(PAUSE_MS);
      const started = Date.now();
      apply(folder, edit);
      const answer = await server.answer([join(folder, edit.file)]);
      if (answer.event !== 'patch') throw new Error(`expected a patch, found ${JSON.stringify(answer)}`);
      const live = (await page.evaluate(() => globalThis.seen)) - started;
      return {
        live_ms: (console.error(program.name,'live',live,'rustc',answer.rustcMs.toFixed(0),'total',answer.totalMs.toFixed(1),'link',answer.linkMs.toFixed(1),'own',(live-answer.rustcMs).toFixed(1),'own2',(answer.totalMs-answer.rustcMs).toFixed(1)), live),
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

/** The call of rustc as hotslot's build records and repeats it. */
async function openFloor(program, folder, toolchain) {
  const builder = await createBuilder(
    { directory: folder, features: [], arenaBytes: 1 << 20, report: () => {} },
    toolchain,
  );
  const built = await builder.base(new AbortController().signal);
  if (built.kind === 'failed') throw new Error(built.diagnostics.map(({ text }) => text).join('\n'));
  await builder.close();
  const own = join(folder, 'target/hotslot/hotslot');
  const session = readdirSync(own).find((name) => /^[0-9a-f]{16}$/.test(name));
  const unit = readCaptures(join(own, session, 'captures')).find(({ crate }) => crate === program.name);
  const store = join(FOLDER, program.name, 'store');
  return {
    async edit(edit) {
      apply(folder, edit);
      rmSync(store, { recursive: true, force: true });
      mkdirSync(store);
      await setTimeout(PAUSE_MS);
      const started = performance.now();
      const child = spawn(toolchain.rustc, [...toolchain.prefix, ...unit.args], {
        cwd: unit.directory,
        env: { ...unit.environment, HOTSLOT_STORE: store },
        stdio: 'ignore',
      });
      const status = await new Promise((resolve) => child.once('exit', resolve));
      if (status !== 0) throw new Error(`rustc ended with ${status}`);
      return performance.now() - started;
    },
  };
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
      await setTimeout(PAUSE_MS);
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

function apply(folder, { file, text }) {
  writeFileSync(join(folder, file), text);
}

// ------------------------------------------------------------------------------------------------------------- output

function median(values) {
  const sorted = values.toSorted((one, other) => one - other);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** To hundredths: what is beyond them is noise. */
function hundredths(value) {
  return Math.round(value * 100) / 100;
}

function progress(text) {
  if (!options.json && process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

function table(results) {
  const rows = [
    ['save → live', ({ live_ms: live }) => ms(live)],
    ['rustc alone', ({ rustc_ms: rustc }) => ms(rustc)],
    ['  ratio', ({ live_ms: live, rustc_ms: rustc }) => ratio(live, rustc)],
    ['all but rustc', ({ own_ms: own }) => ms(own)],
    ['full rebuild', ({ rebuild_ms: rebuild }) => ms(rebuild)],
    ['  ratio to live', ({ rebuild_ms: rebuild, live_ms: live }) => ratio(rebuild, live)],
    ['patch', ({ patch_bytes: bytes }) => `${bytes} bytes`],
    ['start', ({ start_ms: start }) => ms(start)],
    ['cargo + wasm-bindgen', ({ plain_start_ms: plain }) => ms(plain)],
    ['  ratio', ({ start_ms: start, plain_start_ms: plain }) => ratio(start, plain)],
    ['resident', ({ resident_mb: resident }) => (resident === undefined ? '' : `${resident.toFixed(0)} MB`)],
  ];
  const names = Object.keys(results);
  return [
    row('', names),
    ...rows.map(([label, cell]) =>
      row(
        label,
        names.map((name) => cell(results[name])),
      ),
    ),
  ].join('\n');
}

function row(label, cells) {
  return [label.padEnd(22), ...cells.map((cell) => cell.padStart(14))].join('');
}

function ms(value) {
  return `${value.toFixed(1)} ms`;
}

function ratio(one, other) {
  return `${(one / other).toFixed(2)} ×`;
}

const browser = await launchBrowser();
const results = {};
for (const program of [counter, large])
  if (options.only === undefined || options.only === program.name)
    results[program.name] = await measure(program, browser);
await browser.close();
progress('');
console.log(options.json ? JSON.stringify(results) : table(results));
