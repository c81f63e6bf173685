// The architecture as imports: which layer may import which, read from the sources' own import statements.
import { readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const SOURCE = fileURLToPath(new URL('../src', import.meta.url));

/** What each layer may import besides itself. A file directly in src/ is a layer of its own or belongs to the shell. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  model: [],
  object: ['model'],
  link: ['object', 'model'],
  build: ['object', 'model'],
  client: [],
  deliver: ['client/protocol', 'object', 'model'],
  session: ['build', 'deliver', 'link', 'object', 'client/protocol', 'model'],
  shell: ['session', 'build', 'model'],
};

/** Layers that take bytes and give values: they run in a worker, a fuzzer or a page, and know no clock. */
const PURE = ['model', 'object', 'link'];

interface Source {
  /** From src/, e.g. `link/diff.ts`. */
  readonly path: string;
  readonly layer: string;
  readonly text: string;
}

function layerOf(path: string): string {
  const [first = ''] = path.split('/');
  if (path === 'client/protocol.ts') return 'client/protocol';
  if (path.includes('/')) return first;
  if (['backend.ts', 'web.ts', 'native.ts', 'garbage.ts'].includes(path)) return 'session';
  return ['model.ts', 'session.ts'].includes(path) ? basename(path, '.ts') : 'shell';
}

function read(path: string): Source {
  return { path, layer: layerOf(path), text: readFileSync(join(SOURCE, path), 'utf8') };
}

/** Module specifiers of static imports, re-exports and `import()`. */
function imports(text: string): string[] {
  const statements = /^(?:import|export)\s(?:[^'";]*?\sfrom\s)?'([^']+)'|\bimport\('([^']+)'\)/gm;
  return [...text.matchAll(statements)].map(([, named, called]) => named ?? called ?? '');
}

/** The text without comments and strings, so that words in prose do not count. */
function code(text: string): string {
  return text.replaceAll(/\/\*[\s\S]*?\*\/|\/\/.*|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`/g, ' ');
}

const SOURCES = readdirSync(SOURCE, { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.ts'))
  .sort()
  .map(read);

test('imports are found in every form they are written in', () => {
  const text = [
    "import 'a';",
    "import b from 'b';",
    "import type { C } from 'c';",
    "import {\n  D,\n  E,\n} from 'd';",
    "export * from 'e';",
    "export type { F } from 'f';",
    "const g = await import('g');",
    "export const from = 'no import';",
    "// import x from 'x';",
  ].join('\n');
  expect(imports(text)).toEqual(['a', 'b', 'c', 'd', 'e', 'f', 'g']);
});

test('ARCHITECTURE.md has one line for every file, and no other', () => {
  const page = readFileSync(join(SOURCE, '../ARCHITECTURE.md'), 'utf8');
  let folder = '';
  const listed: string[] = [];
  for (const line of page.split('\n')) {
    if (/^##? /.test(line)) folder = '';
    folder = /^### (\w+):/.exec(line)?.[1] ?? folder;
    const name = /^- `(\w+\.ts)`: \S/.exec(line)?.[1];
    if (name !== undefined) listed.push(join(folder, name));
  }
  expect(listed.sort()).toEqual(SOURCES.map(({ path }) => path));
});

describe.each(SOURCES)('$path', ({ path, layer, text }) => {
  const specifiers = imports(text);

  test('imports only what its layer may', () => {
    const allowed = [layer, ...(MAY_IMPORT[layer] ?? [])];
    // The protocol is part of the client for those inside, and a layer of its own for those outside.
    if (layer === 'client') allowed.push('client/protocol');
    const local = specifiers.filter((specifier) => specifier.startsWith('.'));
    const reached = local.map((specifier) => layerOf(relative(SOURCE, join(SOURCE, dirname(path), specifier))));
    expect(reached.filter((other) => !allowed.includes(other))).toEqual([]);
    expect(local.filter((specifier) => !specifier.endsWith('.ts'))).toEqual([]);
  });

  test('keeps to the world it runs in', () => {
    const outside = specifiers.filter((specifier) => !specifier.startsWith('.'));
    if (layer.startsWith('client')) expect(outside).toEqual([]);
    if (!PURE.includes(layer)) return;
    expect(outside).toEqual([]);
    const impure =
      /\b(?:process|performance|console|document|window|navigator|globalThis)\.|\b(?:Buffer|Date)\b|\b(?:fetch|setTimeout|setInterval|setImmediate|queueMicrotask)\(/g;
    expect(code(text).match(impure) ?? []).toEqual([]);
  });

  test('is named by one lower-case word that says what it is', () => {
    const name = basename(path, '.ts');
    expect(name).toMatch(/^[a-z][a-z0-9_]*$/);
    expect(['util', 'utils', 'helper', 'helpers', 'common', 'misc', 'types', 'shared']).not.toContain(name);
  });

  test('says in its first line what goes in and what comes out', () => {
    const [first = '', second = ''] = text.split('\n');
    expect(first.startsWith('#!') ? second : first).toMatch(/^\/\/ \S/);
  });
});
