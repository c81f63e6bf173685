// What is around a native program: run without hotslot, run in a terminal, and served beside a page of the same workspace.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, test } from 'vitest';
import type { Event } from '../../src/model.ts';
import { LIB, PLANTS } from '../targets.ts';
import { launchBrowser } from './browser.ts';
import { Tab } from './garden.ts';
import { copyCrate, openPage, type Server, startServer } from './harness.ts';
import { saidBy, Stall } from './stall.ts';

const CLI = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
const TARGET = fileURLToPath(new URL('../../.cache/target', import.meta.url));

const closing: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

// ---------------------------------------------------------------------------------------------------- without hotslot

/** All that can be seen of a run from outside. */
interface Run {
  readonly status: number | null;
  readonly signal: string | null;
  readonly output: string;
  readonly errors: string;
  /** After the first answer. */
  readonly threads: number;
  readonly descriptors: number;
}

async function run(program: string, input: string | Buffer, signal?: NodeJS.Signals): Promise<Run> {
  const environment = { ...process.env, RUST_BACKTRACE: '0' };
  const child = spawn(program, { stdio: 'pipe', env: environment });
  const [output, errors] = [collect(child.stdout), collect(child.stderr)];
  child.stdin.write('water\n');
  await once(child.stdout, 'data');
  const count = (folder: string): number => readdirSync(`/proc/${child.pid}/${folder}`).length;
  const [threads, descriptors] = [count('task'), count('fd')];
  if (signal === undefined) child.stdin.end(input);
  else child.kill(signal);
  const [status, ended] = (await once(child, 'close')) as [number | null, string | null];
  // A panic names its thread by number.
  return {
    status,
    signal: ended,
    output: output(),
    errors: errors().replaceAll(`(${child.pid})`, '(PID)'),
    threads,
    descriptors,
  };
}

function collect(stream: NodeJS.ReadableStream): () => string {
  let text = '';
  stream.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  return () => text;
}

test('without hotslot the program is what cargo would have built', async () => {
  const stall = new Stall();
  await stall.start();
  closing.push(() => stall.stop());
  const hot = join(stall.directory, '..', 'alone');
  copyFileSync(`/proc/${stall.pid}/exe`, hot);
  const target = join(TARGET, 'plain');
  execFileSync('cargo', ['build', '--quiet', '-p', 'stall', '--target-dir', target], { cwd: stall.directory });
  const plain = join(target, 'debug/garden');

  const ways: readonly (readonly [string | Buffer, NodeJS.Signals?])[] = [
    [''],
    ['bed\nlook\ncount\nwater\nnothing\n'],
    // Not text, which the program panics at.
    [Buffer.from([0xff, 0x0a])],
    ['', 'SIGTERM'],
    ['', 'SIGABRT'],
  ];
  const statuses: (number | string | null)[] = [];
  for (const [input, signal] of ways) {
    const alone = await run(hot, input, signal);
    expect(alone).toEqual(await run(plain, input, signal));
    expect(alone).toMatchObject({ threads: 1 });
    statuses.push(alone.signal ?? alone.status);
  }
  expect(statuses).toEqual([0, 0, 101, 'SIGTERM', 'SIGABRT']);
});

// ------------------------------------------------------------------------------------------------------ in a terminal

/** What stands in a terminal, in which hotslot runs. */
class Screen {
  readonly #child: ChildProcess;
  #text = '';
  readonly #waiting = new Set<() => void>();

  constructor(directory: string, args: string) {
    // Of util-linux, so on every machine: gives the command a terminal of its own.
    this.#child = spawn('script', ['-qefc', `"${process.execPath}" "${CLI}" serve ${args}`, '/dev/null'], {
      cwd: directory,
      env: { ...process.env, CARGO_TARGET_DIR: TARGET, NO_COLOR: '1', TERM: 'xterm' },
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      this.#text += chunk;
      for (const look of this.#waiting) look();
    });
  }

  /** Resolves when it stands there, behind what earlier calls waited for. */
  async shows(wanted: RegExp): Promise<void> {
    await new Promise<void>((found) => {
      const look = (): void => {
        const match = wanted.exec(this.#text);
        if (match === null) return;
        this.#text = this.#text.slice(match.index + match[0].length);
        this.#waiting.delete(look);
        found();
      };
      this.#waiting.add(look);
      look();
    });
  }

  type(text: string): void {
    this.#child.stdin?.write(text);
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null) return;
    this.#child.kill('SIGKILL');
    await once(this.#child, 'close');
  }

  async ended(): Promise<number | null> {
    const [status] = (await once(this.#child, 'close')) as [number | null];
    return status;
  }
}

test('in a terminal: lines are for the program, r starts it anew, Ctrl-C ends both', async () => {
  const directory = copyCrate('test/fixtures/garden', 'garden');
  const screen = new Screen(directory, '-p stall');
  closing.push(() => screen.close());
  await screen.shows(/Ready/);
  screen.type('water\nwater\n');
  await screen.shows(/water: can 2, clicks 2, steps 2/);
  screen.type('r\n');
  await screen.shows(/Restart .*asked for/);
  screen.type('water\n');
  await screen.shows(/water: can 1, clicks 1, steps 1/);
  const ended = screen.ended();
  screen.type('\u0003');
  expect(await ended).toBe(130);
});

// --------------------------------------------------------------------------------------------------- beside a page

/** What each of the two programs says to edits of these files. */
function answers(server: Server): Promise<readonly [page: Event, process: Event]> {
  const isAnswer = ({ event }: Event): boolean => ['patch', 'unchanged', 'refused', 'failed'].includes(event);
  return Promise.all([
    server.next((event) => event.program === 'garden' && isAnswer(event)),
    server.next((event) => event.program === 'stall' && isAnswer(event)),
  ]);
}

test('a page and a program of one workspace: each takes its own edits, both take those of what they share', async () => {
  const directory = copyCrate('test/fixtures/garden', 'garden');
  const server = await startServer(directory);
  closing.push(() => server.close());
  await server.first(({ event, program }) => event === 'ready' && program === 'garden');
  await server.first(({ event, program }) => event === 'ready' && program === 'stall');
  const browser = await launchBrowser();
  closing.push(() => browser.close());
  const tab = new Tab(await openPage(browser, server.url, "'garden' in globalThis"));
  const ask = async (button: 'look' | 'count' | 'water'): Promise<string | undefined> => {
    const said = server.next((event) => saidBy(button, event) !== undefined);
    server.say(button);
    return saidBy(button, await said);
  };
  expect([await tab.click('count'), await ask('count')]).toEqual(Array(2).fill('3 plants, best Some(9)'));

  // What they share: a library, and here all of their source but two files.
  let answered = answers(server);
  server.save(PLANTS, server.edited(PLANTS, '{count} plants', '{count} weeds'));
  expect(await answered).toMatchObject([
    { event: 'patch', clients: 1 },
    { event: 'patch', clients: 1 },
  ]);
  expect([await tab.click('count'), await ask('count')]).toEqual(Array(2).fill('3 weeds, best Some(9)'));
  answered = answers(server);
  server.save(LIB, server.edited(LIB, 'a quiet garden', 'a common garden'));
  expect(await answered).toMatchObject([{ event: 'patch' }, { event: 'patch' }]);
  expect([await tab.click('look'), await ask('look')]).toEqual(Array(2).fill('a common garden'));

  // What only one has.
  const terminal = 'app/src/terminal.rs';
  let patched = server.next(({ event, program }) => event === 'patch' && program === 'stall');
  server.save(terminal, server.edited(terminal, '|handler| handler()', '|handler| format!("said {}", handler())'));
  await patched;
  const page = 'app/src/page.rs';
  patched = server.next(({ event, program }) => event === 'patch' && program === 'garden');
  server.save(page, server.edited(page, 'Some(&handler())', 'Some(&format!("shown {}", handler()))'));
  await patched;
  expect([await tab.click('look'), await ask('look')]).toEqual(['shown a common garden', 'said a common garden']);
  expect(await tab.open.isSameDocument()).toBe(true);
  expect([await tab.click('water'), await ask('water')]).toEqual([
    'shown can 1, clicks 5, steps 5',
    'said can 1, clicks 5, steps 5',
  ]);
});
