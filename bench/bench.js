// examples/counter, a generated crate of many functions and examples/server in. Out: how long an edit takes to reach the
// page or the client, beside what rustc alone takes for such an edit and what a full rebuild takes; what starting takes;
// what a server under load notices of patches; what a call through a stub costs.
//
//   npm run bench [-- --json] [--rounds 9] [--only counter|large|server|load|stub|raytrace] [--cpu-prof FOLDER]
//
// Each program stands in three copies with the same source, all of them built before anything is measured:
//   live    `hotslot serve` and an open page or connection. live_ms runs from just before the file is written until the
//           edited function's new result is seen: by the page, which calls it in the handler of `hotslot:patch`, or by a
//           client that asks for it as soon as hotslot reports the patch.
//   floor   rustc_ms: the wall time of one rustc as a child process, from spawn to exit, with the very arguments that
//           hotslot uses: the link is skipped.
//   plain   rebuild_ms: cargo build, then wasm-bindgen and a page load, or a restart, until the new result is seen.
// own_ms is live_ms less what the session reports as rustc's time in the same edit. The rounds alternate, so that noise
// meets all alike. Starting is measured likewise, each time after an edit: start_ms from spawning hotslot to its `ready`,
// plain_start_ms cargo build and wasm-bindgen; link_ms the link of a native base with stubs, from rustc's objects to the
// program, as `ready` tells of it, plain_link_ms the linker when cargo runs it. All figures are medians.
// What `load` and `stub` measure is told in load.js and stub.js.
import { parseArgs } from 'node:util';

import { measureRaytrace } from './raytrace.js';
import { patchUnderLoad } from './load.js';
import { measureServer, server } from './native.js';
import { counter, large, measurePage } from './page.js';
import { launchBrowser } from './serve.js';
import { measureStubs } from './stub.js';

const PATCHES = 200;

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '9' },
    only: { type: 'string' },
    'cpu-prof': { type: 'string' },
  },
});

function progress(text) {
  if (!options.json && process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

// ------------------------------------------------------------------------------------------------------------- output

/** Of programs: a label, and what is in each one's column. A row without anything is left out. */
const ROWS = [
  ['save → live', ({ live_ms: live }) => ms(live)],
  ['rustc alone', ({ rustc_ms: rustc }) => ms(rustc)],
  ['  ratio', ({ live_ms: live, rustc_ms: rustc }) => ratio(live, rustc)],
  ['all but rustc', ({ own_ms: own }) => ms(own)],
  ['apply', ({ apply_ms: apply }) => apply && ms(apply)],
  ['full rebuild', ({ rebuild_ms: rebuild }) => ms(rebuild)],
  ['  ratio to live', ({ rebuild_ms: rebuild, live_ms: live }) => ratio(rebuild, live)],
  ['patch', ({ patch_bytes: bytes }) => `${bytes} bytes`],
  ['start', ({ start_ms: start }) => start && ms(start)],
  ['cargo + wasm-bindgen', ({ plain_start_ms: plain }) => plain && ms(plain)],
  ['  ratio', ({ start_ms: start, plain_start_ms: plain }) => start && ratio(start, plain)],
  ['link with stubs', ({ link_ms: link }) => link && ms(link)],
  ["cargo's link", ({ plain_link_ms: plain }) => plain && ms(plain)],
  ['  ratio', ({ link_ms: link, plain_link_ms: plain }) => link && ratio(link, plain)],
  ['resident', ({ resident_mb: resident }) => resident && `${resident.toFixed(0)} MB`],
];

function table({ load, stub, raytrace, ...programs }) {
  const columns = Object.values(programs);
  const rows = ROWS.map(([label, cell]) => [label, columns.map((program) => cell(program) ?? '')]);
  const lines = rows.filter(([, cells]) => cells.some((cell) => cell !== '')).map((each) => row(...each));
  if (columns.length > 0) lines.unshift(row('', Object.keys(programs)));
  if (load !== undefined) {
    lines.push(`${load.patches} patches under ${load.requests} requests:`);
    lines.push(
      `  ${load.failed} failed, ${load.dropped_sockets} sockets dropped, ${ms(load.max_latency_ms)} at worst,`,
    );
    lines.push(`  ${load.resident_growth_kb_per_patch} kB of memory for each patch`);
  }
  if (stub !== undefined)
    lines.push(`a stub costs ${stub.debug_ns} ns a call in a debug build, ${stub.release_ns} ns in a release build`);
  if (raytrace !== undefined) {
    const { threads, all_threads_ms: all, own_ms: own, rustc_ms: rustc, epoch_ns: epoch } = raytrace;
    lines.push(`save → all ${threads} threads ${ms(all)}, rustc alone ${ms(rustc)}, all but rustc ${ms(own)};`);
    for (const [name, prefix] of Object.entries({ debug: '', release: 'release_' })) {
      const [frame, plain] = ['frame_ms', 'plain_frame_ms'].map((key) => raytrace[prefix + key]);
      lines.push(`  a ${name} frame takes ${ms(frame)}, without hotslot ${ms(plain)}: ${ratio(frame, plain)};`);
    }
    lines.push(`  a check costs ${epoch} ns a call`);
  }
  return lines.join('\n');
}

function row(label, cells) {
  return [label.padEnd(22), ...cells.map((cell) => cell.padStart(14))].join('');
}

function ms(value) {
  return `${value.toFixed(value < 1 ? 2 : 1)} ms`;
}

function ratio(one, other) {
  return `${(one / other).toFixed(2)} ×`;
}

// ---------------------------------------------------------------------------------------------------------------- run

const profile = options['cpu-prof'];
const run = {
  rounds: Number(options.rounds),
  nodeFlags: profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profile}`],
  progress,
};
const measurements = {
  counter: () => onPage(counter),
  large: () => onPage(large),
  server: () => measureServer(server, run),
  load: async () => (await patchUnderLoad({ patches: PATCHES, ...run })).figures,
  stub: () => measureStubs(run),
  raytrace: () => inBrowser((browser) => measureRaytrace(browser, run)),
};

function onPage(program) {
  return inBrowser((browser) => measurePage(program, browser, run));
}

async function inBrowser(measure) {
  const browser = await launchBrowser();
  const figures = await measure(browser);
  await browser.close();
  return figures;
}

const { only } = options;
if (only !== undefined && !(only in measurements))
  throw new Error(`--only is one of ${Object.keys(measurements).join(', ')}`);
const results = {};
for (const name of only === undefined ? Object.keys(measurements) : [only]) results[name] = await measurements[name]();
progress('');
console.log(options.json ? JSON.stringify(results) : table(results));
