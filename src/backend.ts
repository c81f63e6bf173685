// What a kind of program adds to the pipeline of session.ts: how a build becomes what runs, and how a patch reaches it.

import { createHash } from 'node:crypto';
import type { Companion } from './link/link.ts';
import type { Linker } from './link/linker.ts';
import type { Notice } from './client/protocol.ts';
import type { Build, Event, Glue, Patch, Receipt } from './model.ts';

/** What a build has become. */
export interface Running<P extends Patch> {
  readonly linker: Linker<P>;
  /** How long it took to link it as a whole. */
  readonly linkMs: number;
  /** For when it took the place of another. */
  readonly replaced: Event;
}

/** What a backend tells its session. */
export interface Listener {
  /** Someone is about to see the program, and is to get the newest code, also what no patch could bring. */
  readonly onVisit: () => Promise<void>;
  /** Nothing runs any more. */
  readonly onEnd: () => void;
}

export interface Backend<P extends Patch> {
  /** Where the program is to be seen. */
  readonly url: string | undefined;
  /** Before all else. */
  open(listener: Listener): Promise<void>;
  /**
   * Links the build as a whole and makes it what runs. Undefined when it does not run then, which has been reported.
   * Throws a `DiagnosticError` when it cannot be linked.
   */
  publish(build: Build, version: number, reason: string): Promise<Running<P> | undefined>;
  /** A finished image of the build, for what only that can bring. */
  companion?(
    build: Build,
    signal: AbortSignal,
  ): Promise<{ companion: Companion; glue: Pick<Glue, 'directory' | 'file'> }>;
  /** Resolves when all have answered. `commit` or `abandon` must follow. */
  deliver(patch: P): Promise<readonly Receipt[]>;
  commit(patch: P): void;
  abandon(patch: P, reason: string): void;
  /** What a receipt's client is called in a message. */
  nameOf(receipt: Receipt): string;
  tell(notice: Notice): void;
  close(): Promise<void>;
}

/** A base goes by its content. */
export function contentHash(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, 16);
}
