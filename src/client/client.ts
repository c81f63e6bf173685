// Where the program runs, be it a page, a worker or an audio worklet: takes the server's patches into the program in order,
// answers each, and takes it back when it must. The page's HTML loads it first; the glue calls the rest.

import { apply, type GlueModule, openProgram, prepare, type Prepared } from './apply.ts';
import { describe, forward, sentence, show, warn } from './complaints.ts';
import { type Connection, connect, type Listener } from './connection.ts';
import { now, settle as settleLock, Thread } from './threads.ts';
import {
  type ClientKind,
  type ClientMessage,
  type PatchFrame,
  type PatchHeader,
  type ServerMessage,
  writePatch,
} from './protocol.ts';
import { connectPage, isWorklet, relayWorklets } from './worklet.ts';

/** Where the program is. A patch leads from one position to the next. */
interface Position {
  readonly version: number;
  readonly state: string;
}

/** An instance, or the threads that share a memory: applies a patch, and says how to undo it. */
type Instance = (patch: Prepared) => () => void;

interface Taken {
  readonly patch: Prepared;
  readonly from: Position;
  /** Of each instance, as long as the patch is provisional. */
  readonly undos: (() => void)[];
}

/** What the glue that was loaded belongs to. */
interface Loaded {
  readonly base: string;
  readonly version: number;
  /** All patches that there were when it was served. */
  readonly journal: readonly Entry[];
}

interface Entry {
  readonly header: PatchHeader;
  /** Bytes as characters: nothing decodes Base64 everywhere. */
  readonly module: string;
  readonly glue?: GlueModule;
}

/** A program does not wait longer than this for a server that answers HTTP but not the socket. */
const JOIN_TIMEOUT_MS = 5000;
/** How long threads are waited for before it is told how many have not come by. */
const THREADS_MS = 250;
const RELOADED = 'hotslot:reloaded';

/** Workers and worklets have none, and cannot reload: that is up to their page. */
const storage = typeof sessionStorage === 'undefined' ? undefined : sessionStorage;
const kind: ClientKind = typeof document !== 'undefined' ? 'page' : isWorklet ? 'worklet' : 'worker';
/** For what a worker wants of the pages. */
const channel = typeof BroadcastChannel === 'undefined' ? undefined : new BroadcastChannel('hotslot');
const tellPages = channel?.postMessage.bind(channel);

let connection: Connection | undefined;
let base: string | undefined;
let position: Position = { version: 0, state: '' };
const instances: Instance[] = [];
const threads: Thread[] = [];
/** All patches since the base, for instances that are made later. */
const history: Taken[] = [];
/** The last patch taken, until everyone else has it too. */
let provisional: Taken | undefined;
/** In a worklet: what the page had loaded for patches that will come, by their state. */
const glues = new Map<string, GlueModule>();
let onJoined: () => void = () => {};
const whenJoined: Promise<void> = new Promise((resolve) => (onJoined = resolve));

// ------------------------------------------------------------------------------------------------ called by the glue

/**
 * Before the glue's own code. In a worker nothing may be awaited before its own first lines, which expect messages. So the
 * patches come along with the glue, and only what is newer by the connection.
 */
export function load(loaded: Loaded): void {
  if (base !== undefined) return;
  base = loaded.base;
  position = { version: loaded.version, state: loaded.base };
  for (const { header, module, glue } of loaded.journal) {
    const bytes = Uint8Array.from(module, (character) => character.charCodeAt(0));
    const patch = {
      header,
      module: new WebAssembly.Module(bytes),
      ...(glue && { glue }),
      get frame() {
        return writePatch(header, bytes).buffer;
      },
    };
    remember({ patch, from: position, undos: [] });
  }
  connection ??= connectServer();
  hello();
}

/** In a page, after `load`: resolves when the server has said all that is newer, so that no program starts too old. */
export function joined(): Promise<void> {
  setTimeout(onJoined, JOIN_TIMEOUT_MS);
  return whenJoined;
}

/**
 * When an instance with threads exists and none of its functions has run; the result is called when those have run that
 * set it up. Which of the instances this is shows in the memory, once that has been set up too.
 */
export function join(exports: WebAssembly.Exports, loaded: Loaded): () => void {
  const joining = new Thread(exports, () => {
    // The others take from the first one what is new, and hear of nothing themselves.
    if (!joining.claim()) return;
    load(loaded);
    if (enter((patch) => joining.publish(patch), loaded)) threads.push(joining);
  });
  return () => joining.sync();
}

/** In a worker with threads, before anything else that takes time. */
export const locked: () => Promise<void> = settleLock;

/** When the instance exists and none of its functions has run. */
export function install(exports: WebAssembly.Exports, loaded: Loaded): void {
  const program = openProgram(exports);
  enter((patch) => apply(program, patch), loaded);
}

/** In a worklet, by a module that the page loads into it. */
export function keepGlue(state: string, glue: GlueModule): void {
  glues.set(state, glue);
}

/** Brings an instance to where the others are. */
function enter(instance: Instance, loaded: Loaded): boolean {
  if (loaded.base !== base) {
    warn('this is another build of the program than the one that runs here already; it gets no patches');
    return false;
  }
  for (const taken of history) {
    try {
      const wayBack = instance(taken.patch);
      if (taken === provisional) taken.undos.push(wayBack);
    } catch (error) {
      throw new Error(`hotslot could not bring the program to version ${taken.patch.header.version}`, { cause: error });
    }
  }
  instances.push(instance);
  return true;
}

// ---------------------------------------------------------------------------------------------------------- messages

const listener: Listener<never> = { opened: hello, received: receive, closed: goBack, patched: () => {} };

function connectServer(): Connection {
  const patched = ({ header, ...rest }: PatchFrame): Promise<void> => take(header, () => prepare({ header, ...rest }));
  return connect({ ...listener, patched });
}

function connectWorklet(): Connection {
  const patched = (patch: Omit<Prepared, 'glue'>): Promise<void> =>
    take(patch.header, () => {
      const glue = glues.get(patch.header.state);
      return { ...patch, ...(glue && { glue }) };
    });
  return connectPage({ ...listener, patched });
}

function send(message: ClientMessage): void {
  connection?.send(message);
}

function hello(): void {
  if (base !== undefined) send({ type: 'hello', base, kind, ...position });
}

function receive(message: ServerMessage): void {
  switch (message.type) {
    case 'joined':
      storage?.removeItem(RELOADED);
      onJoined();
      break;
    case 'commit':
      if (provisional?.patch.header.state === message.state) settle();
      break;
    case 'abandon':
      if (provisional?.patch.header.state === message.state) {
        undo(provisional);
        warn(`back to version ${position.version}: ${message.reason}`);
      }
      break;
    case 'reload':
      reload(message);
      break;
    case 'failed':
      // Workers have the console of their page.
      if (kind !== 'page') break;
      for (const diagnostic of message.diagnostics) show(sentence(diagnostic));
      break;
    case 'refused':
      if (kind === 'page') warn(`${message.reason} (needs a ${message.remedy})`);
      break;
    case 'ok':
    case 'patch':
      break;
  }
}

/** All or nothing; the answer says which. */
async function take(header: PatchHeader, compile: () => Prepared | Promise<Prepared>): Promise<void> {
  try {
    check(header);
    const taken: Taken = { patch: await compile(), from: position, undos: [] };
    const startedAt = now();
    change(taken);
    const applyMs = now() - startedAt;
    remember(taken);
    if (header.committed) settle();
    else provisional = taken;
    console.debug(`[hotslot] version ${header.version}: ${header.functions.join(', ')}`);
    announce('hotslot:patch');
    for (const thread of threads) void tell(thread, header, now());
    send({ type: 'receipt', state: header.state, applied: true, applyMs });
  } catch (error) {
    send({ type: 'receipt', state: header.state, applied: false, reason: describe(error) });
  }
}

/** In all instances, or in none. */
function change({ patch, undos }: Taken): void {
  try {
    for (const instance of instances) undos.push(instance(patch));
  } catch (error) {
    takeBack(undos);
    throw error;
  }
}

function takeBack(undos: (() => void)[]): void {
  for (const each of undos.splice(0).toReversed()) each();
}

/** The other threads take a patch when they next call something, if they do. */
async function tell(publisher: Thread, { version, state }: PatchHeader, since: number): Promise<void> {
  if (isWorklet) return;
  while (!publisher.isTakenByAll && now() - since < THREADS_MS && position.state === state)
    await new Promise((resolve) => setTimeout(resolve, 1));
  const { workers, behind, failed, takenAt } = await publisher.tally();
  if (failed > 0) warn(`${failed} threads could not take version ${version} and ended; reload the page`);
  const ms = Math.max(0, (behind > 0 ? now() : takenAt) - since);
  send({ type: 'threads', state, workers, behind, failed, ms });
}

function check({ base: of, version, previous }: PatchHeader): void {
  const here = `this ${kind}`;
  if (of !== base) throw new Error(`the patch is for base ${of}, ${here} loaded ${base ?? 'none'}`);
  if (version !== position.version + 1) {
    throw new Error(`the patch makes version ${version}, ${here} is at ${position.version}`);
  }
  if (previous !== position.state) throw new Error(`the patch follows another version ${position.version}`);
}

function remember(taken: Taken): void {
  const { version, state } = taken.patch.header;
  history.push(taken);
  position = { version, state };
}

/** Nobody will ask for the last patch to be undone. */
function settle(): void {
  history.at(-1)?.undos.splice(0);
  provisional = undefined;
}

function undo(taken: Taken): void {
  takeBack(taken.undos);
  history.pop();
  position = taken.from;
  provisional = undefined;
  announce('hotslot:undo');
}

/** Whether the others kept it is unknown now. When they did, it comes again with the answer to `hello`. */
function goBack(): void {
  if (provisional !== undefined) undo(provisional);
}

function announce(type: string): void {
  if (isWorklet) return;
  globalThis.dispatchEvent(new CustomEvent(type, { detail: { version: position.version } }));
}

/** Once for each target: a page that comes back with the old program after all must not go round in circles. */
function reload(message: ServerMessage & { type: 'reload' }): void {
  const { target, reason } = message;
  if (storage === undefined) {
    warn(`${reason}; this ${kind} needs its page to reload`);
    tellPages?.(message);
  } else if (storage.getItem(RELOADED) === target) {
    show(`reloading did not help: ${reason}. Is an old copy of the program served or cached?`);
    onJoined();
  } else {
    storage.setItem(RELOADED, target);
    location.reload();
  }
}

// ------------------------------------------------------------------------------------------------------------- start

/** What tests and curious people may look at. */
export interface Inspection {
  readonly base: string | undefined;
  readonly version: number;
}

const inspection = {
  get base() {
    return base;
  },
  get version() {
    return position.version;
  },
} satisfies Inspection;

/** False when a script that is no module has brought a copy along, which then speaks for the page. */
const isFirst = Reflect.defineProperty(globalThis, '__hotslot', { value: inspection });

if (isFirst) forward(send);
// In a worker, only when the program there turns out to be one of its own.
if (kind === 'worklet') connection = connectWorklet();
if (kind === 'page' && isFirst) {
  connection = connectServer();
  relayWorklets(reload);
  channel?.addEventListener('message', ({ data }: MessageEvent<ServerMessage & { type: 'reload' }>) => {
    // A page that runs the program is told by the server.
    if (base === undefined) reload(data);
  });
}
