#!/usr/bin/env node
// The command line in; a running session, a folder of output or an answer out, and an exit code: 0 done, 1 failed, 2 not
// understood, 128 + signal when stopped.
import { spawn } from 'node:child_process';
import { PassThrough } from 'node:stream';
import { createInterface } from 'node:readline';
import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import picocolors from 'picocolors';

import { DiagnosticError } from './build/diagnostic.ts';
import { inquire, type Inquiry } from './build/inquiry.ts';
import { findPrograms } from './build/package.ts';
import type { Event } from './model.ts';
import { merge, readArguments, readMetadata, type Settings } from './options.ts';
import type { Selection, Session } from './session.ts';
import { openTerminal, type Terminal } from './terminal.ts';

const HOST = '127.0.0.1';
const PORT = 8080;
const OUT_DIR = 'pkg';

const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/** For mistakes and bugs; standard output is for what was asked. */
const errors = terminalOn(process.stderr);

async function main(args: readonly string[]): Promise<number> {
  const command = readArguments(args, ownVersion());
  switch (command.kind) {
    case 'answered':
      return 0;
    case 'mistake':
      process.stderr.write(`${command.usage}\n`);
      errors.diagnostic(command.diagnostic);
      return 2;
    case 'doctor':
      return doctor(command.settings);
    default: {
      // Loaded while cargo and rustc answer: both take a while.
      void import('./session.ts');
      const early = selection(command.settings);
      const inquiry = inquire(early);
      const settings = merge(command.settings, await packageSettings(command.settings, inquiry));
      const chosen = selection(settings);
      const selected = { ...chosen, inquiry: inquire(chosen, { inquiry, options: early }) };
      const found = await programs(selected);
      return command.kind === 'build' ? build(settings, found) : serve(settings, found);
    }
  }
}

/** The one program that is meant, or of a workspace that has one for the web and one for this machine, both. */
async function programs(selected: Selection & { inquiry: Inquiry }): Promise<readonly Selection[]> {
  const found = findPrograms(selected, await selected.inquiry.metadata);
  return found.map(({ name, target }) => ({ ...selected, package: name, target }));
}

/** Returns when a signal says so. */
async function serve(settings: Settings, selections: readonly Selection[]): Promise<number> {
  const terminal = terminalOn(process.stdout);
  const report = settings.json === true ? writeLine : terminal.report;
  const stopped = signalled();
  const { startSession } = await import('./session.ts');
  const keyboard = settings.json === true || !process.stdin.isTTY ? undefined : new PassThrough();
  const sessions: Session[] = [];
  try {
    for (const selected of selections) {
      const { package: program } = selected;
      const several = selections.length > 1 && program !== undefined;
      const starting = startSession({
        ...selected,
        host: settings.host ?? HOST,
        port: settings.port ?? PORT,
        strictPort: settings.port !== undefined,
        args: settings.args ?? [],
        passThrough: settings.json !== true,
        ...(keyboard !== undefined && { input: keyboard }),
        restartOnRefuse: settings.restartOnRefuse ?? false,
        report: several ? (event) => report({ program, ...event }) : report,
      });
      // Stopped while the base is building: there is nothing to close yet, and our end is the children's.
      const session = await Promise.race([starting, stopped]);
      if (typeof session === 'number') return session;
      sessions.push(session);
      if (settings.open === true && session.url !== undefined) openBrowser(session.url, report);
    }
    if (keyboard !== undefined) readKeyboard(keyboard, () => sessions.forEach((session) => void session.restart()));
    const code = await stopped;
    await Promise.all(sessions.map((session) => session.close()));
    return code;
  } finally {
    terminal.close();
  }
}

/** A line `r` is for us: start anew. All others are for the program. */
function readKeyboard(program: PassThrough, restart: () => void): void {
  const lines = createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    if (line === 'r') restart();
    else program.write(`${line}\n`);
  });
  lines.once('close', () => program.end());
}

async function build(settings: Settings, selections: readonly Selection[]): Promise<number> {
  const terminal = terminalOn(process.stdout);
  const outDir = resolve(settings.outDir ?? OUT_DIR);
  const { buildOnce } = await import('./session.ts');
  try {
    const stopped = signalled();
    let code = 0;
    for (const selected of selections) {
      const building = buildOnce({ ...selected, outDir, report: terminal.report });
      code = await Promise.race([building.then(() => 0), stopped]);
      if (code !== 0) break;
    }
    if (code === 0) terminal.report({ event: 'log', level: 'info', text: `written to ${outDir}` });
    return code;
  } finally {
    terminal.close();
  }
}

/** One line per need. Fails when one is not met, so that scripts can ask. */
async function doctor(given: Settings): Promise<number> {
  const terminal = terminalOn(process.stdout);
  const { diagnose, meetNeeds } = await import('./build/toolchain.ts');
  const directory = process.cwd();
  const { fix, threads } = merge(given, await packageSettings(given, inquire({ directory })));
  const options = {
    directory,
    ...(threads !== undefined && { threads }),
    progress: (text: string) => terminal.report({ event: 'progress', text }),
  };
  try {
    const needs = fix === true ? await meetNeeds(options) : await diagnose(options);
    needs.forEach(terminal.need);
    return needs.every((need) => need.missing === undefined) ? 0 : 1;
  } finally {
    terminal.close();
  }
}

function selection(settings: Settings): Selection {
  const { package: name, bin, example, profile, target } = settings;
  return {
    directory: process.cwd(),
    ...(name !== undefined && { package: name }),
    ...(bin !== undefined && { bin }),
    ...(example !== undefined && { example }),
    ...(profile !== undefined && { profile }),
    ...(target !== undefined && { target }),
    features: settings.features ?? [],
    noDefaultFeatures: settings.noDefaultFeatures ?? false,
    allFeatures: settings.allFeatures ?? false,
    release: settings.release ?? false,
    ...(settings.threads !== undefined && { threads: settings.threads }),
  };
}

/**
 * `[package.metadata.hotslot]` of the package that is meant: the named one, or the one in this folder. Where cargo cannot
 * say, nothing: the session meets the same obstacle and explains it.
 */
async function packageSettings(given: Settings, inquiry: Inquiry): Promise<Settings> {
  const metadata = await inquiry.metadata.catch(() => undefined);
  const members = (metadata?.packages ?? []).filter(({ id }) => metadata?.workspace_members.includes(id));
  const found = members.find(({ name, manifest_path }) =>
    given.package === undefined ? dirname(manifest_path) === process.cwd() : name === given.package,
  );
  if (found === undefined) return {};
  const settings = readMetadata(found.metadata?.hotslot, found.manifest_path);
  if ('severity' in settings) throw new DiagnosticError(settings);
  return settings;
}

/** The exit code that the first signal asks for. At the second the process ends at once. */
function signalled(): Promise<number> {
  return new Promise((stop) => {
    for (const [signal, code] of Object.entries(SIGNALS)) {
      process.once(signal, () => {
        process.once(signal, () => process.exit(code));
        stop(code);
      });
    }
  });
}

function openBrowser(url: string, report: (event: Event) => void): void {
  const [program, ...args] = { darwin: ['open'], win32: ['cmd', '/c', 'start', ''] }[process.platform as string] ?? [
    'xdg-open',
  ];
  const child = spawn(program ?? 'xdg-open', [...args, url], { stdio: 'ignore', detached: true });
  child.once('error', (error) =>
    report({ event: 'log', level: 'warn', text: `cannot open a browser (${error.message}); open ${url} yourself` }),
  );
  child.unref();
}

function writeLine(event: Event): void {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

function terminalOn(stream: NodeJS.WriteStream): Terminal {
  const live = stream.isTTY && process.env['TERM'] !== 'dumb' && process.env['CI'] === undefined;
  return openTerminal({
    write: (text) => stream.write(text),
    live,
    colours: stream.isTTY && picocolors.isColorSupported,
    columns: stream.columns ?? 80,
    directory: process.cwd(),
  });
}

function ownVersion(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/** A bug: everything that helps to find it, causes included. */
function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause === undefined ? '' : `\ncaused by ${explain(error.cause)}`;
  return `${error.stack ?? error.message}${cause}`;
}

// Whoever reads our output may stop reading (`hotslot --json | head -1`): then there is no one left to work for.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (error instanceof DiagnosticError) error.diagnostics.forEach(errors.diagnostic);
  else process.stderr.write(`This is a bug in hotslot.\n${explain(error)}\n`);
  process.exitCode = 1;
}
process.exit();
