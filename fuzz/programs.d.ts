import type { Driver } from './drivers.js';

/** Runs one program through `steps` edits and returns how many patches that made; throws at the first difference. */
export function checkProgram(
  driver: Driver,
  options: {
    readonly seed: number;
    readonly steps: number;
    /** Compares with a rebuild after this many steps; only after the last one when absent. */
    readonly every?: number;
    readonly log?: (line: string) => void;
  },
): Promise<number>;
