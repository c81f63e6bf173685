// In: a package and a toolchain. Out: one run of cargo with the capturing scripts in place, and what it said.

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import type { Diagnostic, Event } from '../model.ts';
import type { Scripts } from './capture.ts';
import { type RustcMessage, isSummary, readCargoErrors, readDiagnostic } from './diagnostic.ts';
import { type CargoOptions, type Package, featureFlags } from './package.ts';
import { run } from './process.ts';
import type { Toolchain } from './rust.ts';

export interface CargoRun {
  readonly options: CargoOptions;
  readonly package: Package;
  readonly toolchain: Toolchain;
  readonly targetDirectory: string | undefined;
  /** Undefined: as cargo would do it by itself. */
  readonly capture: Capture | undefined;
  readonly report: (event: Event) => void;
}

interface Capture {
  readonly scripts: Scripts;
  /** Where the scripts put what they record. */
  readonly captures: string;
  readonly store: string;
  /** A wrapper of the user's own around rustc; empty when there is none. */
  readonly wrapper: string;
}

export interface CargoResult {
  readonly succeeded: boolean;
  /** The program, linked; with a capture, an empty file. */
  readonly output: string | undefined;
  readonly errors: readonly Diagnostic[];
  readonly warnings: readonly Diagnostic[];
  /** What cargo watches for the build scripts of editable packages. */
  readonly scripts: readonly BuildScript[];
}

export interface BuildScript {
  /** Of its package. */
  readonly directory: string;
  /** Files and folders named by `rerun-if-changed`; undefined: every file of the package. */
  readonly inputs: readonly string[] | undefined;
}

/** A line of `cargo build --message-format=json`; only the members that are read here. */
type CargoMessage =
  | { readonly reason: 'compiler-message'; readonly message: RustcMessage; readonly manifest_path: string }
  | {
      readonly reason: 'compiler-artifact';
      readonly package_id: string;
      readonly target: { readonly name: string };
      readonly filenames: readonly string[];
      readonly executable: string | null;
    }
  | { readonly reason: 'build-script-executed'; readonly package_id: string; readonly out_dir: string }
  | { readonly reason: 'build-finished'; readonly success: boolean };

export async function runCargo(cargo: CargoRun, signal: AbortSignal): Promise<CargoResult> {
  const { options, package: found, toolchain, report } = cargo;
  const errors: Diagnostic[] = [];
  const warnings: Diagnostic[] = [];
  const scripts: BuildScript[] = [];
  const stderr: string[] = [];
  let output: string | undefined;
  let done = 0;

  const read = (line: string): void => {
    if (!line.startsWith('{')) return;
    const message = JSON.parse(line) as CargoMessage;
    if (message.reason === 'compiler-artifact') {
      done += 1;
      if (message.package_id === found.id)
        output =
          found.platform === 'native'
            ? (message.executable ?? output)
            : (message.filenames.find((path) => path.endsWith('.wasm')) ?? output);
      report({ event: 'progress', text: message.target.name, done, total: Math.max(done, found.units) });
    } else if (message.reason === 'compiler-message' && !isSummary(message.message)) {
      const diagnostic = readDiagnostic(message.message, (path) => locate(path, found, message.manifest_path));
      if (diagnostic.severity === 'error') errors.push(diagnostic);
      else if (diagnostic.severity === 'warning') warnings.push(diagnostic);
    } else if (message.reason === 'build-script-executed') {
      const directory = found.editable.find((each) => each.id === message.package_id)?.directory;
      if (directory !== undefined) scripts.push(readBuildScript(directory, join(dirname(message.out_dir), 'output')));
    }
  };

  const profile = options.profile ?? (options.release ? 'release' : 'dev');
  const { status } = await run(
    toolchain.cargo,
    [
      'build',
      '--message-format=json-diagnostic-rendered-ansi',
      // Also the machine at hand is named: then build scripts and macros, which are not patched, are set apart. What
      // cargo makes by itself is for that machine anyway.
      ...(cargo.capture || found.platform === 'wasm' ? ['--target', found.target] : []),
      '--profile',
      profile,
      '-p',
      found.id,
      ...found.selection,
      ...featureFlags(options),
      ...(toolchain.threads?.buildsStd === true ? ['-Zbuild-std=std,panic_abort'] : []),
      ...(cargo.targetDirectory === undefined ? [] : ['--target-dir', cargo.targetDirectory]),
    ],
    {
      cwd: options.directory,
      env: {
        ...toolchain.environment,
        CARGO_TERM_PROGRESS_WHEN: 'never',
        ...(cargo.capture ? captureEnvironment(cargo, cargo.capture, profile) : {}),
      },
      signal,
      onStdout: read,
      onStderr: (line) => {
        stderr.push(line);
        // Another cargo is at work in the same folder: people have to know what they are waiting for.
        if (/^\s*Blocking /.test(line)) report({ event: 'log', level: 'info', text: `cargo: ${line.trim()}` });
      },
    },
  );
  if (status !== 0 && errors.length === 0) errors.push(...readCargoErrors(stderr.join('\n'), options.directory));
  if (status !== 0 && errors.length === 0)
    errors.push({ severity: 'error', text: `cargo ended with status ${status}` });
  return { succeeded: status === 0, output, errors, warnings, scripts };
}

function captureEnvironment(cargo: CargoRun, capture: Capture, profile: string): Record<string, string> {
  const setting = `CARGO_PROFILE_${profile.toUpperCase().replaceAll('-', '_')}`;
  return {
    // Link-time optimisation across crates merges what a patch must find. Within one, without which optimised code is half
    // as slow again, a native program's linker cannot follow. Incremental is what makes an edit fast.
    [`${setting}_LTO`]: cargo.package.platform === 'wasm' ? 'false' : 'off',
    // Layouts of types are read from the debug information in the objects.
    ...(cargo.package.platform === 'native' && {
      [`${setting}_DEBUG`]: '2',
      [`${setting}_SPLIT_DEBUGINFO`]: 'off',
      [`${setting}_STRIP`]: 'none',
    }),
    CARGO_INCREMENTAL: '1',
    RUSTC_WRAPPER: capture.scripts.wrapper,
    HOTSLOT_WRAPPER: capture.wrapper,
    HOTSLOT_LINKER: capture.scripts.linker,
    HOTSLOT_PACKAGES: `\n${cargo.package.editable.map((each) => each.directory).join('\n')}\n`,
    HOTSLOT_CAPTURES: capture.captures,
    HOTSLOT_STORE: capture.store,
  };
}

/** The folder rustc runs in is the workspace for its members, the package for a path dependency outside of it. */
function locate(path: string, found: Package, manifest: string): string {
  const inWorkspace = resolve(found.workspace, path);
  return existsSync(inWorkspace) ? inWorkspace : resolve(dirname(manifest), path);
}

function readBuildScript(directory: string, output: string): BuildScript {
  const text = existsSync(output) ? readFileSync(output, 'utf8') : '';
  const inputs = [...text.matchAll(/^cargo::?rerun-if-changed=(.+)$/gm)].map((match) =>
    resolve(directory, match[1] ?? ''),
  );
  const namesEnvironment = /^cargo::?rerun-if-env-changed=/m.test(text);
  return { directory, inputs: inputs.length > 0 || namesEnvironment ? inputs : undefined };
}
