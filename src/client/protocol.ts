// Every message between the server and a page, and how a patch becomes bytes. Both ends import this file.
//
// Text frames are JSON, one `ServerMessage` or `ClientMessage` each. A patch is one binary frame: the length of its
// header (u32, little endian), the header (JSON in UTF-8), the wasm module.
//
// A **state** names a program together with everything applied to it: the base's id at first, then a hash over the
// state before and the patch. Two programs at the same state run the same code, whichever server they heard it from;
// a version number alone cannot tell, because an abandoned patch leaves its number to the next one.
//
// A patch is applied at once but stays provisional until `commit`. A page that loses the server, or is told `abandon`,
// goes back to the last committed state. So whatever a page says in `hello` was agreed by everyone.

/** What the program runs in. */
export type ClientKind = 'page' | 'worker' | 'worklet';

export type ClientMessage =
  | {
      readonly type: 'hello';
      /** The base that was loaded, and where it is now. */
      readonly base: string;
      /** A page, when it does not say. */
      readonly kind?: ClientKind;
      readonly version: number;
      readonly state: string;
    }
  /** The one answer to a patch frame. After `applied: false` the page is exactly where it was. */
  | {
      readonly type: 'receipt';
      readonly state: string;
      readonly applied: true;
      readonly applyMs: number;
    }
  | { readonly type: 'receipt'; readonly state: string; readonly applied: false; readonly reason: string }
  /** With threads, once after a receipt: who besides the page has the patch. */
  | {
      readonly type: 'threads';
      readonly state: string;
      readonly workers: number;
      /** Have not called anything since. */
      readonly behind: number;
      /** Could not take it, and ended. */
      readonly failed: number;
      /** From the receipt to the last thread that has it. */
      readonly ms: number;
    }
  | { readonly type: 'log'; readonly level: 'error' | 'warn' | 'info'; readonly text: string };

export type ServerMessage =
  | PatchHeader
  /** The answer to `hello`, after the patches that the page lacked. */
  | { readonly type: 'joined'; readonly client: string; readonly version: number }
  | { readonly type: 'commit'; readonly state: string }
  | { readonly type: 'abandon'; readonly state: string; readonly reason: string }
  /** The page cannot get from where it is to the current version. `target`: the base it will find when it reloads. */
  | { readonly type: 'reload'; readonly target: string; readonly reason: string }
  | Notice;

/** For the person at the page. `ok` takes the notice before it back. */
export type Notice =
  | { readonly type: 'failed'; readonly diagnostics: readonly NoticeDiagnostic[] }
  | {
      readonly type: 'refused';
      readonly reason: string;
      readonly remedy: 'reload' | 'restart';
      readonly place?: NoticePlace;
    }
  | { readonly type: 'ok' };

/** What a page shows of a `Diagnostic` (src/model.ts, which the page's project cannot see). */
export interface NoticeDiagnostic {
  readonly severity: 'error' | 'warning' | 'note';
  readonly text: string;
  readonly code?: string;
  readonly place?: NoticePlace;
  readonly hint?: string;
}

interface NoticePlace {
  readonly path: string;
  readonly line: number;
  readonly column: number;
}

/** The header of a patch frame: how to get from `previous` to `state`. */
export interface PatchHeader {
  readonly type: 'patch';
  readonly base: string;
  readonly version: number;
  readonly previous: string;
  readonly state: string;
  /** From the journal: it will not be abandoned. */
  readonly committed: boolean;
  /** Entries the function table must have. */
  readonly tableLength: number;
  /** What instantiating overwrites: table entries, and memory as [address, length in bytes]. */
  readonly slots: readonly number[];
  readonly ranges: readonly (readonly [number, number])[];
  readonly functions: readonly string[];
  /** The module to import for new JavaScript functions, and the table slots its `wasm.NAME` stands for. */
  readonly glue?: { readonly url: string; readonly exports: Readonly<Record<string, number>> };
}

export interface PatchFrame {
  readonly header: PatchHeader;
  readonly module: Uint8Array<ArrayBuffer>;
}

/** Twin of `readPatch`. */
export function writePatch(header: PatchHeader, module: Uint8Array): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(JSON.stringify(header));
  const bytes = new Uint8Array(4 + json.length + module.length);
  new DataView(bytes.buffer).setUint32(0, json.length, true);
  bytes.set(json, 4);
  bytes.set(module, 4 + json.length);
  return bytes;
}

/** Twin of `writePatch`. */
export function readPatch(frame: ArrayBuffer): PatchFrame {
  if (frame.byteLength < 4) throw new Error(`patch frame: expected at least 4 bytes, got ${frame.byteLength}`);
  const headerLength = new DataView(frame).getUint32(0, true);
  if (headerLength > frame.byteLength - 4) {
    throw new Error(`patch frame: expected a header of ${headerLength} bytes at offset 4, got ${frame.byteLength - 4}`);
  }
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(frame, 4, headerLength))) as PatchHeader;
  return { header, module: new Uint8Array(frame, 4 + headerLength) };
}
