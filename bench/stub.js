// Out: what a call through a stub costs more than a call, in nanoseconds, in a debug and in a release build.
//
// The same program is linked by cargo and, with stubs, by hotslot. All that its loop does is to call a small function,
// whose result the next call needs: the most that a stub can cost. Runs alternate; the fastest of each counts, as noise
// only ever adds.
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { createBuilder } from '../dist/build/builder.js';
import { TRIPLES } from '../dist/build/platform.js';
import { requireToolchain } from '../dist/build/toolchain.js';
import { stubObjects } from '../dist/link/stubs.js';
import { buildBase, ROOT } from './copies.js';
import { hundredths } from './figures.js';

const CALLS = 50_000_000;
const ROUNDS = 9;

const MANIFEST = `[package]
name = "stub"
version = "0.1.0"
edition = "2024"

[workspace]
`;

// Nothing but the function is called in the loop, in a debug build neither.
const MAIN = `use std::time::Instant;

fn main() {
    let mut value = std::hint::black_box(1);
    let mut count = 0_u32;
    let started = Instant::now();
    while count < ${CALLS} {
        value = step(value);
        count += 1;
    }
    let time = started.elapsed();
    std::hint::black_box(value);
    println!("{}", time.as_nanos());
}

#[inline(never)]
fn step(value: u64) -> u64 {
    (value << 5) ^ (value >> 3)
}
`;

export async function measureStubs({ progress }) {
  return { debug_ns: await costOf('debug', progress), release_ns: await costOf('release', progress) };
}

async function costOf(profile, progress) {
  progress(`stub: building for ${profile}`);
  const directory = join(ROOT, '.cache/bench/stub');
  mkdirSync(join(directory, 'src'), { recursive: true });
  writeFileSync(join(directory, 'Cargo.toml'), MANIFEST);
  writeFileSync(join(directory, 'src/main.rs'), MAIN);
  const options = {
    directory,
    features: [],
    target: TRIPLES.native,
    release: profile === 'release',
    arenaBytes: undefined,
    report: () => {},
  };
  const builder = await createBuilder(options, await requireToolchain(options));
  try {
    const { signal } = new AbortController();
    const outDir = join(directory, profile);
    await builder.plain(outDir, signal);
    const built = await buildBase(builder);
    const { path } = await builder.executable(built, stubObjects(built.objects).rewrite, signal);
    const [plain, stubbed] = [[], []];
    for (let round = 1; round <= ROUNDS; round++) {
      progress(`stub: ${profile}, round ${round} of ${ROUNDS}`);
      plain.push(timeOf(join(outDir, builder.name)));
      stubbed.push(timeOf(path));
    }
    return hundredths((Math.min(...stubbed) - Math.min(...plain)) / CALLS);
  } finally {
    await builder.close();
  }
}

/** In nanoseconds. */
function timeOf(program) {
  return Number(execFileSync(program, { encoding: 'utf8' }));
}
