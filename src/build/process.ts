// In: a command line. Out: its lines as they come, its exit status at the end. Every child leads a process group of its
// own, so that stopping one (cargo) stops what it started (rustc, the linker, build scripts) too.

import { spawn } from 'node:child_process';
import type { Readable } from 'node:stream';

export interface RunOptions {
  readonly cwd?: string;
  /** The whole environment; ours when absent. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly signal?: AbortSignal;
  readonly onStdout?: (line: string) => void;
  readonly onStderr?: (line: string) => void;
  /** When given, the child has a pipe as descriptor 3, and this is called at its first byte. */
  readonly onNotify?: () => void;
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
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: options.env,
      detached: true,
      stdio: options.onNotify ? ['ignore', 'pipe', 'pipe', 'pipe'] : ['ignore', 'pipe', 'pipe'],
    });
    const { pid } = child;
    if (pid !== undefined) running.add(pid);
    const abort = (): void => {
      if (pid !== undefined) killGroup(pid);
    };
    signal?.addEventListener('abort', abort, { once: true });

    const [, stdout, stderr, notify] = child.stdio as unknown as [null, Readable, Readable, Readable | undefined];
    const output = collect(stdout, options.onStdout);
    const errors = collect(stderr, options.onStderr);
    if (options.onNotify) notify?.once('data', options.onNotify);

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
