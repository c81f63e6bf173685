// Seeds in; generated programs edited step by step under `hotslot serve`, and out comes the first difference between the
// page or process that took every edit as a patch and a fresh build of the final source.
//
//   npx tsc -b && node fuzz/programs.js [--native | --optimised] [--seed 1] [--count 1] [--steps 40] [--every 40] [--verbose]
//
// `--every 1` compares after each step: slow, but it names the step that went wrong.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { launchBrowser, serve } from '../bench/serve.js';
import { pages, processes } from './drivers.js';
import { generator, makeProgram } from './rust.js';

const ARGUMENTS = [0, 1, -7, 50_001, 2_147_483_647];

/** Runs one program through `steps` edits and returns how many patches that made; throws at the first difference. */
export async function checkProgram(driver, { seed, steps, every = steps, log = () => {} }) {
  const random = generator(seed);
  const program = makeProgram(random, driver.platform);
  prepare(driver);
  const write = () => writeChanged(driver.folder, program.files());
  write();
  const counts = new Counts();
  let patches = 0;
  let step = 0;
  let edit = 'the first build';
  let server;
  let live;
  try {
    server = await serve(driver.folder);
    live = await driver.open(server);
    check(await callAll(live, program, counts));
    for (step = 1; step <= steps; step++) {
      edit = program.edit();
      log(`step ${step}: ${edit}`);
      const changed = write();
      if (changed.length === 0) continue;
      const answer = await server.answer(changed);
      // What a patch cannot follow, a user would reload for.
      if (answer.event === 'refused' && driver.mayRefuse) {
        log(`refused: ${answer.reason}`);
        break;
      }
      if (answer.event === 'patch') patches++;
      else if (answer.event !== 'unchanged') throw new Error(`not expected: ${JSON.stringify(answer).slice(0, 3000)}`);
      const results = check(await callAll(live, program, counts));
      if (step % every === 0 || step === steps) await compareWithRebuild(driver, program, results);
    }
    if (driver.startsAnew) {
      const late = await driver.open(server);
      compare(check(await callAll(late, program)), check(await callAll(live, program)), 'what starts now', 'what runs');
      await late.close();
    }
  } catch (error) {
    throw new Error(`seed ${seed}, step ${step} (${edit}): ${error.message}`, { cause: error });
  } finally {
    await live?.close();
    await server?.close();
  }
  return patches;
}

// -------------------------------------------------------------------------------------------------------------- files

function prepare({ folder, prepare: writeManifests }) {
  for (const sources of ['src', 'parts/src']) {
    rmSync(join(folder, sources), { recursive: true, force: true });
    mkdirSync(join(folder, sources), { recursive: true });
  }
  writeManifests();
}

/** Writes what differs, and returns its paths. */
function writeChanged(folder, files) {
  const changed = Object.keys(files)
    .map((file) => ({ path: join(folder, file), text: files[file] }))
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

// ------------------------------------------------------------------------------------------------------------ results

/** Every function's results, by its name: the count of calls apart, since a rebuilt program begins anew. */
async function callAll(instance, program, counts) {
  const functions = program.functions();
  const ids = functions.map(({ id }) => id);
  const results = await instance.call(ids, ARGUMENTS);
  counts?.forget(functions);
  return new Map(
    functions.map((each, index) => {
      if (each.start === undefined) return [each.name, results[index]];
      counts?.check(each, results[index]);
      return [each.name, results[index].map((text) => text.replace(/^\d+#/, '#'))];
    }),
  );
}

/** How often the stateful functions of one instance have been called. */
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

async function compareWithRebuild(driver, program, patched) {
  const rebuilt = await driver.rebuild();
  const fresh = check(await callAll(rebuilt, program));
  await rebuilt.close();
  compare(patched, fresh, 'what was patched', 'a rebuild');
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
      native: { type: 'boolean', default: false },
      optimised: { type: 'boolean', default: false },
      seed: { type: 'string' },
      count: { type: 'string', default: '1' },
      steps: { type: 'string', default: '40' },
      every: { type: 'string' },
      verbose: { type: 'boolean', default: false },
    },
  });
  const first = Number(values.seed ?? Date.now() % 1_000_000);
  const steps = Number(values.steps);
  const browser = values.native ? undefined : await launchBrowser();
  const driver = values.native ? processes() : pages(browser, { optimised: values.optimised });
  let failures = 0;
  for (let seed = first; seed < first + Number(values.count); seed++) {
    const started = performance.now();
    try {
      const patches = await checkProgram(driver, {
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
  await browser?.close();
  process.exitCode = failures === 0 ? 0 : 1;
}
