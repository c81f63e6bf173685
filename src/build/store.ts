// In: what the linker script kept of one run of rustc. Out: the objects and archives of a `Build`, which stay readable
// as long as the folder stands, whatever rustc writes afterwards.

import { createHash } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  existsSync,
  linkSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import type { ArchiveSource, ObjectSource } from '../model.ts';

/** Holds the objects, the editable crates' rlibs and the command line of one link, as long as anything refers to it. */
interface Folder {
  readonly path: string;
}

const folders = new FinalizationRegistry<string>((path) => rmSync(path, { recursive: true, force: true }));

/** One link that rustc asked for. */
export interface Linked {
  readonly folder: Folder;
  /** The linker's arguments, with paths of kept files pointing into `folder`. */
  readonly args: readonly string[];
  readonly objects: readonly ObjectSource[];
  readonly archives: readonly ArchiveSource[];
}

/**
 * Reads what was kept in the folder `path`, and removes it once no object and nothing else of the result can be reached
 * any more. `editable` are the rlibs of the user's own crates: their members are objects of the
 * program, every other archive is only searched by the linker.
 */
export function readLinked(path: string, editable: ReadonlySet<string>): Linked {
  const folder: Folder = { path };
  folders.register(folder, path);
  const line = readFileSync(join(path, 'line'), 'utf8').split('\0').slice(0, -1);
  if (line.some((argument) => argument.startsWith('@')))
    throw new Error(`rustc passed the linker's arguments in a file (${line.join(' ')}), which is not supported`);
  const objects: ObjectSource[] = [];
  const archives: ArchiveSource[] = [];
  const args = line.map((argument) => {
    // Most of the line is names to export, thousands of them: they must cost nothing.
    if (!/\.(o|rlib|a)$/.test(argument)) return argument;
    const file = basename(argument);
    const kept = join(path, file);
    if (argument.endsWith('.o')) {
      objects.push(objectOf(folder, file));
      return kept;
    }
    if (editable.has(file)) {
      if (!existsSync(kept)) keep(argument, kept);
      objects.push(...membersOf(folder, file));
      return kept;
    }
    archives.push({ path: argument, bytes: () => readFileSync(argument) });
    return argument;
  });
  return { folder, args, objects, archives };
}

function objectOf(folder: Folder, file: string): ObjectSource {
  const path = join(folder.path, file);
  const { ino, size, mtimeMs, nlink } = statSync(path);
  // A codegen unit that was reused is the same file as before, under one more name. A file system without links
  // makes copies, whose numbers say nothing.
  const stamp = nlink > 1 ? `${ino}-${size}-${mtimeMs}` : hash(readFileSync(path));
  return { name: stem(file), stamp, bytes: () => readFileSync(join(folder.path, file)) };
}

/** `CRATE.UNIT.INVOCATION.rcgu.o` without what differs from one run of rustc to the next. */
function stem(file: string): string {
  return file.replace(/^(.+\..+)\.[^.]+\.rcgu\.o$/, '$1').replace(/(\.rcgu)?\.o$/, '');
}

// The archive format that LLVM calls gnu: "!<arch>\n", then members, each a header of 60 bytes (name 16, date 12, owner 6,
// group 6, mode 8, size 10, "`\n") and its data, padded to an even length. "/" is the symbol index, "//" the table of long
// names, "/N" a name at N in that table.
function membersOf(folder: Folder, file: string): ObjectSource[] {
  const path = join(folder.path, file);
  const archive = readFileSync(path);
  const members: ObjectSource[] = [];
  let longNames = '';
  for (let at = 8; at + 60 <= archive.length;) {
    const field = archive.toString('latin1', at, at + 16).trimEnd();
    const size = Number(archive.toString('latin1', at + 48, at + 58));
    if (!Number.isInteger(size)) throw new Error(`${path}: expected the size of a member at offset ${at + 48}`);
    const start = at + 60;
    if (field === '//') longNames = archive.toString('latin1', start, start + size);
    const name = /^\/\d+$/.test(field) ? longNames.slice(Number(field.slice(1))).split('/\n')[0] : field.slice(0, -1);
    if (name?.endsWith('.o'))
      members.push({
        name: stem(name),
        stamp: hash(archive.subarray(start, start + size)),
        bytes: () => readRange(join(folder.path, file), start, size),
      });
    at = start + size + (size % 2);
  }
  return members;
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
