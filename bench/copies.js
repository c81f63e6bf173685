// A program in; copies of it in which nothing but the benchmark writes, and rustc alone at work in one of them, out.
import { spawn } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { createBuilder } from '../dist/build/builder.js';
import { readCaptures } from '../dist/build/capture.js';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));
const FOLDER = join(ROOT, '.cache/bench');
const COPIES = ['live', 'floor', 'plain'];
/** rustc writes its caches after hotslot has what it wants; the next measurement shall not run beside that. */
const PAUSE_MS = 700;

/** Folders by the names of `COPIES`. What cargo built there before stays. */
export function makeCopies(program) {
  const folders = Object.fromEntries(COPIES.map((copy) => [copy, join(FOLDER, program.name, copy)]));
  for (const folder of Object.values(folders)) {
    rmSync(join(folder, 'src'), { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    program.write(folder);
  }
  return folders;
}

export function apply(folder, { file, text }) {
  writeFileSync(join(folder, file), text);
}

/** Between two measurements. */
export function pause() {
  return setTimeout(PAUSE_MS);
}

/** The last call of rustc as hotslot's build records and repeats it. */
export async function openFloor(program, folder, toolchain) {
  const builder = await createBuilder(
    { directory: folder, features: [], target: toolchain.target, arenaBytes: 1 << 20, report: () => {} },
    toolchain,
  );
  await buildBase(builder);
  await builder.close();
  const captures = readCaptures(join(builder.folder, 'captures'));
  const unit = captures.find(({ crate, host }) => crate === program.name && !host);
  const store = join(FOLDER, program.name, 'store');
  return {
    async edit(edit) {
      apply(folder, edit);
      rmSync(store, { recursive: true, force: true });
      mkdirSync(store);
      await pause();
      const started = performance.now();
      const child = spawn(toolchain.rustc, [...toolchain.prefix, ...unit.args], {
        cwd: unit.directory,
        env: { ...unit.environment, HOTSLOT_STORE: store },
        stdio: 'ignore',
      });
      const status = await new Promise((resolve) => child.once('exit', resolve));
      if (status !== 0) throw new Error(`rustc ended with ${status}`);
      return performance.now() - started;
    },
  };
}

export async function buildBase(builder) {
  const built = await builder.base(new AbortController().signal);
  if (built.kind === 'failed') throw new Error(built.diagnostics.map(({ text }) => text).join('\n'));
  return built;
}

/** One edit after the other in each copy, `rounds` times, with numbers behind `last`. */
export async function alternate(program, { live, floor, plain }, last, { rounds, progress }, figures) {
  // The first round finds caches cold that a session then keeps warm, and is not counted.
  for (let round = 0; round <= rounds; round++) {
    progress(`${program.name}: round ${round} of ${rounds}`);
    const edit = program.edit(last + 1 + round);
    const measured = {
      ...(await live.edit(edit)),
      rustc_ms: await floor.edit(edit),
      rebuild_ms: await plain.edit(edit),
    };
    if (round > 0) figures.add(measured);
  }
}
