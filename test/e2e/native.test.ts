// Edit → see, for a server: source is saved, and the running process answers by it, on connections that stay open, with
// everything it had.
import { Agent } from 'node:http';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { type Harbor, openHarbor, type State } from './harbor.ts';

const MAIN = 'src/main.rs';
const HOLD = 'hold/src/lib.rs';
const NEW_ITEMS = '// new items\n';

let harbor: Harbor;
/** As the test found it. */
let before: State;

beforeAll(async () => {
  harbor = await openHarbor({
    args: ['--', 'one', '--two', 'three words'],
    environment: { HARBOR_FLAG: 'a flag = 1' },
  });
});
beforeEach(async () => {
  before = await harbor.state();
});
afterEach(async () => {
  harbor.closeLines();
  await harbor.server.restore();
  const after = await harbor.state();
  expect(after.pid).toBe(before.pid);
  expectKept(after);
});
afterAll(async () => {
  expect(await harbor.server.close()).toBe(130);
});

/** What was counted is counted on: statics, thread-locals of a thread that runs all the time, the heap. */
function expectKept(now: State): void {
  for (const count of ['requests', 'sockets', 'ticks', 'turns', 'seals', 'inspections', 'hooks', 'version'] as const) {
    expect(now[count]).toBeGreaterThanOrEqual(before[count]);
  }
  // Both threads-locals count the thread's turns; a sample may fall between the two.
  expect(Math.abs(now.turns - 100 - (now.seals - 7000))).toBeLessThanOrEqual(1);
  expect(now.ships).toEqual(['Argo 50']);
}

test('a helper', async () => {
  expect(await harbor.get('/greet')).toBe('a calm harbour');
  const { functions } = await harbor.swap(MAIN, ['a calm harbour', 'a busy harbour']);
  expect(functions).toEqual(['harbor::greeting']);
  expect(await harbor.get('/greet')).toBe('a busy harbour');
  await harbor.swap(MAIN, ['    "a busy harbour"', '    "a harbour of quite another length"']);
  expect(await harbor.get('/greet')).toBe('a harbour of quite another length');
});

test('what an open WebSocket, an open event stream and an open TCP connection call', async () => {
  const [socket, waves, echo] = [await harbor.talk(), await harbor.waves(), await harbor.echo()];
  expect(await socket.ask('ahoy')).toBe('aye 1: ahoy');
  expect(await waves.next()).toBe('wave 1');
  expect(await echo.ask('hello')).toBe('echo 1: hello');

  await harbor.swap(
    MAIN,
    ['"aye {count}', '"yes, number {count}'],
    ['"wave {count}', '"a high wave {count}'],
    ['"echo {count}', '"from the rocks, {count}'],
  );
  expect(await socket.ask('ahoy')).toBe('yes, number 2: ahoy');
  expect(await waves.until(/high/)).toMatch(/^a high wave \d+$/);
  expect(await echo.ask('hello')).toBe('from the rocks, 2: hello');

  await harbor.swap(MAIN, ['"yes, number {count}', '"still {count}'], ['"a high wave {count}', '"a low wave {count}']);
  expect(await socket.ask('ahoy')).toBe('still 3: ahoy');
  expect(await waves.until(/low/)).toMatch(/^a low wave \d+$/);
  expect(await echo.ask('hello')).toBe('from the rocks, 3: hello');
  expect((await harbor.state()).sockets).toBe(before.sockets + 1);
});

test('the body of an async handler, on one connection', async () => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const { client } = JSON.parse(await harbor.get('/state', agent)) as State;
  expect(await harbor.get('/tide', agent)).toBe('low tide');
  await harbor.swap(MAIN, ['"low tide".to_owned()', 'format!("high tide of {}", greeting().len())']);
  expect(await harbor.get('/tide', agent)).toBe('high tide of 14');
  expect((JSON.parse(await harbor.get('/state', agent)) as State).client).toBe(client);
  agent.destroy();
});

test('the body of a closure that was boxed when the program started', async () => {
  expect(await harbor.get('/toll/7')).toBe('21');
  await harbor.swap(MAIN, ['weight * fee', 'weight * fee + 1000']);
  expect(await harbor.get('/toll/7')).toBe('1021');
});

test('what a request calls that is suspended meanwhile', async () => {
  const waiting = harbor.get('/dock');
  await docked(1);
  await harbor.swap(MAIN, ['"came in"', '"came in late"'], ['"left by day, {arrived}"', '"left by night, {arrived}"']);
  await harbor.post('/leave');
  expect(await waiting).toBe('left by night, came in');

  const next = harbor.get('/dock');
  await docked(1);
  await harbor.post('/leave');
  expect(await next).toBe('left by night, came in late');
});

/** Resolves when so many are docked. Each question is a request, so nothing waits for time to pass. */
async function docked(count: number): Promise<void> {
  while ((await harbor.state()).docked !== count);
}

test('a local more in a function that requests are suspended in', async () => {
  const waiting = harbor.get('/dock');
  await docked(1);
  const answer = await harbor.change(
    MAIN,
    ['/* another await */', 'let log = [harbor.docked.load(Relaxed); 64];\n    tokio::task::yield_now().await;'],
    ['departure(arrived)', 'departure(arrived) + &format!(" and {}", log.len())'],
  );
  await harbor.post('/leave');
  expect(await waiting).toBe('left by day, came in');
  const next = harbor.get('/dock');
  await docked(1);
  await harbor.post('/leave');
  // Either those who wait end by the code they began with and new ones run the new, or all stays as it was.
  if (answer.event === 'patch') expect(await next).toBe('left by day, came in and 64');
  else {
    expect(answer).toMatchObject({ event: 'refused', remedy: 'restart', reason: expect.stringContaining('dock') });
    expect(await next).toBe('left by day, came in');
  }
});

test('a panic in new code is caught by tokio, and its backtrace has names, files and lines of new code', async () => {
  await harbor.swap(MAIN, [
    'fn run_aground() -> u32 {\n    panic!("on the rocks")',
    `#[inline(never)]
fn drift(metres: u32) -> u32 {
    assert!(metres < 5, "{metres} m off course");
    metres
}

fn run_aground() -> u32 {
    drift(3) + drift(7)`,
  ]);
  const line =
    1 +
    harbor.server
      .read(MAIN)
      .split('\n')
      .findIndex((text) => text.includes('metres < 5'));
  const trace = await harbor.get('/wreck');
  expect(trace).toContain(`panicked at src/main.rs:${line}:5:\n7 m off course\n`);
  expect(trace).toMatch(new RegExp(`: harbor::drift\\n +at \\S*src/main.rs:${line}:5\\n`));
  expect(trace).toMatch(new RegExp(`: harbor::run_aground\\n +at \\S*src/main.rs:${line + 5}:16\\n`));
  expect(trace).toMatch(/: tokio::runtime::task::harness::poll_future/);

  await harbor.swap(MAIN, ['drift(7)', 'drift(4)']);
  expect(await harbor.get('/wreck')).toBe('nothing happened in 7 m');
  await harbor.swap(MAIN, ['metres < 5', 'metres > 5']);
  expect(await harbor.get('/wreck')).toContain(`panicked at src/main.rs:${line}:5:\n3 m off course\n`);
});

test('routes: one more, one renamed, one less, with a WebSocket open', async () => {
  const socket = await harbor.talk();
  expect(await socket.ask('ahoy')).toBe('aye 1: ahoy');
  expect(await harbor.get('/buoy')).toBe('a red buoy');
  expect(await harbor.get('/light/3')).toBe('status 404');

  const buoy = '        .route("/buoy", get(buoy))\n';
  await harbor.swap(
    MAIN,
    [buoy, `${buoy}        .route("/light/{count}", get(light))\n`],
    [
      'async fn buoy()',
      `async fn light(State(harbor): Shared, Path(count): Path<usize>) -> String {
    let ships = harbor.ships.lock().unwrap().len();
    format!("{} for {ships}", "flash ".repeat(count))
}

async fn buoy()`,
    ],
  );
  expect(await harbor.get('/light/3')).toBe('flash flash flash  for 1');
  expect(await harbor.get('/buoy')).toBe('a red buoy');
  expect(await socket.ask('ahoy')).toBe('aye 2: ahoy');

  await harbor.swap(MAIN, ['.route("/light/{count}", get(light))', '.route("/beacon/{count}", get(light))']);
  expect(await harbor.get('/light/3')).toBe('status 404');
  expect(await harbor.get('/beacon/1')).toBe('flash  for 1');

  await harbor.swap(MAIN, ['        .route("/beacon/{count}", get(light))\n', '']);
  expect(await harbor.get('/beacon/1')).toBe('status 404');
  expect(await harbor.get('/buoy')).toBe('a red buoy');
  expect(await socket.ask('ahoy')).toBe('aye 3: ahoy');
});

test('a library crate: a default method, a method of a boxed object, a generic function', async () => {
  expect(await harbor.get('/hold')).toBe('<some grain><12 logs of timber>');
  await harbor.swap(HOLD, ['"some {}"', '"a lot of {}"']);
  expect(await harbor.get('/hold')).toBe('<a lot of grain><12 logs of timber>');
  await harbor.swap(HOLD, ['"grain".to_owned()', '"wheat".to_owned()'], ['{} logs of {}', '{} trunks of {}']);
  expect(await harbor.get('/hold')).toBe('<a lot of wheat><12 trunks of timber>');
  await harbor.swap(HOLD, ['"<{item}>"', '"[{item}]"']);
  expect(await harbor.get('/hold')).toBe('[a lot of wheat][12 trunks of timber]');
});

test('a thread that never stops, and its thread-locals, in the program and in the library', async () => {
  await harbor.swap(MAIN, ['fn step() -> u64 {\n    1\n', 'fn step() -> u64 {\n    1_000_000_000\n']);
  let now = await harbor.state();
  while (now.ticks < 1_000_000_000) now = await harbor.state();
  expectKept(now);
  // Those of before, and then some of the new.
  expect(now.ticks % 1_000_000_000).toBeGreaterThanOrEqual(before.ticks % 1_000_000_000);
  await harbor.swap(HOLD, ['SEALS.set(SEALS.get() + 1);', 'SEALS.set(SEALS.get() + 2 - 1);']);
  expectKept(await harbor.state());
});

test('a new static and a new thread-local, neither zero at first, which later patches keep', async () => {
  await harbor.swap(
    MAIN,
    [
      NEW_ITEMS,
      `${NEW_ITEMS}static VISITS: AtomicU64 = AtomicU64::new(500);
thread_local! {
    static OWN_VISITS: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
    static OWN_LIMIT: Cell<(u8, u64)> = const { Cell::new((7, 70_000)) };
}
`,
    ],
    [
      '    greeting().to_owned()',
      `    let visit = VISITS.fetch_add(1, Relaxed);
    OWN_VISITS.with_borrow_mut(|visits| visits.push(visit));
    let (small, large) = OWN_LIMIT.get();
    OWN_LIMIT.set((small, large + 1));
    let own = OWN_VISITS.with_borrow(|visits| visits.len() as u64);
    format!("{visit} {small} {}", large - own)`,
    ],
  );
  // Any of the runtime's threads may answer; each began with the same values.
  for (let visit = 500; visit < 520; visit += 1) expect(await harbor.get('/greet')).toBe(`${visit} 7 69999`);
  await harbor.swap(MAIN, ['"{visit} {small} {}"', '"visit {visit} {small} {}"']);
  for (let visit = 520; visit < 540; visit += 1) expect(await harbor.get('/greet')).toBe(`visit ${visit} 7 69999`);
});

test('a table of constants', async () => {
  expect(await harbor.get('/price/1')).toBe('20 coins');
  await harbor.swap(MAIN, ['[10, 20, 30]', '[10, 25, 30]']);
  expect(await harbor.get('/price/1')).toBe('25 coins');
});

test('functions of std and of a dependency that the program did not have', async () => {
  await harbor.swap(MAIN, [
    '"low tide".to_owned()',
    `let mut heights: std::collections::BTreeMap<String, Vec<f64>> = serde_json::from_str(r#"{"b": [2.5, -1e3], "a": []}"#).unwrap();
    heights.entry("c".to_owned()).or_default().extend([0.1, 7.0]);
    let words: std::collections::HashSet<char> = "tide".chars().collect();
    format!("{heights:?} {} {:?}", words.len(), "1.5e3".parse::<f32>())`,
  ]);
  expect(await harbor.get('/tide')).toBe('{"a": [], "b": [2.5, -1000.0], "c": [0.1, 7.0]} 4 Ok(1500.0)');
});

test('a struct with another field is refused by name, and edits without it go on', async () => {
  const answer = await harbor.change(
    MAIN,
    ['    /* another field */', '    flag: [u64; 4],'],
    ['            load: 50,', '            load: 50,\n            flag: [1, 2, 3, 4],'],
    ['format!("{} {}", it.name, it.load)', 'format!("{} {} {:?}", it.name, it.load, it.flag)'],
  );
  expect(answer).toMatchObject({ event: 'refused', remedy: 'restart', reason: expect.stringContaining('Ship') });
  expect(await harbor.get('/greet')).toBe('a calm harbour');
  await harbor.server.restore();
  await harbor.swap(MAIN, ['a calm harbour', 'a harbour without flags']);
  expect(await harbor.get('/greet')).toBe('a harbour without flags');
});

test('what does not compile is reported with its place, and then mended', async () => {
  const answer = await harbor.change(MAIN, ['"a calm harbour"', '5']);
  expect(answer).toMatchObject({
    event: 'failed',
    diagnostics: [{ severity: 'error', code: 'E0308', place: { path: join(harbor.directory, MAIN) } }],
  });
  expect(await harbor.get('/greet')).toBe('a calm harbour');
  await harbor.swap(MAIN, ["fn greeting() -> &'static str {\n    5", 'fn greeting() -> &\'static str {\n    "five"']);
  expect(await harbor.get('/greet')).toBe('five');
});

test('a child by fork has the new code and nothing of the connection to hotslot; its parent takes patches', async () => {
  expect(await harbor.get('/fork')).toBe('a dinghy with 1 threads, status 0');
  await harbor.swap(MAIN, ['"a dinghy"', '"a raft"']);
  expect(await harbor.get('/fork')).toBe('a raft with 1 threads, status 0');
  await harbor.swap(MAIN, ['"a raft"', '"a lifeboat"']);
  expect(await harbor.get('/fork')).toBe('a lifeboat with 1 threads, status 0');
});

test('hooks are called once for each version, and routes are made anew', async () => {
  await harbor.swap(MAIN, ['a calm harbour', 'a harbour with a hook']);
  let now = await harbor.state();
  while (now.hooks === before.hooks) now = await harbor.state();
  expect(now.version).toBe(before.version + 1);
  expect(now.builds).toBe(before.builds + 1);
});

test('arguments, environment and folder are as given, without anything of hotslot', () => {
  expect(before.arguments).toEqual(['one', '--two', 'three words']);
  expect(before.folder).toBe(harbor.directory);
  expect(before.environment).toMatchObject({ HARBOR_FLAG: 'a flag = 1', PORT: '0', CARGO_PKG_NAME: 'harbor' });
  expect(Object.keys(before.environment).filter((name) => name.startsWith('HOTSLOT'))).toEqual([]);
});

test('a comment changes nothing', async () => {
  expect(await harbor.change(MAIN, ['"a calm harbour"', '/* calm */ "a calm harbour"'])).toMatchObject({
    event: 'unchanged',
  });
});
