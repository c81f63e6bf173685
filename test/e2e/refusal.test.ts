// Edits of a page that cannot be taken: it lives on as it was, and a reload brings them.
import { expect, test } from 'vitest';
import { LIB, QUIET } from '../targets.ts';
import { plantGarden } from './garden.ts';

const garden = plantGarden();

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

test('a feature switched on in Cargo.toml, which a reload brings', async () => {
  const tab = await garden.open();
  expect(await tab.click('season')).toBe('winter');
  expect(await garden.edit('app/Cargo.toml', 'default = []', 'default = ["bloom"]')).toMatchObject({
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
