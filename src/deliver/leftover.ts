// A note about the running program ↔ a file; and the end of a program whose hotslot was killed, before the next one starts.
// Such a program goes on by design. But it has the port that its successor needs, and no terminal that would end it.

import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** A process, told apart from any other that has its number later or had it before. */
interface Identity {
  readonly pid: number;
  /** In clock ticks since the machine started, and which start that was. */
  readonly started: string;
}

interface Note {
  readonly program: Identity;
  /** The hotslot that started it. */
  readonly owner: Identity;
  /** Holds the socket, for that run alone. */
  readonly folder: string;
}

/** Milliseconds between looks at a process that is not our child: nothing tells when it ends. */
const LOOK_MS = 20;

/** Notes that we run the program; not if another hotslot, which still runs, has noted its own. */
export async function writeNote(file: string, pid: number, folder: string): Promise<void> {
  const earlier = await readNote(file);
  if (earlier !== undefined && earlier.owner.pid !== process.pid && (await isAlive(earlier.owner))) return;
  const [program, owner] = await Promise.all([identify(pid), identify(process.pid)]);
  if (program === undefined || owner === undefined) return;
  const note: Note = { program, owner, folder };
  await mkdir(dirname(file), { recursive: true });
  const draft = `${file}.${process.pid}`;
  await writeFile(draft, JSON.stringify(note));
  await rename(draft, file);
}

export async function removeNote(file: string): Promise<void> {
  if ((await readNote(file))?.owner.pid === process.pid) await rm(file, { force: true });
}

/**
 * Ends the noted program if the hotslot that started it is gone: SIGTERM, and SIGKILL after a time of grace. The number of
 * the process that was ended, undefined when there was nothing to do.
 */
export async function endLeftover(file: string, graceMs: number): Promise<number | undefined> {
  const note = await readNote(file);
  if (note === undefined || (await isAlive(note.owner))) return undefined;
  const found = await isAlive(note.program);
  if (found) {
    signal(note.program.pid, 'SIGTERM');
    const end = performance.now() + graceMs;
    let killed = false;
    while (await isAlive(note.program)) {
      if (!killed && performance.now() > end) {
        signal(note.program.pid, 'SIGKILL');
        killed = true;
      }
      await delay(LOOK_MS);
    }
  }
  if (isPrivate(note.folder)) await rm(note.folder, { recursive: true, force: true });
  await rm(file, { force: true });
  return found ? note.program.pid : undefined;
}

/** A name of ours that cannot be taken by accident. A note may lie in a project that someone else made. */
const PREFIX = 'hotslot-';

/** A new folder that only we can look into, short enough for a socket's path (unix(7): 108 bytes). */
export async function makeFolder(): Promise<string> {
  const root = Buffer.byteLength(tmpdir()) > 60 ? '/tmp' : tmpdir();
  return mkdtemp(join(root, PREFIX));
}

function isPrivate(folder: string): boolean {
  return [tmpdir(), '/tmp'].includes(dirname(folder)) && basename(folder).startsWith(PREFIX);
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    // It ended by itself in the meantime.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Undefined for a file that is not there or not a note: someone else's, or of another hotslot. */
async function readNote(file: string): Promise<Note | undefined> {
  let note: Partial<Note> | null;
  try {
    note = JSON.parse(await readFile(file, 'utf8')) as Partial<Note> | null;
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  const { program, owner, folder } = note ?? {};
  const isWhole = [program, owner].every(
    (each) => Number.isInteger(each?.pid) && (each?.pid ?? 0) > 1 && typeof each?.started === 'string',
  );
  return isWhole && program && owner && typeof folder === 'string' ? { program, owner, folder } : undefined;
}

async function isAlive({ pid, started }: Identity): Promise<boolean> {
  return (await identify(pid))?.started === started;
}

/** Undefined when no such process runs; one that has ended and waits for its parent does not run. */
async function identify(pid: number): Promise<Identity | undefined> {
  try {
    const [stat, boot] = await Promise.all([
      readFile(`/proc/${pid}/stat`, 'utf8'),
      readFile('/proc/sys/kernel/random/boot_id', 'utf8'),
    ]);
    // proc_pid_stat(5): the second field is a name, which may hold anything; the third the state, the 22nd the start.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : { pid, started: `${fields[19]}/${boot.trim()}` };
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}
