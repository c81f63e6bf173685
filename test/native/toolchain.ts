// Real native programs for the tests: Rust source in; objects as rustc writes them, linked programs, and processes whose
// agent can be spoken to, out.
import { execFile, type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type Message, MessageStream, writeMessage } from '../../src/deliver/agent.ts';
import { readLibraries } from '../../src/deliver/libraries.ts';
import { readArchive } from '../../src/object/archive.ts';
import { objectName } from '../../src/link/map.ts';
import type {
  ArchiveSource,
  Build,
  ElfPatch,
  Executable,
  ObjectSource,
  Rewrite,
  RunningProgram,
} from '../../src/model.ts';

const run = promisify(execFile);
const AGENT = fileURLToPath(new URL('../../crates/agent/src/lib.rs', import.meta.url));

export interface Flavour {
  readonly name: string;
  /** For rustc. */
  readonly flags: readonly string[];
  /** For the linker's driver. */
  readonly link?: readonly string[];
}

/** One crate in a folder of its own, compiled as cargo does it: incrementally, in many codegen units. */
export class Crate {
  readonly folder: string = mkdtempSync(join(tmpdir(), 'hotslot-native-'));
  readonly #flavour: Flavour;
  #runs = 0;
  #arguments: readonly string[] = [];

  constructor(flavour: Flavour) {
    this.#flavour = flavour;
    // Keeps the objects, and links nothing.
    const script = [
      '#!/bin/sh',
      'for argument in "$@"; do',
      '  printf \'%s\\n\' "$argument" >> "$KEEP/arguments"',
      '  case "$argument" in *.o) cp "$argument" "$KEEP/";; esac',
      'done',
    ];
    writeFileSync(join(this.folder, 'cc-keep'), `${script.join('\n')}\n`, { mode: 0o755 });
  }

  /** Compiles the sources as they are now: a program, and a library that it uses if there is one. */
  async compile(program: string, library?: string): Promise<Build> {
    const started = performance.now();
    const keep = join(this.folder, `run${this.#runs++}`);
    mkdirSync(keep);
    const objects: ObjectSource[] = [];
    const use: string[] = [];
    if (library !== undefined) {
      const rlib = join(this.folder, 'liblibrary.rlib');
      await this.#rustc('library', library, ['--crate-type', 'rlib', '--out-dir', this.folder], keep);
      use.push('--extern', `library=${rlib}`);
      for (const { name, bytes } of readArchive(readFileSync(rlib), rlib).members) {
        if (!name.endsWith('.rcgu.o')) continue;
        writeFileSync(join(keep, name), bytes);
        objects.push(objectSource(join(keep, name)));
      }
    }
    await this.#rustc('app', program, ['-o', join(this.folder, 'app'), ...use], keep);
    const linker = readFileSync(join(keep, 'arguments'), 'utf8').trimEnd().split('\n');
    const own = readdirSync(keep).filter((file) => file.startsWith('app.') && file.endsWith('.rcgu.o'));
    objects.push(...own.map((file) => objectSource(join(keep, file))));
    // The library's members are linked one by one.
    const members = readdirSync(keep).filter((file) => file.startsWith('library') && file.endsWith('.o'));
    this.#arguments = linker.flatMap((argument) =>
      argument.endsWith('liblibrary.rlib') ? members.map((member) => join(keep, member)) : [argument],
    );
    const archives = this.#arguments.filter((argument) => argument.endsWith('.rlib'));
    return {
      kind: 'built',
      objects,
      archives: archives.map(archiveSource),
      rustcMs: performance.now() - started,
    };
  }

  async #rustc(name: string, source: string, options: readonly string[], keep: string): Promise<void> {
    const file = join(this.folder, `${name}.rs`);
    writeFileSync(file, source);
    const profile = ['debuginfo=2', 'lto=off', 'symbol-mangling-version=v0', 'link-arg=-Wl,--no-gc-sections'];
    const own = [`linker=${join(this.folder, 'cc-keep')}`, `incremental=${join(this.folder, `incremental-${name}`)}`];
    const codegen = [...profile, ...own].flatMap((option) => ['-C', option]);
    const flags = ['--edition', '2024', '--crate-name', name, ...options, ...codegen, ...this.#flavour.flags, file];
    await run('rustc', flags, { env: { ...process.env, KEEP: keep } });
  }

  /** Links the last build with the system's linker, with what the rewrite puts in the objects' place. */
  async link(rewrite: Rewrite): Promise<Executable> {
    const path = join(this.folder, `program${this.#runs}`);
    const files = join(this.folder, `objects${this.#runs}`);
    mkdirSync(files, { recursive: true });
    const write = (name: string, bytes: Uint8Array): string => {
      writeFileSync(join(files, name), bytes);
      return join(files, name);
    };
    const keep = join(this.folder, `run${this.#runs - 1}`);
    const given = this.#arguments.map((argument, index) => {
      if (this.#arguments[index - 1] === '-o') return path;
      if (!argument.endsWith('.o')) return argument;
      const parts = rewrite.objects.get(objectName(argument));
      return parts === undefined ? join(keep, basename(argument)) : write(basename(argument), Buffer.concat(parts));
    });
    const added = [...rewrite.added].map(([name, bytes]) => write(name, bytes));
    await run('cc', [...given, ...added, await agentObject(), ...(this.#flavour.link ?? [])]);
    return { path, bytes: () => readFileSync(path) };
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function objectSource(path: string): ObjectSource {
  const bytes = once(() => readFileSync(path));
  return {
    name: objectName(basename(path)),
    stamp: createHash('sha1').update(bytes()).digest('hex'),
    bytes,
  };
}

function archiveSource(path: string): ArchiveSource {
  const whole = once(() => readFileSync(path));
  const bytes = (start = 0, sizeBytes?: number): Uint8Array =>
    whole().subarray(start, sizeBytes === undefined ? undefined : start + sizeBytes);
  return { path, stamp: () => '', bytes };
}

function once<T>(make: () => T): () => T {
  let known: T | undefined;
  return () => (known ??= make());
}

let agentMade: Promise<string> | undefined;

/** The agent as hotslot compiles it, once for all tests. */
function agentObject(): Promise<string> {
  agentMade ??= (async () => {
    const sources = readdirSync(dirname(AGENT)).map((file) => readFileSync(join(dirname(AGENT), file)));
    const hash = createHash('sha1');
    for (const source of sources) hash.update(source);
    const path = join(tmpdir(), `hotslot-agent-${hash.digest('hex').slice(0, 16)}.o`);
    if (existsSync(path)) return path;
    const kind = ['--edition', '2024', '--crate-type', 'lib', '--emit', 'obj', '--crate-name', 'hotslot_agent'];
    const options = ['panic=abort', 'opt-level=2', 'codegen-units=1'].flatMap((option) => ['-C', option]);
    await run('rustc', [...kind, ...options, '-o', path, AGENT]);
    return path;
  })();
  return agentMade;
}

/** A running program: a line in, a line out; and its agent. */
export class RunningProcess {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #server: Server;
  readonly #folder: string;
  readonly #agent: Agent;
  readonly program: RunningProgram;

  private constructor(child: ChildProcess, server: Server, folder: string, agent: Agent) {
    this.#child = child;
    if (child.stdout === null) throw new Error('no output to read');
    this.#lines = createInterface(child.stdout)[Symbol.asyncIterator]();
    this.#server = server;
    this.#folder = folder;
    this.#agent = agent;
    this.program = agent.program;
  }

  static async start(executable: Executable): Promise<RunningProcess> {
    const folder = mkdtempSync(join(tmpdir(), 'hotslot-run-'));
    const server = createServer();
    const socket = join(folder, 'agent');
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    const connected = new Promise<Socket>((resolve) => server.once('connection', resolve));
    const env = { ...process.env, HOTSLOT_SOCKET: socket, RUST_BACKTRACE: '0' };
    const child = spawn(executable.path, { stdio: ['pipe', 'pipe', 'inherit'], env });
    const ended = new Promise<never>((_, reject) => {
      child.once('error', reject);
      child.once('exit', (code, signal) => reject(new Error(`the program ended with ${code ?? signal}`)));
    });
    ended.catch(() => undefined);
    const connection = await Agent.greet(await Promise.race([connected, ended]), executable.path);
    return new RunningProcess(child, server, folder, connection);
  }

  async ask(line: string): Promise<string> {
    this.#child.stdin?.write(`${line}\n`);
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error(`the program ended at \`${line}\``);
    return value;
  }

  /** Throws what the agent said against it. */
  async apply(patch: ElfPatch): Promise<number> {
    const nanoseconds = await this.#agent.patch(patch, join(this.#folder, `symbols-${patch.version}`));
    await this.#agent.finish('commit', patch.version);
    return nanoseconds;
  }

  /** Applies a patch and takes it back. */
  async undo(patch: ElfPatch): Promise<void> {
    await this.#agent.patch(patch, join(this.#folder, `symbols-${patch.version}-undone`));
    await this.#agent.finish('undo', patch.version);
  }

  async close(): Promise<void> {
    const exited = new Promise((resolve) => this.#child.once('exit', resolve));
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill('SIGKILL');
      await exited;
    }
    this.#agent.close();
    await new Promise((resolve) => this.#server.close(resolve));
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** The other end of an agent's socket. */
class Agent {
  readonly #socket: Socket;
  readonly #messages: AsyncIterator<Message>;
  readonly program: RunningProgram;

  private constructor(socket: Socket, messages: AsyncIterator<Message>, program: RunningProgram) {
    this.#socket = socket;
    this.#messages = messages;
    this.program = program;
  }

  static async greet(socket: Socket, path: string): Promise<Agent> {
    const messages = received(socket);
    const { value: hello } = await messages.next();
    if (hello?.kind !== 'hello') throw new Error('no hello');
    const { tlsAddress, tlsSizeBytes, tlsAlignment } = hello;
    const tls = { address: tlsAddress, sizeBytes: tlsSizeBytes, alignment: tlsAlignment };
    return new Agent(socket, messages, { ...hello, tls, libraries: await readLibraries(hello.pid, path) });
  }

  async patch(patch: ElfPatch, symbolFile: string): Promise<number> {
    writeFileSync(symbolFile, patch.symbols);
    return this.#send({ ...patch, kind: 'patch', symbolFile });
  }

  async finish(kind: 'commit' | 'undo', version: number): Promise<void> {
    await this.#send({ kind, version });
  }

  close(): void {
    this.#socket.destroy();
  }

  async #send(message: Message): Promise<number> {
    this.#socket.write(writeMessage(message));
    const { value: receipt } = await this.#messages.next();
    if (receipt?.kind !== 'receipt') throw new Error('the agent closed the connection');
    if (!receipt.applied) throw new Error(`the agent refused: ${receipt.reason}`);
    return receipt.nanoseconds;
  }
}

async function* received(socket: Socket): AsyncGenerator<Message, undefined> {
  const stream = new MessageStream();
  for await (const chunk of socket) yield* stream.push(chunk as Buffer);
  return undefined;
}
