// In: a crate's folder. Out: the tools to build it with, or for each that is missing one line on how to get it, and the
// means to get it.

import { existsSync, readFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { describeMissing, findBindgen, installBindgen } from './bindgen.ts';
import { askConfiguration, type Configuration } from './configuration.ts';
import { DiagnosticError } from './diagnostic.ts';
import { askMetadata, type CargoOptions, TARGET, findPackage, findPrograms } from './package.ts';
import { type Platform, platformOf, TRIPLES } from './platform.ts';
import { ask, run } from './process.ts';
import {
  type Rust,
  type Rusts,
  type Toolchain,
  chooseRust,
  chooseThreadedRust,
  findLinker,
  findRust,
  findRusts,
  toolchainOf,
} from './rust.ts';
import { type Flavour, makeSysroot } from './sysroot.ts';
import { type Threads, threadsOf } from './threads.ts';

/** One thing that has to be there: `found` says what it is, `missing` why it is not and what to type. */
export interface Need {
  readonly name: string;
  readonly found?: string;
  readonly missing?: { readonly why: string; readonly fix: string };
  /** Gets it, where hotslot can do that itself. */
  readonly install?: () => Promise<void>;
}

export interface NeedOptions extends CargoOptions {
  /** Also what only hotslot's own tests need. */
  readonly tests?: boolean;
  /** Told what an installation is doing. */
  readonly progress?: (text: string) => void;
}

const DEBIAN_RUST = ['rustc-web', 'cargo-web', 'rust-web-src', 'rust-web-llvm', 'lld-22'];
const DEBIAN_NATIVE_RUST = ['rustc-web', 'cargo-web'];
const DEBIAN_C = ['gcc', 'libc6-dev'];

/**
 * For the target in the options, wasm when there is none. Throws a `DiagnosticError` with the same lines as `diagnose`.
 * wasm-bindgen is the builder's to find.
 */
export async function requireToolchain(
  given: CargoOptions,
  rusts: Promise<Rusts> = findRust(given.directory),
  configuration: Promise<Configuration> = askConfiguration(given),
): Promise<Toolchain> {
  const options = { ...given, target: given.target ?? TARGET };
  const cc = findOnPath('cc');
  const platform = platformOf(options.target);
  const threads = platform === 'wasm' ? threadsOf(options, await configuration) : undefined;
  const toolchain =
    cc === undefined
      ? undefined
      : threads
        ? chooseThreaded(await findRusts(options.directory), threads)
        : chooseToolchain(await rusts, platform);
  if (toolchain) return toolchain;
  const missing = (await diagnose(options)).filter((need) => need.missing);
  throw new DiagnosticError(
    ...missing.map(({ name, missing: reason }) => ({
      severity: 'error' as const,
      text: `${name}: ${reason?.why}`,
      hint: reason?.fix ?? '',
    })),
  );
}

/** Every need, in the order in which they have to be met. */
export async function diagnose(options: NeedOptions): Promise<Need[]> {
  const rusts = await findRusts(options.directory);
  const platforms = await platformsOf(options, rusts.length > 0);
  const isForWeb = platforms.includes('wasm') || options.tests;
  const chosen = chooseRust(rusts);
  const linker = chosen && findLinker(chosen.rust);
  const toolchain = chosen && linker && toolchainOf(chosen, TARGET, linker);
  const given = options.tests ? { ...options, threads: true } : options;
  const threads = isForWeb && rusts.length > 0 ? threadsOf(given, await askConfiguration(options)) : undefined;
  const ccUse = isForWeb ? 'build scripts and macros are linked by it' : 'programs are linked by it';
  const needs: (Need | undefined)[] = [
    needOf('C compiler', findOnPath('cc'), ccUse, DEBIAN_C, options),
    platforms.includes('native') ? nativeRust(rusts[0], options) : undefined,
    ...(isForWeb
      ? [
          chosen
            ? { name: `Rust for ${TARGET}`, found: describeRust(chosen.rust, chosen.sysroot !== undefined) }
            : missingRust(rusts, 'plain', options),
          threads && threadedRust(rusts, threads, options),
          chosen &&
            needOf('wasm linker', linker?.program, 'neither rust-lld nor wasm-ld is there', ['lld-22'], options),
          await bindgenNeed(toolchain, options),
        ]
      : []),
    options.tests ? needOf('Chromium', findChromium(), 'the tests run in it', ['chromium'], options) : undefined,
  ];
  return needs.filter((need) => need !== undefined);
}

/** Installs what is missing, each at most once. Returns all needs as they are then. */
export async function meetNeeds(options: NeedOptions): Promise<Need[]> {
  const tried = new Set<string>();
  for (;;) {
    const needs = await diagnose(options);
    const next = needs.find((need) => need.missing && need.install && !tried.has(need.name));
    if (!next?.install) return needs;
    tried.add(next.name);
    options.progress?.(`getting ${next.name}`);
    await next.install();
  }
}

/** The browser of hotslot's own tests. */
export function findChromium(): string | undefined {
  return findOnPath('chromium') ?? findOnPath('chromium-browser') ?? findOnPath('google-chrome');
}

function chooseThreaded(rusts: readonly Rust[], threads: Threads): Toolchain | undefined {
  const found = chooseThreadedRust(rusts, threads);
  const linker = found && findLinker(found.rust);
  return found && linker && toolchainOf(found, TARGET, linker, threads);
}

function chooseToolchain({ own, wasm }: Rusts, platform: Platform | undefined): Toolchain | undefined {
  if (platform === 'native')
    // It is only given to rustc when the user names none; which linker it calls is for rustc to say.
    return own?.host === TRIPLES.native
      ? toolchainOf({ rust: own, sysroot: undefined }, TRIPLES.native, { program: 'cc', prefix: [] })
      : undefined;
  const linker = wasm && findLinker(wasm.rust);
  return wasm && linker && toolchainOf(wasm, TARGET, linker);
}

/** What the programs here are for. Where no cargo can tell, the lock file may. */
async function platformsOf(options: NeedOptions, hasRust: boolean): Promise<readonly Platform[]> {
  const given = options.target === undefined ? undefined : platformOf(options.target);
  if (given) return [given];
  if (!hasRust) {
    const lock = readLock(options.directory);
    return lock === undefined || lock.includes(BINDGEN) ? ['wasm'] : ['native'];
  }
  try {
    return findPrograms(options, await askMetadata(options)).map(({ platform }) => platform);
  } catch (error) {
    // Not in a crate, or one with a mistake: what it is for nobody knows yet.
    if (error instanceof DiagnosticError) return ['wasm'];
    throw error;
  }
}

function nativeRust(own: Rust | undefined, options: NeedOptions): Need {
  const name = `Rust for ${TRIPLES.native}`;
  if (own === undefined) return needOf(name, undefined, 'no rustc on PATH', DEBIAN_NATIVE_RUST, options);
  if (own.host === TRIPLES.native) return { name, found: firstLine(own.version) };
  const why = `${firstLine(own.version)} is for ${own.host}`;
  return { name, missing: { why, fix: `rustup default stable-${TRIPLES.native}, on a machine of that kind` } };
}

function needOf(
  name: string,
  found: string | undefined,
  why: string,
  packages: readonly string[],
  options: NeedOptions,
): Need {
  if (found !== undefined) return { name, found };
  return {
    name,
    missing: { why, fix: aptLine(packages) },
    ...(canInstall() && { install: () => apt(packages, options) }),
  };
}

function threadedRust(rusts: readonly Rust[], threads: Threads, options: NeedOptions): Need {
  const chosen = chooseThreadedRust(rusts, threads);
  if (chosen === undefined) return missingRust(rusts, 'atomics', options);
  return { name: nameOfRust('atomics'), found: describeRust(chosen.rust, chosen.sysroot !== undefined) };
}

function nameOfRust(flavour: Flavour): string {
  return flavour === 'plain' ? `Rust for ${TARGET}` : `Rust for ${TARGET} with threads`;
}

function missingRust(rusts: readonly Rust[], flavour: Flavour, options: NeedOptions): Need {
  const name = nameOfRust(flavour);
  const own = rusts[0];
  const lacks = flavour === 'plain' ? 'has no std for it' : 'has no std with atomics';
  const why = own ? `${firstLine(own.version)} ${lacks}` : 'no rustc on PATH';
  const rustup = findOnPath('rustup');
  const withSources = rusts.find((rust) => rust.sources !== undefined);
  const ofRustup = flavour === 'plain' ? `rustup target add ${TARGET}` : 'rustup component add rust-src';
  const fix = rustup !== undefined && own !== undefined ? ofRustup : aptLine(DEBIAN_RUST);
  const install = async (): Promise<void> => {
    const progress = options.progress ?? (() => undefined);
    if (rustup !== undefined && own?.sysroot.includes('toolchains')) {
      progress(ofRustup);
      const added = await ask(rustup, ofRustup.split(' ').slice(1), { cwd: options.directory });
      if (added !== undefined && flavour === 'plain') return;
    }
    const find = async (): Promise<Rust | undefined> =>
      withSources ?? (await findRusts(options.directory)).find((each) => each.sources !== undefined);
    if (!(await find()) && canInstall()) await apt(DEBIAN_RUST, options);
    const rust = await find();
    if (rust) await makeSysroot(rust, flavour, progress);
  };
  return {
    name,
    missing: { why, fix: withSources ? `npx hotslot doctor --fix${flavour === 'atomics' ? ' --threads' : ''}` : fix },
    install,
  };
}

async function bindgenNeed(toolchain: Toolchain | undefined, options: NeedOptions): Promise<Need | undefined> {
  const version = await bindgenVersion(toolchain, options);
  if (version === undefined) return undefined;
  const found = await findBindgen(version);
  const { name, why, fix } = describeMissing(version);
  if (found !== undefined) return { name, found };
  const progress = options.progress ?? (() => undefined);
  return {
    name,
    missing: { why, fix },
    ...(toolchain && { install: () => installBindgen(version, toolchain.rust, progress) }),
  };
}

/** By the lock file, which can be read without Rust; where there is none yet, by cargo. */
async function bindgenVersion(toolchain: Toolchain | undefined, options: NeedOptions): Promise<string | undefined> {
  const lock = readLock(options.directory);
  if (lock !== undefined) return /^name = "wasm-bindgen"\nversion = "([^"]+)"/m.exec(lock)?.[1];
  if (!toolchain) return undefined;
  try {
    const found = findPackage({ ...options, target: TARGET }, await askMetadata(options, toolchain));
    return found.platform === 'wasm' ? found.bindgen : undefined;
  } catch (error) {
    // Not in a crate, or not in one for wasm-bindgen: then there is no such need.
    if (error instanceof DiagnosticError) return undefined;
    throw error;
  }
}

const BINDGEN = 'name = "wasm-bindgen"\n';

/** The Cargo.lock that counts in a folder. */
function readLock(directory: string): string | undefined {
  for (let folder = directory; ; folder = dirname(folder)) {
    const lock = join(folder, 'Cargo.lock');
    if (existsSync(lock)) return readFileSync(lock, 'utf8');
    if (folder === dirname(folder)) return undefined;
  }
}

function describeRust(rust: Rust, built: boolean): string {
  return `${firstLine(rust.version)}${built ? ', with std built from its sources' : ''}`;
}

let updated = false;

async function apt(packages: readonly string[], options: NeedOptions): Promise<void> {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const commands = [...(updated ? [] : [['update']]), ['install', '-y', '--no-install-recommends', ...packages]];
  for (const args of commands) {
    options.progress?.(`apt-get ${args.join(' ')}`);
    const { status, stderr } = await run('apt-get', args, { env, onStdout: () => undefined });
    if (status !== 0)
      throw new DiagnosticError({
        severity: 'error',
        text: `apt-get ${args.join(' ')} failed`,
        notes: [stderr.trim()],
      });
  }
  updated = true;
}

function aptLine(packages: readonly string[]): string {
  const command = `apt-get install ${packages.join(' ')}`;
  return isRoot() ? command : `sudo ${command}`;
}

function canInstall(): boolean {
  return isRoot() && findOnPath('apt-get') !== undefined;
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

function findOnPath(program: string): string | undefined {
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '');
  return folders.map((folder) => join(folder, program)).find((path) => existsSync(path));
}

function firstLine(text: string): string {
  return text.split('\n')[0] ?? '';
}
