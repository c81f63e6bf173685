// In the page, or a worker: connects to the server, takes its patches into the program in order, answers each, and comes back by
// itself when the connection is lost. The page's HTML loads it first; the glue calls `prepare` and `install`.

import { apply, openProgram, prepare as preparePatch, type Prepared, type Program } from './apply.ts';
import { now, settle, Thread } from './threads.ts';
import {
  type ClientMessage,
  type NoticeDiagnostic,
  type PatchHeader,
  readPatch,
  type ServerMessage,
} from './protocol.ts';

/** Where the program is. A patch leads from one position to the next. */
interface Position {
  readonly version: number;
  readonly state: string;
}

/** A patch this page has taken. Without a program to apply it to, it waits for `install`. */
interface Taken {
  readonly patch: Prepared;
  readonly from: Position;
  undo?: () => void;
}

const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 4000;
/** A program does not wait longer than this for a server that answers HTTP but not the socket. */
const JOIN_TIMEOUT_MS = 5000;
/** How long threads are waited for before it is told how many have not come by. */
const THREADS_MS = 250;
const LOGS_PER_SECOND = 20;
const LOG_LENGTH = 8000;
const RELOADED = 'hotslot:reloaded';

const consoleError = console.error;
/** A worker has none, and cannot reload: that is up to its page. */
const storage = typeof sessionStorage === 'undefined' ? undefined : sessionStorage;

let socket: WebSocket | undefined;
let base: string | undefined;
let position: Position = { version: 0, state: '' };
let program: Program | undefined;
/** Of a program with threads: the one that this is, when it is the one that publishes. */
let thread: Thread | undefined;
let isConnecting = false;
/** Taken before the program runs, in order. */
let waiting: Taken[] = [];
/** The last patch taken, until everyone else has it too. */
let provisional: Taken | undefined;
/** One message after the other: a patch compiles asynchronously, and the next must find it applied. */
let queue: Promise<void> = Promise.resolve();
let joined: () => void = () => {};

// ------------------------------------------------------------------------------------------------ called by the glue

/** Before the glue's own code: resolves when everything `install` needs has arrived and is compiled. */
export async function prepare(loaded: Loaded): Promise<void> {
  load(loaded);
  await new Promise<void>((resolve) => {
    joined = resolve;
    hello();
    setTimeout(() => resolve(), JOIN_TIMEOUT_MS);
  });
}

/** What the glue that the page loaded belongs to. */
interface Loaded {
  readonly base: string;
  readonly version: number;
}

function load(loaded: Loaded): void {
  base = loaded.base;
  position = { version: loaded.version, state: loaded.base };
  if (!isConnecting) void connect(FIRST_RETRY_MS);
}

/**
 * When an instance with threads exists and none of its functions has run; the result is called when those have run that
 * set it up. Which of the instances this is shows in the memory, once that has been set up too.
 */
export function join(exports: WebAssembly.Exports, loaded: Loaded): () => void {
  const joining = new Thread(exports, () => {
    // The others take from the first one what is new, and hear of nothing themselves.
    if (!joining.claim()) return;
    if (thread !== undefined) {
      warn('this page runs the program twice; patches reach only the first one');
      return;
    }
    thread = joining;
    // In a worker it did not wait for the server: that would lose messages that the worker is about to get.
    if (base === undefined) load(loaded);
    enter(joining.program);
  });
  return () => joining.sync();
}

export { settle };

/** When the instance exists and none of its functions has run. */
export function install(exports: WebAssembly.Exports): void {
  if (program !== undefined) {
    warn('this page runs the program twice; patches reach only the first one');
    return;
  }
  enter(openProgram(exports));
}

/** Brings the program to where the page is. */
function enter(entered: Program): void {
  program = entered;
  for (const taken of waiting) {
    try {
      taken.undo = change(program, taken.patch);
    } catch (error) {
      throw new Error(`hotslot could not bring the program to version ${taken.patch.header.version}`, { cause: error });
    }
  }
  waiting = [];
}

function change(changed: Program, patch: Prepared): () => void {
  return thread === undefined ? apply(changed, patch) : thread.publish(patch);
}

// -------------------------------------------------------------------------------------------------------- connection

async function connect(retryMs: number): Promise<void> {
  isConnecting = true;
  try {
    const response = await fetch('/@hotslot/session', { cache: 'no-store' });
    if (!response.ok) throw new Error(`/@hotslot/session: ${response.status}`);
    const { token } = (await response.json()) as { token: string };
    open(`${location.origin.replace(/^http/, 'ws')}/@hotslot/socket?token=${token}`, retryMs);
  } catch {
    // The server is away: nothing to tell the user that its terminal does not say.
    retry(retryMs);
  }
}

function retry(afterMs: number): void {
  setTimeout(() => void connect(Math.min(afterMs * 2, LAST_RETRY_MS)), afterMs);
}

function open(url: string, retryMs: number): void {
  const current = new WebSocket(url);
  let nextRetryMs = retryMs;
  current.binaryType = 'arraybuffer';
  current.addEventListener('open', () => {
    nextRetryMs = FIRST_RETRY_MS;
    socket = current;
    hello();
  });
  current.addEventListener('message', ({ data }: MessageEvent<string | ArrayBuffer>) => {
    inOrder(() => receive(data));
  });
  current.addEventListener('close', () => {
    inOrder(() => {
      if (socket === current) socket = undefined;
      // Whether the others kept it is unknown now. When they did, it comes again with the answer to `hello`.
      if (provisional !== undefined) undo(provisional);
      retry(nextRetryMs);
    });
  });
}

function inOrder(step: () => void | Promise<void>): void {
  queue = queue.then(step).catch((error: unknown) => log('error', `hotslot's client failed: ${describe(error)}`));
}

function send(message: ClientMessage): void {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function hello(): void {
  if (base !== undefined) send({ type: 'hello', base, ...position });
}

// ---------------------------------------------------------------------------------------------------------- messages

async function receive(data: string | ArrayBuffer): Promise<void> {
  if (typeof data !== 'string') {
    const frame = readPatch(data);
    send(await take(frame.header, () => preparePatch(frame)));
    return;
  }
  const message = JSON.parse(data) as ServerMessage;
  switch (message.type) {
    case 'joined':
      storage?.removeItem(RELOADED);
      joined();
      break;
    case 'commit':
      if (provisional?.patch.header.state === message.state) provisional = undefined;
      break;
    case 'abandon':
      if (provisional?.patch.header.state === message.state) {
        undo(provisional);
        warn(`back to version ${position.version}: ${message.reason}`);
      }
      break;
    case 'reload':
      reload(message.target, message.reason);
      break;
    case 'failed':
      for (const diagnostic of message.diagnostics) consoleError.call(console, `[hotslot] ${sentence(diagnostic)}`);
      break;
    case 'refused':
      warn(`${message.reason} (needs a ${message.remedy})`);
      break;
    case 'ok':
    case 'patch':
      break;
  }
}

/** All or nothing; the answer says which. */
async function take(header: PatchHeader, compile: () => Promise<Prepared>): Promise<ClientMessage> {
  try {
    check(header);
    const taken: Taken = { patch: await compile(), from: position };
    const startedAt = performance.now();
    if (program === undefined) waiting.push(taken);
    else taken.undo = change(program, taken.patch);
    const applyMs = performance.now() - startedAt;
    position = { version: header.version, state: header.state };
    provisional = header.committed ? undefined : taken;
    console.debug(`[hotslot] version ${header.version}: ${header.functions.join(', ')}`);
    globalThis.dispatchEvent(new CustomEvent('hotslot:patch', { detail: { version: header.version } }));
    if (thread !== undefined) void tell(thread, header, now());
    return { type: 'receipt', state: header.state, applied: true, applyMs };
  } catch (error) {
    return { type: 'receipt', state: header.state, applied: false, reason: describe(error) };
  }
}

/** The other threads take a patch when they next call something, if they do. */
async function tell(publisher: Thread, { version, state }: PatchHeader, since: number): Promise<void> {
  while (!publisher.isTakenByAll && now() - since < THREADS_MS && position.state === state)
    await new Promise((resolve) => setTimeout(resolve, 1));
  const { workers, behind, failed, takenAt } = await publisher.tally();
  if (failed > 0) warn(`${failed} threads could not take version ${version} and ended; reload the page`);
  const ms = Math.max(0, (behind > 0 ? now() : takenAt) - since);
  send({ type: 'threads', state, workers, behind, failed, ms });
}

function check({ base: of, version, previous }: PatchHeader): void {
  if (of !== base) throw new Error(`the patch is for base ${of}, this page loaded ${base ?? 'none'}`);
  if (version !== position.version + 1) {
    throw new Error(`the patch makes version ${version}, this page is at ${position.version}`);
  }
  if (previous !== position.state) throw new Error(`the patch follows another version ${position.version}`);
}

function undo(taken: Taken): void {
  if (taken.undo === undefined) waiting = waiting.filter((other) => other !== taken);
  else taken.undo();
  position = taken.from;
  provisional = undefined;
  globalThis.dispatchEvent(new CustomEvent('hotslot:undo', { detail: { version: position.version } }));
}

/** Once for each target: a page that comes back with the old program after all must not go round in circles. */
function reload(target: string, reason: string): void {
  if (storage === undefined) {
    warn(`${reason}; this worker needs its page to reload`);
    joined();
    return;
  }
  if (storage.getItem(RELOADED) === target) {
    consoleError.call(
      console,
      `[hotslot] reloading did not help: ${reason}. Is an old copy of the program served or cached?`,
    );
    joined();
    return;
  }
  storage.setItem(RELOADED, target);
  location.reload();
}

// -------------------------------------------------------------------------------------------------------------- logs

let logged = 0;

function log(level: 'error' | 'warn' | 'info', text: string): void {
  if (logged === 0) setTimeout(() => (logged = 0), 1000);
  logged += 1;
  if (logged < LOGS_PER_SECOND) send({ type: 'log', level, text: text.slice(0, LOG_LENGTH) });
  else if (logged === LOGS_PER_SECOND)
    send({ type: 'log', level: 'warn', text: 'more errors in this second, not shown' });
}

function warn(text: string): void {
  console.warn(`[hotslot] ${text}`);
}

function describe(value: unknown): string {
  if (!(value instanceof Error)) return typeof value === 'string' ? value : String(value);
  const text = `${value.name}: ${value.message}`;
  return value.cause === undefined ? text : `${text} (${describe(value.cause)})`;
}

function sentence({ severity, code, text, place, hint }: NoticeDiagnostic): string {
  const at = place === undefined ? '' : `\n  --> ${place.path}:${place.line}:${place.column}`;
  return `${severity}${code === undefined ? '' : `[${code}]`}: ${text}${at}${hint === undefined ? '' : `\n  ${hint}`}`;
}

globalThis.addEventListener('error', (event) => {
  log('error', event.error instanceof Error ? (event.error.stack ?? describe(event.error)) : event.message);
});
globalThis.addEventListener('unhandledrejection', ({ reason }) => {
  log(
    'error',
    `unhandled rejection: ${reason instanceof Error ? (reason.stack ?? describe(reason)) : describe(reason)}`,
  );
});
// Where panics go. A proxy keeps everything about the function as it was, but for the copy sent to the server.
console.error = new Proxy(consoleError, {
  apply: (target, self, args: unknown[]) => {
    log('error', args.map((arg) => describe(arg)).join(' '));
    return Reflect.apply(target, self, args) as unknown;
  },
});

// ------------------------------------------------------------------------------------------------------------- start

/** What tests and curious people may look at. */
export interface Inspection {
  readonly base: string | undefined;
  readonly version: number;
}

Object.defineProperty(globalThis, '__hotslot', {
  value: {
    get base() {
      return base;
    },
    get version() {
      return position.version;
    },
  } satisfies Inspection,
});

// In a worker, only when the program there turns out to be one of its own.
if (typeof document !== 'undefined') void connect(FIRST_RETRY_MS);
