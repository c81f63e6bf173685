// In: an executable with hotslot's agent in it, then patches. Out: it runs, and receipts. What server.ts is for pages this is
// for a native program: it keeps the one program running and knows at each moment which version that runs.
//
// A restart hands the listening sockets over, so that no connection attempt fails meanwhile. The old program's agent waits
// at a path (`handover` in agent.ts); the new program's agent connects there before `main`, gets the sockets by SCM_RIGHTS
// and says hello. From then on the old one accepts nothing more; after a moment for what it has accepted it is told to end.
// The new one sees its end by that connection, and only then does the new `main` run: so the two never run at once, and
// connections made in between wait in the sockets' queues.
// The new program need not know: its agent stands before libc's `bind` and gives it the socket that it asks for. A program
// that mentions LISTEN_FDS gets them as sd_listen_fds(3) says, too. Sockets for which nobody asks are closed after a while.
// A program that crashed has nothing to hand over, and neither has one whose agent does not answer: they start plainly.
//
// hotslot killed by SIGKILL leaves the program running, at the version that it had or was about to have. A note beside the
// build says which one it is, and the next hotslot ends it (leftover.ts) when its own is built and about to start: an orphan
// with the port would be in its way.

import { writeFileSync } from 'node:fs';
import { chmod, readdir, rm } from 'node:fs/promises';
import { createServer, type Server as SocketServer, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import type { ElfPatch, Event, Executable, Receipt, RunningProgram } from '../model.ts';
import {
  type AgentReceipt,
  type Hello,
  type Message,
  MessageStream,
  type PatchMessage,
  writeMessage,
} from './agent.ts';
import { endLeftover, makeFolder, removeNote, writeNote } from './leftover.ts';
import { readLibraries } from './libraries.ts';
import { type Exit, Run } from './program.ts';

export type { Exit } from './program.ts';

export interface ProcessOptions {
  /** For receipts and messages. */
  readonly name: string;
  readonly args: readonly string[];
  /** All of it; ours if the program is to have ours. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** The program's working directory. */
  readonly directory: string;
  /** The program writes where we do. If not, each of its lines is a `log` event. */
  readonly passThrough: boolean;
  /** What the program reads from its standard input; without it, it has ours. */
  readonly input?: Readable;
  /** A file for a note about the running program; its folder is made when it is not there. */
  readonly note: string;
  readonly report: (event: Event) => void;
  /** The program ended, and not because we wanted it to. An `exit` event was reported. */
  readonly onExit: (exit: Exit) => void;
  /** A program that was told to end may take so long; 5 seconds unless given. */
  readonly graceMs?: number;
  /** An agent that says nothing for so long is stopped, in a debugger for instance; 10 seconds unless given. */
  readonly silenceMs?: number;
}

/** It runs and takes patches. */
export interface Started {
  readonly kind: 'running';
  readonly program: RunningProgram;
  /** Its listening sockets are those of the program that ran before. */
  readonly handedOver: boolean;
}

/** It runs, but takes no patches. */
export interface Mute {
  readonly kind: 'mute';
  readonly pid: number;
  readonly reason: string;
}

export interface Process {
  /** Undefined when no program runs, or none that takes patches. */
  readonly program: RunningProgram | undefined;
  /** Starts the program, in place of the one that runs, if one does. `base` is what the executable is. */
  start(
    executable: Executable,
    base: { readonly id: string; readonly version: number },
  ): Promise<Started | Mute | Exit>;
  /**
   * Sends the next patch. There is exactly one receipt: that of the program, which refused it also when it ended, or was
   * silent for too long. `commit` or `abandon` must follow. Throws when the patch is not the next one.
   */
  deliver(patch: ElfPatch): Promise<readonly Receipt[]>;
  /** The patch stays. Throws when it was not applied. */
  commit(patch: ElfPatch): void;
  /** The program undoes the patch if it applied it, also when it turns out later that it did. */
  abandon(patch: ElfPatch, reason: string): void;
  /** Ends the program. `signalled`: it knows already, as after Ctrl-C, which reaches all processes of a terminal. */
  close(signalled?: boolean): Promise<Exit | undefined>;
}

const GRACE_MS = 5000;
/** Requests that a program has accepted may take so long before it is told to end. */
const DRAIN_MS = 50;
const SILENCE_MS = 10_000;

interface Pending {
  readonly patch: ElfPatch;
  readonly run: Run | undefined;
  /** As the agent counts. */
  readonly version: number;
  message?: PatchMessage;
  isSent?: boolean;
  receipt?: Receipt;
  timer?: NodeJS.Timeout;
  readonly settle: (receipt: Receipt) => void;
}

/** Who waits for an answer that is not to a patch. */
type Question = (receipt: AgentReceipt) => void;

export async function openProcess(options: ProcessOptions): Promise<Process> {
  const folder = await makeFolder();
  const sockets = createServer();
  const socket = join(folder, 'agent');
  await new Promise<void>((resolve, reject) => {
    sockets.once('error', reject);
    sockets.listen(socket, resolve);
  });
  // The folder is private already; this is the lock on the door inside.
  await chmod(socket, 0o600);
  return new NativeProcess(options, folder, socket, sockets);
}

class NativeProcess implements Process {
  readonly #options: ProcessOptions;
  readonly #folder: string;
  readonly #socket: string;
  readonly #sockets: SocketServer;
  readonly #graceMs: number;
  readonly #silenceMs: number;
  /** The program, and during a restart its successor besides. */
  #runs: readonly Run[] = [];
  #program: RunningProgram | undefined;
  #pending: Pending | undefined;
  readonly #questions = new Map<Run, Question>();
  #starts = 0;

  constructor(options: ProcessOptions, folder: string, socket: string, sockets: SocketServer) {
    this.#options = options;
    this.#folder = folder;
    this.#socket = socket;
    this.#sockets = sockets;
    this.#graceMs = options.graceMs ?? GRACE_MS;
    this.#silenceMs = options.silenceMs ?? SILENCE_MS;
    sockets.on('connection', (connection) => this.#accept(connection));
  }

  get program(): RunningProgram | undefined {
    return this.#program;
  }

  /** The one that patches are for. */
  get #run(): Run | undefined {
    return this.#runs.at(-1);
  }

  // -------------------------------------------------------------------------------------------------------- start

  async start(executable: Executable, base: Run['base']): Promise<Started | Mute | Exit> {
    const { input } = this.#options;
    const old = this.#run;
    if (old !== undefined) old.isEnding = true;
    // Delivered, and not seen to.
    if (this.#pending !== undefined) this.#refuse(this.#pending, 'the program is started anew');
    this.#pending = undefined;
    this.#program = undefined;
    const handover = old && (await this.#prepareHandover(old));
    if (old === undefined) await this.#endLeftover();
    else if (handover === undefined) await this.#end(old);

    const run = this.#spawn(executable, base, handover);
    if (input !== undefined && handover === undefined) run.feed(input);
    // Until the old one has ended, the note is about that: without us the new one would end by itself (handover.rs).
    const noted = handover === undefined ? this.#note(run) : undefined;
    const first = await within(this.#silenceMs, Promise.race([run.joined, run.ended]));
    if (old !== undefined && handover !== undefined) {
      await within(DRAIN_MS, old.ended);
      await this.#end(old);
    }
    // Until then its `main` does not run, and what is typed is for the old one.
    if (input !== undefined && handover !== undefined) run.feed(input);
    if (run.exit !== undefined) return run.exit;
    await (noted ?? this.#note(run));
    const libraries = await readLibraries(run.pid, executable.path);
    if (run.exit !== undefined) return run.exit;
    run.isStarted = true;
    if (first === undefined || first.kind === 'exit') {
      const reason = run.lost ?? `its agent said nothing within ${this.#silenceMs / 1000} seconds`;
      return { kind: 'mute', pid: run.pid, reason };
    }
    this.#program = describeProgram(first, libraries);
    return { kind: 'running', program: this.#program, handedOver: handover !== undefined };
  }

  async #endLeftover(): Promise<void> {
    const leftover = await endLeftover(this.#options.note, this.#graceMs);
    if (leftover === undefined) return;
    const text = `ended process ${leftover}, which ran on after its hotslot was killed`;
    this.#options.report({ event: 'log', level: 'info', text });
  }

  /** Should we be killed, the next hotslot knows whom to end. */
  async #note(run: Run): Promise<void> {
    const { note, report } = this.#options;
    try {
      await writeNote(note, run.pid, this.#folder);
    } catch (error) {
      const text = `cannot note that process ${run.pid} runs: ${(error as Error).message}`;
      report({ event: 'log', level: 'warn', text });
    }
  }

  #spawn({ path, bytes }: Executable, base: Run['base'], handover: string | undefined): Run {
    const { name, args, environment, directory, passThrough, input, report } = this.#options;
    const readsListenFds = handover !== undefined && view(bytes()).includes('LISTEN_FDS');
    const run = new Run({
      path,
      args,
      environment: {
        ...environment,
        // What these say is about our own descriptors, which the program does not get.
        LISTEN_PID: undefined,
        LISTEN_FDS: undefined,
        LISTEN_FDNAMES: undefined,
        HOTSLOT_SOCKET: this.#socket,
        HOTSLOT_HANDOVER: handover,
        HOTSLOT_LISTEN: readsListenFds ? '1' : undefined,
      },
      directory,
      isFed: input !== undefined,
      onLine: passThrough
        ? undefined
        : (text, stream) => report({ event: 'log', level: stream === 'stdout' ? 'info' : 'warn', text, client: name }),
      base,
    });
    this.#runs = [...this.#runs, run];
    void run.ended.then((exit) => this.#noticeExit(run, exit));
    return run;
  }

  /** Where the program's agent gives its listening sockets away; undefined when it has none, or cannot. */
  async #prepareHandover(run: Run): Promise<string | undefined> {
    const sockets = run.exit === undefined && run.hello !== undefined ? await run.sockets() : [];
    if (sockets.length === 0 || run.lost !== undefined) return undefined;
    this.#starts += 1;
    const path = join(this.#folder, `handover-${this.#starts}`);
    const answer = new Promise<AgentReceipt>((resolve) => this.#questions.set(run, resolve));
    this.#send(run, { kind: 'handover', version: run.committed, path, sockets });
    const receipt = await within(this.#silenceMs, Promise.race([answer, run.ended]));
    this.#questions.delete(run);
    return receipt?.kind === 'receipt' && receipt.applied ? path : undefined;
  }

  async #end(run: Run, signalled = false): Promise<Exit> {
    const exit = await run.end(this.#graceMs, signalled);
    this.#runs = this.#runs.filter((other) => other !== run);
    // Its symbol files, and the agent's links to them.
    const files = (await readdir(this.#folder)).filter((file) => file.startsWith(`${run.pid}-`));
    await Promise.all(files.map((file) => rm(join(this.#folder, file))));
    return exit;
  }

  #noticeExit(run: Run, exit: Exit): void {
    const { name, report, onExit } = this.#options;
    run.socket?.destroy();
    this.#runs = this.#runs.filter((other) => other !== run);
    this.#questions.delete(run);
    if (this.#pending?.run === run) this.#refuse(this.#pending, `it ended: ${describeExit(exit)}`);
    if (run.isEnding) return;
    const { status, signal, version } = exit;
    report({ event: 'exit', program: name, status, ...(signal && { signal }), version });
    if (!run.isStarted) return;
    this.#program = undefined;
    onExit(exit);
  }

  // ------------------------------------------------------------------------------------------------------ connect

  /** An agent connects, maybe not for the first time. Nobody else can: the folder is private. */
  #accept(socket: Socket): void {
    const messages = new MessageStream();
    let run: Run | undefined;
    // `close` follows.
    socket.on('error', () => undefined);
    socket.on('close', () => {
      if (run?.socket === socket) run.socket = undefined;
    });
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const message of messages.push(chunk)) {
          if (run === undefined) run = this.#greet(socket, message);
          else if (message.kind === 'receipt') this.#receive(run, message);
          else throw new Error(`expected a receipt, found ${message.kind}`);
        }
      } catch (error) {
        const reason = `its agent is not understood: ${(error as Error).message}`;
        this.#lose(run ?? this.#run, reason);
        socket.destroy();
      }
    });
  }

  #greet(socket: Socket, message: Message): Run | undefined {
    if (message.kind !== 'hello') throw new Error(`expected hello, found ${message.kind}`);
    const run = this.#runs.find(({ pid }) => pid === message.pid);
    if (run === undefined) socket.destroy();
    else this.#join(run, socket, message);
    return run;
  }

  /** Settles what was under way when the last connection ended. */
  #join(run: Run, socket: Socket, hello: Hello): void {
    run.socket?.destroy();
    run.greet(socket, hello);
    const pending = this.#pending?.run === run ? this.#pending : undefined;
    const { version } = hello;
    if (version === run.committed) {
      // It did not hear of the commit.
      if (hello.pending) this.#send(run, { kind: 'commit', version });
      if (run.description !== undefined) this.#send(run, run.description);
      run.isUndoing = false;
      this.#sendPatch(pending);
    } else if (hello.pending && version === run.committed + 1) {
      // Not what is pending here if that is to be sent after the undo only.
      const isForsaken = run.isUndoing || pending?.isSent !== true || pending.receipt?.applied === false;
      if (isForsaken) this.#undo(run, version);
      else if (pending.receipt === undefined) this.#confirm(pending, 0);
    } else {
      this.#lose(run, `it runs version ${run.base.version + version}, which is not ${run.version}`);
    }
  }

  #receive(run: Run, receipt: AgentReceipt): void {
    const { answers, version, applied, nanoseconds, reason } = receipt;
    if (answers === 'handover') {
      this.#questions.get(run)?.(receipt);
    } else if (answers === 'patch') {
      const pending = this.#pending;
      if (pending?.run !== run || pending.version !== version || pending.receipt !== undefined) return;
      if (applied) this.#confirm(pending, nanoseconds / 1e6);
      else this.#refuse(pending, reason);
    } else if (answers === 'describe') {
      run.description = undefined;
      if (applied || run.isUndescribed) return;
      run.isUndescribed = true;
      const text = `debuggers will not know its new code: ${reason}`;
      this.#options.report({ event: 'log', level: 'info', text, client: this.#options.name });
    } else if (!applied) {
      this.#lose(run, `${answers} of version ${run.base.version + version} failed: ${reason}`);
    } else if (answers === 'undo') {
      run.isUndoing = false;
      if (this.#pending?.run === run) this.#sendPatch(this.#pending);
    }
  }

  /** No patch can follow; the program goes on. */
  #lose(run: Run | undefined, reason: string): void {
    if (run === undefined) return;
    const { name, report } = this.#options;
    run.lose(reason);
    const text = `it takes no more patches until it is restarted: ${reason}`;
    if (run.isStarted) report({ event: 'log', level: 'error', text, client: name });
    if (this.#pending?.run === run) this.#refuse(this.#pending, reason);
  }

  // ------------------------------------------------------------------------------------------------------ deliver

  async deliver(patch: ElfPatch): Promise<readonly Receipt[]> {
    if (this.#pending !== undefined) throw new Error(`version ${this.#pending.patch.version} is still pending`);
    const run = this.#run;
    if (run !== undefined && patch.base !== run.base.id) {
      throw new Error(`patch of base ${patch.base}, running is ${run.base.id}`);
    }
    if (run !== undefined && patch.version !== run.version + 1) {
      throw new Error(`patch makes version ${patch.version}, the program is at ${run.version}`);
    }
    let settle!: (receipt: Receipt) => void;
    const settled = new Promise<Receipt>((resolve) => (settle = resolve));
    const version = (run?.committed ?? 0) + 1;
    const pending: Pending = { patch, run, version, settle };
    this.#pending = pending;
    if (run === undefined || run.exit !== undefined) this.#refuse(pending, 'it does not run');
    else if (run.lost !== undefined) this.#refuse(pending, run.lost);
    else this.#begin(pending, run);
    return [await settled];
  }

  #begin(pending: Pending, run: Run): void {
    const { patch, version } = pending;
    // Backtraces may read it as soon as the new code runs, and for as long as it does. Written at once: a turn of the event
    // loop takes longer than a small file while rustc has the cores.
    const symbolFile = patch.symbols.length === 0 ? '' : join(this.#folder, `${run.pid}-symbols-${version}`);
    try {
      if (symbolFile !== '') writeFileSync(symbolFile, patch.symbols);
    } catch (error) {
      return this.#refuse(pending, `cannot write what backtraces need: ${(error as Error).message}`);
    }
    pending.message = { ...patch, kind: 'patch', version, symbolFile };
    pending.timer = setTimeout(
      () => this.#forsake(pending, `no answer within ${this.#silenceMs / 1000} seconds`),
      this.#silenceMs,
    );
    this.#sendPatch(pending);
  }

  commit(patch: ElfPatch): void {
    const { run, version, receipt } = this.#takePending(patch);
    if (run === undefined || receipt?.applied !== true) throw new Error(`version ${patch.version} was not applied`);
    run.committed = version;
    this.#send(run, { kind: 'commit', version });
    // Nobody waits for it.
    setImmediate(() => this.#describe(run, version, patch));
  }

  /** To debuggers. */
  #describe(run: Run, version: number, { image }: ElfPatch): void {
    if (image === undefined || run.isEnding || run.isUndescribed) return;
    run.description = { kind: 'describe', version, image: image() };
    this.#send(run, run.description);
  }

  abandon(patch: ElfPatch, reason: string): void {
    const pending = this.#takePending(patch);
    if (pending.receipt === undefined) this.#forsake(pending, reason);
    else if (pending.run !== undefined && pending.receipt.applied) this.#undo(pending.run, pending.version);
  }

  #takePending(patch: ElfPatch): Pending {
    const pending = this.#pending;
    if (pending?.patch !== patch) throw new Error(`version ${patch.version} is not pending`);
    this.#pending = undefined;
    return pending;
  }

  #confirm(pending: Pending, applyMs: number): void {
    this.#settle(pending, { client: this.#options.name, version: pending.patch.version, applied: true, applyMs });
  }

  #refuse(pending: Pending, reason: string): void {
    this.#settle(pending, { client: this.#options.name, version: pending.patch.version - 1, applied: false, reason });
  }

  /** Refuses a patch that the program may have, or be about to have. */
  #forsake(pending: Pending, reason: string): void {
    this.#refuse(pending, reason);
    if (pending.isSent !== true || pending.run === undefined) return;
    // When it wakes up it finds the connection closed, connects again, and is told to undo what it did meanwhile.
    pending.run.isUndoing = true;
    pending.run.socket?.destroy();
  }

  #undo(run: Run, version: number): void {
    run.isUndoing = true;
    this.#send(run, { kind: 'undo', version });
  }

  #settle(pending: Pending, receipt: Receipt): void {
    clearTimeout(pending.timer);
    pending.receipt ??= receipt;
    pending.settle(pending.receipt);
  }

  /**
   * At once, or when the agent is connected again. Not before it is known to have undone the one before, which has the
   * same number: should the connection end, nobody could tell which of them it has.
   */
  #sendPatch(pending: Pending | undefined): void {
    if (pending === undefined) return;
    const { run, message, receipt } = pending;
    if (run?.socket === undefined || run.isUndoing || message === undefined || receipt !== undefined) return;
    pending.isSent = true;
    this.#send(run, message);
  }

  /** What cannot be sent is settled when the agent connects again. */
  #send({ socket }: Run, message: Message): void {
    socket?.write(writeMessage(message));
  }

  async close(signalled = false): Promise<Exit | undefined> {
    const exits = await Promise.all(this.#runs.map((run) => this.#end(run, signalled)));
    const closed = new Promise<void>((resolve) => this.#sockets.close(() => resolve()));
    await removeNote(this.#options.note);
    await closed;
    await rm(this.#folder, { recursive: true, force: true });
    return exits.at(-1);
  }
}

function describeProgram(hello: Hello, libraries: RunningProgram['libraries']): RunningProgram {
  const { pid, bias, slotsStart, slotsEnd, arenaStart, arenaEnd, moduleSizeBytes, symbolBias } = hello;
  const { tlsAddress: address, tlsSizeBytes: sizeBytes, tlsAlignment: alignment, poolOffset, poolSizeBytes } = hello;
  return {
    pid,
    bias,
    slotsStart,
    slotsEnd,
    arenaStart,
    arenaEnd,
    moduleSizeBytes,
    symbolBias,
    ...(alignment !== 0 && { tls: { address, sizeBytes, alignment } }),
    poolOffset,
    poolSizeBytes,
    libraries,
  };
}

/** e.g. `status 1`, `SIGSEGV`. */
function describeExit({ status, signal, reason }: Exit): string {
  return signal ?? reason ?? `status ${status}`;
}

/** Undefined when the time is over first. */
async function within<T>(ms: number, promise: Promise<T>): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise<undefined>((resolve) => (timer = setTimeout(resolve, ms, undefined)));
  try {
    return await Promise.race([promise, over]);
  } finally {
    clearTimeout(timer);
  }
}

function view({ buffer, byteOffset, length }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, length);
}
