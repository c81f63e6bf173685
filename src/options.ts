// The command line and `[package.metadata.hotslot]` in, one checked command out, or the mistake that was made.
import { cac, type CAC } from 'cac';

import type { Diagnostic } from './model.ts';

/** What can be said by flag or in Cargo.toml; undefined where nothing was said. */
export interface Settings {
  readonly package?: string;
  readonly bin?: string;
  readonly example?: string;
  readonly features?: readonly string[];
  readonly noDefaultFeatures?: boolean;
  readonly allFeatures?: boolean;
  readonly profile?: string;
  readonly release?: boolean;
  readonly target?: string;
  readonly threads?: boolean;
  readonly host?: string;
  readonly port?: number;
  readonly open?: boolean;
  readonly outDir?: string;
  readonly json?: boolean;
  readonly fix?: boolean;
  readonly restartOnRefuse?: boolean;
  /** What follows `--`: for the program. */
  readonly args?: readonly string[];
}

type CommandName = 'serve' | 'build' | 'doctor';

export type Command =
  | { readonly kind: CommandName; readonly settings: Settings }
  /** `--help` or `--version`; the answer has been printed. */
  | { readonly kind: 'answered' }
  | { readonly kind: 'mistake'; readonly diagnostic: Diagnostic; readonly usage: string };

interface Option {
  readonly flags: string;
  readonly about: string;
  readonly kind: 'text' | 'list' | 'switch' | 'port';
  readonly commands: readonly CommandName[];
  /** May it stand in `[package.metadata.hotslot]`? */
  readonly metadata: boolean;
}

const BUILDING = ['serve', 'build'] as const;

/** Flags that cargo has too are named and mean as there. */
const OPTIONS: { readonly [Key in Exclude<keyof Settings, 'args'>]-?: Option } = {
  package: option('-p, --package <name>', 'Package of the workspace', 'text', BUILDING, false),
  bin: option('--bin <name>', 'The binary of this name', 'text', BUILDING),
  example: option('--example <name>', 'The example of this name', 'text', BUILDING),
  features: option('-F, --features <list>', 'Features, separated by commas or spaces; repeatable', 'list', BUILDING),
  noDefaultFeatures: option('--no-default-features', 'Without the default features', 'switch', BUILDING),
  allFeatures: option('--all-features', 'With all features', 'switch', BUILDING),
  profile: option('--profile <name>', 'Profile of Cargo.toml', 'text', BUILDING),
  release: option('-r, --release', 'The same as --profile release', 'switch', BUILDING, false),
  target: option('--target <triple>', 'wasm32-unknown-unknown or x86_64-unknown-linux-gnu', 'text', BUILDING),
  threads: option('--threads', 'Wasm threads: shared memory, atomics, and a std with them', 'switch', [
    ...BUILDING,
    'doctor',
  ]),
  host: option('--host <address>', 'Address to listen on (default: 127.0.0.1)', 'text', ['serve']),
  port: option('--port <number>', 'Port to listen on (default: 8080, or the next free one)', 'port', ['serve']),
  open: option('--open', 'Open the page in the browser', 'switch', ['serve']),
  restartOnRefuse: option('--restart-on-refuse', 'Restart a native program for what cannot be swapped', 'switch', [
    'serve',
  ]),
  json: option('--json', 'One event per line on standard output, as JSON', 'switch', ['serve'], false),
  outDir: option('--out-dir <folder>', 'Where to write (default: pkg)', 'text', ['build']),
  fix: option('--fix', 'Install what is missing', 'switch', ['doctor'], false),
};

const COMMANDS: Readonly<Record<CommandName, string>> = {
  serve: 'Build, serve or run, and swap functions at every save (the default)',
  build: 'Build once, without anything of hotslot in it',
  doctor: 'Say what is needed and what is missing',
};

const KEYS = Object.keys(OPTIONS) as (keyof typeof OPTIONS)[];

function option(
  flags: string,
  about: string,
  kind: Option['kind'],
  commands: readonly CommandName[],
  metadata = true,
): Option {
  return { flags, about, kind, commands, metadata };
}

/** `args` are those after the program's name. Prints the answer to `--help` and `--version`. */
export function readArguments(args: readonly string[], version: string): Command {
  const cli = describe(version);
  // cac forgets what was said by one spelling when the other follows; only `--features` may be said twice.
  const spelled = args.map((word) => (word === '-F' ? '--features' : word));
  cli.parse(['node', 'hotslot', ...spelled], { run: false });
  if (cli.options['help'] === true || cli.options['version'] === true) return { kind: 'answered' };

  const kind = (cli.matchedCommandName ?? 'serve') as CommandName;
  const usage = `Usage: hotslot ${cli.matchedCommandName === undefined ? '[serve | build | doctor]' : kind} [options]`;
  const mistake = (text: string, hint?: string): Command => ({
    kind: 'mistake',
    usage,
    diagnostic: { severity: 'error', text, hint: hint ?? 'hotslot --help lists commands and options' },
  });

  const [extra] = cli.args;
  if (extra !== undefined) {
    if (cli.matchedCommandName !== undefined) return mistake(`unexpected argument '${extra}'`);
    return mistake(`no command '${extra}'`, similar(extra, Object.keys(COMMANDS)));
  }

  const mine = KEYS.filter((key) => OPTIONS[key].commands.includes(kind));
  const known = new Set(mine.flatMap((key) => spellings(OPTIONS[key].flags).map(camelCase)));
  for (const name of Object.keys(cli.options)) {
    if (name === '--' || known.has(name)) continue;
    const flag = name.length === 1 ? `-${name}` : `--${kebabCase(name)}`;
    const flags = ['--help', '--version', ...mine.map((key) => `--${kebabCase(key)}`)];
    return mistake(`no option '${flag}' for ${kind}`, similar(flag, flags));
  }

  const given: Record<string, unknown> = {};
  for (const key of mine) {
    const raw: unknown = cli.options[key === 'noDefaultFeatures' ? 'defaultFeatures' : key];
    const value = key === 'noDefaultFeatures' ? (raw === false ? true : undefined) : raw;
    if (value === undefined) continue;
    const read = readValue(OPTIONS[key].kind, value);
    if (read === undefined) return mistake(`--${kebabCase(key)} ${expected(OPTIONS[key].kind)}`);
    given[key] = read;
  }
  const rest = cli.options['--'] as readonly string[] | undefined;
  if (kind === 'serve' && rest !== undefined && rest.length > 0) given['args'] = rest;
  const settings = given as Settings;
  const clash = clashes(settings);
  return clash === undefined ? { kind, settings } : mistake(clash);
}

/**
 * The settings in a package's `metadata.hotslot`, as `cargo metadata` gives it. Keys are the flags' names without the
 * dashes.
 */
export function readMetadata(metadata: unknown, manifest: string): Settings | Diagnostic {
  if (metadata === undefined || metadata === null) return {};
  const mistake = (text: string, hint?: string): Diagnostic => ({
    severity: 'error',
    text: `${manifest}: ${text}`,
    ...(hint === undefined ? {} : { hint }),
  });
  if (typeof metadata !== 'object' || Array.isArray(metadata))
    return mistake('package.metadata.hotslot is not a table');

  const allowed = KEYS.filter((key) => OPTIONS[key].metadata);
  const given: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(metadata)) {
    const key = allowed.find((candidate) => kebabCase(candidate) === name);
    if (key === undefined) {
      return mistake(`package.metadata.hotslot has no key '${name}'`, similar(name, allowed.map(kebabCase)));
    }
    const read = readValue(OPTIONS[key].kind, value);
    if (read === undefined) return mistake(`package.metadata.hotslot.${name} ${expected(OPTIONS[key].kind)}`);
    given[key] = read;
  }
  const clash = clashes(given);
  return clash === undefined ? given : mistake(`package.metadata.hotslot: ${clash}`);
}

/** What the command line says goes before what Cargo.toml says; of two that exclude each other, likewise. */
export function merge(given: Settings, defaults: Settings): Settings {
  const merged: Record<string, unknown> = { ...defaults, ...given };
  for (const [one, other] of EXCLUSIVE) {
    if (given[one] !== undefined && given[other] === undefined) delete merged[other];
    if (given[other] !== undefined && given[one] === undefined) delete merged[one];
  }
  return merged;
}

const EXCLUSIVE = [
  ['bin', 'example'],
  ['profile', 'release'],
] as const;

function clashes(settings: Settings): string | undefined {
  const pair = EXCLUSIVE.find((keys) => keys.every((key) => settings[key] !== undefined));
  return pair === undefined ? undefined : `--${pair[0]} and --${pair[1]} exclude each other`;
}

function describe(version: string): CAC {
  const cli = cac('hotslot');
  for (const [name, about] of Object.entries(COMMANDS)) {
    const command = cli
      .command(name, about)
      .usage(name === 'serve' ? '[serve] [options] [-- arguments of a native program]' : `${name} [options]`);
    if (name === 'serve') command.alias('!');
    for (const key of KEYS) {
      const { flags, about: text, commands } = OPTIONS[key];
      if (commands.includes(name as CommandName)) command.option(flags, text);
    }
  }
  // A flag that turns something off has, for cac, the default true.
  cli.help((sections) =>
    sections.map(({ title, body }) => ({
      ...(title !== undefined && { title }),
      body: body.replaceAll(/ *(\(default: true\))?$/gm, ''),
    })),
  );
  cli.version(version, '-V, --version');
  return cli;
}

/** undefined when the value is of the wrong kind. */
function readValue(kind: Option['kind'], value: unknown): string | number | boolean | readonly string[] | undefined {
  switch (kind) {
    case 'switch':
      return typeof value === 'boolean' ? value : undefined;
    case 'port':
      return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < 65536 ? value : undefined;
    case 'text':
      // A name of digits arrives as a number.
      return (typeof value === 'string' && value !== '') || typeof value === 'number' ? String(value) : undefined;
    case 'list':
      return readList(Array.isArray(value) ? value : [value]);
    default:
      return kind satisfies never;
  }
}

function readList(items: readonly unknown[]): readonly string[] | undefined {
  if (!items.every((item) => typeof item === 'string' || typeof item === 'number')) return undefined;
  return items.flatMap((item) => String(item).split(/[\s,]+/)).filter((item) => item !== '');
}

function expected(kind: Option['kind']): string {
  return {
    text: 'needs one value',
    list: 'needs names, separated by commas or spaces',
    switch: 'is on or off and takes no other value',
    port: 'needs a port number, 0 to 65535',
  }[kind];
}

/** The names that cac files an option under: `-p, --package <name>` → `p`, `package`; `--no-x` → `x`. */
function spellings(flags: string): string[] {
  return flags.split(',').map((flag) => flag.trim().split(' ', 1).join('').replace(/^--?/, '').replace(/^no-/, ''));
}

function camelCase(name: string): string {
  return name.replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function kebabCase(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** A question that names the nearest candidate, when one is near enough to have been meant. */
function similar(name: string, candidates: readonly string[]): string | undefined {
  const [best] = candidates
    .map((candidate) => ({ candidate, away: distance(name, candidate) }))
    .sort((a, b) => a.away - b.away);
  // Two letters in the wrong order are a distance of two.
  const letters = name.replace(/^-+/, '').length;
  return best !== undefined && best.away <= 2 && best.away < letters ? `did you mean '${best.candidate}'?` : undefined;
}

/** Levenshtein's: how many letters to add, drop or replace. */
function distance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let i = 0; i < from.length; i++) {
    const next = [i + 1];
    for (let j = 0; j < to.length; j++) {
      const replaced = (row[j] ?? 0) + (from[i] === to[j] ? 0 : 1);
      next.push(Math.min(replaced, (row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1));
    }
    row = next;
  }
  return row.at(-1) ?? 0;
}
