// An `ar` archive's bytes (a static library, an rlib) ↔ its members and its symbol index. Members are views that nobody
// has looked into. Formats: GNU (also LLVM's and rustc's) and BSD (also Darwin's).
// https://man.freebsd.org/cgi/man.cgi?query=ar&sektion=5

import { encodeUtf8, Reader, Writer } from './bytes.ts';

export interface Archive {
  /** For messages. */
  readonly name: string;
  readonly format: 'gnu' | 'bsd';
  /** In the file's order, the index and the table of names left out. */
  readonly members: readonly Member[];
  /** As stored: which member defines which symbol. Undefined when the archive brings no index. */
  readonly index?: readonly IndexEntry[];
  /** The index by name; of two members that define a symbol, the first counts. */
  readonly symbols: ReadonlyMap<string, Member>;
}

export interface Member {
  readonly name: string;
  readonly bytes: Uint8Array;
  /** Decimal, and octal for `mode`, as in the header; `0` where left out. */
  readonly date?: string;
  readonly owner?: string;
  readonly group?: string;
  readonly mode?: string;
}

export interface IndexEntry {
  readonly symbol: string;
  readonly member: Member;
}

const MAGIC = '!<arch>\n';
const MAX_SHORT_NAME = 15;

/** Reads headers and the symbol index; throws MalformedError. */
export function readArchive(bytes: Uint8Array, name: string): Archive {
  const reader = new Reader(bytes, name);
  const magic = bytes.length < MAGIC.length ? '' : latin1(reader.bytes(MAGIC.length));
  if (magic !== MAGIC) reader.fail('an archive (!<arch>)', 'other bytes', 0);
  const members: Member[] = [];
  const byOffset = new Map<number, Member>();
  let format: Archive['format'] = 'gnu';
  let longNames: Reader | undefined;
  let readIndex: (() => IndexEntry[]) | undefined;
  while (!reader.atEnd) {
    const start = reader.position;
    const header = readHeader(reader);
    const content = reader.within(header.sizeBytes, `archive member ${header.name}`);
    if (content.source.length % 2 === 1 && !reader.atEnd) reader.skip(1);
    if (header.name === '/' || header.name === '/SYM64/') {
      readIndex ??= () => readGnuIndex(content, header.name === '/' ? 4 : 8, byOffset);
      continue;
    }
    if (header.name === '//') {
      longNames = content;
      continue;
    }
    if (header.name.startsWith('#1/')) format = 'bsd';
    const memberName = readMemberName(header.name, content, longNames);
    if (/^__\.SYMDEF(_64)?( SORTED)?$/.test(memberName)) {
      format = 'bsd';
      readIndex ??= () => readBsdIndex(content, memberName.startsWith('__.SYMDEF_64') ? 8 : 4, byOffset);
      continue;
    }
    const { date, owner, group, mode } = header;
    const member = { name: memberName, bytes: content.bytes(content.remaining), date, owner, group, mode };
    members.push(member);
    byOffset.set(start, member);
  }
  const index = readIndex?.();
  const symbols = new Map<string, Member>();
  for (const { symbol, member } of index ?? []) if (!symbols.has(symbol)) symbols.set(symbol, member);
  return { name, format, members, symbols, ...(index && { index }) };
}

/** Writes the GNU format, as `ar`, LLVM and rustc do. */
export function writeArchive(archive: Pick<Archive, 'members' | 'index'>): Uint8Array<ArrayBuffer> {
  const parts = archiveParts(archive, ({ bytes }) => [bytes]);
  const writer = new Writer(sizeOf(parts));
  for (const part of parts) writer.bytes(part);
  return writer.finish();
}

/** The same in pieces, of members that are: they may be large, and need not be copied. */
export function archiveParts<M extends Omit<Member, 'bytes'>>(
  archive: { readonly members: readonly M[]; readonly index?: readonly { symbol: string; member: M }[] },
  partsOf: (member: M) => readonly Uint8Array[],
): Uint8Array[] {
  const longNames = new Writer();
  const names = archive.members.map(({ name }) => {
    if (encodeUtf8(name).length <= MAX_SHORT_NAME && !name.includes('/')) return `${name}/`;
    const reference = `/${longNames.length}`;
    longNames.utf8(`${name}/\n`);
    return reference;
  });
  if (longNames.length % 2 === 1) longNames.utf8('\n');

  const strings = new Writer();
  for (const { symbol } of archive.index ?? []) {
    strings.utf8(symbol);
    strings.u8(0);
  }
  const indexSize =
    archive.index?.length === 0 ? EMPTY_INDEX_SIZE : 4 + 4 * (archive.index?.length ?? 0) + strings.length;
  let offset = MAGIC.length;
  if (archive.index !== undefined) offset += HEADER_SIZE + indexSize + (indexSize % 2);
  if (longNames.length > 0) offset += HEADER_SIZE + longNames.length;
  const offsets = new Map<M, number>();
  for (const member of archive.members) {
    offsets.set(member, offset);
    const sizeBytes = sizeOf(partsOf(member));
    offset += HEADER_SIZE + sizeBytes + (sizeBytes % 2);
  }

  const writer = new Writer();
  writer.utf8(MAGIC);
  if (archive.index !== undefined) {
    writeHeader(writer, '/', indexSize + (indexSize % 2), {});
    writer.u32be(archive.index.length);
    for (const { symbol, member } of archive.index) {
      const at = offsets.get(member);
      if (at === undefined) throw new Error(`the index names a member that is not in the archive, for ${symbol}`);
      writer.u32be(at);
    }
    writer.bytes(strings.finish());
    writer.zeros(archive.index.length === 0 ? EMPTY_INDEX_SIZE - 4 : indexSize % 2);
  }
  if (longNames.length > 0) {
    writer.utf8(`${'//'.padEnd(48)}${`${longNames.length}`.padEnd(10)}\`\n`);
    writer.bytes(longNames.finish());
  }
  const parts: Uint8Array[] = [writer.finish()];
  for (const [position, member] of archive.members.entries()) {
    const content = partsOf(member);
    const sizeBytes = sizeOf(content);
    const header = new Writer(HEADER_SIZE);
    writeHeader(header, names[position] ?? member.name, sizeBytes, member);
    parts.push(header.finish(), ...content);
    if (sizeBytes % 2 === 1) parts.push(PADDING);
  }
  return parts;
}

function sizeOf(parts: readonly Uint8Array[]): number {
  return parts.reduce((total, part) => total + part.length, 0);
}

const PADDING = encodeUtf8('\n');
const HEADER_SIZE = 60;
/** rustc's; a count would do. */
const EMPTY_INDEX_SIZE = 8;

interface Header {
  /** Not yet looked up in the table of long names. */
  readonly name: string;
  readonly date: string;
  readonly owner: string;
  readonly group: string;
  readonly mode: string;
  readonly sizeBytes: number;
}

function readHeader(reader: Reader): Header {
  const start = reader.position;
  const text = latin1(reader.bytes(HEADER_SIZE, 'an archive member header'));
  const field = (from: number, to: number): string => text.slice(from, to).trimEnd();
  const size = field(48, 58);
  if (text.slice(58) !== '`\n' || !/^\d+$/.test(size)) reader.fail('an archive member header', 'other bytes', start);
  return {
    name: field(0, 16),
    date: field(16, 28),
    owner: field(28, 34),
    group: field(34, 40),
    mode: field(40, 48),
    sizeBytes: Number(size),
  };
}

function writeHeader(writer: Writer, name: string, sizeBytes: number, member: Partial<Member>): void {
  const { date = '0', owner = '0', group = '0', mode = '0' } = member;
  const fields = [name.padEnd(16), date.padEnd(12), owner.padEnd(6), group.padEnd(6), mode.padEnd(8)];
  writer.utf8(`${fields.join('')}${`${sizeBytes}`.padEnd(10)}\`\n`);
}

/** `#1/LENGTH`: at the start of the content. `/OFFSET`: in the table of names. Else in place, closed by `/` in GNU's. */
function readMemberName(name: string, content: Reader, longNames: Reader | undefined): string {
  if (/^#1\/\d+$/.test(name)) return trimNul(content.utf8(Number(name.slice(3)), 'the name of an archive member'));
  if (!/^\/\d+$/.test(name)) return name.replace(/\/$/, '');
  const offset = Number(name.slice(1));
  if (longNames === undefined) return content.fail('a table of long names before its first use', 'none', 0);
  const length = longNames.source.indexOf(NEWLINE, offset) - offset;
  longNames.position = Math.min(offset, longNames.source.length);
  if (length < 0) longNames.fail('the name of an archive member');
  return longNames.utf8(length, 'the name of an archive member').replace(/\/$/, '');
}

const NEWLINE = 0x0a;

/** Big-endian: a count, that many offsets of member headers, that many names with a NUL each. */
function readGnuIndex(reader: Reader, width: 4 | 8, byOffset: ReadonlyMap<number, Member>): IndexEntry[] {
  const read = (): number => (width === 4 ? reader.u32be() : Number(reader.u64be()));
  const count = read();
  if (count > reader.remaining / (width + 1)) {
    reader.fail(`${count} symbols in the index`, `${reader.remaining} bytes`);
  }
  const members = Array.from({ length: count }, () => memberAt(read(), reader, byOffset));
  const names = reader.utf8(reader.remaining, 'the names of the index').split('\0');
  if (names.length < count) reader.fail(`${count} names in the index`, `${names.length}`);
  return members.map((member, position) => ({ symbol: names[position] ?? '', member }));
}

/** Little-endian: bytes of pairs (name offset, member header offset), the pairs, bytes of names, the names. */
function readBsdIndex(reader: Reader, width: 4 | 8, byOffset: ReadonlyMap<number, Member>): IndexEntry[] {
  const read = (): number => (width === 4 ? reader.u32le() : Number(reader.u64le()));
  const count = Math.floor(read() / (2 * width));
  if (count > reader.remaining / (2 * width)) {
    reader.fail(`${count} symbols in the index`, `${reader.remaining} bytes`);
  }
  const pairs = Array.from({ length: count }, () => {
    const name = read();
    return { name, member: memberAt(read(), reader, byOffset) };
  });
  const names = reader.within(read(), 'the names of the index');
  return pairs.map(({ name, member }) => {
    names.position = Math.min(name, names.source.length);
    const length = names.source.indexOf(0, names.position) - names.position;
    if (length < 0) names.fail('the name of a symbol');
    return { symbol: names.utf8(length), member };
  });
}

function memberAt(offset: number, reader: Reader, byOffset: ReadonlyMap<number, Member>): Member {
  return byOffset.get(offset) ?? reader.fail('the offset of an archive member', `0x${offset.toString(16)}`);
}

function trimNul(name: string): string {
  return name.replace(/\0+$/, '');
}

function latin1(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}
