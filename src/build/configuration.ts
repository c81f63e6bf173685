// In: a crate's folder. Out: what of cargo's merged configuration (its files, and the environment before them) is needed
// before cargo runs.

import type { CargoOptions } from './package.ts';
import { TARGET } from './package.ts';
import { ask } from './process.ts';

export interface Configuration {
  /** A wrapper of the user's own around rustc (sccache and the like), which ours calls; empty when there is none. */
  readonly wrapper: string;
  /** Flags for every rustc that builds for wasm. */
  readonly rustflags: readonly string[];
  /** cargo is told to build std from its sources. */
  readonly buildsStd: boolean;
}

/** What `cargo config get` says; only the members that are read here. */
interface CargoConfig {
  readonly build?: { readonly 'rustc-wrapper'?: string; readonly rustflags?: Flags };
  readonly target?: Readonly<Record<string, { readonly rustflags?: Flags }>>;
  readonly unstable?: { readonly 'build-std'?: unknown };
}

type Flags = string | readonly string[];

export async function askConfiguration(options: CargoOptions): Promise<Configuration> {
  // The merged configuration is an unstable command; only this question is asked with unstable features on.
  const answer = await ask('cargo', ['-Zunstable-options', 'config', 'get', '--format', 'json-value'], {
    cwd: options.directory,
    env: { ...process.env, RUSTC_BOOTSTRAP: '1' },
  });
  const config = answer === undefined ? {} : (JSON.parse(answer) as CargoConfig);
  const { env } = process;
  return {
    wrapper: env['RUSTC_WRAPPER'] ?? env['CARGO_BUILD_RUSTC_WRAPPER'] ?? config.build?.['rustc-wrapper'] ?? '',
    rustflags: rustflagsOf(config),
    buildsStd: config.unstable?.['build-std'] !== undefined || env['CARGO_UNSTABLE_BUILD_STD'] !== undefined,
  };
}

/** The first source that has any wins: https://doc.rust-lang.org/cargo/reference/config.html#buildrustflags */
function rustflagsOf(config: CargoConfig): readonly string[] {
  const { env } = process;
  const encoded = env['CARGO_ENCODED_RUSTFLAGS'];
  if (encoded !== undefined) return encoded.split('\x1f').filter((flag) => flag !== '');
  if (env['RUSTFLAGS'] !== undefined) return listOf(env['RUSTFLAGS']);
  const ofTarget = [
    ...listOf(env['CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS']),
    ...Object.entries(config.target ?? {}).flatMap(([target, { rustflags }]) =>
      target === TARGET || /^cfg\(.*\bwasm/.test(target) ? listOf(rustflags) : [],
    ),
  ];
  if (ofTarget.length > 0) return ofTarget;
  return [...listOf(env['CARGO_BUILD_RUSTFLAGS']), ...listOf(config.build?.rustflags)];
}

function listOf(flags: Flags = []): readonly string[] {
  return typeof flags === 'string' ? flags.split(/\s+/).filter((flag) => flag !== '') : flags;
}
