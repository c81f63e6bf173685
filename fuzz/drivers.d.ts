import type { Browser } from 'playwright-core';

/** Builds, runs and calls the programs of one kind. */
export interface Driver {
  readonly platform: 'wasm' | 'native';
  readonly folder: string;
}

export function pages(browser: Browser, options?: { readonly optimised?: boolean }): Driver;
export function processes(): Driver;
