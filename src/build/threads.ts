// In: cargo's configuration, and whether threads were asked for. Out: whether a wasm program has threads, and the flags
// that give them to one whose own configuration does not.
//
// Threads on the web are instances of one module that share a memory. The module needs atomic instructions throughout,
// std included, a memory that is imported and declared shared, and exports by which wasm-bindgen sets up the
// thread-locals of each instance.

import type { Configuration } from './configuration.ts';
import type { CargoOptions } from './package.ts';

/** For std and everything else in a program with threads. */
export const ATOMICS = '-Ctarget-feature=+atomics,+bulk-memory,+mutable-globals';

/** A shared memory must say how large it can get. */
const MAX_MEMORY_BYTES = 1 << 30;

const LINKING = [
  '--shared-memory',
  '--import-memory',
  `--max-memory=${MAX_MEMORY_BYTES}`,
  ...['__wasm_init_tls', '__tls_size', '__tls_align', '__tls_base', '__heap_base'].map((name) => `--export=${name}`),
];

export interface Threads {
  /** In place of what the configuration says, when that does not suffice. */
  readonly rustflags: readonly string[] | undefined;
  /** The crate has its own cargo build std. */
  readonly buildsStd: boolean;
}

/** Undefined for a program without threads. */
export function threadsOf(options: CargoOptions, { rustflags, buildsStd }: Configuration): Threads | undefined {
  if (hasAtomics(rustflags)) return { rustflags: undefined, buildsStd };
  if (options.threads !== true) return undefined;
  return { rustflags: [...rustflags, ATOMICS, ...LINKING.map((argument) => `-Clink-arg=${argument}`)], buildsStd };
}

/** `-Ctarget-feature=…`, in one argument or two; the last word on a feature counts. */
function hasAtomics(rustflags: readonly string[]): boolean {
  const features = rustflags.flatMap((flag) => /^(?:-C\s*)?target-feature=(.*)$/.exec(flag)?.[1]?.split(',') ?? []);
  return features.findLast((feature) => /^[+-]atomics$/.test(feature)) === '+atomics';
}
