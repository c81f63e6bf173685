// The same edits of a native program, however it was linked and wherever it lies in memory.
import { readFileSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { LIB, PLANTS, QUIET } from '../targets.ts';
import { copyCrate, launchServer, type StartOptions } from './harness.ts';
import { Stall } from './stall.ts';

const stall = new Stall();

afterEach(() => stall.stop());

interface Flavour extends StartOptions {
  readonly name: string;
  /** What the linker leaves in the program. */
  readonly mark?: RegExp;
  /** Where the program begins. */
  readonly start?: RegExp;
}

const linkedBy = (linker: string): Record<string, string> => ({ RUSTFLAGS: `-Clink-arg=-fuse-ld=${linker}` });

const FLAVOURS: readonly Flavour[] = [
  { name: 'by the linker that rustc takes, at a random address', start: /^5[56].*(?<!555555554000)$/ },
  { name: 'at the same address each time', under: ['setarch', '-R'], start: /^555555554000$/ },
  {
    name: 'to run where it was linked',
    environment: { RUSTFLAGS: '-Crelocation-model=static' },
    start: /^0*[24]00000$/,
  },
  { name: 'by GNU ld', environment: linkedBy('bfd'), mark: /^(?!.*(?:LLD|mold) \d)/s },
  { name: 'by lld', environment: linkedBy('lld'), mark: /LLD \d/ },
  { name: 'by mold', environment: linkedBy('mold'), mark: /mold \d/ },
  { name: 'optimised', args: ['--release'] },
];

test.each(FLAVOURS)('a program linked $name', async ({ mark, start, ...options }) => {
  await stall.start({ ...options, environment: { RUST_BACKTRACE: '1', ...options.environment } });
  const { server } = stall;
  const customer = await stall.open();
  await customer.expectUndisturbed();
  if (start !== undefined) expect(startOf(stall.pid)).toMatch(start);
  if (mark !== undefined) expect(readFileSync(`/proc/${stall.pid}/exe`, 'latin1')).toMatch(mark);

  // A new function: a thread-local, functions of std that nothing called, an import of libc, and an unwound stack.
  const answer = await server.edit(
    LIB,
    QUIET,
    `visit()
}

#[inline(never)]
fn visit() -> String {
    thread_local! {
        static LEFT: std::cell::Cell<u64> = const { std::cell::Cell::new(41) };
    }
    LEFT.set(LEFT.get() + 1);
    let caught = std::panic::catch_unwind(|| {
        assert!(LEFT.get() < 42, "over the fence");
    });
    let words: std::collections::BTreeSet<&str> = "a rose is a rose".split(' ').collect();
    let link = std::fs::read_link("/proc/self/exe").is_ok();
    format!("{} {} {words:?} {link}", LEFT.get(), caught.is_err())`,
  );
  expect(answer).toMatchObject({ event: 'patch', clients: 1 });
  const line =
    1 +
    server
      .read(LIB)
      .split('\n')
      .findIndex((text) => text.includes('over the fence'));
  const named = server.next((event) => event.event === 'log' && /\d+: garden::visit\b/.test(event.text));
  const placed = server.next((event) => event.event === 'log' && event.text.endsWith(`app/src/lib.rs:${line}:9`));
  expect(await customer.click('look')).toBe('42 true {"a", "is", "rose"} true');
  await Promise.all([named, placed]);

  expect(await server.edit(PLANTS, 'self.age * 2', 'self.age * 3')).toMatchObject({ event: 'patch' });
  expect(await customer.click('bed')).toBe('gnome 1, rose 6');
  expect(await server.edit(LIB, 'can.poured += 1;', 'can.poured += 0;\n        can.poured += 1;')).toMatchObject({
    event: expect.stringMatching(/patch|unchanged/),
  });
  await customer.expectUndisturbed();
});

test('libc linked into the program is refused before anything runs', async () => {
  const directory = copyCrate('test/fixtures/garden', 'garden');
  const server = launchServer(directory, {
    args: ['-p', 'stall'],
    environment: { RUSTFLAGS: '-Ctarget-feature=+crt-static' },
  });
  expect(await server.next(({ event }) => event === 'failed' || event === 'ready')).toMatchObject({
    event: 'failed',
    diagnostics: [
      {
        severity: 'error',
        text: 'hotslot cannot patch a program that libc is linked into',
        hint: 'Leave out `-C target-feature=+crt-static` while developing.',
      },
    ],
  });
  await server.close();
});

/** The address of the program's first bytes. */
function startOf(pid: number): string | undefined {
  const maps = readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n');
  return maps.find((line) => line.endsWith('/garden'))?.split('-')[0];
}
