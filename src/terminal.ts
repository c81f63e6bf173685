// Events in, lines for people out: one line per thing that happened, and on a terminal one live line while building.
import { relative } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import picocolors from 'picocolors';

import type { Need } from './build/toolchain.ts';
import type { Diagnostic, Event, Place } from './model.ts';

export interface TerminalOptions {
  readonly write: (text: string) => void;
  /** May a line be drawn over? False for pipes and files. */
  readonly live: boolean;
  readonly colours: boolean;
  /** In characters; a live line is cut to fit. */
  readonly columns: number;
  /** Paths are shown relative to it. */
  readonly directory: string;
}

export interface Terminal {
  readonly report: (event: Event) => void;
  readonly diagnostic: (value: Diagnostic) => void;
  readonly need: (need: Need) => void;
  /** Takes the live line away. */
  readonly close: () => void;
}

type Patched = Extract<Event, { event: 'patch' }>;
type Progress = Extract<Event, { event: 'progress' }>;

/** Labels end here; what they say begins two columns further. */
const LABEL_WIDTH = 10;
const INDENT = ' '.repeat(LABEL_WIDTH + 2);
const NAMES_SHOWN = 2;
const NAME_LENGTH = 64;

export function openTerminal(options: TerminalOptions): Terminal {
  const colours = picocolors.createColors(options.colours);
  /** Width of the live line on the screen now; 0 when there is none. */
  let drawn = 0;
  /** Programs that a failure leaves alone, and where each is: in pages, or in a process. */
  const running = new Map<string | undefined, 'page' | 'program'>();
  /** Clients that joined. */
  const kinds = new Map<string, keyof typeof LABELS>();
  /** Of several programs, the one that the event is about. */
  let about = '';
  /** Without a live line: which quarter of the build was last printed, and its text. */
  let printed = { quarter: -1, text: '' };

  const wipe = (): void => {
    if (drawn > 0) options.write('\r\x1b[2K');
    drawn = 0;
  };
  const lines = (text: string): void => {
    wipe();
    options.write(`${text}\n`);
  };
  const line = (paint: (text: string) => string, label: string, text: string): void =>
    lines(`${paint(label.padStart(LABEL_WIDTH))}  ${about}${indented(text)}`);
  const draw = (label: string, text: string): void => {
    wipe();
    const room = options.columns - INDENT.length - 1;
    const shown = clipped(text, Math.max(room, 10));
    drawn = INDENT.length + shown.length;
    options.write(`${colours.cyan(label.padStart(LABEL_WIDTH))}  ${shown}`);
  };

  const path = (absolute: string): string => {
    const short = relative(options.directory, absolute);
    return short === '' || short.startsWith('..') ? absolute : short;
  };
  const at = (place: Place): string => `${path(place.path)}:${place.line}:${place.column}`;

  const diagnostic = (value: Diagnostic): void => {
    if (value.rendered !== undefined) {
      const text = value.rendered.replace(/\n+$/, '');
      lines(`${options.colours ? text : stripVTControlCharacters(text)}\n`);
      return;
    }
    const paint = { error: colours.red, warning: colours.yellow, note: colours.cyan }[value.severity];
    const code = value.code === undefined ? '' : `[${value.code}]`;
    line(paint, capitalised(value.severity), `${code}${code === '' ? '' : ' '}${value.text}`);
    if (value.place !== undefined) lines(`${INDENT}${colours.dim(at(value.place))}`);
    for (const note of value.notes ?? []) lines(`${INDENT}${indented(note)}`);
    if (value.hint !== undefined) lines(`${INDENT}${indented(value.hint)}`);
  };

  const need = ({ name, found, missing }: Need): void => {
    if (missing === undefined) return line(colours.green, 'Found', `${name}${colours.dim(` (${found ?? 'ready'})`)}`);
    line(colours.red, 'Missing', `${name}: ${missing.why}`);
    return lines(`${INDENT}${missing.fix}`);
  };

  const progress = (event: Progress): void => {
    const { text, done, total } = event;
    const known = done !== undefined && total !== undefined && total > 0;
    const shown = known ? `${done}/${total} ${text}` : text;
    if (options.live) return draw('Building', shown);
    // A log has no use for every crate: a line per quarter of the build, and one per text that is not counted.
    const quarter = known ? Math.floor((4 * done) / total) : -1;
    if (known ? quarter === printed.quarter : text === printed.text) return;
    printed = { quarter, text };
    line(colours.cyan, 'Building', shown);
  };

  const patch = (event: Patched): void => {
    const { rustcMs, linkMs, applyMs } = event;
    const split = colours.dim(
      `(rustc ${milliseconds(rustcMs)}, link ${milliseconds(linkMs)}, apply ${milliseconds(applyMs)})`,
    );
    const parts = [
      names(event.functions),
      bytes(event.bytes),
      `${duration(event.totalMs)} ${split}`,
      ...(running.get(event.program) === 'program' ? [] : [clientsOf(event)]),
    ];
    line(colours.green, `Patch ${event.version}`, parts.join(colours.dim(' · ')));
    event.warnings.forEach(diagnostic);
  };

  const report = (event: Event): void => {
    if (event.event !== 'progress') printed = { quarter: -1, text: '' };
    about = event.program === undefined || event.event === 'exit' ? '' : colours.dim(`${event.program}: `);
    switch (event.event) {
      case 'ready':
        running.set(event.program, event.url === undefined ? 'program' : 'page');
        line(colours.green, 'Ready', `in ${duration(event.ms)}`);
        return event.url === undefined ? undefined : lines(`${INDENT}${colours.bold(event.url)}\n`);
      case 'change': {
        const text = event.paths.map(path).join(', ');
        return options.live ? draw('Building', text) : line(colours.cyan, 'Changed', text);
      }
      case 'progress':
        return progress(event);
      case 'patch':
        return patch(event);
      case 'unchanged':
        line(colours.dim, 'Unchanged', `the running code is the same (rustc ${milliseconds(event.rustcMs)} ms)`);
        return event.warnings.forEach(diagnostic);
      case 'refused':
        line(colours.yellow, 'Refused', event.reason);
        if (event.place !== undefined) lines(`${INDENT}${colours.dim(at(event.place))}`);
        return lines(`${INDENT}${REMEDY[event.remedy]}`);
      case 'failed': {
        event.diagnostics.forEach(diagnostic);
        const errors = event.diagnostics.filter((value) => value.severity === 'error').length;
        const place = running.get(event.program);
        const rest = place ? `the ${place} goes on with the code it has` : 'waiting for an edit that mends it';
        return line(colours.red, 'Failed', `${counted(errors, 'error')}; ${rest}`);
      }
      case 'reload':
        return line(colours.yellow, 'Reload', `${event.reason}; pages start again at version ${event.version}`);
      case 'restart': {
        const sockets = event.handedOver ? '; its listening sockets stayed open' : '';
        return line(
          colours.yellow,
          'Restart',
          `${event.reason}; the program starts again at version ${event.version}${sockets}`,
        );
      }
      case 'exit': {
        const how = event.signal ?? `status ${event.status}`;
        const paint = event.status === 0 ? colours.dim : colours.red;
        return line(paint, 'Exit', `${event.program} ended at version ${event.version}: ${how}`);
      }
      case 'threads':
        return line(colours.dim, 'Threads', colours.dim(threadsOf(event)));
      case 'undo':
        return line(colours.yellow, `Undo ${event.version}`, event.reason);
      case 'client':
        kinds.set(event.client, event.kind);
        return line(
          colours.dim,
          LABELS[event.kind],
          colours.dim(`${event.client} ${event.state} at version ${event.version}`),
        );
      case 'log': {
        const paint = { error: colours.red, warn: colours.yellow, info: colours.dim }[event.level];
        const label = event.client === undefined ? 'Note' : LABELS[kinds.get(event.client) ?? 'page'];
        return line(paint, label, printable(event.text));
      }
      default:
        return unknown(event);
    }
  };

  return { report, diagnostic, need, close: wipe };
}

function threadsOf({ workers, behind, failed = 0, ms }: Extract<Event, { event: 'threads' }>): string {
  const parts = [`main + ${counted(workers, 'worker')}`];
  if (behind > 0) parts.push(`${behind} not yet called`);
  else if (failed === 0) parts.push(`all within ${milliseconds(ms)} ms`);
  if (failed > 0) parts.push(`${failed} could not take it and ended`);
  return parts.join(', ');
}

const REMEDY = {
  reload: 'The page goes on with the code it has. Reload it to run the new code.',
  restart: 'The program goes on with the code it has. Restart it to run the new code.',
} as const;

const LABELS = { page: 'Page', worker: 'Worker', worklet: 'Worklet' } as const;

function unknown(event: never): never {
  throw new Error(`no line for the event ${JSON.stringify(event)}`);
}

function clientsOf({ clients, workers = 0, worklets = 0 }: Patched): string {
  const kinds = [
    [clients - workers - worklets, 'page'],
    [workers, 'worker'],
    [worklets, 'worklet'],
  ] as const;
  const present = kinds.filter(([count]) => count > 0).map(([count, kind]) => counted(count, kind));
  return present.length === 0 ? 'no page open' : present.join(' + ');
}

/** `counter::label, counter::render +3 more`. */
function names(functions: readonly string[]): string {
  if (functions.length === 0) return 'data only';
  const shown = functions.slice(0, NAMES_SHOWN).map((name) => clipped(name, NAME_LENGTH));
  const rest = functions.length - shown.length;
  return shown.join(', ') + (rest > 0 ? ` +${rest} more` : '');
}

/** One decimal below ten, none above; without the unit. */
function milliseconds(ms: number): string {
  return ms < 9.95 ? ms.toFixed(1) : ms.toFixed(0);
}

export function duration(ms: number): string {
  if (ms < 999.5) return `${milliseconds(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

export function bytes(count: number): string {
  if (count < 1000) return `${count} B`;
  if (count < 999_950) return `${(count / 1000).toFixed(1)} kB`;
  return `${(count / 1_000_000).toFixed(1)} MB`;
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

function capitalised(word: string): string {
  return word.charAt(0).toUpperCase() + word.slice(1);
}

function clipped(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length - 1)}…`;
}

function indented(text: string): string {
  return text.replaceAll('\n', `\n${INDENT}`);
}

/** What a page logs is anyone's text: it may not move the cursor or recolour the terminal. */
function printable(text: string): string {
  return stripVTControlCharacters(text)
    .replace(/[^\P{Cc}\n\t]/gu, '')
    .trimEnd();
}
