// A native crate's folder in; out, on standard output, how many milliseconds the link of its base with stubs takes, from
// rustc's objects to the program.
import { createBuilder } from '../dist/build/builder.js';
import { TRIPLES } from '../dist/build/platform.js';
import { requireToolchain } from '../dist/build/toolchain.js';
import { stubObjects } from '../dist/link/stubs.js';
import { buildBase } from './copies.js';

const options = {
  directory: process.argv[2],
  features: [],
  target: TRIPLES.native,
  arenaBytes: undefined,
  report: () => {},
};
const builder = await createBuilder(options, await requireToolchain(options));
const built = await buildBase(builder);
const started = performance.now();
const { rewrite } = stubObjects(built.objects);
const stubbed = performance.now();
await builder.executable(built, rewrite, new AbortController().signal);
const linked = performance.now();
await builder.close();
console.log(linked - started);
if (process.env.HOTSLOT_BENCH_VERBOSE) console.error(`stubs ${stubbed - started}, link ${linked - stubbed}`);
