// In: an executable. Out: one run of it: its output, its agent's connection, and how it ended, told as a shell would.

import { type ChildProcess, spawn } from 'node:child_process';
import { readdir, readlink } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { constants } from 'node:os';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import type { Description, Hello } from './agent.ts';

/** How a program ended. */
export interface Exit {
  readonly kind: 'exit';
  /** What a shell has in `$?`: the program's own status, 128 + the number of a signal, 126 or 127 if it did not start. */
  readonly status: number;
  readonly signal?: NodeJS.Signals;
  /** Why it did not start. */
  readonly reason?: string;
  /** The version it ran. */
  readonly version: number;
}

interface RunOptions {
  readonly path: string;
  readonly args: readonly string[];
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly directory: string;
  /** It reads what `feed` gives it; if not, what is typed at our standard input. */
  readonly isFed: boolean;
  /** Gets the lines that it writes; without, it writes where we do. */
  readonly onLine?: ((line: string, stream: 'stdout' | 'stderr') => void) | undefined;
  /** The base it runs. */
  readonly base: { readonly id: string; readonly version: number };
}

export class Run {
  readonly base: { readonly id: string; readonly version: number };
  readonly ended: Promise<Exit>;
  /** Undefined while it runs. */
  exit: Exit | undefined;
  /** We ask it to end. */
  isEnding = false;
  /** It was started for good: whoever asked for it has heard so. */
  isStarted = false;
  /** Its agent's connection and what it said at the beginning of it. */
  socket: Socket | undefined;
  hello: Hello | undefined;
  /** Patches that it runs for good. The agent counts from 0, whatever the base's version is. */
  committed = 0;
  /** It may have a patch that is not to stay, and has not said that it took it back. */
  isUndoing = false;
  /** What it has yet to tell debuggers; ... */
  description: Description | undefined;
  /** ... which it cannot do. */
  isUndescribed = false;
  /** Why no patch can be sent any more. */
  lost: string | undefined;
  /** What the agent says first; undefined when that is not understood. */
  readonly joined: Promise<Hello | undefined>;
  readonly #join: (hello: Hello | undefined) => void;
  readonly #child: ChildProcess;

  constructor({ path, args, environment, directory, isFed, onLine, base }: RunOptions) {
    this.base = base;
    let join!: (hello: Hello | undefined) => void;
    this.joined = new Promise((resolve) => (join = resolve));
    this.#join = join;
    const output = onLine === undefined ? 'inherit' : 'pipe';
    const child = spawn(path, args, {
      cwd: directory,
      env: environment,
      stdio: [isFed ? 'pipe' : 'inherit', output, output],
    });
    this.#child = child;
    for (const stream of ['stdout', 'stderr'] as const) {
      const source = child[stream];
      if (source !== null && onLine !== undefined) {
        createInterface({ input: source, crlfDelay: Infinity }).on('line', (line) => onLine(line, stream));
      }
    }
    this.ended = new Promise((resolve) => {
      const end = (how: Omit<Exit, 'kind' | 'version'>): void => {
        this.exit ??= { kind: 'exit', ...how, version: this.version };
        resolve(this.exit);
      };
      child.once('exit', (status, signal) =>
        end(signal === null ? { status: status ?? 1 } : { status: 128 + constants.signals[signal], signal }),
      );
      // It did not start. Other errors, a signal not sent for one, come after that.
      child.once('error', (error: NodeJS.ErrnoException) => {
        if (child.pid === undefined) end({ status: error.code === 'ENOENT' ? 127 : 126, reason: error.message });
      });
    });
  }

  /** 0 when it did not start. */
  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** In the session's numbers. */
  get version(): number {
    return this.base.version + this.committed;
  }

  greet(socket: Socket, hello: Hello): void {
    this.socket = socket;
    this.hello = hello;
    this.#join(hello);
  }

  lose(reason: string): void {
    this.lost ??= reason;
    this.#join(undefined);
  }

  /** Tells it to end, unless it was told already, and after a time of grace ends it. */
  async end(graceMs: number, signalled = false): Promise<Exit> {
    this.isEnding = true;
    if (this.exit === undefined && !signalled) this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), graceMs);
    const exit = await this.ended;
    clearTimeout(timer);
    this.socket?.destroy();
    return exit;
  }

  /** Descriptors of its sockets, whatever kind they are. */
  async sockets(): Promise<readonly number[]> {
    const folder = `/proc/${this.pid}/fd`;
    try {
      const descriptors = await readdir(folder);
      const targets = await Promise.all(
        descriptors.map((descriptor) => readlink(`${folder}/${descriptor}`).catch(() => '')),
      );
      return descriptors.filter((_, index) => targets[index]?.startsWith('socket:')).map(Number);
    } catch (error) {
      // It is gone, and its sockets with it.
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw error;
    }
  }

  /** Copies `input` to the program's standard input until it ends. */
  feed(input: Readable): void {
    const { stdin } = this.#child;
    if (stdin === null || this.exit !== undefined) return;
    // The program closed it, or ended; the latter is told by `exit`.
    stdin.on('error', () => input.unpipe(stdin));
    input.pipe(stdin);
    this.#child.once('exit', () => input.unpipe(stdin));
  }
}
