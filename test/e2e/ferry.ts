// The server of test/fixtures/ferry, run by hotslot, and those who connect to it all the time.
import { once } from 'node:events';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { addressIn } from './harbor.ts';
import { copyCrate, type Server, startServer } from './harness.ts';

export const MAIN = 'boat/src/main.rs';
export const SEA = 'charts/sea.rs';
export const DEPTH = 'charts/depth.txt';

/** What one connection was told. */
interface Trip {
  readonly pid: number;
  readonly trip: number;
  readonly bow: string;
  readonly stern: string;
  readonly sea: string;
}

export class Ferry {
  readonly server: Server;
  readonly #port: number;
  /** Of all connections so far. */
  readonly trips: Trip[] = [];
  readonly failures: unknown[] = [];
  #isOver = false;
  #traffic: Promise<void> = Promise.resolve();
  #wake: (() => void) | undefined;

  constructor(server: Server, port: number) {
    this.server = server;
    this.#port = port;
  }

  async ask(): Promise<Trip> {
    const socket = connect(this.#port, '127.0.0.1');
    await once(socket, 'connect');
    const line = await text(socket);
    const [pid, trip, bow, stern, sea] = line.trim().split(' ');
    if (bow === undefined || stern === undefined || sea === undefined)
      throw new Error(`expected a whole answer, got ${JSON.stringify(line)}`);
    return { pid: Number(pid), trip: Number(trip), bow, stern, sea };
  }

  /** Somebody connects as soon as somebody else was answered. */
  open(): void {
    this.#traffic = (async () => {
      while (!this.#isOver && this.failures.length === 0) {
        await this.ask().then(
          (trip) => this.trips.push(trip),
          (error: unknown) => this.failures.push(error),
        );
        this.#wake?.();
      }
    })();
  }

  /** Resolves when so many more were answered, or one was not. */
  async pass(count: number): Promise<void> {
    const enough = this.trips.length + count;
    while (this.trips.length < enough && this.failures.length === 0)
      await new Promise<void>((resolve) => (this.#wake = resolve));
  }

  async close(): Promise<void> {
    this.#isOver = true;
    await this.#traffic;
  }
}

/** As it was left, or as it is at first. */
export async function openFerry(directory: string = copyFerry()): Promise<Ferry> {
  const server = await startServer(directory, { folder: 'boat' });
  const listening = await server.first((event) => addressIn(event) !== undefined);
  return new Ferry(server, Number(new URL(addressIn(listening) ?? '').port));
}

export function copyFerry(): string {
  return copyCrate('test/fixtures/ferry', 'ferry');
}
