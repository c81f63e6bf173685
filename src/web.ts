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
import { wasmTarget } from './link/wasm.ts';
import type { Build, Event, Glue, Receipt, WasmPatch } from './model.ts';

export interface WebOptions {
  readonly host: string;
  readonly port: number;
  readonly strictPort: boolean;
  readonly report: (event: Event) => void;
}

export class Web implements Backend<WasmPatch> {
  readonly #options: WebOptions;
  readonly #builder: Builder;
  #server: Server | undefined;

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
    this.#server = await startServer({ host, port, strictPort, root, name, report, onReloadRequest: onVisit });
  }

  async publish(build: Build, version: number, reason: string): Promise<Running<WasmPatch>> {
    // Read while wasm-bindgen is at work.
    let map: LinkerMap | undefined;
    const signal = new AbortController().signal;
    const image = await this.#builder.image(build, signal, (text) => (map = readMap(text)));
    const { module, program } = openBase(image, build, version, contentHash, map);
    const isThreaded = program.threads !== undefined;
    this.#pages.publish({
      id: program.base,
      version,
      glue: image.glue,
      module,
      directory: image.directory,
      isThreaded,
    });
    const linker = new Linker(program, wasmTarget, build);
    return { linker, replaced: { event: 'reload', reason, version } };
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

  nameOf(client: string): string {
    return `page ${client}`;
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
