/** Runs `count` mutated inputs and returns how many were malformed; throws at the first bug, which its message repeats. */
export function fuzzObjects(count: number, seed: number): number;
