// In: a folder and cargo's target-choosing options. Out: the programs to build, each a package and a target of it, and
// every package whose source can be edited (workspace members and path dependencies), as `cargo metadata` knows them.
//
// A program is for the web when it depends on wasm-bindgen: itself, or through others that do so wherever they run. Much
// that runs natively has it among its dependencies for wasm alone (chrono, uuid); that does not count.

import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { DiagnosticError, readCargoErrors } from './diagnostic.ts';
import { type Platform, platformOf, TRIPLES } from './platform.ts';
import { run } from './process.ts';
import type { Toolchain } from './rust.ts';

/** Cargo's own choices, under cargo's names. */
export interface CargoOptions {
  readonly directory: string;
  readonly package?: string;
  readonly bin?: string;
  readonly example?: string;
  readonly features?: readonly string[];
  readonly noDefaultFeatures?: boolean;
  readonly allFeatures?: boolean;
  readonly profile?: string;
  readonly release?: boolean;
  readonly target?: string;
  readonly targetDirectory?: string;
  /** A wasm program gets threads also when its own configuration does not say so. */
  readonly threads?: boolean;
}

export type Package = WasmPackage | NativePackage;

interface WasmPackage extends AnyPackage {
  readonly platform: 'wasm';
  /** Version of wasm-bindgen in the lock file. */
  readonly bindgen: string;
}

interface NativePackage extends AnyPackage {
  readonly platform: 'native';
}

interface AnyPackage {
  /** cargo's package id, for `-p`. */
  readonly id: string;
  readonly name: string;
  /** The triple to build for. */
  readonly target: string;
  /** The folder of its Cargo.toml. */
  readonly directory: string;
  /** The crate's name: dashes are underscores. wasm-bindgen names its output by it. */
  readonly crate: string;
  /** What cargo names a binary's file. */
  readonly program: string;
  /** What chooses the target for `cargo build`: `--lib`, or `--bin NAME`, or `--example NAME`. */
  readonly selection: readonly string[];
  readonly workspace: string;
  /** cargo's target folder, before hotslot's own is put into it. */
  readonly targetDirectory: string;
  /** Every package in it whose source can be edited, this one included. */
  readonly editable: readonly { readonly id: string; readonly directory: string }[];
  /** Crates that a build compiles, about. */
  readonly units: number;
}

/** What `cargo metadata` says; only the members that are read here. */
export interface Metadata {
  readonly packages: readonly MetadataPackage[];
  readonly workspace_members: readonly string[];
  readonly workspace_default_members?: readonly string[];
  readonly workspace_root: string;
  readonly target_directory: string;
  readonly resolve: { readonly nodes: readonly MetadataNode[] };
}

interface MetadataNode {
  readonly id: string;
  readonly deps: readonly {
    readonly pkg: string;
    /** `kind` is null for an ordinary one; `target` is a triple or `cfg(...)`, or null for all. */
    readonly dep_kinds: readonly { readonly kind: string | null; readonly target: string | null }[];
  }[];
}

interface MetadataPackage {
  readonly id: string;
  readonly name: string;
  readonly version: string;
  readonly source: string | null;
  readonly manifest_path: string;
  readonly default_run: string | null;
  /** As its manifest has them, for every target. */
  readonly dependencies: readonly { readonly name: string; readonly kind: string | null }[];
  /** `[package.metadata]`. */
  readonly metadata: { readonly hotslot?: unknown } | null;
  readonly targets: readonly MetadataTarget[];
}

interface MetadataTarget {
  readonly name: string;
  readonly kind: readonly string[];
  readonly crate_types: readonly string[];
}

export const TARGET: string = TRIPLES.wasm;

/** For questions that need no compiler, and any cargo will do. */
const ON_PATH: Pick<Toolchain, 'cargo' | 'environment'> = { cargo: 'cargo', environment: process.env };

/** A package, and what to build it for. */
interface Candidate {
  readonly found: MetadataPackage;
  readonly platform: Platform;
}

/**
 * What is to be served: the one program that is meant, or, in a workspace that has one of each platform, both. With the
 * name and the target of each in the options, `findPackage` finds it. Throws a `DiagnosticError` when there is nothing to
 * build, or too much.
 */
export function findPrograms(options: CargoOptions, metadata: Metadata): readonly Package[] {
  const wanted = options.target === undefined ? undefined : platformOf(options.target);
  if (options.target !== undefined && wanted === undefined)
    throw mistake(
      `hotslot cannot build for ${options.target}`,
      `The targets it knows are ${Object.values(TRIPLES).join(' and ')}.`,
    );
  return choose(options, metadata, wanted).map((candidate) => packageOf(candidate, options, metadata));
}

/** As `findPrograms`, when it has to be one. */
export function findPackage(options: CargoOptions, metadata: Metadata): Package {
  const [program, other] = findPrograms(options, metadata);
  if (program === undefined) throw new Error('expected a program, or a mistake');
  if (other) throw several([program, other]);
  return program;
}

function packageOf({ found, platform }: Candidate, options: CargoOptions, metadata: Metadata): Package {
  const target = targetOf(found, options, platform);
  const reachable = dependenciesOf(found.id, metadata);
  const head = {
    id: found.id,
    name: found.name,
    target: TRIPLES[platform],
    directory: dirname(found.manifest_path),
    crate: target.name.replaceAll('-', '_'),
    program: target.name,
    selection: selectionOf(target),
    workspace: metadata.workspace_root,
    targetDirectory: metadata.target_directory,
    editable: reachable
      .filter((each) => each.source === null)
      .map((each) => ({ id: each.id, directory: dirname(each.manifest_path) })),
    units: reachable.reduce((sum, each) => sum + each.targets.filter(isCompiledAsDependency).length, 0),
  };
  if (platform === 'native') return { ...head, platform };
  const bindgen = reachable.find(isBindgen);
  if (!bindgen)
    throw mistake(
      `${found.name} does not depend on wasm-bindgen`,
      `Add it by \`cargo add wasm-bindgen\` in ${head.directory}.`,
    );
  return { ...head, platform, bindgen: bindgen.version };
}

/** The flags that `cargo metadata` and `cargo build` share. */
export function featureFlags(options: CargoOptions): string[] {
  return [
    ...(options.features?.length ? ['--features', options.features.join(',')] : []),
    ...(options.noDefaultFeatures ? ['--no-default-features'] : []),
    ...(options.allFeatures ? ['--all-features'] : []),
  ];
}

/** Throws a `DiagnosticError` with what cargo has to say against the manifests. */
export async function askMetadata(
  options: CargoOptions,
  { cargo, environment }: Pick<Toolchain, 'cargo' | 'environment'> = ON_PATH,
  signal?: AbortSignal,
): Promise<Metadata> {
  const platforms = Object.values(TRIPLES).flatMap((triple) => ['--filter-platform', triple]);
  const { status, stdout, stderr } = await run(
    cargo,
    ['metadata', '--format-version', '1', ...platforms, ...featureFlags(options)],
    { cwd: options.directory, env: environment, ...(signal && { signal }) },
  );
  if (status !== 0) {
    if (/could not find `Cargo.toml`/.test(stderr))
      throw mistake(
        `There is no Cargo.toml in ${options.directory}, nor above it`,
        'Run hotslot in the folder of a crate, or make one by `cargo new --lib`.',
      );
    throw new DiagnosticError(...readCargoErrors(stderr, options.directory));
  }
  return JSON.parse(stdout) as Metadata;
}

/** Of the metadata only what is read here: the rest is a megabyte of features. */
export function trimMetadata(metadata: Metadata): Metadata {
  const { packages, workspace_members, workspace_default_members, workspace_root, target_directory, resolve } =
    metadata;
  return {
    packages: packages.map(({ id, name, version, source, manifest_path, default_run, ...more }) => ({
      id,
      name,
      version,
      source,
      manifest_path,
      default_run,
      metadata: more.metadata?.hotslot === undefined ? null : { hotslot: more.metadata.hotslot },
      dependencies: more.dependencies.filter(isOfWeb).map((each) => ({ name: each.name, kind: each.kind })),
      targets: more.targets.map((each) => ({ name: each.name, kind: each.kind, crate_types: each.crate_types })),
    })),
    workspace_members,
    ...(workspace_default_members && { workspace_default_members }),
    workspace_root,
    target_directory,
    resolve: {
      nodes: resolve.nodes.map(({ id, deps }) => ({
        id,
        deps: deps.map(({ pkg, dep_kinds }) => ({
          pkg,
          dep_kinds: dep_kinds.map(({ kind, target }) => ({ kind, target })),
        })),
      })),
    },
  };
}

/** Files outside of packages that cargo and rustup look for: in the workspace, in the folder and above it, at home. */
export function cargoFiles(directory: string, workspace: string): string[] {
  const files = [join(workspace, 'Cargo.toml'), join(workspace, 'Cargo.lock')];
  const home = process.env['CARGO_HOME'] ?? join(homedir(), '.cargo');
  files.push(join(home, 'config.toml'), join(home, 'config'));
  for (let folder = directory; ; folder = dirname(folder)) {
    for (const name of ['.cargo/config.toml', '.cargo/config', 'rust-toolchain.toml', 'rust-toolchain'])
      files.push(join(folder, name));
    if (folder === dirname(folder)) return files;
  }
}

function choose(options: CargoOptions, metadata: Metadata, wanted: Platform | undefined): Candidate[] {
  const members = metadata.packages.filter((each) => metadata.workspace_members.includes(each.id));
  const candidate = (found: MetadataPackage): Candidate => ({
    found,
    platform: wanted ?? usualPlatform(found, options, metadata),
  });
  if (options.package !== undefined) {
    const found = members.find((each) => each.name === options.package || each.id === options.package);
    if (!found) throw mistake(`No package ${options.package} in this workspace`, `It has: ${names(members)}.`);
    return [candidate(found)];
  }
  const here = members.find((each) => dirname(each.manifest_path) === options.directory);
  const defaults = members.filter((each) => (metadata.workspace_default_members ?? []).includes(each.id));
  // cargo's default members are those of the root folder; in a member's own, it is that one.
  const isElsewhere = here !== undefined && options.directory !== metadata.workspace_root;
  const candidates = (isElsewhere ? [here] : defaults.length > 0 ? defaults : members)
    .map(candidate)
    .filter(
      ({ found, platform }) =>
        targetsOf(found, options, platform).length > 0 &&
        (platform === 'native' ? found.name !== TASKS : dependenciesOf(found.id, metadata).some(isBindgen)),
    );
  const [first, second] = candidates;
  const isPair = candidates.length === 2 && first?.platform !== second?.platform;
  if (isPair) return candidates.filter(({ platform }) => platform === 'wasm' || CAN_RUN_NATIVE);
  if (here) return [candidate(here)];
  if (!first)
    throw mistake(
      'No package of this workspace is a program',
      'It needs a binary; or, for the web, the dependency wasm-bindgen and a library with `crate-type = ["cdylib", "rlib"]`.',
    );
  if (second) throw several(candidates.map(({ found }) => found));
  return candidates;
}

const CAN_RUN_NATIVE = process.platform === 'linux' && process.arch === 'x64';

/** By convention the commands of a workspace's own; nothing to be served. https://github.com/matklad/cargo-xtask */
const TASKS = 'xtask';

/** Of a package that could be built for both. */
function usualPlatform(found: MetadataPackage, options: CargoOptions, metadata: Metadata): Platform {
  const isForWeb =
    found.dependencies.some((each) => isOfWeb(each) && each.kind === null) ||
    dependenciesOf(found.id, metadata, isForAll).some(isBindgen) ||
    // The library that wasm-bindgen asks for; there are other reasons for one, but few have wasm-bindgen beside it.
    (libraryOf(found) && dependenciesOf(found.id, metadata).some(isBindgen));
  // A library alone is no native program: what is missing for a page is then what the user has to be told.
  return isForWeb || targetsOf(found, options, 'native').length === 0 ? 'wasm' : 'native';
}

/** What of a package can become a program, under the given options. */
function targetsOf(found: MetadataPackage, options: CargoOptions, platform: Platform): MetadataTarget[] {
  const { bin, example } = options;
  if (bin !== undefined) return found.targets.filter((each) => each.kind.includes('bin') && each.name === bin);
  if (example !== undefined)
    return found.targets.filter((each) => each.kind.includes('example') && each.name === example);
  const library = libraryOf(found);
  if (library && platform === 'wasm') return [library];
  const binaries = found.targets.filter((each) => each.kind.includes('bin'));
  const preferred = binaries.find((each) => each.name === found.default_run);
  return preferred ? [preferred] : binaries;
}

function libraryOf({ targets }: MetadataPackage): MetadataTarget | undefined {
  return targets.find((each) => each.crate_types.includes('cdylib') && !each.kind.includes('example'));
}

function targetOf(found: MetadataPackage, options: CargoOptions, platform: Platform): MetadataTarget {
  const targets = targetsOf(found, options, platform);
  const [target] = targets;
  if (target && targets.length === 1) return target;
  if (target)
    throw mistake(
      `${found.name} has several binaries: ${names(targets)}`,
      `Choose one: \`--bin ${target.name}\`, or set default-run in its Cargo.toml.`,
    );
  const kind = options.bin !== undefined ? 'bin' : options.example !== undefined ? 'example' : undefined;
  if (kind === undefined && platform === 'native')
    throw mistake(`${found.name} has no binary`, `Add src/main.rs in ${dirname(found.manifest_path)}.`);
  if (kind === undefined)
    throw mistake(
      `${found.name} has neither a cdylib library nor a binary`,
      `Add to ${found.manifest_path}:\n[lib]\ncrate-type = ["cdylib", "rlib"]`,
    );
  const known = found.targets.filter((each) => each.kind.includes(kind));
  throw mistake(
    `${found.name} has no ${kind} ${options.bin ?? options.example}`,
    known.length > 0 ? `It has: ${names(known)}.` : `It has none.`,
  );
}

function selectionOf(target: MetadataTarget): string[] {
  if (target.kind.includes('bin')) return ['--bin', target.name];
  return target.kind.includes('example') ? ['--example', target.name] : ['--lib'];
}

function dependenciesOf(
  root: string,
  metadata: Metadata,
  follows: (dependency: MetadataNode['deps'][number]) => boolean = () => true,
): MetadataPackage[] {
  const dependencies = new Map(metadata.resolve.nodes.map((node) => [node.id, node.deps]));
  const seen = new Set([root]);
  for (const id of seen) for (const each of dependencies.get(id) ?? []) if (follows(each)) seen.add(each.pkg);
  return metadata.packages.filter((each) => seen.has(each.id));
}

/** Not only where it is compiled to wasm. */
function isForAll(dependency: MetadataNode['deps'][number]): boolean {
  return dependency.dep_kinds.some(
    ({ kind, target }) => kind === null && (target === null || !target.includes('wasm')),
  );
}

/** wasm-bindgen, and what is made for use beside it. */
function isOfWeb({ name }: { readonly name: string }): boolean {
  return ['wasm-bindgen', 'wasm-bindgen-futures', 'js-sys', 'web-sys'].includes(name);
}

function isBindgen({ name }: { readonly name: string }): boolean {
  return name === 'wasm-bindgen';
}

function isCompiledAsDependency(target: MetadataTarget): boolean {
  return !target.kind.some((kind) => ['bin', 'example', 'test', 'bench'].includes(kind));
}

function names(items: readonly { readonly name: string }[]): string {
  return items.map((each) => each.name).join(', ');
}

function several(programs: readonly { readonly name: string }[]): DiagnosticError {
  return mistake(`Several packages could be served: ${names(programs)}`, `Choose one: \`-p ${programs[0]?.name}\`.`);
}

function mistake(text: string, hint: string): DiagnosticError {
  return new DiagnosticError({ severity: 'error', text, hint });
}
