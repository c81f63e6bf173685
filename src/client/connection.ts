// A listener in; what it hears from the server, and a way to answer, out. The connection comes back by itself.

import { type ClientMessage, type PatchFrame, readPatch, type ServerMessage } from './protocol.ts';
import { describe } from './complaints.ts';

/** Each call is made when the one before is done: a patch compiles asynchronously, and the next must find it applied. */
export interface Listener<Patch> {
  opened(): void;
  received(message: ServerMessage): void;
  patched(patch: Patch): void | Promise<void>;
  closed(): void;
}

export interface Connection {
  /** Says nothing while there is no connection: whoever has something to say then says it again in `opened`. */
  send(message: ClientMessage): void;
  /** For good. */
  close(): void;
}

const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 4000;

/** Of a page or a worker to the server. */
export function connect(listener: Listener<PatchFrame>): Connection {
  const step = inOrder((message) => send({ type: 'log', level: 'error', text: message }));
  let socket: WebSocket | undefined;
  let isOver = false;

  const send = (message: ClientMessage): void => {
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  };

  const start = async (retryMs: number): Promise<void> => {
    try {
      const response = await fetch('/@hotslot/session', { cache: 'no-store' });
      if (!response.ok) throw new Error(`/@hotslot/session: ${response.status}`);
      const { token } = (await response.json()) as { token: string };
      if (!isOver) open(`${location.origin.replace(/^http/, 'ws')}/@hotslot/socket?token=${token}`, retryMs);
    } catch {
      // The server is away: nothing to tell the user that its terminal does not say.
      retry(retryMs);
    }
  };

  const retry = (afterMs: number): void => {
    if (!isOver) setTimeout(() => void start(Math.min(afterMs * 2, LAST_RETRY_MS)), afterMs);
  };

  const open = (url: string, retryMs: number): void => {
    const current = new WebSocket(url);
    let nextRetryMs = retryMs;
    socket = current;
    current.binaryType = 'arraybuffer';
    current.addEventListener('open', () => {
      nextRetryMs = FIRST_RETRY_MS;
      step(() => listener.opened());
    });
    current.addEventListener('message', ({ data }: MessageEvent<string | ArrayBuffer>) => {
      step(() =>
        typeof data === 'string'
          ? listener.received(JSON.parse(data) as ServerMessage)
          : listener.patched(readPatch(data)),
      );
    });
    current.addEventListener('close', () => {
      step(() => {
        listener.closed();
        retry(nextRetryMs);
      });
    });
  };

  void start(FIRST_RETRY_MS);
  return {
    send,
    close: () => {
      isOver = true;
      socket?.close();
    },
  };
}

/** The result does one thing after the other. */
export function inOrder(complain: (text: string) => void): (step: () => void | Promise<void>) => void {
  let queue: Promise<void> = Promise.resolve();
  return (step) => {
    queue = queue.then(step).catch((error: unknown) => complain(`hotslot's client failed: ${describe(error)}`));
  };
}
