// A server that nobody here wrote: taken from the registry, run by hotslot, and patched while it sends a file.
import { execFileSync } from 'node:child_process';
import { createHash, randomFillSync } from 'node:crypto';
import { once } from 'node:events';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { get, type IncomingMessage } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { homedir, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Server, startServer } from './harness.ts';

const NAME = 'simple-http-server';
const VERSION = '0.6.14';
const FOLDER = fileURLToPath(new URL('../../.cache/e2e/published', import.meta.url));
/** More than the sockets' buffers hold, so that the server is in the middle of it. */
const BIG_BYTES = 64 << 20;

let root: string;
let url: string;
let server: Server;

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'hotslot-published-'));
  const port = await freePort();
  url = `http://127.0.0.1:${port}`;
  const args = ['--no-default-features', '--', '--ip', '127.0.0.1', '--port', String(port), root];
  server = await startServer(fetchCrate(), { args });
});

afterAll(async () => {
  await server.close();
  rmSync(root, { recursive: true });
});

/** The crate's source, as cargo gets it; a copy, for it is to be edited. */
function fetchCrate(): string {
  const asking = join(FOLDER, 'asking');
  mkdirSync(join(asking, 'src'), { recursive: true });
  const manifest = `[package]\nname = "asking"\n[dependencies]\n${NAME} = { version = "=${VERSION}", default-features = false }\n[workspace]\n`;
  writeFileSync(join(asking, 'Cargo.toml'), manifest);
  writeFileSync(join(asking, 'src/lib.rs'), '');
  execFileSync('cargo', ['fetch', '--quiet'], { cwd: asking, stdio: ['ignore', 'inherit', 'ignore'] });
  const registries = join(process.env['CARGO_HOME'] ?? join(homedir(), '.cargo'), 'registry/src');
  const sources = readdirSync(registries).map((registry) => join(registries, registry, `${NAME}-${VERSION}`));
  const source = sources.find((folder) => existsSync(folder));
  if (source === undefined) throw new Error(`expected cargo to have got ${NAME} ${VERSION}`);
  const copy = join(FOLDER, NAME);
  rmSync(copy, { recursive: true, force: true });
  // It asks for a toolchain that may have to be downloaded; the one that is there will do.
  const filter = (path: string): boolean => basename(path) !== 'rust-toolchain';
  cpSync(source, copy, { recursive: true, preserveTimestamps: true, filter });
  appendFileSync(join(copy, 'Cargo.toml'), '\n[workspace]\n');
  return copy;
}

async function freePort(): Promise<number> {
  const listener = createServer().listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address() as AddressInfo;
  listener.close();
  await once(listener, 'close');
  return port;
}

/** Resolves with the head of the answer. It says where it listens before it does. */
async function ask(path: string): Promise<IncomingMessage> {
  for (;;) {
    const asked = get(`${url}${path}`, { agent: false });
    const answer = await once(asked, 'response').catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ECONNREFUSED') throw error;
    });
    if (answer !== undefined) return answer[0] as IncomingMessage;
  }
}

async function textOf(answer: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of answer.setEncoding('utf8')) text += String(chunk);
  return text;
}

test('a download goes on while the function that sends files is patched, and the next one is by the new code', async () => {
  const content = randomFillSync(Buffer.alloc(BIG_BYTES));
  writeFileSync(join(root, 'big.bin'), content);
  writeFileSync(join(root, 'small.txt'), 'a small file');
  const listing = await textOf(await ask('/'));
  expect(listing).toContain('[Root]');

  const download = await ask('/big.bin');
  const received = createHash('sha256');
  const [first] = (await once(download, 'data')) as [Buffer];
  download.pause();
  received.update(first);

  const mime = 'mime.to_string().into_bytes()';
  const answer = await server.write({
    'src/main.rs': server.edited('src/main.rs', mime, 'format!("{mime}; patched=yes").into_bytes()'),
    'src/util.rs': server.edited('src/util.rs', '[Root]', '[Harbour]'),
  });
  expect(answer).toMatchObject({ event: 'patch', clients: 1 });

  const small = await ask('/small.txt');
  expect(small.headers['content-type']).toBe('text/plain; patched=yes');
  expect(await textOf(small)).toBe('a small file');
  const renamed = await textOf(await ask('/'));
  expect(renamed).toBe(listing.replaceAll('[Root]', '[Harbour]'));

  expect(download.headers['content-type']).toBe('application/octet-stream');
  for await (const chunk of download) received.update(chunk as Buffer);
  expect(received.digest('hex')).toBe(createHash('sha256').update(content).digest('hex'));
  expect(server.events.filter(({ event }) => event === 'exit' || event === 'restart')).toEqual([]);
});
