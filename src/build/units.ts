// Units that are out of date in, dependencies first. Out: what rustc says of each, the word that the last one has been
// linked, and its objects where the linker script keeps them.

import type { Unit } from './capture.ts';
import { standBy } from './process.ts';
import { type RustcResult, runRustc } from './rustc.ts';
import type { Toolchain } from './rust.ts';

/** Until what rustc built has become a patch: what is to be done then takes as long as this. */
const STAND_BY_MS = 100;

interface UnitsRun {
  readonly toolchain: Toolchain;
  /** The folder that the linker script keeps objects in. */
  readonly store: string;
  /** rustc is done with the last one but for keeping its objects. */
  readonly onLinking: () => void;
  /** rustc begins to read the unit's files. */
  readonly onBegin: (unit: Unit) => void;
  /** It was not built, for whatever reason. */
  readonly onFail: (unit: Unit) => void;
}

export interface RunningUnits {
  /** True once the last one's objects are there; false when all has ended without. */
  readonly linked: Promise<boolean>;
  /** Of each unit; undefined for one whose dependency failed. What rustc saves for its next run has been written. */
  readonly results: Promise<readonly (RustcResult | undefined)[]>;
}

export function buildUnits(
  units: readonly Unit[],
  { toolchain, store, onLinking, onBegin, onFail }: UnitsRun,
  signal: AbortSignal,
): RunningUnits {
  const linked = makeGate();
  const outputs = new Map(units.flatMap((unit) => unit.outputs).map((path) => [path, makeGate()]));
  const build = async (unit: Unit): Promise<RustcResult | undefined> => {
    const isLast = unit === units.at(-1);
    let succeeded = false;
    try {
      // `.rmeta` for a library, which can start early; `.rlib` for what is linked.
      const needed = await Promise.all(unit.externs.map((path) => outputs.get(path)?.opened ?? Promise.resolve(true)));
      if (needed.includes(false)) return undefined;
      onBegin(unit);
      const result = await runRustc(
        unit,
        {
          rustc: toolchain.rustc,
          prefix: toolchain.prefix,
          environment: { HOTSLOT_STORE: store, ...(isLast && { HOTSLOT_NOTIFY: '1' }) },
          onArtifact: (path) => outputs.get(path)?.open(true),
          ...(isLast && { onStage: (stage) => (stage === 'linked' ? linked.open(true) : onLinking()) }),
        },
        signal,
      );
      succeeded = result.succeeded;
      return result;
    } finally {
      if (!succeeded) onFail(unit);
      for (const path of unit.outputs) outputs.get(path)?.open(succeeded);
    }
  };
  // Settled as a whole: one that was killed must not leave another writing.
  const results = Promise.allSettled(units.map(build)).then((ends) => {
    setTimeout(standBy, STAND_BY_MS).unref();
    return ends.map((end) => {
      if (end.status === 'rejected') throw end.reason;
      return end.value;
    });
  });
  return { linked: Promise.race([linked.opened, results.then(() => false)]), results };
}

/** Something others wait for: done, or known never to be. The first word counts. */
function makeGate(): { readonly opened: Promise<boolean>; readonly open: (done: boolean) => void } {
  let open!: (done: boolean) => void;
  const opened = new Promise<boolean>((resolve) => (open = resolve));
  return { opened, open };
}
