// Programs that end, crash, are started anew, or lose their hotslot.
import { once } from 'node:events';
import { watch } from 'node:fs';
import { dirname } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { Event } from '../../src/model.ts';
import { addressIn, agentSocket, type Harbor, openHarbor } from './harbor.ts';

const MAIN = 'src/main.rs';

let harbor: Harbor;

beforeAll(async () => {
  harbor = await openHarbor({ args: ['--restart-on-refuse'] });
});
afterEach(async () => {
  harbor.closeLines();
  await harbor.server.restore();
});
afterAll(async () => {
  expect(await harbor.server.close()).toBe(130);
});

const isRestart = ({ event }: Event): boolean => event === 'restart';
const isExit = ({ event }: Event): boolean => event === 'exit';

/** Saves an edit that starts the program anew, and waits until it listens. */
async function revive(from: string, to: string): Promise<Event> {
  const restarted = harbor.server.next(isRestart);
  const listening = harbor.server.next((event) => addressIn(event) !== undefined);
  await harbor.change(MAIN, [from, to]);
  await listening;
  return restarted;
}

test('a refused change restarts the program; nobody who connects meanwhile is turned away', async () => {
  const socket = await harbor.talk();
  expect(await socket.ask('ahoy')).toBe('aye 1: ahoy');

  const failures: unknown[] = [];
  const pids = new Set<number>();
  const visits = { isOver: false, answered: 0 };
  const visit = async (): Promise<void> => {
    while (!visits.isOver) {
      try {
        pids.add((await harbor.state()).pid);
        visits.answered += 1;
      } catch (error) {
        failures.push(error);
      }
    }
  };
  const visitors = [visit(), visit(), visit(), visit()];
  const restarted = harbor.server.next(isRestart);
  const answer = await harbor.change(
    MAIN,
    ['    /* another field */', '    flag: [u64; 4],'],
    ['            load: 50,', '            load: 50,\n            flag: [1, 2, 3, 4],'],
    ['format!("{} {}", it.name, it.load)', 'format!("{} {} {:?}", it.name, it.load, it.flag)'],
  );
  expect(answer).toMatchObject({ event: 'refused', remedy: 'restart', reason: expect.stringContaining('Ship') });
  expect(await restarted).toMatchObject({ handedOver: true, reason: expect.stringContaining('Ship') });
  // Until those answer who came while nobody accepted.
  const enough = visits.answered + 50;
  while (visits.answered < enough && failures.length === 0) await harbor.get('/greet');
  visits.isOver = true;
  await Promise.all(visitors);
  expect(failures).toEqual([]);
  expect(pids.size).toBe(2);

  const after = await harbor.state();
  expect(after.ships).toEqual(['Argo 50 [1, 2, 3, 4]']);
  expect(socket.isOpen).toBe(false);
  await harbor.swap(MAIN, ['a calm harbour', 'a harbour with flags']);
  expect(await harbor.get('/greet')).toBe('a harbour with flags');
});

test('a program that exits is reported with its status, and the next edit starts it', async () => {
  const { pid } = await harbor.state();
  const { version } = await harbor.swap(MAIN, ['a calm harbour', 'a closed harbour']);
  const exited = harbor.server.next(isExit);
  await expect(harbor.get('/exit/7')).rejects.toThrow();
  expect(await exited).toEqual({ event: 'exit', program: 'harbor', status: 7, version });

  expect(await revive('a closed harbour', 'a reopened harbour')).toMatchObject({ handedOver: false });
  expect(await harbor.get('/greet')).toBe('a reopened harbour');
  expect((await harbor.state()).pid).not.toBe(pid);
  await harbor.swap(MAIN, ['a reopened harbour', 'a busy harbour']);
  expect(await harbor.get('/greet')).toBe('a busy harbour');
});

test('a program that a signal ends is reported with the signal', async () => {
  const { pid } = await harbor.state();
  const exited = harbor.server.next(isExit);
  process.kill(pid, 'SIGTERM');
  expect(await exited).toMatchObject({ status: 143, signal: 'SIGTERM' });
  await revive('a calm harbour', 'a harbour again');
  expect(await harbor.get('/greet')).toBe('a harbour again');
});

test('a crash of new code is reported with its version; what does not compile starts nothing, the fix does', async () => {
  const calm = '    "a calm harbour"';
  const wrong = '    unsafe { *std::hint::black_box(8 as *const &str) }';
  const { version } = await harbor.swap(MAIN, [calm, wrong]);
  const exited = harbor.server.next(isExit);
  await expect(harbor.get('/greet')).rejects.toThrow();
  expect(await exited).toMatchObject({ status: 139, signal: 'SIGSEGV', version });

  expect(await harbor.change(MAIN, [wrong, '    5'])).toMatchObject({ event: 'failed' });
  await revive("fn greeting() -> &'static str {\n    5", 'fn greeting() -> &\'static str {\n    "a repaired harbour"');
  expect(await harbor.get('/greet')).toBe('a repaired harbour');
});

test('hotslot killed while the program has a patch before it: the program goes on, whole, and a new hotslot starts', async () => {
  const { pid, version } = await harbor.state();
  const socket = await harbor.talk();
  const folder = dirname(await agentSocket(pid));
  // Stopped, so that hotslot is still waiting for the answer when it is killed.
  process.kill(pid, 'SIGSTOP');
  const watcher = watch(folder);
  harbor.server.save(
    MAIN,
    harbor.server
      .read(MAIN)
      .replace('"a calm harbour"', '"a lost harbour"')
      .replace('"low tide".to_owned()', '"a lost tide".to_owned()'),
  );
  // Names of the new code are written just before the patch is sent.
  await once(watcher, 'change');
  watcher.close();
  await harbor.server.kill();
  process.kill(pid, 'SIGCONT');

  const texts = [await harbor.get('/greet'), await harbor.get('/tide')];
  expect([
    ['a calm harbour', 'low tide'],
    ['a lost harbour', 'a lost tide'],
  ]).toContainEqual(texts);
  expect(await socket.ask('ahoy')).toBe('aye 1: ahoy');
  const left = await harbor.state();
  expect(left.pid).toBe(pid);
  expect(left.version - version).toBe(texts[0] === 'a calm harbour' ? 0 : 1);

  const orphaned = harbor;
  harbor = await openHarbor({ args: ['--restart-on-refuse'] });
  expect(harbor.server.events).toContainEqual({
    event: 'log',
    level: 'info',
    text: `ended process ${pid}, which ran on after its hotslot was killed`,
  });
  expect(socket.isOpen).toBe(false);
  orphaned.closeLines();
  expect((await harbor.state()).pid).not.toBe(pid);
  expect(await harbor.get('/greet')).toBe('a calm harbour');
  await harbor.swap(MAIN, ['a calm harbour', 'a harbour with a new pilot']);
  expect(await harbor.get('/greet')).toBe('a harbour with a new pilot');
});
