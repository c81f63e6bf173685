// What runs, what it can be linked with, and how: newer builds in; outcomes and patches out.

import type { ArchiveSource, Build, Glue, ObjectSource, Patch, Refusal } from '../model.ts';
import { Library } from './library.ts';
import { type Companion, link, type Outcome } from './link.ts';
import { makePatch } from './patch.ts';
import type { Draft, Program } from './program.ts';
import { type Target, Unlinkable } from './target.ts';

export class Linker<P extends Patch> {
  readonly program: Program;
  readonly #target: Target<P>;
  readonly #library = new Library();

  /** `build` is what the program was linked from. */
  constructor(program: Program, target: Target<P>, build: Build) {
    this.program = program;
    this.#target = target;
    this.#library.use(build.objects, build.archives);
  }

  /** How a user gets what no patch can bring. */
  get remedy(): Refusal['remedy'] {
    return this.#target.remedy;
  }

  link(build: Build, companion?: Companion): Outcome {
    return link(this.program, build, this.#library, this.#target, companion);
  }

  /** `glue`: as for `makePatch`. A refusal when the format has no way to say what the plan wants. */
  patch(
    outcome: Extract<Outcome, { kind: 'patch' }>,
    glue?: Pick<Glue, 'directory' | 'file'>,
  ): { readonly patch: P } | { readonly refusal: Refusal } {
    try {
      return { patch: makePatch(outcome, this.#target, glue) };
    } catch (error) {
      if (error instanceof Unlinkable) return { refusal: { reason: error.message, remedy: this.remedy } };
      throw error;
    }
  }

  /** The program has become what the draft says. */
  commit(draft: Draft): void {
    this.program.commit(draft);
    this.#library.keep(Array.from(this.program.objects.values(), ({ source }) => source));
  }

  /** The patch was taken back. */
  abandon(draft: Draft): void {
    this.program.abandon(draft);
  }

  /** Does work ahead that the first edit would otherwise wait for. */
  warm(source: ObjectSource | ArchiveSource): void {
    this.#library.warm(source);
  }
}
