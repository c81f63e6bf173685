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
  /** Names of the objects that changed last, and are the likeliest to change next; undefined before the first change. */
  #latest: ReadonlySet<string> | undefined;

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
    const changed = [...draft.objects.values()]
      .map(({ source }) => source)
      .filter(({ name, stamp }) => {
        return this.program.objects.get(name)?.source.stamp !== stamp;
      });
    if (changed.length > 0) this.#latest = new Set(changed.slice(0, 4).map(({ name }) => name));
    this.program.commit(draft);
    this.#library.keep(Array.from(this.program.objects.values(), ({ source }) => source));
  }

  /** The patch was taken back. */
  abandon(draft: Draft): void {
    this.program.abandon(draft);
  }

  /**
   * Links what runs once more, for nothing, so that the link to come finds code and data at hand: after idle seconds the
   * first millisecond of work takes four. `build` is what the program was last linked from.
   */
  rehearse(build: Build): void {
    this.#latest ??= this.#largest();
    const likely = this.#latest;
    const latest = build.objects.filter(({ name }) => likely.has(name));
    const again = (source: ObjectSource): ObjectSource => ({ ...source, stamp: `${source.stamp} again` });
    // As if they might have changed; then as if all in them were new.
    this.link({ ...build, objects: build.objects.map((source) => (latest.includes(source) ? again(source) : source)) });
    const added = latest.map((source) => ({ ...source, name: `${source.name} again` }));
    const outcome = this.link({ ...build, objects: [...build.objects, ...added] });
    if (outcome.kind === 'patch') this.patch(outcome);
  }

  /** The two objects with the most functions. */
  #largest(): ReadonlySet<string> {
    const sizes = new Map<string, number>();
    for (const { object } of this.program.functions.values())
      if (object !== undefined) sizes.set(object, (sizes.get(object) ?? 0) + 1);
    const largest = [...sizes].sort(([, one], [, other]) => other - one).slice(0, 2);
    return new Set(largest.map(([name]) => name));
  }

  /** Does work ahead that the first edit would otherwise wait for. */
  warm(source: ObjectSource | ArchiveSource): void {
    this.#library.warm(source);
  }
}
