// The pipeline, top to bottom: an edit in, a new version in every open page out, or the reason why not. A newcomer finds
// any behaviour by following `Session.#takeEdit`.
//
//   edit ─watch→ build ─objects→ read ─→ diff ─→ identify ─→ check ─→ link ─Patch→ deliver ─→ apply ─Receipt→ session
//
// One step runs at a time. The Program is what the pages run; the newest Build is what the disk says. A step tries to
// take the one to the other, and compares them afresh each time: whatever was refused, failed or was cut off before is
// still in the difference, so nothing has to be remembered and the next edit always works.

import type { Readable } from 'node:stream';
import type { Backend, Running } from './backend.ts';
import type { Linker } from './link/linker.ts';
import { createBuilder, type BuildOptions, type Builder } from './build/builder.ts';
import { DiagnosticError } from './build/diagnostic.ts';
import type { Inquiry } from './build/inquiry.ts';
import { requireToolchain } from './build/toolchain.ts';
import { collectGarbage } from './garbage.ts';
import type { Build, BuildFailure, ClientKind, Edit, Event, Glue, Patch, Receipt, Refusal } from './model.ts';

/** What to build, in cargo's words. */
export interface Selection extends Omit<BuildOptions, 'arenaBytes' | 'report'> {
  /** Questions asked already. */
  readonly inquiry?: Inquiry;
}

export interface SessionOptions extends Selection {
  /** Where pages are served. */
  readonly host: string;
  readonly port: number;
  readonly strictPort: boolean;
  /** For a native program: its arguments, whether it writes where we do, and what it reads. */
  readonly args?: readonly string[];
  readonly passThrough?: boolean;
  readonly input?: Readable;
  /** A change that only a restart can bring restarts a native program by itself. */
  readonly restartOnRefuse?: boolean;
  readonly report: (event: Event) => void;
}

export interface Session {
  /** Of the page, if there is one. */
  readonly url: string | undefined;
  /** Starts the program anew from the newest code that could be built. */
  restart(): Promise<void>;
  close(): Promise<void>;
}

/** After an edit was noticed: rustc has been started, and will not be done for long. */
const REHEARSAL_MS = 30;
/** After a start. */
const WARM_REHEARSALS = 6;

/** Memory of the program kept for data that patches add. Untouched pages of it cost nothing. */
const ARENA_BYTES = 8 << 20;

/** Resolves once the program is served, or runs. A failing first build is reported, and mended by the next edit. */
export async function startSession(options: SessionOptions): Promise<Session> {
  const builder = await openBuilder(options);
  const session =
    builder.platform === 'wasm'
      ? new RunningSession(options, builder, async () => new (await import('./web.ts')).Web(options, builder))
      : new RunningSession(options, builder, async () => new (await import('./native.ts')).Native(options, builder));
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
    await requireToolchain(options, options.inquiry?.rust, options.inquiry?.configuration),
    options.inquiry,
  );
  try {
    await builder.plain(options.outDir, new AbortController().signal);
  } finally {
    await builder.close();
  }
}

async function openBuilder(options: SessionOptions): Promise<Builder> {
  const toolchain = await requireToolchain(options, options.inquiry?.rust, options.inquiry?.configuration);
  return createBuilder({ ...options, arenaBytes: ARENA_BYTES }, toolchain, options.inquiry);
}

export class RunningSession<P extends Patch> implements Session {
  readonly #options: Pick<SessionOptions, 'report' | 'restartOnRefuse'>;
  readonly #builder: Builder;
  /** Loaded while cargo is at work: what serves and links is half of our code, and takes a while. */
  readonly #load: () => Promise<Backend<P>>;
  #loaded: Backend<P> | undefined;
  /** Undefined before the first build that succeeds, and when a native program has ended. */
  #running: Running<P> | undefined;
  #version = -1;
  /** A patch is on its way: should this fail, nobody knows what runs. */
  #isDelivering = false;
  /** What the Program was last linked from. */
  #applied: Build | undefined;
  /** The newest build, when what runs could not be taken to it: what a reload or a restart is to bring. */
  #waiting: Build | undefined;
  /** Builds whose image is in use: the base, and patches that brought glue. */
  #served: Build[] = [];
  #stopWatching: (() => Promise<void>) | undefined;
  /** Steps run one after the other; this is the end of the queue. */
  #queue: Promise<void> = Promise.resolve();
  /** How many there are in it. */
  #steps = 0;
  /** Paths of edits that no step has taken yet. */
  #pending: Edit | undefined;
  #building: AbortController | undefined;
  #closed = false;
  readonly #started = performance.now();

  constructor(
    options: Pick<SessionOptions, 'report' | 'restartOnRefuse'>,
    builder: Builder,
    load: () => Promise<Backend<P>>,
  ) {
    this.#options = options;
    this.#builder = builder;
    this.#load = load;
  }

  get url(): string | undefined {
    return this.#backend.url;
  }

  get #backend(): Backend<P> {
    if (this.#loaded === undefined) throw new Error('expected `start` to have been called');
    return this.#loaded;
  }

  async start(): Promise<void> {
    // Watching begins with the first build, long before rustc reads anything, so that no edit made during it is lost.
    const watching = this.#builder.watch((edit) => this.#noticeEdit(edit));
    const building = this.#cancellable((signal) => this.#builder.base(signal));
    const opening = Promise.all([watching, this.#open()]);
    const built = this.#enqueue(async () => {
      const build = await building;
      const isOpen = await opening.then(
        () => true,
        () => false,
      );
      if (isOpen) await this.#firstBuild(build);
    });
    [this.#stopWatching] = await opening;
    await built;
  }

  async #open(): Promise<void> {
    this.#loaded = await this.#load();
    await this.#loaded.open({
      onVisit: () => this.#enqueue(() => this.#bringUpToDate()),
      onEnd: () => (this.#running = undefined),
    });
  }

  restart(): Promise<void> {
    return this.#enqueue(async () => {
      const build = this.#waiting ?? this.#applied;
      if (build !== undefined) await this.#publish(build, 'asked for');
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#building?.abort(new Error('the session is closed'));
    await this.#stopWatching?.();
    await this.#queue;
    await this.#loaded?.close();
    await this.#builder.close();
  }

  // --------------------------------------------------------------------------------------------------------- base

  async #firstBuild(build: Build | BuildFailure | undefined): Promise<void> {
    if (build?.kind === 'built') await this.#publish(build);
    else if (build !== undefined) this.#fail(build);
  }

  /** Links the build anew as a whole, to run in place of what runs now. */
  async #publish(build: Build, reason = 'the program was linked anew'): Promise<void> {
    const version = this.#version + 1;
    let running: Running<P> | undefined;
    try {
      running = await this.#backend.publish(build, version, reason);
    } catch (error) {
      this.#hold(build);
      // By a bug, it may have come to its end half-way.
      if (!(error instanceof DiagnosticError)) this.#running = undefined;
      throw error;
    }
    this.#running = running;
    const replaced = this.#served;
    this.#served = [build];
    this.#settle(build);
    for (const old of replaced) this.#drop(old);
    if (running === undefined) return;
    this.#version = version;
    const { url } = this;
    const { linker, linkMs } = running;
    const ms = performance.now() - this.#started;
    this.#report(
      version === 0 ? { event: 'ready', ...(url !== undefined && { url }), version, linkMs, ms } : running.replaced,
    );
    this.#warm(linker, build);
  }

  /** A page is being loaded: it gets the newest code, also what no patch could bring. */
  async #bringUpToDate(): Promise<void> {
    if (this.#waiting !== undefined) await this.#publish(this.#waiting);
  }

  /** Reads what the first edit would otherwise wait for, when nothing else is to be done. */
  #warm(linker: Linker<P>, build: Build): void {
    const steps = [...build.objects, ...build.archives].map((source) => () => linker.warm(source));
    // V8 compiles what has run a few times.
    for (let count = 0; count < WARM_REHEARSALS; count++) steps.push(() => this.#rehearse());
    const next = (): void => {
      const [step] = steps;
      if (step === undefined || this.#closed || this.#running?.linker !== linker) return;
      const isIdle = this.#steps === 0;
      try {
        if (isIdle) {
          steps.shift();
          step();
        }
      } catch (error) {
        return this.#reportBug(error);
      }
      setTimeout(next, isIdle ? 0 : 50);
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
    const rehearsal = setTimeout(() => this.#rehearse(), REHEARSAL_MS);
    const build = await this.#cancellable(
      (signal) => this.#builder.update(edit, signal, () => this.#rehearse()),
      edit,
    ).finally(() => clearTimeout(rehearsal));
    if (build === undefined) return;
    if (build.kind === 'failed') return this.#fail(build);
    const running = this.#running;
    if (running === undefined) return this.#publish(build, 'nothing ran that takes patches');

    // read, diff, identify, check, link: pure. The outcome stands for the whole build or for nothing of it.
    const { linker } = running;
    const linking = performance.now();
    let outcome = linker.link(build);

    // JavaScript functions that the base does not import take a run of wasm-bindgen.
    let glue: Pick<Glue, 'directory' | 'file'> | undefined;
    if (outcome.kind === 'unresolved' && this.#backend.companion !== undefined) {
      const make = this.#backend.companion.bind(this.#backend);
      const made = await this.#cancellable((signal) => make(build, signal), edit);
      if (made === undefined) return;
      glue = made.glue;
      outcome = linker.link(build, made.companion);
    }
    if (outcome.kind === 'unresolved') {
      const reason = `nothing brings \`${outcome.names.join('`, `')}\` into the program`;
      return this.#refuse(build, { reason, remedy: linker.remedy });
    }
    if (outcome.kind === 'refused') return this.#refuse(build, outcome.refusal);
    if (outcome.kind === 'unchanged') {
      linker.commit(outcome.draft);
      this.#settle(build);
      return this.#report({ event: 'unchanged', rustcMs: build.rustcMs, warnings: outcome.warnings });
    }
    const made = linker.patch(outcome, glue);
    if ('refusal' in made) return this.#refuse(build, made.refusal);
    const { patch } = made;
    const linkMs = performance.now() - linking;

    // deliver, apply: every client answers. One that cannot apply the patch keeps it from all of them.
    this.#isDelivering = true;
    const receipts = await this.#backend.deliver(patch);
    const refused = receipts.find((receipt) => !receipt.applied);
    if (refused?.applied === false) {
      this.#backend.abandon(patch, refused.reason);
      linker.abandon(outcome.draft);
      this.#isDelivering = false;
      this.#report({ event: 'undo', version: patch.version, reason: refused.reason });
      const reason = `${this.#backend.nameOf(refused)} could not apply it: ${refused.reason}`;
      return this.#refuse(build, { reason, remedy: linker.remedy });
    }

    // From here on the clients run the new version, and so does the Program.
    this.#backend.commit(patch);
    linker.commit(outcome.draft);
    this.#isDelivering = false;
    this.#version = patch.version;
    if (glue !== undefined) this.#served.push(build);
    this.#settle(build);
    this.#report(patchEvent(patch, edit, build, linkMs, receipts));
  }

  /** While rustc is at work, or nobody is. */
  #rehearse(): void {
    try {
      if (this.#applied !== undefined) this.#running?.linker.rehearse(this.#applied);
      collectGarbage();
    } catch (error) {
      this.#reportBug(error);
    }
  }

  /** What runs is what this build made it. */
  #settle(build: Build): void {
    const older = [this.#applied, this.#waiting];
    this.#applied = build;
    this.#waiting = undefined;
    for (const old of older) this.#drop(old);
    this.#backend.tell({ type: 'ok' });
  }

  /** What runs stays as it is; the build waits for a reload or a restart. */
  #hold(build: Build): void {
    const older = this.#waiting;
    this.#waiting = build;
    this.#drop(older);
  }

  async #refuse(build: Build, refusal: Refusal): Promise<void> {
    this.#hold(build);
    this.#backend.tell({ type: 'refused', ...refusal });
    this.#report({ event: 'refused', ...refusal });
    if (this.#options.restartOnRefuse === true && refusal.remedy === 'restart')
      await this.#publish(build, refusal.reason);
  }

  #drop(build: Build | undefined): void {
    if (build === undefined || build === this.#applied || build === this.#waiting || this.#served.includes(build))
      return;
    this.#builder.release(build);
  }

  #fail({ diagnostics }: Pick<BuildFailure, 'diagnostics'>): void {
    this.#report({ event: 'failed', diagnostics });
    this.#loaded?.tell({ type: 'failed', diagnostics });
  }

  #report(event: Event): void {
    this.#options.report(event);
  }

  // -------------------------------------------------------------------------------------------------------- order

  /** Steps never overlap. One that throws has failed, by a bug if not by a mistake; the next edit begins afresh. */
  #enqueue(step: () => Promise<void>): Promise<void> {
    this.#steps++;
    this.#queue = this.#queue
      .then(step)
      .catch((error: unknown) => this.#mend(error))
      .finally(() => this.#steps--);
    return this.#queue;
  }

  /** What no step may leave behind: someone who waits for an answer, and a Program that may not be what runs. */
  #mend(error: unknown): void {
    if (this.#isDelivering) this.#running = undefined;
    this.#isDelivering = false;
    if (error instanceof DiagnosticError) return this.#fail(error);
    const text = `bug in hotslot: ${error instanceof Error ? error.message : String(error)}`;
    const hint = 'The next save tries again.';
    return this.#fail({ diagnostics: [{ severity: 'error', text, notes: [explain(error)], hint }] });
  }

  /** Of something that nobody waits for. */
  #reportBug(error: unknown): void {
    this.#report({ event: 'log', level: 'error', text: `bug in hotslot: ${explain(error)}` });
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

function patchEvent(patch: Patch, edit: Edit, build: Build, linkMs: number, receipts: readonly Receipt[]): Event {
  const count = (kind: ClientKind): number => receipts.filter((receipt) => receipt.kind === kind).length;
  const [workers, worklets] = [count('worker'), count('worklet')];
  return {
    event: 'patch',
    version: patch.version,
    functions: patch.functions,
    bytes: sizeOf(patch),
    rustcMs: build.rustcMs,
    linkMs,
    applyMs: Math.max(0, ...receipts.map((receipt) => (receipt.applied ? receipt.applyMs : 0))),
    totalMs: performance.now() - edit.at,
    clients: receipts.length,
    ...(workers > 0 && { workers }),
    ...(worklets > 0 && { worklets }),
    warnings: patch.warnings,
  };
}

/** What is new in memory: bytes of the module, or of the segments. */
function sizeOf(patch: Patch): number {
  if (patch.kind === 'wasm') return patch.module.length;
  return patch.segments.reduce((sum, { bytes }) => sum + bytes.length, 0);
}

function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined
    ? (error.stack ?? error.message)
    : `${error.stack}\ncaused by ${explain(error.cause)}`;
}
