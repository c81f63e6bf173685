// In: a crate's folder and what is installed. Out: a Rust that can build for each platform, and a linker for it.
//
// Native programs are built by the crate's own toolchain. For wasm32-unknown-unknown, in order of preference: the crate's own toolchain, when it has the target; the crate's own with std built once from its
// sources; a system one (Debian's packages), likewise. The last two are used through a sysroot in hotslot's cache.

import { existsSync, readdirSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { TARGET } from './package.ts';
import { ask } from './process.ts';
import { findSysroot } from './sysroot.ts';
import type { Threads } from './threads.ts';

export interface Toolchain {
  /** The triple it builds for. */
  readonly target: string;
  readonly cargo: string;
  /** The compiler itself, not rustup's proxy for it. */
  readonly rustc: string;
  /** What goes in front of rustc's arguments. */
  readonly prefix: readonly string[];
  /** First line of its `-vV`. */
  readonly version: string;
  readonly rust: Rust;
  readonly linker: Linker;
  /** For a wasm program with threads. */
  readonly threads?: {
    /** std has to be built by a flag of cargo's. */
    readonly buildsStd: boolean;
  };
  /** For every cargo run; its RUSTC includes `prefix`. */
  readonly environment: Readonly<Record<string, string | undefined>>;
}

export interface Linker {
  readonly program: string;
  /** In front of the arguments; says which flavour a linker of many shall be. */
  readonly prefix: readonly string[];
}

/** A Rust that is installed, whether or not it can build the target yet. */
export interface Rust {
  readonly rustc: string;
  readonly cargo: string;
  readonly sysroot: string;
  /** All of `rustc -vV`. */
  readonly version: string;
  readonly host: string;
  /** The std of wasm32-unknown-unknown came with it. */
  readonly hasTarget: boolean;
  /** The sources of std came with it. */
  readonly sources: string | undefined;
}

/** Every Rust worth looking at, the crate's own first. */
export async function findRusts(directory: string): Promise<Rust[]> {
  const programs = [process.env['RUSTC'] ?? 'rustc', '/usr/bin/rustc'];
  const found = await Promise.all(programs.map((program) => probe(program, directory)));
  const rusts = found.filter((each) => each !== undefined);
  return rusts.filter((each, index) => rusts.findIndex((other) => other.sysroot === each.sysroot) === index);
}

/** With the sysroot of the cache that it needs, if it does. */
export interface RustFound {
  readonly rust: Rust;
  readonly sysroot: string | undefined;
}

/** What there is to build with. */
export interface Rusts {
  /** The crate's own; for native programs. */
  readonly own: Rust | undefined;
  readonly wasm: RustFound | undefined;
}

/** The best of them that can build for wasm now; undefined when none can. */
export function chooseRust(rusts: readonly Rust[]): RustFound | undefined {
  for (const rust of rusts) {
    if (rust.hasTarget) return { rust, sysroot: undefined };
    const sysroot = findSysroot(rust, 'plain');
    if (sysroot !== undefined) return { rust, sysroot };
  }
  return undefined;
}

/** As `chooseRust`, for a program with threads: the std that comes with a Rust has no atomics. */
export function chooseThreadedRust(rusts: readonly Rust[], { buildsStd }: Threads): RustFound | undefined {
  const [own] = rusts;
  if (own !== undefined && (buildsStd || canBuildStd(own))) return { rust: own, sysroot: undefined };
  for (const rust of rusts) {
    const sysroot = findSysroot(rust, 'atomics');
    if (sysroot !== undefined) return { rust, sysroot };
  }
  return undefined;
}

/** cargo's unstable flags are for its nightly versions. */
function canBuildStd({ version, sources }: Rust): boolean {
  return sources !== undefined && isNightly({ version });
}

function isNightly({ version }: Pick<Rust, 'version'>): boolean {
  return version.includes('-nightly');
}

/** When the crate's own will do for wasm, the others are not even asked. */
export async function findRust(directory: string): Promise<Rusts> {
  const own = await probe(process.env['RUSTC'] ?? 'rustc', directory);
  return { own, wasm: (own && chooseRust([own])) ?? chooseRust(await findRusts(directory)) };
}

/** The toolchain's own linker, else one on PATH, the newest last-resort `wasm-ld-NN` included. */
export function findLinker(rust: Rust): Linker | undefined {
  const generic = [join(rust.sysroot, 'lib/rustlib', rust.host, 'bin/rust-lld'), join(rust.sysroot, 'bin/rust-lld')];
  const own = generic.find((path) => existsSync(path));
  if (own !== undefined) return linkerOf(own);
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => existsSync(folder));
  const found = folders
    .flatMap((folder) => readdirSync(folder).map((name) => ({ folder, name })))
    .filter(({ name }) => /^(wasm-ld(-\d+)?|rust-lld)$/.test(name))
    .sort((one, other) => rankOf(other.name) - rankOf(one.name))[0];
  return found && linkerOf(join(found.folder, found.name));
}

/** A linker of many flavours has to be told which; `wasm-ld` is one already. */
export function linkerOf(program: string): Linker {
  return { program, prefix: /(^|\/)(rust-)?lld(-\d+)?$/.test(program) ? ['-flavor', 'wasm'] : [] };
}

export function toolchainOf(
  { rust, sysroot }: RustFound,
  target: string,
  linker: Linker,
  threads?: Threads,
): Toolchain {
  const flags = threads?.rustflags;
  return {
    target,
    cargo: rust.cargo,
    rustc: rust.rustc,
    prefix: sysroot === undefined ? [] : ['--sysroot', sysroot],
    version: rust.version.split('\n')[0] ?? '',
    rust,
    linker,
    // One that cargo builds by its own configuration needs no flag for it.
    ...(threads && { threads: { buildsStd: sysroot === undefined && !threads.buildsStd } }),
    environment: {
      ...process.env,
      RUSTC: sysroot === undefined ? rust.rustc : join(sysroot, 'rustc'),
      ...(flags && { CARGO_ENCODED_RUSTFLAGS: flags.join('\x1f') }),
      // Crates ask by `cfg(target_feature = "atomics")`, to which a stable compiler says no whatever it was told.
      ...(threads && !isNightly(rust) && { RUSTC_BOOTSTRAP: '1' }),
    },
  };
}

async function probe(program: string, directory: string): Promise<Rust | undefined> {
  const [printed, version] = await Promise.all([
    ask(program, ['--print', 'sysroot'], { cwd: directory }),
    ask(program, ['-vV'], { cwd: directory }),
  ]);
  if (printed === undefined || version === undefined) return undefined;
  const sysroot = printed.trim();
  const libraries = join(sysroot, 'lib/rustlib', TARGET, 'lib');
  const sources = join(sysroot, 'lib/rustlib/src/rust/library');
  const own = (name: string): string | undefined =>
    [join(sysroot, 'bin', name), join(dirname(program), name)].find((path) => path.startsWith('/') && existsSync(path));
  return {
    rustc: own('rustc') ?? program,
    cargo: own('cargo') ?? 'cargo',
    sysroot,
    version,
    host: /^host: (.+)$/m.exec(version)?.[1] ?? '',
    hasTarget: existsSync(libraries) && readdirSync(libraries).some((name) => /^libstd-.*\.rlib$/.test(name)),
    sources: existsSync(join(sources, 'std/Cargo.toml')) ? sources : undefined,
  };
}

function rankOf(name: string): number {
  return name === 'rust-lld' ? 0 : Number(/\d+$/.exec(name)?.[0] ?? 1000);
}
