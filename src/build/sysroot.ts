// In: a Rust with std's sources but without the target. Out: a sysroot in the cache that has both.
//
// std is built once, by an empty crate and cargo's build-std; its rlibs beside symbolic links to everything else of the
// toolchain make a sysroot that behaves as if the target had been installed, with no unstable flag from then on.

import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { cachePath, makeOnce } from './cache.ts';
import { DiagnosticError, readCargoErrors } from './diagnostic.ts';
import { TARGET } from './package.ts';
import { run } from './process.ts';
import type { Rust } from './rust.ts';
import { ATOMICS } from './threads.ts';

/** How std is compiled: for one thread, or with atomics, for many. */
export type Flavour = 'plain' | 'atomics';

/** Its path, when it has been made for exactly this compiler. */
export function findSysroot(rust: Rust, flavour: Flavour): string | undefined {
  const path = sysrootPath(rust, flavour);
  return existsSync(join(path, 'rustc')) ? path : undefined;
}

/** About half a minute. */
export async function makeSysroot(rust: Rust, flavour: Flavour, progress: (text: string) => void): Promise<void> {
  const path = sysrootPath(rust, flavour);
  await makeOnce(
    path,
    () => findSysroot(rust, flavour) !== undefined,
    async (folder) => {
      progress(`building std for ${TARGET}${nameOf(flavour)} (${rust.version.split('\n')[0]})`);
      const libraries = await buildStd(rust, flavour, join(folder, 'std'), progress);
      const rustlib = join(folder, 'lib/rustlib');
      const target = join(rustlib, TARGET, 'lib');
      mkdirSync(target, { recursive: true });
      for (const name of readdirSync(join(rust.sysroot, 'lib/rustlib')))
        if (name !== TARGET) symlinkSync(join(rust.sysroot, 'lib/rustlib', name), join(rustlib, name));
      for (const each of libraries) copyFileSync(each, join(target, each.slice(each.lastIndexOf('/') + 1)));
      rmSync(join(folder, 'std'), { recursive: true });
      const script = join(folder, 'rustc');
      writeFileSync(script, `#!/bin/sh\nexec ${quote(rust.rustc)} --sysroot ${quote(path)} "$@"\n`);
      chmodSync(script, 0o755);
    },
  );
}

async function buildStd(
  rust: Rust,
  flavour: Flavour,
  folder: string,
  progress: (text: string) => void,
): Promise<string[]> {
  mkdirSync(join(folder, 'src'), { recursive: true });
  writeFileSync(join(folder, 'src/lib.rs'), '#![no_std]\n');
  writeFileSync(join(folder, 'Cargo.toml'), '[package]\nname = "empty"\nedition = "2021"\n\n[workspace]\n');
  const { RUSTFLAGS: _, CARGO_ENCODED_RUSTFLAGS: _encoded, RUSTC_WRAPPER: _wrapper, ...environment } = process.env;
  const errors: string[] = [];
  const { status } = await run(
    rust.cargo,
    [
      'build',
      '--release',
      '--target',
      TARGET,
      '--target-dir',
      join(folder, 'target'),
      '-Zbuild-std=std,panic_abort,panic_unwind',
    ],
    {
      cwd: folder,
      env: {
        ...environment,
        RUSTC: rust.rustc,
        RUSTC_BOOTSTRAP: '1',
        ...(flavour === 'atomics' && { RUSTFLAGS: ATOMICS }),
      },
      onStderr: (line) => {
        errors.push(line);
        const crate = /^\s*Compiling (\S+)/.exec(line)?.[1];
        if (crate !== undefined) progress(`building std for ${TARGET}${nameOf(flavour)}: ${crate}`);
      },
    },
  );
  if (status !== 0) throw new DiagnosticError(...readCargoErrors(errors.join('\n'), folder));
  const output = join(folder, 'target', TARGET, 'release/deps');
  return readdirSync(output)
    .filter((name) => name.endsWith('.rlib') && !name.startsWith('libempty'))
    .map((name) => join(output, name));
}

function sysrootPath(rust: Rust, flavour: Flavour): string {
  const key = createHash('sha1').update(`${rust.version}\n${rust.sysroot}`).digest('hex').slice(0, 16);
  return cachePath('sysroot', flavour === 'plain' ? key : `${key}-${flavour}`);
}

function nameOf(flavour: Flavour): string {
  return flavour === 'plain' ? '' : ` with ${flavour}`;
}

function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
