// A number of functions in; the sources of a crate that has them in modules of a hundred, all reachable from one export,
// in the mixture that applications are made of: mostly plain code, some formatting, collections, closures and traits.

const PER_MODULE = 100;
/** The shape of every tenth function, whose result for 0 is its constant: these are edited. */
export const EDITED_STEP = 10;

/** Paths below the crate's folder, with their text. `constants` by function replace the numbers made here. */
export function largeCrate(count, constants = new Map()) {
  const modules = Array.from({ length: Math.ceil(count / PER_MODULE) }, (_, index) => index);
  const files = {
    'Cargo.toml': MANIFEST,
    'index.html': PAGE,
    'src/lib.rs': `${modules.map((module) => `mod m${module};\n`).join('')}
#[wasm_bindgen::prelude::wasm_bindgen]
pub fn call(index: u32, x: i32) -> i32 {
    match index / ${PER_MODULE} {
${modules.map((module) => `        ${module} => m${module}::call(index, x),\n`).join('')}        _ => 0,
    }
}
`,
  };
  for (const module of modules) files[moduleFile(module)] = moduleText(module, count, constants);
  return files;
}

export function fileOfFunction(index) {
  return moduleFile(Math.floor(index / PER_MODULE));
}

function moduleFile(module) {
  return `src/m${module}.rs`;
}

function moduleText(module, count, constants) {
  const first = module * PER_MODULE;
  const indices = Array.from({ length: Math.min(PER_MODULE, count - first) }, (_, index) => first + index);
  const functions = indices.map((index) => functionText(index, constants.get(index) ?? (index * 7919) % 1000));
  const arms = indices.map((index) => `        ${index} => f${index}(x),\n`);
  return `${TYPES}
static NAMES: [&str; 4] = ["north ${module}", "east ${module}", "south ${module}", "west ${module}"];

pub fn call(index: u32, x: i32) -> i32 {
    match index {
${arms.join('')}        _ => 0,
    }
}
${functions.join('')}`;
}

function functionText(index, constant) {
  // Chains of calls are as deep as the number has bits.
  const callee = Math.floor(index / 2);
  const call = `crate::m${Math.floor(callee / PER_MODULE)}::f${callee}`;
  return `
pub fn f${index}(x: i32) -> i32 {
    ${SHAPES[index % SHAPES.length](constant, call).trim().replaceAll('\n', '\n    ')}
}
`;
}

const SHAPES = [
  (c) => `
let mut sum = 0_i32;
for step in 0..x.rem_euclid(8) {
    sum = sum.wrapping_mul(31).wrapping_add(step ^ x);
}
sum.wrapping_add(${c})`,
  (c, call) => `
let item = Item { weight: x, size: ${c} };
if item.density() > 3 { ${call}(item.weight) } else { item.density() }`,
  (c, call) => `
match Kind::of(x.wrapping_add(${c})) {
    Kind::Empty => 0,
    Kind::One(value) => ${call}(value >> 1),
    Kind::Pair(left, right) => left.wrapping_sub(right),
}`,
  (c) => `
let text = format!("{} {x} {:?}", NAMES[(x & 3) as usize], Kind::of(${c}));
text.len() as i32 + ${c}`,
  (c, call) => `
let limit = ${c};
let list: Vec<i32> = (0..4).map(|step| x.wrapping_add(step * limit)).collect();
let large = list.iter().filter(|value| **value > limit).count() as i32;
large.wrapping_add(${call}(x >> 1))`,
  (c, call) => `
let parts: [&dyn Part; 2] = [&Item { weight: x, size: ${c} }, &Kind::of(x)];
let mut sum = ${call}(x >> 1);
for part in parts {
    sum = sum.wrapping_add(part.area()).wrapping_add(part.twice());
}
sum`,
  (c) => `
let first = x.checked_add(${c}).and_then(|value| value.checked_mul(3));
first.unwrap_or(-1)`,
  (c, call) => `
let mut table = std::collections::BTreeMap::new();
for step in 0..3 {
    table.insert(x.wrapping_mul(step), ${c} + step);
}
table.values().sum::<i32>() + ${call}(x >> 1)`,
  (c, call) => `
let ratio = f64::from(x) / ${c + 1}.5;
if ratio.abs() < 1.0 { ${call}(x >> 1) } else { (ratio * 100.0) as i32 }`,
  (c, call) => `
let mut text = String::from("${c}");
for part in NAMES {
    if text.len() < 20 {
        text.push_str(part);
    }
}
text.bytes().map(i32::from).sum::<i32>() ^ ${call}(x >> 1)`,
];

const TYPES = `#[derive(Clone, Debug)]
struct Item {
    weight: i32,
    size: i32,
}

impl Item {
    fn density(&self) -> i32 {
        self.weight.wrapping_div(self.size.max(1))
    }
}

#[derive(Clone, Debug)]
enum Kind {
    Empty,
    One(i32),
    Pair(i32, i32),
}

impl Kind {
    fn of(x: i32) -> Self {
        match x.rem_euclid(3) {
            0 => Kind::Empty,
            1 => Kind::One(x),
            _ => Kind::Pair(x, 1),
        }
    }
}

trait Part {
    fn area(&self) -> i32;

    fn twice(&self) -> i32 {
        self.area().wrapping_mul(2)
    }
}

impl Part for Item {
    fn area(&self) -> i32 {
        self.size.wrapping_mul(self.weight)
    }
}

impl Part for Kind {
    fn area(&self) -> i32 {
        match self {
            Kind::Empty => 0,
            Kind::One(value) => *value,
            Kind::Pair(left, right) => left.wrapping_add(*right),
        }
    }
}
`;

const MANIFEST = `[package]
name = "large"
version = "0.1.0"
edition = "2024"

[lib]
crate-type = ["cdylib"]

[dependencies]
wasm-bindgen = "0.2"

[workspace]
`;

const PAGE = `<!doctype html>
<meta charset="utf-8" />
<title>Many functions</title>
<script type="module">
  import init from './pkg/large.js';
  await init();
</script>
`;
