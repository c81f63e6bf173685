// A debugger and a program that is patched: it comes in the middle of a call of new code, or is there when the code changes.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Ferry, MAIN, openFerry } from './ferry.ts';

let ferry: Ferry;
let folder: string;
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'hotslot-debugger-'));
  ferry = await openFerry();
});
afterEach(async () => {
  await ferry.close();
  await ferry.server.restore();
  await ferry.server.close();
  rmSync(folder, { recursive: true });
});

/** A gdb that attaches to a process, does these commands and leaves. */
class Debugger {
  output = '';
  readonly #closed: Promise<unknown>;
  readonly #waiting = new Set<() => void>();

  constructor(pid: number, commands: readonly string[]) {
    const all = ['set width 0', 'set style enabled off', 'set confirm off', `attach ${pid}`, ...commands];
    const gdb = spawn('gdb', ['-nx', '-batch', ...all.flatMap((command) => ['-ex', command])], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    gdb.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.output += text;
      for (const look of this.#waiting) look();
    });
    this.#closed = once(gdb, 'close').catch((cause: unknown) => {
      throw new Error('gdb does not start. Get it by: npm run setup -- --tests', { cause });
    });
  }

  /** Resolves when it has written that. */
  async said(wanted: RegExp): Promise<void> {
    const found = new Promise<void>((resolve) => {
      const look = (): void => (wanted.test(this.output) ? resolve() : undefined);
      this.#waiting.add(look);
      look();
    });
    const isFound = await Promise.race([found.then(() => true), this.#closed.then(() => false)]);
    if (!isFound) throw new Error(`gdb never said ${wanted}:\n${this.output}`);
  }

  /** All that it wrote, when it has left. */
  async left(): Promise<string> {
    await this.#closed;
    return this.output;
  }
}

/** `function () at file:line` of each frame that is ours, the innermost first. */
function framesOf(output: string): string[] {
  return Array.from(
    output.matchAll(/^#\d+ +(?:0x[0-9a-f]+ in )?(ferry::\w+ \(\) at \S+)$/gm),
    ([, frame = '']) => frame,
  );
}

function lineOf(text: string): number {
  const source = ferry.server.read(MAIN);
  return source.slice(0, source.indexOf(text)).split('\n').length;
}

test('a debugger that attaches finds names and lines of new code, and the way from it to main', async () => {
  const { pid } = await ferry.ask();
  const gate = join(folder, 'gate');
  execFileSync('mkfifo', [gate]);
  const waiting = `{\n    std::fs::read_to_string(${JSON.stringify(gate)}).unwrap().leak()\n}`;
  expect(await ferry.server.edit(MAIN, '{\n    "bow-0"\n}', waiting)).toMatchObject({ event: 'patch' });
  const asked = ferry.ask();
  // Opened when the other end is: the program is in the new code.
  const other = await open(gate, 'w');
  const commands = ['thread apply all bt', 'select-frame function ferry::bow', 'info symbol $pc'];
  const output = await new Debugger(pid, commands).left();
  await other.write('bow-1');
  await other.close();
  expect(await asked).toMatchObject({ bow: 'bow-1' });
  expect(framesOf(output)).toEqual([
    `ferry::bow () at src/main.rs:${lineOf('std::fs::read_to_string')}`,
    `ferry::line () at src/main.rs:${lineOf('bow(), stern()')}`,
    `ferry::main () at src/main.rs:${lineOf('let _ = stream')}`,
  ]);
  expect(output).toMatch(/^ferry\S*::bow \+ \d+ in section \.text of <in-memory\S+>$/m);
});

test('a debugger that is there hears of new code, and stops in it where it was to stop', async () => {
  const { pid } = await ferry.ask();
  const commands = ['break ferry::stern', 'echo goes on\\n', 'continue', 'info symbol $pc', 'bt', 'delete', 'detach'];
  const gdb = new Debugger(pid, commands);
  await gdb.said(/goes on/);
  for (const number of [1, 2]) {
    const answer = await ferry.server.edit(MAIN, `"stern-${number - 1}"`, `"stern-${number}"`);
    expect(answer).toMatchObject({ event: 'patch' });
  }
  // Whoever asks is answered when the debugger has left.
  ferry.open();
  const output = await gdb.left();
  expect(output).toMatch(/^ferry\S*::stern in section \.text of <in-memory\S+>$/m);
  expect(framesOf(output)).toEqual([
    `ferry::stern () at src/main.rs:${lineOf('"stern-2"') + 1}`,
    `ferry::line () at src/main.rs:${lineOf('bow(), stern()')}`,
    `ferry::main () at src/main.rs:${lineOf('let _ = stream')}`,
  ]);
  expect(ferry.failures).toEqual([]);
});
