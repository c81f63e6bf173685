// Two projects: `unit` runs in seconds from committed files; `e2e` builds real crates and drives a real browser.
import { defineConfig } from 'vitest/config';

const SLOW = [
  'test/e2e/**/*.test.ts',
  'test/build.test.ts',
  'test/layout.test.ts',
  'test/native.test.ts',
  'test/process.test.ts',
];

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/*.test.ts'],
          exclude: SLOW,
        },
      },
      {
        test: {
          name: 'e2e',
          include: SLOW,
          // One cargo at a time: builds that run side by side take each other's cores and time out.
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 600_000,
        },
      },
    ],
  },
});
