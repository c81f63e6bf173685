// Edits that cannot be taken, do not compile, or crash: the page lives on as it was, and the next good edit works.
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { plantGarden } from './garden.ts';

const LIB = 'src/lib.rs';
const QUIET = '"a quiet garden".to_owned()';

const garden = plantGarden();

test('a static that changed its size is refused by name; edits without it go on', async () => {
  const tab = await garden.open();
  const small = 'static PRICES: [u32; 3] = [10, 20, 30];';
  expect(await garden.edit(LIB, small, 'static PRICES: [u32; 4] = [10, 20, 30, 40];')).toEqual({
    event: 'refused',
    reason: 'static `garden::PRICES` is 16 bytes in the new code and 12 in the running program',
    remedy: 'reload',
  });
  expect(await tab.click('price')).toBe('60');
  await tab.expectUndisturbed();

  // As long as it is in the source, it is what every edit is about.
  expect((await garden.edit(LIB, 'a quiet garden', 'a waiting garden')).event).toBe('refused');
  expect(await tab.click('look')).toBe('a quiet garden');

  await garden.swap(LIB, 'static PRICES: [u32; 4] = [10, 20, 30, 40];', small);
  expect(await tab.click('look')).toBe('a waiting garden');
  expect(await tab.click('price')).toBe('60');
  await tab.expectUndisturbed();
});

test('a reload brings what was refused', async () => {
  const tab = await garden.open();
  await tab.click('water');
  expect((await garden.edit(LIB, '[u32; 3] = [10, 20, 30]', '[u64; 3] = [1, 2, 3]')).event).toBe('failed');
  expect((await garden.edit(LIB, 'fn total(beds: usize) -> u32', 'fn total(beds: usize) -> u64')).event).toBe(
    'refused',
  );
  expect(await tab.click('price')).toBe('60');
  await tab.expectUndisturbed();
  await tab.reload();
  expect(await tab.click('price')).toBe('6');
  expect(await tab.click('water')).toBe('can 1, clicks 2, steps 2');
  await garden.swap(LIB, 'a quiet garden', 'a changed garden');
  expect(await tab.click('look')).toBe('a changed garden');
});

test('a function with a closure more is refused, as its closures are known by their number', async () => {
  const tab = await garden.open();
  const look = 'on_click("look", look);';
  expect(await garden.edit(LIB, look, 'on_click("look", || format!("{}!", look()));')).toEqual({
    event: 'refused',
    reason:
      '`garden::start` has 7 closures where the running program has 6 closures; the closures already created would run the wrong code',
    remedy: 'reload',
  });
  expect(await tab.click('look')).toBe('a quiet garden');
  expect(await tab.click('motto')).toBe('Grow.');
  await tab.expectUndisturbed();
});

test('a trait that gains a method is refused, as objects with the old table live', async () => {
  const tab = await garden.open();
  const answer = await garden.edit(
    '../plants/src/lib.rs',
    'fn name(&self) -> String;\n',
    'fn thirst(&self) -> u32 {\n        3\n    }\n\n    fn name(&self) -> String;\n',
  );
  expect(answer).toMatchObject({ event: 'refused', remedy: 'reload' });
  expect(answer).toHaveProperty(
    'reason',
    expect.stringMatching(/^objects that exist were made with an older `.*Plant/),
  );
  expect(await tab.click('bed')).toBe('gnome 1, rose 4');
  await tab.expectUndisturbed();
});

test('an exported function with other parameters is refused, as the glue in the page knows the old ones', async () => {
  const tab = await garden.open();
  expect(await garden.edit(LIB, 'baskets: u32', 'baskets: f64')).toEqual({
    event: 'refused',
    reason: "`harvest` takes or returns other types, and the page's scripts know the old ones",
    remedy: 'reload',
  });
  expect(await tab.open.page.evaluate("garden.harvest('Ada', 3)")).toBe('Ada brings 3 baskets');
  await tab.expectUndisturbed();
});

test('a constant of JavaScript is refused, as code knows it by its place among those of the start', async () => {
  const tab = await garden.open();
  const answer = await garden.edit(
    LIB,
    `fn look() -> String {\n    ${QUIET}`,
    `use web_sys::js_sys;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(thread_local_v2, static_string)]
    static PHRASE: js_sys::JsString = "a constant garden";
}

fn look() -> String {
    PHRASE.with(|phrase| phrase.as_string().unwrap())`,
  );
  expect(answer).toEqual({
    event: 'refused',
    reason: 'the JavaScript constants that the program starts with are others',
    remedy: 'reload',
  });
  await tab.expectUndisturbed();
  await tab.reload();
  expect(await tab.click('look')).toBe('a constant garden');
  // The place of the first constant in the new program tells dropped values from it.
  await garden.swap(LIB, 'phrase.as_string()', 'phrase.clone().as_string()');
  expect(await tab.click('look')).toBe('a constant garden');
  expect(await tab.click('look')).toBe('a constant garden');
});

test('a feature switched on in Cargo.toml makes it another crate, which a reload brings', async () => {
  const tab = await garden.open();
  expect(await tab.click('season')).toBe('winter');
  expect(await garden.edit('Cargo.toml', 'default = []', 'default = ["bloom"]')).toMatchObject({
    event: 'refused',
    reason: expect.stringContaining('crate `garden` was compiled with other features, dependencies or flags'),
    remedy: 'reload',
  });
  expect(await tab.click('season')).toBe('winter');
  await tab.expectUndisturbed();
  await tab.reload();
  expect(await tab.click('season')).toBe('spring');
  await garden.swap(LIB, '"spring"', '"summer"');
  expect(await tab.click('season')).toBe('summer');
});

test('another initial value of a static that the program writes: kept, with a warning', async () => {
  const tab = await garden.open();
  await tab.click('water');
  const answer = await garden.edit('src/page.rs', 'AtomicU32::new(0)', 'AtomicU32::new(500)');
  expect(answer).toMatchObject({
    warnings: [
      {
        severity: 'warning',
        text: 'static `garden::page::CLICKS` has another initial value; the running program keeps the value it has',
        hint: 'reload the page to start from the new value',
      },
    ],
  });
  await tab.expectUndisturbed();
});

test('what does not compile is reported with its place, and then mended', async () => {
  const tab = await garden.open();
  expect(await garden.edit(LIB, QUIET, '5')).toMatchObject({
    event: 'failed',
    diagnostics: [
      {
        severity: 'error',
        code: 'E0308',
        text: 'mismatched types',
        place: { path: join(garden.directory, LIB), line: 57, column: 5, lineText: '    5' },
      },
    ],
  });
  expect(await tab.click('look')).toBe('a quiet garden');
  await garden.swap(LIB, 'fn look() -> String {\n    5', 'fn look() -> String {\n    5.to_string()');
  expect(await tab.click('look')).toBe('5');
  await tab.expectUndisturbed();
});

test('an error in a dependency, and then its fix', async () => {
  const tab = await garden.open();
  const path = '../plants/src/lib.rs';
  expect(await garden.edit(path, '{count} plants', '{cuont} plants')).toMatchObject({
    event: 'failed',
    diagnostics: [{ code: 'E0425', place: { path: join(garden.directory, path) } }],
  });
  await garden.swap(path, '{cuont} plants', '{count} weeds');
  expect(await tab.click('count')).toBe('3 weeds, best Some(9)');
  await tab.expectUndisturbed();
});

test('a broken Cargo.toml, an edit meanwhile, and then the fix', async () => {
  const tab = await garden.open();
  expect(await garden.edit('Cargo.toml', 'default = []', 'default = [')).toMatchObject({
    event: 'failed',
    diagnostics: [{ severity: 'error', place: { path: join(garden.directory, 'Cargo.toml') } }],
  });
  expect((await garden.edit(LIB, 'a quiet garden', 'a garden to be')).event).toBe('failed');
  expect(await tab.click('look')).toBe('a quiet garden');
  await garden.swap('Cargo.toml', 'default = [', 'default = []');
  expect(await tab.click('look')).toBe('a garden to be');
  await tab.expectUndisturbed();
});

test('a panic in new code is reported and leaves the rest alive, and then its fix', async () => {
  const tab = await garden.open();
  await garden.swap(LIB, QUIET, 'panic!("the gate is stuck")');
  const logged = garden.server.next((event) => event.event === 'log' && event.text.includes('the gate is stuck'));
  await tab.click('look');
  expect(await logged).toMatchObject({ level: 'error', text: expect.stringContaining('panicked at src/lib.rs:57:5') });
  expect(tab.open.errors).toEqual(['RuntimeError: unreachable']);
  expect(await tab.click('water')).toBe(tab.memory);

  await garden.swap(LIB, 'panic!("the gate is stuck")', '"open again".to_owned()');
  expect(await tab.click('look')).toBe('open again');
  expect(await tab.click('water')).toBe(tab.memory);
  expect(await tab.open.isSameDocument()).toBe(true);
});
