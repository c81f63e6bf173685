// In: what the linker script kept of one run of rustc. Out: the objects and archives of a `Build`, which stay readable
// as long as the folder stands, whatever rustc writes afterwards.

import { createHash } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
} from 'node:fs';
import { rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { ArchiveSource, ObjectSource } from '../model.ts';
import { readArchive } from '../object/archive.ts';
import { readElf, sectionsOf, SHT_SYMTAB } from '../object/elf.ts';
import { readSymbols } from '../object/elfsymbols.ts';
import { readIfThere } from './paths.ts';
import type { Platform } from './platform.ts';

/** How the files end that rustc makes of a program's own code. */
const OBJECT_SUFFIX: Readonly<Record<Platform, string>> = { wasm: '.o', native: '.rcgu.o' };

/** Holds the objects, the editable crates' rlibs and the command line of one link, as long as anything refers to it. */
interface Folder {
  readonly path: string;
}

// Hundreds of files each: not while someone waits for an edit. What could not be removed is a leftover for the next start.
const folders = new FinalizationRegistry<string>((path) => {
  rm(path, { recursive: true, force: true }).catch(() => undefined);
});

/** One link that rustc asked for. */
export interface Linked {
  readonly folder: Folder;
  /** The linker's arguments, with paths of kept files pointing into `folder`. */
  readonly args: () => readonly string[];
  readonly objects: readonly ObjectSource[];
  /** Which of them each kept file brings, by its path in `args`. */
  readonly brings: ReadonlyMap<string, readonly ObjectSource[]>;
  readonly archives: readonly ArchiveSource[];
}

/**
 * Reads what was kept in the folder `path`, and removes it once no object and nothing else of the result can be reached
 * any more. `editable` are the rlibs of the user's own crates: their members are objects of the
 * program, every other archive is only searched by the linker.
 *
 * Not objects of a native program are those of other languages, and two that rustc writes anew for every link: the list
 * of symbols that must stay, and the one that binds the allocator.
 */
export function readLinked(path: string, editable: ReadonlySet<string>, platform: Platform): Linked {
  const folder: Folder = { path };
  folders.register(folder, path);
  const line = readLine(join(path, 'line'));
  const suffix = OBJECT_SUFFIX[platform];
  const files = filesOn(line);
  const last = files.findLast((argument) => argument.endsWith(suffix));
  const allocator = platform === 'native' && last && bindsAllocator(path, basename(last)) ? last : undefined;
  const stamps = readStamps(
    join(path, 'stats'),
    files.filter((argument) => argument.endsWith('.o')),
  );
  const archives: ArchiveSource[] = [];
  const kept = new Set<string>();
  const brings = new Map<string, readonly ObjectSource[]>();
  for (const argument of files) {
    const file = basename(argument);
    const copy = join(path, file);
    if (argument.endsWith('.o')) {
      kept.add(argument);
      if (argument.endsWith(suffix) && argument !== allocator)
        brings.set(copy, [objectOf(folder, file, stamps.get(argument))]);
    } else if (editable.has(file)) {
      if (!existsSync(copy)) keep(argument, copy);
      kept.add(argument);
      brings.set(copy, membersOf(folder, file, suffix));
    } else {
      archives.push(archiveOf(argument));
    }
  }
  const args = (): string[] =>
    line
      .split('\0')
      .slice(0, -1)
      .map((argument) => (kept.has(argument) ? join(path, basename(argument)) : argument));
  return { folder, args, objects: [...brings.values()].flat(), brings, archives };
}

/** Keeps a link's files in a folder of their own. False when they were removed meanwhile. */
export function copyLink(from: string, to: string): boolean {
  mkdirSync(to);
  try {
    for (const entry of readdirSync(from, { withFileTypes: true }))
      if (entry.isFile()) keep(join(from, entry.name), join(to, entry.name));
      else if (!copyLink(join(from, entry.name), join(to, entry.name))) return false;
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

/** The arguments, each with a NUL behind it, without the shell and the script that they were given to. */
function readLine(path: string): string {
  const line = readFileSync(path, 'utf8');
  return line.slice(line.indexOf('\0', line.indexOf('\0') + 1) + 1);
}

/** Object files and archives of a command line. Most of it is names to export, thousands of them: they are passed over. */
function filesOn(line: string): string[] {
  return Array.from(line.matchAll(/\.(?:o|rlib|a)\0/g), ({ index, 0: ending }) =>
    line.slice(line.lastIndexOf('\0', index) + 1, index + ending.length - 1),
  );
}

/** By their names: another run of rustc gives the same name to the same. */
const bindings = new Map<string, boolean>();

/** Every program that allocates has one such object, behind all others; its symbols alone tell it from them. */
function bindsAllocator(folder: string, file: string): boolean {
  const name = stem(file);
  const known = bindings.get(name);
  if (known !== undefined) return known;
  const elf = readElf(readFileSync(join(folder, file)), file);
  const binds = sectionsOf(elf, SHT_SYMTAB)
    .flatMap((table) => readSymbols(elf, table))
    .some((symbol) => symbol.section !== 'undefined' && symbol.name.includes('__rust_no_alloc_shim_is_unstable'));
  bindings.set(name, binds);
  return binds;
}

/**
 * Of each object, its inode, size and time: a codegen unit that was reused is the same file as before, under one more
 * name. A file system without links makes copies, whose numbers say nothing.
 */
function readStamps(path: string, objects: readonly string[]): ReadonlyMap<string, string> {
  const lines = readIfThere(path)?.trimEnd().split('\n') ?? [];
  // Someone else's `stat` says less, or nothing.
  if (lines.length !== objects.length) return new Map();
  const stamps = new Map<string, string>();
  for (const [index, object] of objects.entries()) {
    const [links, stamp = ''] = lines[index]?.split(' ') ?? [];
    if (Number(links) > 1) stamps.set(object, stamp);
  }
  return stamps;
}

function objectOf(folder: Folder, file: string, stamp = stampOf(join(folder.path, file))): ObjectSource {
  return { name: stem(file), stamp, bytes: () => readFileSync(join(folder.path, file)) };
}

function stampOf(path: string): string {
  const { ino, size, mtimeMs, nlink } = statSync(path);
  return nlink > 1 ? `${ino}-${size}-${mtimeMs}` : hash(readFileSync(path));
}

function archiveOf(path: string): ArchiveSource {
  return {
    path,
    stamp: () => identityOf(path),
    bytes: (start, sizeBytes = 0) => (start === undefined ? readFileSync(path) : readRange(path, start, sizeBytes)),
  };
}

/** `CRATE.UNIT.INVOCATION.rcgu.o` without what differs from one run of rustc to the next. */
function stem(file: string): string {
  if (!file.endsWith(UNIT)) return file.replace(/\.o$/, '');
  const name = file.slice(0, -UNIT.length);
  const invocation = name.lastIndexOf('.');
  return name.indexOf('.') < invocation ? name.slice(0, invocation) : name;
}

const UNIT = '.rcgu.o';

interface Member {
  readonly name: string;
  readonly stamp: string;
  /** Of its bytes, in the archive. */
  readonly start: number;
  readonly sizeBytes: number;
}

/** Members of the rlibs last seen, by file name: most links leave most of them as they are. */
const seen = new Map<string, { readonly identity: string; readonly members: readonly Member[] }>();

function membersOf(folder: Folder, file: string, suffix: string): ObjectSource[] {
  const path = join(folder.path, file);
  const identity = identityOf(path);
  let known = seen.get(file);
  if (known?.identity !== identity) {
    known = { identity, members: readMembers(path, suffix) };
    seen.set(file, known);
  }
  return known.members.map(({ name, stamp, start, sizeBytes }) => ({
    name,
    stamp,
    bytes: () => readRange(join(folder.path, file), start, sizeBytes),
  }));
}

function identityOf(path: string): string {
  const { ino, size, mtimeMs } = statSync(path);
  return `${ino}-${size}-${mtimeMs}`;
}

function readMembers(path: string, suffix: string): Member[] {
  const archive = readFileSync(path);
  return readArchive(archive, path)
    .members.filter(({ name }) => name.endsWith(suffix))
    .map(({ name, bytes }) => ({
      name: stem(name),
      stamp: hash(bytes),
      start: bytes.byteOffset - archive.byteOffset,
      sizeBytes: bytes.length,
    }));
}

function readRange(path: string, start: number, size: number): Uint8Array {
  const file = openSync(path, 'r');
  try {
    const bytes = new Uint8Array(size);
    for (let done = 0; done < size;) {
      const count = readSync(file, bytes, done, size - done, start + done);
      if (count === 0) throw new Error(`${path}: expected ${size} bytes at offset ${start}, found ${done}`);
      done += count;
    }
    return bytes;
  } finally {
    closeSync(file);
  }
}

function keep(from: string, to: string): void {
  try {
    linkSync(from, to);
  } catch (error) {
    if (!['EXDEV', 'EPERM', 'ENOTSUP', 'EMLINK'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
    copyFileSync(from, to);
  }
}

function hash(bytes: Uint8Array): string {
  return createHash('sha1').update(bytes).digest('base64url');
}
