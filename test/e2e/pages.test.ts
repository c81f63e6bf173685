// Several pages, pages that come and go, and servers that do: whoever is there runs the current code.
import { expect, test } from 'vitest';
import { LIB, PLANTS } from '../targets.ts';
import { plantGarden } from './garden.ts';
import { launchServer } from './harness.ts';

const garden = plantGarden('own');

test('an optimised program', async () => {
  await garden.start({ args: ['--release'] });
  const tab = await garden.open();
  await tab.expectUndisturbed();
  await garden.swap(LIB, '"gnome".to_owned()', '"dwarf".to_owned()');
  await garden.swap(PLANTS, 'each > best', 'each < best');
  await garden.swap(LIB, 'a quiet garden', 'a fast garden');
  expect(await tab.click('bed')).toBe('dwarf 1, rose 4');
  expect(await tab.click('count')).toBe('3 plants, best Some(3)');
  expect(await tab.click('look')).toBe('a fast garden');
  await tab.expectUndisturbed();
  await garden.swap(LIB, 'can.poured += 1;', 'can.poured += 10;');
  expect(await tab.click('water')).toBe('can 12, clicks 6, steps 6');
});

test('two tabs, each with its own state', async () => {
  await garden.start();
  const [one, other] = [await garden.open(), await garden.open()];
  await one.click('water');
  expect((await garden.swap(LIB, 'a quiet garden', 'a shared garden')).clients).toBe(2);
  for (const tab of [one, other]) {
    expect(await tab.click('look')).toBe('a shared garden');
    await tab.expectUndisturbed();
  }
});

test('a reload after three patches runs the current code with fresh state; a second tab joins at that version', async () => {
  await garden.start();
  const tab = await garden.open();
  await tab.click('water');
  await garden.swap(LIB, 'a quiet garden', 'a first garden');
  await garden.swap(PLANTS, '{count} plants', '{count} trees');
  expect((await garden.swap(LIB, 'a first garden', 'a second garden')).version).toBe(3);
  expect(await tab.click('look')).toBe('a second garden');
  await tab.expectUndisturbed();

  await tab.reload();
  const joined = garden.server.next((event) => event.event === 'client' && event.state === 'joined');
  const second = await garden.open();
  expect(await joined).toMatchObject({ version: 3 });
  for (const each of [tab, second]) {
    expect(await each.click('look')).toBe('a second garden');
    expect(await each.click('count')).toBe('3 trees, best Some(9)');
    expect(await each.click('water')).toBe('can 1, clicks 3, steps 3');
  }
  expect((await garden.swap(LIB, 'a second garden', 'a third garden')).version).toBe(4);
  for (const each of [tab, second]) expect(await each.click('look')).toBe('a third garden');
  await second.expectUndisturbed();
});

test('a patch that imports JavaScript reaches tabs that come later', async () => {
  await garden.start();
  await garden.swap(
    LIB,
    '"a quiet garden".to_owned()',
    'web_sys::console::warn_1(&"psst".into());\n    "hush".to_owned()',
  );
  const tab = await garden.open();
  const warning = tab.open.page.waitForEvent('console', (message) => message.text() === 'psst');
  expect(await tab.click('look')).toBe('hush');
  await warning;
  await tab.expectUndisturbed();
});

test('a server that was killed and started again: the page finds it, and keeps its state when the program is the same', async () => {
  await garden.start();
  const tab = await garden.open();
  await tab.click('water');
  const { port } = garden.server;
  await garden.server.kill();
  await tab.expectUndisturbed();

  await garden.start({ port });
  await garden.server.first((event) => event.event === 'client' && event.state === 'joined');
  await garden.swap(LIB, 'a quiet garden', 'a patient garden');
  expect(await tab.click('look')).toBe('a patient garden');
  await tab.expectUndisturbed();

  // The next server's base has the patch in it: another program, which the page loads by itself.
  await garden.server.kill();
  await garden.start({ port });
  await tab.reloaded();
  expect(await tab.click('look')).toBe('a patient garden');
  expect(await tab.click('water')).toBe('can 1, clicks 2, steps 2');
  await garden.swap(LIB, 'a patient garden', 'a garden at last');
  expect(await tab.click('look')).toBe('a garden at last');
});

test('a first build that fails is mended by an edit', async () => {
  garden.server = launchServer(garden.directory, { folder: garden.package });
  const { server } = garden;
  server.save(LIB, server.edited(LIB, '"a quiet garden".to_owned()', '5'));
  const failed = await server.next(({ event }) => event === 'failed' || event === 'ready');
  expect(failed).toMatchObject({ event: 'failed', diagnostics: [{ severity: 'error' }] });
  const ready = server.next(({ event }) => event === 'ready');
  server.save(LIB, server.edited(LIB, '    5\n', '    "a late garden".to_owned()\n'));
  expect(await ready).toMatchObject({ version: 0 });
  const tab = await garden.open();
  expect(await tab.click('look')).toBe('a late garden');
  await garden.swap(LIB, 'a late garden', 'a later garden');
  expect(await tab.click('look')).toBe('a later garden');
  await tab.expectUndisturbed();
});
