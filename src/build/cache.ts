// In: the name of something that takes minutes to make. Out: a folder that has it, made once for all projects.

import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

/** Where hotslot keeps what it makes for itself, by the XDG base directory specification. */
export function cachePath(...parts: readonly string[]): string {
  return join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'hotslot', ...parts);
}

/**
 * Makes `path` by letting `make` fill a folder beside it, which takes its place only when complete. Two processes do not
 * make the same thing at once: the second waits, and finds it there.
 */
export async function makeOnce(
  path: string,
  isThere: () => boolean,
  make: (folder: string) => Promise<void>,
): Promise<void> {
  mkdirSync(dirname(path), { recursive: true });
  const unlock = await lock(`${path}.lock`);
  try {
    if (isThere()) return;
    const folder = `${path}.new`;
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder);
    await make(folder);
    rmSync(path, { recursive: true, force: true });
    renameSync(folder, path);
  } finally {
    unlock();
  }
}

/** A file with the owner's process id; one whose owner is dead counts for nothing. */
async function lock(path: string): Promise<() => void> {
  for (;;) {
    try {
      writeFileSync(path, String(process.pid), { flag: 'wx' });
      return () => rmSync(path, { force: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    if (isAlive(ownerOf(path))) await setTimeout(200);
    else rmSync(path, { force: true });
  }
}

function ownerOf(path: string): number {
  try {
    return Number(readFileSync(path, 'utf8'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0;
    throw error;
  }
}

export function isAlive(pid: number): boolean {
  if (pid <= 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
