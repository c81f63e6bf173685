// The backend for wasm programs: a build becomes a module with stubs that a server gives to pages, and patches go to every
// page that is open.

import type { Builder } from './build/builder.ts';
import { type Backend, contentHash, type Listener, type Running } from './backend.ts';
import type { Notice } from './client/protocol.ts';
import { type Server, startServer } from './deliver/server.ts';
import { openBase } from './link/base.ts';
import { openCompanion } from './link/companion.ts';
import type { Companion } from './link/link.ts';
import { Linker } from './link/linker.ts';
import { type LinkerMap, readMap } from './link/map.ts';
import { mergePatch } from './link/merge.ts';
import { wasmTarget } from './link/wasm.ts';
import type { Build, Event, Glue, Image, Receipt, WasmPatch } from './model.ts';

export interface WebOptions {
  readonly host: string;
  readonly port: number;
  readonly strictPort: boolean;
  readonly report: (event: Event) => void;
}

/** A module to serve, and what it is. */
interface Made {
  readonly image: Image;
  readonly module: Uint8Array;
  readonly linker: Linker<WasmPatch>;
}

interface Earlier extends Made {
  readonly isLike: (build: Build) => boolean;
}

export class Web implements Backend<WasmPatch> {
  readonly #options: WebOptions;
  readonly #builder: Builder;
  #server: Server | undefined;
  /** The base of an earlier start, opened while rustc is at work. */
  #earlier: Promise<Earlier | undefined> | undefined;

  constructor(options: WebOptions, builder: Builder) {
    this.#options = options;
    this.#builder = builder;
  }

  get url(): string {
    return this.#pages.url;
  }

  async open({ onVisit }: Listener): Promise<void> {
    const { host, port, strictPort, report } = this.#options;
    const { directory: root, name } = this.#builder;
    this.#earlier = this.#openEarlier();
    this.#server = await startServer({ host, port, strictPort, root, name, report, onReloadRequest: onVisit });
  }

  async publish(build: Build, version: number, reason: string): Promise<Running<WasmPatch>> {
    const linking = performance.now();
    const made = (await this.#fromEarlier(build, version)) ?? (await this.#make(build, version));
    const { image, module, linker } = made;
    const linkMs = performance.now() - linking;
    const { base, threads } = linker.program;
    this.#pages.publish({
      id: base,
      version,
      glue: image.glue,
      module,
      directory: image.directory,
      isThreaded: threads !== undefined,
    });
    return { linker, linkMs, replaced: { event: 'reload', reason, version } };
  }

  /** By the linker and wasm-bindgen. */
  async #make(build: Build, version: number): Promise<Made> {
    // Read while wasm-bindgen is at work.
    let map: LinkerMap | undefined;
    const signal = new AbortController().signal;
    const image = await this.#builder.image(build, signal, (text) => (map = readMap(text)));
    const { module, program } = openBase(image, build, version, contentHash, map);
    return { image, module, linker: new Linker(program, wasmTarget, build) };
  }

  /**
   * By what an earlier start linked, and a patch that becomes a part of it: no page has run the code that it replaces, so
   * this is what the linker would make, but for where things lie. Undefined when that cannot be shown.
   */
  async #fromEarlier(build: Build, version: number): Promise<Made | undefined> {
    const earlier = await this.#earlier;
    this.#earlier = undefined;
    if (earlier === undefined || !earlier.isLike(build)) return undefined;
    const { image, linker } = earlier;
    let { module } = earlier;
    const outcome = linker.link(build);
    // A warning tells of what a fresh program would have otherwise: another initial value, another export.
    if ((outcome.kind !== 'patch' && outcome.kind !== 'unchanged') || outcome.warnings.length > 0) return undefined;
    if (outcome.kind === 'patch') {
      const made = linker.patch(outcome);
      if ('refusal' in made) return undefined;
      const merged = mergePatch(module, made.patch.module);
      if (merged === undefined) return undefined;
      module = merged;
    }
    linker.commit(outcome.draft);
    linker.program.rebase(contentHash(module), version);
    return { image, module, linker };
  }

  async #openEarlier(): Promise<Earlier | undefined> {
    try {
      const found = await this.#builder.earlier();
      if (found === undefined) return undefined;
      const { module, program } = openBase(found.image, found.build, 0, contentHash);
      if (program.threads !== undefined) return undefined;
      return { ...found, module, linker: new Linker(program, wasmTarget, found.build) };
    } catch (error) {
      const text = `cannot go on from the last start, and will link anew: ${String(error)}`;
      this.#options.report({ event: 'log', level: 'info', text });
      return undefined;
    }
  }

  async companion(
    build: Build,
    signal: AbortSignal,
  ): Promise<{ companion: Companion; glue: Pick<Glue, 'directory' | 'file'> }> {
    const image = await this.#builder.image(build, signal);
    const glue = { directory: image.directory, file: `${this.#builder.name}.js` };
    return { companion: openCompanion(image), glue };
  }

  deliver(patch: WasmPatch): Promise<readonly Receipt[]> {
    return this.#pages.deliver(patch);
  }

  commit(patch: WasmPatch): void {
    this.#pages.commit(patch);
  }

  abandon(patch: WasmPatch, reason: string): void {
    this.#pages.abandon(patch, reason);
  }

  nameOf({ client, kind = 'page' }: Receipt): string {
    return `${kind} ${client}`;
  }

  tell(notice: Notice): void {
    this.#pages.tell(notice);
  }

  async close(): Promise<void> {
    await this.#server?.close();
  }

  get #pages(): Server {
    if (this.#server === undefined) throw new Error('expected `open` to have been called');
    return this.#server;
  }
}
