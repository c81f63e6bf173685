// wasm-bindgen's JavaScript (`--target web`) in; the same with the page's client hooked in out. Text only, and only at
// the one place where the instance exists and nothing of it has run.

import type { PatchFrame } from '../client/protocol.ts';
import type { Base } from './server.ts';

/**
 * The glue of a base. Its first line gives the client what it needs to bring the program to `state`, the journal's last;
 * when the instance exists, the client gets it before the program's first function runs. Lines keep their numbers.
 * A page also waits for what is newer. A worker must not wait for anything: its own first lines, which run after these,
 * expect messages that are on their way. Nor can a script that is no module. Throws when the text is not what wasm-bindgen
 * writes.
 */
export function hookGlue(base: Base, state: string, isModule = true): string {
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
  const loaded = JSON.stringify({ base: id, version }).slice(0, -1);
  const opened =
    "import * as __hotslot_client from '/@hotslot/client.js'; " +
    `import __hotslot_journal from '/@hotslot/journal/${encodeURIComponent(state)}.js'; ` +
    `const __hotslot_loaded = ${loaded},"journal":__hotslot_journal}; `;
  const wait = isModule ? "if (typeof document !== 'undefined') await __hotslot_client.joined(); " : '';
  if (base.isThreaded === true) return opened + hookThreads(glue, from + start, wait);
  return (
    `${opened}__hotslot_client.load(__hotslot_loaded); ${wait}` +
    `${glue.slice(0, from + at)} __hotslot_client.install(wasm, __hotslot_loaded); ${glue.slice(from + at)}`
  );
}

/** With threads, which run the same glue in workers, and take patches from memory. `start`: of `wasm.__wbindgen_start(`. */
function hookThreads(glue: string, start: number, wait: string): string {
  const end = glue.indexOf(';', start) + 1;
  // It is asynchronous itself.
  const settled = (text: string): string =>
    text.replace(
      /^async function __wbg_init\([^)]*\)\s*\{/m,
      (opening) => `${opening} await __hotslot_client.locked();`,
    );
  return (
    `if (typeof document !== 'undefined') __hotslot_client.load(__hotslot_loaded); ${wait}` +
    `${glue.slice(0, start)}const __hotslot_joined = __hotslot_client.join(wasm, __hotslot_loaded); ` +
    `${glue.slice(start, end)} __hotslot_joined();${settled(glue.slice(end))}`
  );
}

/** A module with patches and the glue that came with them, each as the client expects it of `load`. */
export function journalModule(patches: readonly PatchFrame[]): string {
  const imports: string[] = [];
  const entries = patches.map(({ header, module }, index) => {
    const text = Buffer.from(module.buffer, module.byteOffset, module.length).toString('latin1');
    const fields = `"header":${JSON.stringify(header)},"module":${JSON.stringify(text)}`;
    if (header.glue === undefined) return `{${fields}}`;
    imports.push(`import * as glue${index} from ${JSON.stringify(header.glue.url)};\n`);
    return `{${fields},"glue":glue${index}}`;
  });
  return `${imports.join('')}export default [${entries.join(',\n')}];\n`;
}

/** A module that gives the glue of a patch to the client of the worklet it is loaded into. */
export function workletModule(url: string, state: string): string {
  return (
    `import { keepGlue } from '/@hotslot/client.js';\nimport * as glue from ${JSON.stringify(url)};\n` +
    `keepGlue(${JSON.stringify(state)}, glue);\n`
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
