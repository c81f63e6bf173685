// In: the version of wasm-bindgen that a crate's lock file names. Out: the command line tool of exactly that version.

import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { cachePath, makeOnce } from './cache.ts';
import { DiagnosticError, readCargoErrors } from './diagnostic.ts';
import { ask, run } from './process.ts';
import type { Rust } from './rust.ts';

/** From the cache, or from PATH when it happens to be the same version. */
export async function findBindgen(version: string): Promise<string | undefined> {
  const cached = join(bindgenPath(version), 'bin/wasm-bindgen');
  if (existsSync(cached)) return cached;
  const answer = await ask('wasm-bindgen', ['--version']);
  return answer?.trim() === `wasm-bindgen ${version}` ? 'wasm-bindgen' : undefined;
}

/** Throws a `DiagnosticError` that says how to get it. */
export async function requireBindgen(version: string): Promise<string> {
  const bindgen = await findBindgen(version);
  if (bindgen !== undefined) return bindgen;
  const { name, why, fix } = describeMissing(version);
  throw new DiagnosticError({ severity: 'error', text: `${name}: ${why}`, hint: fix });
}

export function describeMissing(version: string): {
  readonly name: string;
  readonly why: string;
  readonly fix: string;
} {
  return {
    name: `wasm-bindgen ${version}`,
    why: 'not installed in exactly the version of the lock file',
    fix: 'npx hotslot doctor --fix',
  };
}

/** Two or three minutes. */
export async function installBindgen(version: string, rust: Rust, progress: (text: string) => void): Promise<void> {
  const path = bindgenPath(version);
  await makeOnce(
    path,
    () => existsSync(join(path, 'bin/wasm-bindgen')),
    async (folder) => {
      // The lock file it was published with may name versions that a mirror lacks.
      const failed = await install(version, folder, rust, ['--locked'], progress);
      if (failed === undefined) return;
      const again = await install(version, folder, rust, [], progress);
      if (again !== undefined) throw new DiagnosticError(...readCargoErrors(again, path));
    },
  );
}

async function install(
  version: string,
  folder: string,
  rust: Rust,
  flags: readonly string[],
  progress: (text: string) => void,
): Promise<string | undefined> {
  const target = join(folder, 'target');
  const { RUSTFLAGS: _, CARGO_ENCODED_RUSTFLAGS: _encoded, CARGO_BUILD_TARGET: _target, ...environment } = process.env;
  const errors: string[] = [];
  let count = 0;
  progress(`installing wasm-bindgen ${version}`);
  const { status } = await run(
    rust.cargo,
    [
      'install',
      'wasm-bindgen-cli',
      '--version',
      version,
      '--bin',
      'wasm-bindgen',
      '--root',
      folder,
      '--target-dir',
      target,
      '--no-track',
      ...flags,
    ],
    {
      // Away from the user's project and its configuration.
      cwd: folder,
      env: { ...environment, RUSTC: rust.rustc },
      onStderr: (line) => {
        errors.push(line);
        const crate = /^\s*Compiling (\S+)/.exec(line)?.[1];
        if (crate === undefined) return;
        count += 1;
        progress(`installing wasm-bindgen ${version}: crate ${count}, ${crate}`);
      },
    },
  );
  if (status !== 0) return errors.join('\n');
  rmSync(target, { recursive: true });
  return undefined;
}

function bindgenPath(version: string): string {
  return cachePath('wasm-bindgen', version);
}
