// The name of an example in (counter when none is given), and flags for `hotslot serve`; its page served out, or the
// program run.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const [first, ...rest] = process.argv.slice(2);
const named = first !== undefined && !first.startsWith('-');
const name = named ? first : 'counter';
const flags = named ? rest : process.argv.slice(2);
const directory = `${root}examples/${name}`;

const examples = readdirSync(`${root}examples`).filter((each) => existsSync(`${root}examples/${each}/Cargo.toml`));
if (!examples.includes(name)) {
  console.error([`No example '${name}'. There is:`, ...examples.map((each) => `  npm start -- ${each}`)].join('\n'));
  process.exit(2);
}

const manifest = readFileSync(`${directory}/Cargo.toml`, 'utf8');
const needs = manifest.includes('wasm-bindgen') ? [] : ['--native'];
if (/^threads = true$/m.test(manifest)) needs.push('--threads');
const setup = spawnSync(process.execPath, [`${root}scripts/setup.js`, ...needs], { stdio: 'inherit' });
if (setup.status !== 0) process.exit(setup.status ?? 1);

// Ctrl-C reaches the server too, as it is of the same process group: it closes, then this ends with its code. A signal to
// this process alone is passed on.
const server = spawn(process.execPath, [`${root}dist/cli.js`, 'serve', ...flags], { cwd: directory, stdio: 'inherit' });
process.on('SIGINT', () => {});
process.on('SIGTERM', () => server.kill('SIGTERM'));
server.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]));
