// Child processes of the build stage: started by themselves, or by the shell that waits for an urgent one.
import { expect, test } from 'vitest';
import { run, standBy } from '../src/build/process.ts';

const PRINT = `process.stdout.write(JSON.stringify({
  words: process.argv.slice(1),
  folder: process.cwd(),
  variables: process.env,
  input: require('node:fs').readFileSync(0, 'utf8'),
})); process.stderr.write('first\\nsecond'); process.exitCode = 7;`;

test.each([false, true])('words, variables, folder and output are the same, urgent or not: %s', async (isUrgent) => {
  if (isUrgent) standBy();
  const words = ['', "it's", 'a  b', '$HOME `x` \\ "q"', '*', 'line\nbreak', '-n'];
  const lines: string[] = [];
  const { status, stdout } = await run(process.execPath, ['-e', PRINT, '--', ...words], {
    cwd: '/',
    env: { PATH: '/usr/bin', 'CARGO_BIN_EXE_my-app': "it's = here", EMPTY: '', GONE: undefined },
    onStderr: (line) => lines.push(line),
    isUrgent,
  });
  expect({ status, lines }).toEqual({ status: 7, lines: ['first', 'second'] });
  expect(JSON.parse(stdout)).toEqual({
    words,
    folder: '/',
    variables: { PATH: '/usr/bin', 'CARGO_BIN_EXE_my-app': "it's = here", EMPTY: '' },
    input: '',
  });
});

test('an urgent command can notify, and ends with all that it started when it is aborted', async () => {
  standBy();
  const controller = new AbortController();
  let outcome: Promise<void> | undefined;
  const notified = new Promise<string>((onNotify) => {
    const options = { signal: controller.signal, onNotify, isUrgent: true };
    // It ends only when both hold the pipe no more.
    const ended = run('/bin/sh', ['-c', 'sleep 1000 & echo ready >&3; sleep 1000'], options);
    outcome = expect(ended).rejects.toThrow('enough');
  });
  expect(await notified).toBe('ready');
  controller.abort(new Error('enough'));
  await outcome;
});
