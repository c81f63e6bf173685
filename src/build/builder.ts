// In: edits. Out: builds: the objects of the whole program as rustc leaves them, and, when asked, the linked program.
//
// cargo runs for the base build and whenever what it was told may have changed; its calls of rustc are recorded. An edit
// of Rust source only repeats the calls it affects. What is out of date is remembered until it has been built, so a build
// that is aborted or fails loses nothing: the next one starts from the same facts.

import { existsSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { copyFile, mkdir, rm } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, sep } from 'node:path';
import type { Build, BuildFailure, Diagnostic, Edit, Event, Executable, Image, Rewrite } from '../model.ts';
import { findAgent } from './agent.ts';
import { requireBindgen } from './bindgen.ts';
import { type Unit, readCaptures, readInputs, readVariables, unitsOf } from './capture.ts';
import { type BuildScript, type CargoRun, runCargo } from './cargo.ts';
import { askConfiguration } from './configuration.ts';
import { DiagnosticError, filesNamed } from './diagnostic.ts';
import { linkProgram, removePrograms } from './executable.ts';
import { bind, linksAlike, makeImage, readImage } from './image.ts';
import type { Inquiry } from './inquiry.ts';
import { askMetadata, cargoFiles, type CargoOptions, type Package, findPackage } from './package.ts';
import { recall, remember } from './memory.ts';
import { isFolder, modified, note, type Paths, preparePaths, readIfThere } from './paths.ts';
import type { Platform } from './platform.ts';
import { standBy } from './process.ts';
import { type RustcResult, runRustc } from './rustc.ts';
import { copyLink, type Linked, readLinked } from './store.ts';
import { type Linker, type Toolchain, linkerOf } from './rust.ts';
import { type Watched, type Watcher, watch } from './watch.ts';

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
  /** Builds what the edit touched. Returns the very same `Build` as before when that is nothing. */
  update(edit: Edit, signal: AbortSignal): Promise<Build | BuildFailure>;
  /** Links and binds a wasm program; `onMap` gets the map as soon as it is there. Throws a `DiagnosticError` when the linker or wasm-bindgen does not want to. */
  image(build: Build, signal: AbortSignal, onMap?: (map: string) => void): Promise<Image>;
  /** The image of a wasm program that an earlier start made, with the build it was made of. */
  earlier(): Promise<Earlier | undefined>;
  /**
   * Links a native program from rewritten objects and the agent. Each call makes a new file, named as cargo names it,
   * which stays until the build is released. Throws a `DiagnosticError` when the linker does not want to.
   */
  executable(build: Build, rewrite: Rewrite, signal: AbortSignal): Promise<Executable>;
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

/** In place of a unit's key: only cargo knows what to do. */
const CARGO = 'cargo';

class CargoBuilder implements Builder {
  readonly #options: BuildOptions;
  readonly #toolchain: Toolchain;
  readonly #paths: Paths;
  #project: Project;

  /** cargo has to run: at the start, and when what it was told may have changed. */
  #stale = true;
  /** What was found when the builder was made has been used. */
  #hasRun = false;
  /** Files changed since anything was built. */
  readonly #edited = new Set<string>();
  /** Keys of units that are out of date. */
  readonly #dirty = new Set<string>();
  /** Dependencies first; the last one is the program. */
  #units: readonly Unit[] = [];
  /** Which units (by key) have to be built again when a file changes, or `CARGO`, where rustc alone would not do. */
  #readers = new Map<string, Set<string>>();
  /** Files that the last errors are about, which need not be among the inputs: one that is missing, or cannot be parsed. */
  #blamed: readonly string[] = [];
  #buildScripts: readonly BuildScript[] = [];
  /** What has been built: each file that went into it, and when that had been modified. */
  readonly #built = new Map<string, number>();
  /** Cargo.lock as cargo left it: writing it is no edit. */
  #lock: string | undefined;

  #build: Build | undefined;
  readonly #links = new WeakMap<Build, Linked>();
  /** Their images may be served from their folders. */
  readonly #pinned = new Set<Linked>();
  /** The run before, and what is left of it: the next one waits until nothing of them writes any more. */
  #previous: Promise<unknown> = Promise.resolve();
  #rest: Promise<unknown> = Promise.resolve();
  readonly #clearing: Promise<unknown>;
  #agentPath: Promise<string> | undefined;
  #watcher: Watcher | undefined;
  readonly #warned = new Set<string>();
  readonly #closing = new AbortController();

  constructor(options: BuildOptions, toolchain: Toolchain, project: Project) {
    this.#options = options;
    this.#toolchain = toolchain;
    this.#project = project;
    this.#paths = preparePaths(options, project.package, toolchain);
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
    const given = Object.entries(this.#units.at(-1)?.environment ?? {});
    return Object.fromEntries(given.filter(([name]) => /^(CARGO|CARGO_(MANIFEST|PKG)_.*|OUT_DIR)$/.test(name)));
  }

  base(signal: AbortSignal): Promise<Build | BuildFailure> {
    // Beside the first build, for the first edit.
    setImmediate(standBy);
    // Compiled beside the first build; whether that went well is asked when it is linked.
    if (this.platform === 'native') this.#agent().catch(() => undefined);
    return this.#exclusive(signal, async (either) => {
      const last = this.#resume();
      if (last === undefined) return this.#runCargo(either);
      return this.#dirty.size === 0 ? this.#finish(last, 0) : this.#runUnits(either);
    });
  }

  update(edit: Edit, signal: AbortSignal): Promise<Build | BuildFailure> {
    // Noted at once, also when this build is aborted while it waits for the one before.
    for (const path of edit.paths) this.#edited.add(path);
    return this.#exclusive(signal, async (either) => {
      if (!this.#stale) this.#classify();
      if (this.#stale) return this.#runCargo(either);
      if (this.#dirty.size === 0 && this.#build) return this.#build;
      return this.#runUnits(either);
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
    if (path === undefined || this.#units.length === 0 || tools.join() !== this.#imageTools().join()) return undefined;
    const folder = this.#own(path);
    if (folder === undefined) return undefined;
    const linked = this.#read(folder);
    this.#pinned.add(linked);
    const build: Build = { kind: 'built', objects: linked.objects, archives: linked.archives, rustcMs: 0 };
    const image = await readImage(linked, this.name);
    note(this.#paths.image, [folder, ...tools].join('\n'));
    return { build, image, isLike: (other) => linksAlike(linked, this.#linkOf(other, 'wasm')) };
  }

  /** All that an image depends on besides the link. */
  #imageTools(): string[] {
    const { program, prefix } = this.#linker();
    return [this.#project.bindgen, program, ...prefix, String(this.#options.arenaBytes), this.name];
  }

  async executable(build: Build, rewrite: Rewrite, signal: AbortSignal): Promise<Executable> {
    const linked = this.#linkOf(build, 'native');
    const root = this.#units.at(-1);
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
    if (!linked) return;
    this.#pinned.delete(linked);
    removePrograms(linked);
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

  async watch(onEdit: (edit: Edit) => void): Promise<() => Promise<void>> {
    const since = Date.now();
    const watcher = await watch(this.#watched(), [this.#project.package.targetDirectory, this.#paths.target], onEdit);
    this.#watcher = watcher;
    // What became known meanwhile.
    watcher.add(this.#watched(), since);
    return () => watcher.close();
  }

  async close(): Promise<void> {
    this.#closing.abort(new Error('the builder was closed'));
    await this.#watcher?.close();
    await this.#previous;
    await this.#rest;
    await this.#clearing;
  }

  // ------------------------------------------------------------------------------------------------- what an edit touches

  #classify(): void {
    for (const path of this.#edited) {
      for (const key of this.#readers.get(path) ?? []) {
        if (key === CARGO) this.#stale = true;
        else this.#dirty.add(key);
      }
      if (this.#isForCargo(path)) this.#stale = true;
    }
    this.#edited.clear();
  }

  #isForCargo(path: string): boolean {
    if (path === join(this.workspace, 'Cargo.lock')) return readIfThere(path) !== this.#lock;
    if (cargoFiles(this.#options.directory, this.workspace).includes(path)) return true;
    for (const { directory } of this.#project.package.editable)
      // Files that mean something to cargo by their name alone, also when they appear.
      if (['Cargo.toml', 'build.rs', 'src/lib.rs', 'src/main.rs'].some((name) => path === join(directory, name)))
        if (basename(path) === 'Cargo.toml' || !this.#readers.has(path)) return true;
    return this.#buildScripts.some(({ directory, inputs }) =>
      (inputs ?? [directory]).some((input) => path === input || path.startsWith(input + sep)),
    );
  }

  #watched(): Watched {
    const folders = this.#project.package.editable.map((each) => each.directory);
    const named = this.#buildScripts.flatMap((each) => each.inputs ?? []);
    return {
      folders: [...folders, ...named.filter(isFolder)],
      files: [
        ...cargoFiles(this.#options.directory, this.workspace),
        ...this.#readers.keys(),
        ...this.#blamed,
        ...named.filter((path) => !isFolder(path)),
      ],
    };
  }

  // ------------------------------------------------------------------------------------------------- from start to start

  /**
   * Takes up where an earlier run left off: when nothing has changed that cargo would have to judge, rustc alone brings
   * up to date what was edited since. Returns the folder of the last link; undefined when cargo has to run.
   */
  #resume(): string | undefined {
    const built = recall(this.#paths.built) as Record<string, number> | undefined;
    const last = this.#lastLink();
    if (built === undefined || last === undefined) return undefined;
    const captured = readCaptures(this.#paths.captures);
    const root = this.#rootOf(captured, last);
    if (root === undefined) return undefined;
    const units = unitsOf(root, captured);
    const isThere = units.every(
      (unit) =>
        [...unit.outputs, ...unit.externs].every((path) => existsSync(path)) &&
        readVariables(unit).every((name) => process.env[name] === unit.environment[name]),
    );
    if (!isThere) return undefined;
    this.#units = units;
    this.#lock = readIfThere(join(this.workspace, 'Cargo.lock'));
    this.#readInputs(Date.now());
    for (const [path, keys] of this.#readers) {
      const time = built[path];
      if (time !== undefined && time === modified(path)) this.#built.set(path, time);
      else for (const key of keys) this.#dirty.add(key);
    }
    this.#stale = false;
    this.#hasRun = true;
    return last;
  }

  /**
   * These files have been built as they were before the run, at `times`. A file that was not known then counts when it is
   * older than the run.
   */
  #remember(files: Iterable<string>, times: ReadonlyMap<string, number>, startedAt: number): void {
    for (const path of files) {
      const time = times.get(path) ?? modified(path);
      // A file's time may be some milliseconds behind the clock.
      if (times.has(path) || time < startedAt - 10) this.#built.set(path, time);
      else this.#built.delete(path);
    }
    // What a build script reads and does is cargo's to judge.
    if (this.#buildScripts.length > 0) return rmSync(this.#paths.built, { force: true });
    const forCargo = [...this.#readers].filter(([, keys]) => keys.has(CARGO)).map(([path]) => path);
    const named = this.#project.package.editable.flatMap(({ directory }) => [
      join(directory, 'Cargo.toml'),
      ...['build.rs', 'src/lib.rs', 'src/main.rs'].map((name) => join(directory, name)),
    ]);
    const judged = [
      ...cargoFiles(this.#options.directory, this.workspace),
      ...named.filter((path) => !this.#readers.has(path)),
      ...forCargo,
    ];
    remember(this.#paths.built, judged, Object.fromEntries(this.#built));
  }

  // -------------------------------------------------------------------------------------------------------------- cargo

  async #runCargo(signal: AbortSignal): Promise<Build | BuildFailure> {
    const started = performance.now();
    const startedAt = Date.now();
    // cargo finds out for itself what changed until now. It stays responsible until it has succeeded.
    this.#stale = true;
    this.#edited.clear();
    this.#dirty.clear();
    try {
      // Its manifest may have changed: features, dependencies, and with them wasm-bindgen's version.
      if (this.#hasRun) {
        const inquiry = ask(this.#options, this.#toolchain, signal);
        this.#project = await findProject(this.#options, this.#toolchain, inquiry);
      }
    } catch (error) {
      if (!(error instanceof DiagnosticError)) throw error;
      return { kind: 'failed', diagnostics: error.diagnostics, rustcMs: performance.now() - started };
    }
    this.#hasRun = true;
    const built = await this.#cargoBuild(started, startedAt, signal);
    if (built.kind === 'built') {
      this.#stale = false;
      this.#built.clear();
      this.#remember(this.#readers.keys(), new Map(), startedAt);
    }
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
    this.#buildScripts = result.scripts;
    this.#lock = readIfThere(join(this.workspace, 'Cargo.lock'));
    this.#reportWarnings(result.warnings);
    if (!result.succeeded) {
      // What it could not build may have no inputs yet; what has been built names its own.
      this.#readInputs(startedAt, result.errors);
      return { kind: 'failed', diagnostics: result.errors, rustcMs };
    }
    const captured = readCaptures(captures);
    // A library of the same package may have been linked beside it.
    const fresh = readdirSync(store).map((name) => join(store, name));
    const folder = fresh.find((path) => existsSync(join(path, 'line')) && this.#rootOf(captured, path)) ?? last;
    if (folder === undefined) throw new Error(`cargo built ${this.name}, but did not link it into ${store}`);
    const root = this.#rootOf(captured, folder);
    if (!root) throw new Error(`cargo built ${this.name}, but its call of rustc was not recorded in ${captures}`);
    this.#units = unitsOf(root, captured);
    this.#readInputs(startedAt);
    if (this.platform === 'native' && root.isStatic) return { kind: 'failed', diagnostics: [STATIC], rustcMs };
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

  async #runUnits(signal: AbortSignal): Promise<Build | BuildFailure> {
    const started = performance.now();
    const startedAt = Date.now();
    const units = this.#outOfDate();
    const inputs = units.flatMap(readInputs);
    const times = new Map(inputs.map((path) => [path, modified(path)]));
    // Remembered first: when this is aborted, those that have not been started are still out of date.
    for (const unit of units) this.#dirty.add(unit.key);
    const root = units.at(-1);
    if (!root) throw new Error('expected a unit to build');
    const store = this.#newStore();
    const linked = makeGate();
    // Once the objects are there, an abort comes too late to save anything, and would cost rustc its caches.
    const untilLinked = new AbortController();
    const abort = (): void => untilLinked.abort(signal.reason);
    signal.addEventListener('abort', abort, { once: true });

    const outputs = new Map(units.flatMap((unit) => unit.outputs).map((path) => [path, makeGate()]));
    const build = async (unit: Unit): Promise<RustcResult | undefined> => {
      let succeeded = false;
      try {
        // `.rmeta` for a library, which can start early; `.rlib` for what is linked.
        const needed = await Promise.all(
          unit.externs.map((path) => outputs.get(path)?.opened ?? Promise.resolve(true)),
        );
        if (needed.includes(false)) return undefined;
        this.#dirty.delete(unit.key);
        const result = await runRustc(
          unit,
          {
            rustc: this.#toolchain.rustc,
            prefix: this.#toolchain.prefix,
            environment: { HOTSLOT_STORE: store, ...(unit === root && { HOTSLOT_NOTIFY: '1' }) },
            onArtifact: (path) => outputs.get(path)?.open(true),
            ...(unit === root && { onLinked: () => linked.open(true) }),
          },
          untilLinked.signal,
        );
        succeeded = result.succeeded;
        return result;
      } finally {
        if (!succeeded) this.#dirty.add(unit.key);
        for (const path of unit.outputs) outputs.get(path)?.open(succeeded);
      }
    };
    // Settled as a whole: one that was killed must not leave another writing.
    const all = Promise.allSettled(units.map(build)).then((ends) => {
      standBy();
      return ends.map((end) => {
        if (end.status === 'rejected') throw end.reason;
        return end.value;
      });
    });
    this.#rest = all.catch(() => undefined);
    const isLinked = await Promise.race([linked.opened, all.then(() => false)]);
    signal.removeEventListener('abort', abort);
    const rustcMs = performance.now() - started;
    // Both can happen at once: the word that all is linked was on its way when rustc was killed.
    if (isLinked && untilLinked.signal.aborted) await all;
    if (isLinked) {
      this.#rest = all.then((results) => {
        this.#expectSuccess(results, startedAt);
        if (results.every((each) => each?.succeeded)) this.#remember(units.flatMap(readInputs), times, startedAt);
      });
      return this.#finish(join(store, basename(root.linked)), rustcMs);
    }

    const results = (await all).filter((each) => each !== undefined);
    this.#reportWarnings(results.flatMap((each) => each.warnings));
    const errors = results.flatMap((each) => each.errors);
    // Not about the source: an argument that no longer fits, a dependency that is gone. cargo puts that right, or says why.
    if (errors.every((each) => each.place === undefined)) return this.#runCargo(signal);
    this.#readInputs(startedAt, errors);
    return { kind: 'failed', diagnostics: errors, rustcMs };
  }

  /** rustc has delivered its objects; should it then fail after all, the next build does its work again. */
  #expectSuccess(results: readonly (RustcResult | undefined)[], startedAt: number): void {
    this.#reportWarnings(results.flatMap((each) => each?.warnings ?? []));
    this.#readInputs(startedAt);
    for (const error of results.flatMap((each) => each?.errors ?? []))
      this.#options.report({ event: 'log', level: 'error', text: `rustc failed after linking: ${error.text}` });
  }

  /** What is out of date and all that depends on it, in order. */
  #outOfDate(): Unit[] {
    const changed = new Set<string>();
    return this.#units.filter((unit) => {
      const affected = this.#dirty.has(unit.key) || unit.externs.some((path) => changed.has(path));
      if (affected) for (const path of unit.outputs) changed.add(path);
      return affected;
    });
  }

  // ------------------------------------------------------------------------------------------------------------- results

  #read(folder: string): Linked {
    const editable = new Set(this.#units.flatMap((unit) => unit.outputs).map((path) => basename(path)));
    return readLinked(folder, editable, this.platform);
  }

  #finish(folder: string, rustcMs: number): Build {
    const linked = this.#read(folder);
    const build: Build = { kind: 'built', objects: linked.objects, archives: linked.archives, rustcMs };
    this.#links.set(build, linked);
    this.#build = build;
    writeFileSync(this.#paths.last, folder);
    return build;
  }

  /** After a run that began at `startedAt`, and ended with these errors. */
  #readInputs(startedAt: number, errors: readonly Diagnostic[] = []): void {
    const readers = new Map<string, Set<string>>();
    const add = (path: string, key: string): void => {
      if (path.startsWith(this.#paths.target + sep)) return;
      readers.set(path, (readers.get(path) ?? new Set()).add(key));
    };
    for (const unit of this.#units) for (const path of readInputs(unit)) add(path, unit.key);
    for (const unit of readCaptures(this.#paths.captures))
      if (unit.host) for (const path of readInputs(unit)) add(path, CARGO);
    this.#readers = readers;
    const bases = [this.workspace, ...this.#project.package.editable.map(({ directory }) => directory)];
    this.#blamed = filesNamed(errors).flatMap((path) =>
      isAbsolute(path) ? [path] : bases.map((base) => join(base, path)),
    );
    this.#watcher?.add(this.#watched(), startedAt);
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
    const own = this.#units.at(-1)?.linker;
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

/** Something others wait for: done, or known never to be. The first word counts. */
function makeGate(): { readonly opened: Promise<boolean>; readonly open: (done: boolean) => void } {
  let open!: (done: boolean) => void;
  const opened = new Promise<boolean>((resolve) => (open = resolve));
  return { opened, open };
}
