// examples/raytrace in. Out: how long an edit takes to reach all of its threads while they trace, and what the checks that
// make this possible cost, by the picture and by the call.
//
//   all_threads_ms            from just before the file is written until the last thread has the new code
//   rustc_ms                  rustc alone for such an edit, while they trace as well
//   own_ms                    all_threads_ms less rustc's time in the same edit: rustc shares the cores with them, and its
//                             time differs more from edit to edit than all else takes
//   frame_ms, plain_frame_ms  one sample for every pixel, served by hotslot and as cargo and wasm-bindgen make it
//   release_…                 the same, built for release
//   epoch_ns                  what a guard adds to a call
import { cpSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { createBuilder } from '../dist/build/builder.js';
import { requireToolchain } from '../dist/build/toolchain.js';
import { guard } from '../dist/link/guard.js';
import { writeModule } from '../dist/object/wasm.js';
import { apply, makeCopies, openFloor, pause, ROOT } from './copies.js';
import { Figures, hundredths } from './figures.js';
import { serve, serveFolder } from './serve.js';

const THREADS = 2;
const PASSES = 4;
const ISOLATED = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
};
const CALLS = 20_000_000;
const ROUNDS = 9;

const raytrace = {
  name: 'raytrace',
  write(folder) {
    for (const name of ['Cargo.toml', 'Cargo.lock', 'index.html', 'public', 'src'])
      cpSync(join(ROOT, 'examples/raytrace', name), join(folder, name), { recursive: true });
  },
  edit(number) {
    const file = 'src/scene.rs';
    const text = readFileSync(join(ROOT, 'examples/raytrace', file), 'utf8');
    const edited = text.replace('0.94, 0.72', `0.94, 0.${7000 + number}`);
    if (edited === text) throw new Error(`expected the colour of the sky in examples/raytrace/${file}`);
    return { file, text: edited };
  },
};

export async function measureRaytrace(browser, { rounds, progress }) {
  const folders = makeCopies(raytrace);
  const threads = { features: [], threads: true };
  const toolchain = await requireToolchain({ directory: folders.live, ...threads });
  progress('raytrace: building');
  const floor = await openFloor(raytrace, folders.floor, toolchain);
  const figures = new Figures();
  for (const profile of ['release', 'debug']) {
    const release = profile === 'release';
    const builder = await createBuilder(
      { directory: folders.plain, ...threads, release, arenaBytes: undefined, report: () => {} },
      toolchain,
    );
    const outDir = join(folders.plain, profile);
    await builder.plain(outDir, new AbortController().signal);
    await builder.close();
    const plain = await serveFolder(folders.plain, outDir, ISOLATED);
    const live = await serve(folders.live, { flags: release ? ['--release'] : [] });
    const pages = { plain_frame_ms: await openPage(browser, plain.url), frame_ms: await openPage(browser, live.url) };
    for (let round = 1; round <= rounds; round++) {
      progress(`raytrace: ${profile}, frames ${round} of ${rounds}`);
      for (const [name, page] of Object.entries(pages))
        figures.add({ [release ? `release_${name}` : name]: await framesOf(page) });
    }
    const edits = release ? [] : Array.from({ length: rounds + 1 }, (_, number) => number);
    for (const number of edits) {
      progress(`raytrace: edit ${number} of ${rounds}`);
      const edit = raytrace.edit(number);
      const update = await updateOf(live, pages.frame_ms, folders.live, edit);
      const measured = { ...update, rustc_ms: await floor.edit(edit) };
      // The first round finds caches cold.
      if (number > 0) figures.add(measured);
    }
    for (const page of Object.values(pages)) await page.close();
    await live.close();
    await plain.close();
  }
  return { ...figures.medians(), epoch_ns: epochNs(), threads: THREADS };
}

/** With its workers waiting. */
async function openPage(browser, url) {
  const page = await browser.newPage();
  await page.goto(url);
  await page.waitForFunction(() => document.body?.dataset.ready === '');
  await page.evaluate(
    async ([threads, glue]) => {
      const slider = document.getElementById('threads');
      slider.value = threads;
      slider.dispatchEvent(new Event('input'));
      globalThis.glue = await import(glue);
      globalThis.glue.employ(0);
    },
    [THREADS, '/pkg/raytrace.js'],
  );
  return page;
}

/** Milliseconds for one sample of every pixel, while the other page rests. */
function framesOf(page) {
  return page.evaluate(
    async ([threads, passes]) => {
      const { employ, restart, samples } = globalThis.glue;
      restart();
      const started = performance.now();
      employ(threads);
      while (samples() < passes) await new Promise((resolve) => setTimeout(resolve, 1));
      const time = performance.now() - started;
      employ(0);
      return time / passes;
    },
    [THREADS, PASSES],
  );
}

/** Leaves the workers at work. */
async function updateOf(server, page, folder, edit) {
  await page.evaluate((threads) => {
    globalThis.glue.employ(threads);
    globalThis.applied = new Promise((resolve) => {
      addEventListener('hotslot:patch', () => resolve(performance.timeOrigin + performance.now()), { once: true });
    });
  }, THREADS);
  await pause();
  const started = performance.timeOrigin + performance.now();
  apply(folder, edit);
  // In either order.
  const told = {};
  await server.next((event) => {
    told[event.event] = event;
    return told.patch !== undefined && told.threads !== undefined;
  });
  const { rustcMs } = told.patch;
  const { behind, ms } = told.threads;
  if (behind > 0) throw new Error(`${behind} threads do not take the patch`);
  const applied = await page.evaluate(() => globalThis.applied);
  const all = applied - started + ms;
  return { all_threads_ms: all, own_ms: all - rustcMs };
}

// --------------------------------------------------------------------------------------------------------------- guards

/** A loop of calls of a small function, whose result the next call needs; with guards, and without. */
function epochNs() {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  const programs = [true, false].map((isGuarded) => {
    const module = new WebAssembly.Module(loopModule(isGuarded));
    return new WebAssembly.Instance(module, { bench: { memory } }).exports['loop'];
  });
  const best = programs.map(() => Infinity);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [index, loop] of programs.entries()) {
      const started = performance.now();
      loop(CALLS);
      best[index] = Math.min(best[index], performance.now() - started);
    }
  }
  return hundredths(((best[0] - best[1]) * 1e6) / CALLS);
}

function loopModule(isGuarded) {
  const [step, stub, sync] = [0, 1, 2];
  const checked = isGuarded ? guard({ epoch: 64, syncSlot: 0 }, 0, [0x10, sync]) : [];
  const bodies = [
    // (value << 5) ^ (value >> 3)
    [0, 0x20, 0, 0x41, 5, 0x74, 0x20, 0, 0x41, 3, 0x76, 0x73, 0x0b],
    [0, ...checked, 0x20, 0, 0x41, 0, 0x11, 0, 0, 0x0b],
    [0, 0x0b],
    // loop { value = stub(value); count -= 1; repeat while count }
    [
      1,
      1,
      0x7f,
      0x03,
      0x40,
      0x20,
      1,
      0x10,
      stub,
      0x21,
      1,
      0x20,
      0,
      0x41,
      1,
      0x6b,
      0x22,
      0,
      0x0d,
      0,
      0x0b,
      0x20,
      1,
      0x0b,
    ],
  ];
  return writeModule({
    name: 'loop',
    sections: [
      { kind: 'type', types: ['(i32)->(i32)', '()->()'] },
      {
        kind: 'import',
        imports: [
          { module: 'bench', name: 'memory', kind: 'memory', limits: { minimum: 1, maximum: 1, shared: true } },
        ],
      },
      { kind: 'function', types: [0, 0, 1, 0] },
      { kind: 'table', tables: [{ type: 'funcref', limits: { minimum: 1 } }] },
      { kind: 'global', globals: [{ type: 'i32', mutable: true, initial: Uint8Array.of(0x41, 0, 0x0b) }] },
      { kind: 'export', exports: [{ name: 'loop', kind: 'function', index: 3 }] },
      {
        kind: 'element',
        segments: [{ flags: 0, table: 0, offset: Uint8Array.of(0x41, 0, 0x0b), type: 'funcref', items: [step] }],
      },
      { kind: 'code', bodies: bodies.map((body) => Uint8Array.from(body)) },
    ],
  });
}
