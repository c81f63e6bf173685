// The native program of test/fixtures/garden, run by hotslot: a line with the id of a button in, what it says out.
import { readFileSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { expect } from 'vitest';
import type { Event } from '../../src/model.ts';
import type { Button, Target, Visitor } from '../targets.ts';
import { copyCrate, type Server, startServer, type StartOptions } from './harness.ts';

/** The one who uses the program, from its start to its end. */
class Customer implements Visitor {
  readonly #server: Server;
  #poured = 0;
  #clicks = 0;

  constructor(server: Server) {
    this.#server = server;
  }

  async click(button: Button): Promise<string> {
    this.#clicks += 1;
    if (button === 'water') this.#poured += 1;
    const said = this.#server.next((event) => saidBy(button, event) !== undefined);
    this.#server.say(button);
    return saidBy(button, await said) ?? '';
  }

  get memory(): string {
    return `can ${this.#poured}, clicks ${this.#clicks}, steps ${this.#clicks}`;
  }

  async expectUndisturbed(): Promise<void> {
    expect(await this.click('water')).toBe(this.memory);
    expect(this.#server.events.filter(({ event }) => event === 'exit' || event === 'restart')).toEqual([]);
  }
}

export class Stall implements Target {
  readonly package = '.';
  readonly remedy = 'restart';
  directory = '';
  #server: Server | undefined;
  #customer: Customer | undefined;

  get server(): Server {
    if (this.#server === undefined) throw new Error('expected a program that was started');
    return this.#server;
  }

  async start(options: StartOptions = {}): Promise<void> {
    this.directory = copyCrate('test/fixtures/garden', 'garden');
    const { args = [] } = options;
    this.#server = await startServer(this.directory, { ...options, args: ['-p', 'stall', ...args] });
    this.#customer = new Customer(this.#server);
  }

  /** The program's process. */
  get pid(): number {
    const { pid } = this.server;
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number);
    const found = children.find((child) => basename(readlinkSync(`/proc/${child}/exe`)) === 'garden');
    if (found === undefined) throw new Error('expected a program that runs');
    return found;
  }

  async stop(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server !== undefined) expect(await server.close()).toBe(130);
  }

  open(): Promise<Customer> {
    if (this.#customer === undefined) throw new Error('expected a program that was started');
    return Promise.resolve(this.#customer);
  }
}

export function saidBy(button: Button, event: Event): string | undefined {
  if (event.event !== 'log' || !event.text.startsWith(`${button}:`)) return undefined;
  return event.text.slice(button.length + 1).trim();
}
