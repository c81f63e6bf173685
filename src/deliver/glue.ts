// wasm-bindgen's JavaScript (`--target web`) in; the same with the page's client hooked in out. Text only, and only at
// the one place where the instance exists and nothing of it has run.

import type { Base } from './server.ts';

/**
 * The glue of a base. Its first line waits until the client has everything to bring the program to the current
 * version; when the instance exists, the client gets it before the program's first function runs. Lines keep their
 * numbers. Throws when the text is not what wasm-bindgen writes.
 */
export function hookGlue(base: Base): string {
  const { glue, id, version } = base;
  const opening = /^function __wbg_finalize_init\([^)]*\)\s*\{/m.exec(glue);
  const from = opening === null ? -1 : opening.index + opening[0].length;
  const body = glue.slice(from, glue.indexOf('\n}', from));
  // With a start function, right before it. Without, as soon as the exports have their name.
  const start = body.search(/\bwasm\.__wbindgen_start\(/);
  const named = /\bwasm = instance\.exports\b[^;\n]*;?/.exec(body);
  const at = start !== -1 ? start : named === null ? -1 : named.index + named[0].length;
  if (opening === null || at === -1) {
    throw new Error(
      "wasm-bindgen's JavaScript: expected `function __wbg_finalize_init(…)` with `wasm = instance.exports` or " +
        '`wasm.__wbindgen_start(` in it, as `wasm-bindgen --target web` writes',
    );
  }
  const loaded = JSON.stringify({ base: id, version });
  if (base.isThreaded === true) return hookThreads(glue, from + start, loaded);
  return (
    "import { prepare as __hotslot_prepare, install as __hotslot_install } from '/@hotslot/client.js'; " +
    `await __hotslot_prepare(${loaded}); ` +
    `${glue.slice(0, from + at)} __hotslot_install(wasm); ${glue.slice(from + at)}`
  );
}

/**
 * With threads, which run the same glue in workers: there nothing may be awaited before the worker's own first lines,
 * which expect messages. `start`: where `wasm.__wbindgen_start(` is.
 */
function hookThreads(glue: string, start: number, loaded: string): string {
  const end = glue.indexOf(';', start) + 1;
  // It is asynchronous itself.
  const settled = (text: string): string =>
    text.replace(/^async function __wbg_init\([^)]*\)\s*\{/m, (opening) => `${opening} await __hotslot_settle();`);
  return (
    'import { prepare as __hotslot_prepare, join as __hotslot_join, settle as __hotslot_settle } ' +
    "from '/@hotslot/client.js'; " +
    `if (typeof document !== 'undefined') await __hotslot_prepare(${loaded}); ` +
    `${glue.slice(0, start)}const __hotslot_joined = __hotslot_join(wasm, ${loaded}); ` +
    `${glue.slice(start, end)} __hotslot_joined();${settled(glue.slice(end))}`
  );
}

/**
 * The glue that comes with a patch: the client binds it to the instance that is running. `sameAsBase` says for a file
 * of `snippets/` whether the base has it too: then the page has it loaded, with state, and must not load it again.
 */
export function bindGlue(glue: string, sameAsBase: (snippet: string) => boolean): string {
  if (!/^function __wbg_get_imports\(/m.test(glue)) {
    throw new Error("wasm-bindgen's JavaScript: expected `function __wbg_get_imports(`");
  }
  const shared = glue.replaceAll(
    /(\b(?:from|import)\s*)(['"])\.\/(snippets\/[^'"\n]+)\2/g,
    (statement, keyword: string, quote: string, snippet: string) =>
      sameAsBase(snippet) ? `${keyword}${quote}/pkg/${snippet}${quote}` : statement,
  );
  return `${shared}\nexport function __hotslot_bind(w) { wasm = w; return __wbg_get_imports(w.memory); }\n`;
}
