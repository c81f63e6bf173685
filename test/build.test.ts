// The build stage on a real crate with real cargo and rustc: each test edits the crate and looks at the objects that come
// out. The crate has what makes builds interesting: a path dependency outside of its folder with one of its own, a build
// script, included files, a feature.
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { type Builder, createBuilder } from '../src/build/builder.ts';
import { writeScripts } from '../src/build/capture.ts';
import { DiagnosticError } from '../src/build/diagnostic.ts';
import { askMetadata, type CargoOptions, findPrograms } from '../src/build/package.ts';
import type { Toolchain } from '../src/build/rust.ts';
import { diagnose, requireToolchain } from '../src/build/toolchain.ts';
import { readLinked } from '../src/build/store.ts';
import type { Build, BuildFailure, Edit, Event, ObjectSource, Rewrite } from '../src/model.ts';
import { SHF_ALLOC, SHF_WRITE } from '../src/object/elf.ts';
import { debugInfo } from '../src/object/dwarf.ts';
import { readElfObject } from '../src/object/elfobject.ts';
import { writeElfObject } from '../src/object/elfwriter.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const WORK = join(ROOT, '.cache/build');
const APP = join(WORK, 'app');
const EXAMPLE_LOCK = join(ROOT, 'examples/counter/Cargo.lock');

const FILES: Readonly<Record<string, string>> = {
  'app/Cargo.toml': `[package]
name = "my-app"
version = "0.1.0"
edition = "2024"

[lib]
crate-type = ["cdylib", "rlib"]

[features]
loud = []

[dependencies]
near = { path = "../near" }
wasm-bindgen = "0.2"

[workspace]
`,
  'app/build.rs': `fn main() {
    println!("cargo::rerun-if-changed=built.txt");
    println!("cargo::rustc-env=BUILT={}", std::fs::read_to_string("built.txt").unwrap().trim());
}
`,
  'app/built.txt': 'built-one\n',
  'app/notes.md': 'Nobody reads this.\n',
  'app/src/lib.rs': `mod page;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
pub fn greet(name: &str) -> String {
    format!("greet-one {name} {} {} {}", page::text(), near::text(), env!("BUILT"))
}

#[wasm_bindgen]
pub fn volume() -> String {
    if cfg!(feature = "loud") { "volume-loud".into() } else { "volume-quiet".into() }
}
`,
  'app/src/page.rs': `pub fn text() -> String {
    include_str!("../../shared.txt").to_uppercase()
}
`,
  'shared.txt': 'shared-one\n',
  'near/Cargo.toml':
    '[package]\nname = "near"\nversion = "0.1.0"\nedition = "2024"\n\n[dependencies]\nfar = { path = "../far" }\n',
  'near/src/lib.rs': 'pub fn text() -> String {\n    format!("near-one {}", far::text::<u8>())\n}\n',
  'far/Cargo.toml': '[package]\nname = "far"\nversion = "0.1.0"\nedition = "2024"\n',
  'far/src/lib.rs': 'pub fn text<T>() -> String {\n    format!("far-one {}", size_of::<T>())\n}\n',
};

const WASM = 'wasm32-unknown-unknown';
const NATIVE = 'x86_64-unknown-linux-gnu';

let toolchain: Toolchain;
let builder: Builder;
/** What the objects are now. */
let current: Build;
const events: Event[] = [];
const never = new AbortController().signal;

function write(path: string, text: string): string {
  const full = join(WORK, path);
  mkdirSync(join(full, '..'), { recursive: true });
  writeFileSync(full, text);
  return full;
}

function replace(path: string, from: string | RegExp, to: string): string {
  const text = readFileSync(join(WORK, path), 'utf8');
  const replaced = text.replace(from, to);
  expect(replaced, `${path} contains ${from}`).not.toBe(text);
  return write(path, replaced);
}

function update(...paths: string[]): Promise<Build | BuildFailure> {
  return builder.update({ paths, at: performance.now() }, never);
}

function built(result: Build | BuildFailure): Build {
  if (result.kind === 'failed')
    throw new Error(result.diagnostics.map((each) => each.rendered ?? each.text).join('\n'));
  return result;
}

/** Builds an edit that has to succeed, and returns the objects that are not as before. */
async function change(...paths: string[]): Promise<ObjectSource[]> {
  const before = current;
  current = built(await update(...paths));
  return changed(before, current);
}

function changed(before: Build, after: Build): ObjectSource[] {
  const stamps = new Map(before.objects.map((object) => [object.name, object.stamp]));
  return after.objects.filter((object) => stamps.get(object.name) !== object.stamp);
}

function contains(objects: readonly ObjectSource[], text: string): boolean {
  return objects.some((object) => Buffer.from(object.bytes()).includes(text));
}

function crates(objects: readonly ObjectSource[]): string[] {
  return [...new Set(objects.map((object) => object.name.replace(/[-.].*/, '')))].sort();
}

/** `NAME for TARGET`, of what would be served. */
async function programs(directory: string, more?: Partial<CargoOptions>): Promise<string[]> {
  const options = { directory, ...more };
  return findPrograms(options, await askMetadata(options)).map(({ name, target }) => `${name} for ${target}`);
}

async function open(directory: string, more: Partial<Parameters<typeof createBuilder>[0]> = {}): Promise<Builder> {
  const options = {
    directory,
    targetDirectory: join(WORK, 'target'),
    arenaBytes: 1 << 16,
    report: (event: Event) => events.push(event),
    ...more,
  };
  return createBuilder(options, toolchain);
}

/** What a user is told when a builder cannot be made. */
async function mistake(directory: string, more?: Partial<Parameters<typeof createBuilder>[0]>): Promise<string> {
  const error = await open(directory, more).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(DiagnosticError);
  return (error as DiagnosticError).diagnostics.map((each) => `${each.text} | ${each.hint}`).join('\n');
}

/** Edits as they come; each call waits for the next one. */
async function watching(work: (next: () => Promise<Edit>) => Promise<void>): Promise<void> {
  const edits: Edit[] = [];
  let wake: (() => void) | undefined;
  const stop = await builder.watch((edit) => {
    edits.push(edit);
    wake?.();
  });
  const next = async (): Promise<Edit> => {
    while (edits.length === 0) await new Promise<void>((resolve) => (wake = resolve));
    return edits.shift() as Edit;
  };
  await work(next);
  await stop();
}

function manifest(name: string, more: string): string {
  return `[package]\nname = "${name}"\nversion = "0.1.0"\nedition = "2024"\n${more}\n[workspace]\n`;
}

beforeAll(async () => {
  // The target folder stays: dependencies need not be built again for every run of the tests.
  for (const name of ['app', 'near', 'far', 'extra', 'mistakes'])
    rmSync(join(WORK, name), { recursive: true, force: true });
  for (const [path, text] of Object.entries(FILES)) write(path, text);
  write('app/Cargo.lock', readFileSync(EXAMPLE_LOCK, 'utf8'));
  toolchain = await requireToolchain({ directory: APP });
  builder = await open(APP);
  current = built(await builder.base(never));
});

afterAll(() => builder?.close());

describe('the base', () => {
  test('names the output as wasm-bindgen does', () => {
    expect(builder).toMatchObject({ name: 'my_app', directory: APP, workspace: APP });
  });

  test('has the objects of all editable crates, and archives for the rest', () => {
    expect(crates(current.objects)).toEqual(['far', 'my_app', 'near']);
    expect(new Set(current.objects.map((object) => object.name)).size).toBe(current.objects.length);
    for (const object of current.objects)
      expect([...object.bytes().subarray(0, 8)], object.name).toEqual([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
    const archives = current.archives.map((archive) => archive.path.replace(/^.*\/lib(\w+)-.*$/, '$1'));
    expect(archives).toEqual(expect.arrayContaining(['wasm_bindgen', 'std', 'core', 'alloc']));
    expect(archives).not.toContain('near');
    expect(Buffer.from(current.archives[0]?.bytes() ?? []).toString('latin1', 0, 7)).toBe('!<arch>');
  });

  test('reports progress', () => {
    expect(events).toContainEqual(expect.objectContaining({ event: 'progress', text: 'my_app' }));
  });

  test('becomes an image that a browser can load', async () => {
    const image = await builder.image(current, never);
    const module = await WebAssembly.compile(new Uint8Array(image.module));
    expect(WebAssembly.Module.exports(module).map((each) => each.name)).toEqual(
      expect.arrayContaining(['greet', 'volume']),
    );
    expect(WebAssembly.Module.customSections(module, 'name')).toHaveLength(1);
    expect(Buffer.from(image.module).includes('greet-one')).toBe(true);
    expect(image.map).toContain('my_app');
    expect(image.map).toContain('__hotslot_arena');
    expect(image.glue).toContain('export function greet');
    expect(readFileSync(join(image.directory, 'my_app.js'), 'utf8')).toBe(image.glue);
  });

  test('is taken from the record when nothing changed since', async () => {
    const again = await open(APP);
    const base = built(await again.base(never));
    expect(base.objects.map((object) => [object.name, object.stamp])).toEqual(
      current.objects.map((object) => [object.name, object.stamp]),
    );
    await again.close();
  });
});

describe('an edit', () => {
  test('of one function gives new stamps to the few objects that changed, and leaves the old bytes readable', async () => {
    const before = current;
    const bytes = new Map(before.objects.map((object) => [object.name, Buffer.from(object.bytes())]));
    const objects = await change(replace('app/src/lib.rs', 'greet-one', 'greet-two'));
    expect(crates(objects)).toEqual(['my_app']);
    expect(contains(objects, 'greet-two')).toBe(true);
    expect(objects.length).toBeLessThan(5);
    for (const object of current.objects.filter((each) => !objects.includes(each)))
      expect(bytes.get(object.name)?.equals(object.bytes()), object.name).toBe(true);
    for (const object of before.objects) expect(bytes.get(object.name)?.equals(object.bytes()), object.name).toBe(true);
  });

  test('of a path dependency rebuilds it and what depends on it', async () => {
    const objects = await change(replace('near/src/lib.rs', 'near-one', 'near-two'));
    expect(crates(objects)).toContain('near');
    expect(contains(objects, 'near-two')).toBe(true);
    expect(contains(current.objects, 'near-one')).toBe(false);
  });

  test('of a generic function reaches the crate that uses it', async () => {
    const objects = await change(replace('far/src/lib.rs', 'far-one', 'far-two'));
    expect(crates(objects)).toContain('near');
    expect(contains(current.objects, 'far-two')).toBe(true);
    expect(contains(current.objects, 'far-one')).toBe(false);
  });

  test('of an included file outside of the crate', async () => {
    const objects = await change(write('shared.txt', 'shared-two\n'));
    expect(crates(objects)).toEqual(['my_app']);
    expect(contains(objects, 'shared-two')).toBe(true);
  });

  test('of a file that is nobody’s input builds nothing', async () => {
    expect(await update(write('app/notes.md', 'Still nobody.\n'))).toBe(current);
    expect(await update(write('app/src/unused.rs', 'pub fn unused() {}\n'))).toBe(current);
  });

  test('that adds a module builds, and the new file is an input from then on', async () => {
    const added = write('app/src/added.rs', 'pub fn text() -> &\'static str {\n    "added-one"\n}\n');
    replace('app/src/lib.rs', 'mod page;', 'mod added;\nmod page;');
    const objects = await change(added, replace('app/src/lib.rs', 'page::text()', 'page::text() + added::text()'));
    expect(contains(objects, 'added-one')).toBe(true);
    expect(contains(await change(replace('app/src/added.rs', 'added-one', 'added-two')), 'added-two')).toBe(true);
  });

  test('of what a build script reads runs it', async () => {
    const objects = await change(write('app/built.txt', 'built-two\n'));
    expect(contains(objects, 'built-two')).toBe(true);
  });

  test('of the build script itself runs it', async () => {
    const objects = await change(replace('app/build.rs', 'BUILT={}', 'BUILT={}-again'));
    expect(contains(objects, 'built-two-again')).toBe(true);
  });

  test('of Cargo.toml can switch a feature on', async () => {
    const objects = await change(replace('app/Cargo.toml', 'loud = []', 'loud = []\ndefault = ["loud"]'));
    expect(contains(objects, 'volume-loud')).toBe(true);
  });

  test('of Cargo.toml can add a dependency, whose edits are noticed from then on', async () => {
    write('extra/Cargo.toml', '[package]\nname = "extra"\nversion = "0.1.0"\nedition = "2024"\n');
    write('extra/src/lib.rs', 'pub fn text() -> String {\n    String::from("extra-one")\n}\n');
    replace('app/src/lib.rs', 'page::text() +', 'page::text() + &extra::text() +');
    await change(replace('app/Cargo.toml', '[workspace]', 'extra = { path = "../extra" }\n\n[workspace]'));
    expect(contains(current.objects, 'extra-one')).toBe(true);
    const objects = await change(replace('extra/src/lib.rs', 'extra-one', 'extra-two'));
    expect(crates(objects)).toContain('extra');
    expect(contains(objects, 'extra-two')).toBe(true);
  });
});

describe('a mistake in the source', () => {
  test('is a diagnostic with its place; the fix builds', async () => {
    const path = replace('app/src/page.rs', 'to_uppercase()', 'len()');
    const failure = await update(path);
    expect(failure.kind === 'failed' && failure.diagnostics).toEqual([
      expect.objectContaining({
        severity: 'error',
        code: 'E0308',
        text: 'mismatched types',
        place: expect.objectContaining({ path, line: 2, lineText: '    include_str!("../../shared.txt").len()' }),
        rendered: expect.stringContaining('mismatched types'),
      }),
    ]);
    expect(contains(await change(replace('app/src/page.rs', 'len()', 'to_lowercase()')), 'shared-two')).toBe(true);
  });

  test('in a dependency is shown once, at its place; a fix there builds all', async () => {
    const path = replace('near/src/lib.rs', 'near-two', 'near-three {}');
    const failure = await update(path);
    expect(failure.kind === 'failed' && failure.diagnostics.map((each) => each.place?.path)).toEqual([path]);
    await change(replace('near/src/lib.rs', 'near-three {}', 'near-three'));
    expect(contains(current.objects, 'near-three')).toBe(true);
  });

  test('in Cargo.toml is a diagnostic; the fix builds', async () => {
    const failure = await update(replace('app/Cargo.toml', '[features]', '[features'));
    expect(failure.kind === 'failed' && failure.diagnostics[0]?.text).toMatch(/unclosed table|invalid table header/);
    await change(replace('app/Cargo.toml', '[features', '[features]'));
    expect(contains(current.objects, 'near-three')).toBe(true);
  });

  test('of a missing module is mended by the file that appears', async () => {
    const failure = await update(replace('app/src/lib.rs', 'mod page;', 'mod late;\nmod page;'));
    expect(failure.kind === 'failed' && failure.diagnostics[0]?.code).toBe('E0583');
    built(await update(write('app/src/late.rs', '')));
    current = built(await update(replace('app/src/lib.rs', 'mod late;\n', '')));
  });
});

describe('an edit that arrives while building', () => {
  test('ends the build at whatever point it is, and the next one is whole', async () => {
    for (const [index, milliseconds] of [0, 15, 40, 80, 120, 160, 220].entries()) {
      const text = `abort-${index}`;
      const signal = AbortSignal.timeout(milliseconds);
      replace('near/src/lib.rs', /near-three\S*|abort-\d/, text);
      const edit: Edit = {
        paths: [replace('app/src/lib.rs', /greet-two|abort-\d/, text), join(WORK, 'near/src/lib.rs')],
        at: 0,
      };
      const result = await builder.update(edit, signal).catch((error: unknown) => error);
      if (signal.aborted && result instanceof Error) expect(result).toBe(signal.reason);
      const objects = await change();
      expect(contains(current.objects, text)).toBe(true);
      expect(objects.length).toBeGreaterThan(0);
      if (index > 0) expect(contains(current.objects, `abort-${index - 1}`)).toBe(false);
    }
  });

  test('ten in a row end in the last', async () => {
    const done: Promise<Build | BuildFailure | undefined>[] = [];
    let controller = new AbortController();
    for (let index = 0; index < 10; index++) {
      controller.abort(new Error('superseded'));
      controller = new AbortController();
      const edit = { paths: [replace('app/src/lib.rs', /abort-\d|fast-\d/, `fast-${index}`)], at: 0 };
      done.push(builder.update(edit, controller.signal).catch(() => undefined));
    }
    const results = await Promise.all(done);
    expect(results.slice(0, -1).every((result) => result === undefined)).toBe(true);
    current = built(results.at(-1) as Build);
    expect(contains(current.objects, 'fast-9')).toBe(true);
    expect([0, 1, 2, 3, 4, 5, 6, 7, 8].some((index) => contains(current.objects, `fast-${index}`))).toBe(false);
  });

  test('does not reach the plain build, which is of the same source and has nothing of hotslot in it', async () => {
    const image = await builder.image(current, never);
    const directory = join(WORK, 'plain');
    rmSync(directory, { recursive: true, force: true });
    await builder.plain(directory, never);
    const glue = readFileSync(join(directory, 'my_app.js'), 'utf8');
    expect(glue.replace('/* @ts-self-types="./my_app.d.ts" */\n\n', '')).toBe(image.glue);
    const module = readFileSync(join(directory, 'my_app_bg.wasm'));
    expect(module.includes('fast-9')).toBe(true);
    expect(module.includes('hotslot')).toBe(false);
    expect(image.map).toContain('__hotslot_arena');
    expect(readFileSync(join(directory, 'my_app.d.ts'), 'utf8')).toContain('greet');
  });
});

describe('watching', () => {
  test('sees the crate, its path dependencies and its inputs, and nothing else', async () => {
    await watching(async (next) => {
      for (const path of [
        'app/src/lib.rs',
        'far/src/lib.rs',
        'shared.txt',
        'app/Cargo.toml',
        'app/.cargo/config.toml',
      ]) {
        write('target/noise.rs', path);
        const full = write(path, path.endsWith('config.toml') ? '' : `${readFileSync(join(WORK, path), 'utf8')}\n`);
        expect((await next()).paths).toEqual([full]);
      }
      const removed = join(APP, '.cargo/config.toml');
      rmSync(removed);
      expect((await next()).paths).toEqual([removed]);
    });
  });

  test('follows a build to files that are elsewhere: missing at first, broken, in a folder that is replaced', async () => {
    const elsewhere = join(WORK, 'elsewhere/deep/tools.rs');
    rmSync(join(WORK, 'elsewhere'), { recursive: true, force: true });
    const lib = readFileSync(join(APP, 'src/lib.rs'), 'utf8');
    await watching(async (next) => {
      /** Waits for the edit of this file, and builds it. */
      const follow = async (path: string): Promise<Build | BuildFailure> => {
        let edit = await next();
        while (!edit.paths.includes(path)) edit = await next();
        return builder.update(edit, never);
      };
      const tools = (text: string): void => {
        write('elsewhere/deep/tools.rs', text);
      };
      const user = replace(
        'app/src/lib.rs',
        'mod page;',
        '#[path = "../../elsewhere/deep/tools.rs"]\npub mod tools;\nmod page;',
      );
      expect(await follow(user)).toMatchObject({
        diagnostics: [{ text: expect.stringContaining('couldn\u0027t read') }],
      });
      tools('pub fn text( {}');
      expect(await follow(elsewhere)).toMatchObject({ diagnostics: [{ place: { path: elsewhere } }] });
      tools('#[unsafe(no_mangle)]\npub fn tools() -> &\'static str {\n    "tools-one"\n}\n');
      current = built(await follow(elsewhere));
      expect(contains(current.objects, 'tools-one')).toBe(true);
      replace('elsewhere/deep/tools.rs', 'tools-one', 'tools-two');
      current = built(await follow(elsewhere));
      expect(contains(current.objects, 'tools-two')).toBe(true);

      const text = readFileSync(elsewhere, 'utf8');
      rmSync(join(WORK, 'elsewhere'), { recursive: true });
      tools(text.replace('tools-two', 'tools-three'));
      current = built(await follow(elsewhere));
      expect(contains(current.objects, 'tools-three')).toBe(true);
    });
    current = built(await update(write('app/src/lib.rs', lib)));
  });

  test('an edit has settled: written in two steps, or by renaming', async () => {
    await watching(async (next) => {
      const path = join(APP, 'src/lib.rs');
      const text = readFileSync(path, 'utf8');
      for (let index = 0; index < 5; index++) {
        truncateSync(path);
        setImmediate(() => writeFileSync(path, `${text}// ${index}\n`));
        await next();
        expect(readFileSync(path, 'utf8')).toBe(`${text}// ${index}\n`);
        writeFileSync(`${path}~`, text);
        renameSync(`${path}~`, path);
        let edit = await next();
        while (!edit.paths.includes(path)) edit = await next();
        expect(readFileSync(path, 'utf8')).toBe(text);
      }
    });
  });

  test('every last of many quick writes is seen', async () => {
    await watching(async (next) => {
      const path = join(APP, 'src/page.rs');
      const text = readFileSync(path, 'utf8');
      for (let index = 0; index < 5; index++) {
        for (let count = 0; count < 20; count++) {
          writeFileSync(path, `${text}// ${index} ${count}\n`);
          await new Promise((resolve) => setImmediate(resolve));
        }
        let edit = await next();
        while (!edit.paths.includes(path)) edit = await next();
      }
      writeFileSync(path, text);
      const seen = await next();
      expect(seen.paths).toEqual([path]);
    });
  });
});

describe('a mistake in the choice of what to build', () => {
  test('no Cargo.toml', async () => {
    expect(await mistake('/')).toMatch(/^There is no Cargo.toml in \//);
  });

  test('no such target, package or platform', async () => {
    expect(await mistake(APP, { bin: 'other' })).toMatch(/^my-app has no bin other/);
    expect(await mistake(APP, { package: 'other' })).toBe('No package other in this workspace | It has: my-app.');
    await expect(programs(APP, { target: NATIVE })).rejects.toThrow(/^my-app has no binary/);
    await expect(programs(APP, { target: 'i686-unknown-linux-gnu' })).rejects.toThrow(/^hotslot cannot build for i686/);
  });

  test('a library that is not a cdylib, without wasm-bindgen', async () => {
    write('mistakes/plain/src/lib.rs', '');
    write('mistakes/plain/Cargo.toml', manifest('plain', ''));
    expect(await mistake(join(WORK, 'mistakes/plain'))).toMatch(/^plain has neither a cdylib library nor a binary \| /);
    write('mistakes/plain/Cargo.toml', manifest('plain', '[lib]\ncrate-type = ["cdylib"]\n'));
    expect(await mistake(join(WORK, 'mistakes/plain'))).toMatch(/^plain does not depend on wasm-bindgen/);
  });

  test('several binaries', async () => {
    write('mistakes/many/Cargo.toml', manifest('many', ''));
    for (const name of ['one', 'two']) write(`mistakes/many/src/bin/${name}.rs`, 'fn main() {}\n');
    expect(await mistake(join(WORK, 'mistakes/many'))).toMatch(
      /^many has several binaries: one, two \| Choose one: `--bin one`/,
    );
  });
});

test('other choices: a release build of a workspace member’s binary, with features, through a wrapper of the user’s', async () => {
  write(
    'mistakes/space/Cargo.toml',
    '[workspace]\nresolver = "3"\nmembers = ["web", "other"]\n\n[profile.release]\nlto = true\ncodegen-units = 1\n',
  );
  write('mistakes/space/Cargo.lock', readFileSync(EXAMPLE_LOCK, 'utf8'));
  write('mistakes/space/other/Cargo.toml', '[package]\nname = "other"\nversion = "0.1.0"\nedition = "2024"\n');
  write('mistakes/space/other/src/lib.rs', '');
  write(
    'mistakes/space/web/Cargo.toml',
    '[package]\nname = "web"\nversion = "0.1.0"\nedition = "2024"\n\n[features]\nextra = []\n\n[dependencies]\nwasm-bindgen = "0.2"\n',
  );
  write(
    'mistakes/space/web/src/main.rs',
    'use wasm_bindgen::prelude::*;\n\n#[wasm_bindgen]\npub fn label() -> String {\n    if cfg!(feature = "extra") { "with-extra".into() } else { "without".into() }\n}\n\nfn main() {}\n',
  );
  const log = write('mistakes/space/wrapped', '');
  const wrapper = write('mistakes/space/wrapper', `#!/bin/sh\necho "$3" >>${log}\nexec "$@"\n`);
  chmodSync(wrapper, 0o755);
  write(
    'mistakes/space/.cargo/config.toml',
    `[build]\nrustc-wrapper = "${wrapper}"\nrustflags = ["--cfg", "of_the_user"]\n`,
  );
  const other = await open(join(WORK, 'mistakes/space'), { features: ['extra'], release: true });
  expect(other).toMatchObject({ name: 'web', directory: join(WORK, 'mistakes/space/web') });
  const base = built(await other.base(never));
  expect(contains(base.objects, 'with-extra')).toBe(true);
  expect(readFileSync(log, 'utf8').split('\n')).toContain('web');
  const path = replace('mistakes/space/web/src/main.rs', 'with-extra', 'much-extra');
  const next = built(await other.update({ paths: [path], at: 0 }, never));
  expect(contains(changed(base, next), 'much-extra')).toBe(true);
  const image = await other.image(next, never);
  expect(Buffer.from(image.module).includes('much-extra')).toBe(true);
  expect(
    WebAssembly.Module.customSections(await WebAssembly.compile(new Uint8Array(image.module)), 'name'),
  ).toHaveLength(1);
  await other.close();
});

describe('a native program', () => {
  const SPACE = join(WORK, 'space');
  const SERVER = join(SPACE, 'server');
  let native: Toolchain;
  let server: Builder;
  let build: Build;

  const openNative = (more: Partial<Parameters<typeof createBuilder>[0]> = {}): Promise<Builder> =>
    createBuilder(
      {
        directory: SERVER,
        targetDirectory: join(WORK, 'target'),
        arenaBytes: undefined,
        report: (event) => events.push(event),
        ...more,
      },
      native,
    );
  /** Every object as it is, and what the agent asks of the object with the stubs. */
  const unchanged = ({ objects }: Build): Rewrite => ({
    objects: new Map(objects.map((object) => [object.name, [object.bytes()]])),
    added: new Map([['slots.o', slotsObject()]]),
  });
  const edit = async (...paths: string[]): Promise<ObjectSource[]> => {
    const before = build;
    build = built(await server.update({ paths, at: 0 }, never));
    return changed(before, build);
  };
  const output = (path: string, ...args: string[]): string => execFileSync(path, args, { encoding: 'utf8' });

  beforeAll(async () => {
    rmSync(SPACE, { recursive: true, force: true });
    const member = (name: string, more = ''): void => {
      write(`space/${name}/Cargo.toml`, `[package]\nname = "${name}"\nversion = "0.1.0"\nedition = "2024"\n${more}`);
    };
    const sparing = '\n[profile.dev.package.text]\ndebug = false\n';
    write('space/Cargo.toml', `[workspace]\nresolver = "3"\nmembers = ["server", "text", "web", "xtask"]\n${sparing}`);
    write('space/Cargo.lock', readFileSync(EXAMPLE_LOCK, 'utf8'));
    member('server', '\n[dependencies]\ntext = { path = "../text" }\n');
    write(
      'space/server/src/main.rs',
      `fn main() {
    let program = std::env::args().next().unwrap();
    println!("{program}: main-one {} {} {}", text::text(), include_str!("notice.txt").trim(), env!("BUILT"));
}
`,
    );
    write('space/server/src/notice.txt', 'notice-one\n');
    write('space/server/build.rs', FILES['app/build.rs'] ?? '');
    write('space/server/built.txt', 'built-one\n');
    // As many libraries do, it needs wasm-bindgen in a page only.
    member('text', '\n[target.\'cfg(target_arch = "wasm32")\'.dependencies]\nwasm-bindgen = "0.2"\n');
    write(
      'space/text/src/lib.rs',
      'pub fn text() -> String {\n    format!("text-one {}", std::process::id() > 0)\n}\n',
    );
    member('web', '\n[lib]\ncrate-type = ["cdylib"]\n\n[dependencies]\nwasm-bindgen = "0.2"\n');
    write('space/web/src/lib.rs', '');
    member('xtask');
    write('space/xtask/src/main.rs', 'fn main() {}\n');
    native = await requireToolchain({ directory: SERVER, target: NATIVE });
    server = await openNative();
    build = built(await server.base(never));
  });

  afterAll(() => server?.close());

  test('is found beside the one for the web, or alone, by what it depends on', async () => {
    expect(await programs(SPACE)).toEqual([`server for ${NATIVE}`, `web for ${WASM}`]);
    expect(await programs(SPACE, { package: 'web' })).toEqual([`web for ${WASM}`]);
    expect(await programs(SPACE, { target: NATIVE })).toEqual([`server for ${NATIVE}`]);
    expect(await programs(SERVER)).toEqual([`server for ${NATIVE}`]);
    expect(await programs(APP)).toEqual([`my-app for ${WASM}`]);
    // A binary that depends on wasm-bindgen can be both.
    write('space/web/src/main.rs', 'fn main() {}\n');
    expect(await programs(SPACE, { package: 'web' })).toEqual([`web for ${WASM}`]);
    expect(await programs(SPACE, { package: 'web', target: NATIVE })).toEqual([`web for ${NATIVE}`]);
    await expect(programs(SPACE, { target: NATIVE })).rejects.toThrow(
      /^Several packages could be served: server, web\n/,
    );
    // With the library that a page needs, also one that has it in pages only is for the web; without it, not.
    replace('space/web/Cargo.toml', 'wasm-bindgen = "0.2"', 'text = { path = "../text" }');
    expect(await programs(SPACE, { package: 'web' })).toEqual([`web for ${WASM}`]);
    replace('space/web/Cargo.toml', 'crate-type = ["cdylib"]', '');
    expect(await programs(SPACE, { package: 'web' })).toEqual([`web for ${NATIVE}`]);
    replace('space/web/Cargo.toml', 'text = { path = "../text" }', 'wasm-bindgen = "0.2"');
    replace('space/web/Cargo.toml', '[lib]', '[lib]\ncrate-type = ["cdylib"]');
    rmSync(join(SPACE, 'web/src/main.rs'));
  });

  test('has the objects of its own crates, and only those that rustc takes from its source', () => {
    expect(server).toMatchObject({ platform: 'native', name: 'server', directory: SERVER, workspace: SPACE });
    // What a program finds under `cargo run`, and nothing that is for rustc.
    expect(server.environment).toMatchObject({ CARGO_MANIFEST_DIR: SERVER, CARGO_PKG_VERSION: '0.1.0' });
    expect(Object.keys(server.environment).filter((name) => /^RUST|HOTSLOT|PROFILE/.test(name))).toEqual([]);
    expect(crates(build.objects)).toEqual(['server', 'text']);
    // Also of the one whose profile does without: nothing else tells of layouts.
    const told = build.objects.filter(
      (object) => debugInfo(readElfObject(object.bytes(), object.name))?.describesTypes === true,
    );
    expect(crates(told)).toEqual(['server', 'text']);
    const defined = build.objects.flatMap((object) =>
      readElfObject(object.bytes(), object.name).symbols.filter(({ atom }) => atom !== undefined),
    );
    expect(defined.some(({ name }) => name === 'main')).toBe(true);
    expect(defined.filter(({ name }) => name.includes('__rust_no_alloc_shim'))).toEqual([]);
    const archives = build.archives.map((archive) => archive.path.replace(/^.*\/lib(\w+)-.*$/, '$1'));
    expect(archives).toEqual(expect.arrayContaining(['std', 'core', 'alloc']));
    expect(archives).not.toContain('text');
  });

  test('nothing is taken over from another compiler, or from another hotslot, which asks other things of it', async () => {
    const targetDirectory = join(WORK, 'target/takeover');
    const own = join(targetDirectory, 'hotslot-native');
    const reopen = async (): Promise<boolean> => {
      await (await openNative({ targetDirectory })).close();
      return existsSync(join(own, 'built'));
    };
    await reopen();
    writeFileSync(join(own, 'built'), '');
    expect(await reopen()).toBe(true);
    const note = join(own, 'hotslot/compiler');
    const before = readFileSync(note, 'utf8');
    writeFileSync(note, before.replace(/\w+$/, '0123'));
    expect(await reopen()).toBe(false);
    expect(readFileSync(note, 'utf8')).toBe(before);
  });

  test('an edit gives the objects that changed: of a function, of a library, an included file, a build script', async () => {
    const objects = await edit(replace('space/server/src/main.rs', 'main-one', 'main-two'));
    expect(crates(objects)).toEqual(['server']);
    expect(contains(objects, 'main-two')).toBe(true);
    expect(objects.length).toBeLessThan(build.objects.length / 2);
    const library = await edit(replace('space/text/src/lib.rs', 'text-one', 'text-two'));
    expect(crates(library)).toContain('text');
    expect(contains(library, 'text-two')).toBe(true);
    expect(contains(await edit(write('space/server/src/notice.txt', 'notice-two\n')), 'notice-two')).toBe(true);
    expect(contains(await edit(write('space/server/built.txt', 'built-two\n')), 'built-two')).toBe(true);
  });

  test('is linked from its objects and the agent by cargo’s own linker, and does what cargo’s does', async () => {
    const rewrite = unchanged(build);
    const executable = await server.executable(build, rewrite, never);
    expect(basename(executable.path)).toBe('server');
    expect(readFileSync(executable.path).equals(executable.bytes())).toBe(true);
    for (const name of ['HOTSLOT_SOCKET', '__hotslot_slots_start', 'Linker: LLD'])
      expect(Buffer.from(executable.bytes()).includes(name), name).toBe(true);

    const directory = join(WORK, 'plain-native');
    rmSync(directory, { recursive: true, force: true });
    await server.plain(directory, never);
    const plain = join(directory, 'server');
    expect(readFileSync(plain).equals(readFileSync(join(WORK, 'target/debug/server')))).toBe(true);
    expect(readFileSync(plain).includes('HOTSLOT_SOCKET')).toBe(false);
    const said = output(executable.path);
    expect(said).toBe(`${executable.path}: main-two text-two true notice-two built-two\n`);
    expect(said.replace(executable.path, plain)).toBe(output(plain));

    // The same again, and after a later build, and until it is given up.
    const again = await server.executable(build, rewrite, never);
    expect(again.path).not.toBe(executable.path);
    const older = build;
    await edit(replace('space/server/src/main.rs', 'main-two', 'main-three'));
    const newer = await server.executable(build, unchanged(build), never);
    expect(output(newer.path)).toContain('main-three');
    for (const { path } of [executable, again]) expect(output(path)).toBe(said.replace(executable.path, path));
    server.release(older);
    expect([executable, again, newer].map(({ path }) => existsSync(path))).toEqual([false, false, true]);
    expect(contains(older.objects, 'main-two')).toBe(true);
  });

  test('a linker that fails is quoted', async () => {
    const rewrite = { ...unchanged(build), added: new Map() };
    const error = await server.executable(build, rewrite, never).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(DiagnosticError);
    const [diagnostic] = (error as DiagnosticError).diagnostics;
    expect(diagnostic).toMatchObject({
      text: 'The linker failed',
      notes: [expect.stringContaining('__hotslot_slots')],
    });
  });

  test('rustc’s arguments are taken from a file, too, when a command line cannot hold them', () => {
    const store = join(WORK, 'response');
    rmSync(store, { recursive: true, force: true });
    const directory = join(store, 'a "folder" of \\ours');
    mkdirSync(directory, { recursive: true });
    const object = build.objects.find(({ name }) => name.startsWith('server-'))?.bytes() ?? new Uint8Array();
    const args = ['-m64', ...Array.from({ length: 5000 }, (_, index) => `-Wl,--defsym=s${index}=${index}`)];
    for (const name of ['symbols.o', 'a-1.unit.call.rcgu.o']) {
      writeFileSync(join(directory, name), object);
      args.push(join(directory, name));
    }
    args.push('-o', join(directory, 'server-1'), '-pie');
    // https://github.com/rust-lang/rust/blob/1.95.0/compiler/rustc_codegen_ssa/src/back/link.rs, `Escape`
    const file = write(
      'response/linker-arguments',
      `${args.map((each) => each.replaceAll(/[\\ ]/g, '\\$&')).join('\n')}\n`,
    );
    const { linker } = writeScripts(join(store, 'bin'), 'native');
    execFileSync(linker, [`@${file}`], { env: { ...process.env, HOTSLOT_STORE: store } });
    const folder = join(store, 'server-1');
    const linked = readLinked(folder, new Set(), 'native');
    expect(linked.objects.map(({ name }) => name)).toEqual(['a-1.unit']);
    expect(linked.args()).toEqual(args.map((each) => (each.endsWith('.o') ? join(folder, basename(each)) : each)));
  });

  test('another linker, static libraries of C, no cc, and what cannot be patched', async () => {
    const config = (text: string): string => write('space/.cargo/config.toml', text);
    // GNU ld instead of rustc's choice; C in the library crate, which its rlib brings along.
    config('[build]\nrustflags = ["-C", "link-arg=-fuse-ld=bfd", "-C", "strip=symbols"]\n');
    write(
      'space/text/build.rs',
      `use std::{env, path::Path, process::Command};
fn main() {
    let out = env::var("OUT_DIR").unwrap();
    let object = Path::new(&out).join("answer.o");
    assert!(Command::new("cc").args(["-w", "-c", "answer.c", "-o"]).arg(&object).status().unwrap().success());
    assert!(Command::new("ar").arg("rcs").arg(Path::new(&out).join("libanswer.a")).arg(&object).status().unwrap().success());
    println!("cargo::rustc-link-search=native={out}\\ncargo::rustc-link-lib=static=answer");
}
`,
    );
    write('space/text/answer.c', 'int answer(void) { return 42; }\n');
    write(
      'space/text/src/lib.rs',
      'unsafe extern "C" { safe fn answer() -> i32; }\npub fn text() -> String {\n    format!("answer-{}", answer())\n}\n',
    );
    // A library for C as well, which rustc links on its own.
    const library = replace('space/text/Cargo.toml', '[target', '[lib]\ncrate-type = ["lib", "cdylib"]\n\n[target');
    await edit(join(SPACE, '.cargo/config.toml'), join(SPACE, 'text/build.rs'), library);
    expect(build.objects.filter(({ name }) => name.includes('answer'))).toEqual([]);
    const executable = await server.executable(build, unchanged(build), never);
    expect(output(executable.path)).toContain('main-three answer-42');
    expect(Buffer.from(executable.bytes()).includes('Linker: LLD')).toBe(false);
    expect(Buffer.from(executable.bytes()).includes('hotslot_slots_start')).toBe(true);

    config('[build]\nrustflags = ["-C", "linker=cc-of-nobody"]\n');
    await edit(join(SPACE, '.cargo/config.toml'));
    await expect(server.executable(build, unchanged(build), never)).rejects.toThrow(
      'The linker cc-of-nobody is not installed',
    );

    // As it was at first: cargo need not build anything, but what was linked last is not this.
    rmSync(join(SPACE, '.cargo/config.toml'));
    await edit(join(SPACE, '.cargo/config.toml'));
    const before = await server.executable(build, unchanged(build), never);
    expect(Buffer.from(before.bytes()).includes('Linker: LLD')).toBe(true);

    config('[build]\nrustflags = ["-C", "target-feature=+crt-static"]\n');
    const failure = await server.update({ paths: [join(SPACE, '.cargo/config.toml')], at: 0 }, never);
    expect(failure.kind === 'failed' && failure.diagnostics[0]?.text).toMatch(/cannot patch a program that libc/);
  });

  test('its needs are few, and a missing compiler is told in one line', async () => {
    const needs = await diagnose({ directory: SERVER });
    expect(needs.map(({ name, missing }) => [name, missing])).toEqual([
      ['C compiler', undefined],
      [`Rust for ${NATIVE}`, undefined],
    ]);
    const { PATH } = process.env;
    const folder = join(WORK, 'tools');
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    for (const name of ['rustc', 'cargo']) symlinkSync(join(dirname(native.rustc), name), join(folder, name));
    process.env['PATH'] = folder;
    try {
      await expect(requireToolchain({ directory: SERVER, target: NATIVE })).rejects.toThrow(
        /^C compiler: programs are linked by it\n.*apt-get install gcc libc6-dev$/,
      );
    } finally {
      process.env['PATH'] = PATH;
    }
  });
});

/** The bounds of no slots at all. */
function slotsObject(): Uint8Array {
  const symbol = {
    binding: 'global',
    type: 'object',
    visibility: 'hidden',
    section: 0,
    value: 0,
    sizeBytes: 0,
  } as const;
  return writeElfObject({
    sections: [{ name: '.data.slots', flags: SHF_ALLOC | SHF_WRITE, alignment: 8, bytes: new Uint8Array(8) }],
    symbols: ['__hotslot_slots_start', '__hotslot_slots_end'].map((name) => ({ ...symbol, name })),
  });
}

test('the doctor finds all that these tests use', async () => {
  const needs = await diagnose({ directory: APP, tests: true });
  expect(needs.filter((need) => need.missing)).toEqual([]);
  expect(needs.map((need) => need.name)).toEqual([
    'C compiler',
    'Rust for wasm32-unknown-unknown',
    'Rust for wasm32-unknown-unknown with threads',
    'wasm linker',
    expect.stringMatching(/^wasm-bindgen \d+\.\d+\.\d+$/),
    'Chromium',
  ]);
});
