// In: folders and files. Out: edits: paths that changed.
//
// Editors write in ways that look like several changes: truncate and write, or write a second file and rename it. A path
// has settled when two looks a few milliseconds apart see the same file. Most have at the first look, so what is to be
// done about an edit begins then, and begins anew should the second look see something else: rustc takes longer than
// that to come to reading. Only a file that is empty or gone is waited for, since that is how the middle of a change looks.

import { type BigIntStats, existsSync, type FSWatcher, statSync, watch as watchFolder } from 'node:fs';
import { basename, dirname, join, sep } from 'node:path';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { watch as watchPaths } from 'chokidar';
import type { Edit } from '../model.ts';

/** What to watch: folders with all in them, and files, also ones that do not exist yet. */
export interface Watched {
  readonly folders: readonly string[];
  readonly files: readonly string[];
}

export interface Watcher {
  /**
   * Watches these as well; what is watched already costs nothing. Of the files that are named for the first time, those
   * that changed after `since`, in milliseconds since 1970, are an edit: they had been read, and maybe nobody looked.
   */
  add(more: Watched, since: number): void;
  close(): Promise<void>;
}

const GONE = 'gone';
const EMPTY = ' empty';

/** Not less: a file's times move in steps of up to 4 ms, and two writes within one step may look the same. */
const LOOK_MS = 4;
const EMPTY_MS = 60;
/** The watching library drops a second change within 50 ms of the first; a late look finds it. */
const LATE_LOOK_MS = 80;

interface Pending {
  readonly since: number;
  seen: string;
  seenAt: number;
}

/**
 * Resolves when all is being watched. `onEdit` is called with paths that changed together. Folders named `.git`,
 * `node_modules` and cargo's target folders, `ignored` among them, are left out.
 */
export async function watch(
  { folders, files }: Watched,
  ignored: readonly string[],
  onEdit: (edit: Edit) => void,
): Promise<Watcher> {
  const isIgnored = (path: string): boolean => {
    const name = basename(path);
    if (name === '.git' || name === 'node_modules' || ignored.includes(path)) return true;
    // A path dependency may have a target folder of its own.
    return name === 'target' && existsSync(join(path, 'CACHEDIR.TAG'));
  };

  const pending = new Map<string, Pending>();
  const delivered = new Map<string, string>();
  const late = new Set<NodeJS.Timeout>();
  let isLooking = false;
  let closed = false;

  const notice = (path: string): void => {
    const now = performance.now();
    if (!pending.has(path)) pending.set(path, { since: now, seen: '', seenAt: now });
    if (isLooking) return;
    isLooking = true;
    void settle().finally(() => (isLooking = false));
  };
  const settle = async (): Promise<void> => {
    // Others that were written together have been noticed then.
    await setImmediate();
    while (pending.size > 0) {
      for (const [path, state] of pending) look(path, state);
      deliver();
      for (const [path, state] of pending) if (isSettled(state)) pending.delete(path);
      if (pending.size > 0) await setTimeout(LOOK_MS);
    }
  };
  const deliver = (): void => {
    const changed = [...pending].filter(
      ([path, state]) => delivered.get(path) !== state.seen && (isWhole(state) || isSettled(state)),
    );
    if (changed.length === 0 || closed) return;
    for (const [path, { seen }] of changed) delivered.set(path, seen);
    const edited = changed.map(([path]) => path);
    lookLater(edited);
    onEdit({ paths: edited, at: Math.min(...changed.map(([, { since }]) => since)) });
  };
  const lookLater = (edited: readonly string[]): void => {
    const timer = globalThis.setTimeout(() => {
      late.delete(timer);
      for (const path of edited) if (identify(path) !== delivered.get(path)) notice(path);
    }, LATE_LOOK_MS);
    late.add(timer);
  };

  const trees = new Set(folders);
  const watcher = watchPaths([...trees], { ignoreInitial: true, atomic: false, ignored: isIgnored });
  watcher.on('all', (event, path) => {
    if (event === 'add' || event === 'change' || event === 'unlink') notice(path);
  });
  const isInTree = (path: string): boolean => {
    for (let folder = path; !isIgnored(folder); folder = dirname(folder)) {
      if (trees.has(folder)) return true;
      if (folder === dirname(folder)) return false;
    }
    return false;
  };

  // Single files are noticed by the folder they are in, or will be in: this outlives renaming and deleting.
  const single = new Set<string>();
  const nearby = new Map<string, FSWatcher>();
  const watchFile = (path: string): void => {
    if (isInTree(path)) return;
    single.add(path);
    let folder = dirname(path);
    while (!existsSync(folder)) folder = dirname(folder);
    if (nearby.has(folder)) return;
    const near = watchFolder(folder, (event, name) => {
      const changed = join(folder, name ?? '');
      // The folder itself has gone; another may be in its place.
      if (event === 'rename' && name === basename(folder) && !existsSync(changed)) {
        near.close();
        nearby.delete(folder);
        for (const each of single) {
          if (!each.startsWith(folder + sep)) continue;
          watchFile(each);
          notice(each);
        }
        return;
      }
      for (const each of single) {
        if (each === changed) notice(each);
        // A folder on the way to it has appeared.
        if (!each.startsWith(changed + sep)) continue;
        watchFile(each);
        if (existsSync(each)) notice(each);
      }
    });
    near.once('error', () => nearby.delete(folder));
    nearby.set(folder, near);
  };
  files.forEach(watchFile);
  const named = new Set(files);

  await new Promise<void>((resolve, reject) => {
    watcher.once('ready', resolve);
    watcher.once('error', reject);
  });
  return {
    add: (more, since) => {
      // Before the folders: it takes a while until what is in those is watched.
      for (const path of more.files) {
        watchFile(path);
        if (!named.has(path) && changedAfter(path, since)) notice(path);
        named.add(path);
      }
      const unknown = more.folders.filter((folder) => !trees.has(folder));
      for (const folder of unknown) trees.add(folder);
      if (unknown.length > 0) watcher.add(unknown);
    },
    close: async () => {
      closed = true;
      pending.clear();
      for (const timer of late) clearTimeout(timer);
      for (const near of nearby.values()) near.close();
      await watcher.close();
    },
  };
}

function look(path: string, state: Pending): void {
  const seen = identify(path);
  if (seen === state.seen) return;
  state.seen = seen;
  state.seenAt = performance.now();
}

function isSettled(state: Pending): boolean {
  return performance.now() - state.seenAt >= (isWhole(state) ? LOOK_MS - 1 : EMPTY_MS);
}

/** Not yet looked at, gone, or empty: each may be the middle of a change. */
function isWhole({ seen }: Pending): boolean {
  return seen !== '' && seen !== GONE && !seen.endsWith(EMPTY);
}

/** Or came into being. A file that is not there did not. */
function changedAfter(path: string, since: number): boolean {
  const found = statSync(path, { throwIfNoEntry: false });
  return found !== undefined && Math.max(found.mtimeMs, found.ctimeMs) >= since;
}

/** Differs whenever the content may. Not asked of another thread: that takes longer than the answer. */
function identify(path: string): string {
  let found: BigIntStats;
  try {
    found = statSync(path, { bigint: true });
  } catch {
    return GONE;
  }
  return `${found.ino}-${found.mtimeNs}-${found.size}${found.size === 0n ? EMPTY : ''}`;
}
