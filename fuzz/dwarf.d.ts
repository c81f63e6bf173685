/**
 * Runs `count` mutations of objects and returns how many were malformed; throws at the first bug, which its message repeats.
 */
export function fuzzDwarf(
  count: number,
  seed: number,
  objects?: readonly { readonly name: string; readonly bytes: Uint8Array }[],
): number;
