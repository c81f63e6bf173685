// Generated programs in; each of them, taken through random edits as patches, does what a fresh build of its final source
// does. More of them: `node fuzz/programs.js --count 100`.
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { checkProgram } from '../../fuzz/programs.js';
import { launchBrowser } from './browser.ts';

const FIXED = [1, 8];
const STEPS = 20;

let browser: Browser;

beforeAll(async () => {
  browser = await launchBrowser();
});

afterAll(() => browser.close());

test.each([...FIXED, Date.now() % 1_000_000])(
  'patches of program %i equal a rebuild',
  { timeout: 600_000 },
  async (seed) => {
    // An edit or two may change nothing that runs.
    expect(await checkProgram(browser, { seed, steps: STEPS })).toBeGreaterThan(STEPS / 2);
  },
);
