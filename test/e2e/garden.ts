// The page of test/fixtures/garden, served and opened: what its tests have in common.
import type { Browser } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, expect } from 'vitest';
import type { Button, Target, Visitor } from '../targets.ts';
import { launchBrowser } from './browser.ts';
import {
  type Answer,
  copyCrate,
  openPage,
  type OpenPage,
  type Server,
  startServer,
  type StartOptions,
} from './harness.ts';

/** One tab. Knows what the program must remember: it has counted along. */
export class Tab implements Visitor {
  readonly open: OpenPage;
  #poured = 0;
  #clicks = 0;

  constructor(open: OpenPage) {
    this.open = open;
  }

  async click(button: Button): Promise<string> {
    this.#clicks += 1;
    if (button === 'water') this.#poured += 1;
    await this.open.page.click(`#${button}`);
    return this.open.page.innerText(`#${button}-text`);
  }

  get memory(): string {
    return `can ${this.#poured}, clicks ${this.#clicks}, steps ${this.#clicks}`;
  }

  /** No navigation, no error, and all state as before; one more click. */
  async expectUndisturbed(): Promise<void> {
    expect(await this.click('water')).toBe(this.memory);
    expect(await this.open.isSameDocument()).toBe(true);
    expect(this.open.navigations()).toBe(1);
    expect(this.open.errors).toEqual([]);
  }

  /** After a reload, asked for by the test or by the page: the program begins anew. */
  async reloaded(): Promise<void> {
    await this.open.reloaded();
    this.#poured = 0;
    this.#clicks = 0;
  }

  async reload(): Promise<void> {
    await this.open.page.reload();
    await this.reloaded();
  }
}

export class Garden implements Target {
  readonly package = 'app';
  readonly remedy = 'reload';
  #server: Server | undefined;
  browser!: Browser;
  directory = '';
  readonly #tabs: Tab[] = [];

  get server(): Server {
    if (this.#server === undefined) throw new Error('expected a server that was started');
    return this.#server;
  }

  /** The next `stop` ends it. */
  set server(server: Server) {
    this.#server = server;
  }

  async stop(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server !== undefined) expect(await server.close()).toBe(130);
  }

  async start(options: StartOptions = {}): Promise<void> {
    this.server = await startServer(this.directory, { folder: this.package, ...options });
  }

  async open(): Promise<Tab> {
    const tab = new Tab(await openPage(this.browser, this.server.url, "'garden' in globalThis"));
    this.#tabs.push(tab);
    return tab;
  }

  /** Saves an edit of the crate; the event that answers it. */
  edit(path: string, from: string, to: string): Promise<Answer> {
    return this.server.edit(path, from, to);
  }

  /** The same, for an edit that has to reach the open pages. */
  async swap(path: string, from: string, to: string): Promise<Extract<Answer, { event: 'patch' }>> {
    const answer = await this.edit(path, from, to);
    if (answer.event !== 'patch') throw new Error(`expected a patch, got ${JSON.stringify(answer, null, 2)}`);
    expect(answer.clients).toBe(this.#tabs.length);
    return answer;
  }

  async closeTabs(): Promise<void> {
    for (const tab of this.#tabs.splice(0)) await tab.open.close();
  }
}

/** A browser and a server for all tests of a file, or for each test to start its own. The sources are as they were before each. */
export function plantGarden(server: 'shared' | 'own' = 'shared'): Garden {
  const garden = new Garden();
  const copy = (): void => {
    garden.directory = copyCrate('test/fixtures/garden', 'garden');
  };
  const stop = (): Promise<void> => garden.stop();

  beforeAll(async () => {
    garden.browser = await launchBrowser();
  });
  afterEach(() => garden.closeTabs());
  if (server === 'shared') {
    beforeAll(async () => {
      copy();
      await garden.start();
    });
    afterEach(() => garden.server.restore());
    afterAll(stop);
  } else {
    beforeEach(copy);
    afterEach(stop);
  }
  afterAll(() => garden.browser.close());
  return garden;
}
