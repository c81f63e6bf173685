// In: edits. Out: builds: the objects of the whole program as rustc leaves them, and, when asked, the linked program.
//
// cargo runs for the base build and whenever what it was told may have changed; its calls of rustc are recorded. An edit
// of Rust source only repeats the calls it affects (`inputs.ts`).

import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { copyFile, mkdir, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type {
  Build,
  BuildFailure,
  Diagnostic,
  Edit,
  Event,
  Executable,
  Image,
  ObjectSource,
  Rewrite,
} from '../model.ts';
import { findAgent } from './agent.ts';
import { requireBindgen } from './bindgen.ts';
import { type Unit, readCaptures, unitsOf } from './capture.ts';
import { type CargoRun, runCargo } from './cargo.ts';
import { askConfiguration } from './configuration.ts';
import { DiagnosticError } from './diagnostic.ts';
import { linkProgram, removePrograms } from './executable.ts';
import { bind, linksAlike, makeImage, readImage } from './image.ts';
import type { Inquiry } from './inquiry.ts';
import { Inputs } from './inputs.ts';
import { askMetadata, type CargoOptions, type Package, findPackage } from './package.ts';
import { note, type Paths, preparePaths, readIfThere } from './paths.ts';
import type { Platform } from './platform.ts';
import { standBy } from './process.ts';
import type { RustcResult } from './rustc.ts';
import { copyLink, type Linked, readLinked } from './store.ts';
import { type Linker, type Toolchain, linkerOf } from './rust.ts';
import { buildUnits } from './units.ts';

export interface BuildOptions extends CargoOptions {
  /** Memory of a wasm program to keep free for patches; undefined: none. */
  readonly arenaBytes: number | undefined;
  /** Told of progress, and of compiler warnings as log lines. */
  readonly report: (event: Event) => void;
}

export interface Builder {
  readonly platform: Platform;
  /** wasm-bindgen's output name, which is the crate's or binary's with underscores; of a native program, its file's. */
  readonly name: string;
  /** The package's folder. */
  readonly directory: string;
  /** The workspace's root folder. */
  readonly workspace: string;
  /** hotslot's own for this program, which stays from start to start. */
  readonly folder: string;
  /** What `cargo run` adds to the environment of a native program; known once there was a build. */
  readonly environment: Readonly<Record<string, string>>;
  /** Builds by cargo. Rejects with the signal's reason when aborted, as the others do. */
  base(signal: AbortSignal): Promise<Build | BuildFailure>;
  /**
   * Builds what the edit touched. Returns the very same `Build` as before when that is nothing. `onLinking` is called some
   * milliseconds before the objects are there, when it is rustc that builds them.
   */
  update(edit: Edit, signal: AbortSignal, onLinking?: () => void): Promise<Build | BuildFailure>;
  /** Links and binds a wasm program; `onMap` gets the map as soon as it is there. Throws a `DiagnosticError` when the linker or wasm-bindgen does not want to. */
  image(build: Build, signal: AbortSignal, onMap?: (map: string) => void): Promise<Image>;
  /** The image of a wasm program that an earlier start made, with the build it was made of. */
  earlier(): Promise<Earlier | undefined>;
  /** What an earlier start linked, while `base` has rustc build what has changed since; else none. */
  earlierObjects(): Promise<readonly ObjectSource[]>;
  /**
   * Links a native program from rewritten objects and the agent. Each call makes a new file, named as cargo names it,
   * which stays until the build is released. Throws a `DiagnosticError` when the linker does not want to.
   */
  executable(build: Build, rewrite: Rewrite, signal: AbortSignal): Promise<Executable>;
  /** What is linked into native programs besides. Rejects with a `DiagnosticError` when it cannot be built. */
  agent(): Promise<ObjectSource>;
  /** The build's program is not served or run any more. Its objects stay readable as long as anything refers to them. */
  release(build: Build): void;
  /** What cargo, for a page with wasm-bindgen, makes by itself, written into `directory`. Throws a `DiagnosticError`. */
  plain(directory: string, signal: AbortSignal): Promise<void>;
  /** Resolves when no edit can be missed any more. Call it before `base`; the result stops watching. */
  watch(onEdit: (edit: Edit) => void): Promise<() => Promise<void>>;
  close(): Promise<void>;
}

interface Earlier {
  readonly build: Build;
  readonly image: Image;
  /** Whether the linker would be told the same of that build, objects aside. */
  readonly isLike: (build: Build) => boolean;
}

/** Throws a `DiagnosticError` when there is nothing to build, more than one thing, or a tool is missing. */
export async function createBuilder(
  options: BuildOptions,
  toolchain: Toolchain,
  inquiry?: Pick<Inquiry, 'metadata' | 'configuration'>,
): Promise<Builder> {
  return new CargoBuilder(
    options,
    toolchain,
    await findProject(options, toolchain, inquiry ?? ask(options, toolchain)),
  );
}

/** What cargo reads from manifests and configuration; an edit of those may change it. */
interface Project {
  readonly package: Package;
  /** Path of wasm-bindgen; empty for a native program. */
  readonly bindgen: string;
  /** The user's own wrapper around rustc. */
  readonly wrapper: string;
}

async function findProject(
  options: CargoOptions,
  { target }: Toolchain,
  inquiry: Pick<Inquiry, 'metadata' | 'configuration'>,
): Promise<Project> {
  const [metadata, { wrapper }] = await Promise.all([inquiry.metadata, inquiry.configuration]);
  const found = findPackage({ ...options, target }, metadata);
  return { package: found, bindgen: found.platform === 'wasm' ? await requireBindgen(found.bindgen) : '', wrapper };
}

function ask(
  options: CargoOptions,
  toolchain: Toolchain,
  signal?: AbortSignal,
): Pick<Inquiry, 'metadata' | 'configuration'> {
  return { metadata: askMetadata(options, toolchain, signal), configuration: askConfiguration(options) };
}

const STATIC: Diagnostic = {
  severity: 'error',
  text: 'hotslot cannot patch a program that libc is linked into',
  hint: 'Leave out `-C target-feature=+crt-static` while developing.',
};

class CargoBuilder implements Builder {
  readonly #options: BuildOptions;
  readonly #toolchain: Toolchain;
  readonly #paths: Paths;
  #project: Project;

  readonly #inputs: Inputs;
  /** What was found when the builder was made has been used. */
  #hasRun = false;
  #build: Build | undefined;
  /** The folder of the link that an earlier start left, once rustc builds anew what has changed since. */
  readonly #outdated: Promise<string | undefined>;
  #setOutdated: (folder: string | undefined) => void = () => {};
  /** Of that folder; it is what the next start goes on from, until there is a newer one. */
  #last: Linked | undefined;
  readonly #links = new WeakMap<Build, Linked>();
  /** Their images may be served from their folders. */
  readonly #pinned = new Set<Linked>();
  /** The run before, and what is left of it: the next one waits until nothing of them writes any more. */
  #previous: Promise<unknown> = Promise.resolve();
  #rest: Promise<unknown> = Promise.resolve();
  readonly #clearing: Promise<unknown>;
  #agentPath: Promise<string> | undefined;
  readonly #warned = new Set<string>();
  readonly #closing = new AbortController();

  constructor(options: BuildOptions, toolchain: Toolchain, project: Project) {
    this.#options = options;
    this.#toolchain = toolchain;
    this.#project = project;
    this.#paths = preparePaths(options, project.package, toolchain);
    this.#outdated = new Promise((resolve) => (this.#setOutdated = resolve));
    this.#inputs = new Inputs(options.directory, this.#paths, project.package);
    // Hundreds of files each: beside the first build, not before it.
    this.#clearing = Promise.all(this.#paths.leftovers.map((path) => rm(path, { recursive: true, force: true }))).catch(
      (error: unknown) =>
        options.report({ event: 'log', level: 'warn', text: `cannot remove old objects: ${String(error)}` }),
    );
  }

  get platform(): Platform {
    return this.#project.package.platform;
  }

  get name(): string {
    const { platform, program, crate } = this.#project.package;
    return platform === 'native' ? program : crate;
  }

  get directory(): string {
    return this.#project.package.directory;
  }

  get workspace(): string {
    return this.#project.package.workspace;
  }

  get folder(): string {
    return dirname(this.#paths.captures);
  }

  get environment(): Readonly<Record<string, string>> {
    const given = Object.entries(this.#inputs.units.at(-1)?.environment ?? {});
    return Object.fromEntries(given.filter(([name]) => /^(CARGO|CARGO_(MANIFEST|PKG)_.*|OUT_DIR)$/.test(name)));
  }

  base(signal: AbortSignal): Promise<Build | BuildFailure> {
    // Beside the first build, for the first edit.
    setImmediate(standBy);
    // Compiled beside the first build; whether that went well is asked when it is linked.
    if (this.platform === 'native') this.#agent().catch(() => undefined);
    return this.#exclusive(signal, async (either) => {
      const last = this.#resume();
      this.#setOutdated(this.#inputs.isUpToDate ? undefined : last);
      if (last === undefined) return this.#runCargo(either);
      if (!this.#inputs.isUpToDate) return this.#runUnits(either);
      this.#noteLast(last);
      return this.#finish(last, 0);
    });
  }

  update(edit: Edit, signal: AbortSignal, onLinking?: () => void): Promise<Build | BuildFailure> {
    // Noted at once, also when this build is aborted while it waits for the one before.
    this.#inputs.note(edit.paths);
    return this.#exclusive(signal, async (either) => {
      this.#inputs.classify();
      if (this.#inputs.isForCargo) return this.#runCargo(either);
      if (this.#inputs.isUpToDate && this.#build) return this.#build;
      return this.#runUnits(either, onLinking);
    });
  }

  async image(build: Build, signal: AbortSignal, onMap?: (map: string) => void): Promise<Image> {
    const linked = this.#linkOf(build, 'wasm');
    const run = {
      linker: this.#linker(),
      bindgen: this.#project.bindgen,
      name: this.name,
      extra: await this.#arena(),
    };
    const image = await makeImage(linked, run, AbortSignal.any([signal, this.#closing.signal]), onMap);
    note(this.#paths.image, [linked.folder.path, ...this.#imageTools()].join('\n'));
    return image;
  }

  async earlier(): Promise<Earlier | undefined> {
    const [path, ...tools] = readIfThere(this.#paths.image)?.split('\n') ?? [];
    // Which files are whose is known when cargo had nothing to do.
    if (path === undefined || this.#inputs.units.length === 0 || tools.join() !== this.#imageTools().join())
      return undefined;
    const folder = this.#own(path);
    if (folder === undefined) return undefined;
    const linked = this.#read(folder);
    this.#pinned.add(linked);
    const build: Build = { kind: 'built', objects: linked.objects, archives: linked.archives, rustcMs: 0 };
    const image = await readImage(linked, this.name);
    note(this.#paths.image, [folder, ...tools].join('\n'));
    return { build, image, isLike: (other) => linksAlike(linked, this.#linkOf(other, 'wasm')) };
  }

  async earlierObjects(): Promise<readonly ObjectSource[]> {
    const folder = await this.#outdated;
    if (folder === undefined || this.#build !== undefined) return [];
    this.#last = this.#read(folder);
    return this.#last.objects;
  }

  /** All that an image depends on besides the link. */
  #imageTools(): string[] {
    const { program, prefix } = this.#linker();
    return [this.#project.bindgen, program, ...prefix, String(this.#options.arenaBytes), this.name];
  }

  async executable(build: Build, rewrite: Rewrite, signal: AbortSignal): Promise<Executable> {
    const linked = this.#linkOf(build, 'native');
    const root = this.#inputs.units.at(-1);
    if (!root) throw new Error('expected a unit that was linked');
    const run = {
      linker: this.#linker(),
      directory: root.directory,
      environment: root.environment,
      name: this.name,
      agent: await this.#agent(),
    };
    return linkProgram(linked, rewrite, run, AbortSignal.any([signal, this.#closing.signal]));
  }

  async agent(): Promise<ObjectSource> {
    const path = await this.#agent();
    return { name: basename(path), stamp: path, bytes: () => readFileSync(path) };
  }

  #agent(): Promise<string> {
    this.#agentPath ??= findAgent(this.#toolchain);
    return this.#agentPath;
  }

  /** Its folder stays until the build is released. */
  #linkOf(build: Build, platform: Platform): Linked {
    const linked = this.#links.get(build);
    if (!linked || platform !== this.platform)
      throw new Error(`expected a ${platform} build of this builder that has not been released`);
    this.#pinned.add(linked);
    return linked;
  }

  /** The arena's object, written once: it holds megabytes of zeros. */
  async #arena(): Promise<string[]> {
    const { arenaBytes } = this.#options;
    if (arenaBytes === undefined) return [];
    const threaded = this.#toolchain.threads !== undefined;
    const path = join(dirname(this.#paths.captures), `arena-${arenaBytes}${threaded ? '-threads' : ''}.o`);
    if (!existsSync(path)) {
      const { writeArenaObject } = await import('../object/linking.ts');
      writeFileSync(`${path}.${process.pid}`, writeArenaObject(arenaBytes, threaded));
      renameSync(`${path}.${process.pid}`, path);
    }
    return [path];
  }

  release(build: Build): void {
    const linked = this.#links.get(build);
    // Most builds become a patch, and nothing is linked of them.
    if (linked && this.#pinned.delete(linked)) removePrograms(linked);
  }

  plain(directory: string, signal: AbortSignal): Promise<void> {
    return this.#exclusive(signal, async (either) => {
      const { targetDirectory, report } = this.#options;
      const result = await runCargo(
        {
          options: this.#options,
          package: this.#project.package,
          toolchain: this.#toolchain,
          targetDirectory,
          capture: undefined,
          report,
        },
        either,
      );
      this.#reportWarnings(result.warnings);
      if (!result.succeeded) throw new DiagnosticError(...result.errors);
      if (result.output === undefined) throw new Error(`cargo built ${this.name}, but named no file of it`);
      if (this.platform === 'wasm')
        await bind({ bindgen: this.#project.bindgen, name: this.name }, result.output, directory, [], either);
      else {
        await mkdir(directory, { recursive: true });
        await copyFile(result.output, join(directory, basename(result.output)));
      }
    });
  }

  watch(onEdit: (edit: Edit) => void): Promise<() => Promise<void>> {
    return this.#inputs.watch(onEdit);
  }

  async close(): Promise<void> {
    this.#closing.abort(new Error('the builder was closed'));
    await this.#inputs.close();
    await this.#previous;
    await this.#rest;
    await this.#clearing;
  }

  // -------------------------------------------------------------------------------------------------------------- cargo

  /** The folder of the link that an earlier start left, brought back; undefined when cargo has to run. */
  #resume(): string | undefined {
    const last = this.#lastLink();
    if (last === undefined) return undefined;
    const captured = readCaptures(this.#paths.captures);
    const root = this.#rootOf(captured, last);
    if (root === undefined || !this.#inputs.resume(unitsOf(root, captured))) return undefined;
    this.#hasRun = true;
    return last;
  }

  async #runCargo(signal: AbortSignal): Promise<Build | BuildFailure> {
    const started = performance.now();
    const startedAt = Date.now();
    this.#inputs.beginCargo();
    try {
      // Its manifest may have changed: features, dependencies, and with them wasm-bindgen's version.
      if (this.#hasRun) {
        const inquiry = ask(this.#options, this.#toolchain, signal);
        this.#project = await findProject(this.#options, this.#toolchain, inquiry);
        this.#inputs.use(this.#project.package);
      }
    } catch (error) {
      if (!(error instanceof DiagnosticError)) throw error;
      return { kind: 'failed', diagnostics: error.diagnostics, rustcMs: performance.now() - started };
    }
    this.#hasRun = true;
    const built = await this.#cargoBuild(started, startedAt, signal);
    if (built.kind === 'built') this.#inputs.rememberAll(startedAt);
    return built;
  }

  async #cargoBuild(started: number, startedAt: number, signal: AbortSignal): Promise<Build | BuildFailure> {
    const { captures, target } = this.#paths;
    const store = this.#newStore();
    const last = this.#lastLink();
    // cargo links again when the output is gone. It must, when what is kept is not of that output: each set of flags for
    // rustc has one of its own.
    for (const unit of readCaptures(captures))
      if (this.#isRoot(unit) && (last === undefined || basename(unit.linked) !== basename(last)))
        rmSync(unit.linked, { force: true });
    const cargo: CargoRun = {
      options: this.#options,
      package: this.#project.package,
      toolchain: this.#toolchain,
      targetDirectory: target,
      capture: { scripts: this.#paths.scripts, captures, store, wrapper: this.#project.wrapper },
      report: this.#options.report,
    };
    const result = await runCargo(cargo, signal);
    const rustcMs = performance.now() - started;
    this.#inputs.endCargo(result.scripts);
    this.#reportWarnings(result.warnings);
    if (!result.succeeded) {
      // What it could not build may have no inputs yet; what has been built names its own.
      this.#inputs.read(startedAt, result.errors);
      return { kind: 'failed', diagnostics: result.errors, rustcMs };
    }
    const captured = readCaptures(captures);
    // A library of the same package may have been linked beside it.
    const fresh = readdirSync(store).map((name) => join(store, name));
    const folder = fresh.find((path) => existsSync(join(path, 'line')) && this.#rootOf(captured, path)) ?? last;
    if (folder === undefined) throw new Error(`cargo built ${this.name}, but did not link it into ${store}`);
    const root = this.#rootOf(captured, folder);
    if (!root) throw new Error(`cargo built ${this.name}, but its call of rustc was not recorded in ${captures}`);
    this.#inputs.read(startedAt, [], unitsOf(root, captured));
    if (this.platform === 'native' && root.isStatic) return { kind: 'failed', diagnostics: [STATIC], rustcMs };
    this.#noteLast(folder);
    return this.#finish(folder, rustcMs);
  }

  /** The call that was linked into this folder. */
  #rootOf(captured: readonly Unit[], folder: string): Unit | undefined {
    return captured.find((unit) => this.#isRoot(unit) && basename(unit.linked) === basename(folder));
  }

  /** A call for the target, of an earlier run perhaps. */
  #isRoot({ host, crate, environment, types }: Unit): boolean {
    const { crate: own, directory, selection } = this.#project.package;
    if (host || crate !== own || environment['CARGO_MANIFEST_DIR'] !== directory) return false;
    return types.includes(selection[0] === '--lib' ? 'cdylib' : 'bin');
  }

  // -------------------------------------------------------------------------------------------------------------- rustc

  async #runUnits(signal: AbortSignal, onLinking = (): void => {}): Promise<Build | BuildFailure> {
    const started = performance.now();
    const startedAt = Date.now();
    const inputs = this.#inputs;
    const { units, times } = inputs.outOfDate();
    const root = units.at(-1);
    if (!root) throw new Error('expected a unit to build');
    const store = this.#newStore();
    // Once the objects are there, an abort comes too late to save anything, and would cost rustc its caches.
    const untilLinked = new AbortController();
    const abort = (): void => untilLinked.abort(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    const { linked, results: all } = buildUnits(
      units,
      {
        toolchain: this.#toolchain,
        store,
        onLinking,
        onBegin: (unit) => inputs.begin(unit),
        onFail: (unit) => inputs.fail(unit),
      },
      untilLinked.signal,
    );
    this.#rest = all.catch(() => undefined);
    const isLinked = await linked;
    signal.removeEventListener('abort', abort);
    const rustcMs = performance.now() - started;
    // Both can happen at once: the word that all is linked was on its way when rustc was killed.
    if (isLinked && untilLinked.signal.aborted) await all;
    if (isLinked) {
      const folder = join(store, basename(root.linked));
      this.#rest = all
        .then((results) => {
          this.#noteLast(folder);
          this.#expectSuccess(results, startedAt);
          if (results.every((each) => each?.succeeded)) inputs.remember(units, times, startedAt);
        })
        // The next start builds it again.
        .catch((error: unknown) => {
          const text = `cannot note what was built: ${String(error)}`;
          this.#options.report({ event: 'log', level: 'warn', text });
        });
      return this.#finish(folder, rustcMs);
    }

    const results = (await all).filter((each) => each !== undefined);
    this.#reportWarnings(results.flatMap((each) => each.warnings));
    const errors = results.flatMap((each) => each.errors);
    // Not about the source: an argument that no longer fits, a dependency that is gone. cargo puts that right, or says why.
    if (errors.every((each) => each.place === undefined)) return this.#runCargo(signal);
    inputs.read(startedAt, errors);
    return { kind: 'failed', diagnostics: errors, rustcMs };
  }

  /** rustc has delivered its objects; should it then fail after all, the next build does its work again. */
  #expectSuccess(results: readonly (RustcResult | undefined)[], startedAt: number): void {
    this.#reportWarnings(results.flatMap((each) => each?.warnings ?? []));
    this.#inputs.read(startedAt);
    for (const error of results.flatMap((each) => each?.errors ?? []))
      this.#options.report({ event: 'log', level: 'error', text: `rustc failed after linking: ${error.text}` });
  }

  // ------------------------------------------------------------------------------------------------------------- results

  #read(folder: string): Linked {
    const editable = new Set(this.#inputs.units.flatMap((unit) => unit.outputs).map((path) => basename(path)));
    return readLinked(folder, editable, this.platform);
  }

  #finish(folder: string, rustcMs: number): Build {
    const linked = this.#read(folder);
    const build: Build = { kind: 'built', objects: linked.objects, archives: linked.archives, rustcMs };
    this.#links.set(build, linked);
    this.#build = build;
    return build;
  }

  /** Not while someone waits for the build: a file that is written anew may have to reach the disk. */
  #noteLast(folder: string): void {
    writeFileSync(this.#paths.last, folder);
    this.#last = undefined;
  }

  /** Each once, as long as it stands: rustc repeats them in every run. */
  #reportWarnings(warnings: readonly Diagnostic[]): void {
    for (const { rendered, text } of warnings) {
      const line = rendered ?? text;
      if (this.#warned.has(line)) continue;
      this.#warned.add(line);
      this.#options.report({ event: 'log', level: 'warn', text: line });
    }
  }

  /** The user's own linker, when they named one. */
  #linker(): Linker {
    const own = this.#inputs.units.at(-1)?.linker;
    if (own === undefined) return this.#toolchain.linker;
    return this.platform === 'wasm' ? linkerOf(own) : { program: own, prefix: [] };
  }

  #newStore(): string {
    // By its name the next start knows whether its owner still lives.
    return mkdtempSync(join(this.#paths.links, `${process.pid}-`));
  }

  /** Of an earlier start, it is made our own: a hotslot that still runs beside us removes its folders as it goes on. */
  #lastLink(): string | undefined {
    const folder = readIfThere(this.#paths.last);
    return folder === undefined ? undefined : this.#own(folder);
  }

  /** The folder of a link, kept by us. Undefined when it is gone. */
  #own(folder: string): string | undefined {
    if (!existsSync(join(folder, 'line'))) return undefined;
    if (basename(dirname(folder)).startsWith(`${process.pid}-`)) return folder;
    const own = join(this.#newStore(), basename(folder));
    return copyLink(folder, own) ? own : undefined;
  }

  /** One run at a time, also when the one before was aborted: it rejects only after its processes are gone. */
  #exclusive<T>(signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const either = AbortSignal.any([signal, this.#closing.signal]);
    const turn = this.#previous.then(async () => {
      await this.#rest;
      either.throwIfAborted();
      return work(either);
    });
    this.#previous = turn.catch(() => undefined);
    return turn;
  }
}
