// What goes wrong where the program runs, in; lines for the console, and for the server, out.

import type { ClientMessage, NoticeDiagnostic } from './protocol.ts';

const LOGS_PER_SECOND = 20;
const LOG_LENGTH = 8000;

const consoleError = console.error;

export function warn(text: string): void {
  console.warn(`[hotslot] ${text}`);
}

/** For the console only: what the server says itself. */
export function show(text: string): void {
  consoleError.call(console, `[hotslot] ${text}`);
}

export function describe(value: unknown): string {
  if (!(value instanceof Error)) return typeof value === 'string' ? value : String(value);
  const text = `${value.name}: ${value.message}`;
  return value.cause === undefined ? text : `${text} (${describe(value.cause)})`;
}

export function sentence({ severity, code, text, place, hint }: NoticeDiagnostic): string {
  const at = place === undefined ? '' : `\n  --> ${place.path}:${place.line}:${place.column}`;
  return `${severity}${code === undefined ? '' : `[${code}]`}: ${text}${at}${hint === undefined ? '' : `\n  ${hint}`}`;
}

/** From now on, errors that nothing caught and all that goes to `console.error`, in measure. */
export function forward(send: (message: ClientMessage) => void): void {
  let second = 0;
  let logged = 0;
  const log = (text: string): void => {
    const current = Math.floor(Date.now() / 1000);
    if (current !== second) [second, logged] = [current, 0];
    logged += 1;
    if (logged < LOGS_PER_SECOND) send({ type: 'log', level: 'error', text: text.slice(0, LOG_LENGTH) });
    else if (logged === LOGS_PER_SECOND)
      send({ type: 'log', level: 'warn', text: 'more errors in this second, not shown' });
  };
  const stack = (error: unknown): string =>
    error instanceof Error ? (error.stack ?? describe(error)) : describe(error);

  // Where panics go. A proxy keeps everything about the function as it was, but for the copy sent to the server.
  console.error = new Proxy(consoleError, {
    apply: (target, self, args: unknown[]) => {
      log(args.map((arg) => describe(arg)).join(' '));
      return Reflect.apply(target, self, args) as unknown;
    },
  });
  // Worklets have no events: their page tells of errors.
  if (typeof addEventListener === 'undefined') return;
  globalThis.addEventListener('error', (event) => {
    log(event.error instanceof Error ? stack(event.error) : event.message);
  });
  globalThis.addEventListener('unhandledrejection', ({ reason }) => log(`unhandled rejection: ${stack(reason)}`));
}
