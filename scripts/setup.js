// Flags in (`--tests`: also what only the tests need; `--native`: nothing that only pages need;
// `--threads`: what programs with threads need); dist/ up to date and every
// tool installed out, or one line for each that is missing and an exit code of 1. Does nothing, quickly, when all is there.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

if (changedAt(`${root}src`) > builtAt()) {
  const { status } = spawnSync(
    process.execPath,
    [`${root}node_modules/typescript/bin/tsc`, '-b', 'src', 'src/client'],
    {
      cwd: root,
      stdio: 'inherit',
    },
  );
  if (status !== 0) process.exit(status ?? 1);
}

// Where one of them is missing, what pages need is the least that brings both.
const hasNative = () => ['cargo', 'cc'].every((tool) => spawnSync(tool, ['--version']).status === 0);
if (process.argv.includes('--native') && hasNative()) process.exit();

const { diagnose, meetNeeds } = await import('../dist/build/toolchain.js');
const { DiagnosticError } = await import('../dist/build/diagnostic.js');
const options = {
  directory: `${root}examples/counter`,
  tests: process.argv.includes('--tests'),
  threads: process.argv.includes('--threads'),
  progress: showProgress(),
};
try {
  let needs = await diagnose(options);
  if (needs.some((need) => need.missing)) {
    needs = await meetNeeds(options);
    options.progress('');
  }
  for (const { name, missing } of needs) {
    if (!missing) continue;
    console.error(`${name}: ${missing.why}. Get it by: ${missing.fix}`);
    process.exitCode = 1;
  }
} catch (error) {
  if (!(error instanceof DiagnosticError)) throw error;
  for (const { text, notes = [], hint } of error.diagnostics)
    console.error([text, ...notes, hint ?? ''].join('\n').trim());
  process.exitCode = 1;
}

// The tests link by each linker that people use (lld comes with Rust and GNU ld with the C compiler), and debug what they
// patched.
const tools = { mold: 'the tests link by it', gdb: 'the tests look at patched code in it' };
for (const [tool, why] of Object.entries(process.argv.includes('--tests') ? tools : {})) {
  if (spawnSync(tool, ['--version']).status === 0) continue;
  const isRoot = process.getuid?.() === 0;
  const steps = [['update'], ['install', '-y', '--no-install-recommends', tool]];
  if (!isRoot || steps.some((args) => spawnSync('apt-get', args, { stdio: 'ignore' }).status !== 0)) {
    console.error(`${tool}: ${why}. Get it by: ${isRoot ? '' : 'sudo '}apt-get install ${tool}`);
    process.exitCode = 1;
  }
}

/** One line that is rewritten on a terminal; elsewhere a line for each step, without the crates it is at. */
function showProgress() {
  if (process.stdout.isTTY) return (text) => process.stdout.write(`\r\u001b[K${text}`);
  let last = '';
  return (text) => {
    const [step = ''] = text.split(/: (?!:)/);
    if (step !== last && step !== '') console.log(step);
    last = step;
  };
}

function changedAt(folder) {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const times = files.map((entry) => statSync(join(entry.parentPath ?? entry.path, entry.name)).mtimeMs);
  return Math.max(...times, statSync(`${root}tsconfig.base.json`).mtimeMs);
}

/** When both projects were last compiled. */
function builtAt() {
  const records = [`${root}dist/node.tsbuildinfo`, `${root}dist/client/client.tsbuildinfo`];
  return Math.min(...records.map((path) => (existsSync(path) ? statSync(path).mtimeMs : 0)));
}
