// In: what the command line says. Out: what cargo and rustc have to be asked before a build can begin. All is asked at
// once and as early as can be, as each question takes a process of its own, and the answers are remembered: most starts
// find no manifest, no configuration and no compiler changed, and then have to ask nothing.

import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { cachePath } from './cache.ts';
import { askConfiguration, type Configuration } from './configuration.ts';
import { recall, remember } from './memory.ts';
import { askMetadata, type CargoOptions, cargoFiles, featureFlags, type Metadata, trimMetadata } from './package.ts';
import { findRust, type Rusts } from './rust.ts';

/** Answers on their way. Whoever awaits one meets its error. */
export interface Inquiry {
  readonly metadata: Promise<Metadata>;
  readonly configuration: Promise<Configuration>;
  readonly rust: Promise<Rusts>;
}

/** Counts the shapes that remembered answers have had. */
const SHAPE = 3;

interface Answers {
  readonly metadata: Metadata;
  readonly configuration: Configuration;
  readonly rust: Rusts;
}

/**
 * `given`: when the settings that an earlier inquiry was made with turn out to be incomplete, its answers that hold all
 * the same are taken over.
 */
export function inquire(options: CargoOptions, given?: { inquiry: Inquiry; options: CargoOptions }): Inquiry {
  const isTheSame = given !== undefined && featureFlags(given.options).join() === featureFlags(options).join();
  if (isTheSame) return given.inquiry;
  const choice = [SHAPE, options.directory, ...featureFlags(options)].join('\n');
  const path = cachePath('inquiries', `${createHash('sha1').update(choice).digest('hex').slice(0, 16)}.json`);
  const known = recall(path) as Answers | undefined;
  if (known !== undefined) {
    const { metadata, configuration, rust } = known;
    return {
      metadata: Promise.resolve(metadata),
      configuration: Promise.resolve(configuration),
      rust: Promise.resolve(rust),
    };
  }
  const inquiry = {
    rust: given?.inquiry.rust ?? findRust(options.directory),
    metadata: askMetadata(options),
    configuration: given?.inquiry.configuration ?? askConfiguration(options),
  };
  void Promise.all([inquiry.metadata, inquiry.configuration, inquiry.rust]).then(
    ([metadata, configuration, rust]) => {
      if (rust.own === undefined) return;
      const answers: Answers = { metadata: trimMetadata(metadata), configuration, rust };
      remember(path, dependencies(options, answers), answers);
    },
    () => undefined,
  );
  return inquiry;
}

/** Every file and folder that can change one of the answers. */
function* dependencies({ directory }: CargoOptions, { metadata, rust }: Answers): Iterable<string> {
  yield* cargoFiles(directory, metadata.workspace_root);
  for (const { source, manifest_path: manifest } of metadata.packages) {
    if (source !== null) continue;
    yield manifest;
    // Another member may come to stand beside it, by a pattern in the workspace's manifest.
    yield dirname(dirname(manifest));
    // Targets go by the names of files.
    for (const folder of ['src/bin', 'examples']) yield join(dirname(manifest), folder);
    for (const name of ['src/lib.rs', 'src/main.rs'])
      if (!existsSync(join(dirname(manifest), name))) yield join(dirname(manifest), name);
  }
  yield join(process.env['RUSTUP_HOME'] ?? join(homedir(), '.rustup'), 'settings.toml');
  for (const folder of (process.env['PATH'] ?? '').split(delimiter)) yield join(folder, 'rustc');
  yield cachePath('sysroot');
  for (const each of [rust.own, rust.wasm?.rust])
    if (each !== undefined) {
      yield each.rustc;
      yield join(each.sysroot, 'lib/rustlib');
    }
  if (rust.wasm?.sysroot !== undefined) yield rust.wasm.sysroot;
}
