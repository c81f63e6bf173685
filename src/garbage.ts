// Short-lived garbage in; none out. A link makes some megabytes of it. V8 collects it when a quarter of an edit's link is
// over as readily as at any other time, and takes longer for it than the link; so we ask for it while rustc is at work.

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

let collect: ((options: { readonly type: 'minor' }) => void) | undefined;

/** Takes some milliseconds. */
export function collectGarbage(): void {
  if (collect === undefined) {
    // There for contexts that are made while the flag is set.
    setFlagsFromString('--expose-gc');
    collect = runInNewContext('gc') as typeof collect;
    setFlagsFromString('--no-expose-gc');
  }
  collect?.({ type: 'minor' });
}
