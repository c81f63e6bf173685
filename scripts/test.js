// Arguments of `vitest run` in; vitest's report out, and as the last line `N passed, N failed`, counted from its JSON.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const vitest = fileURLToPath(new URL('../node_modules/vitest/vitest.mjs', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'hotslot-test-'));
const file = join(folder, 'result.json');

try {
  const { status } = spawnSync(
    process.execPath,
    [vitest, 'run', '--reporter=default', '--reporter=json', `--outputFile.json=${file}`, ...process.argv.slice(2)],
    { stdio: 'inherit' },
  );
  const result = JSON.parse(readFileSync(file, 'utf8'));
  // A file that could not be loaded has no tests to count, and has failed all the same.
  const unloaded = result.testResults.filter((each) => each.status === 'failed' && each.assertionResults.length === 0);
  const failed = result.numFailedTests + unloaded.length;
  console.log(`${result.numPassedTests} passed, ${failed} failed`);
  process.exitCode = status === 0 && failed > 0 ? 1 : (status ?? 1);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
