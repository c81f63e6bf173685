// In: folders and files. Out: edits: paths that changed and have settled.
//
// Editors write in ways that look like several changes: truncate and write, or write a second file and rename it. A path
// has settled when two looks a few milliseconds apart see the same file; one that is empty or gone gets longer, since
// that is how the middle of such a change looks.

import { existsSync, type BigIntStats } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, join, sep } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { watch as watchPaths } from 'chokidar';
import type { Edit } from '../model.ts';

export interface Watcher {
  /** Watches these as well; what is watched already costs nothing. */
  add(paths: readonly string[]): void;
  close(): Promise<void>;
}

const GONE = 'gone';
const EMPTY = ' empty';

const LOOK_MS = 4;
const EMPTY_MS = 60;
/** The watching library drops a second change within 50 ms of the first; a late look finds it. */
const LATE_LOOK_MS = 80;

interface Pending {
  readonly since: number;
  seen: string;
  seenAt: number;
}

/** Resolves when every folder is being watched. `onEdit` is called with paths that changed together. */
export async function watch(
  paths: readonly string[],
  ignored: readonly string[],
  onEdit: (edit: Edit) => void,
): Promise<Watcher> {
  const watched = new Set(paths);
  const isIgnored = (path: string): boolean => {
    const name = basename(path);
    if (name === '.git' || name === 'node_modules') return true;
    if (ignored.some((folder) => path === folder || path.startsWith(folder + sep))) return true;
    // A path dependency may have a target folder of its own.
    return name === 'target' && existsSync(join(path, 'CACHEDIR.TAG'));
  };
  const watcher = watchPaths([...watched], { ignoreInitial: true, atomic: false, ignored: isIgnored });

  const pending = new Map<string, Pending>();
  const settled = new Map<string, string>();
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
    while (pending.size > 0) {
      await Promise.all([...pending].map(([path, state]) => look(path, state)));
      if ([...pending.values()].every(isSettled)) deliver();
      else await setTimeout(LOOK_MS);
    }
  };
  const deliver = (): void => {
    const changed = [...pending].filter(([path, { seen }]) => settled.get(path) !== seen);
    pending.clear();
    if (changed.length === 0 || closed) return;
    for (const [path, { seen }] of changed) settled.set(path, seen);
    const edited = changed.map(([path]) => path);
    lookLater(edited);
    onEdit({ paths: edited, at: Math.min(...changed.map(([, { since }]) => since)) });
  };
  const lookLater = (edited: readonly string[]): void => {
    const timer = globalThis.setTimeout(() => {
      late.delete(timer);
      for (const path of edited)
        void identify(path).then((seen) => {
          if (!closed && seen !== settled.get(path)) notice(path);
        });
    }, LATE_LOOK_MS);
    late.add(timer);
  };

  watcher.on('all', (event, path) => {
    if (event === 'add' || event === 'change' || event === 'unlink') notice(path);
  });
  await new Promise<void>((resolve, reject) => {
    watcher.once('ready', resolve);
    watcher.once('error', reject);
  });
  return {
    add: (more) => {
      const unknown = more.filter((path) => !watched.has(path));
      for (const path of unknown) watched.add(path);
      if (unknown.length > 0) watcher.add(unknown);
    },
    close: async () => {
      closed = true;
      pending.clear();
      for (const timer of late) clearTimeout(timer);
      await watcher.close();
    },
  };
}

async function look(path: string, state: Pending): Promise<void> {
  const seen = await identify(path);
  if (seen === state.seen) return;
  state.seen = seen;
  state.seenAt = performance.now();
}

function isSettled({ seen, seenAt }: Pending): boolean {
  const wait = seen === GONE || seen.endsWith(EMPTY) ? EMPTY_MS : LOOK_MS - 1;
  return performance.now() - seenAt >= wait;
}

/** Differs whenever the content may. */
async function identify(path: string): Promise<string> {
  let found: BigIntStats;
  try {
    found = await stat(path, { bigint: true });
  } catch {
    return GONE;
  }
  return `${found.ino}-${found.mtimeNs}-${found.size}${found.size === 0n ? EMPTY : ''}`;
}
