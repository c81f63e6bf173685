// A finished plan in; the patch that is sent to running programs out.

import type { Glue, WasmPatch } from '../model.ts';
import type { Outcome } from './link.ts';
import type { Target } from './target.ts';

/** `glue` is where the newer wasm-bindgen output lies, when the plan imports from it. Throws `Unlinkable`. */
export function makePatch(
  outcome: Extract<Outcome, { kind: 'patch' }>,
  target: Target,
  glue: Pick<Glue, 'directory' | 'file'> | undefined,
): WasmPatch {
  const { plan, draft, exports } = outcome;
  return {
    kind: 'wasm',
    base: draft.program.base,
    version: draft.version,
    module: target.emit(plan),
    tableLength: draft.free.slot,
    slots: [...plan.imports, ...plan.functions].map(({ slot }) => slot),
    ranges: plan.data.map(({ address, atom }) => [address, atom.sizeBytes]),
    ...(glue !== undefined && plan.imports.length > 0 && { glue: { ...glue, exports } }),
    functions: outcome.functions,
    warnings: outcome.warnings,
  };
}
