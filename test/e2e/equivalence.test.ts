// Generated programs in; each of them, taken through random edits as patches, does what a fresh build of its final source
// does. More of them: `node fuzz/programs.js --count 100`, and the same with `--native`.
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { pages, processes } from '../../fuzz/drivers.js';
import { checkProgram } from '../../fuzz/programs.js';
import { launchBrowser } from './browser.ts';

const SEEDS = [1, 8, Date.now() % 1_000_000];
const STEPS = 20;
/** An edit or two may change nothing that runs. */
const PATCHES = STEPS / 2;

let browser: Browser;

beforeAll(async () => {
  browser = await launchBrowser();
});

afterAll(() => browser.close());

test.each(SEEDS)('patches of program %i in a page equal a rebuild', { timeout: 600_000 }, async (seed) => {
  expect(await checkProgram(pages(browser), { seed, steps: STEPS })).toBeGreaterThan(PATCHES);
});

test('patches of an optimised program in a page equal a rebuild', { timeout: 600_000 }, async () => {
  const driver = pages(browser, { optimised: true });
  expect(await checkProgram(driver, { seed: 3, steps: STEPS })).toBeGreaterThan(PATCHES);
});

test.each(SEEDS)('patches of program %i in a process equal a rebuild', { timeout: 600_000 }, async (seed) => {
  expect(await checkProgram(processes(), { seed, steps: STEPS })).toBeGreaterThan(PATCHES);
});
