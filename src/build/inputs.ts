// In: the units of a program, the files that each was made of, and edits. Out: which units are out of date, whether cargo
// has to judge, and what to watch.
//
// What is out of date stays so until it has been built: a run that is aborted or fails loses nothing. What has been built
// of which files is kept from start to start.

import { existsSync, rmSync } from 'node:fs';
import { isAbsolute, join, sep } from 'node:path';
import type { Diagnostic, Edit } from '../model.ts';
import { readCaptures, readInputs, readVariables, type Unit } from './capture.ts';
import type { BuildScript } from './cargo.ts';
import { filesNamed } from './diagnostic.ts';
import { recall, remember } from './memory.ts';
import { cargoFiles, type Package } from './package.ts';
import { isFolder, modified, type Paths, readIfThere } from './paths.ts';
import { type Watched, type Watcher, watch } from './watch.ts';

/** In place of a unit's key: only cargo knows what to do. */
const CARGO = 'cargo';

/** Files of these names mean something to cargo, also when they appear. */
const NAMED_FOR_CARGO = ['build.rs', 'src/lib.rs', 'src/main.rs'];

/** Files that a run is about to read, and when each had been modified. */
export type Times = ReadonlyMap<string, number>;

export class Inputs {
  /** Where cargo is run. */
  readonly #directory: string;
  readonly #paths: Paths;
  #package: Package;
  /** cargo has to run: at the start, and when what it was told may have changed. */
  #isForCargo = true;
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
  #watcher: Watcher | undefined;

  constructor(directory: string, paths: Paths, found: Package) {
    this.#directory = directory;
    this.#paths = paths;
    this.#package = found;
  }

  /** Dependencies first; the last one is the program. Empty before the first build. */
  get units(): readonly Unit[] {
    return this.#units;
  }

  get isForCargo(): boolean {
    return this.#isForCargo;
  }

  get isUpToDate(): boolean {
    return !this.#isForCargo && this.#dirty.size === 0;
  }

  async watch(onEdit: (edit: Edit) => void): Promise<() => Promise<void>> {
    const since = Date.now();
    const watcher = await watch(this.#watched(), [this.#package.targetDirectory, this.#paths.target], onEdit);
    this.#watcher = watcher;
    // What became known meanwhile.
    watcher.add(this.#watched(), since);
    return () => watcher.close();
  }

  async close(): Promise<void> {
    await this.#watcher?.close();
  }

  // ---------------------------------------------------------------------------------------------------------- edits

  note(paths: Iterable<string>): void {
    for (const path of paths) this.#edited.add(path);
  }

  /** Finds out whose the edited files are. */
  classify(): void {
    if (this.#isForCargo) return;
    for (const path of this.#edited) {
      for (const key of this.#readers.get(path) ?? []) {
        if (key === CARGO) this.#isForCargo = true;
        else this.#dirty.add(key);
      }
      if (this.#meansMoreToCargo(path)) this.#isForCargo = true;
    }
    this.#edited.clear();
  }

  /** The file means something to cargo besides being read by a unit. */
  #meansMoreToCargo(path: string): boolean {
    if (path === join(this.#package.workspace, 'Cargo.lock')) return readIfThere(path) !== this.#lock;
    if (cargoFiles(this.#directory, this.#package.workspace).includes(path)) return true;
    for (const { directory } of this.#package.editable) {
      if (path === join(directory, 'Cargo.toml')) return true;
      if (NAMED_FOR_CARGO.some((name) => path === join(directory, name)) && !this.#readers.has(path)) return true;
    }
    return this.#buildScripts.some(({ directory, inputs }) =>
      (inputs ?? [directory]).some((input) => path === input || path.startsWith(input + sep)),
    );
  }

  /** What is out of date and all that depends on it, in order; and when their files had been modified. */
  outOfDate(): { readonly units: readonly Unit[]; readonly times: Times } {
    const changed = new Set<string>();
    const units = this.#units.filter((unit) => {
      const affected = this.#dirty.has(unit.key) || unit.externs.some((path) => changed.has(path));
      if (affected) for (const path of unit.outputs) changed.add(path);
      return affected;
    });
    // Remembered first: when the run is aborted, those that have not been started are still out of date.
    for (const unit of units) this.#dirty.add(unit.key);
    const times = new Map(units.flatMap(readInputs).map((path) => [path, modified(path)]));
    return { units, times };
  }

  /** rustc begins to read the unit's files. */
  begin(unit: Unit): void {
    this.#dirty.delete(unit.key);
  }

  /** rustc did not build it. */
  fail(unit: Unit): void {
    this.#dirty.add(unit.key);
  }

  /** What cargo's manifests say now. */
  use(found: Package): void {
    this.#package = found;
  }

  /** cargo finds out for itself what changed until now. It stays responsible until it has succeeded. */
  beginCargo(): void {
    this.#isForCargo = true;
    this.#edited.clear();
    this.#dirty.clear();
  }

  // -------------------------------------------------------------------------------------------------------- results

  /** cargo has run, be it in vain. */
  endCargo(scripts: readonly BuildScript[]): void {
    this.#buildScripts = scripts;
    this.#lock = readIfThere(join(this.#package.workspace, 'Cargo.lock'));
  }

  /** What the units were made of, after a run that began at `startedAt` and ended with these errors. */
  read(startedAt: number, errors: readonly Diagnostic[] = [], units: readonly Unit[] = this.#units): void {
    this.#units = units;
    const readers = new Map<string, Set<string>>();
    const add = (path: string, key: string): void => {
      if (path.startsWith(this.#paths.target + sep)) return;
      readers.set(path, (readers.get(path) ?? new Set()).add(key));
    };
    for (const unit of units) for (const path of readInputs(unit)) add(path, unit.key);
    for (const unit of readCaptures(this.#paths.captures))
      if (unit.host) for (const path of readInputs(unit)) add(path, CARGO);
    this.#readers = readers;
    const bases = [this.#package.workspace, ...this.#package.editable.map(({ directory }) => directory)];
    this.#blamed = filesNamed(errors).flatMap((path) =>
      isAbsolute(path) ? [path] : bases.map((base) => join(base, path)),
    );
    this.#watcher?.add(this.#watched(), startedAt);
  }

  #watched(): Watched {
    const folders = this.#package.editable.map((each) => each.directory);
    const named = this.#buildScripts.flatMap((each) => each.inputs ?? []);
    return {
      folders: [...folders, ...named.filter(isFolder)],
      files: [
        ...cargoFiles(this.#directory, this.#package.workspace),
        ...this.#readers.keys(),
        ...this.#blamed,
        ...named.filter((path) => !isFolder(path)),
      ],
    };
  }

  // ------------------------------------------------------------------------------------------- from start to start

  /**
   * Takes up where an earlier run left off: when nothing has changed that cargo would have to judge, rustc alone brings
   * up to date what was edited since. False when cargo has to run.
   */
  resume(units: readonly Unit[]): boolean {
    const built = recall(this.#paths.built) as Record<string, number> | undefined;
    const isThere = units.every(
      (unit) =>
        [...unit.outputs, ...unit.externs].every((path) => existsSync(path)) &&
        readVariables(unit).every((name) => process.env[name] === unit.environment[name]),
    );
    if (built === undefined || !isThere) return false;
    this.#lock = readIfThere(join(this.#package.workspace, 'Cargo.lock'));
    this.read(Date.now(), [], units);
    for (const [path, keys] of this.#readers) {
      const time = built[path];
      if (time !== undefined && time === modified(path)) this.#built.set(path, time);
      else for (const key of keys) this.#dirty.add(key);
    }
    this.#isForCargo = false;
    return true;
  }

  /** cargo has built everything, of files as they were at the latest when it began. */
  rememberAll(startedAt: number): void {
    this.#isForCargo = false;
    this.#built.clear();
    this.#remember(this.#readers.keys(), new Map(), startedAt);
  }

  /** rustc has built these units of files as they were at `times`. */
  remember(units: readonly Unit[], times: Times, startedAt: number): void {
    this.#remember(units.flatMap(readInputs), times, startedAt);
  }

  /** A file whose time was not known before the run counts when it is older than the run. */
  #remember(files: Iterable<string>, times: Times, startedAt: number): void {
    for (const path of files) {
      const time = times.get(path) ?? modified(path);
      // A file's time may be some milliseconds behind the clock.
      if (times.has(path) || time < startedAt - 10) this.#built.set(path, time);
      else this.#built.delete(path);
    }
    // What a build script reads and does is cargo's to judge.
    if (this.#buildScripts.length > 0) return rmSync(this.#paths.built, { force: true });
    const forCargo = [...this.#readers].filter(([, keys]) => keys.has(CARGO)).map(([path]) => path);
    const named = this.#package.editable.flatMap(({ directory }) =>
      ['Cargo.toml', ...NAMED_FOR_CARGO].map((name) => join(directory, name)),
    );
    const judged = [
      ...cargoFiles(this.#directory, this.#package.workspace),
      ...named.filter((path) => !this.#readers.has(path)),
      ...forCargo,
    ];
    remember(this.#paths.built, judged, Object.fromEntries(this.#built));
  }
}
