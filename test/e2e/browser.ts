// A real Chromium for the tests: the system's, without a profile and without its own traffic.
import { type Browser, chromium } from 'playwright-core';
import { findChromium } from '../../src/build/toolchain.ts';

/** `CHROMIUM` in the environment names another executable. */
export function launchBrowser(): Promise<Browser> {
  const executablePath = process.env['CHROMIUM'] ?? findChromium();
  if (executablePath === undefined) throw new Error('these tests need Chromium: apt-get install chromium');
  return chromium.launch({
    executablePath,
    args: [
      // For root, as in containers.
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}
