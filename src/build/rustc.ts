// In: a captured unit. Out: one run of rustc on it, without cargo: its messages, and the moments when its outputs are
// ready for the crates that wait for them.

import { resolve } from 'node:path';
import type { Diagnostic } from '../model.ts';
import type { Unit } from './capture.ts';
import { type RustcMessage, isSummary, readDiagnostic } from './diagnostic.ts';
import { run } from './process.ts';

/**
 * What the linker script says: all objects of the program are written, and being kept; then, that they are, and rustc
 * only has its caches to save.
 */
type Stage = 'linking' | 'linked';

export interface RustcRun {
  readonly rustc: string;
  /** In front of the captured arguments: which sysroot. */
  readonly prefix: readonly string[];
  /** Variables for the linker script. */
  readonly environment: Readonly<Record<string, string>>;
  /** An output (`.rmeta`, `.rlib`) is written and stays. */
  readonly onArtifact: (path: string) => void;
  /** Called when the environment has `HOTSLOT_NOTIFY`. */
  readonly onStage?: (stage: Stage) => void;
}

export interface RustcResult {
  readonly succeeded: boolean;
  readonly errors: readonly Diagnostic[];
  readonly warnings: readonly Diagnostic[];
}

export async function runRustc(unit: Unit, options: RustcRun, signal: AbortSignal): Promise<RustcResult> {
  const errors: Diagnostic[] = [];
  const warnings: Diagnostic[] = [];
  const other: string[] = [];
  const read = (line: string): void => {
    if (!line.startsWith('{')) {
      other.push(line);
      return;
    }
    const message = JSON.parse(line) as RustcMessage | { readonly artifact: string };
    if ('artifact' in message) options.onArtifact(message.artifact);
    else if ('level' in message && !isSummary(message)) {
      const diagnostic = readDiagnostic(message, (path) => resolve(unit.directory, path));
      if (diagnostic.severity === 'error') errors.push(diagnostic);
      else if (diagnostic.severity === 'warning') warnings.push(diagnostic);
    }
  };
  const { status } = await run(options.rustc, [...options.prefix, ...unit.args], {
    cwd: unit.directory,
    env: { ...unit.environment, ...options.environment },
    signal,
    onStderr: read,
    ...(options.onStage && { onNotify: (line) => options.onStage?.(line as Stage) }),
    isUrgent: true,
  });
  if (status !== 0 && errors.length === 0)
    errors.push({ severity: 'error', text: `rustc ended with status ${status}`, notes: other });
  return { succeeded: status === 0, errors, warnings };
}
