// The shell around a session: what is read from the command line and Cargo.toml, and what is printed, to the letter.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

import type { Event } from '../src/model.ts';
import { merge, readArguments, readMetadata } from '../src/options.ts';
import { bytes, duration, openTerminal, type TerminalOptions } from '../src/terminal.ts';

const CLI = fileURLToPath(new URL('../dist/cli.js', import.meta.url));

function read(...args: string[]): ReturnType<typeof readArguments> {
  return readArguments(args, '0.0.0');
}

describe('arguments', () => {
  test('serve is the default, and nothing is assumed of what was not said', () => {
    expect(read()).toEqual({ kind: 'serve', settings: {} });
    expect(read('serve')).toEqual({ kind: 'serve', settings: {} });
  });

  test('flags have the names of cargo', () => {
    expect(read('-p', 'app', '--bin', 'web', '-F', 'a,b c', '--features', 'd', '--no-default-features')).toEqual({
      kind: 'serve',
      settings: { package: 'app', bin: 'web', features: ['a', 'b', 'c', 'd'], noDefaultFeatures: true },
    });
    expect(read('build', '-r', '--example', 'demo', '--all-features', '--out-dir', 'site/pkg')).toEqual({
      kind: 'build',
      settings: { release: true, example: 'demo', allFeatures: true, outDir: 'site/pkg' },
    });
    expect(read('--port', '0', '--host', '0.0.0.0', '--open', '--json', '--profile', 'fast')).toEqual({
      kind: 'serve',
      settings: { port: 0, host: '0.0.0.0', open: true, json: true, profile: 'fast' },
    });
    expect(read('doctor', '--fix')).toEqual({ kind: 'doctor', settings: { fix: true } });
  });

  test.each([
    [['srve'], "no command 'srve'", "did you mean 'serve'?"],
    [['fly'], "no command 'fly'", 'hotslot --help lists commands and options'],
    [['--feature', 'x'], "no option '--feature' for serve", "did you mean '--features'?"],
    [['build', '--relase'], "no option '--relase' for build", "did you mean '--release'?"],
    [['build', '--port', '1'], "no option '--port' for build", 'hotslot --help lists commands and options'],
    [['-x'], "no option '-x' for serve", 'hotslot --help lists commands and options'],
    [['doctor', 'all'], "unexpected argument 'all'", 'hotslot --help lists commands and options'],
    [['--port', 'high'], '--port needs a port number, 0 to 65535', 'hotslot --help lists commands and options'],
    [['--port', '65536'], '--port needs a port number, 0 to 65535', 'hotslot --help lists commands and options'],
    [['--bin'], '--bin needs one value', 'hotslot --help lists commands and options'],
    [['--bin', 'a', '--bin', 'b'], '--bin needs one value', 'hotslot --help lists commands and options'],
    [['--bin', 'a', '--example', 'b'], '--bin and --example exclude each other', undefined],
    [['-r', '--profile', 'b'], '--profile and --release exclude each other', undefined],
  ])('%j is a mistake', (args, text, hint) => {
    const command = read(...args);
    expect(command).toMatchObject({ kind: 'mistake', diagnostic: { severity: 'error', text } });
    if (hint !== undefined) expect(command).toMatchObject({ diagnostic: { hint } });
  });
});

describe('package.metadata.hotslot', () => {
  test('has the keys of the flags', () => {
    const metadata = { bin: 'web', features: ['a', 'b'], 'no-default-features': true, port: 3000, 'out-dir': 'site' };
    expect(readMetadata(metadata, 'Cargo.toml')).toEqual({
      bin: 'web',
      features: ['a', 'b'],
      noDefaultFeatures: true,
      port: 3000,
      outDir: 'site',
    });
    expect(readMetadata(undefined, 'Cargo.toml')).toEqual({});
    expect(readMetadata(null, 'Cargo.toml')).toEqual({});
  });

  test.each([
    [{ prot: 1 }, "Cargo.toml: package.metadata.hotslot has no key 'prot'", "did you mean 'port'?"],
    [{ json: true }, "Cargo.toml: package.metadata.hotslot has no key 'json'", undefined],
    [{ open: 'yes' }, 'Cargo.toml: package.metadata.hotslot.open is on or off and takes no other value', undefined],
    ['yes', 'Cargo.toml: package.metadata.hotslot is not a table', undefined],
  ])('%j is a mistake', (metadata, text, hint) => {
    expect(readMetadata(metadata, 'Cargo.toml')).toEqual({
      severity: 'error',
      text,
      ...(hint === undefined ? {} : { hint }),
    });
  });

  test('gives way to the command line', () => {
    expect(merge({ port: 1 }, { port: 2, host: 'a' })).toEqual({ port: 1, host: 'a' });
    expect(merge({ example: 'demo', release: true }, { bin: 'web', profile: 'fast' })).toEqual({
      example: 'demo',
      release: true,
    });
  });
});

function print(events: readonly Event[], options: Partial<TerminalOptions> = {}): string {
  let text = '';
  const terminal = openTerminal({
    write: (part) => (text += part),
    live: false,
    colours: false,
    columns: 80,
    directory: '/home/me/app',
    ...options,
  });
  events.forEach(terminal.report);
  terminal.close();
  return text;
}

describe('terminal', () => {
  const patch: Event = {
    event: 'patch',
    version: 3,
    functions: ['app::label'],
    bytes: 249,
    rustcMs: 163.4,
    linkMs: 4.26,
    applyMs: 3.04,
    totalMs: 171.2,
    clients: 1,
    warnings: [],
  };

  test('start-up: a line per quarter of the build in a log, then the address', () => {
    const building = [0, 1, 2, 3, 4, 5, 6, 7, 8].map((done): Event => ({
      event: 'progress',
      text: `crate${done}`,
      done,
      total: 8,
    }));
    const ready: Event = { event: 'ready', url: 'http://127.0.0.1:8080/', version: 0, linkMs: 234, ms: 1234 };
    expect(print([...building, { event: 'progress', text: 'wasm-bindgen' }, ready])).toBe(
      [
        '  Building  0/8 crate0',
        '  Building  2/8 crate2',
        '  Building  4/8 crate4',
        '  Building  6/8 crate6',
        '  Building  8/8 crate8',
        '  Building  wasm-bindgen',
        '     Ready  in 1.2 s',
        '            http://127.0.0.1:8080/',
        '',
        '',
      ].join('\n'),
    );
  });

  test('on a terminal, one live line that is drawn over and cut to fit', () => {
    const events: Event[] = [
      { event: 'progress', text: 'a-crate-with-a-long-name', done: 1, total: 20 },
      { event: 'progress', text: 'serde', done: 2, total: 20 },
      { event: 'unchanged', rustcMs: 151, warnings: [] },
    ];
    expect(print(events, { live: true, columns: 32 })).toBe(
      '  Building  1/20 a-crate-with-…' +
        '\r\x1b[2K  Building  2/20 serde' +
        '\r\x1b[2K Unchanged  the running code is the same (rustc 151 ms)\n',
    );
    expect(print(events.slice(0, 1), { live: true })).toBe('  Building  1/20 a-crate-with-a-long-name\r\x1b[2K');
  });

  test('an edit and its patch', () => {
    expect(print([{ event: 'change', paths: ['/home/me/app/src/lib.rs', '/home/me/lib/src/lib.rs'] }, patch])).toBe(
      [
        '   Changed  src/lib.rs, /home/me/lib/src/lib.rs',
        '   Patch 3  app::label · 249 B · 171 ms (rustc 163, link 4.3, apply 3.0) · 1 page',
        '',
      ].join('\n'),
    );
  });

  test('many functions, none, no page, warnings', () => {
    const warning = {
      severity: 'warning',
      text: 'the initialiser of `TOTAL` changed; its value is kept',
      place: { path: '/home/me/app/src/lib.rs', line: 7, column: 1 },
      hint: 'Reload the page to start from the new value.',
    } as const;
    const many = ['a::one', `a::two<${'x'.repeat(80)}>`, 'a::three', 'a::four', 'a::five'];
    expect(print([{ ...patch, functions: many, bytes: 4900, clients: 2, warnings: [warning] }])).toBe(
      [
        `   Patch 3  a::one, a::two<${'x'.repeat(56)}… +3 more · 4.9 kB · 171 ms (rustc 163, link 4.3, apply 3.0) · 2 pages`,
        '   Warning  the initialiser of `TOTAL` changed; its value is kept',
        '            src/lib.rs:7:1',
        '            Reload the page to start from the new value.',
        '',
      ].join('\n'),
    );
    expect(print([{ ...patch, functions: [], clients: 0 }])).toBe(
      '   Patch 3  data only · 249 B · 171 ms (rustc 163, link 4.3, apply 3.0) · no page open\n',
    );
  });

  test('a refusal says what, where and what to do', () => {
    const place = { path: '/home/me/app/src/lib.rs', line: 7, column: 1 };
    expect(
      print([{ event: 'refused', reason: 'static `TABLE` grew from 8 to 16 bytes', remedy: 'reload', place }]),
    ).toBe(
      [
        '   Refused  static `TABLE` grew from 8 to 16 bytes',
        '            src/lib.rs:7:1',
        '            The page goes on with the code it has. Reload it to run the new code.',
        '',
      ].join('\n'),
    );
  });

  test('compile errors are printed as rustc rendered them, coloured only where colours are wanted', () => {
    const rendered = '\x1b[1m\x1b[91merror[E0308]\x1b[0m: mismatched types\n --> src/lib.rs:3:5\n\n';
    const failed: Event = { event: 'failed', diagnostics: [{ severity: 'error', text: 'mismatched types', rendered }] };
    expect(print([failed])).toBe(
      'error[E0308]: mismatched types\n --> src/lib.rs:3:5\n\n    Failed  1 error; waiting for an edit that mends it\n',
    );
    const ready: Event = { event: 'ready', url: 'http://127.0.0.1:8080/', version: 0, linkMs: 234, ms: 1234 };
    expect(print([ready, failed])).toMatch(/\n    Failed  1 error; the page goes on with the code it has\n$/);
    expect(print([failed], { colours: true })).toContain('\x1b[91merror[E0308]\x1b[0m: mismatched types');
  });

  test('a diagnostic of our own: text, place, notes, hint', () => {
    const failed: Event = {
      event: 'failed',
      diagnostics: [
        {
          severity: 'error',
          code: 'E1',
          text: 'no linker',
          place: { path: '/home/me/app/Cargo.toml', line: 1, column: 2 },
          notes: ['looked on PATH', 'looked in\nthe sysroot'],
          hint: 'apt-get install lld-22',
        },
        { severity: 'error', text: 'nothing to link' },
      ],
    };
    expect(print([failed])).toBe(
      [
        '     Error  [E1] no linker',
        '            Cargo.toml:1:2',
        '            looked on PATH',
        '            looked in',
        '            the sysroot',
        '            apt-get install lld-22',
        '     Error  nothing to link',
        '    Failed  2 errors; waiting for an edit that mends it',
        '',
      ].join('\n'),
    );
  });

  test('pages, reloads, undone patches and what a page logs', () => {
    expect(
      print([
        { event: 'client', client: 'a1', kind: 'page', state: 'joined', version: 2 },
        { event: 'client', client: 'a1', kind: 'page', state: 'left', version: 2 },
        { event: 'reload', reason: 'the program was linked anew', version: 4 },
        { event: 'undo', reason: 'RangeError: failed to grow table', version: 3 },
        { event: 'log', level: 'error', text: 'panicked at src/lib.rs:3:5:\nno\x1b[2J\x07 more\n', client: 'a1' },
        { event: 'log', level: 'info', text: 'watching again' },
      ]),
    ).toBe(
      [
        '      Page  a1 joined at version 2',
        '      Page  a1 left at version 2',
        '    Reload  the program was linked anew; pages start again at version 4',
        '    Undo 3  RangeError: failed to grow table',
        '      Page  panicked at src/lib.rs:3:5:',
        '            no more',
        '      Note  watching again',
        '',
      ].join('\n'),
    );
  });

  test('what is needed: found, or missing and how to get it', () => {
    let text = '';
    const write = (part: string): void => void (text += part);
    const terminal = openTerminal({ write, live: false, colours: false, columns: 80, directory: '/' });
    terminal.need({ name: 'wasm linker', found: '/usr/bin/wasm-ld-22' });
    terminal.need({ name: 'C compiler', missing: { why: 'macros are linked by it', fix: 'apt-get install gcc' } });
    expect(text).toBe(
      [
        '     Found  wasm linker (/usr/bin/wasm-ld-22)',
        '   Missing  C compiler: macros are linked by it',
        '            apt-get install gcc',
        '',
      ].join('\n'),
    );
  });

  test('numbers have a unit and no more digits than mean something', () => {
    expect([0.04, 9.94, 9.96, 170.6, 999.4, 999.6, 59_940, 61_000].map(duration)).toEqual([
      '0.0 ms',
      '9.9 ms',
      '10 ms',
      '171 ms',
      '999 ms',
      '1.0 s',
      '59.9 s',
      '1 min 1 s',
    ]);
    expect([0, 999, 1000, 606_786, 999_949, 14_500_000].map(bytes)).toEqual([
      '0 B',
      '999 B',
      '1.0 kB',
      '606.8 kB',
      '999.9 kB',
      '14.5 MB',
    ]);
  });
});

function run(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, ...args], {
    encoding: 'utf8',
    env: { ...process.env, NO_COLOR: '1' },
  });
  return { status, stdout, stderr };
}

describe('the program', () => {
  test('--help and --version answer on standard output', () => {
    const help = run('--help');
    expect(help).toMatchObject({ status: 0, stderr: '' });
    expect(help.stdout).toContain('\n  -p, --package <name>   Package of the workspace\n');
    expect(help.stdout).toContain('\n  --no-default-features  Without the default features\n');
    expect(run('build', '--help').stdout).toContain('--out-dir <folder>');
    expect(run('--version').stdout).toMatch(/^hotslot\/\d+\.\d+\.\d+ /);
  });

  test('a mistake on the command line: usage, one line, exit code 2, no stack', () => {
    expect(run('serve', '--prot', '80')).toEqual({
      status: 2,
      stdout: '',
      stderr: [
        'Usage: hotslot serve [options]',
        "     Error  no option '--prot' for serve",
        "            did you mean '--port'?",
        '',
      ].join('\n'),
    });
  });
});
