// In: an answer that took a while to find, and the files it depends on. Out: the same answer at a later start, as long as
// none of the files and nothing in the environment that cargo and rustc look at has changed.

import { mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

interface Memory {
  readonly environment: string;
  readonly files: readonly (readonly [path: string, stamp: string])[];
  readonly answer: unknown;
}

/** `files` need not exist: that they come into being is a change like any other. Folders count as the list they are. */
export function remember(path: string, files: Iterable<string>, answer: unknown): void {
  const memory: Memory = {
    environment: environment(),
    files: Array.from(new Set(files), (file) => [file, stamp(file)] as const),
    answer,
  };
  mkdirSync(dirname(path), { recursive: true });
  // Whole or not at all, whoever else is writing.
  const draft = `${path}.${process.pid}`;
  writeFileSync(draft, JSON.stringify(memory));
  renameSync(draft, path);
}

/** Undefined when nothing is remembered, or when it may not be true any more. */
export function recall(path: string): unknown {
  const memory = read(path);
  if (memory === undefined || memory.environment !== environment()) return undefined;
  return memory.files.every(([file, before]) => stamp(file) === before) ? memory.answer : undefined;
}

function read(path: string): Memory | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Memory;
  } catch {
    // Not there, or of another version of hotslot: it will be written anew.
    return undefined;
  }
}

function stamp(file: string): string {
  const found = statSync(file, { throwIfNoEntry: false });
  return found === undefined ? '' : `${found.ino} ${found.size} ${found.mtimeMs}`;
}

function environment(): string {
  const names = Object.keys(process.env).filter((name) => /^(CARGO|RUST)|^(PATH|HOME|XDG_CACHE_HOME)$/.test(name));
  return names
    .sort()
    .map((name) => `${name}=${process.env[name]}`)
    .join('\n');
}
