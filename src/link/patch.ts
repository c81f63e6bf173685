// A finished plan in; the patch that is sent to running programs out.

import type { Glue, Patch } from '../model.ts';
import type { Outcome } from './link.ts';
import type { Target } from './target.ts';

/** `glue` is where the newer wasm-bindgen output lies, when the plan imports from it. Throws `Unlinkable`. */
export function makePatch<P extends Patch>(
  outcome: Extract<Outcome, { kind: 'patch' }>,
  target: Target<P>,
  glue?: Pick<Glue, 'directory' | 'file'>,
): P {
  const { plan, draft, exports, functions, warnings } = outcome;
  const head = { base: draft.program.base, version: draft.version, functions, warnings };
  const bound = glue !== undefined && plan.imports.length > 0 ? { ...glue, exports } : undefined;
  return target.emit(head, plan, draft, bound);
}
