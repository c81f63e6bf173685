// In: cargo's calls of rustc, and rustc's calls of the linker. Out: what is needed to make those calls again without
// cargo: arguments, environment and folder of each editable crate, which crate needs which, and the files it was made of.
//
// cargo is given a wrapper around rustc and each rustc a linker, both small shell scripts that record how they were
// called. The linker script does not link: it keeps the objects (hard links; rustc deletes its own) and says done. The
// real link is made from the record when an image is wanted, so an edit that becomes a patch never pays for one.

import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync, chmodSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import type { Platform } from './platform.ts';

/** One captured call of rustc: a crate of the user's. */
export interface Unit {
  /** Names it in every run: where its dep-info is. */
  readonly key: string;
  readonly crate: string;
  /** `cdylib`, `rlib`, `lib`, `bin`, `proc-macro`. */
  readonly types: readonly string[];
  readonly directory: string;
  /** Everything after the program. */
  readonly args: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  /** Built for the machine at hand: a build script, a proc macro, or what they use. Never patched; cargo builds it. */
  readonly host: boolean;
  /** What it makes that others name in `--extern`; empty for a binary. */
  readonly outputs: readonly string[];
  /** What the linker makes of it, when it is linked. */
  readonly linked: string;
  /** libc is to be linked into it. */
  readonly isStatic: boolean;
  /** The paths of its own `--extern`s. */
  readonly externs: readonly string[];
  /** The user's own choice of linker, if any: theirs came before ours in the arguments. */
  readonly linker?: string;
  /** Makefile that names the files it was made of. */
  readonly depInfo: string;
}

/** The scripts, in a folder that stays the same: cargo rebuilds everything when the path of a wrapper changes. */
export interface Scripts {
  readonly wrapper: string;
  readonly linker: string;
}

// symbol-mangling-version: identity of closures needs v0, which is not the default everywhere.
// codegen-units: as an incremental build has by default, whatever the profile says; an edit then changes few objects.
// link-dead-code: else the optimiser takes a function that only one unit uses for its own, and may change how it is called.
// debuginfo: layouts are read from it; a profile may have other wishes for single packages, and so may RUSTFLAGS.
// promoted-locals: a name from the codegen unit in place of one from all that is in it, which is new after every edit.
// linker: last, so that it wins over cargo's configuration and RUSTFLAGS; which linker they name is kept in the record.
const WRAPPER = `#!/bin/sh
# cargo runs this in place of rustc. Records calls for the packages in HOTSLOT_PACKAGES (one folder a line).
case "$HOTSLOT_PACKAGES" in
*"
$CARGO_MANIFEST_DIR
"*) ;;
*) exec \${HOTSLOT_WRAPPER:+"$HOTSLOT_WRAPPER"} "$@" ;;
esac
crate= types= extra= output= target= triple= optimised= previous=
for argument do
  case $previous in
  --crate-name) crate=$argument ;;
  --crate-type) types=$types+$argument ;;
  --out-dir) output=$argument ;;
  --target) target=+target triple=$argument ;;
  -C) case $argument in extra-filename=*) extra=\${argument#extra-filename=} ;; opt-level=[123sz]) optimised=+ ;; esac ;;
  esac
  previous=$argument
done
[ -n "$output" ] || exec \${HOTSLOT_WRAPPER:+"$HOTSLOT_WRAPPER"} "$@"
case $triple in *linux*) set -- "$@" -C debuginfo=2 -C split-debuginfo=off ;; esac
[ -z "$target" ] || set -- "$@" -C symbol-mangling-version=v0 -C codegen-units=256 -C "linker=$HOTSLOT_LINKER"
case $optimised$triple in
+*linux*) set -- "$@" -C link-dead-code ;;
+wasm*) set -- "$@" -C llvm-args=-use-source-filename-for-promoted-locals ;;
esac
record=$HOTSLOT_CAPTURES/$crate$types$extra$target
{ printf '%s\\0' "$PWD" "$#" "$@" && env -0; } >"$record.$$~" && mv "$record.$$~" "$record" || exit 1
exec \${HOTSLOT_WRAPPER:+"$HOTSLOT_WRAPPER"} "$@"
`;

// Six thousand arguments are common, most of them names to export, and a shell is slow at looking at each: the list is
// taken as the kernel has it, after the shell and the script.
const LINKER = `#!/bin/sh
# rustc runs this in place of the linker. Keeps the objects and the command line in HOTSLOT_STORE; links nothing.
[ -z "$HOTSLOT_NOTIFY" ] || echo linking >&3
line=$HOTSLOT_STORE/line.$$
cat /proc/$$/cmdline >"$line" || exit 1
# More than a command line can hold comes in a file: one argument a line, backslashes before what needs them.
for argument in "$1" "$3"; do
  case $argument in
  @*) { printf 'sh\\0cc\\0' && sed 's/\\\\\\(.\\)/\\1/g' "\${argument#@}" | tr '\\n' '\\0'; } >"$line" || exit 1 ;;
  esac
done
output=$(sed -zn '/^-o$/{n;s/$/\\n/p;q}' "$line" | tr -d '\\0')
store=$HOTSLOT_STORE/\${output##*/}
mkdir -p "$store" || exit 1
# Not every folder is on the same file system, and not every file system has links.
objects() { grep -z '\\.o$' "$line"; }
# What tells each of them from others, found out meanwhile. Where \`stat\` is another one, whoever needs it asks anew.
objects | xargs -0r stat -Lc '%h %i-%s-%.9Y' >"$line.stats" 2>/dev/null &
objects | xargs -0r ln -t "$store" 2>/dev/null || objects | xargs -0r cp -nt "$store" || exit 1
wait
mv "$line.stats" "$store/stats" && mv "$line" "$store/line" || exit 1
# cargo expects the file to be there.
: >"$output"
# What rustc does from here on nobody waits for. It does not go on before what brings its objects to the program is done, as
# a rule; then it yields: as a process and, where Linux groups processes by session, as the group that it is.
[ -z "$HOTSLOT_NOTIFY" ] ||
  { echo linked >&3; sleep 0.03; echo 19 >/proc/self/autogroup; renice -n 19 -g 0; } >/dev/null 2>&1 || :
`;

/** What is done to cargo's calls. What was built by other scripts is not what these build, and cargo does not notice. */
export const RECIPE: string = createHash('sha1').update(WRAPPER).update(LINKER).digest('hex');

export function writeScripts(folder: string, platform: Platform): Scripts {
  mkdirSync(folder, { recursive: true });
  // The name tells rustc which flavour of command line to write.
  const scripts = { wrapper: join(folder, 'rustc'), linker: join(folder, platform === 'native' ? 'cc' : 'wasm-ld') };
  writeScript(scripts.wrapper, WRAPPER);
  writeScript(scripts.linker, LINKER);
  return scripts;
}

/** Every call captured so far. */
export function readCaptures(folder: string): Unit[] {
  return readdirSync(folder)
    .filter((name) => !name.endsWith('~'))
    .map((name) => readUnit(join(folder, name)));
}

function readUnit(path: string): Unit {
  const [directory = '', count = '', ...rest] = readFileSync(path, 'utf8').split('\0');
  const args = rest.slice(1, Number(count));
  const environment: Record<string, string> = {};
  for (const entry of rest.slice(Number(count))) {
    const equals = entry.indexOf('=');
    const name = entry.slice(0, equals);
    // The job server's descriptors are gone with cargo; the rest is ours.
    if (equals > 0 && !/^(HOTSLOT_.*|(CARGO_)?MAKEFLAGS|MFLAGS)$/.test(name))
      environment[name] = entry.slice(equals + 1);
  }
  const crate = valueOf(args, '--crate-name') ?? '';
  const codegen = args.filter((_, index) => args[index - 1] === '-C');
  const settings = (name: string): string[] =>
    [...codegen, ...args.filter((each) => each.startsWith('-C') && each !== '-C').map((each) => each.slice(2))]
      .filter((each) => each.startsWith(`${name}=`))
      .map((each) => each.slice(name.length + 1));
  const extra = settings('extra-filename').at(-1) ?? '';
  const output = resolve(directory, valueOf(args, '--out-dir') ?? '');
  const types = args.filter((_, index) => args[index - 1] === '--crate-type');
  const isLibrary = types.some((type) => type === 'lib' || type === 'rlib');
  const target = valueOf(args, '--target');
  const host = target === undefined;
  const linker = settings('linker').findLast((each) => !host && each !== environmentLinker(rest));
  const depInfo = join(output, `${crate}${extra}.d`);
  return {
    key: depInfo,
    crate,
    types,
    directory,
    args,
    environment,
    host,
    outputs: isLibrary ? ['rlib', 'rmeta'].map((suffix) => join(output, `lib${crate}${extra}.${suffix}`)) : [],
    linked: join(output, `${crate}${extra}${target?.startsWith('wasm') ? '.wasm' : ''}`),
    isStatic: settings('target-feature').some((each) => each.split(',').includes('+crt-static')),
    externs: args
      .filter((_, index) => args[index - 1] === '--extern')
      .flatMap((each) => (each.includes('=') ? [each.slice(each.indexOf('=') + 1)] : [])),
    ...(linker !== undefined && { linker }),
    depInfo,
  };
}

/** The files rustc read for a unit: sources, and what `include_str!` and the like name. Empty before its first build. */
export function readInputs(unit: Unit): string[] {
  // Each input stands once as a rule without prerequisites, `path:`, with spaces escaped.
  return readDepInfo(unit)
    .split('\n')
    .filter((line) => line.endsWith(':') && !line.startsWith('#'))
    .map((line) => resolve(unit.directory, line.slice(0, -1).replaceAll('\\ ', ' ')));
}

/** Variables that rustc read by `env!`, save those that cargo sets itself. */
export function readVariables(unit: Unit): string[] {
  return Array.from(readDepInfo(unit).matchAll(/^# env-dep:(?!CARGO_)([^=\n]+)/gm), ([, name = '']) => name);
}

function readDepInfo(unit: Unit): string {
  try {
    return readFileSync(unit.depInfo, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
    throw error;
  }
}

/** The target and the captured crates it is made of, each after what it depends on. */
export function unitsOf(root: Unit, captured: readonly Unit[]): Unit[] {
  const byOutput = new Map(captured.flatMap((unit) => unit.outputs.map((path) => [basename(path), unit] as const)));
  const order: Unit[] = [];
  const visit = (unit: Unit): void => {
    if (order.includes(unit)) return;
    for (const path of unit.externs) {
      const dependency = byOutput.get(basename(path));
      if (dependency && !dependency.host) visit(dependency);
    }
    order.push(unit);
  };
  visit(root);
  return order;
}

function environmentLinker(entries: readonly string[]): string | undefined {
  return entries.findLast((each) => each.startsWith('HOTSLOT_LINKER='))?.slice('HOTSLOT_LINKER='.length);
}

function valueOf(args: readonly string[], flag: string): string | undefined {
  const index = args.lastIndexOf(flag);
  return index < 0 ? undefined : args[index + 1];
}

/** Only when it differs: cargo asks rustc everything again when a wrapper is newer. */
function writeScript(path: string, text: string): void {
  try {
    if (readFileSync(path, 'utf8') === text) return;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  writeFileSync(path, text);
  chmodSync(path, 0o755);
}
