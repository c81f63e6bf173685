// Start after start: what the next one takes over from the last, and what must be new all the same.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { LIB } from '../targets.ts';
import { plantGarden } from './garden.ts';

const garden = plantGarden('own');

/** An edit while nothing watches. */
function editAlone(from: string, to: string, file = LIB): void {
  const path = join(garden.directory, file);
  const text = readFileSync(path, 'utf8');
  expect(text).toContain(from);
  writeFileSync(path, text.replace(from, to));
}

async function servedModule(): Promise<string> {
  const response = await fetch(new URL('pkg/garden_bg.wasm', garden.server.url));
  return Buffer.from(await response.arrayBuffer()).toString('latin1');
}

test('what was edited between two starts is there from the first call on, and nothing is remembered', async () => {
  await garden.start();
  const before = await garden.open();
  await before.click('water');
  await garden.closeTabs();
  await garden.stop();

  // In code that runs when a page starts, in a constant, in a layout and in a function that is called later.
  editAlone('Rose { age: 2 }', 'Rose { age: 7 }');
  editAlone('[10, 20, 30]', '[10, 20, 33]');
  editAlone('    poured: u32,\n', '    spilled: u64,\n    poured: u32,\n');
  editAlone('Can { poured: 0 }', 'Can { spilled: 1 << 40, poured: 0 }');
  editAlone('can.poured += 1;', 'can.poured += 1;\n        assert_eq!(can.spilled, 1 << 40);');
  await garden.start();
  // Functions that a patch brought go by their readable names: the linker and wasm-bindgen were not needed.
  expect(await servedModule()).toContain('garden::start');

  const tab = await garden.open();
  expect(await tab.click('bed')).toBe('gnome 1, rose 14');
  expect(await tab.click('price')).toBe('63');
  await tab.expectUndisturbed();

  await garden.swap(LIB, '[10, 20, 33]', '[10, 20, 44]');
  expect(await tab.click('price')).toBe('74');
  await tab.expectUndisturbed();
});

test('an initial value that a running program would not take is there after a start', async () => {
  await garden.start();
  await garden.stop();
  editAlone('AtomicU32::new(0)', 'AtomicU32::new(5)', 'app/src/visits.rs');
  await garden.start();
  const tab = await garden.open();
  expect(await tab.click('water')).toBe('can 1, clicks 6, steps 1');
  expect(await servedModule()).not.toContain('garden::');
});
