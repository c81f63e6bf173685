// Seeds in; generated programs edited step by step under `hotslot serve`, and out comes the first difference between the
// page that took every edit as a patch and a page that loads a fresh build of the final source.
//
//   npx tsc -b && node fuzz/programs.js [--seed 1] [--count 1] [--steps 40] [--every 40] [--verbose]
//
// `--every 1` compares after each step: slow, but it names the step that went wrong.
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { build, launchBrowser, serve, serveFolder } from '../bench/serve.js';
import { generator, makeProgram } from './rust.js';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
/** One folder for all programs: cargo keeps the dependencies built. */
const FOLDER = join(ROOT, '.cache/programs');
const ARGUMENTS = [0, 1, -7, 50_001, 2_147_483_647];

const MANIFEST = `[package]
name = "app"
version = "0.1.0"
edition = "2024"

[lib]
crate-type = ["cdylib"]

[dependencies]
parts = { path = "parts" }
wasm-bindgen = "0.2"

[workspace]
members = ["parts"]
`;

const PARTS_MANIFEST = `[package]
name = "parts"
version = "0.1.0"
edition = "2024"
`;

const PAGE = `<!doctype html>
<meta charset="utf-8" />
<title>Generated program</title>
<script type="module">
  import init, { call } from './pkg/app.js';
  await init();
  globalThis.call = call;
</script>
`;

/** Runs one program through `steps` edits and returns how many patches that made; throws at the first difference. */
export async function checkProgram(browser, { seed, steps, every = steps, log = () => {} }) {
  const random = generator(seed);
  const program = makeProgram(random);
  prepare();
  write(program.files());
  const counts = new Counts();
  let patches = 0;
  let step = 0;
  let edit = 'the first build';
  let server;
  let page;
  try {
    server = await serve(FOLDER);
    page = await openPage(browser, server.url);
    check(await callAll(page, program, counts));
    for (step = 1; step <= steps; step++) {
      edit = program.edit();
      log(`step ${step}: ${edit}`);
      const changed = write(program.files());
      if (changed.length === 0) continue;
      const answer = await server.answer(changed);
      if (answer.event === 'patch') patches++;
      else if (answer.event !== 'unchanged') throw new Error(`not expected: ${JSON.stringify(answer).slice(0, 3000)}`);
      const live = check(await callAll(page, program, counts));
      if (step % every === 0 || step === steps) await compareWithRebuild(browser, program, live);
    }
    // A page that is loaded now takes all patches at once.
    const late = await openPage(browser, server.url);
    compare(check(await callAll(late, program)), check(await callAll(page, program)), 'the page', 'a reloaded page');
    await late.close();
  } catch (error) {
    throw new Error(`seed ${seed}, step ${step} (${edit}): ${error.message}`, { cause: error });
  } finally {
    await page?.close();
    await server?.close();
  }
  return patches;
}

// -------------------------------------------------------------------------------------------------------------- files

function prepare() {
  for (const folder of ['src', 'parts/src']) {
    rmSync(join(FOLDER, folder), { recursive: true, force: true });
    mkdirSync(join(FOLDER, folder), { recursive: true });
  }
  writeFileSync(join(FOLDER, 'Cargo.toml'), MANIFEST);
  writeFileSync(join(FOLDER, 'parts/Cargo.toml'), PARTS_MANIFEST);
  writeFileSync(join(FOLDER, 'index.html'), PAGE);
  // The versions that the set-up has a wasm-bindgen for; cargo leaves out what is not used.
  copyFileSync(join(ROOT, 'examples/counter/Cargo.lock'), join(FOLDER, 'Cargo.lock'));
}

/** Writes what differs, and returns its paths. */
function write(files) {
  const changed = Object.keys(files)
    .map((file) => ({ path: join(FOLDER, file), text: files[file] }))
    .filter(({ path, text }) => textOf(path) !== text);
  for (const { path } of changed) mkdirSync(dirname(path), { recursive: true });
  for (const { path, text } of changed) writeFileSync(path, text);
  return changed.map(({ path }) => path);
}

function textOf(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}

// -------------------------------------------------------------------------------------------------------------- pages

async function openPage(browser, url) {
  const page = await browser.newPage();
  await page.goto(url);
  await page.waitForFunction(() => 'call' in globalThis);
  return page;
}

/** Every function's results, by its name: the count of calls apart, since a rebuilt program begins anew. */
async function callAll(page, program, counts) {
  const functions = program.functions();
  const ids = functions.map(({ id }) => id);
  const results = await page.evaluate(
    ({ ids: indices, all }) =>
      indices.map((index) =>
        all.map((argument) => {
          try {
            return globalThis.call(index, argument);
          } catch (error) {
            return `threw ${error.stack}`;
          }
        }),
      ),
    { ids, all: ARGUMENTS },
  );
  counts?.forget(functions);
  return new Map(
    functions.map((each, index) => {
      if (each.start === undefined) return [each.name, results[index]];
      counts?.check(each, results[index]);
      return [each.name, results[index].map((text) => text.replace(/^\d+#/, '#'))];
    }),
  );
}

/** How often the stateful functions of one page have been called. */
class Counts {
  #counts = new Map();
  #gone = new Set();

  /** Whether state outlives its function's absence is not promised. */
  forget(functions) {
    const names = new Set(functions.map(({ name }) => name));
    for (const name of this.#counts.keys()) if (!names.has(name)) this.#gone.add(name);
  }

  check({ name, start }, results) {
    if (this.#gone.has(name)) return;
    for (const text of results) {
      const count = (this.#counts.get(name) ?? start) + 1;
      this.#counts.set(name, count);
      if (!text.startsWith(`${count}#`)) throw new Error(`${name}: state lost: expected ${count}#…, found ${text}`);
    }
  }
}

async function compareWithRebuild(browser, program, live) {
  const outDir = join(FOLDER, 'pkg');
  build(FOLDER, outDir);
  const plain = await serveFolder(FOLDER, outDir);
  const page = await openPage(browser, plain.url);
  const fresh = check(await callAll(page, program));
  await page.close();
  await plain.close();
  compare(live, fresh, 'the patched page', 'a rebuild');
}

function check(results) {
  for (const [name, all] of results)
    for (const text of all) if (text.startsWith('threw ')) throw new Error(`${name} ${text}`);
  return results;
}

function compare(one, other, oneName, otherName) {
  const differences = [...one].flatMap(([name, results]) =>
    results.flatMap((result, index) => {
      const expected = other.get(name)?.[index];
      return result === expected
        ? []
        : [`${name}, argument ${ARGUMENTS[index]}:\n  ${oneName} gives ${result}\n  ${otherName} gives ${expected}`];
    }),
  );
  if (differences.length > 0)
    throw new Error(`${differences.length} results differ\n${differences.slice(0, 5).join('\n')}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string' },
      count: { type: 'string', default: '1' },
      steps: { type: 'string', default: '40' },
      every: { type: 'string' },
      verbose: { type: 'boolean', default: false },
    },
  });
  const first = Number(values.seed ?? Date.now() % 1_000_000);
  const steps = Number(values.steps);
  const browser = await launchBrowser();
  let failures = 0;
  for (let seed = first; seed < first + Number(values.count); seed++) {
    const started = performance.now();
    try {
      const patches = await checkProgram(browser, {
        seed,
        steps,
        every: Number(values.every ?? steps),
        ...(values.verbose && { log: console.log }),
      });
      console.log(`seed ${seed}: ${patches} patches, ${((performance.now() - started) / 1000).toFixed(1)} s`);
    } catch (error) {
      failures++;
      console.log(error.message);
    }
  }
  await browser.close();
  process.exitCode = failures === 0 ? 0 : 1;
}
