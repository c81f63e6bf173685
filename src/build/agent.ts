// In: a toolchain. Out: the object of hotslot's agent for native programs, compiled once by that very compiler.

import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cachePath, makeOnce } from './cache.ts';
import { DiagnosticError } from './diagnostic.ts';
import { run } from './process.ts';
import type { Toolchain } from './rust.ts';

/** The same place in a checkout and in the installed package, seen from the sources as from what they compile to. */
const SOURCES = fileURLToPath(new URL('../../crates/agent/src', import.meta.url));

const FLAGS = (
  '--edition 2024 --crate-name hotslot_agent --crate-type lib --emit obj ' +
  '-C panic=abort -C opt-level=2 -C codegen-units=1'
).split(' ');

/**
 * Path of the object, in the cache. It is position-independent, which programs for fixed addresses take as well. Throws a
 * `DiagnosticError` when the compiler is too old for it.
 */
export async function findAgent({ rustc, rust, environment }: Toolchain): Promise<string> {
  const folder = cachePath('agent', keyOf(rust.version));
  const object = join(folder, 'agent.o');
  if (existsSync(object)) return object;
  await makeOnce(
    folder,
    () => existsSync(object),
    async (making) => {
      const args = [...FLAGS, '-o', join(making, 'agent.o'), join(SOURCES, 'lib.rs')];
      const { status, stderr } = await run(rustc, args, { cwd: making, env: environment });
      if (status === 0) return;
      throw new DiagnosticError({
        severity: 'error',
        text: `${rust.version.split('\n')[0]} cannot compile hotslot's agent for native programs`,
        notes: [stderr.trim()],
        hint: 'It takes Rust 1.85 or newer.',
      });
    },
  );
  return object;
}

/** Differs when anything that goes into the object does. */
function keyOf(version: string): string {
  const hash = createHash('sha1').update(JSON.stringify([version, ...FLAGS]));
  for (const name of readdirSync(SOURCES).sort()) hash.update(name).update(readFileSync(join(SOURCES, name)));
  return hash.digest('hex').slice(0, 16);
}
