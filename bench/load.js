// test/fixtures/harbor under `hotslot serve` and under load, patched again and again. Out: what its clients notice of it.
//
// A child process asks for what the patched functions say, thousands of times a second over connections that stay open. A
// WebSocket, an event stream and a TCP connection are open throughout; each patch changes what all of them say. The next
// edit is made when a patch has been seen by the load, the WebSocket and the TCP connection; the event stream goes at its
// own pace. So every version is observed, and no connection may see an older one after a newer one.
//
//   requests, failed, max_latency_ms   of the load: each answer is looked at, and counts as failed when it is not one
//   dropped_sockets                    of all connections, those that ended before we closed them
//   resident_growth_kb_per_patch       of the program's memory, from the first patch under load to the last
import { fork } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { WebSocket } from 'ws';

import { apply, ROOT } from './copies.js';
import { hundredths } from './figures.js';
import { Connection } from './http.js';
import { residentKb, serve } from './serve.js';

/** More than must be reached: ticks come late. */
const PER_SECOND = 6000;
const CONNECTIONS = 24;
const FILE = 'src/main.rs';
/** What `greeting`, `reply`, `wave` and `echo` say, and what they are to say. */
const EDITS = {
  '"a calm harbour"': '"a calm harbour, version N"',
  '"aye {count}: {text}"': '"aye {count}: {text}, version N"',
  '"wave {count}"': '"wave {count}, version N"',
  '"echo {count}: {line}\\n"': '"echo {count}: {line}, version N\\n"',
};

/** `name` is that of the folder below .cache which the crate is copied to. */
export async function patchUnderLoad({ patches, name = 'bench', progress = () => {} }) {
  const folder = join(ROOT, '.cache', name, 'load');
  const source = join(ROOT, 'test/fixtures/harbor');
  mkdirSync(folder, { recursive: true });
  for (const part of ['Cargo.toml', 'Cargo.lock', 'hold/Cargo.toml', 'hold/src'])
    cpSync(join(source, part), join(folder, part), { recursive: true });
  const original = readFileSync(join(source, FILE), 'utf8');
  mkdirSync(join(folder, 'src'), { recursive: true });
  apply(folder, sourceOf(original, 0));

  progress('load: building');
  const session = await serve(folder);
  const { port } = session;
  const client = await Connection.open(port);
  const { pid, tcp } = JSON.parse(await client.get('/state'));
  client.close();
  const streams = await Promise.all([openWebSocket(port), openTcp(tcp), openEvents(port)]);
  const [socket, lines, events] = streams;
  const load = await openLoad(port);

  let before = 0;
  for (let version = 1; version <= patches; version++) {
    progress(`load: patch ${version} of ${patches}`);
    apply(folder, sourceOf(original, version));
    const answer = await session.answer([join(folder, FILE)]);
    if (answer.event !== 'patch') throw new Error(`expected a patch, found ${JSON.stringify(answer)}`);
    await Promise.all([load.sees(version), socket.asks(version), lines.asks(version)]);
    if (version === 1) before = residentKb(pid);
  }
  await events.sees(patches);
  const growth = residentKb(pid) - before;
  const { requests, failed, dropped, slowestMs, seconds } = await load.stop();
  const ended = streams.filter((each) => each.hasEnded);
  for (const each of streams) each.close();
  await session.close();
  return {
    figures: {
      patches,
      requests,
      failed,
      dropped_sockets: dropped + ended.length,
      max_latency_ms: hundredths(slowestMs),
      resident_growth_kb_per_patch: hundredths(growth / (patches - 1)),
    },
    perSecond: Math.round(requests / seconds),
    failures: load.failures,
  };
}

function sourceOf(original, version) {
  let text = original;
  for (const [from, to] of Object.entries(EDITS)) {
    if (text.split(from).length !== 2) throw new Error(`expected ${from} once in the harbour's ${FILE}`);
    text = text.replace(from, to.replace('version N', `version ${version}`));
  }
  return { file: FILE, text };
}

async function openLoad(port) {
  const options = {
    port,
    path: '/greet',
    perSecond: PER_SECOND,
    connections: CONNECTIONS,
    answer: /^a calm harbour, version (\d+)$/.source,
  };
  const child = fork(fileURLToPath(new URL('requests.js', import.meta.url)), [JSON.stringify(options)]);
  const versions = new Versions();
  const failures = [];
  let finish;
  const finished = new Promise((resolve, reject) => {
    finish = resolve;
    child.once('exit', (code) => reject(new Error(`the load ended with ${code}`)));
  });
  child.on('message', ({ version, error, ...figures }) => {
    if (error !== undefined) failures.push(error);
    else if (version !== undefined) versions.add(version);
    else finish(figures);
  });
  return {
    failures,
    sees: (version) => Promise.race([versions.reach(version), finished]),
    stop() {
      child.send('stop');
      return finished;
    },
  };
}

/** The versions that one connection has told, which never go down. */
class Versions {
  #newest = 0;
  #waiting;

  add(version) {
    if (version < this.#newest) throw new Error(`version ${version} after version ${this.#newest}`);
    this.#newest = version;
    if (version >= this.#waiting?.version) this.#waiting.resolve();
  }

  /** Resolves also when no more will come. */
  async reach(version) {
    if (this.#newest < version) await new Promise((resolve) => (this.#waiting = { version, resolve }));
  }

  end() {
    this.#newest = Infinity;
    this.#waiting?.resolve();
  }
}

/** Something open that says lines. `ask` makes it say one, if it does not by itself. */
class Stream {
  hasEnded = false;
  close;
  #ask;
  #versions = new Versions();

  constructor(close, ask) {
    this.close = close;
    this.#ask = ask;
  }

  hear(line) {
    const version = /, version (\d+)$/.exec(line)?.[1];
    if (version === undefined) throw new Error(`expected a line with a version, found ${line}`);
    this.#versions.add(Number(version));
  }

  end() {
    this.hasEnded = true;
    this.#versions.end();
  }

  sees(version) {
    return this.#versions.reach(version);
  }

  asks(version) {
    this.#ask();
    return this.sees(version);
  }
}

async function openWebSocket(port) {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/ws`);
  const stream = new Stream(
    () => socket.terminate(),
    () => socket.send('ahoy'),
  );
  socket.addEventListener('message', ({ data }) => stream.hear(data));
  socket.on('close', () => stream.end());
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
  return stream;
}

async function openTcp(port) {
  const socket = connect(port, '127.0.0.1');
  const stream = new Stream(
    () => socket.destroy(),
    () => socket.write('ahoy\n'),
  );
  createInterface({ input: socket }).on('line', (line) => stream.hear(line));
  socket.on('close', () => stream.end());
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  return stream;
}

async function openEvents(port) {
  const socket = connect(port, '127.0.0.1');
  const stream = new Stream(() => socket.destroy());
  createInterface({ input: socket }).on('line', (line) => {
    if (line.startsWith('data: ')) stream.hear(line);
  });
  socket.on('close', () => stream.end());
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  socket.write('GET /waves HTTP/1.1\r\nHost: localhost\r\n\r\n');
  return stream;
}
