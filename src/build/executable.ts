// In: a link of a native program that rustc asked for, and its objects as rewritten. Out: the program, linked by the
// linker driver that rustc would have used.

import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writevSync,
} from 'node:fs';
import { join } from 'node:path';
import type { Executable, Rewrite } from '../model.ts';
import { archiveParts, readArchive, writeArchive } from '../object/archive.ts';
import { runLinker } from './linker.ts';
import type { Linker } from './rust.ts';
import type { Linked } from './store.ts';

export interface ExecutableRun {
  /** Its command line is like that of cc. */
  readonly linker: Linker;
  /** Where rustc ran, and with what: paths on the command line may be relative. */
  readonly directory: string;
  readonly environment: Readonly<Record<string, string>>;
  /** Of the file; what `ps` shows. */
  readonly name: string;
  /** Path of the agent's object. */
  readonly agent: string;
}

/** The file stays where it is until `removePrograms`. */
export async function linkProgram(
  linked: Linked,
  rewrite: Rewrite,
  options: ExecutableRun,
  signal: AbortSignal,
): Promise<Executable> {
  const folder = mkdtempSync(join(linked.folder.path, PROGRAM));
  const path = join(folder, options.name);
  // Hundreds of objects are in one archive, all of which is linked: that takes a fifth less than files of their own.
  const ours = Array.from(rewrite.added, ([name, bytes]) => ({ name, parts: [bytes] as readonly Uint8Array[] }));
  const line: string[] = [];
  for (const argument of linkArguments(linked.args())) {
    const isArchive = !argument.endsWith('.o');
    const objects = linked.brings.get(argument);
    if (objects === undefined) line.push(argument);
    for (const { name, bytes } of objects ?? []) {
      const parts = rewrite.objects.get(name) ?? (isArchive ? [bytes()] : undefined);
      if (parts === undefined) line.push(argument);
      else ours.push({ name: `${name}.o`, parts });
    }
    if (objects !== undefined && isArchive) line.push(...withoutRust(argument));
  }
  const archive = join(folder, 'objects.a');
  writeParts(
    archive,
    archiveParts({ members: ours, index: [] }, ({ parts }) => parts),
  );
  // In front: libraries are searched for what the objects before them lack.
  line.unshift('-Wl,--whole-archive', archive, '-Wl,--no-whole-archive', options.agent);

  // As rustc does: what it says is read here, in English.
  const env = { ...options.environment, LC_ALL: 'C' };
  const file = join(folder, 'link.args');
  await runLinker(options.linker, [...line, '-o', path], file, { cwd: options.directory, env, signal });
  rmSync(archive);
  return { path, bytes: () => readFileSync(path) };
}

/** In one call, and without a copy of all first: these are tens of megabytes. */
function writeParts(path: string, parts: readonly Uint8Array[]): void {
  const file = openSync(path, 'w');
  try {
    const sizeBytes = parts.reduce((total, part) => total + part.length, 0);
    const written = writevSync(file, parts);
    if (written < sizeBytes) throw new Error(`${path}: only ${written} of ${sizeBytes} bytes could be written`);
  } finally {
    closeSync(file);
  }
}

/** How folders of programs begin, beside the objects they were linked from. */
const PROGRAM = 'program-';

/** All that were made of this link: tens of megabytes each. */
export function removePrograms({ folder: { path } }: Linked): void {
  for (const name of readdirSync(path))
    if (name.startsWith(PROGRAM)) rmSync(join(path, name), { recursive: true, force: true });
}

/** Objects of other languages that an rlib brings, as an archive of their own: they are linked only where needed. */
function withoutRust(rlib: string): string[] {
  const archive = readArchive(readFileSync(rlib), rlib);
  const members = archive.members.filter(({ name }) => name.endsWith('.o') && !name.endsWith('.rcgu.o'));
  if (members.length === 0) return [];
  const path = rlib.replace(/\.rlib$/, '.a');
  const index = archive.index?.filter(({ member }) => members.includes(member)) ?? [];
  writeFileSync(path, writeArchive({ members, index }));
  return [path];
}

/** What removes or merges functions, or forgets their names: patches must find them all. */
const UNWANTED = '--gc-sections --icf=all --icf=safe --strip-all -s --strip-debug -S --discard-all -x'.split(' ');

/** Someone wants a smaller file. Without, most of a linker's time goes into finding equal strings in debug information. */
const optimises = (argument: string): boolean => /^-Wl,(?:.*,)?-O/.test(argument);

/** rustc's command line without the output, and with everything kept: then a patch seldom lacks what generics need. */
function linkArguments(args: readonly string[]): string[] {
  const kept = args
    .filter((argument, index) => argument !== '-o' && args[index - 1] !== '-o' && argument !== '-s')
    .flatMap((argument) => {
      if (!argument.startsWith('-Wl,')) return [argument];
      const parts = argument.split(',').filter((part) => !UNWANTED.includes(part));
      return parts.length > 1 ? [parts.join(',')] : [];
    });
  return [...kept, '-Wl,--no-gc-sections', ...(kept.some(optimises) ? [] : ['-Wl,-O0'])];
}
