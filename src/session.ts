// The pipeline, top to bottom: an edit in, a new version in every open page out, or the reason why not. A newcomer finds
// any behaviour by following `Session.#takeEdit`.
//
//   edit ─watch→ build ─objects→ read ─→ diff ─→ identify ─→ check ─→ link ─Patch→ deliver ─→ apply ─Receipt→ session
//
// One step runs at a time. The Program is what the pages run; the newest Build is what the disk says. A step tries to
// take the one to the other, and compares them afresh each time: whatever was refused, failed or was cut off before is
// still in the difference, so nothing has to be remembered and the next edit always works.

import { createHash } from 'node:crypto';
import { createBuilder, type BuildOptions, type Builder } from './build/builder.ts';
import type { Inquiry } from './build/inquiry.ts';
import { requireToolchain } from './build/toolchain.ts';
import type { Server } from './deliver/server.ts';
import { openBase } from './link/base.ts';
import { openCompanion } from './link/companion.ts';
import { Library } from './link/library.ts';
import { link, type Outcome } from './link/link.ts';
import { type LinkerMap, readMap } from './link/map.ts';
import { makePatch } from './link/patch.ts';
import type { Program } from './link/program.ts';
import { wasmTarget } from './link/wasm.ts';
import type { Build, BuildFailure, Edit, Event, Image, Refusal, WasmPatch } from './model.ts';

/** What to build, in cargo's words. */
export interface Selection extends Omit<BuildOptions, 'arenaBytes' | 'report'> {
  /** Questions asked already. */
  readonly inquiry?: Inquiry;
}

export interface SessionOptions extends Selection {
  readonly host: string;
  readonly port: number;
  readonly strictPort: boolean;
  readonly report: (event: Event) => void;
}

export interface Session {
  readonly url: string;
  close(): Promise<void>;
}

/** Memory of the program kept for data that patches add. Untouched pages of it cost nothing. */
const ARENA_BYTES = 8 << 20;

/** Resolves once the page is served. A failing first build is reported, and mended by the next edit. */
export async function startSession(options: SessionOptions): Promise<Session> {
  const session = new RunningSession(options, await openBuilder(options));
  try {
    await session.start();
  } catch (error) {
    await session.close();
    throw error;
  }
  return session;
}

/** The plain output of wasm-bindgen, with nothing of hotslot in it. */
export async function buildOnce(
  options: Selection & { outDir: string; report: (event: Event) => void },
): Promise<void> {
  const builder = await createBuilder(
    { ...options, arenaBytes: undefined },
    await requireToolchain(options, options.inquiry?.rust),
    options.inquiry,
  );
  try {
    await builder.plain(options.outDir, new AbortController().signal);
  } finally {
    await builder.close();
  }
}

async function openBuilder(options: SessionOptions): Promise<Builder> {
  const toolchain = await requireToolchain(options, options.inquiry?.rust);
  return createBuilder({ ...options, arenaBytes: ARENA_BYTES }, toolchain, options.inquiry);
}

class RunningSession implements Session {
  readonly #options: SessionOptions;
  readonly #builder: Builder;
  readonly #library = new Library();
  #server!: Server;
  #program: Program | undefined;
  /** What the Program was last linked from. */
  #applied: Build | undefined;
  /** The newest build, when the pages could not be taken to it: what a reload is to bring. */
  #waiting: Build | undefined;
  /** Builds whose wasm-bindgen output is being served: the base, and patches that brought glue. */
  #served: Build[] = [];
  #stopWatching: (() => Promise<void>) | undefined;
  /** Steps run one after the other; this is the end of the queue. */
  #queue: Promise<void> = Promise.resolve();
  /** Paths of edits that no step has taken yet. */
  #pending: Edit | undefined;
  #building: AbortController | undefined;
  #closed = false;
  readonly #started = performance.now();

  constructor(options: SessionOptions, builder: Builder) {
    this.#options = options;
    this.#builder = builder;
  }

  get url(): string {
    return this.#server.url;
  }

  async start(): Promise<void> {
    // Watching begins with the first build, long before rustc reads anything, so that no edit made during it is lost.
    const watching = this.#builder.watch((edit) => this.#noticeEdit(edit));
    const building = this.#cancellable((signal) => this.#builder.base(signal));
    // Loaded while cargo is at work: HTTP takes a while.
    const serving = Promise.all([watching, this.#startServer()]);
    const built = this.#enqueue(async () => {
      const build = await building;
      const isServed = await serving.then(
        () => true,
        () => false,
      );
      if (isServed) await this.#firstBuild(build);
    });
    [this.#stopWatching, this.#server] = await serving;
    await built;
  }

  async #startServer(): Promise<Server> {
    const { host, port, strictPort, report } = this.#options;
    const { startServer } = await import('./deliver/server.ts');
    return startServer({
      host,
      port,
      strictPort,
      root: this.#builder.directory,
      name: this.#builder.name,
      report,
      onReloadRequest: () => this.#enqueue(() => this.#bringUpToDate()),
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#building?.abort(new Error('the session is closed'));
    await this.#stopWatching?.();
    await this.#queue;
    if (this.#stopWatching !== undefined) await this.#server.close();
    await this.#builder.close();
  }

  // --------------------------------------------------------------------------------------------------------- base

  async #firstBuild(build: Build | BuildFailure | undefined): Promise<void> {
    if (build?.kind === 'built') await this.#publish(build);
    else if (build !== undefined) this.#fail(build);
  }

  /** Links the build anew as a whole. Pages that run an older base reload. */
  async #publish(build: Build): Promise<void> {
    const signal = new AbortController().signal;
    // Read while wasm-bindgen is at work.
    let map: LinkerMap | undefined;
    const image = await this.#builder.image(build, signal, (text) => (map = readMap(text)));
    const first = this.#program === undefined;
    const version = this.#program === undefined ? 0 : this.#program.version + 1;
    const { module, program } = openBase(image, build, version, contentHash, map);
    this.#program = program;
    const replaced = this.#served;
    this.#served = [build];
    this.#settle(program, build);
    for (const old of replaced) this.#drop(old);
    this.#server.publish({ id: program.base, version, glue: image.glue, module, directory: image.directory });
    if (first) {
      this.#report({ event: 'ready', url: this.url, version, ms: performance.now() - this.#started });
    } else {
      this.#report({ event: 'reload', reason: 'the program was linked anew', version });
    }
    this.#warm(build);
  }

  /** A page is being loaded: it gets the newest code, also what no patch could bring. */
  async #bringUpToDate(): Promise<void> {
    if (this.#waiting !== undefined) await this.#publish(this.#waiting);
  }

  /** Reads in idle moments what the first edit would otherwise wait for. */
  #warm(build: Build): void {
    const sources = [...build.objects, ...build.archives];
    this.#library.use(build.objects, build.archives);
    const next = (): void => {
      const source = sources.shift();
      if (source === undefined || this.#closed) return;
      if (this.#building === undefined) this.#library.warm(source);
      else sources.push(source);
      setTimeout(next, this.#building === undefined ? 0 : 50);
    };
    setTimeout(next, 0);
  }

  // --------------------------------------------------------------------------------------------------------- edit

  #noticeEdit(edit: Edit): void {
    const earlier = this.#pending;
    this.#pending =
      earlier === undefined ? edit : { paths: [...new Set([...earlier.paths, ...edit.paths])], at: earlier.at };
    // What is being built is out of date already.
    this.#building?.abort(new Error('superseded by a newer edit'));
    if (earlier === undefined) void this.#enqueue(() => this.#takeEdit());
  }

  async #takeEdit(): Promise<void> {
    const edit = this.#pending;
    this.#pending = undefined;
    if (edit === undefined || this.#closed) return;
    this.#report({ event: 'change', paths: edit.paths });

    // build: rustc over what the edit touched; nothing, when a newer edit came meanwhile (its step sees this one's paths).
    const build = await this.#cancellable((signal) => this.#builder.update(edit, signal), edit);
    if (build === undefined) return;
    if (build.kind === 'failed') return this.#fail(build);
    const program = this.#program;
    if (program === undefined) return this.#publish(build);

    // read, diff, identify, check, link: pure. The outcome stands for the whole build or for nothing of it.
    const linking = performance.now();
    let outcome: Outcome = link(program, build, this.#library, wasmTarget);

    // JavaScript functions that the base does not import take a run of wasm-bindgen.
    let image: Image | undefined;
    if (outcome.kind === 'unresolved') {
      image = await this.#cancellable((signal) => this.#builder.image(build, signal), edit);
      if (image === undefined) return;
      outcome = link(program, build, this.#library, wasmTarget, openCompanion(image));
    }
    if (outcome.kind === 'unresolved') {
      return this.#refuse(build, {
        reason: `nothing brings \`${outcome.names.join('`, `')}\` into the page`,
        remedy: 'reload',
      });
    }
    if (outcome.kind === 'refused') return this.#refuse(build, outcome.refusal);
    if (outcome.kind === 'unchanged') {
      program.commit(outcome.draft);
      this.#settle(program, build);
      return this.#report({ event: 'unchanged', rustcMs: build.rustcMs, warnings: outcome.warnings });
    }
    const glue = image && { directory: image.directory, file: `${this.#builder.name}.js` };
    const patch = makePatch(outcome, wasmTarget, glue);
    const linkMs = performance.now() - linking;

    // deliver, apply: every page answers. One that cannot apply the patch keeps it from all of them.
    const receipts = await this.#server.deliver(patch);
    const refused = receipts.find((receipt) => !receipt.applied);
    if (refused?.applied === false) {
      this.#server.abandon(patch, refused.reason);
      this.#report({ event: 'undo', version: patch.version, reason: refused.reason });
      return this.#refuse(build, {
        reason: `page ${refused.client} could not apply it: ${refused.reason}`,
        remedy: 'reload',
      });
    }

    // From here on the pages run the new version, and so does the Program.
    this.#server.commit(patch);
    program.commit(outcome.draft);
    if (patch.glue !== undefined) this.#served.push(build);
    this.#settle(program, build);
    this.#report(patchEvent(patch, edit, build, linkMs, receipts));
  }

  /** The Program is what this build made it. */
  #settle(program: Program, build: Build): void {
    const older = [this.#applied, this.#waiting];
    this.#applied = build;
    this.#waiting = undefined;
    for (const old of older) this.#drop(old);
    this.#library.keep([...program.objects.values()].map(({ source }) => source));
    this.#server.tell({ type: 'ok' });
  }

  #refuse(build: Build, refusal: Refusal): void {
    const older = this.#waiting;
    this.#waiting = build;
    this.#drop(older);
    this.#server.tell({ type: 'refused', ...refusal });
    this.#report({ event: 'refused', ...refusal });
  }

  #drop(build: Build | undefined): void {
    if (build === undefined || build === this.#applied || build === this.#waiting || this.#served.includes(build))
      return;
    this.#builder.release(build);
  }

  #fail({ diagnostics }: BuildFailure): void {
    this.#server.tell({ type: 'failed', diagnostics });
    this.#report({ event: 'failed', diagnostics });
  }

  #report(event: Event): void {
    this.#options.report(event);
  }

  // -------------------------------------------------------------------------------------------------------- order

  /** Steps never overlap. A step that throws has a bug; it is reported, and the session goes on. */
  #enqueue(step: () => Promise<void>): Promise<void> {
    this.#queue = this.#queue.then(step).catch((error: unknown) => {
      this.#report({ event: 'log', level: 'error', text: `bug in hotslot: ${explain(error)}` });
    });
    return this.#queue;
  }

  /** Runs a part of a step that a newer edit may cut off; undefined when one did. The edit then belongs to the newer one. */
  async #cancellable<T>(work: (signal: AbortSignal) => Promise<T>, edit?: Edit): Promise<T | undefined> {
    const controller = new AbortController();
    this.#building = controller;
    try {
      // An edit may have arrived before there was anything to abort.
      if (this.#pending === undefined || edit === undefined) return await work(controller.signal);
    } catch (error) {
      if (!controller.signal.aborted) throw error;
    } finally {
      this.#building = undefined;
    }
    if (edit !== undefined && this.#pending !== undefined) {
      this.#pending = { paths: [...new Set([...edit.paths, ...this.#pending.paths])], at: this.#pending.at };
    }
    return undefined;
  }
}

function patchEvent(
  patch: WasmPatch,
  edit: Edit,
  build: Build,
  linkMs: number,
  receipts: readonly { readonly applied: boolean; readonly applyMs?: number }[],
): Event {
  return {
    event: 'patch',
    version: patch.version,
    functions: patch.functions,
    bytes: patch.module.length,
    rustcMs: build.rustcMs,
    linkMs,
    applyMs: Math.max(0, ...receipts.map(({ applyMs }) => applyMs ?? 0)),
    totalMs: performance.now() - edit.at,
    clients: receipts.length,
    warnings: patch.warnings,
  };
}

function contentHash(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, 16);
}

function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined
    ? (error.stack ?? error.message)
    : `${error.stack}\ncaused by ${explain(error.cause)}`;
}
