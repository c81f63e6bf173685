// In: a linker and all it has to be told. Out: it has linked, or what it said against that.

import { writeFileSync } from 'node:fs';
import { DiagnosticError, failure } from './diagnostic.ts';
import { run, type RunOptions } from './process.ts';
import type { Linker } from './rust.ts';

/**
 * Writes the arguments to `file` for the linker to read: there are thousands of them, more than a command line may hold,
 * and that is faster, too. Throws a `DiagnosticError` when the linker fails or is not there.
 */
export async function runLinker(
  { program, prefix }: Linker,
  args: readonly string[],
  file: string,
  options: RunOptions,
): Promise<void> {
  writeFileSync(file, args.map(quote).join('\n'));
  const { status, stderr } = await run(program, [...prefix, `@${file}`], options).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    const hint = 'Install it, or name another one: `linker = "..."` in .cargo/config.toml.';
    throw new DiagnosticError({ severity: 'error', text: `The linker ${program} is not installed`, hint });
  });
  if (status !== 0) throw failure('The linker failed', stderr);
}

/** As an argument stands in a response file: GNU's rules, which lld has on Unix, and gcc and clang. */
function quote(argument: string): string {
  return /^[\w./=:,+@%-]+$/.test(argument) ? argument : `"${argument.replaceAll(/["\\]/g, '\\$&')}"`;
}
