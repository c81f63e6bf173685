// A seed in; a Rust program of two crates out, and edits of it: each of them leaves a valid, deterministic program, and
// none changes what hotslot refuses to change in a running one (the size of a static, the number of closures).
//
// A function is a shape (what kind of Rust it is made of) and values (constants, operators, texts). Its helper items bear
// its number, so functions can be changed, moved and removed without looking at any other but their callers.

const WORDS = ['amber', 'birch cone', 'clay', 'dune', 'ember of oak', 'fjord', 'grün', 'högt', 'iris 𝛼', 'jade', ''];
const OPERATORS = ['wrapping_add', 'wrapping_sub', 'wrapping_mul'];
const EXTRA_TYPES = [undefined, 'i64', '&str', 'f64', '(u8, bool)'];
const INLINE = ['', '#[inline]\n', '#[inline(never)]\n', '#[inline(always)]\n'];
const MODULES = { app: ['alpha', 'beta', 'gamma'], parts: ['delta', 'epsilon'] };

/** A linear congruential generator modulo 2^31; gives numbers below `limit`. */
export function generator(seed) {
  let state = seed & 0x7fffffff;
  return (limit) => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return Math.floor((state / 0x80000000) * limit);
  };
}

// ------------------------------------------------------------------------------------------------------------- shapes
//
// Each gives the items beside a function, and the body that makes a String of `x: i32`. `closures`: the body has some, so
// it never becomes, nor comes from, another shape. `stateful`: its result begins with how often it was called, and `#`.

const SHAPES = {
  integers: {
    body: (v) => `
    let a = x.wrapping_mul(${v.a}).${v.operator}(${v.b});
    let b = i64::from(a).rotate_left(${v.n}) ^ ${v.c}_i64;
    let c = (b as u64) % ${v.a + 1} + u64::from(a.count_ones());
    format!("{a} {b:x} {c:>5}")`,
  },
  floats: {
    body: (v) => `
    let y = f64::from(x) * ${v.d} + ${v.a}.5;
    let z = (y / ${v.b}.25).abs().sqrt();
    format!("{y:.2} {z:?} {:e} {}", y * 1e10, (z as f32) as i32)`,
  },
  texts: {
    body: (v) => `
    let mut text = String::from(${quote(v.s)});
    for part in ${quote(v.t)}.split(' ') {
        text.push_str(part);
        text.insert(0, '${'abcdefgh'[v.n]}');
    }
    text.push_str(&x.to_string());
    format!("{}:{}", text.to_uppercase(), text.len() + ${v.a})`,
  },
  collections: {
    body: (v) => `
    let mut list = vec![x, ${v.a}, ${v.b}, x.${v.operator}(${v.c})];
    list.sort_unstable();
    list.dedup();
    let mut counts = std::collections::HashMap::new();
    for value in &list {
        *counts.entry(value.rem_euclid(${v.n + 2})).or_insert(0) += 1;
    }
    let ordered: std::collections::BTreeMap<i32, i32> = counts.into_iter().collect();
    format!("{list:?} {ordered:?}")`,
  },
  record: {
    items: (v, id) => `
#[derive(Debug, Clone, PartialEq)]
struct Record${id} {
    count: i32,
    name: String,
}

impl Record${id} {
    fn total(&self) -> i32 {
        self.count.${v.operator}(${v.a})
    }
}

impl std::fmt::Display for Record${id} {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "<{} {}>", self.name, self.total())
    }
}
`,
    body: (v, id) => `
    let one = Record${id} { count: x, name: ${quote(v.s)}.to_owned() };
    let mut other = one.clone();
    other.count ^= ${v.b};
    format!("{one} {other:?} {}", one == other)`,
  },
  choice: {
    items: (v, id) => `
#[derive(Debug)]
enum Choice${id} {
    Empty,
    One(i32),
    Pair { left: i64, right: f64 },
    Text(String),
}

fn choose${id}(x: i32) -> Choice${id} {
    match x.rem_euclid(4) {
        0 => Choice${id}::Empty,
        1 => Choice${id}::One(x.${v.operator}(${v.a})),
        2 => Choice${id}::Pair { left: i64::from(x) * ${v.b}, right: ${v.d} },
        _ => Choice${id}::Text(${quote(v.s)}.repeat(${v.n})),
    }
}
`,
    body: (v, id) => `
    let chosen = choose${id}(x.wrapping_add(${v.c}));
    let weight = match &chosen {
        Choice${id}::Empty => ${v.a},
        Choice${id}::One(value) if *value > ${v.b} => *value,
        Choice${id}::One(_) => -1,
        Choice${id}::Pair { left, right } => (*left as f64 * right) as i32,
        Choice${id}::Text(text) => text.len() as i32,
    };
    format!("{chosen:?} {weight}")`,
  },
  generic: {
    items: (v, id) => `
fn repeat${id}<T: std::fmt::Display + Clone + PartialOrd>(value: T, limit: T, times: usize) -> String {
    let mut text = String::new();
    let all = vec![value.clone(); times];
    for (index, each) in all.iter().enumerate() {
        text += &format!("{}{each}", index + ${v.a});
    }
    if value > limit { text + ${quote(v.s)} } else { text + ${quote(v.t)} }
}
`,
    body: (v, id) => `
    let text = repeat${id}(x, ${v.b}, ${v.n});
    text + &repeat${id}(f64::from(x), ${v.d}, 2) + &repeat${id}("${'abcdefgh'[v.n]}", "d", 1)`,
  },
  dispatch: {
    items: traits,
    body: (v, id) => `
    let all: Vec<Box<dyn Named${id}>> = vec![Box::new(First${id}(x)), Box::new(Second${id} { by: 3 })];
    let mut text = String::new();
    for each in &all {
        text += &each.name();
    }
    text`,
  },
  constants: {
    items: (v, id) => `
const FACTOR${id}: i32 = ${v.a};
static NAMES${id}: [&str; 3] = [${quote(v.s)}, ${quote(v.t)}, "${v.c}"];
static WEIGHTS${id}: [i32; 4] = [${v.a}, ${v.b}, ${v.c}, ${v.n}];
${v.more ? `static MORE${id}: &[u8] = b"${'more'.repeat(v.n)}";\nconst SHIFT${id}: u32 = ${v.n};\n` : ''}`,
    body: (v, id) => `
    let at = x.rem_euclid(3) as usize;
    let more = ${v.more ? `MORE${id}[at] as i32 + (MORE${id}.len() << SHIFT${id}) as i32` : '0'};
    format!("{} {} {more}", NAMES${id}[at], WEIGHTS${id}[at + 1].wrapping_mul(FACTOR${id}))`,
  },
  results: {
    items: (v, id) => `
fn parse${id}(text: &str) -> Result<f64, std::num::ParseFloatError> {
    let value: f64 = text.parse()?;
    Ok(value * ${v.d})
}
`,
    body: (v, id) => `
    let good = parse${id}(&format!("{x}.${v.a}"));
    match (good, parse${id}(${quote(v.s)})) {
        (Ok(value), Err(error)) => format!("{value:.3} {error}"),
        other => format!("{other:?}"),
    }`,
  },
  drops: {
    items: (v, id) => `
struct Noisy${id}(std::rc::Rc<std::cell::RefCell<String>>, i32);

impl Drop for Noisy${id} {
    fn drop(&mut self) {
        *self.0.borrow_mut() += &format!("{}${'-+*/'[v.n % 4]}", self.1.${v.operator}(${v.a}));
    }
}
`,
    body: (v, id) => `
    let log = std::rc::Rc::new(std::cell::RefCell::new(${quote(v.s)}.to_owned()));
    {
        let _first = Noisy${id}(log.clone(), x);
        let second = Noisy${id}(log.clone(), ${v.b});
        if x > ${v.c} {
            drop(second);
        }
    }
    log.borrow().clone()`,
  },
  iterator: {
    items: (v, id) => `
struct Steps${id}<const N: usize> {
    at: i32,
    left: usize,
}

impl<const N: usize> Iterator for Steps${id}<N> {
    type Item = i32;

    fn next(&mut self) -> Option<i32> {
        self.left = self.left.checked_sub(1)?;
        self.at = self.at.${v.operator}(${v.a} + N as i32);
        Some(self.at)
    }
}

fn steps${id}(x: i32) -> impl Iterator<Item = i32> {
    Steps${id}::<${v.n}> { at: x, left: ${v.n + 1} }.chain(Steps${id}::<3> { at: ${v.b}, left: 2 })
}
`,
    body: (v, id) => `
    let all: Vec<i32> = steps${id}(x).step_by(2).collect();
    format!("{all:?} {}", steps${id}(x).fold(0, i32::wrapping_add))`,
  },
  borrowed: {
    // What the dependency is generic over is compiled in the crate that uses it.
    crate: 'app',
    body: (v) => `
    let first = parts::pick(&[x, ${v.a}, ${v.b}], x);
    first + &parts::pick(&[${quote(v.s)}, ${quote(v.t)}], x) + &parts::Pair(x, ${v.d}).show()`,
  },
  counter: {
    stateful: true,
    items: (v, id) => `
static COUNT${id}: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(${v.n});
`,
    body: (v, id) => `
    let count = COUNT${id}.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("{}#{} {}", count + 1, x.${v.operator}(${v.a}), ${quote(v.s)})`,
  },
  local: {
    stateful: true,
    closures: true,
    items: (v, id) => `
thread_local! {
    static LOCAL${id}: std::cell::Cell<i32> = const { std::cell::Cell::new(0) };
    static LAZY${id}: std::cell::RefCell<Vec<i32>> = std::cell::RefCell::new(vec![7]);
}
`,
    body: (v, id) => `
    LOCAL${id}.with(|local| local.set(local.get() + 1));
    LAZY${id}.with_borrow_mut(|list| list.push(1));
    let length = LAZY${id}.with_borrow(|list| list.len() as i32 - 1);
    let count = LOCAL${id}.get();
    format!("{}#{} {}", count.min(length), x.${v.operator}(${v.a}), ${quote(v.s)})`,
  },
  closures: {
    closures: true,
    body: (v) => `
    let shift = ${v.a};
    let add = |value: i32| value.${v.operator}(shift);
    let show: Box<dyn Fn(i32) -> String> = Box::new(move |value| format!("{}{value}", ${quote(v.s)}));
    let sum = (0..${v.n}).map(|index| add(index ^ x)).filter(|value| value % ${v.n + 2} != 1).fold(0, i32::wrapping_add);
    let mut words: Vec<&str> = ${quote(v.t)}.split(' ').collect();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    format!("{} {words:?}", show(sum))`,
  },
  // The closure of the first call lives on, and meets the code of later versions.
  kept: {
    closures: true,
    items: (v, id) => `
type Keep${id} = Option<Box<dyn Fn(i32) -> String>>;

thread_local! {
    static KEPT${id}: std::cell::RefCell<Keep${id}> = const { std::cell::RefCell::new(None) };
}
`,
    body: (v, id) => `
    KEPT${id}.with_borrow_mut(|kept| {
        let call = kept.get_or_insert_with(|| {
            let base = 7;
            Box::new(move |value: i32| format!("{}{}", ${quote(v.s)}, value.${v.operator}(${v.a} + base)))
        });
        call(x)
    })`,
  },
  // So do these objects, with their old tables of methods.
  keptObjects: {
    closures: true,
    items: (v, id) => `${traits(v, id)}
thread_local! {
    static OBJECTS${id}: Vec<Box<dyn Named${id}>> =
        vec![Box::new(First${id}(11)), Box::new(Second${id} { by: 5 })];
}
`,
    body: (v, id) => `
    OBJECTS${id}.with(|all| {
        let mut text = x.to_string();
        for each in all {
            text += &each.name();
        }
        text
    })`,
  },
};

function traits(v, id) {
  return `
trait Named${id} {
    fn value(&self) -> i32;

    fn name(&self) -> String {
        format!("{}{}", ${quote(v.s)}, self.value())
    }
}

struct First${id}(i32);

struct Second${id} {
    by: i32,
}

impl Named${id} for First${id} {
    fn value(&self) -> i32 {
        self.0.${v.operator}(${v.a})
    }
}

impl Named${id} for Second${id} {
    fn value(&self) -> i32 {
        ${v.b} - self.by
    }
${v.override ? `\n    fn name(&self) -> String {\n        [${quote(v.t)}; ${v.n}].join("/")\n    }\n` : ''}}
`;
}

// ------------------------------------------------------------------------------------------------------------ program

/**
 * @typedef {ReturnType<typeof makeValues>} Values
 * @typedef {{ id: number, home: string, module: string, shape: string, values: Values, inline: string, extra?: string, returns: string, calls?: number }} Item
 * @typedef {{ functions: Item[], notes: Record<string, number>, shared: Values }} State
 */

/** A program; `edit` changes it. `random` is a `generator`; `platform` is `wasm` (a cdylib) or `native` (a binary). */
export function makeProgram(random, platform, count = 24) {
  let nextId = 0;
  /** @type {State} */
  let state = { functions: [], notes: {}, shared: makeValues(random) };
  /** @type {State[]} */
  const history = [];
  // Each shape at least once, when there is room.
  for (let index = 0; index < count; index++) state.functions.push(makeFunction(Object.keys(SHAPES)[index]));

  /** @param {string} [shape] any, when not given */
  function makeFunction(shape) {
    const home = SHAPES[shape]?.crate ?? (random(4) === 0 ? 'parts' : 'app');
    const shapes = Object.keys(SHAPES).filter((name) => (SHAPES[name].crate ?? home) === home);
    const made = {
      id: nextId++,
      home,
      module: pick(MODULES[home]),
      shape: shape ?? pick(shapes),
      values: makeValues(random),
      inline: INLINE[random(8)] ?? '',
      extra: pick(EXTRA_TYPES),
      returns: random(4) === 0 ? 'i64' : 'String',
      calls: undefined,
    };
    if (SHAPES[made.shape].stateful) made.returns = 'String';
    if (random(2) === 0) callSomething(made);
    return made;
  }

  /** Lets it call another function, so that no circle comes about. One callee at most keeps the work linear. */
  function callSomething(caller) {
    const callees = state.functions.filter(
      ({ id, home, shape }) =>
        !SHAPES[shape].stateful && (caller.home === 'app' || home === 'parts') && !reaches(id, caller.id),
    );
    caller.calls = callees.length === 0 ? undefined : pick(callees).id;
  }

  function reaches(from, to) {
    for (let at = from; at !== undefined; at = find(at)?.calls) if (at === to) return true;
    return false;
  }

  function find(id) {
    return state.functions.find((each) => each.id === id);
  }

  function pick(list) {
    return list[random(list.length)];
  }

  /** A function for which `condition` holds, or any function. */
  function pickFunction(condition = () => true) {
    const fitting = state.functions.filter(condition);
    return pick(fitting.length === 0 ? state.functions : fitting);
  }

  const EDITS = {
    values(target = pickFunction()) {
      const fresh = makeValues(random);
      for (const name of Object.keys(fresh).filter(() => random(3) === 0)) target.values[name] = fresh[name];
      target.values.a = fresh.a;
      return `values of f${target.id} (${target.shape})`;
    },
    dependency() {
      return EDITS.values(pickFunction(({ home }) => home === 'parts'));
    },
    shared() {
      state.shared = makeValues(random);
      return 'generics of the dependency';
    },
    body() {
      const target = pickFunction(({ shape }) => !isFixed(shape));
      if (isFixed(target.shape)) return EDITS.values(target);
      const before = target.shape;
      const shapes = Object.keys(SHAPES).filter(
        (name) => !isFixed(name) && (SHAPES[name].crate ?? target.home) === target.home,
      );
      target.shape = pick(shapes);
      return `body of f${target.id}: ${before} to ${target.shape}`;
    },
    add() {
      const added = makeFunction();
      state.functions.push(added);
      const caller = pickFunction(({ id, home }) => id !== added.id && (home === 'app' || added.home === 'parts'));
      const fits = (caller.home === 'app' || added.home === 'parts') && !reaches(added.id, caller.id);
      if (fits && !SHAPES[added.shape].stateful) caller.calls = added.id;
      return `add f${added.id} (${added.home}, ${added.shape})`;
    },
    remove() {
      const gone = pickFunction();
      state.functions = state.functions.filter((each) => each !== gone);
      for (const each of state.functions) if (each.calls === gone.id) each.calls = undefined;
      return `remove f${gone.id} (${gone.shape})`;
    },
    call() {
      const caller = pickFunction();
      callSomething(caller);
      return `f${caller.id} calls f${caller.calls}`;
    },
    more() {
      const target = pickFunction(({ shape }) => shape === 'constants');
      target.values.more = !target.values.more;
      return `more constants in f${target.id} (${target.shape}): ${target.values.more}`;
    },
    override() {
      const target = pickFunction(({ shape }) => shape === 'keptObjects' || shape === 'dispatch');
      target.values.override = !target.values.override;
      return `override in f${target.id} (${target.shape}): ${target.values.override}`;
    },
    move() {
      const target = pickFunction();
      target.module = pick(MODULES[target.home]);
      return `f${target.id} (${target.shape}) to ${target.module}`;
    },
    signature() {
      const target = pickFunction();
      target.extra = pick(EXTRA_TYPES);
      if (random(3) === 0 && !SHAPES[target.shape].stateful)
        target.returns = target.returns === 'i64' ? 'String' : 'i64';
      return `signature of f${target.id}: ${target.extra}, ${target.returns}`;
    },
    inline() {
      const target = pickFunction();
      target.inline = pick(INLINE);
      return `inlining of f${target.id}: ${target.inline.trim()}`;
    },
    lines() {
      const home = pick(Object.keys(MODULES));
      const file = fileOf(home, pick([...MODULES[home], rootOf(home, platform)]));
      state.notes[file] = (state.notes[file] ?? 0) === 0 ? 1 + random(3) : 0;
      return `${state.notes[file]} comment lines in ${file}`;
    },
    revert() {
      const earlier = history[Math.max(0, history.length - 1 - random(4))];
      if (earlier === undefined) return EDITS.values();
      state = structuredClone(earlier);
      return 'revert to an earlier version';
    },
  };
  const OFTEN = ['values', 'values', 'values', 'dependency', 'add', 'body'];

  return {
    /** Changes the program by one to three edits at once; says which. */
    edit() {
      const before = structuredClone(state);
      const names = [...Object.keys(EDITS), ...OFTEN];
      const labels = [EDITS[pick(names)]()];
      while (random(4) === 0 && labels.length < 3) labels.push(EDITS[pick(names)]());
      history.push(before);
      return labels.join(', ');
    },
    /** Paths below the program's folder, with their text. */
    files: () => render(state, platform),
    /** What can be called, by its number. `start`: of a stateful one, what its count begins with in a new page. */
    functions: () =>
      state.functions.map(({ id, home, module, shape, values }) => ({
        id,
        name: `${home}::${module}::f${id} (${shape})`,
        start: SHAPES[shape].stateful ? (shape === 'counter' ? values.n : 0) : undefined,
      })),
  };
}

function isFixed(shape) {
  return SHAPES[shape].closures === true || SHAPES[shape].stateful === true;
}

function makeValues(random) {
  return {
    a: 1 + random(1000),
    b: 1 + random(100_000),
    c: random(64),
    d: `${random(50)}.${random(1000)}`,
    n: 1 + random(6),
    s: WORDS[random(WORDS.length)],
    t: `${WORDS[random(WORDS.length)]} ${WORDS[random(WORDS.length)]}`,
    operator: OPERATORS[random(OPERATORS.length)],
    more: random(2) === 0,
    override: random(2) === 0,
  };
}

// ------------------------------------------------------------------------------------------------------------- source

function render(state, platform) {
  const files = {};
  const put = (home, module, text) => {
    const file = fileOf(home, module);
    const notes = Array.from({ length: state.notes[file] ?? 0 }, (_, index) => `// Line ${index}.\n\n`);
    files[file] = notes.join('') + text;
  };
  for (const [home, modules] of Object.entries(MODULES)) {
    for (const module of modules) {
      const own = state.functions.filter((each) => each.home === home && each.module === module);
      put(home, module, own.map((each) => renderFunction(state, each)).join('\n'));
    }
    const declared = modules.map((module) => `${home === 'app' ? '' : 'pub '}mod ${module};\n`).join('');
    const own = home === 'app' ? renderDispatcher(state, platform) : renderShared(state.shared);
    put(home, rootOf(home, platform), `${declared}\n${DIGEST}\n${own}`);
  }
  return files;
}

function rootOf(home, platform) {
  return home === 'app' && platform === 'native' ? 'main' : 'lib';
}

function fileOf(home, module) {
  return `${home === 'app' ? '' : 'parts/'}src/${module}.rs`;
}

function renderFunction(state, { id, home, shape, values, inline, extra, returns, calls }) {
  const { items, body } = SHAPES[shape];
  const callee = state.functions.find((each) => each.id === calls);
  const call = callee && renderCall(callee, home, `x.wrapping_add(${values.n})`, values);
  const parameters = extra === undefined ? 'x: i32' : `x: i32, extra: ${extra}`;
  const shown = [
    'own',
    ...(extra === undefined ? [] : ['format!("{extra:?}")']),
    ...(call === undefined ? [] : [`${call}.to_string()`]),
  ];
  const result = shown.length === 1 ? 'own' : `[${shown.join(', ')}].join("|")`;
  return `${items?.(values, id) ?? ''}
${inline}pub fn f${id}(${parameters}) -> ${returns} {
    let own: String = {${body(values, id).replaceAll('\n', '\n    ')}
    };
    ${returns === 'i64' ? `crate::digest(&${result})` : result}
}
`;
}

function renderCall({ id, home, module, extra }, from, argument, values) {
  const literals = {
    i64: `${values.b}`,
    '&str': quote(values.s),
    f64: values.d,
    '(u8, bool)': `(${values.c}, ${values.more})`,
  };
  const path = home === from ? `crate::${module}` : `parts::${module}`;
  return `${path}::f${id}(${argument}${extra === undefined ? '' : `, ${literals[extra]}`})`;
}

function renderDispatcher({ functions, shared }, platform) {
  const arms = functions.map(
    (each) => `        ${each.id} => ${renderCall(each, 'app', 'argument', shared)}.to_string(),\n`,
  );
  return `${platform === 'wasm' ? '#[wasm_bindgen::prelude::wasm_bindgen]\n' : MAIN}
pub fn call(index: u32, argument: i32) -> String {
    match index {
${arms.join('')}        _ => "none".to_owned(),
    }
}
`;
}

/** One connection at a time, so that there is one thread. */
const MAIN = `use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("listening on {}", listener.local_addr().unwrap());
    for stream in listener.incoming() {
        answer(stream.unwrap());
    }
}

/// Lines in, each a function's number and its argument; texts out, each with a NUL behind it.
fn answer(stream: TcpStream) {
    let mut output = stream.try_clone().unwrap();
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let (index, argument) = line.split_once(' ').unwrap();
        let (index, argument) = (index.parse().unwrap(), argument.parse().unwrap());
        let result = std::panic::catch_unwind(|| call(index, argument));
        let text = result.unwrap_or_else(|_| "threw a panic".to_owned());
        write!(output, "{text}\\0").unwrap();
    }
}
`;

function renderShared(v) {
  return `pub fn pick<T: Clone + std::fmt::Display>(all: &[T], index: i32) -> String {
    let chosen = all[(index.wrapping_add(${v.a})).rem_euclid(all.len() as i32) as usize].clone();
    format!("{chosen}{}", ${quote(v.s)})
}

pub struct Pair<A, B>(pub A, pub B);

impl<A: std::fmt::Debug, B: std::fmt::Debug> Pair<A, B> {
    pub fn show(&self) -> String {
        format!("{:?}${'-+*/'[v.n % 4]}{:?}", self.1, self.0)
    }
}
`;
}

const DIGEST = `#[allow(dead_code)]
fn digest(text: &str) -> i64 {
    let mut value = 0_i64;
    for byte in text.bytes() {
        value = value.wrapping_mul(31).wrapping_add(i64::from(byte));
    }
    value
}
`;

function quote(text) {
  return `"${text}"`;
}
