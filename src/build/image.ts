// In: a link that rustc asked for. Out: the linked and bound program: the real linker, then wasm-bindgen.

import { mkdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Image } from '../model.ts';
import { failure } from './diagnostic.ts';
import { runLinker } from './linker.ts';
import { run } from './process.ts';
import type { Linked } from './store.ts';
import type { Linker } from './rust.ts';

export interface ImageRun {
  readonly linker: Linker;
  /** Path of wasm-bindgen. */
  readonly bindgen: string;
  /** Of the output. */
  readonly name: string;
  /** Objects to link in besides what rustc named. */
  readonly extra: readonly string[];
}

/** `onMap` is given the linker's map as soon as it is there, while wasm-bindgen is still at work. */
export async function makeImage(
  linked: Linked,
  options: ImageRun,
  signal: AbortSignal,
  onMap?: (map: string) => void,
): Promise<Image> {
  const { name } = options;
  const directory = join(linked.folder.path, DIRECTORY);
  mkdirSync(directory, { recursive: true });
  const module = join(linked.folder.path, `${name}.wasm`);
  const map = mapPath(linked, name);
  const args = [...linkArguments(linked.args(), module), ...options.extra, `-Map=${map}`];
  await runLinker(options.linker, args, join(linked.folder.path, 'image.args'), { signal });
  const binding = bind(options, module, directory, ['--no-demangle', '--no-typescript'], signal);
  const [text] = await Promise.all([
    readFile(map, 'utf8').then((read) => {
      onMap?.(read);
      return read;
    }),
    binding,
  ]);
  return { ...(await readBound(directory, name)), map: text };
}

/** What `makeImage` made of a link. Rejects with ENOENT when it was not finished. */
export async function readImage(linked: Linked, name: string): Promise<Image> {
  const [bound, map] = await Promise.all([
    readBound(join(linked.folder.path, DIRECTORY), name),
    readFile(mapPath(linked, name), 'utf8'),
  ]);
  return { ...bound, map };
}

/** Whether the linker is told the same of both, their objects aside. */
export function linksAlike(one: Linked, other: Linked): boolean {
  const rest = ({ args, folder }: Linked): string =>
    args()
      .filter((argument, index, all) => !argument.endsWith('.o') && all[index - 1] !== '-o')
      .map((argument) => argument.replace(folder.path, ''))
      .join('\n');
  return rest(one) === rest(other);
}

async function readBound(directory: string, name: string): Promise<Omit<Image, 'map'>> {
  const [module, glue] = await Promise.all([
    readFile(join(directory, `${name}_bg.wasm`)),
    readFile(join(directory, `${name}.js`), 'utf8'),
  ]);
  return { module, glue, directory };
}

/** In the folder of the link: what wasm-bindgen writes. */
const DIRECTORY = 'image';

function mapPath(linked: Linked, name: string): string {
  return join(linked.folder.path, `${name}.map`);
}

/** Runs wasm-bindgen over a linked module. */
export async function bind(
  { bindgen, name }: Pick<ImageRun, 'bindgen' | 'name'>,
  module: string,
  directory: string,
  flags: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const args = ['--target', 'web', ...flags, '--out-dir', directory, '--out-name', name, module];
  const { status, stderr } = await run(bindgen, args, { signal });
  if (status !== 0) throw failure('wasm-bindgen failed', stderr);
}

/** rustc's command line, with names kept (functions are found by them) and debug sections left out (10 of 12 MB). */
function linkArguments(args: readonly string[], output: string): string[] {
  const kept = args.filter(
    (argument, index) =>
      !['--strip-all', '-s', '--strip-debug', '-S', '-o', '-flavor'].includes(argument) &&
      args[index - 1] !== '-o' &&
      args[index - 1] !== '-flavor',
  );
  return [...kept, '--strip-debug', '-o', output];
}
