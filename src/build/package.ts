// In: a folder and cargo's target-choosing options. Out: the one package and target to build, and every package whose
// source can be edited (workspace members and path dependencies), as `cargo metadata` knows them.

import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { DiagnosticError, readCargoErrors } from './diagnostic.ts';
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
}

export interface Package {
  /** cargo's package id, for `-p`. */
  readonly id: string;
  /** The folder of its Cargo.toml. */
  readonly directory: string;
  /** The crate's name: dashes are underscores. wasm-bindgen names its output by it. */
  readonly crate: string;
  /** What chooses the target for `cargo build`: `--lib`, or `--bin NAME`, or `--example NAME`. */
  readonly selection: readonly string[];
  readonly workspace: string;
  /** cargo's target folder, before hotslot's own is put into it. */
  readonly targetDirectory: string;
  /** Every package in it whose source can be edited, this one included. */
  readonly editable: readonly { readonly id: string; readonly directory: string }[];
  /** Version of wasm-bindgen in the lock file. */
  readonly bindgen: string;
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
  readonly resolve: { readonly nodes: readonly { readonly id: string; readonly dependencies: readonly string[] }[] };
}

interface MetadataPackage {
  readonly id: string;
  readonly name: string;
  readonly version: string;
  readonly source: string | null;
  readonly manifest_path: string;
  readonly default_run: string | null;
  /** `[package.metadata]`. */
  readonly metadata: { readonly hotslot?: unknown } | null;
  readonly targets: readonly MetadataTarget[];
}

interface MetadataTarget {
  readonly name: string;
  readonly kind: readonly string[];
  readonly crate_types: readonly string[];
}

export const TARGET = 'wasm32-unknown-unknown';

/** For questions that need no compiler, and any cargo will do. */
export const ON_PATH: Pick<Toolchain, 'cargo' | 'environment'> = { cargo: 'cargo', environment: process.env };

/** Throws a `DiagnosticError` when there is nothing to build, or more than one thing. */
export function findPackage(options: CargoOptions, metadata: Metadata): Package {
  if (options.target !== undefined && options.target !== TARGET)
    throw mistake(`hotslot cannot build for ${options.target}`, `The target it knows is ${TARGET}.`);
  const { found, target } = chooseTarget(options, metadata);
  const reachable = dependenciesOf(found.id, metadata);
  const bindgen = reachable.find((each) => each.name === 'wasm-bindgen');
  if (!bindgen)
    throw mistake(
      `${found.name} does not depend on wasm-bindgen`,
      `Add it by \`cargo add wasm-bindgen\` in ${dirname(found.manifest_path)}.`,
    );
  return {
    id: found.id,
    directory: dirname(found.manifest_path),
    crate: target.name.replaceAll('-', '_'),
    selection: selectionOf(target),
    workspace: metadata.workspace_root,
    targetDirectory: metadata.target_directory,
    editable: reachable
      .filter((each) => each.source === null)
      .map((each) => ({ id: each.id, directory: dirname(each.manifest_path) })),
    bindgen: bindgen.version,
    units: reachable.reduce((sum, each) => sum + each.targets.filter(isCompiledAsDependency).length, 0),
  };
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
  const { status, stdout, stderr } = await run(
    cargo,
    ['metadata', '--format-version', '1', '--filter-platform', TARGET, ...featureFlags(options)],
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
    packages: packages.map(({ id, name, version, source, manifest_path, default_run, metadata: own, targets }) => ({
      ...{ id, name, version, source, manifest_path, default_run },
      metadata: own?.hotslot === undefined ? null : { hotslot: own.hotslot },
      targets: targets.map(({ name: target, kind, crate_types }) => ({ name: target, kind, crate_types })),
    })),
    workspace_members,
    ...(workspace_default_members && { workspace_default_members }),
    workspace_root,
    target_directory,
    resolve: { nodes: resolve.nodes.map(({ id, dependencies }) => ({ id, dependencies })) },
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

function chooseTarget(options: CargoOptions, metadata: Metadata): { found: MetadataPackage; target: MetadataTarget } {
  const members = metadata.packages.filter((each) => metadata.workspace_members.includes(each.id));
  if (options.package !== undefined) {
    const found = members.find((each) => each.name === options.package || each.id === options.package);
    if (!found) throw mistake(`No package ${options.package} in this workspace`, `It has: ${names(members)}.`);
    return { found, target: targetOf(found, options) };
  }
  const here = members.find((each) => dirname(each.manifest_path) === options.directory);
  if (here) return { found: here, target: targetOf(here, options) };
  const defaults = members.filter((each) => (metadata.workspace_default_members ?? []).includes(each.id));
  const candidates = (defaults.length > 0 ? defaults : members).filter((each) => {
    const usesBindgen = dependenciesOf(each.id, metadata).some(({ name }) => name === 'wasm-bindgen');
    return usesBindgen && targetsOf(each, options).length > 0;
  });
  const [found] = candidates;
  if (!found)
    throw mistake(
      'No package of this workspace is a wasm-bindgen program',
      'It needs the dependency wasm-bindgen, and a library with `crate-type = ["cdylib", "rlib"]` or a binary.',
    );
  if (candidates.length > 1)
    throw mistake(`Several packages could be served: ${names(candidates)}`, `Choose one: \`-p ${found.name}\`.`);
  return { found, target: targetOf(found, options) };
}

/** What of a package can become a wasm module, under the given options. */
function targetsOf(found: MetadataPackage, options: CargoOptions): MetadataTarget[] {
  const { bin, example } = options;
  if (bin !== undefined) return found.targets.filter((each) => each.kind.includes('bin') && each.name === bin);
  if (example !== undefined)
    return found.targets.filter((each) => each.kind.includes('example') && each.name === example);
  const library = found.targets.find((each) => each.crate_types.includes('cdylib') && !each.kind.includes('example'));
  if (library) return [library];
  const binaries = found.targets.filter((each) => each.kind.includes('bin'));
  const preferred = binaries.find((each) => each.name === found.default_run);
  return preferred ? [preferred] : binaries;
}

function targetOf(found: MetadataPackage, options: CargoOptions): MetadataTarget {
  const targets = targetsOf(found, options);
  const [target] = targets;
  if (target && targets.length === 1) return target;
  if (target)
    throw mistake(
      `${found.name} has several binaries: ${names(targets)}`,
      `Choose one: \`--bin ${target.name}\`, or set default-run in its Cargo.toml.`,
    );
  const kind = options.bin !== undefined ? 'bin' : options.example !== undefined ? 'example' : undefined;
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

function dependenciesOf(root: string, metadata: Metadata): MetadataPackage[] {
  const dependencies = new Map(metadata.resolve.nodes.map((node) => [node.id, node.dependencies]));
  const seen = new Set([root]);
  for (const id of seen) for (const each of dependencies.get(id) ?? []) seen.add(each);
  return metadata.packages.filter((each) => seen.has(each.id));
}

function isCompiledAsDependency(target: MetadataTarget): boolean {
  return !target.kind.some((kind) => ['bin', 'example', 'test', 'bench'].includes(kind));
}

function names(items: readonly { readonly name: string }[]): string {
  return items.map((each) => each.name).join(', ');
}

function mistake(text: string, hint: string): DiagnosticError {
  return new DiagnosticError({ severity: 'error', text, hint });
}
