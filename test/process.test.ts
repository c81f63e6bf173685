// Native programs under hotslot's control, real ones: rustc compiles them, with the agent linked in. Messages of the agent
// as bytes; patches and receipts; how programs end; what a restart keeps; what a killed hotslot leaves.
import { execFileSync, spawn } from 'node:child_process';
import { once, on } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { PassThrough } from 'node:stream';
import { fileURLToPath } from 'node:url';

import * as fc from 'fast-check';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';

import {
  type AgentReceipt,
  type Hello,
  type Message,
  MessageStream,
  type PatchMessage,
  PROTOCOL,
  readMessage,
  writeMessage,
} from '../src/deliver/agent.ts';
import { type Exit, openProcess, type Process, type ProcessOptions } from '../src/deliver/process.ts';
import type { ElfPatch, Event, Executable, RunningProgram } from '../src/model.ts';
import { MalformedError } from '../src/object/bytes.ts';
import { readElfImage } from '../src/object/elfimage.ts';

const AGENT = fileURLToPath(new URL('../crates/agent/', import.meta.url));
const SERVER = fileURLToPath(new URL('fixtures/process/server.rs', import.meta.url));
const PAGE = 4096;

// ------------------------------------------------------------------------------------------------------------ messages

describe('messages', () => {
  const u32 = fc.nat(0xffff_ffff);
  const u64 = fc.maxSafeNat();
  const bytes = fc.uint8Array({ maxLength: 40 });
  const path = fc.string({ unit: 'binary' }).filter((text) => !text.includes('\0'));
  const message: fc.Arbitrary<Message> = fc.oneof(
    fc.record({
      kind: fc.constant('hello' as const),
      protocol: fc.constant(PROTOCOL),
      pid: u32,
      version: u32,
      pending: fc.boolean(),
      bias: u64,
      slotsStart: u64,
      slotsEnd: u64,
      arenaStart: u64,
      arenaEnd: u64,
      moduleSizeBytes: u64,
      symbolBias: u64,
      tlsAddress: u64,
      tlsSizeBytes: u64,
      tlsAlignment: u64,
      poolOffset: fc.maxSafeInteger(),
      poolSizeBytes: u32,
    }),
    fc.record({
      kind: fc.constant('patch' as const),
      version: u32,
      segments: fc.array(
        fc.record({
          address: u64,
          sizeBytes: u64,
          access: fc.constantFrom('read' as const, 'write' as const, 'execute' as const),
          bytes,
        }),
      ),
      writes: fc.array(fc.record({ address: u64, bytes })),
      slots: fc.array(fc.record({ address: u64, value: u64 })),
      unwind: fc.array(fc.record({ ehFrameHdr: u64, textStart: u64, textEnd: u64 })),
      threadLocals: fc.array(fc.record({ offset: u32, bytes })),
      symbolFile: path,
    }),
    fc.record({ kind: fc.constantFrom('commit' as const, 'undo' as const), version: u32 }),
    fc.record({
      kind: fc.constant('receipt' as const),
      answers: fc.constantFrom<AgentReceipt['answers']>('patch', 'commit', 'undo', 'handover', 'describe'),
      version: u32,
      applied: fc.boolean(),
      nanoseconds: u64,
      reason: fc.string({ unit: 'binary' }),
    }),
    fc.record({ kind: fc.constant('handover' as const), version: u32, path, sockets: fc.array(u32) }),
    fc.record({ kind: fc.constant('describe' as const), version: u32, image: bytes }),
  );
  const failure = (read: () => unknown): MalformedError => {
    try {
      read();
    } catch (error) {
      if (error instanceof MalformedError) return error;
      throw error;
    }
    return expect.fail('nothing was thrown');
  };

  test('are read as they were written', () => {
    // On failure fast-check prints the seed.
    const property = fc.property(message, (value) => {
      expect(readMessage(writeMessage(value))).toEqual(value);
    });
    fc.assert(property);
  });

  test('are found in a stream however it is cut', () => {
    const property = fc.property(
      fc.array(message, { maxLength: 4 }),
      fc.infiniteStream(fc.nat(30)),
      (values, sizes) => {
        const whole = Buffer.concat(values.map(writeMessage));
        const stream = new MessageStream();
        const found: Message[] = [];
        for (let start = 0; start < whole.length;) {
          const size = 1 + (sizes.next().value ?? 0);
          found.push(...stream.push(whole.subarray(start, start + size)));
          start += size;
        }
        expect(found).toEqual(values);
      },
    );
    fc.assert(property);
  });

  test('that are cut off, too long or changed fail with what was expected and where', () => {
    const property = fc.property(message, fc.nat(), fc.nat(255), (value, position, byte) => {
      const whole = writeMessage(value);
      const cut = whole.slice(0, position % whole.length);
      const longer = new Uint8Array([...whole, 0]);
      for (const broken of [cut, longer]) expect(failure(() => readMessage(broken)).expected).not.toBe('');
      const changed = whole.slice();
      changed[position % whole.length] = byte;
      try {
        readMessage(changed);
      } catch (error) {
        expect(error).toBeInstanceOf(MalformedError);
      }
    });
    fc.assert(property);
    const commit = writeMessage({ kind: 'commit', version: 7 });
    const kind = commit.slice();
    kind[4] = 99;
    expect(failure(() => readMessage(kind)).message).toBe(
      'message: expected a kind of message, found 99 (at offset 0x4)',
    );
    const list = writeMessage({ kind: 'handover', version: 0, path: '', sockets: [] });
    list.fill(0xff, list.length - 4);
    expect(failure(() => readMessage(list)).message).toMatch(/expected a 32-bit number.*at offset 0x14/);
    const huge = new Uint8Array([0, 0, 0, 0x10]);
    expect(failure(() => new MessageStream().push(huge)).message).toMatch(/at most 67108864 bytes, found 268435456/);
  });

  test('of another protocol are told apart', () => {
    const hello = writeMessage({ ...(fc.sample(message, 200).find(({ kind }) => kind === 'hello') as Message) });
    hello[8] = 77;
    expect(failure(() => readMessage(hello)).message).toBe(
      `message: expected protocol ${PROTOCOL}, found 77 (at offset 0x8)`,
    );
  });

  test('are described in the same words in both ends', () => {
    const table = (file: string, comment: string): string[] => {
      const lines = readFileSync(new URL(file, import.meta.url), 'utf8').split('\n');
      const start = lines.indexOf(`${comment} \`\`\`text`);
      const end = lines.indexOf(`${comment} \`\`\``);
      expect(start).toBeGreaterThan(0);
      return lines.slice(start, end).map((line) => line.slice(comment.length));
    };
    expect(table('../src/deliver/agent.ts', '//')).toEqual(table('../crates/agent/src/wire.rs', '//!'));
  });
});

// ------------------------------------------------------------------------------------------------------------ programs

let folder: string;
/** Answers lines, and has two slots; the agent's own tests use it as well. */
let program: Executable;
/** The same, with a list for debuggers of its own. */
let compiler: Executable;
/** Listens; by `bind` alone, and by LISTEN_FDS. */
let plain: Executable;
let convention: Executable;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'hotslot-test-'));
  const rustc = (...args: string[]): void => {
    try {
      execFileSync(process.env['RUSTC'] ?? 'rustc', ['--edition', '2024', ...args], {
        stdio: ['ignore', 'inherit', 'inherit'],
      });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      throw new Error("there is no rustc: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh", {
        cause: error,
      });
    }
  };
  const agent = join(folder, 'agent.o');
  const flags = ['-C', 'panic=abort', '-C', 'opt-level=2', '-C', 'codegen-units=1', '--crate-name', 'hotslot_agent'];
  rustc('--crate-type', 'lib', '--emit', 'obj', ...flags, '-o', agent, join(AGENT, 'src/lib.rs'));
  const compile = (name: string, source: string, ...args: string[]): Executable => {
    const path = join(folder, name);
    rustc('-C', `link-arg=${agent}`, ...args, '-o', path, source);
    return { path, bytes: () => readFileSync(path) };
  };
  // Programs without stubs need the two symbols around none, for which the linker takes absolute ones.
  const noSlots = ['__hotslot_slots_start', '__hotslot_slots_end'].flatMap((name) => [
    '-C',
    `link-arg=-Wl,--defsym=${name}=0`,
  ]);
  program = compile('program', join(AGENT, 'tests/fixtures/program.rs'));
  const list = join(folder, 'list.o');
  const source = join(AGENT, 'tests/fixtures/compiler.rs');
  rustc('--crate-type', 'lib', '--emit', 'obj', '-C', 'panic=abort', '-o', list, source);
  compiler = compile('compiler', join(AGENT, 'tests/fixtures/program.rs'), '-C', `link-arg=${list}`);
  plain = compile('plain', SERVER, ...noSlots);
  convention = compile('convention', SERVER, '--cfg', 'convention', ...noSlots);
}, 120_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A process under control, with what it reported. */
class Subject {
  readonly events: Event[] = [];
  readonly input = new PassThrough();
  readonly exits: Exit[] = [];
  process!: Process;
  readonly #waiting = new Set<() => void>();
  #read = 0;

  static async open(options: Partial<ProcessOptions> = {}): Promise<Subject> {
    const subject = new Subject();
    subject.process = await openProcess({
      name: 'subject',
      args: [],
      environment: process.env,
      directory: folder,
      passThrough: false,
      input: subject.input,
      note: join(folder, 'notes', 'subject'),
      report: (event) => subject.#note(() => subject.events.push(event)),
      onExit: (exit) => subject.#note(() => subject.exits.push(exit)),
      ...options,
    });
    subjects.push(subject);
    return subject;
  }

  async start(executable: Executable, version = 0): Promise<RunningProgram> {
    const started = await this.process.start(executable, { id: 'base', version });
    if (started.kind !== 'running') expect.fail(JSON.stringify(started));
    return started.program;
  }

  /** The next line that the program writes. */
  async line(): Promise<string> {
    const next = (): string | undefined => {
      const lines = this.events.flatMap((event) =>
        event.event === 'log' && event.level === 'info' && event.client !== undefined ? [event.text] : [],
      );
      return lines[this.#read];
    };
    const line = await this.until(next);
    this.#read += 1;
    return line;
  }

  async ask(question: string): Promise<string> {
    this.input.write(`${question}\n`);
    return this.line();
  }

  async until<T>(look: () => T | undefined): Promise<T> {
    for (;;) {
      const found = look();
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => this.#waiting.add(resolve));
    }
  }

  #note(add: () => void): void {
    add();
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
  }
}

const subjects: Subject[] = [];
afterEach(async () => {
  for (const subject of subjects.splice(0)) await subject.process.close();
});

/** `mov eax, value; ret` on a page of the arena, for the program's first slot. */
function answers(running: RunningProgram, version: number, page: number, value: number): ElfPatch {
  const address = running.arenaStart + page * PAGE;
  const code = Buffer.from([0xb8, 0, 0, 0, 0, 0xc3]);
  code.writeInt32LE(value, 1);
  return {
    kind: 'elf',
    base: 'base',
    version,
    functions: [],
    warnings: [],
    segments: [{ address, sizeBytes: code.length, access: 'execute', bytes: code }],
    writes: [],
    slots: [{ address: running.slotsStart, value: address }],
    unwind: [],
    threadLocals: [],
    symbols: new Uint8Array(0),
  };
}

describe('a program', () => {
  test('takes patches, keeps those that are committed, undoes those that are abandoned', async () => {
    const subject = await Subject.open();
    const running = await subject.start(program, 7);
    expect(await subject.ask('answer')).toBe('1');
    const first = answers(running, 8, 0, 42);
    expect(await subject.process.deliver(first)).toEqual([
      { client: 'subject', version: 8, applied: true, applyMs: expect.any(Number) },
    ]);
    expect(await subject.ask('answer')).toBe('42');
    subject.process.commit(first);
    const second = answers(running, 9, 1, 43);
    const [receipt] = await subject.process.deliver(second);
    expect(receipt?.applied).toBe(true);
    expect(await subject.ask('answer')).toBe('43');
    subject.process.abandon(second, 'a page could not take it');
    const bad = { ...answers(running, 9, 2, 44), slots: [{ address: running.slotsEnd, value: 0 }] };
    expect(await subject.process.deliver(bad)).toEqual([
      { client: 'subject', version: 8, applied: false, reason: `not a slot: 0x${running.slotsEnd.toString(16)}` },
    ]);
    expect(await subject.ask('answer')).toBe('42');
    expect(() => subject.process.commit(bad)).toThrow('version 9 was not applied');
    const third = answers(running, 9, 3, 45);
    await subject.process.deliver(third);
    subject.process.commit(third);
    expect(await subject.ask('answer')).toBe('45');
    await expect(subject.process.deliver(third)).rejects.toThrow('patch makes version 9, the program is at 9');
    await expect(subject.process.deliver({ ...third, base: 'other' })).rejects.toThrow('running is base');
  });

  test('gets symbol files for backtraces, and new thread-locals with what they are at first', async () => {
    const subject = await Subject.open();
    const running = await subject.start(program);
    const patch = answers(running, 1, 0, 0);
    // `mov eax, fs:[place]; ret`
    const code = Buffer.from([0x64, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0xc3]);
    code.writeInt32LE(running.poolOffset + 16, 4);
    const segments = patch.segments.map((segment) => ({ ...segment, sizeBytes: code.length, bytes: code }));
    const threadLocals = [{ offset: 16, bytes: new Uint8Array([0x2b, 2]) }];
    const symbols = new TextEncoder().encode('an ELF file');
    await subject.ask('worker');
    const whole = { ...patch, segments, threadLocals, symbols };
    expect(await subject.process.deliver(whole)).toMatchObject([{ applied: true }]);
    subject.process.commit(whole);
    await subject.ask('worker');
    expect([await subject.ask('answer'), await subject.ask('answers')]).toEqual(['555', '555 555']);

    const home = dirname(socketOf(running.pid));
    const ofRun = (pid: number): string[] => readdirSync(home).filter((file) => file.startsWith(`${pid}-`));
    const files = ofRun(running.pid);
    expect(files.filter((file) => readFileSync(join(home, file), 'utf8') === 'an ELF file')).toHaveLength(2);
    await subject.start(program, 1);
    expect(ofRun(running.pid)).toEqual([]);
  });

  test('that compiles code itself keeps its list for debuggers to itself, which is said once', async () => {
    const subject = await Subject.open();
    const running = await subject.start(compiler);
    for (const version of [1, 2, 3]) {
      const patch = { ...answers(running, version, version, version), image: () => new Uint8Array(version) };
      expect(await subject.process.deliver(patch)).toMatchObject([{ applied: true }]);
      subject.process.commit(patch);
      await subject.until(() => subject.events[0]);
    }
    expect(await subject.line()).toMatch(
      /^debuggers will not know its new code: .* a list for debuggers of its own, at: 0x/,
    );
    expect(await subject.ask('answer')).toBe('3');
  });

  test('is described as it is in memory', async () => {
    const subject = await Subject.open();
    const running = await subject.start(program);
    const image = readElfImage(program.bytes(), program.path);
    expect(running.slotsStart).toBe(running.bias + (image.byName.get('__hotslot_slots_start')?.address ?? 0));
    expect(running.tls).toEqual({
      address: image.tls?.address,
      sizeBytes: image.tls?.sizeBytes,
      alignment: image.tls?.alignment,
    });
    const pool = image.byName.get('__hotslot_tls_pool');
    expect(running.poolOffset).toBe((image.tls?.threadPointerOffset ?? 0) + (pool?.address ?? 0));
    expect(running.poolSizeBytes).toBe(pool?.sizeBytes);
    // What the loader resolved tells where a library is.
    const libc = running.libraries.find(({ path }) => path.includes('libc.so.6'));
    const getpid = readElfImage(libc?.bytes() ?? new Uint8Array(), 'libc').exports.find(
      ({ name }) => name === 'getpid',
    );
    expect(running.libraries.map(({ path }) => path)).not.toContain(program.path);
    const found = await subject.ask('address');
    expect(Number(found)).toBe((libc?.bias ?? 0) + (getpid?.address ?? 0));
    expect(statSync(dirname(socketOf(running.pid))).mode & 0o777).toBe(0o700);
    expect(statSync(socketOf(running.pid)).mode & 0o777).toBe(0o600);
  });

  test('gets arguments, environment, directory and input, and ends as a shell would say', async () => {
    const options = { args: ['-c', 'read line; echo "$0 $1 $GREETING $line $PWD"; echo bad >&2; exit 42', 'a', 'b c'] };
    const subject = await Subject.open({ ...options, environment: { ...process.env, GREETING: 'hi' } });
    subject.input.write('typed\n');
    const exit = await subject.process.start(
      { path: '/bin/sh', bytes: () => new Uint8Array() },
      { id: 'base', version: 3 },
    );
    expect(exit).toEqual({ kind: 'exit', status: 42, version: 3 });
    expect(await subject.line()).toBe(`a b c hi typed ${folder}`);
    await subject.until(() => subject.events.find((event) => event.event === 'log' && event.text === 'bad'));
    expect(subject.events).toContainEqual({ event: 'exit', program: 'subject', status: 42, version: 3 });
    const missing = join(folder, 'missing');
    const absent = await subject.process.start(
      { path: missing, bytes: () => new Uint8Array() },
      { id: 'base', version: 4 },
    );
    expect(absent).toEqual({ kind: 'exit', status: 127, reason: `spawn ${missing} ENOENT`, version: 4 });
    expect(subject.exits).toEqual([]);
  });

  test('that crashes is reported with its version, also while a patch is on its way', async () => {
    const subject = await Subject.open();
    const running = await subject.start(program, 1);
    const first = answers(running, 2, 0, 42);
    await subject.process.deliver(first);
    subject.process.commit(first);
    // Stopped, so that it has the patch and has not answered.
    await stop(running.pid);
    const second = answers(running, 3, 1, 43);
    const receipts = subject.process.deliver(second);
    process.kill(running.pid, 'SIGKILL');
    expect(await receipts).toEqual([{ client: 'subject', version: 2, applied: false, reason: 'it ended: SIGKILL' }]);
    subject.process.abandon(second, 'it ended');
    const exit = await subject.until(() => subject.exits[0]);
    expect(exit).toEqual({ kind: 'exit', status: 137, signal: 'SIGKILL', version: 2 });
    expect(subject.events).toContainEqual({
      event: 'exit',
      program: 'subject',
      status: 137,
      signal: 'SIGKILL',
      version: 2,
    });
    expect(subject.process.program).toBeUndefined();
    const third = answers(running, 3, 2, 44);
    expect(await subject.process.deliver(third)).toMatchObject([{ applied: false, reason: 'it does not run' }]);
    subject.process.abandon(third, 'it does not run');
    // The next build starts it again.
    await subject.start(program, 2);
    expect(await subject.ask('answer')).toBe('1');
  });

  test('whose agent is silent undoes the patch when it wakes up', async () => {
    const subject = await Subject.open({ silenceMs: 200 });
    const running = await subject.start(program);
    await stop(running.pid);
    const first = answers(running, 1, 0, 42);
    expect(await subject.process.deliver(first)).toMatchObject([
      { version: 0, applied: false, reason: 'no answer within 0.2 seconds' },
    ]);
    subject.process.abandon(first, 'silent');
    process.kill(running.pid, 'SIGCONT');
    // It applied what it had received, and undoes it before it takes the next.
    for (let page = 1; ; page += 1) {
      const next = answers(running, 1, page, 43);
      const [receipt] = await subject.process.deliver(next);
      if (receipt?.applied === true) {
        subject.process.commit(next);
        break;
      }
      expect(receipt?.reason).toBe('no answer within 0.2 seconds');
      subject.process.abandon(next, 'silent');
    }
    expect(await subject.ask('answer')).toBe('43');
  });

  test('without an agent runs, and is said to take no patches', async () => {
    const subject = await Subject.open({ args: ['-c', 'read line; exit 3'], silenceMs: 200 });
    const starting = subject.process.start(
      { path: '/bin/sh', bytes: () => new Uint8Array() },
      { id: 'base', version: 0 },
    );
    // It runs already; should hotslot be killed now, the next one finds it.
    const noted = async (): Promise<void> => {
      while (!existsSync(join(folder, 'notes', 'subject'))) await new Promise((resolve) => setImmediate(resolve));
    };
    expect(await Promise.race([noted().then(() => 'noted'), starting])).toBe('noted');
    expect(await starting).toMatchObject({ kind: 'mute', reason: 'its agent said nothing within 0.2 seconds' });
    subject.input.write('go\n');
    expect(await subject.until(() => subject.exits[0])).toEqual({ kind: 'exit', status: 3, version: 0 });
  });

  test('is ended by SIGTERM, or by SIGKILL after a time of grace; nothing is left', async () => {
    const polite = await Subject.open();
    const first = await polite.start(program);
    const home = dirname(socketOf(first.pid));
    expect(await polite.process.close()).toMatchObject({ status: 143, signal: 'SIGTERM' });
    expect(existsSync(home)).toBe(false);
    expect(readdirSync(join(folder, 'notes'))).toEqual([]);
    expect(polite.exits).toEqual([]);
    subjects.splice(0);

    const args = ['-c', 'trap "echo no" TERM; echo ready; while :; do read line; done'];
    const stubborn = await Subject.open({ args, graceMs: 200, silenceMs: 200 });
    const starting = stubborn.process.start(
      { path: '/bin/bash', bytes: () => new Uint8Array() },
      { id: 'base', version: 0 },
    );
    expect(await stubborn.line()).toBe('ready');
    await starting;
    expect(await stubborn.process.close()).toMatchObject({ status: 137, signal: 'SIGKILL' });
    subjects.splice(0);
  });
});

// ------------------------------------------------------------------------------------------------------------- restart

/** Connects again and again, and reads the one line that the server writes: the process that answers. */
class Visitor {
  readonly pids: number[] = [];
  refused = 0;
  /** Connections that ended without a line: whoever had accepted them ended first. */
  unanswered = 0;
  readonly #port: number;
  readonly #done: Promise<void>;
  #isStopped = false;
  #waiting: (() => void)[] = [];

  constructor(port: number) {
    this.#port = port;
    this.#done = this.#visit();
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#done;
  }

  /** The next process that answers and is none of these. */
  async other(...pids: number[]): Promise<number> {
    for (;;) {
      const last = this.pids.at(-1);
      if (last !== undefined && !pids.includes(last)) return last;
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  async #visit(): Promise<void> {
    while (!this.#isStopped) {
      await new Promise<void>((resolve) => {
        const socket = connect(this.#port, '127.0.0.1');
        let text = '';
        let isConnected = false;
        socket.on('connect', () => (isConnected = true));
        socket.on('data', (chunk: Buffer) => (text += chunk.toString()));
        // `close` follows.
        socket.on('error', () => undefined);
        socket.on('close', () => {
          if (!isConnected) this.refused += 1;
          else if (text === '') this.unanswered += 1;
          else this.pids.push(Number(text));
          for (const wake of this.#waiting.splice(0)) wake();
          resolve();
        });
      });
    }
  }
}

/** A port that nobody listens at. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

describe('a restart', () => {
  let address: string;
  let port: number;
  beforeEach(async () => {
    port = await freePort();
    address = join(folder, 'address');
    writeFileSync(address, `127.0.0.1:${port}`);
  });

  test.each([
    ['that only knows bind', (): Executable => plain, false],
    ['that reads LISTEN_FDS', (): Executable => convention, true],
  ])('of a program %s turns no connection away', async (_, executable, inherits) => {
    const subject = await Subject.open({ args: [address] });
    let { pid } = await subject.start(executable());
    expect(await subject.line()).toBe(`127.0.0.1:${port}`);
    const visitor = new Visitor(port);
    expect(await visitor.other()).toBe(pid);
    for (let version = 1; version <= 5; version += 1) {
      const started = await subject.process.start(executable(), { id: 'base', version });
      if (started.kind !== 'running') expect.fail(JSON.stringify(started));
      expect(started.handedOver).toBe(true);
      expect(await visitor.other(pid)).toBe(started.program.pid);
      ({ pid } = started.program);
      if (inherits) expect(await subject.line()).toBe('inherited');
      expect(await subject.line()).toBe(`127.0.0.1:${port}`);
    }
    await visitor.stop();
    expect(visitor.refused).toBe(0);
    // What the old program had accepted already ends with it.
    expect(visitor.unanswered).toBeLessThanOrEqual(5);
    expect(new Set(visitor.pids).size).toBe(6);
    expect(subject.exits).toEqual([]);
  });

  test('of a program that listens elsewhere now is a plain one', async () => {
    const subject = await Subject.open({ args: [address] });
    await subject.start(plain);
    expect(await subject.line()).toBe(`127.0.0.1:${port}`);
    // The kernel takes the old socket for being in the way.
    writeFileSync(address, `0.0.0.0:${port}`);
    await subject.start(plain, 1);
    expect(await subject.line()).toBe(`0.0.0.0:${port}`);
    const visitor = new Visitor(port);
    await visitor.other();
    await visitor.stop();
  });

  test('after a crash has nothing to hand over', async () => {
    const subject = await Subject.open({ args: [address] });
    const { pid } = await subject.start(plain);
    expect(await subject.line()).toBe(`127.0.0.1:${port}`);
    process.kill(pid, 'SIGABRT');
    expect(await subject.until(() => subject.exits[0])).toMatchObject({ status: 134, signal: 'SIGABRT', version: 0 });
    const started = await subject.process.start(plain, { id: 'base', version: 1 });
    expect(started).toMatchObject({ kind: 'running', handedOver: false });
    expect(await subject.line()).toBe(`127.0.0.1:${port}`);
  });

  test('of a program that does not listen is a plain one; patches begin anew', async () => {
    const subject = await Subject.open();
    const running = await subject.start(program);
    const first = answers(running, 1, 0, 42);
    await subject.process.deliver(first);
    subject.process.commit(first);
    const started = await subject.process.start(program, { id: 'base', version: 2 });
    if (started.kind !== 'running') expect.fail(JSON.stringify(started));
    expect(started.handedOver).toBe(false);
    expect(await subject.ask('answer')).toBe('1');
    const next = answers(started.program, 3, 0, 43);
    expect(await subject.process.deliver(next)).toMatchObject([{ version: 3, applied: true }]);
    subject.process.commit(next);
    expect(await subject.ask('answer')).toBe('43');
  });
});

// --------------------------------------------------------------------------------------------------------------- killed

/** Another hotslot, which starts the program on its own terminal, delivers a patch and waits. */
const OTHER = `
  import { readFileSync } from 'node:fs';
  import { openProcess } from '${new URL('../dist/deliver/process.js', import.meta.url).href}';
  const [path, note, directory] = process.argv.slice(1);
  const subject = await openProcess({
    name: 'other', args: [], environment: process.env, directory, passThrough: true, note,
    report: () => undefined, onExit: () => undefined,
  });
  const { program } = await subject.start({ path, bytes: readFileSync(path) }, { id: 'base', version: 0 });
  const [address, code] = [program.arenaStart, Buffer.from([0xb8, 42, 0, 0, 0, 0xc3])];
  await subject.deliver({
    kind: 'elf', base: 'base', version: 1, functions: [], warnings: [],
    segments: [{ address, sizeBytes: code.length, access: 'execute', bytes: code }],
    writes: [], slots: [{ address: program.slotsStart, value: address }], unwind: [], threadLocals: [],
    symbols: new Uint8Array(0),
  });
  console.log('patched');
`;

describe('a hotslot that is killed', () => {
  test('leaves the program running, until the next one starts its own', async () => {
    const note = join(folder, 'notes', 'killed');
    // A shell in between keeps the terminal, so to speak, when the hotslot is gone.
    const script = 'exec 3<&0; "$@" <&3 & echo $!; wait; echo killed; kill -STOP $$';
    const command = [process.execPath, '--input-type=module', '-e', OTHER, program.path, note, folder];
    const shell = spawn('/bin/sh', ['-c', script, 'sh', ...command], { stdio: ['pipe', 'pipe', 'inherit'] });
    onTestFinished(() => void shell.kill('SIGKILL'));
    // The program writes here as well, and outlives the other hotslot.
    const lines = createInterface({ input: shell.stdout })[Symbol.asyncIterator]();
    const next = async (): Promise<string | undefined> => (await lines.next()).value as string | undefined;
    const ask = (question: string): Promise<string | undefined> => {
      shell.stdin.write(`${question}\n`);
      return next();
    };
    const other = Number(await next());
    expect(await next()).toBe('patched');
    expect(await ask('answer')).toBe('42');

    // While its hotslot is there, the program is none of another's business.
    const second = await Subject.open({ note });
    await second.start(program);
    expect(await ask('answer')).toBe('42');

    process.kill(other, 'SIGKILL');
    expect(await next()).toBe('killed');
    expect(await ask('answer')).toBe('42');
    const pid = Number(await ask('pid'));
    const home = dirname(socketOf(pid));

    const third = await Subject.open({ note });
    // It goes on for as long as there is no other to take its place.
    expect(await ask('answer')).toBe('42');
    await third.start(program);
    // Whoever inherits orphans may take its time to look at how they ended.
    expect(existsSync(`/proc/${pid}`) ? states(pid) : ['Z']).toEqual(['Z']);
    expect(existsSync(home)).toBe(false);
    const text = `ended process ${pid}, which ran on after its hotslot was killed`;
    expect(third.events).toContainEqual({ event: 'log', level: 'info', text });
    expect(await third.ask('answer')).toBe('1');
    expect(await second.ask('answer')).toBe('1');
  });
});

// ------------------------------------------------------------------------------------------- killed, or cut off, anywhere

/** What a patch for `program` sets: both slots, data that is writable and data that is not. Its `attempt`s do not overlap. */
function changes(
  { slotsStart, arenaStart }: Pick<RunningProgram, 'slotsStart' | 'arenaStart'>,
  places: readonly number[],
  value: number,
  attempt: number,
): Omit<PatchMessage, 'kind' | 'version' | 'symbolFile'> {
  const address = arenaStart + 2 * attempt * PAGE;
  const code = Buffer.from([0xb8, 0, 0, 0, 0, 0xc3]);
  code.writeInt32LE(value, 1);
  const number = new Uint8Array(new BigUint64Array([BigInt(value)]).buffer);
  const [data = 0, constant = 0] = places;
  return {
    segments: [
      { address, sizeBytes: code.length, access: 'execute', bytes: code },
      { address: address + PAGE, sizeBytes: 64, access: 'write', bytes: number },
    ],
    writes: [data, constant].sort((a, b) => a - b).map((place) => ({ address: place, bytes: number })),
    slots: [slotsStart, slotsStart + 8].map((slot) => ({ address: slot, value: address })),
    unwind: [],
    threadLocals: [{ offset: 16 * attempt, bytes: number }],
  };
}

/** How `program` shows that it has all of such a patch; 0 for none. */
function shows(value: number): string {
  const number = value.toString(16);
  return value === 0 ? '1 1 1111 2222' : `${value} ${value} ${number} ${number}`;
}

async function shown(ask: (question: string) => Promise<string>): Promise<string> {
  const [answer, through, data] = [await ask('answer'), await ask('through'), await ask('data')];
  return `${answer} ${through} ${data.split(' ').slice(0, 2).join(' ')}`;
}

/** Runs the work on all items, so many at once: most of the time each waits for an agent to connect again. */
async function eachOf<T>(items: readonly T[], atOnce: number, work: (item: T) => Promise<void>): Promise<void> {
  const queue = items.values();
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      for (const item of queue) await work(item);
    }),
  );
}

async function* messagesOn(socket: Socket): AsyncGenerator<Message, undefined> {
  const stream = new MessageStream();
  for await (const chunk of socket) yield* stream.push(chunk as Buffer);
}

/** Resolves when the bytes are the other end's to read, and the connection is closed, as when its process is killed. */
function sendLast(socket: Socket, bytes: Uint8Array): Promise<unknown> {
  const closed = once(socket, 'close');
  socket.write(bytes, () => socket.destroy());
  return closed;
}

/** A program that has its agent's socket from us, and how it is asked. */
async function startAlone(path: string): Promise<{ ask: (question: string) => Promise<string>; end: () => void }> {
  const environment = { ...process.env, HOTSLOT_SOCKET: path };
  const child = spawn(program.path, [], { env: environment, stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ask = async (question: string): Promise<string> => {
    child.stdin.write(`${question}\n`);
    return String((await lines.next()).value);
  };
  return { ask, end: () => void child.kill('SIGKILL') };
}

describe('a patch that is cut off', () => {
  test('after any byte leaves the program whole, and whoever comes back can go on', async () => {
    /** Of a patch and its commit; one more for each program that was tried. */
    let cuts = 1;
    const seen = new Set<string>();
    const cutAt = async (cut: number): Promise<void> => {
      const path = join(folder, `agent-${cut}`);
      const listener = createServer().listen(path);
      const connections = on(listener, 'connection') as AsyncIterableIterator<[Socket]>;
      const accept = async (): Promise<{ hello: Hello; socket: Socket; next: () => Promise<Message | undefined> }> => {
        const [socket] = (await connections.next()).value as [Socket];
        const messages = messagesOn(socket);
        const next = async (): Promise<Message | undefined> => (await messages.next()).value;
        return { hello: (await next()) as Hello, socket, next };
      };
      await once(listener, 'listening');
      const { ask, end } = await startAlone(path);
      const first = await accept();
      const places = (await ask('where')).split(' ').map(Number);
      const message = (version: number, value: number, attempt: number): Uint8Array => {
        const fields = changes(first.hello, places, value, attempt);
        return writeMessage({ kind: 'patch', version, ...fields, symbolFile: join(folder, 'symbols') });
      };
      const patch = message(1, 42, 0);
      const commit = writeMessage({ kind: 'commit', version: 1 });
      cuts = patch.length + commit.length + 1;
      expect(await shown(ask)).toBe(shows(0));
      if (cut <= patch.length) {
        await sendLast(first.socket, patch.subarray(0, cut));
      } else {
        first.socket.write(patch);
        expect(await first.next()).toMatchObject({ kind: 'receipt', answers: 'patch', applied: true });
        await sendLast(first.socket, commit.subarray(0, cut - patch.length));
      }
      // Nobody is there now: the program has the patch, or it is about to have it, or it never will.
      expect(cut < patch.length ? ['1'] : cut > patch.length ? ['42'] : ['1', '42']).toContain(await ask('answer'));

      const second = await accept();
      const isApplied = cut >= patch.length;
      const isPending = isApplied && cut < cuts - 1;
      const hello = { ...first.hello, version: Number(isApplied), pending: isPending };
      expect(second.hello, `after ${cut} bytes`).toEqual(hello);
      expect(await shown(ask), `after ${cut} bytes`).toBe(shows(isApplied ? 42 : 0));
      // What it did not hear of is for the one who comes back to say.
      const isKept = isApplied && (!isPending || cut % 2 === 0);
      if (isPending) {
        second.socket.write(writeMessage({ kind: isKept ? 'commit' : 'undo', version: 1 }));
        expect(await second.next()).toMatchObject({ kind: 'receipt', version: 1, applied: true });
        expect(await shown(ask)).toBe(shows(isKept ? 42 : 0));
      }
      // What did not arrive as a whole took no memory: the next patch is at the very same place.
      second.socket.write(message(isKept ? 2 : 1, 43, Number(isApplied)));
      expect(await second.next(), `after ${cut} bytes`).toMatchObject({ answers: 'patch', applied: true });
      second.socket.write(writeMessage({ kind: 'commit', version: isKept ? 2 : 1 }));
      expect(await second.next()).toMatchObject({ answers: 'commit', applied: true });
      expect(await shown(ask)).toBe(shows(43));
      seen.add(`${isApplied} ${isPending} ${isKept}`);
      end();
      second.socket.destroy();
      listener.close();
    };
    await cutAt(0);
    expect(cuts).toBeGreaterThan(200);
    await eachOf(
      Array.from({ length: cuts - 1 }, (_, index) => index + 1),
      24,
      cutAt,
    );
    expect(seen.size).toBe(4);
  });

  test('with a connection that is lost while hotslot goes on is sent again, or known to be applied', async () => {
    const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
    console.log(`SEED=${seed}`);
    const random = fc.sample(fc.nat(10_000), { seed, numRuns: 12 });
    /** Of a patch as it is sent, in bytes. */
    let size = 0;
    const cutAt = async ([end, cut]: readonly [end: 'patch' | 'receipt', cut: number]): Promise<void> => {
      const name = `${end}-${cut}`;
      // Between the two stands a relay, which loses its first connection after so many bytes in one direction.
      const [path, upstream, script] = ['relay', 'upstream', 'script'].map((file) => join(folder, `${file}-${name}`));
      if (path === undefined || upstream === undefined || script === undefined) throw new Error('three names');
      let isFirst = true;
      let greeted = 0;
      const relay = createServer((agent) => {
        const hotslot = connect(readFileSync(upstream, 'utf8').trim());
        const both = [agent, hotslot];
        for (const socket of both) {
          socket.on('error', () => undefined);
          socket.on('close', () => both.forEach((each) => each.destroy()));
        }
        const pass = (from: Socket, to: Socket, room: number): void => {
          let left = room;
          from.on('data', (chunk: Buffer) => {
            if (chunk.length < left) to.write(chunk);
            else void sendLast(to, chunk.subarray(0, left)).then(() => from.destroy());
            left -= chunk.length;
          });
        };
        const loses = isFirst;
        isFirst = false;
        if (!loses) {
          pass(agent, hotslot, Infinity);
          pass(hotslot, agent, Infinity);
          return;
        }
        pass(hotslot, agent, end === 'patch' ? Math.max(cut, 0.5) : Infinity);
        agent.once('data', (hello: Buffer) => {
          greeted = hello.length;
          hotslot.write(hello);
          pass(agent, hotslot, end === 'receipt' ? Math.max(cut, 0.5) : Infinity);
        });
      }).listen(path);
      await once(relay, 'listening');
      writeFileSync(
        script,
        `#!/bin/sh\necho "$HOTSLOT_SOCKET" >${upstream}\nHOTSLOT_SOCKET=${path} exec ${program.path}\n`,
      );
      chmodSync(script, 0o755);
      const subject = await Subject.open({ note: join(folder, 'notes', name), silenceMs: 60_000 });
      const running = await subject.start({ path: script, bytes: program.bytes });
      expect(greeted).toBeGreaterThan(0);
      const ask = (question: string): Promise<string> => subject.ask(question);
      const places = (await ask('where')).split(' ').map(Number);
      const take = async (version: number, attempt: number, isKept: boolean): Promise<void> => {
        const value = 40 + attempt;
        const head = { kind: 'elf', base: 'base', version, functions: [], warnings: [] } as const;
        const patch = { ...head, ...changes(running, places, value, attempt), symbols: new Uint8Array(0) };
        size = writeMessage({ ...patch, kind: 'patch', symbolFile: '' }).length;
        const receipts = await subject.process.deliver(patch);
        expect(receipts, name).toEqual([{ client: 'subject', version, applied: true, applyMs: expect.any(Number) }]);
        expect(await shown(ask), name).toBe(shows(value));
        if (isKept) subject.process.commit(patch);
        else subject.process.abandon(patch, 'on purpose');
      };
      await take(1, 0, true);
      await take(2, 1, false);
      await take(2, 2, true);
      await take(3, 3, true);
      expect(isFirst).toBe(false);
      expect(subject.events.filter(({ event }) => event !== 'log')).toEqual([]);
      await subject.process.close();
      relay.close();
    };
    await cutAt(['patch', 1]);
    // On the first connection, if it lasts that long, are three patches, each with its verdict.
    const step = size + 12;
    const places = [4, 8, 12, 13, size - 1, size, size + 1, step - 1, step, step + 1];
    const later = [step + size - 1, step + size, step + size + 3, 2 * step, 2 * step + 1, 3 * step - 1];
    const patches = [...places, ...later, ...random.map((number) => 2 + (number % (3 * step)))];
    // 33 bytes each.
    const receipts = [1, 4, 8, 32, 33, 34, 65, 66, 67, 98, 99, 100];
    const cuts = [
      ...patches.map((cut) => ['patch', cut] as const),
      ...receipts.map((cut) => ['receipt', cut] as const),
    ];
    await eachOf([...new Map(cuts.map((each) => [each.join('-'), each])).values()], 16, cutAt);
    subjects.splice(0);
  });
});

/** Of each thread, e.g. `S` for sleeping, `T` for stopped, `Z` for one that has ended. */
function states(pid: number): string[] {
  return readdirSync(`/proc/${pid}/task`).map((thread) => {
    const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8');
    return stat.charAt(stat.lastIndexOf(')') + 2);
  });
}

/** Resolves when every thread has stopped, which the kernel does one by one. */
async function stop(pid: number): Promise<void> {
  process.kill(pid, 'SIGSTOP');
  while (states(pid).some((state) => state !== 'T')) await new Promise((resolve) => setImmediate(resolve));
}

/** Where the program's agent connects to. */
function socketOf(pid: number): string {
  const [, path = ''] = /(?:^|\0)HOTSLOT_SOCKET=([^\0]*)/.exec(readFileSync(`/proc/${pid}/environ`, 'latin1')) ?? [];
  return path;
}
