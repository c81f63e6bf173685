// Patches in, receipts out. Keeps the journal of the base, brings every page that connects to the current version, and
// knows at each moment which pages run what. The messages and the idea of a state are in client/protocol.ts.

import { createHash } from 'node:crypto';
import type { WebSocket } from 'ws';
import {
  type ClientKind,
  type ClientMessage,
  type Notice,
  type PatchFrame,
  type PatchHeader,
  type ServerMessage,
  writePatch,
} from '../client/protocol.ts';
import type { Event, WasmPatch, Receipt } from '../model.ts';

/** A page that says nothing for this long after a patch is asleep: frozen in the background, or held by a debugger. */
const SILENCE_MS = 10_000;
/** A worker or a worklet that says nothing for this long is busy, as it may be for minutes; it gets to the patch later. */
const BUSY_MS = 1000;
/** A page that does not even answer a ping in this time is gone (a laptop lid, a lost network). */
const HEARTBEAT_MS = 5000;
/** More than this not yet sent to a page, and it is not reading. */
const BACKLOG_BYTES = 64 * 1024 * 1024;

interface Client {
  readonly id: string;
  readonly socket: WebSocket;
  alive: boolean;
  kind: ClientKind;
  /** Where the page is, by its `hello` and its receipts; undefined for a page without the program. */
  at?: { readonly base: string; readonly version: number; readonly state: string };
  /** It gets patches: `hello` was answered and it was not told to reload. */
  joined: boolean;
}

interface Entry {
  readonly patch: WasmPatch;
  readonly header: Omit<PatchHeader, 'committed'>;
}

interface Pending {
  readonly entry: Entry;
  readonly receipts: Receipt[];
  readonly waiting: Map<Client, NodeJS.Timeout>;
  /** Those that nobody waits for any more, and that have not said no. */
  readonly busy: Set<Client>;
  readonly settle: () => void;
}

/** What the pages are to run: all that matters here of the server's `Base`. */
interface Origin {
  readonly id: string;
  readonly version: number;
}

export class Clients {
  readonly #report: (event: Event) => void;
  readonly #clients = new Set<Client>();
  readonly #heartbeat: NodeJS.Timeout;
  #base: Origin | undefined;
  #journal: Entry[] = [];
  #pending: Pending | undefined;
  #notice: Notice = { type: 'ok' };
  #count = 0;

  constructor(report: (event: Event) => void) {
    this.#report = report;
    this.#heartbeat = setInterval(() => this.#ping(), HEARTBEAT_MS).unref();
  }

  /** Pages that run the program. */
  get size(): number {
    return [...this.#clients].filter(({ joined }) => joined).length;
  }

  /** A patch by its state, also one that is not committed: pages ask for its glue. */
  find(state: string): Entry | undefined {
    const entries = this.#pending === undefined ? this.#journal : [...this.#journal, this.#pending.entry];
    return entries.find(({ header }) => header.state === state);
  }

  /** What a page runs that has the whole journal. */
  get state(): string {
    return this.#head().state;
  }

  /** The patches that lead to `state`; none when it is unknown. */
  journal(state: string): readonly PatchFrame[] {
    const reached = this.#journal.findIndex(({ header }) => header.state === state);
    return this.#journal.slice(0, reached + 1).map(({ header, patch }) => ({
      header: { ...header, committed: true },
      module: Uint8Array.from(patch.module),
    }));
  }

  publish(base: Origin): void {
    const first = this.#base === undefined;
    this.#pending?.settle();
    this.#pending = undefined;
    this.#base = base;
    this.#journal = [];
    for (const client of this.#clients) {
      if (client.at !== undefined) this.#join(client);
      // It may have asked for the program before there was one.
      else if (first) this.#send(client, { type: 'reload', target: base.id, reason: 'the program is built now' });
    }
  }

  deliver(patch: WasmPatch): Promise<readonly Receipt[]> {
    if (this.#pending !== undefined) throw new Error(`version ${this.#pending.entry.patch.version} is still pending`);
    const entry = this.#entry(patch);
    return new Promise((resolve) => {
      const receipts: Receipt[] = [];
      const waiting: Pending['waiting'] = new Map();
      const settle = (): void => {
        for (const timer of waiting.values()) clearTimeout(timer);
        waiting.clear();
        resolve([...receipts]);
      };
      const pending = { entry, receipts, waiting, busy: new Set<Client>(), settle };
      this.#pending = pending;
      for (const client of this.#clients) if (client.joined) this.#sendPending(client, pending);
      if (waiting.size === 0) settle();
    });
  }

  commit(patch: WasmPatch): void {
    // Those that joined after `deliver` resolved, and those that are busy; if one of them refuses, it reloads.
    const late = new Set([...(this.#pending?.waiting.keys() ?? []), ...(this.#pending?.busy ?? [])]);
    const { entry } = this.#takePending(patch);
    const { state } = entry.header;
    this.#journal.push(entry);
    for (const client of this.#clients) {
      if (!client.joined) continue;
      if (client.at?.state === state || late.has(client)) this.#send(client, { type: 'commit', state });
      else this.#reload(client, `this page could not take version ${patch.version}`);
    }
  }

  abandon(patch: WasmPatch, reason: string): void {
    const { entry } = this.#takePending(patch);
    const { state, previous } = entry.header;
    for (const client of this.#clients) {
      if (!client.joined) continue;
      if (client.at?.state === state) client.at = { ...client.at, version: patch.version - 1, state: previous };
      this.#send(client, { type: 'abandon', state, reason });
    }
  }

  tell(notice: Notice): void {
    this.#notice = notice;
    for (const client of this.#clients) this.#send(client, notice);
  }

  /** Takes over a socket that has been let in. */
  add(socket: WebSocket): void {
    this.#count += 1;
    const client: Client = { id: String(this.#count), socket, alive: true, kind: 'page', joined: false };
    this.#clients.add(client);
    socket.on('pong', () => (client.alive = true));
    // `close` follows.
    socket.on('error', (error) => this.#log(client, 'warn', `connection: ${error.message}`));
    socket.on('close', () => this.#remove(client));
    socket.on('message', (data, binary) => {
      const message = binary ? undefined : readMessage((data as Buffer).toString());
      if (message === undefined) socket.close(1008, 'not a message of hotslot');
      else this.#receive(client, message);
    });
    if (this.#notice.type !== 'ok') this.#send(client, this.#notice);
  }

  close(): void {
    clearInterval(this.#heartbeat);
    this.#pending?.settle();
    for (const { socket } of this.#clients) socket.terminate();
  }

  #receive(client: Client, message: ClientMessage): void {
    switch (message.type) {
      case 'hello':
        client.kind = message.kind ?? 'page';
        client.at = { base: message.base, version: message.version, state: message.state };
        if (this.#base !== undefined) this.#join(client);
        break;
      case 'receipt':
        this.#receipt(client, message);
        break;
      case 'log':
        this.#log(client, message.level, message.text);
        break;
      case 'threads':
        this.#threads(client, message);
        break;
    }
  }

  /** Sends what the page lacks, or tells it to reload when there is no way from where it is. */
  #join(client: Client): void {
    const base = this.#base;
    const { at } = client;
    if (base === undefined || at === undefined) return;
    const reached = this.#journal.findIndex(({ header }) => header.state === at.state);
    if (at.base !== base.id || (at.state !== base.id && reached === -1)) {
      this.#reload(
        client,
        at.base === base.id ? 'this page runs a version the server does not know' : 'the program was rebuilt',
      );
      return;
    }
    for (const { header, patch } of this.#journal.slice(reached + 1)) {
      this.#sendBytes(client, writePatch({ ...header, committed: true }, patch.module));
    }
    const { version, state } = this.#head();
    client.at = { base: base.id, version, state };
    this.#send(client, { type: 'joined', client: client.id, version });
    if (!client.joined) this.#tell(client, 'joined');
    client.joined = true;
    if (this.#pending !== undefined) this.#sendPending(client, this.#pending);
  }

  #sendPending(client: Client, pending: Pending): void {
    const wait = client.kind === 'page' ? SILENCE_MS : BUSY_MS;
    const timer = setTimeout(() => {
      if (client.kind !== 'page') {
        pending.busy.add(client);
        const { version } = pending.entry.header;
        this.#log(client, 'info', `this ${client.kind} is busy; it takes version ${version} when it gets to it`);
        return this.#stopWaiting(client, pending);
      }
      this.#log(client, 'warn', `no answer within ${SILENCE_MS / 1000} seconds; it gets the patch when it is back`);
      // Nobody waits for it any more. When it wakes up it finds the connection closed and takes its uncommitted patch
      // back; then it connects again, and gets what it lacks.
      return client.socket.terminate();
    }, wait);
    pending.waiting.set(client, timer);
    this.#sendBytes(client, writePatch({ ...pending.entry.header, committed: false }, pending.entry.patch.module));
  }

  #receipt(client: Client, message: ClientMessage & { type: 'receipt' }): void {
    const pending = this.#pending;
    if (pending?.entry.header.state === message.state) {
      this.#answer(client, pending, message);
      return;
    }
    // Of the journal: `joined` has counted it as there already.
    const entry = this.#journal.find(({ header }) => header.state === message.state);
    if (entry === undefined) return;
    if (message.applied) {
      if (client.at?.state === entry.header.previous) client.at = { ...client.at, ...positionAfter(entry) };
    } else {
      this.#log(client, 'error', `version ${entry.header.version} could not be applied: ${message.reason}`);
      this.#reload(client, message.reason);
    }
  }

  #threads(client: Client, { state, workers, behind, failed, ms }: ClientMessage & { type: 'threads' }): void {
    const entry = [this.#pending?.entry, ...this.#journal].find((each) => each?.header.state === state);
    if (entry === undefined) return;
    this.#report({
      event: 'threads',
      client: client.id,
      version: entry.header.version,
      workers,
      behind,
      ms,
      ...(failed > 0 && { failed }),
    });
  }

  #answer(client: Client, pending: Pending, answer: ClientMessage & { type: 'receipt' }): void {
    const wasBusy = pending.busy.delete(client);
    if (!wasBusy && !pending.waiting.has(client)) return;
    if (answer.applied && client.at !== undefined) client.at = { ...client.at, ...positionAfter(pending.entry) };
    if (wasBusy) return;
    const { version } = pending.entry.header;
    const { id, kind } = client;
    pending.receipts.push(
      answer.applied
        ? { client: id, kind, version, applied: true, applyMs: answer.applyMs }
        : { client: id, kind, version: version - 1, applied: false, reason: answer.reason },
    );
    this.#stopWaiting(client, pending);
  }

  #remove(client: Client): void {
    this.#clients.delete(client);
    if (client.joined) this.#tell(client, 'left');
    if (this.#pending?.waiting.has(client) === true) this.#stopWaiting(client, this.#pending);
  }

  #stopWaiting(client: Client, { waiting, settle }: Pending): void {
    clearTimeout(waiting.get(client));
    waiting.delete(client);
    if (waiting.size === 0) settle();
  }

  #reload(client: Client, reason: string): void {
    if (this.#base === undefined) return;
    if (client.joined) this.#tell(client, 'left');
    client.joined = false;
    this.#send(client, { type: 'reload', target: this.#base.id, reason });
  }

  /** Where a page is that has the whole journal. */
  #head(): { readonly version: number; readonly state: string } {
    const last = this.#journal.at(-1);
    if (last !== undefined) return positionAfter(last);
    return { version: this.#base?.version ?? 0, state: this.#base?.id ?? '' };
  }

  #entry(patch: WasmPatch): Entry {
    const { version, state: previous } = this.#head();
    if (patch.base !== this.#base?.id) throw new Error(`patch of base ${patch.base}, published is ${this.#base?.id}`);
    if (patch.version !== version + 1) throw new Error(`patch makes version ${patch.version}, pages are at ${version}`);
    const { base, tableLength, slots, ranges, functions, module, glue } = patch;
    const core = { base, version: patch.version, previous, tableLength, slots, ranges, functions };
    const hash = createHash('sha256')
      .update(JSON.stringify([core, glue?.exports]))
      .update(module);
    const state = hash.digest('hex').slice(0, 32);
    const served = glue && { url: `/@hotslot/glue/${state}/${encodeURIComponent(glue.file)}`, exports: glue.exports };
    return { patch, header: { type: 'patch', ...core, state, ...(served && { glue: served }) } };
  }

  #takePending(patch: WasmPatch): Pending {
    const pending = this.#pending;
    if (pending?.entry.patch !== patch) throw new Error(`version ${patch.version} is not pending`);
    pending.settle();
    this.#pending = undefined;
    return pending;
  }

  #ping(): void {
    for (const client of this.#clients) {
      if (!client.alive) client.socket.terminate();
      client.alive = false;
      client.socket.ping();
    }
  }

  #tell({ id, kind, at }: Client, state: 'joined' | 'left'): void {
    this.#report({ event: 'client', client: id, kind, state, version: at?.version ?? 0 });
  }

  #log(client: Client, level: 'error' | 'warn' | 'info', text: string): void {
    this.#report({ event: 'log', level, text, client: client.id });
  }

  #send(client: Client, message: ServerMessage): void {
    this.#sendBytes(client, JSON.stringify(message));
  }

  #sendBytes({ socket }: Client, data: string | Uint8Array): void {
    if (socket.bufferedAmount > BACKLOG_BYTES) socket.terminate();
    else socket.send(data, ignoreClosed);
  }
}

function positionAfter({ header: { version, state } }: Entry): { readonly version: number; readonly state: string } {
  return { version, state };
}

/** A socket that closed meanwhile also says so by `close`, which is where it counts. */
function ignoreClosed(): void {}

/** Checks what a page sent: another program may have the token too. */
function readMessage(text: string): ClientMessage | undefined {
  let message: Partial<Record<string, unknown>>;
  try {
    message = (JSON.parse(text) ?? {}) as Partial<Record<string, unknown>>;
  } catch {
    return undefined;
  }
  const { type, base, kind, version, state, applied, applyMs, reason, level, text: line } = message;
  const { workers, behind, failed, ms } = message;
  if (type === 'hello' && typeof base === 'string' && typeof version === 'number' && typeof state === 'string') {
    if (kind !== 'worker' && kind !== 'worklet') return { type, base, version, state };
    return { type, base, kind, version, state };
  }
  if (type === 'receipt' && typeof state === 'string') {
    if (applied === true && typeof applyMs === 'number') return { type, state, applied, applyMs };
    if (applied === false && typeof reason === 'string') return { type, state, applied, reason };
  }
  if (type === 'threads' && typeof state === 'string') {
    const counts = [workers, behind, failed, ms];
    if (!counts.every((each) => typeof each === 'number')) return undefined;
    return { type, state, workers, behind, failed, ms } as ClientMessage;
  }
  if (type === 'log' && (level === 'error' || level === 'warn' || level === 'info') && typeof line === 'string') {
    return { type, level, text: line };
  }
  return undefined;
}
