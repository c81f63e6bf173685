// The native side of linking: a plan in, memory to add to a running program and values to store in it out.
//
// New code goes where the Link placed it, in the arena, and names everything by its address: functions by their stubs, so
// that the next patch reaches this one's calls too. What the code needs besides is added here: cells that hold addresses
// (a GOT), jumps to what is more than 2 GiB away (thunks), unwind tables.

import type { Atom, ElfPatch, ElfSegment, ObjectFile, PatchHead } from '../model.ts';
import { debugInfo } from '../object/dwarf.ts';
import { readElfObject } from '../object/elfobject.ts';
import { meansStart } from '../object/elfparts.ts';
import { FRAME_INDEX_HEAD, frameIndex, joinFrames, placeFrame } from '../object/frames.ts';
import {
  applyRelocation,
  fitsRelocation,
  RelocationError,
  relocationValue,
  x86_64,
  x86_64Kind,
  type X86_64Kind,
} from '../object/x86_64.ts';
import { symbolAt } from './diff.ts';
import { CODE, CONSTANT, DATA, type ElfProgram, POOL } from './executable.ts';
import { crateOf } from './identity.ts';
import { goneTypes, layoutRefusal, signatureOf } from './layout.ts';
import type { NamedCode } from './lines.ts';
import { readable } from './mangle.ts';
import type { Draft } from './program.ts';
import { writeDebuggerImage, writeSymbolFile } from './symbolfile.ts';
import { type Plan, type PlannedData, type PlannedFunction, type Resolved, type Target, Unlinkable } from './target.ts';
import { relaxThreadLocals } from './threadlocals.ts';

/** For patches of that program. */
export function elfTarget(program: ElfProgram): Target<ElfPatch> {
  const crates = new Set([...program.objects.keys()].map(crateOf));
  const isFixed = (crate: string): boolean => !crates.has(crate);
  const isTold = ({ name }: ObjectFile): boolean =>
    Array.from(program.objects.values(), ({ source }) => source).some(
      (source) =>
        crateOf(source.name) === crateOf(name) &&
        debugInfo(readElfObject(source.bytes(), source.name))?.describesTypes === true,
    );
  return {
    remedy: 'restart',
    wordBytes: 8,
    width: (kind) => kindOf(kind).width,
    namesSignature: () => false,
    // One and the same kind refers to functions and to data.
    targetKind: () => 'symbol',
    meansInside: (object, atom, relocation) => {
      const symbol = symbolAt(object, relocation.symbol);
      return symbol.kind === 'function' && symbol.atom !== undefined && !meansStart(atom, relocation);
    },
    isFunctionAddress: (object, relocation) => {
      if (relocation.kind !== x86_64.R_X86_64_64.number) return false;
      const symbol = symbolAt(object, relocation.symbol);
      if (symbol.atom !== undefined) return symbol.kind === 'function';
      const { type = 'function' } = program.parsed.places.get(symbol.name) ?? {};
      return type === 'function';
    },
    isHostFunction: () => false,
    hostReferent: (symbol) => program.host.referent(symbol),
    isOver: ({ name }) => name === 'main',
    isReplaced: () => false,
    isOfOneBuild: () => false,
    aliases: ({ name }) => [name],
    describes: () => undefined,
    layout: {
      refusal: (before, after, changes, gone) => layoutRefusal(before, after, changes, { gone, isFixed, isTold }),
      gone: (before, after, changes) => goneTypes(before, after, { isFixed, changes }),
      signatureOf: ({ object, symbol }) => signatureOf(object, symbol.name),
    },
    emit: (head, plan, draft) => new Emitter(program, plan, draft).emit(head),
  };
}

function kindOf(kind: number): X86_64Kind {
  const known = x86_64Kind(kind);
  if (known === undefined) throw new Unlinkable(`relocation kind ${kind} is unknown`);
  return known;
}

/** Bytes of a segment to be. */
interface Chunk {
  readonly address: number;
  readonly bytes: Uint8Array;
}

/** What the agent gives each thread's pool. */
const POOL_ALIGNMENT = 64;
/** jmp *disp32(%rip) */
const JUMP = [0xff, 0x25, 0, 0, 0, 0];
const JUMP_FIELD = 2;
/** int3, between functions. */
const TRAP = 0xcc;

class Emitter {
  readonly #program: ElfProgram;
  readonly #plan: Plan;
  readonly #draft: Draft;
  /** By area. */
  readonly #chunks: readonly Chunk[][] = [[], [], []];
  readonly #writes: Chunk[] = [];
  readonly #threadLocals: { readonly offset: number; readonly bytes: Uint8Array }[] = [];
  /** Cells of this patch by what they hold, and thunks by the cell they jump through. */
  readonly #cells = new Map<number, number>();
  readonly #thunks = new Map<number, number>();

  constructor(program: ElfProgram, plan: Plan, draft: Draft) {
    this.#program = program;
    this.#plan = plan;
    this.#draft = draft;
  }

  emit(head: PatchHead): ElfPatch {
    const { functions, data } = this.#plan;
    for (const one of functions) this.#function(one);
    for (const one of data) this.#datum(one);
    const unwinding = this.#unwindTable();
    const segments = [CODE, CONSTANT, DATA].flatMap((area) => this.#segment(area));
    const text = segments.find(({ access }) => access === 'execute');
    const { symbolBias } = this.#program.running;
    return {
      kind: 'elf',
      ...head,
      segments,
      writes: byAddress(this.#writes),
      slots: byAddress(
        functions.map((one) => ({
          address: this.#program.slotAddress(one.slot),
          value: addressOf(one) + one.definition.symbol.offset,
        })),
      ),
      unwind:
        unwinding === undefined || text === undefined
          ? []
          : [{ ehFrameHdr: unwinding.header, textStart: text.address, textEnd: text.address + text.sizeBytes }],
      threadLocals: this.#threadLocals.toSorted((a, b) => a.offset - b.offset),
      symbols: writeSymbolFile(namedCode(functions, symbolBias)),
      ...(text !== undefined && {
        image: () => writeDebuggerImage(namedCode(functions, 0), text, unwinding?.table),
      }),
    };
  }

  #function(one: PlannedFunction): void {
    const bytes = one.definition.atom.bytes.slice();
    const relocations = relaxThreadLocals(bytes, one.relocations);
    this.#apply(one.name, { address: addressOf(one), bytes }, relocations);
    this.#chunk(CODE, addressOf(one), bytes);
  }

  #datum({ address, atom, relocations, fresh }: PlannedData): void {
    if (fresh && atom.kind === 'zero') return;
    const bytes = new Uint8Array(atom.sizeBytes);
    bytes.set(atom.bytes);
    this.#apply(atom.name, { address, bytes }, relocations);
    const area = this.#program.areaOf[atom.kind] ?? DATA;
    if (!fresh) this.#writes.push({ address, bytes });
    else if (area === POOL) this.#threadLocal(atom, address, bytes);
    else this.#chunk(area, address, bytes);
  }

  #threadLocal({ name, alignment }: Atom, address: number, bytes: Uint8Array): void {
    if (alignment > POOL_ALIGNMENT) {
      throw new Unlinkable(`the new thread-local \`${name}\` is aligned to ${alignment} bytes`);
    }
    if (bytes.length === 0) return;
    this.#threadLocals.push({ offset: address - this.#program.running.poolOffset, bytes });
  }

  /** Fills the fields in. `user` is for messages. */
  #apply(user: string, { address, bytes }: Chunk, relocations: readonly Resolved[]): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (const relocation of relocations) {
      const kind = kindOf(relocation.kind);
      const { offset, addend: A } = relocation;
      const P = address + offset;
      const S = this.#value(kind, relocation, P);
      try {
        applyRelocation(view, offset, kind.number, { S, L: S, T: S, D: S, G: S, GOT: 0, A, P });
      } catch (error) {
        if (!(error instanceof RelocationError)) throw error;
        const target = relocation.name === undefined ? '' : ` for \`${readable(relocation.name)}\``;
        throw new Unlinkable(`\`${readable(user)}\`${target}: ${error.message}`, { cause: error });
      }
    }
  }

  /** What its formula starts from: the symbol's own value, or the address of a cell or a thunk that leads to it. */
  #value(kind: X86_64Kind, relocation: Resolved, P: number): number {
    const { means, value, addend: A } = relocation;
    const symbol = means === 'slot' ? this.#program.stubAddress(value) : value;
    if (throughCell.has(kind.number)) return means === 'cell' ? value : this.#cell(symbol);
    if (notForPatches.test(kind.name)) {
      throw new Unlinkable(`${kind.name} is of code that only the ordinary linker can link`);
    }
    // Only what is called may be a thunk: everything else could be data.
    const isCall = kind.number === x86_64.R_X86_64_PLT32.number;
    if (means === 'cell') return isCall ? this.#thunk(value) : this.#hostAddress(relocation);
    if (isCall && !fitsRelocation(kind, relocationValue(kind, { L: symbol, A, P }))) {
      return this.#thunk(this.#cell(symbol));
    }
    return symbol;
  }

  /** What the program's cell for it holds: as the libraries tell, or a thunk for a function that was chosen at start. */
  #hostAddress({ name = '', value }: Resolved): number {
    const found = this.#program.host.lookUp(name);
    if (found === undefined) throw new Unlinkable(`\`${name}\` is in no library that the program runs with`);
    return found === 'chosen' ? this.#thunk(value) : found;
  }

  #cell(value: number): number {
    const known = this.#cells.get(value);
    if (known !== undefined) return known;
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigInt64(0, BigInt(value), true);
    const address = this.#allocate(CONSTANT, 8, 8);
    this.#cells.set(value, address);
    this.#chunk(CONSTANT, address, bytes);
    return address;
  }

  #thunk(cell: number): number {
    const known = this.#thunks.get(cell);
    if (known !== undefined) return known;
    const address = this.#allocate(CODE, JUMP.length, 8);
    this.#thunks.set(cell, address);
    const bytes = Uint8Array.from(JUMP);
    new DataView(bytes.buffer).setInt32(JUMP_FIELD, cell - (address + JUMP.length), true);
    this.#chunk(CODE, address, bytes);
    return address;
  }

  /** And where its index is; undefined when no function of the patch has an entry. */
  #unwindTable(): { readonly header: number; readonly table: Chunk } | undefined {
    const shared = new Map<string, { bytes: Uint8Array; relocations: readonly Resolved[] }>();
    const frames = this.#plan.functions.flatMap((one) =>
      one.unwind.map(({ unwind, cie, fde }) => {
        const key = `${unwind.cie.bytes.join()} ${cie.map(({ offset, means, value }) => `${offset} ${means} ${value}`).join()}`;
        const own = shared.get(key) ?? { bytes: unwind.cie.bytes, relocations: cie };
        shared.set(key, own);
        const codeAddress = addressOf(one) + unwind.codeOffset;
        return { cie: own, fde: { bytes: unwind.fde.bytes, relocations: fde, codeAddress } };
      }),
    );
    if (frames.length === 0) return undefined;
    const table = joinFrames(frames);
    const header = this.#allocate(CONSTANT, FRAME_INDEX_HEAD + 8 * frames.length, 8);
    const start = this.#allocate(CONSTANT, table.bytes.length, 8);
    const view = new DataView(table.bytes.buffer, table.bytes.byteOffset);
    for (const { record, offset } of [...table.cies, ...table.fdes]) {
      const moved = record.relocations.map((one) => ({ ...one, offset: one.offset + offset }));
      this.#apply('.eh_frame', { address: start, bytes: table.bytes }, moved);
    }
    const entries = table.fdes.map(({ record: { codeAddress }, offset }) => {
      placeFrame(view, offset, start + offset, codeAddress);
      return { codeAddress, frameAddress: start + offset };
    });
    this.#chunk(CONSTANT, start, table.bytes);
    this.#chunk(CONSTANT, header, frameIndex(header, start, entries));
    return { header, table: { address: start, bytes: table.bytes } };
  }

  #allocate(area: number, sizeBytes: number, alignment: number): number {
    const address = this.#draft.allocate(area, sizeBytes, alignment);
    if (address === undefined) throw new Unlinkable('the memory reserved for patches is used up');
    return address;
  }

  #chunk(area: number, address: number, bytes: Uint8Array): void {
    this.#chunks[area]?.push({ address, bytes });
  }

  #segment(area: number): ElfSegment[] {
    const address = this.#draft.starts[area] ?? 0;
    const sizeBytes = (this.#draft.free.areas[area]?.address ?? 0) - address;
    if (sizeBytes === 0) return [];
    const bytes = new Uint8Array(sizeBytes);
    if (area === CODE) bytes.fill(TRAP);
    for (const chunk of this.#chunks[area] ?? []) bytes.set(chunk.bytes, chunk.address - address);
    const access = area === CODE ? 'execute' : area === CONSTANT ? 'read' : 'write';
    return [{ address, sizeBytes, access, bytes }];
  }
}

/** They ask for the address of a cell: of a symbol's address, or of a thread-local's offset. */
const throughCell: ReadonlySet<number> = new Set(
  [
    x86_64.R_X86_64_GOTPCREL,
    x86_64.R_X86_64_GOTPCRELX,
    x86_64.R_X86_64_REX_GOTPCRELX,
    x86_64.R_X86_64_GOTTPOFF,
    x86_64.R_X86_64_CODE_4_GOTPCRELX,
    x86_64.R_X86_64_CODE_4_GOTTPOFF,
    x86_64.R_X86_64_CODE_5_GOTPCRELX,
    x86_64.R_X86_64_CODE_5_GOTTPOFF,
    x86_64.R_X86_64_CODE_6_GOTPCRELX,
    x86_64.R_X86_64_CODE_6_GOTTPOFF,
  ].map(({ number }) => number),
);

/** Of other code models, and descriptors of thread-locals. */
const notForPatches = /GOT|TLS|DTPMOD|SIZE|PLTOFF/;

function namedCode(functions: readonly PlannedFunction[], bias: number): NamedCode[] {
  return functions.map((one) => ({
    name: one.name,
    address: addressOf(one) - bias,
    sizeBytes: one.definition.atom.sizeBytes,
    object: one.definition.object,
    atom: one.definition.atom,
  }));
}

function addressOf({ address, name }: PlannedFunction): number {
  if (address === undefined) throw new Error(`${name} was given no address`);
  return address;
}

function byAddress<T extends { readonly address: number }>(entries: readonly T[]): T[] {
  return entries.toSorted((a, b) => a.address - b.address);
}
