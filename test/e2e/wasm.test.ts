// Edit → see, in a page: what all kinds of programs show, and what only pages have.
import { expect, test } from 'vitest';
import { LIB, QUIET, testEdits } from '../targets.ts';
import { plantGarden } from './garden.ts';

const garden = plantGarden();

testEdits(garden);

test('a JavaScript function imported for the first time', async () => {
  const tab = await garden.open();
  await garden.swap(
    LIB,
    QUIET,
    `let document = web_sys::window().and_then(|window| window.document()).unwrap();
    let before = document.title();
    document.set_title("Replanted");
    format!("{before} is now {}", document.title())`,
  );
  expect(await tab.click('look')).toBe('Garden is now Replanted');
  expect(await tab.open.page.title()).toBe('Replanted');
  await garden.swap(LIB, 'is now', 'became');
  expect(await tab.click('look')).toBe('Replanted became Replanted');

  const warning = tab.open.page.waitForEvent('console', (message) => message.type() === 'warning');
  await garden.swap(LIB, 'let before', 'web_sys::console::warn_2(&"mind the".into(), &"hose".into());\n    let before');
  await tab.click('look');
  expect((await warning).text()).toBe('mind the hose');
  await tab.expectUndisturbed();
});

test('a type of Closure that is new', async () => {
  const tab = await garden.open();
  const called = `use wasm_bindgen::prelude::*;

fn soon(text: String) {
    let closure = Closure::<dyn FnMut(f64, f64)>::new(move |one: f64, other: f64| {
        let document = web_sys::window().unwrap().document().unwrap();
        document.get_element_by_id("motto-text").unwrap().set_text_content(Some(&format!("{text} {}", one + other)));
    });
    let timer: &web_sys::js_sys::Function = closure.as_ref().unchecked_ref();
    timer.call2(&JsValue::NULL, &1.5.into(), &2.into()).unwrap();
    closure.forget();
}
`;
  await garden.swap(
    LIB,
    `fn look() -> String {\n    ${QUIET}`,
    `${called.replace(/.*\n\n/, '')}\nfn look() -> String {\n    soon("in all".to_owned());\n    "called".to_owned()`,
  );
  expect(await tab.click('look')).toBe('called');
  expect(await tab.open.page.innerText('#motto-text')).toBe('in all 3.5');
  await garden.swap(LIB, 'one + other', 'one * other');
  await tab.click('look');
  expect(await tab.open.page.innerText('#motto-text')).toBe('in all 3');
  await tab.expectUndisturbed();
});

test('a JavaScript value cloned and dropped for the first time', async () => {
  const tab = await garden.open();
  await garden.swap(
    LIB,
    QUIET,
    `let words: Vec<JsValue> = ["wet", "dry"].map(JsValue::from).to_vec();
    let copies = words.clone();
    drop(words);
    let fixed = [JsValue::UNDEFINED.clone(), JsValue::NULL.clone()];
    format!("{:?} {copies:?} {:?}", fixed, copies[1].clone())`,
  );
  const seen = '[JsValue(undefined), JsValue(null)] [JsValue("wet"), JsValue("dry")] JsValue("dry")';
  expect(await tab.click('look')).toBe(seen);
  expect(await tab.click('look')).toBe(seen);
  await garden.swap(LIB, '["wet", "dry"]', '["old", "new"]');
  expect(await tab.click('look')).toBe(seen.replace('wet', 'old').replaceAll('dry', 'new'));
  await tab.expectUndisturbed();
});

test('an exported function that the page calls', async () => {
  const tab = await garden.open();
  const harvest = (): Promise<string> => tab.open.page.evaluate("garden.harvest('Ada', 3)");
  expect(await harvest()).toBe('Ada brings 3 baskets');
  await garden.swap(LIB, '{who} brings {baskets} baskets', '{baskets} baskets from {who}');
  expect(await harvest()).toBe('3 baskets from Ada');
  await tab.expectUndisturbed();
});
