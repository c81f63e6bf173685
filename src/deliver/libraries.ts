// In: a process. Out: the shared objects in its memory: their files, and what to add to addresses in them.

import { readFileSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import type { RunningProgram } from '../model.ts';
import { MalformedError } from '../object/bytes.ts';
import { PT_LOAD, readElf } from '../object/elf.ts';

const PAGE_BYTES = 4096;
const ELF_MAGIC = Buffer.from([0x7f, 0x45, 0x4c, 0x46]);

/** `program` is the file that it runs, which is not among them. */
export async function readLibraries(pid: number, program: string): Promise<RunningProgram['libraries']> {
  const mapped = readMaps(await readFile(`/proc/${pid}/maps`, 'utf8').catch(ignoreEnded));
  mapped.delete(program);
  const libraries = await Promise.all([...mapped].map(([path, mappings]) => openLibrary(path, mappings)));
  return libraries.filter((library) => library !== undefined);
}

/** A process that has ended maps nothing. That it ended is found out elsewhere. */
function ignoreEnded(error: NodeJS.ErrnoException): string {
  if (error.code === 'ENOENT' || error.code === 'ESRCH') return '';
  throw error;
}

interface Mapping {
  readonly address: number;
  /** In the file. */
  readonly offset: number;
}

/** proc_pid_maps(5): `start-end protection offset device inode path`. Files that were replaced since say `(deleted)`. */
function readMaps(text: string): Map<string, Mapping[]> {
  const files = new Map<string, Mapping[]>();
  for (const line of text.split('\n')) {
    const [, address, offset, path] = /^([0-9a-f]+)-\S+ \S+ ([0-9a-f]+) \S+ \d+ +(\/.*)$/.exec(line) ?? [];
    if (address === undefined || offset === undefined || path === undefined || path.endsWith(' (deleted)')) continue;
    const mappings = files.get(path) ?? [];
    files.set(path, mappings);
    mappings.push({ address: Number.parseInt(address, 16), offset: Number.parseInt(offset, 16) });
  }
  return files;
}

/** Undefined for what is no ELF file, or cannot be read by us: programs map all kinds of files. */
async function openLibrary(
  path: string,
  mappings: readonly Mapping[],
): Promise<RunningProgram['libraries'][number] | undefined> {
  if (!(await isElf(path))) return undefined;
  let content: Uint8Array | undefined;
  const bytes = (): Uint8Array => (content ??= readFileSync(path));
  try {
    const first = readElf(bytes(), path).segments.find(({ type }) => type === PT_LOAD);
    const mapping = first && mappings.find(({ offset }) => offset === first.offset - (first.offset % PAGE_BYTES));
    if (first === undefined || mapping === undefined) return undefined;
    return { path, bias: mapping.address - (first.address - (first.address % PAGE_BYTES)), bytes };
  } catch (error) {
    if (error instanceof MalformedError) return undefined;
    throw error;
  }
}

async function isElf(path: string): Promise<boolean> {
  let file;
  try {
    file = await open(path);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(ELF_MAGIC.length));
    return bytesRead === ELF_MAGIC.length && buffer.equals(ELF_MAGIC);
  } catch {
    return false;
  } finally {
    await file?.close();
  }
}
