// A native server in; how long an edit of it takes to reach a client, beside rustc alone and a restart of what cargo builds,
// and what its first link takes beside cargo's own, out. What the figures mean is told in bench.js.
import { spawn } from 'node:child_process';
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

import { TRIPLES } from '../dist/build/platform.js';
import { requireToolchain } from '../dist/build/toolchain.js';
import { alternate, apply, makeCopies, openFloor, pause, ROOT } from './copies.js';
import { Figures } from './figures.js';
import { Connection } from './http.js';
import { serve } from './serve.js';

const LINK_ROUNDS = 5;
/** Between two questions of the client that waits for an edit. */
const ASK_MS = 1;

export const server = {
  name: 'server',
  write(folder) {
    const source = join(ROOT, 'examples/server');
    for (const name of ['Cargo.toml', 'Cargo.lock', 'index.html', 'src', 'bots/Cargo.toml', 'bots/src'])
      cpSync(join(source, name), join(folder, name), { recursive: true });
    const manifest = join(folder, 'Cargo.toml');
    writeFileSync(manifest, readFileSync(manifest, 'utf8').replace('../../crates', join(ROOT, 'crates')));
  },
  /** A one-function edit that no other number makes: the file, its text, where it shows, and how. */
  edit(number) {
    const file = 'src/counter.rs';
    const text = readFileSync(join(ROOT, 'examples/server', file), 'utf8');
    const edited = text.replace('"Nothing counted yet"', `"Nothing counted in edit ${number}."`);
    if (edited === text) throw new Error(`expected \`label\` in examples/server/${file}`);
    return { file, text: edited, path: '/counter', shows: `in edit ${number}.` };
  },
};

export async function measureServer(program, { rounds, nodeFlags, progress }) {
  const folders = makeCopies(program);
  const toolchain = await requireToolchain({ directory: folders.live, features: [], target: TRIPLES.native });
  progress(`${program.name}: building`);
  const plain = await openPlain(program, folders.plain);
  const floor = await openFloor(program, folders.floor, toolchain);

  const figures = new Figures();
  let number = 0;
  for (let round = 1; round <= LINK_ROUNDS; round++) {
    progress(`${program.name}: link ${round} of ${LINK_ROUNDS}`);
    const edit = program.edit(++number);
    figures.add({ link_ms: await linkOfStart(folders.live, edit) });
    apply(folders.plain, edit);
    figures.add({ plain_link_ms: await plain.linkOfBuild() });
  }

  const live = await openLive(folders.live, nodeFlags);
  await alternate(program, { live, floor, plain }, number, { rounds, progress }, figures);
  await live.close();
  await plain.close();
  return figures.medians();
}

async function openLive(folder, nodeFlags) {
  const session = await serve(folder, { nodeFlags });
  const client = await Connection.open(session.port);
  return {
    async edit(edit) {
      await pause();
      const started = performance.now();
      apply(folder, edit);
      // Asking all the time would take from rustc what the measurement of it alone has.
      const answer = await session.answer([join(folder, edit.file)]);
      if (answer.event !== 'patch') throw new Error(`expected a patch, found ${JSON.stringify(answer)}`);
      const seen = await see(client, edit);
      return {
        live_ms: seen - started,
        own_ms: seen - started - answer.rustcMs,
        apply_ms: answer.applyMs,
        patch_bytes: answer.bytes,
      };
    },
    async close() {
      client.close();
      await session.close();
    },
  };
}

/** Asks until the answer shows the edit; when that was. */
async function see(client, { path, shows }) {
  while (!(await client.get(path)).includes(shows)) await setTimeout(ASK_MS);
  return performance.now();
}

/** cargo builds it, and it is restarted. The linker is run by a script that takes the time. */
async function openPlain(program, folder) {
  const times = join(folder, 'link.times');
  const linker = join(folder, 'cc');
  writeFileSync(
    linker,
    `#!/bin/sh\nstarted=$(date +%s%N)\ncc "$@" || exit\necho $(($(date +%s%N) - started)) >>'${times}'\n`,
    { mode: 0o755 },
  );
  const env = { ...process.env, CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER: linker, PORT: '0' };
  let running;

  async function build() {
    rmSync(times, { force: true });
    await ended(spawn('cargo', ['build', '--quiet'], { cwd: folder, env, stdio: 'inherit' }));
  }
  async function restart() {
    await stop();
    running = spawn(join(folder, 'target/debug', program.name), { env, stdio: ['ignore', 'pipe', 'inherit'] });
    const [line] = await new Promise((resolve) =>
      running.stdout.once('data', (data) => resolve(`${data}`.split('\n'))),
    );
    return Connection.open(Number(line.split(':').at(-1)));
  }
  async function stop() {
    if (running === undefined) return;
    const exited = new Promise((resolve) => running.once('exit', resolve));
    running.kill();
    await exited;
  }

  await build();
  return {
    async edit(edit) {
      await pause();
      const started = performance.now();
      apply(folder, edit);
      await build();
      const client = await restart();
      const seen = await see(client, edit);
      client.close();
      return seen - started;
    },
    /** How long the linker took of a build. */
    async linkOfBuild() {
      await build();
      return Number(readFileSync(times, 'utf8')) / 1e6;
    },
    close: stop,
  };
}

/** What a session that begins with this edit says of the link of its base. */
async function linkOfStart(folder, edit) {
  apply(folder, edit);
  const session = await serve(folder);
  await session.close();
  return session.linkMs;
}

async function ended(child) {
  const status = await new Promise((resolve) => child.once('close', resolve));
  if (status !== 0) throw new Error(`${child.spawnargs.join(' ')} ended with ${status}`);
}
