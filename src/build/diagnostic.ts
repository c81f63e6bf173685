// In: what rustc and cargo say (JSON messages, text on stderr). Out: `Diagnostic`s, and the error that carries them.

import { resolve } from 'node:path';
import type { Diagnostic, Place } from '../model.ts';

/** A user's mistake, thrown where no `BuildFailure` can be returned. It is printed without a stack. */
export class DiagnosticError extends Error {
  readonly diagnostics: readonly Diagnostic[];

  constructor(...diagnostics: Diagnostic[]) {
    super(diagnostics.map((each) => (each.hint ? `${each.text}\n${each.hint}` : each.text)).join('\n'));
    this.name = 'DiagnosticError';
    this.diagnostics = diagnostics;
  }
}

/** A compiler message as `--error-format=json` prints it; only the members that are read here. */
export interface RustcMessage {
  readonly message: string;
  readonly code: { readonly code: string } | null;
  readonly level: string;
  readonly spans: readonly RustcSpan[];
  readonly children: readonly RustcMessage[];
  readonly rendered: string | null;
}

interface RustcSpan {
  readonly file_name: string;
  readonly line_start: number;
  readonly column_start: number;
  readonly is_primary: boolean;
  readonly text: readonly { readonly text: string }[];
  /** Where a macro was called whose expansion the span lies in. */
  readonly expansion: { readonly span: RustcSpan } | null;
}

/** Says where a path that rustc printed lies; rustc prints them relative to the folder it ran in. */
type Locate = (path: string) => string;

export function readDiagnostic(message: RustcMessage, locate: Locate): Diagnostic {
  const primary = message.spans.find((span) => span.is_primary);
  const help = message.children.find((child) => child.level === 'help');
  const notes = message.children.filter((child) => child.level === 'note').map((child) => child.message);
  return {
    severity: severityOf(message.level),
    text: message.message,
    ...(message.code && { code: message.code.code }),
    ...(primary && { place: placeOf(primary, locate) }),
    ...(notes.length > 0 && { notes }),
    ...(help && { hint: help.message }),
    ...(message.rendered !== null && { rendered: message.rendered }),
  };
}

/** "aborting due to 2 previous errors" and "1 warning emitted" say nothing that the messages before did not. */
export function isSummary(message: RustcMessage): boolean {
  return (
    message.spans.length === 0 &&
    (message.message.startsWith('aborting due to ') ||
      /^\d+ warnings? emitted$/.test(message.message) ||
      /^(For more information about|Some errors have detailed)/.test(message.message))
  );
}

/**
 * Paths of files that the messages are about, or that they miss, as rustc writes them: once they change, the messages
 * may. rustc does not always come to writing down what it read.
 */
export function filesNamed(diagnostics: readonly Diagnostic[]): string[] {
  return diagnostics.flatMap(({ text, place, hint = '' }) => [
    ...(place === undefined ? [] : [place.path]),
    ...Array.from(text.matchAll(/^couldn't read `([^`]+)`/g), ([, path = '']) => path),
    ...(hint.startsWith('to create the module')
      ? Array.from(hint.matchAll(/"([^"]+)"/g), ([, path = '']) => path)
      : []),
  ]);
}

/**
 * What cargo says on stderr when it fails before or beside the compiler: a broken manifest, a failed build script. Paths
 * in it are relative to the folder it ran in.
 */
export function readCargoErrors(stderr: string, directory: string): Diagnostic[] {
  const start = stderr.search(/^error/m);
  const text = (start < 0 ? stderr : stderr.slice(start)).trim();
  if (text === '') return [];
  const [first = '', ...rest] = text.split('\n');
  const place = /^\s*--> (.+):(\d+):(\d+)$/m.exec(text);
  return [
    {
      severity: 'error',
      text: first.replace(/^error:\s*/, ''),
      ...(place && {
        place: { path: resolve(directory, place[1] ?? ''), line: Number(place[2]), column: Number(place[3]) },
      }),
      ...(rest.length > 0 && { notes: [rest.join('\n').trim()] }),
      rendered: `${text}\n`,
    },
  ];
}

/** Of another program, with all that it said. */
export function failure(text: string, output: string): DiagnosticError {
  return new DiagnosticError({ severity: 'error', text, notes: [output.trim()], rendered: `${text}\n${output}` });
}

function severityOf(level: string): Diagnostic['severity'] {
  if (level === 'warning') return 'warning';
  return level.startsWith('error') ? 'error' : 'note';
}

function placeOf(span: RustcSpan, locate: Locate): Place {
  // An error inside a macro of another crate is better shown at the line of the user's that called it.
  let outer = span;
  while (outer.expansion && /^(\/rustc\/|<)/.test(outer.file_name)) outer = outer.expansion.span;
  const line = outer.text[0]?.text;
  return {
    path: locate(outer.file_name),
    line: outer.line_start,
    column: outer.column_start,
    ...(line !== undefined && { lineText: line }),
  };
}
