// Modules in; a script that is none, and does the same, out.
//
// For pages and workers that load the program as `wasm-bindgen --target no-modules` gives it: a script with one global,
// `wasm_bindgen`. Such a script may not wait for anything, so all that it imports goes into it. It knows the modules that
// are ours or wasm-bindgen's, whose statements begin with their line; what else a program imports, `no-modules` forbids too.

const IMPORT = /(?<=^|; )import (?:(\* as )?(\w+)|\{([^}]*)\}) from (['"])([^'"\n]+)\4;/gm;
const EXPORTED = /^export (?=(?:async )?(?:function|class|const|let) (\w+))/gm;
const EXPORT_LIST = /^export \{([^}]*)\};?/gm;
const DEFAULT_FUNCTION = /^export default (?=(?:async )?function (\w+))/gm;
const DEFAULT = /^export default /gm;

/** `read` gives the text of a module by its path from the server's root, or throws an error that says why not. */
export async function classicScript(entry: string, read: (path: string) => Promise<string>): Promise<string> {
  const names = new Map<string, string>();
  const parts: string[] = [];

  const add = async (path: string): Promise<void> => {
    const text = await read(path);
    const resolve = (reference: string): string => new URL(reference, `http://server.invalid${path}`).pathname;
    for (const [, , , , , reference = ''] of text.matchAll(IMPORT)) {
      const target = resolve(reference);
      if (!names.has(target)) await add(target);
    }
    const name = `__module${names.size}`;
    names.set(path, name);
    const body = convert(text, (reference) => names.get(resolve(reference)) ?? '');
    parts.push(`const ${name} = (() => {\n${body}\n})();`);
  };

  await add(entry);
  return `let wasm_bindgen = (() => {
'use strict';
${parts.join('\n')}
const { default: init, ...others } = ${names.get(entry)};
return Object.assign(init, others);
})();
`.replaceAll(/\bimport\.meta\.url\b/g, `(location.origin + ${JSON.stringify(entry)})`);
}

/** The body of a function that returns what the module exports. */
function convert(text: string, nameOf: (reference: string) => string): string {
  const exported: string[] = [];
  const imported = (_: string, all: string, name: string, some: string, _quote: string, from: string): string => {
    const wanted = some === undefined ? `{ default: ${name} }` : `{ ${some.replaceAll(/\s+as\s+/g, ': ')} }`;
    return `const ${all === undefined ? wanted : name} = ${nameOf(from)};`;
  };
  const keep = (_: string, name: string): string => {
    exported.push(name);
    return '';
  };
  const list = (_: string, names: string): string => {
    for (const each of names.split(',')) {
      const [name = '', as = name] = each.trim().split(/\s+as\s+/);
      if (name !== '') exported.push(`${as}: ${name}`);
    }
    return '';
  };
  const byDefault = (_: string, name: string): string => {
    exported.push(`default: ${name}`);
    return '';
  };
  const body = text
    .replaceAll(IMPORT, imported)
    .replaceAll(EXPORTED, keep)
    .replaceAll(EXPORT_LIST, list)
    .replaceAll(DEFAULT_FUNCTION, byDefault)
    .replaceAll(DEFAULT, () => {
      exported.push('default: __default');
      return 'const __default = ';
    });
  return `${body}\nreturn { ${exported.join(', ')} };`;
}
