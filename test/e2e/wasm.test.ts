// Edit → see: source is saved, and the open page runs it, with everything it had.
import { expect, test } from 'vitest';
import { plantGarden } from './garden.ts';

const LIB = 'src/lib.rs';
const PLANTS = '../plants/src/lib.rs';

/** The whole body of `look`, the place for whatever a test wants to try. */
const QUIET = '"a quiet garden".to_owned()';

const garden = plantGarden();

test('the body of a closure that is a listener already', async () => {
  const tab = await garden.open();
  await tab.click('water');
  await garden.swap(LIB, 'can.poured += 1;', 'can.poured += 10;');
  expect(await tab.click('water')).toBe('can 11, clicks 2, steps 2');
  await garden.swap(LIB, 'format!("can {},', 'format!("the can: {},');
  expect(await tab.click('water')).toBe('the can: 21, clicks 3, steps 3');
  expect(await tab.open.isSameDocument()).toBe(true);
  expect(tab.open.navigations()).toBe(1);
});

test('a plain function', async () => {
  const tab = await garden.open();
  expect(await tab.click('look')).toBe('a quiet garden');
  expect((await garden.swap(LIB, 'a quiet garden', 'a lively garden')).functions).toEqual(['garden::look']);
  expect(await tab.click('look')).toBe('a lively garden');
  await tab.expectUndisturbed();
});

test('a new function with a new string', async () => {
  const tab = await garden.open();
  await garden.swap(LIB, QUIET, 'visitors(2)\n}\n\nfn visitors(count: usize) -> String {\n    "bee ".repeat(count)');
  expect(await tab.click('look')).toBe('bee bee');
  await tab.expectUndisturbed();
});

test('a new static and a new thread-local, which two later patches keep', async () => {
  const tab = await garden.open();
  await garden.swap(
    LIB,
    `fn look() -> String {\n    ${QUIET}`,
    `use std::sync::atomic::{AtomicU32, Ordering};
static LOOKS: AtomicU32 = AtomicU32::new(100);
thread_local! {
    static SEEN: RefCell<Vec<u32>> = RefCell::new(vec![7]);
}

fn look() -> String {
    let looks = LOOKS.fetch_add(1, Ordering::Relaxed);
    SEEN.with_borrow_mut(|seen| seen.push(looks));
    SEEN.with_borrow(|seen| format!("{seen:?}"))`,
  );
  expect(await tab.click('look')).toBe('[7, 100]');
  expect(await tab.click('look')).toBe('[7, 100, 101]');
  await garden.swap(LIB, 'format!("{seen:?}")', 'format!("seen {seen:?}")');
  expect(await tab.click('look')).toBe('seen [7, 100, 101, 102]');
  await garden.swap(LIB, 'seen.push(looks)', 'seen.insert(0, looks)');
  expect(await tab.click('look')).toBe('seen [103, 7, 100, 101, 102]');
  await tab.expectUndisturbed();
});

test('a method of a trait object', async () => {
  const tab = await garden.open();
  expect(await tab.click('bed')).toBe('gnome 1, rose 4');
  await garden.swap(LIB, '"gnome".to_owned()', '"dwarf".to_owned()');
  expect(await tab.click('bed')).toBe('dwarf 1, rose 4');
  await tab.expectUndisturbed();
});

test('a default method overridden, for an object that was boxed before, and the default again', async () => {
  const tab = await garden.open();
  const gnome = '"gnome".to_owned()\n    }\n';
  const tall = `${gnome}\n    fn height(&self) -> u32 {\n        7\n    }\n`;
  await garden.swap(LIB, gnome, tall);
  expect(await tab.click('bed')).toBe('gnome 7, rose 4');
  await garden.swap(LIB, '        7\n', '        8\n');
  expect(await tab.click('bed')).toBe('gnome 8, rose 4');
  await garden.swap(LIB, tall.replace('7', '8'), gnome);
  expect(await tab.click('bed')).toBe('gnome 1, rose 4');
  await tab.expectUndisturbed();
});

test('the default method itself', async () => {
  const tab = await garden.open();
  await garden.swap(PLANTS, '        1\n', '        2\n');
  expect(await tab.click('bed')).toBe('gnome 2, rose 4');
  await tab.expectUndisturbed();
});

test('a path dependency: a function, a method, and a generic function', async () => {
  const tab = await garden.open();
  expect(await tab.click('count')).toBe('3 plants, best Some(9)');
  await garden.swap(PLANTS, '{count} plants', '{count} flowers');
  expect(await tab.click('count')).toBe('3 flowers, best Some(9)');
  await garden.swap(PLANTS, 'self.age * 2', 'self.age * 3');
  expect(await tab.click('bed')).toBe('gnome 1, rose 6');
  await garden.swap(PLANTS, 'each > best', 'each < best');
  expect(await tab.click('count')).toBe('3 flowers, best Some(3)');
  await tab.expectUndisturbed();
});

test('one edit of two crates', async () => {
  const tab = await garden.open();
  const { server } = garden;
  const answer = await server.write({
    [PLANTS]: server.edited(PLANTS, '{count} plants', '{count} sorts'),
    [LIB]: server.edited(LIB, 'best {:?}', 'the best {:?}'),
  });
  expect(answer.event).toBe('patch');
  expect(await tab.click('count')).toBe('3 sorts, the best Some(9)');
  await tab.expectUndisturbed();
});

test('a new module in a new file', async () => {
  const tab = await garden.open();
  const { server } = garden;
  const answer = await server.write({
    'src/pond.rs': 'pub fn fish() -> String {\n    "carp".to_owned()\n}\n',
    [LIB]: server.read(LIB).replace('mod page;', 'mod page;\nmod pond;').replace(QUIET, 'pond::fish()'),
  });
  expect(answer.event).toBe('patch');
  expect(await tab.click('look')).toBe('carp');
  await garden.swap('src/pond.rs', 'carp', 'pike');
  expect(await tab.click('look')).toBe('pike');
  await tab.expectUndisturbed();
});

test('HashMap, number formats, float parsing and sorting, used for the first time', async () => {
  const tab = await garden.open();
  await garden.swap(
    LIB,
    QUIET,
    `let parsed = "2.50 -1 1e2 0.1".split(' ').flat_map(str::parse::<f64>);
    let mut numbers: Vec<f64> = parsed.collect();
    numbers.sort_by(|one, other| other.total_cmp(one));
    let mut lengths = std::collections::HashMap::new();
    for word in ["rose", "lily", "fern", "moss", "ivy"] {
        *lengths.entry(word.len()).or_insert(0) += 1;
    }
    let mut lengths: Vec<_> = lengths.into_iter().collect();
    lengths.sort();
    format!("{numbers:?} {lengths:?} {:>8.3}|{:#06x}", numbers[1], 255)`,
  );
  expect(await tab.click('look')).toBe('[100.0, 2.5, 0.1, -1.0] [(3, 1), (4, 4)] 2.500|0x00ff');
  await tab.expectUndisturbed();
});

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

test('an object that was boxed before gets drop glue', async () => {
  const tab = await garden.open();
  await garden.swap(
    LIB,
    'struct Gnome;',
    `struct Gnome;

impl Drop for Gnome {
    fn drop(&mut self) {
        web_sys::console::error_1(&"the gnome is gone".into());
    }
}`,
  );
  expect(await tab.click('bed')).toBe('gnome 1, rose 4');
  await tab.expectUndisturbed();
});

test('a table of constants', async () => {
  const tab = await garden.open();
  expect(await tab.click('price')).toBe('60');
  await garden.swap(LIB, '[10, 20, 30]', '[10, 20, 70]');
  expect(await tab.click('price')).toBe('100');
  await tab.expectUndisturbed();
});

test('a file that is included', async () => {
  const tab = await garden.open();
  expect(await tab.click('motto')).toBe('Grow.');
  await garden.swap('src/motto.txt', 'Grow.', 'Grow, and let grow.');
  expect(await tab.click('motto')).toBe('Grow, and let grow.');
  await tab.expectUndisturbed();
});

test('A, B, and A again', async () => {
  const tab = await garden.open();
  const names: string[] = [];
  for (const [from, to] of [
    ['quiet', 'noisy'],
    ['noisy', 'quiet'],
    ['quiet', 'noisy'],
    ['noisy', 'quiet'],
  ] as const) {
    await garden.swap(LIB, `a ${from} garden`, `a ${to} garden`);
    names.push(await tab.click('look'));
  }
  expect(names).toEqual(['a noisy garden', 'a quiet garden', 'a noisy garden', 'a quiet garden']);
  await tab.expectUndisturbed();
});

test('ten edits, each made while the one before is being built, end in the last one', async () => {
  const tab = await garden.open();
  const { server } = garden;
  const numbered = (number: string): string => original.replace('a quiet garden', `garden number ${number}`);
  const original = server.read(LIB);
  const from = server.events.length;
  for (let edit = 1; edit < 10; edit += 1) {
    const noticed = server.next(({ event }) => event === 'change');
    server.save(LIB, numbered(String(edit)));
    await noticed;
  }
  expect((await server.write({ [LIB]: numbered('ten') })).event).toBe('patch');
  expect(await tab.click('look')).toBe('garden number ten');
  const patches = server.events.slice(from).filter(({ event }) => event === 'patch');
  expect(patches.length).toBeLessThan(10);
  await tab.expectUndisturbed();
});

test('a comment changes nothing', async () => {
  const tab = await garden.open();
  expect(await garden.edit(LIB, 'format!("{who} brings', '/* Thanks! */ format!("{who} brings')).toMatchObject({
    event: 'unchanged',
    warnings: [],
  });
  await tab.expectUndisturbed();
});
