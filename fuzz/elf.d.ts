/** Runs `count` mutated inputs and returns how many were malformed; throws at the first bug, which its message repeats. */
export function fuzzElf(count: number, seed: number): number;
