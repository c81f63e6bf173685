// Bytes on the agent's socket ↔ messages. The table below stands in both ends, here and in crates/agent/src/wire.rs, word
// for word.
//
// ```text
// hotslot's agent protocol 3. Numbers are little-endian and not aligned. A message is
//   u32 length of all that follows, u32 kind, fields
// text and bytes are a u32 length and then so many bytes; [fields] is a u32 count and then so many times the fields.
//
//  kind        from     fields
//  1 hello     agent    u32 protocol, u32 pid, u32 version, u32 pending,
//                       u64 bias, u64 slotsStart, u64 slotsEnd, u64 arenaStart, u64 arenaEnd, u64 moduleSize, u64 symbolBias,
//                       u64 tlsAddress, u64 tlsSize, u64 tlsAlignment, i64 poolOffset, u32 poolSize
//  2 patch     hotslot  u32 version,
//                       segments [u64 address, u64 size, u32 protection, bytes],
//                       writes   [u64 address, bytes],
//                       slots    [u64 address, u64 value],
//                       unwind   [u64 ehFrameHdr, u64 textStart, u64 textEnd],
//                       tls      [u32 poolOffset, bytes],
//                       text symbolFile
//  3 commit    hotslot  u32 version
//  4 undo      hotslot  u32 version
//  5 receipt   agent    u32 answers, u32 version, u32 applied, u64 nanoseconds, text reason
//  6 handover  hotslot  u32 version, text path, sockets [u32 descriptor]
//  7 describe  hotslot  u32 version, bytes image
//
// hello      is the first message of every connection. version: the last patch that was applied, 0 for none. pending: 1
//            when that patch waits for commit or undo. bias: added to addresses in the program's file. moduleSize:
//            backtraces find names in one file per so many bytes of the arena. symbolBias: added to addresses in that
//            file. tls…: the PT_TLS header. poolOffset: of the pool for new thread-locals (zeros at first) from the
//            thread pointer.
// patch      version: the last one + 1. segments: new memory, whole free pages of the arena from address on; size in
//            memory, zeros after the bytes; protection 1 R, 2 RW, 3 RX. writes: over data of the program that is no slot,
//            or over R and RW memory of earlier patches. slots: over the program's slots or RW memory of earlier
//            patches; a value is an address of code. unwind: .eh_frame_hdr in an R segment for text in an RX segment.
//            The first three are sorted by address and do not overlap. tls: what new thread-locals are at first, in
//            threads there are and in threads to come; sorted by their place in the pool, beyond those of all earlier
//            patches, undone ones included. symbolFile: the path of an ELF file with the symbols and lines of the
//            segments, a NUL at its end; empty for none.
// commit     the patch stays. undo: slots, writes and what threads to come begin with go back to what they were; the
//            segments stay mapped, as threads may still run in them. Either one is due before the next patch.
// handover   to the program's last agent, before a new one starts: listen at path (a NUL at its end) and give whoever
//            connects first, within ten seconds, those of the sockets that listen for TCP connections; then keep that
//            connection open for as long as the program lives. version: the program's.
// describe   a patch to debuggers, once it is committed, and in order. image: an ELF file with its symbols, lines and unwind
//            tables, at their addresses in the process. Twice is once.
// receipt    answers one patch, commit, undo, handover or describe (its kind and version). applied 1: done, in so many
//            nanoseconds; 0: nothing was changed, for this reason.
// A message that is longer than 64 MiB, has another kind or does not end where its fields end closes the connection.
// ```

import type { ElfPatch, ElfSegment } from '../model.ts';
import { encodeUtf8, Reader, Writer } from '../object/bytes.ts';

export const PROTOCOL = 3;
const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;

export type Message = Hello | PatchMessage | Verdict | AgentReceipt | Handover | Description;

/** Addresses are those of the running program. */
export interface Hello {
  readonly kind: 'hello';
  readonly protocol: number;
  readonly pid: number;
  readonly version: number;
  readonly pending: boolean;
  readonly bias: number;
  readonly slotsStart: number;
  readonly slotsEnd: number;
  readonly arenaStart: number;
  readonly arenaEnd: number;
  readonly moduleSizeBytes: number;
  readonly symbolBias: number;
  readonly tlsAddress: number;
  readonly tlsSizeBytes: number;
  readonly tlsAlignment: number;
  readonly poolOffset: number;
  readonly poolSizeBytes: number;
}

export interface PatchMessage extends Pick<
  ElfPatch,
  'segments' | 'writes' | 'slots' | 'unwind' | 'threadLocals' | 'version'
> {
  readonly kind: 'patch';
  /** A path; empty for none. */
  readonly symbolFile: string;
}

interface Verdict {
  readonly kind: 'commit' | 'undo';
  readonly version: number;
}

export interface AgentReceipt {
  readonly kind: 'receipt';
  /** The kind of message that it answers. */
  readonly answers: Exclude<Message['kind'], 'hello' | 'receipt'>;
  readonly version: number;
  readonly applied: boolean;
  readonly nanoseconds: number;
  /** Empty when it was done. */
  readonly reason: string;
}

interface Handover {
  readonly kind: 'handover';
  readonly version: number;
  readonly path: string;
  /** File descriptors in the program. */
  readonly sockets: readonly number[];
}

export interface Description {
  readonly kind: 'describe';
  readonly version: number;
  readonly image: Uint8Array;
}

const KINDS = { hello: 1, patch: 2, commit: 3, undo: 4, receipt: 5, handover: 6, describe: 7 } as const;
const NAMES: ReadonlyMap<number, Message['kind']> = new Map(
  Object.entries(KINDS).map(([name, kind]) => [kind, name as Message['kind']]),
);
const ACCESS = { read: 1, write: 2, execute: 3 } as const;
const ACCESS_NAMES: ReadonlyMap<number, ElfSegment['access']> = new Map(
  Object.entries(ACCESS).map(([name, access]) => [access, name as ElfSegment['access']]),
);

// ------------------------------------------------------------------------------------------------------------- write

/** The bytes to send, their length in front. */
export function writeMessage(message: Message): Uint8Array {
  const fields = new Fields();
  fields.u32(KINDS[message.kind]);
  switch (message.kind) {
    case 'hello':
      fields.u32(message.protocol);
      fields.u32(message.pid);
      fields.u32(message.version);
      fields.u32(Number(message.pending));
      for (const field of HELLO_NUMBERS) fields.u64(message[field]);
      fields.u32(message.poolSizeBytes);
      break;
    case 'patch':
      fields.u32(message.version);
      fields.list(message.segments, ({ address, sizeBytes, access, bytes }) => {
        fields.u64(address);
        fields.u64(sizeBytes);
        fields.u32(ACCESS[access]);
        fields.sized(bytes);
      });
      fields.list(message.writes, ({ address, bytes }) => {
        fields.u64(address);
        fields.sized(bytes);
      });
      fields.list(message.slots, ({ address, value }) => {
        fields.u64(address);
        fields.u64(value);
      });
      fields.list(message.unwind, ({ ehFrameHdr, textStart, textEnd }) => {
        fields.u64(ehFrameHdr);
        fields.u64(textStart);
        fields.u64(textEnd);
      });
      fields.list(message.threadLocals, ({ offset, bytes }) => {
        fields.u32(offset);
        fields.sized(bytes);
      });
      fields.path(message.symbolFile);
      break;
    case 'commit':
    case 'undo':
      fields.u32(message.version);
      break;
    case 'receipt':
      fields.u32(KINDS[message.answers]);
      fields.u32(message.version);
      fields.u32(Number(message.applied));
      fields.u64(message.nanoseconds);
      fields.sized(encodeUtf8(message.reason));
      break;
    case 'handover':
      fields.u32(message.version);
      fields.path(message.path);
      fields.list(message.sockets, (descriptor) => fields.u32(descriptor));
      break;
    case 'describe':
      fields.u32(message.version);
      fields.sized(message.image);
      break;
  }
  return fields.finish();
}

class Fields {
  readonly #writer = new Writer(1024);

  constructor() {
    // The length, once it is known.
    this.#writer.u32le(0);
  }

  u32(value: number): void {
    this.#writer.u32le(value);
  }

  /** Negative numbers in two's complement. */
  u64(value: number): void {
    this.#writer.u64le(BigInt.asUintN(64, BigInt(value)));
  }

  sized(bytes: Uint8Array): void {
    this.#writer.u32le(bytes.length);
    this.#writer.bytes(bytes);
  }

  /** Empty, or with a NUL at its end. */
  path(path: string): void {
    this.sized(encodeUtf8(path === '' ? '' : `${path}\0`));
  }

  list<T>(values: readonly T[], write: (value: T) => void): void {
    this.#writer.u32le(values.length);
    values.forEach(write);
  }

  finish(): Uint8Array {
    const bytes = this.#writer.finish();
    if (bytes.length > MAX_MESSAGE_BYTES) throw new RangeError(`a message of ${bytes.length} bytes`);
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(0, bytes.length - 4, true);
    return bytes;
  }
}

/** All of them u64 or i64, in the order they are sent. */
const HELLO_NUMBERS = [
  'bias',
  'slotsStart',
  'slotsEnd',
  'arenaStart',
  'arenaEnd',
  'moduleSizeBytes',
  'symbolBias',
  'tlsAddress',
  'tlsSizeBytes',
  'tlsAlignment',
  'poolOffset',
] as const;

// -------------------------------------------------------------------------------------------------------------- read

/** Reads one whole message, its length in front. Throws MalformedError; offsets count from that length on. */
export function readMessage(bytes: Uint8Array): Message {
  const reader = new Reader(bytes, 'message');
  const length = reader.u32le('the length of a message');
  if (length !== reader.remaining) reader.fail(`${length} bytes`, `${reader.remaining}`);
  const kind = readKind(reader);
  const message = readFields(reader, kind);
  reader.end(`a ${kind} message`);
  return message;
}

/** Takes bytes as they arrive; gives the messages that are whole. */
export class MessageStream {
  #rest: Uint8Array = new Uint8Array(0);

  /** Throws MalformedError. What comes after that means nothing. */
  push(chunk: Uint8Array): Message[] {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const messages: Message[] = [];
    while (bytes.length >= 4) {
      const reader = new Reader(bytes, 'message');
      const length = reader.u32le();
      if (length > MAX_MESSAGE_BYTES) reader.fail(`at most ${MAX_MESSAGE_BYTES} bytes`, `${length}`, 0);
      if (length > reader.remaining) break;
      messages.push(readMessage(bytes.subarray(0, 4 + length)));
      bytes = bytes.subarray(4 + length);
    }
    this.#rest = bytes;
    return messages;
  }
}

function readFields(reader: Reader, kind: Message['kind']): Message {
  if (kind === 'hello') return readHello(reader);
  if (kind === 'patch') return readPatch(reader);
  if (kind === 'receipt') return readReceipt(reader);
  const version = reader.u32le('the version');
  if (kind === 'describe') return { kind, version, image: readSized(reader, 'an image') };
  if (kind !== 'handover') return { kind, version };
  return { kind, version, path: readPath(reader), sockets: readList(reader, 'sockets', () => reader.u32le()) };
}

function readHello(reader: Reader): Hello {
  const protocol = reader.u32le('the protocol');
  // Of another protocol nobody knows what follows, but that much is the same in all of them.
  if (protocol !== PROTOCOL) reader.fail(`protocol ${PROTOCOL}`, `${protocol}`, reader.position - 4);
  const pid = reader.u32le('the process');
  const version = reader.u32le('the version');
  const pending = readFlag(reader, 'pending');
  const numbers = HELLO_NUMBERS.map((field) => [field, readNumber(reader, field)] as const);
  const named = Object.fromEntries(numbers) as Record<(typeof HELLO_NUMBERS)[number], number>;
  return { kind: 'hello', protocol, pid, version, pending, ...named, poolSizeBytes: reader.u32le('poolSizeBytes') };
}

function readPatch(reader: Reader): PatchMessage {
  const version = reader.u32le('the version');
  const segments = readList(reader, 'segments', () => ({
    address: readNumber(reader, 'address'),
    sizeBytes: readNumber(reader, 'size'),
    access: readAccess(reader),
    bytes: readSized(reader, "a segment's bytes"),
  }));
  const writes = readList(reader, 'writes', () => ({
    address: readNumber(reader, 'address'),
    bytes: readSized(reader, "a write's bytes"),
  }));
  const slots = readList(reader, 'slots', () => ({
    address: readNumber(reader, 'address'),
    value: readNumber(reader, 'value'),
  }));
  const unwind = readList(reader, 'unwind', () => ({
    ehFrameHdr: readNumber(reader, 'ehFrameHdr'),
    textStart: readNumber(reader, 'textStart'),
    textEnd: readNumber(reader, 'textEnd'),
  }));
  const threadLocals = readList(reader, 'tls', () => ({
    offset: reader.u32le('an offset in the pool'),
    bytes: readSized(reader, "a thread-local's bytes"),
  }));
  return { kind: 'patch', version, segments, writes, slots, unwind, threadLocals, symbolFile: readPath(reader) };
}

function readReceipt(reader: Reader): AgentReceipt {
  const position = reader.position;
  const answers = readKind(reader);
  if (answers === 'hello' || answers === 'receipt') reader.fail('a kind that is answered', answers, position);
  return {
    kind: 'receipt',
    answers,
    version: reader.u32le('the version'),
    applied: readFlag(reader, 'applied'),
    nanoseconds: readNumber(reader, 'nanoseconds'),
    reason: readText(reader, 'the reason'),
  };
}

function readKind(reader: Reader): Message['kind'] {
  const position = reader.position;
  const kind = reader.u32le('a kind of message');
  return NAMES.get(kind) ?? reader.fail('a kind of message', `${kind}`, position);
}

function readAccess(reader: Reader): ElfSegment['access'] {
  const position = reader.position;
  const access = reader.u32le('a protection');
  return ACCESS_NAMES.get(access) ?? reader.fail('protection R, RW or RX', `${access}`, position);
}

function readFlag(reader: Reader, name: string): boolean {
  const position = reader.position;
  const flag = reader.u32le(name);
  if (flag > 1) reader.fail(`0 or 1 for ${name}`, `${flag}`, position);
  return flag === 1;
}

/** A u64 or i64 within what a double holds exactly: more than any address, size or time there is. */
function readNumber(reader: Reader, name: string): number {
  const position = reader.position;
  const value = Number(BigInt.asIntN(64, reader.u64le(name)));
  return Number.isSafeInteger(value) ? value : reader.fail(`${name} below 2^53`, `${value}`, position);
}

function readSized(reader: Reader, name: string): Uint8Array {
  return reader.bytes(reader.u32le(`the length of ${name}`), name);
}

function readText(reader: Reader, name: string): string {
  return reader.utf8(reader.u32le(`the length of ${name}`), name);
}

function readPath(reader: Reader): string {
  const position = reader.position;
  const text = readText(reader, 'a path');
  if (text === '') return text;
  if (text.indexOf('\0') !== text.length - 1)
    reader.fail('a NUL at the end of a path only', JSON.stringify(text), position);
  return text.slice(0, -1);
}

/** No list is made longer than the bytes there are, whatever its count says: the first entry that is missing fails. */
function readList<T>(reader: Reader, name: string, read: () => T): T[] {
  const count = reader.u32le(`the number of ${name}`);
  const list: T[] = [];
  while (list.length < count) list.push(read());
  return list;
}
