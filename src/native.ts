// The backend for native programs: a build becomes an executable with stubs and the agent in it, which is started and
// takes patches over a private socket.

import type { Readable } from 'node:stream';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import type { Builder } from './build/builder.ts';
import { DiagnosticError } from './build/diagnostic.ts';
import { type Backend, contentHash, type Listener, type Running } from './backend.ts';
import { openProcess, type Process } from './deliver/process.ts';
import { elfTarget } from './link/elf.ts';
import { placeExecutable, readExecutable } from './link/executable.ts';
import { Linker } from './link/linker.ts';
import { PreparedObjects, stubObjects } from './link/stubs.ts';
import { Unlinkable } from './link/target.ts';
import { MalformedError } from './object/bytes.ts';
import type { Build, ElfPatch, Event, ObjectSource, Receipt } from './model.ts';

/** More are of no use. */
const REHEARSALS = 100;

/** See `SessionOptions`. */
export interface NativeOptions {
  readonly args?: readonly string[];
  /** The program writes where we do; if not, its lines are events. */
  readonly passThrough?: boolean;
  /** What the program reads; our own standard input when absent. */
  readonly input?: Readable;
  /** The program's working directory. */
  readonly directory: string;
  readonly report: (event: Event) => void;
}

export class Native implements Backend<ElfPatch> {
  readonly url = undefined;
  readonly #options: NativeOptions;
  readonly #builder: Builder;
  #process: Process | undefined;
  #hasBuild = false;
  #prepared = new PreparedObjects();

  constructor(options: NativeOptions, builder: Builder) {
    this.#options = options;
    this.#builder = builder;
  }

  async open({ onEnd }: Listener): Promise<void> {
    const { args = [], passThrough = true, input, directory, report } = this.#options;
    const builder = this.#builder;
    this.#process = await openProcess({
      name: this.#builder.name,
      args,
      // Asked when the program starts: what cargo adds is known after the first build.
      get environment() {
        return { ...process.env, ...builder.environment };
      },
      directory,
      passThrough,
      ...(input !== undefined && { input }),
      note: join(this.#builder.folder, 'running'),
      report,
      onExit: onEnd,
    });
    // What it could not do is done, and reported, when all objects are there.
    void this.#prepare().catch(() => undefined);
  }

  /**
   * While rustc is at work: puts stubs into what an earlier start linked, most of which will be linked again. If there is
   * nothing of the kind, the agent serves to have V8 compile the code for it.
   */
  async #prepare(): Promise<void> {
    const earlier = await this.#builder.earlierObjects();
    const rehearsed = async (): Promise<ObjectSource[]> => Array(REHEARSALS).fill(await this.#builder.agent());
    for (const object of earlier.length > 0 ? earlier : await rehearsed()) {
      if (this.#hasBuild) return;
      this.#prepared.add(object);
      await setImmediate();
    }
  }

  async publish(build: Build, version: number, reason: string): Promise<Running<ElfPatch> | undefined> {
    this.#hasBuild = true;
    const linking = performance.now();
    const { rewrite, ...slots } = explained(() => stubObjects(build.objects, this.#prepared));
    this.#prepared = new PreparedObjects();
    const executable = await this.#builder.executable(build, rewrite, new AbortController().signal);
    const linkMs = performance.now() - linking;
    const parsed = explained(() => readExecutable(executable, slots, contentHash));
    const started = await this.#program.start(executable, { id: parsed.base, version });
    if (started.kind === 'exit') return undefined;
    if (started.kind === 'mute') {
      const text = `${this.#builder.name} runs, but takes no patches: ${started.reason}`;
      this.#options.report({ event: 'log', level: 'warn', text });
      return undefined;
    }
    const program = explained(() => placeExecutable(parsed, started.program, build, version));
    const { handedOver } = started;
    const linker = new Linker(program, elfTarget(program), build);
    return { linker, linkMs, replaced: { event: 'restart', reason, version, handedOver } };
  }

  deliver(patch: ElfPatch): Promise<readonly Receipt[]> {
    return this.#program.deliver(patch);
  }

  commit(patch: ElfPatch): void {
    this.#program.commit(patch);
  }

  abandon(patch: ElfPatch, reason: string): void {
    this.#program.abandon(patch, reason);
  }

  nameOf({ client }: Receipt): string {
    return client;
  }

  /** A program has no place to show notices; the terminal has them. */
  tell(): void {}

  async close(): Promise<void> {
    await this.#process?.close();
  }

  get #program(): Process {
    if (this.#process === undefined) throw new Error('expected `open` to have been called');
    return this.#process;
  }
}

/** What the user's flags made of the program may be nothing that takes patches: link-time optimisation, no symbols. */
function explained<T>(step: () => T): T {
  try {
    return step();
  } catch (error) {
    if (!(error instanceof Unlinkable || error instanceof MalformedError)) throw error;
    throw new DiagnosticError({ severity: 'error', text: 'hotslot cannot patch this program', notes: [error.message] });
  }
}
