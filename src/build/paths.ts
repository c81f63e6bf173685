// In: what is built, and by what. Out: the folders and files in which that is recorded, from start to start.

import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, sep } from 'node:path';
import { isAlive } from './cache.ts';
import { RECIPE, type Scripts, writeScripts } from './capture.ts';
import { type CargoOptions, featureFlags, type Package } from './package.ts';
import type { Toolchain } from './rust.ts';

export interface Paths {
  /** cargo's target folder for hotslot. */
  readonly target: string;
  readonly scripts: Scripts;
  readonly captures: string;
  readonly links: string;
  /** A file that names the folder of the newest link. */
  readonly last: string;
  /** A file that names the folder of the newest image, and what it was made by. */
  readonly image: string;
  /** What has been built: the time of each file that went into it. */
  readonly built: string;
  /** Folders of links that nobody needs any more. */
  readonly leftovers: readonly string[];
}

/** What was recorded persists between starts, for the same choice of package, features and profile. */
export function preparePaths(options: CargoOptions, found: Package, toolchain: Toolchain): Paths {
  // Of its own for each kind of program: then the programs of a workspace do not wait for each other's cargo.
  const target = join(
    options.targetDirectory ?? found.targetDirectory,
    found.platform === 'native' ? 'hotslot-native' : toolchain.threads ? 'hotslot-threads' : 'hotslot',
  );
  const own = join(target, 'hotslot');
  const compiler = [toolchain.version, toolchain.rustc, ...toolchain.prefix, RECIPE].join('\n');
  // Objects of two compilers, of two builds of std, or of two versions of hotslot do not mix, and cargo does not always
  // notice.
  if (readIfThere(join(own, 'compiler')) !== compiler) rmSync(target, { recursive: true, force: true });
  const choice = [found.id, ...found.selection, ...featureFlags(options), options.profile, options.release];
  const session = join(own, createHash('sha1').update(choice.join('\n')).digest('hex').slice(0, 16));
  const paths = {
    captures: join(session, 'captures'),
    links: join(session, 'links'),
    last: join(session, 'last'),
    built: join(session, 'built'),
    image: join(session, 'image'),
  };
  for (const folder of [paths.captures, paths.links]) mkdirSync(folder, { recursive: true });
  note(join(own, 'compiler'), compiler);
  // Two choices may write the same output file, which cargo then takes for fresh.
  if (readIfThere(join(own, 'choice')) !== session) rmSync(paths.last, { force: true });
  note(join(own, 'choice'), session);
  const kept = [readIfThere(paths.last), readIfThere(paths.image)];
  const leftovers = readdirSync(paths.links)
    .filter((name) => !isAlive(Number(name.split('-')[0])))
    .filter((name) => !kept.some((folder) => folder?.startsWith(join(paths.links, name) + sep)))
    .map((name) => join(paths.links, name));
  return { target, scripts: writeScripts(join(own, 'bin'), found.platform), leftovers, ...paths };
}

/** Milliseconds since 1970; of a file that is gone, for ever after. */
export function modified(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Infinity;
}

export function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

/** Writing costs more than finding that there is nothing to write. */
export function note(path: string, text: string): void {
  if (readIfThere(path) !== text) writeFileSync(path, text);
}

export function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}
