// In: a command line. Out: its lines as they come, its exit status at the end. Every child leads a process group of its
// own, so that stopping one (cargo) stops what it started (rustc, the linker, build scripts) too.

import { type ChildProcess, spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';

export interface RunOptions {
  readonly cwd?: string;
  /** The whole environment; ours when absent. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly signal?: AbortSignal;
  readonly onStdout?: (line: string) => void;
  readonly onStderr?: (line: string) => void;
  /** When given, the child has a pipe as descriptor 3, whose lines these are. */
  readonly onNotify?: (line: string) => void;
  /** Someone waits for it: give it to the shell that `standBy` started, if there is one. */
  readonly isUrgent?: boolean;
}

export interface Finished {
  /** Exit status; 128 + signal number is not used: a child that a signal ended has -1. */
  readonly status: number;
  /** Whole output, for streams no line handler was given for. */
  readonly stdout: string;
  readonly stderr: string;
}

const running = new Set<number>();
process.on('exit', () => {
  for (const group of running) killGroup(group);
});

/**
 * Runs a program to its end. Rejects with the signal's reason when aborted, but only after the whole group is gone:
 * then nothing writes any more. Rejects with Node's error (`ENOENT`) when the program cannot be started.
 */
export function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  return new Promise((resolve, reject) => {
    const { signal } = options;
    if (signal?.aborted) {
      reject(signal.reason as Error);
      return;
    }
    const child = (options.isUrgent && command(program, args, options)) || start(program, args, options);
    const { pid } = child;
    const abort = (): void => {
      if (pid !== undefined) killGroup(pid);
    };
    signal?.addEventListener('abort', abort, { once: true });

    const [, stdout, stderr, notify] = child.stdio as unknown as [null, Readable, Readable, Readable | undefined];
    const output = collect(stdout, options.onStdout);
    const errors = collect(stderr, options.onStderr);
    // Unread, it would never close.
    if (notify !== undefined) collect(notify, options.onNotify);

    const finish = (): void => {
      if (pid !== undefined) running.delete(pid);
      signal?.removeEventListener('abort', abort);
    };
    child.once('error', (error) => {
      finish();
      reject(error);
    });
    child.once('close', (code) => {
      finish();
      if (signal?.aborted) reject(signal.reason as Error);
      else resolve({ status: code ?? -1, stdout: output(), stderr: errors() });
    });
  });
}

function start(program: string, args: readonly string[], { cwd, env, onNotify }: RunOptions): ChildProcess {
  const child = spawn(program, args, {
    cwd,
    env,
    detached: true,
    stdio: onNotify ? ['ignore', 'pipe', 'pipe', 'pipe'] : ['ignore', 'pipe', 'pipe'],
  });
  if (child.pid !== undefined) running.add(child.pid);
  return child;
}

// To start a process the kernel copies the page tables of the one that asks: 20 ms where we have grown to 300 MB, a tenth
// of an edit. So a shell is started in an idle moment and waits for the command that it is to become.

let shell: ChildProcess | undefined;

/** Starts the shell that the next urgent command goes to, unless one waits already. It does not keep us from ending. */
export function standBy(): void {
  if (shell !== undefined) return;
  const child = spawn('/bin/sh', ['-s'], { detached: true, stdio: ['pipe', 'pipe', 'pipe', 'pipe'] });
  const { pid } = child;
  if (pid !== undefined) running.add(pid);
  // When nobody needs it any more: it did not start, or was killed.
  const forget = (): void => {
    if (pid !== undefined) running.delete(pid);
    if (shell === child) shell = undefined;
  };
  child.once('error', forget);
  child.once('exit', forget);
  // It is gone; `exit` or `close` tells.
  child.stdin.on('error', () => undefined);
  child.unref();
  for (const pipe of pipesOf(child)) pipe.unref();
  shell = child;
}

/** The waiting shell becomes the program; undefined when none waits. */
function command(program: string, args: readonly string[], options: RunOptions): ChildProcess | undefined {
  const child = shell;
  // `env` would take such a path for a variable.
  if (child === undefined || program.includes('=')) return undefined;
  shell = undefined;
  child.ref();
  for (const pipe of pipesOf(child)) pipe.ref();
  const { cwd = '.', env = process.env } = options;
  // By `env`, as names of variables need not be names to a shell.
  const variables = Object.entries(env).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`]));
  const words = ['env', '-i', ...variables, program, ...args].map(quote);
  child.stdin?.end(`cd ${quote(cwd)} && exec ${words.join(' ')} </dev/null\n`);
  return child;
}

/** What they are on Linux is not in their type. */
function pipesOf({ stdio }: ChildProcess): readonly Socket[] {
  return stdio as unknown as readonly Socket[];
}

function quote(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

/** The output of a program that answers a question, or undefined when it cannot be run or fails. */
export async function ask(program: string, args: readonly string[], options?: RunOptions): Promise<string | undefined> {
  try {
    const { status, stdout } = await run(program, args, options);
    return status === 0 ? stdout : undefined;
  } catch (error) {
    if (['ENOENT', 'EACCES', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}

/** Hands over whole lines as they come; without a handler, keeps the text and returns it when asked. */
function collect(stream: Readable, onLine: ((line: string) => void) | undefined): () => string {
  let text = '';
  stream.setEncoding('utf8');
  stream.on('data', (chunk: string) => {
    text += chunk;
    if (!onLine) return;
    const lines = text.split('\n');
    text = lines.pop() ?? '';
    for (const line of lines) onLine(line);
  });
  stream.once('end', () => {
    if (onLine && text !== '') onLine(text);
  });
  return () => text;
}

function killGroup(group: number): void {
  try {
    process.kill(-group, 'SIGKILL');
  } catch (error) {
    // It ended by itself in the meantime.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
