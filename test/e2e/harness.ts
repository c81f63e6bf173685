// Crates in; `hotslot serve` as a child process, what it reports, and pages in Chromium that run a crate, out.
//
// Nothing here waits for time to pass: an edit resolves with the event that answered it.
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Browser, Page } from 'playwright-core';
import { isAlive } from '../../src/build/cache.ts';
import type { Event } from '../../src/model.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const CLI = join(ROOT, 'dist/cli.js');
const CACHE = join(ROOT, '.cache');

/** Long enough for a first build on a slow machine; nothing takes it when all is well. */
const START_MS = 300_000;
const EVENT_MS = 60_000;

/** What an edit leads to, once for each. */
export type Answer = Extract<Event, { event: (typeof ANSWERS)[number] }>;
const ANSWERS = ['patch', 'unchanged', 'refused', 'failed', 'reload', 'restart'] as const;

/**
 * A copy of `source` at `.cache/e2e/NAME`, where every run of the tests finds it again, so that cargo has little to do.
 * Files that are as they should be keep their time; the others get a new one.
 */
export function copyCrate(source: string, name: string): string {
  const target = join(CACHE, 'e2e', name);
  claim(`${target}.pid`);
  mkdirSync(target, { recursive: true });
  mirror(join(ROOT, source), target);
  return target;
}

/** Two runs at once would edit the same files. The claim of a process that is gone counts for nothing. */
function claim(path: string): void {
  mkdirSync(dirname(path), { recursive: true });
  const owner = existsSync(path) ? Number(readFileSync(path, 'utf8')) : process.pid;
  if (owner !== process.pid && isAlive(owner)) {
    throw new Error(`another run of the tests (process ${owner}) uses ${path.replace(/\.pid$/, '')}`);
  }
  writeFileSync(path, String(process.pid));
}

function mirror(from: string, to: string): void {
  // What cargo built beside the original is not part of it.
  const wanted = readdirSync(from, { withFileTypes: true }).filter(({ name }) => name !== 'target');
  for (const name of readdirSync(to)) {
    if (!wanted.some((entry) => entry.name === name)) rmSync(join(to, name), { recursive: true });
  }
  for (const entry of wanted) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory()) {
      mkdirSync(target, { recursive: true });
      mirror(source, target);
    } else if (!existsSync(target) || !readFileSync(source).equals(readFileSync(target))) {
      cpSync(source, target);
    }
  }
}

export interface StartOptions {
  /** Where in the copy hotslot is started: the folder of a crate or a workspace. The copy itself, when not given. */
  readonly folder?: string;
  /** Flags of `hotslot serve`, and after `--` the program's arguments. */
  readonly args?: readonly string[];
  /** Any, when not given. */
  readonly port?: number;
  /** Besides ours. */
  readonly environment?: Readonly<Record<string, string>>;
  /** A command that runs hotslot, e.g. `setarch -R`. */
  readonly under?: readonly string[];
}

/** Does not wait for anything. Paths of edits are from `directory`. */
export function launchServer(directory: string, options: StartOptions = {}): Server {
  if (!existsSync(CLI)) throw new Error('these tests run what is compiled: npx tsc -b');
  const { folder = '.', args = [], port = 0, environment = {}, under = [] } = options;
  const hotslot = [process.execPath, CLI, 'serve', '--json', '--port', String(port), ...args];
  const [program = '', ...words] = [...under, ...hotslot];
  const child = spawn(program, words, {
    cwd: join(directory, folder),
    env: { ...process.env, CARGO_TARGET_DIR: join(CACHE, 'target'), ...environment },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  return new Server(directory, child);
}

/** Resolves when the page can be opened, or the program runs. */
export async function startServer(directory: string, options: StartOptions = {}): Promise<Server> {
  const server = launchServer(directory, options);
  try {
    const first = await server.next(({ event }) => event === 'ready' || event === 'failed', START_MS);
    if (first.event !== 'ready') throw new Error(`the first build failed: ${JSON.stringify(first)}`);
    return server;
  } catch (error) {
    await server.kill();
    throw error;
  }
}

export class Server {
  /** Everything reported so far, but for progress. */
  readonly events: Event[] = [];
  readonly #directory: string;
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  /** Files as they were before the first edit; undefined when they were not there. */
  readonly #originals = new Map<string, string | undefined>();
  readonly #waiting = new Set<() => void>();
  /** Of the process that runs hotslot. */
  readonly pid: number;
  #stderr = '';
  #ended = false;

  constructor(directory: string, child: ChildProcess) {
    this.#directory = directory;
    this.#child = child;
    const { stdout, stderr, pid } = child;
    if (stdout === null || stderr === null || pid === undefined) throw new Error('expected a process with pipes');
    this.pid = pid;
    stderr.setEncoding('utf8').on('data', (text: string) => (this.#stderr += text));
    createInterface({ input: stdout }).on('line', (line) => {
      const event = JSON.parse(line) as Event;
      if (event.event !== 'progress') this.events.push(event);
      this.#wake();
    });
    this.#exited = new Promise((done) => {
      child.once('close', () => {
        this.#ended = true;
        this.#wake();
        done();
      });
    });
  }

  /** Of the page, once the server is ready. */
  get url(): string {
    const urls = this.events.flatMap((event) => (event.event === 'ready' ? (event.url ?? []) : []));
    if (urls[0] === undefined) throw this.#explain('the server is not ready');
    return urls[0];
  }

  get port(): number {
    return Number(new URL(this.url).port);
  }

  /** The first event from now on that `wanted` says yes to. Throws when the server ends, or takes too long. */
  next(wanted: (event: Event) => boolean, withinMs: number = EVENT_MS): Promise<Event> {
    return this.#first(this.events.length, wanted, withinMs);
  }

  /** The first such event, which may have been reported already. */
  first(wanted: (event: Event) => boolean): Promise<Event> {
    return this.#first(0, wanted, EVENT_MS);
  }

  #first(start: number, wanted: (event: Event) => boolean, withinMs: number): Promise<Event> {
    let from = start;
    return new Promise((found, fail) => {
      const look = (): void => {
        for (; from < this.events.length; from += 1) {
          const event = this.events[from];
          if (event !== undefined && wanted(event)) return end(() => found(event));
        }
        if (this.#ended) {
          const { exitCode, signalCode } = this.#child;
          end(() => fail(this.#explain(`the server ended (${signalCode ?? exitCode})`)));
        }
      };
      const end = (finish: () => void): void => {
        clearTimeout(timer);
        this.#waiting.delete(look);
        finish();
      };
      const timer = setTimeout(() => end(() => fail(this.#explain(`no such event in ${withinMs} ms`))), withinMs);
      this.#waiting.add(look);
      look();
    });
  }

  /** Replaces what must be there, once, in a file of the crate; what the server says to that. */
  edit(path: string, from: string, to: string): Promise<Answer> {
    return this.write({ [path]: this.edited(path, from, to) });
  }

  /** The file's text with one thing replaced. */
  edited(path: string, from: string, to: string): string {
    const text = this.read(path);
    if (text.split(from).length !== 2) throw new Error(`expected \`${from}\` once in ${path}:\n${text}`);
    return text.replace(from, () => to);
  }

  /** Writes whole files, by path from the crate's folder. */
  write(files: Readonly<Record<string, string>>): Promise<Answer> {
    const answer = this.answer(Object.keys(files));
    for (const [path, text] of Object.entries(files)) this.save(path, text);
    return answer;
  }

  /** Takes back all edits. False when there was nothing to take back. */
  async restore(): Promise<boolean> {
    const edited = [...this.#originals].filter(([path, text]) => this.#find(path) !== text);
    if (edited.length === 0) return false;
    const answered = this.answer(edited.map(([path]) => path));
    for (const [path, text] of edited) {
      if (text === undefined) rmSync(join(this.#directory, path));
      else this.save(path, text);
    }
    const answer = await answered;
    if (answer.event === 'failed') throw this.#explain('the original does not compile');
    return true;
  }

  /** The first answer that speaks for edits of all these paths, made after this call. */
  async answer(paths: readonly string[]): Promise<Answer> {
    const missing = new Set(paths.map((path) => resolve(this.#directory, path)));
    const answer = await this.next((event) => {
      if (event.event === 'change') for (const path of event.paths) missing.delete(path);
      return missing.size === 0 && isAnswer(event);
    });
    return answer as Answer;
  }

  read(path: string): string {
    return readFileSync(join(this.#directory, path), 'utf8');
  }

  /** A line for the standard input of a native program. */
  say(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  /** As an editor does, and does not wait. The file may be new. */
  save(path: string, text: string): void {
    if (!this.#originals.has(path)) this.#originals.set(path, this.#find(path));
    writeFileSync(join(this.#directory, path), text);
  }

  #find(path: string): string | undefined {
    return existsSync(join(this.#directory, path)) ? this.read(path) : undefined;
  }

  /** The way Ctrl-C ends it; its exit code. */
  async close(): Promise<number | null> {
    this.#child.kill('SIGINT');
    await this.#exited;
    return this.#child.exitCode;
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#exited;
  }

  #wake(): void {
    for (const look of this.#waiting) look();
  }

  #explain(what: string): Error {
    const last = this.events.slice(-8).map((event) => JSON.stringify(event));
    return new Error(`${what}; the last events:\n${last.join('\n')}\n${this.#stderr}`);
  }
}

function isAnswer(event: Event): event is Answer {
  return ANSWERS.some((each) => each === event.event);
}

/** A page as loaded; `loaded` is true for as long as the document is the very one that was opened. */
export interface OpenPage {
  readonly page: Page;
  /** What the page did not catch, in words. */
  readonly errors: readonly string[];
  /** Documents that the page has shown. */
  readonly navigations: () => number;
  readonly isSameDocument: () => Promise<boolean>;
  /** Resolves when a document is there that was not there at the last call (or at opening), and its program runs. */
  readonly reloaded: () => Promise<void>;
  readonly close: () => Promise<void>;
}

declare global {
  interface Window {
    seen?: boolean;
  }
}

/** In a context of its own. `ready` is JavaScript that is true once the program has started. */
export async function openPage(browser: Browser, url: string, ready: string): Promise<OpenPage> {
  const context = await browser.newContext();
  const page = await context.newPage();
  const errors: string[] = [];
  let navigations = 0;
  page.on('pageerror', (error) => errors.push(`${error.name}: ${error.message}`));
  page.on('framenavigated', (frame) => (navigations += frame === page.mainFrame() ? 1 : 0));

  const reloaded = async (): Promise<void> => {
    await page.waitForFunction(`window.seen === undefined && (${ready})`);
    await page.evaluate(() => (window.seen = true));
  };
  await page.goto(url);
  await reloaded();
  const isSameDocument = (): Promise<boolean> => page.evaluate(() => window.seen === true);
  const close = (): Promise<void> => context.close();
  return { page, errors, navigations: () => navigations, isSameDocument, reloaded, close };
}
