/** Patches a server under load; resolves when every version was observed, in order on each connection. */
export function patchUnderLoad(options: {
  readonly patches: number;
  /** Of a folder below .cache, in which the server's copy is. */
  readonly name?: string;
  readonly progress?: (text: string) => void;
}): Promise<{
  readonly figures: {
    readonly patches: number;
    readonly requests: number;
    readonly failed: number;
    readonly dropped_sockets: number;
    readonly max_latency_ms: number;
    readonly resident_growth_kb_per_patch: number;
  };
  readonly perSecond: number;
  /** What was wrong with failed requests. */
  readonly failures: readonly string[];
}>;
