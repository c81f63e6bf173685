// In: the triple of a target. Out: which of the two kinds of programs it is that hotslot can patch, if any.

/** What a program runs in: a page, as a module of wasm-bindgen's, or a process. */
export type Platform = 'wasm' | 'native';

export const TRIPLES: Readonly<Record<Platform, string>> = {
  wasm: 'wasm32-unknown-unknown',
  native: 'x86_64-unknown-linux-gnu',
};

export function platformOf(triple: string): Platform | undefined {
  if (triple === TRIPLES.wasm) return 'wasm';
  return triple === TRIPLES.native ? 'native' : undefined;
}
