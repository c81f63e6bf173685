// The server of test/fixtures/harbor, run by hotslot; connections to it of each kind that a patch must keep.
import { readFile } from 'node:fs/promises';
import { type Agent, get, request } from 'node:http';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { expect } from 'vitest';
import { WebSocket } from 'ws';
import type { Event } from '../../src/model.ts';
import { type Answer, copyCrate, type Server, startServer, type StartOptions } from './harness.ts';

/** What `GET /state` says; the numbers are counts since the program started. */
export interface State {
  readonly pid: number;
  readonly version: number;
  readonly hooks: number;
  readonly builds: number;
  readonly arguments: readonly string[];
  readonly folder: string;
  readonly environment: Readonly<Record<string, string>>;
  /** Port of this connection's other end. */
  readonly client: number;
  readonly tcp: number;
  readonly requests: number;
  readonly sockets: number;
  readonly docked: number;
  readonly ticks: number;
  readonly turns: number;
  readonly seals: number;
  readonly ships: readonly string[];
  readonly inspections: number;
}

/** A connection that stays open: texts that came, each to be taken once. */
export class Line {
  readonly #texts: string[] = [];
  readonly #waiting: (() => void)[] = [];
  #ended: Error | undefined;
  readonly #send: (text: string) => void;
  readonly close: () => void;

  constructor(send: (text: string) => void, close: () => void) {
    this.#send = send;
    this.close = close;
  }

  push(text: string): void {
    this.#texts.push(text);
    this.#wake();
  }

  end(reason: string): void {
    this.#ended ??= new Error(`the connection ended: ${reason}`);
    this.#wake();
  }

  get isOpen(): boolean {
    return this.#ended === undefined;
  }

  /** Waits for the next text. Throws when the connection ended before. */
  async next(): Promise<string> {
    for (;;) {
      const text = this.#texts.shift();
      if (text !== undefined) return text;
      if (this.#ended !== undefined) throw this.#ended;
      await new Promise<void>((wake) => this.#waiting.push(wake));
    }
  }

  /** Waits for the first text that is like that, and drops those before it. */
  async until(wanted: RegExp): Promise<string> {
    for (;;) {
      const text = await this.next();
      if (wanted.test(text)) return text;
    }
  }

  ask(text: string): Promise<string> {
    this.#send(text);
    return this.next();
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }
}

export class Harbor {
  readonly server: Server;
  readonly directory: string;
  readonly #lines: Line[] = [];

  constructor(server: Server, directory: string) {
    this.server = server;
    this.directory = directory;
  }

  /** The last address that the program gave. */
  get url(): string {
    const urls = this.server.events.flatMap((event) => addressIn(event) ?? []);
    const url = urls.at(-1);
    if (url === undefined) throw new Error('expected a server that listens');
    return url;
  }

  /** Each request has a connection of its own, unless `agent` says otherwise. Throws what the connection throws. */
  get(path: string, agent: Agent | false = false): Promise<string> {
    return this.#fetch('GET', path, agent);
  }

  post(path: string): Promise<string> {
    return this.#fetch('POST', path, false);
  }

  async #fetch(method: string, path: string, agent: Agent | false): Promise<string> {
    return new Promise((answer, fail) => {
      const asked = request(`${this.url}${path}`, { method, agent }, (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
        response.once('error', fail);
        response.once('end', () => answer(response.statusCode === 200 ? text : `status ${response.statusCode}`));
      });
      asked.once('error', fail).end();
    });
  }

  async state(): Promise<State> {
    return JSON.parse(await this.get('/state')) as State;
  }

  /** A WebSocket. */
  async talk(): Promise<Line> {
    const socket = new WebSocket(`${this.url.replace('http', 'ws')}/ws`);
    const line = this.#keep(
      (text) => socket.send(text),
      () => socket.close(),
    );
    socket.on('message', (data: Buffer) => line.push(data.toString()));
    socket.on('close', (code) => line.end(`code ${code}`));
    socket.on('error', (error) => line.end(error.message));
    await new Promise((open, fail) => socket.once('open', open).once('error', fail));
    return line;
  }

  /** A stream of server-sent events. */
  async waves(): Promise<Line> {
    return new Promise((open, fail) => {
      const asked = get(`${this.url}/waves`, { agent: false }, (response) => {
        const line = this.#keep(
          () => undefined,
          () => asked.destroy(),
        );
        read(response, line, (text) => {
          if (text.startsWith('data: ')) line.push(text.slice('data: '.length));
        });
        open(line);
      });
      asked.once('error', fail);
    });
  }

  /** A plain connection, over which lines are echoed. */
  async echo(): Promise<Line> {
    const { tcp } = await this.state();
    const socket = connect(tcp, '127.0.0.1');
    const line = this.#keep(
      (text) => socket.write(`${text}\n`),
      () => socket.destroy(),
    );
    read(socket, line, (text) => line.push(text));
    return line;
  }

  #keep(send: (text: string) => void, close: () => void): Line {
    const line = new Line(send, close);
    this.#lines.push(line);
    return line;
  }

  closeLines(): void {
    for (const line of this.#lines.splice(0)) line.close();
  }

  /** Saves edits of one file as one; the event that answers them. */
  change(path: string, ...edits: readonly (readonly [from: string, to: string])[]): Promise<Answer> {
    let text = this.server.read(path);
    for (const [from, to] of edits) {
      if (text.split(from).length !== 2) throw new Error(`expected \`${from}\` once in ${path}`);
      text = text.replace(from, () => to);
    }
    return this.server.write({ [path]: text });
  }

  /** The same, for edits that the running program has to take. */
  async swap(path: string, ...edits: readonly (readonly [from: string, to: string])[]): Promise<Patched> {
    const answer = await this.change(path, ...edits);
    if (answer.event !== 'patch') throw new Error(`expected a patch, got ${JSON.stringify(answer, null, 2)}`);
    expect(answer.clients).toBe(1);
    return answer;
  }
}

export type Patched = Extract<Answer, { event: 'patch' }>;

function read(input: Readable, line: Line, take: (text: string) => void): void {
  const lines = createInterface({ input }).on('line', take);
  // Both tell of the same error: ours when we close the connection, and the program's when it ends.
  for (const source of [input, lines]) source.on('error', (error: Error) => line.end(error.message));
  input.once('close', () => line.end('closed'));
}

/** Resolves when the program listens and takes patches. */
export async function openHarbor(options: StartOptions = {}): Promise<Harbor> {
  const directory = copyCrate('test/fixtures/harbor', 'harbor');
  const environment = { PORT: '0', ...options.environment };
  const server = await startServer(directory, { ...options, environment });
  await server.first((event) => addressIn(event) !== undefined);
  return new Harbor(server, directory);
}

/** Of a line with which the program says where it listens. */
export function addressIn(event: Event): string | undefined {
  return event.event === 'log' ? /^listening on (http:\/\/\S+)$/.exec(event.text)?.[1] : undefined;
}

/** Where a program's agent connects to, as it was told when it started. */
export async function agentSocket(pid: number): Promise<string> {
  const variables = (await readFile(`/proc/${pid}/environ`, 'utf8')).split('\0');
  const found = variables.find((variable) => variable.startsWith('HOTSLOT_SOCKET='));
  if (found === undefined) throw new Error(`process ${pid} was not started by hotslot`);
  return found.slice('HOTSLOT_SOCKET='.length);
}
