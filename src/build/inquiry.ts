// In: what the command line says. Out: what cargo and rustc have to be asked before a build can begin, asked all at once
// and as early as can be: each question takes a process of its own, and some of them tens of milliseconds.

import { askWrapper } from './cargo.ts';
import { askMetadata, type CargoOptions, featureFlags, type Metadata } from './package.ts';
import { findRust, type RustFound } from './rust.ts';

/** Answers on their way. Whoever awaits one meets its error. */
export interface Inquiry {
  readonly metadata: Promise<Metadata>;
  /** The user's own wrapper around rustc. */
  readonly wrapper: Promise<string>;
  readonly rust: Promise<RustFound | undefined>;
}

/**
 * `given`: when the settings that an earlier inquiry was made with turn out to be incomplete, its answers that hold all
 * the same are taken over.
 */
export function inquire(options: CargoOptions, given?: { inquiry: Inquiry; options: CargoOptions }): Inquiry {
  const holds = given !== undefined && featureFlags(given.options).join() === featureFlags(options).join();
  const inquiry = {
    rust: given?.inquiry.rust ?? findRust(options.directory),
    metadata: holds ? given.inquiry.metadata : askMetadata(options),
    wrapper: given?.inquiry.wrapper ?? askWrapper(options),
  };
  for (const answer of Object.values(inquiry)) answer.catch(() => undefined);
  return inquiry;
}
