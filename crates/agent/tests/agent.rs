//! The agent, linked into a real program and driven over its socket.

mod hotslot;

use hotslot::{Connection, Fields, Hello, Listener, PATIENCE, Patch, Program, Receipt, built, run};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

const READ: u32 = 1;
const WRITE: u32 = 2;
const EXECUTE: u32 = 3;
const PAGE: u64 = 4096;
const MODULE_SIZE: u64 = 64 << 10;

/// `mov eax, value; ret`.
fn returns(value: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(value.to_le_bytes());
    code.push(0xc3);
    code
}

/// A patch whose code, on the arena's page `page`, makes `answer` give `value`.
fn answers(hello: &Hello, version: u32, page: u64, value: u32) -> Patch {
    let text = hello.arena.0 + page * PAGE;
    Patch {
        version,
        segments: vec![(text, 6, EXECUTE, returns(value))],
        slots: vec![(hello.slots.0, text)],
        ..Patch::default()
    }
}

fn assert_applied(receipt: &Receipt, answers: u32, version: u32) {
    assert!(receipt.applied, "{receipt:?}");
    assert_eq!((receipt.answers, receipt.version, receipt.reason.as_str()), (answers, version, ""));
    assert!(receipt.nanoseconds > 0);
}

/// Patch and commit; how many nanoseconds the patch took.
fn apply(connection: &mut Connection, patch: &Patch) -> u64 {
    let receipt = connection.patch(patch);
    assert_applied(&receipt, 2, patch.version);
    assert_applied(&connection.commit(patch.version), 3, patch.version);
    receipt.nanoseconds
}

/// Protection and file of every mapping, in order. Addresses are random, and the heap's size is the program's affair.
fn layout(maps: &str) -> Vec<(String, String)> {
    let fields = |line: &str| {
        let mut words = line.split_whitespace();
        let protection = words.nth(1).unwrap().to_owned();
        (protection, words.nth(3).unwrap_or_default().rsplit('/').next().unwrap().to_owned())
    };
    maps.lines().map(fields).collect()
}

fn protection_at(maps: &str, address: u64) -> String {
    let line = maps.lines().find(|line| {
        let (start, rest) = line.split_once('-').unwrap();
        let end = rest.split(' ').next().unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        (number(start)..number(end)).contains(&address)
    });
    line.unwrap().split(' ').nth(1).unwrap()[..3].to_owned()
}

/// Of a symbol, as the program's file has it.
fn address_in(path: &Path, name: &str) -> u64 {
    let symbols = run(Command::new("nm").arg(path));
    let found = symbols.lines().find(|line| line.split(' ').nth(2) == Some(name)).unwrap();
    u64::from_str_radix(found.split(' ').next().unwrap(), 16).unwrap()
}

#[test]
fn the_object_needs_libc_and_the_slots_alone() {
    let allowed = [
        "__errno_location",
        "__hotslot_slots_end",
        "__hotslot_slots_start",
        "accept4",
        "clock_gettime",
        "close",
        "connect",
        "dlsym",
        "dup3",
        "fcntl",
        "getpid",
        "getsockname",
        "getsockopt",
        "listen",
        "memcpy",
        "memset",
        "mmap",
        "mprotect",
        "munmap",
        "nanosleep",
        "open",
        "poll",
        "prctl",
        "__register_atfork",
        "pthread_attr_init",
        "pthread_attr_setdetachstate",
        "pthread_attr_setstacksize",
        "pthread_mutex_lock",
        "pthread_mutex_unlock",
        "pthread_sigmask",
        "recv",
        "recvmsg",
        "sched_yield",
        "secure_getenv",
        "send",
        "sendmsg",
        "setenv",
        "setsockopt",
        "sigaction",
        "sigfillset",
        "socket",
        "strlen",
        "symlink",
        "syscall",
        "unlink",
        "unsetenv",
        "write",
    ];
    let undefined = run(Command::new("nm").arg("--undefined-only").arg(&built().object));
    for name in undefined.split_whitespace().filter(|&word| word != "U") {
        assert!(allowed.contains(&name), "{name}");
    }
    let defined = run(Command::new("nm").args(["--defined-only", "--print-size"]).arg(&built().object));
    let pool = defined.lines().find(|line| line.ends_with(" __hotslot_tls_pool")).unwrap();
    assert_eq!(pool.split(' ').nth(1), Some("0000000000002000"));
}

#[test]
fn without_the_variable_the_program_is_as_if_the_agent_were_not_there() {
    let mut plain = Program::start(&built().plain, None);
    let mut program = Program::start(&built().program, None);
    for command in ["threads", "answer", "through", "data 0", "version"] {
        assert_eq!(program.ask(command).split(' ').next(), plain.ask(command).split(' ').next());
    }
    assert_eq!((program.ask("threads"), program.ask("version")), ("1".to_owned(), "0 0".to_owned()));
    let named = |program: &Program, name| layout(&program.maps().replace(name, "PROGRAM"));
    let mut with_agent = named(&program, "program");
    let mut without = named(&plain, "plain");
    // The agent's tables make the zeroed data bigger than a page, which is a mapping of its own next to the program's.
    let zeroed = |maps: &mut Vec<(String, String)>| {
        let last = maps.iter().rposition(|(_, name)| name == "PROGRAM").unwrap();
        if maps[last + 1] == ("rw-p".to_owned(), String::new()) {
            maps.remove(last + 1);
        }
    };
    zeroed(&mut with_agent);
    zeroed(&mut without);
    assert_eq!(with_agent, without);
    assert_eq!(program.descriptors(), plain.descriptors());
    assert!(program.ask("unwind").starts_with("caught"));
    assert!(program.finish());
}

#[test]
fn hello_says_what_a_patch_needs() {
    let fixed_addresses: &[&str] = &["setarch", "--addr-no-randomize"];
    for (path, prefix) in [(&built().program, &[][..]), (&built().fixed, &[]), (&built().program, fixed_addresses)] {
        let listener = Listener::new();
        let mut program = Program::start_by(prefix, path, Some(&listener.socket()));
        let connection = listener.accept();
        let hello = connection.hello();
        assert_eq!((hello.protocol, hello.pid, hello.version, hello.pending), (3, program.pid(), 0, 0));
        assert_eq!(hello.slots.1 - hello.slots.0, 16);
        assert_eq!(hello.arena.1 - hello.arena.0, 256 << 20);
        assert_eq!((hello.module_size, hello.arena.0 % hello.module_size), (MODULE_SIZE, 0));
        assert_eq!(protection_at(&program.maps(), hello.arena.0), "---");
        for address in program.numbers("where").into_iter().chain([hello.slots.0]) {
            assert!(address.abs_diff(hello.arena.0).max(address.abs_diff(hello.arena.1)) < 1 << 31);
        }
        // The file knows the slots without the load bias.
        assert_eq!(address_in(path, "__hotslot_slots_start").wrapping_add(hello.bias), hello.slots.0);
        // The pool lies in the program's thread-locals, which end at the thread pointer.
        let (_, size, alignment) = hello.tls;
        let block = size.next_multiple_of(alignment) as i64;
        assert_eq!(hello.pool_size, 8192);
        assert!(-block <= hello.pool_offset && hello.pool_offset + 8192 <= 0, "{hello:?}");
        assert_eq!(program.ask("threads"), "2");
        assert_eq!(program.ask("answer"), "1");
        assert!(program.finish());
    }
}

#[test]
fn a_patch_is_called_through_its_slot_until_it_is_undone() {
    for path in [&built().program, &built().fixed] {
        let listener = Listener::new();
        let (mut program, mut connection) = listener.start(path);
        let hello = connection.hello().clone();
        assert_eq!(program.ask("version"), "1 0");
        let first = answers(&hello, 1, 0, 42);
        assert_applied(&connection.patch(&first), 2, 1);
        assert_eq!((program.ask("answer"), program.ask("version")), ("42".to_owned(), "2 1".to_owned()));
        assert_applied(&connection.undo(1), 4, 1);
        assert_eq!((program.ask("answer"), program.ask("version")), ("1".to_owned(), "3 0".to_owned()));
        // What was undone stays mapped, for threads that are in it, so the next one goes elsewhere.
        assert_eq!(protection_at(&program.maps(), hello.arena.0), "r-x");
        assert_eq!(
            connection.patch(&first).reason,
            format!("a segment is not in free memory of the arena: {:#x}", hello.arena.0)
        );
        assert_eq!(program.ask("version"), "3 0");
        apply(&mut connection, &answers(&hello, 1, 1, 43));
        assert_eq!((program.ask("answer"), program.ask("version")), ("43".to_owned(), "4 1".to_owned()));
        apply(&mut connection, &answers(&hello, 2, 2, 44));
        assert_eq!(program.ask("answer"), "44");
        // A slot may go back to code of an earlier patch, or to the program's own.
        let mut back = Patch { version: 3, slots: vec![(hello.slots.0, hello.arena.0 + PAGE)], ..Patch::default() };
        apply(&mut connection, &back);
        assert_eq!(program.ask("answer"), "43");
        back = Patch { version: 4, slots: vec![(hello.slots.0, program.numbers("where")[3])], ..Patch::default() };
        assert_applied(&connection.patch(&back), 2, 4);
        assert_applied(&connection.undo(4), 4, 4);
        assert_eq!(program.ask("answer"), "43");
        assert!(program.finish());
    }
}

#[test]
fn writes_reach_every_kind_of_data_and_undo_takes_them_back() {
    let listener = Listener::new();
    let (mut program, mut connection) = listener.start(&built().program);
    let hello = connection.hello().clone();
    let places = program.numbers("where");
    let before = program.ask("data");
    let protections = |program: &Program| [0, 1, 2].map(|index| protection_at(&program.maps(), places[index]));
    let protected = protections(&program);
    assert_eq!(protected, ["rw-", "r--", "r--"]);
    let bytes = |value: u64| value.to_le_bytes().to_vec();
    // Bytes before and after whole words, too.
    let odd: Vec<u8> = [vec![0x22; 3], bytes(0x2222), vec![0x33; 2]].concat();
    let mut patch = Patch {
        version: 1,
        segments: vec![(hello.arena.0, 16, READ, vec![7; 8]), (hello.arena.0 + PAGE, 16, WRITE, vec![])],
        writes: vec![(places[0], bytes(0xa)), (places[1], bytes(0xb)), (places[1] + 13, odd), (places[2], bytes(0xc))],
        ..Patch::default()
    };
    patch.writes.sort();
    assert_applied(&connection.patch(&patch), 2, 1);
    assert_eq!(program.ask("data"), "a b c");
    assert_eq!(protections(&program), protected);
    assert_applied(&connection.undo(1), 4, 1);
    assert_eq!(program.ask("data"), before);
    assert_eq!(protections(&program), protected);

    // Later patches may write to data of earlier ones, and keep slots there.
    let segments: Vec<_> = patch.segments.iter().map(|it| (it.0 + 2 * PAGE, it.1, it.2, it.3.clone())).collect();
    let (constant, variable) = (segments[0].0, segments[1].0);
    apply(&mut connection, &Patch { version: 1, segments, ..Patch::default() });
    let slots = vec![(hello.slots.0, places[3]), (variable + 8, places[3])];
    let mut slots = slots;
    slots.sort();
    let writes = vec![(constant, bytes(9)), (variable, bytes(8))];
    apply(&mut connection, &Patch { version: 2, writes, slots, ..Patch::default() });
    assert_eq!(protection_at(&program.maps(), constant), "r--");
    assert_eq!(protection_at(&program.maps(), variable), "rw-");
    assert!(program.finish());
}

#[test]
fn a_refusal_names_what_is_wrong_and_changes_nothing() {
    let listener = Listener::new();
    let (mut program, mut connection) = listener.start(&built().program);
    let hello = connection.hello().clone();
    let (arena, slot) = (hello.arena.0, hello.slots.0);
    let places = program.numbers("where");
    let good = answers(&hello, 1, 0, 42);
    let mut cases: Vec<(&str, Patch)> = Vec::new();
    let mut case = |reason, change: &dyn Fn(&mut Patch)| {
        // What is right in the patch must not stay either.
        let mut patch = good.clone();
        patch.writes.push((places[0], vec![9; 8]));
        change(&mut patch);
        patch.writes.sort();
        cases.push((reason, patch));
    };
    case("the version does not follow the program's: 0", &|patch| patch.version = 2);
    case("the version does not follow the program's: 0", &|patch| patch.version = 0);
    case("a segment is not in free memory of the arena", &|patch| patch.segments[0].0 = hello.arena.1);
    case("a segment is not in free memory of the arena", &|patch| patch.segments[0].0 = arena - PAGE);
    case("a segment is not in free memory of the arena", &|patch| patch.segments[0].1 = 1 << 40);
    case("a segment is not in free memory of the arena", &|patch| patch.segments[0].0 = places[3] & !(PAGE - 1));
    case("a segment does not start a page", &|patch| patch.segments[0].0 += 16);
    case("a segment has more bytes than memory", &|patch| patch.segments[0].1 = 5);
    case("a segment's protection is not R, RW or RX", &|patch| patch.segments[0].2 = 7);
    case("empty, out of order or overlapping", &|patch| patch.segments[0].1 = 0);
    case("empty, out of order or overlapping", &|patch| patch.segments[0].1 = u64::MAX);
    case("empty, out of order or overlapping", &|patch| patch.segments.push((arena, 8, READ, vec![])));
    case("not a slot", &|patch| patch.slots[0].0 = hello.slots.1);
    case("not a slot", &|patch| patch.slots[0].0 = slot - 8);
    case("not a slot", &|patch| patch.slots[0].0 = slot + 4);
    case("not a slot", &|patch| patch.slots[0].0 = arena);
    case("empty, out of order or overlapping", &|patch| patch.slots.push((slot, arena)));
    case("empty, out of order or overlapping", &|patch| patch.slots[0].0 = u64::MAX - 7);
    case("a slot's value is not an address of code", &|patch| patch.slots[0].1 = 0);
    case("a slot's value is not an address of code", &|patch| patch.slots[0].1 = places[0]);
    case("a slot's value is not an address of code", &|patch| patch.slots[0].1 = arena + 6);
    case("a slot's value is not an address of code", &|patch| patch.segments[0].2 = READ);
    case("a write is not over data", &|patch| patch.writes.push((places[3], vec![0xcc]))); // code
    case("a write is not over data", &|patch| patch.writes.push((slot + 8, vec![1])));
    case("a write is not over data", &|patch| patch.writes.push((slot - 1, vec![1, 2])));
    case("a write is not over data", &|patch| patch.writes.push((8, vec![1])));
    case("a write is not over data", &|patch| patch.writes.push((arena, vec![1])));
    case("a write is not over data", &|patch| patch.writes.push((hello.arena.1 - 1, vec![1; 2])));
    case("empty, out of order or overlapping", &|patch| patch.writes.push((places[0] + 7, vec![1])));
    case("an unwind table or its text is not in the patch", &|patch| patch.unwind.push((arena, arena, arena + 6)));
    case("an unwind table or its text is not in the patch", &|patch| patch.unwind.push((places[1], arena, arena + 6)));
    // Found only once the segments are in place.
    case("the path of the symbol file does not end with its only NUL", &|patch| patch.symbol_file = b"file".to_vec());

    let state = |program: &mut Program| (program.ask("answer"), program.ask("data"), layout(&program.maps()));
    let before = state(&mut program);
    for (reason, patch) in &cases {
        let receipt = connection.patch(patch);
        assert!(!receipt.applied && receipt.reason.starts_with(reason), "{reason}: {receipt:?}");
        assert_eq!((receipt.answers, receipt.version, receipt.nanoseconds), (2, patch.version, 0));
        assert_eq!(state(&mut program), before, "{reason}");
    }
    assert_eq!(connection.commit(0).reason, "already committed: version: 0");
    assert_eq!(connection.undo(1).reason, "the program's version is: 0");
    assert_applied(&connection.patch(&good), 2, 1);
    assert_eq!(connection.patch(&answers(&hello, 2, 1, 43)).reason, "commit or undo is due for version: 1");
    assert_applied(&connection.commit(1), 3, 1);
    assert_eq!(connection.undo(1).reason, "already committed: version: 1");
    assert_eq!(program.ask("answer"), "42");
    assert!(program.finish());
}

#[test]
fn malformed_messages_close_the_connection_and_nothing_else() {
    let listener = Listener::new();
    let (mut program, mut connection) = listener.start(&built().program);
    let hello = connection.hello().clone();
    let whole = answers(&hello, 1, 0, 42).fields().0;
    let mut messages = vec![
        Fields::default().u32(1).message(99),
        Fields::default().u32(1).u32(1).message(3),
        Fields::default().message(4),
        Fields::default().u32(0).message(7),
        Fields::default().u32(0).bytes(b"image").u32(0).message(7),
        Fields(whole[..whole.len() - 1].to_vec()).message(2),
        Fields([whole.clone(), vec![0]].concat()).message(2),
        // A list that says it has four thousand million entries.
        Fields::default().u32(1).u32(u32::MAX).message(2),
        Fields::default().u32(u32::MAX).u32(2).0,
        Fields::default().u32((64 << 20) + 1).u32(2).0,
        Fields::default().u32(0).u32(2).0,
    ];
    // Each connection costs the agent's pause, so of all places to break the message only some.
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let place = |number: u64| (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(number as u32 * 16) % 40) as usize;
    messages.extend([1, 2].map(|number| Fields(whole[..place(number)].to_vec()).message(2)));
    for message in messages {
        connection.send(&message);
        assert!(connection.is_closed(), "{message:?}");
        connection = listener.accept();
        assert_eq!(connection.hello(), &hello);
    }
    assert_eq!(program.ask("answer"), "1");
    // Half a message, and hotslot is gone.
    connection.send(&Fields(whole).message(2)[..30]);
    drop(connection);
    apply(&mut listener.accept(), &answers(&hello, 1, 0, 42));
    assert_eq!(program.ask("answer"), "42");
    assert!(program.finish());
}

#[test]
fn the_pool_for_thread_locals_is_memory_of_the_thread() {
    for path in [&built().program, &built().fixed] {
        let listener = Listener::new();
        let (mut program, mut connection) = listener.start(path);
        let hello = connection.hello().clone();
        // `inc dword ptr fs:[offset]; mov eax, fs:[offset]; ret`, at both ends of the pool.
        for (version, start) in [(1, 0), (2, i64::from(hello.pool_size) - 4)] {
            let offset = i32::try_from(hello.pool_offset + start).unwrap().to_le_bytes();
            let code = [&[0x64, 0xff, 0x04, 0x25][..], &offset, &[0x64, 0x8b, 0x04, 0x25], &offset, &[0xc3]].concat();
            let mut patch = answers(&hello, version, u64::from(version), 0);
            patch.segments[0].1 = code.len() as u64;
            patch.segments[0].3 = code;
            apply(&mut connection, &patch);
            assert_eq!(["1", "2"], [program.ask("answer"), program.ask("answer")].each_ref().map(String::as_str));
        }
        assert!(program.finish());
    }
}

/// A patch whose `answer` gives what is at `offset` in the thread's pool and adds one to it there. It begins as `value`.
fn counts(hello: &Hello, version: u32, page: u64, offset: u32, value: u32) -> Patch {
    let place = i32::try_from(hello.pool_offset + i64::from(offset)).unwrap().to_le_bytes();
    // `mov eax, fs:[place]; inc dword ptr fs:[place]; ret`
    let code = [&[0x64, 0x8b, 0x04, 0x25][..], &place, &[0x64, 0xff, 0x04, 0x25], &place, &[0xc3]].concat();
    let mut patch = answers(hello, version, page, 0);
    patch.segments[0].1 = code.len() as u64;
    patch.segments[0].3 = code;
    patch.thread_locals = vec![(offset, value.to_le_bytes().to_vec())];
    patch
}

#[test]
fn new_thread_locals_begin_alike_in_threads_old_and_new() {
    for path in [&built().program, &built().fixed] {
        let listener = Listener::new();
        let (mut program, mut connection) = listener.start(path);
        let hello = connection.hello().clone();
        program.ask("worker");
        apply(&mut connection, &counts(&hello, 1, 0, 64, 700));
        program.ask("worker");
        assert_eq!(["700", "701"], [program.ask("answer"), program.ask("answer")].each_ref().map(String::as_str));
        assert_eq!(program.ask("answers"), "700 700");
        // Beside the first; which goes on.
        let mut second = counts(&hello, 2, 1, 68, 50);
        second.thread_locals.push((80, vec![1; 3]));
        apply(&mut connection, &second);
        assert_eq!(program.ask("answers"), "50 50");
        assert_eq!(program.ask("worker"), "3");
        assert_eq!(program.ask("answers"), "51 51 50");

        let refused = |patch: &Patch, connection: &mut Connection| {
            let receipt = connection.patch(patch);
            assert!(receipt.reason.starts_with("a thread-local is not in free memory of the pool"), "{receipt:?}");
        };
        for (offset, size) in [(64, 4), (82, 4), (83, 0), (8190, 4), (u32::MAX, 4)] {
            let mut patch = counts(&hello, 3, 2, 84, 1);
            patch.thread_locals = vec![(offset, vec![0; size])];
            refused(&patch, &mut connection);
        }
        // What an undone patch took stays taken, as threads may still use it.
        assert_applied(&connection.patch(&counts(&hello, 3, 2, 84, 9)), 2, 3);
        assert_eq!(program.ask("answers"), "9 9 9");
        assert_applied(&connection.undo(3), 4, 3);
        assert_eq!(program.ask("answers"), "52 52 51");
        refused(&counts(&hello, 3, 3, 84, 1), &mut connection);
        apply(&mut connection, &counts(&hello, 3, 3, 8188, 1));
        program.ask("worker");
        assert_eq!(program.ask("answers"), "1 1 1 1");
        assert!(program.finish());
    }
}

#[test]
fn a_thread_that_cannot_be_reached_keeps_new_thread_locals_out() {
    let listener = Listener::new();
    let (mut program, mut connection) = listener.start(&built().program);
    let hello = connection.hello().clone();
    // `deaf` blocks all signals.
    program.ask("deaf");
    let before = layout(&program.maps());
    let receipt = connection.patch(&counts(&hello, 1, 0, 0, 700));
    assert!(receipt.reason.starts_with("new thread-locals: no answer from a thread"), "{receipt:?}");
    assert_eq!(layout(&program.maps()), before);
    assert_eq!(program.ask("answers"), "1");
    assert_eq!(program.ask("dismiss"), "0");
    // Threads to come begin with zeros as before: the same code, without an initial value.
    let bare = Patch { thread_locals: vec![], ..counts(&hello, 1, 0, 0, 0) };
    assert_applied(&connection.patch(&bare), 2, 1);
    program.ask("worker");
    assert_eq!(program.ask("answers"), "0");
    assert_applied(&connection.undo(1), 4, 1);
    apply(&mut connection, &counts(&hello, 1, 1, 0, 5));
    assert_eq!(program.ask("answers"), "5");
    assert!(program.finish());
}

#[test]
fn no_thread_is_born_without_the_initial_values() {
    let listener = Listener::new();
    let (mut program, mut connection) = listener.start(&built().program);
    let hello = connection.hello().clone();
    program.tell("storm 300");
    for version in 1..=100 {
        apply(&mut connection, &counts(&hello, version, version.into(), version * 4, version));
    }
    assert_eq!(program.line(), "0", "threads that saw zeros");
    assert!(program.finish());
}

/// The images in the list for debuggers, the last one first (GDB manual, "JIT Compilation Interface").
fn described(program: &Program, list: u64) -> Vec<Vec<u8>> {
    let words = |address: u64, count: usize| -> Vec<u64> {
        let bytes = program.memory(address, 8 * count);
        bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
    };
    let head = words(list, 3);
    assert_eq!(head[0] as u32, 1, "the version");
    assert_eq!(head[1], head[2], "what is new is the first");
    let (mut images, mut entry, mut before) = (Vec::new(), head[2], 0);
    while entry != 0 {
        let [next, previous, image, size] = words(entry, 4)[..] else { unreachable!() };
        assert_eq!(previous, before);
        images.push(program.memory(image, size as usize));
        (entry, before) = (next, entry);
    }
    images
}

#[test]
fn what_is_committed_is_described_to_debuggers_once() {
    for path in [&built().program, &built().fixed] {
        let listener = Listener::new();
        let (program, mut connection) = listener.start(path);
        let hello = connection.hello().clone();
        let list = address_in(path, "__jit_debug_descriptor").wrapping_add(hello.bias);
        assert_eq!(described(&program, list), [[]; 0]);
        assert_applied(&connection.patch(&answers(&hello, 1, 0, 42)), 2, 1);
        assert_eq!(connection.describe(1, b"early").reason, "not committed: version: 1");
        assert_applied(&connection.commit(1), 3, 1);
        assert_applied(&connection.describe(1, b"first"), 7, 1);
        assert_applied(&connection.describe(1, b"again"), 7, 1);
        for version in 2..=40 {
            apply(&mut connection, &answers(&hello, version, version.into(), version));
            // Sent again when its receipt was lost.
            assert_applied(&connection.describe(1, b"late"), 7, 1);
            assert_applied(
                &connection.describe(version, &vec![version as u8; 5000 * (version as usize % 20)]),
                7,
                version,
            );
        }
        let images = described(&program, list);
        assert_eq!((images.len(), images[39].as_slice()), (40, &b"first"[..]));
        assert!((2..=40).all(|version| images[40 - version] == vec![version as u8; 5000 * (version % 20)]));
        assert!(program.finish());
    }
}

#[test]
fn a_programs_own_list_for_debuggers_is_left_alone() {
    let listener = Listener::new();
    let (mut program, mut connection) = listener.start(&built().compiler);
    let hello = connection.hello().clone();
    let list = address_in(&built().compiler, "__jit_debug_descriptor").wrapping_add(hello.bias);
    apply(&mut connection, &answers(&hello, 1, 0, 42));
    let receipt = connection.describe(1, b"image");
    assert_eq!(receipt.reason, format!("the program has a list for debuggers of its own, at: {list:#x}"));
    assert_eq!(described(&program, list), [[]; 0]);
    apply(&mut connection, &answers(&hello, 2, 1, 43));
    assert_eq!(program.ask("answer"), "43");
    assert!(program.finish());
}

#[test]
fn no_memory_is_ever_writable_and_executable() {
    let listener = Listener::new();
    let (mut program, mut connection) = listener.start(&built().program);
    let hello = connection.hello().clone();
    let done = AtomicBool::new(false);
    let path = format!("/proc/{}/maps", program.pid());
    let looks = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                let maps = fs::read_to_string(&path).unwrap();
                let both = maps.lines().find(|line| line.split(' ').nth(1).is_some_and(|it| it.contains("wx")));
                assert_eq!(both, None);
                looks += 1;
            }
            looks
        });
        let patch = |version| answers(&hello, version, u64::from(version), version);
        let mut times: Vec<u64> = (1..=300).map(|version| apply(&mut connection, &patch(version))).collect();
        times.sort_unstable();
        println!("applied in {} ns, at worst {} ns", times[150], times[299]);
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    });
    assert!(looks > 0);
    assert_eq!(program.ask("answer"), "300");
    assert!(program.finish());
}

#[test]
fn the_program_outlives_hotslot_and_greets_the_next_one() {
    let listener = Listener::new();
    let (mut program, mut connection) = listener.start(&built().program);
    let hello = connection.hello().clone();
    apply(&mut connection, &answers(&hello, 1, 0, 42));
    assert_applied(&connection.patch(&answers(&hello, 2, 1, 43)), 2, 2);
    drop(connection);
    assert_eq!(program.ask("answer"), "43");
    let mut connection = listener.accept();
    assert_eq!(connection.hello(), &Hello { version: 2, pending: 1, ..hello.clone() });
    assert_applied(&connection.undo(2), 4, 2);
    assert_eq!(program.ask("answer"), "42");
    drop(connection);

    // Nobody listens for a while: a new socket at the same path.
    let socket = listener.socket();
    fs::remove_file(&socket).unwrap();
    let next = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    drop(next.accept().unwrap());
    drop(next);
    assert_eq!(program.ask("answer"), "42");
    assert!(program.finish());
}

#[test]
fn programs_that_the_program_starts_are_left_alone() {
    let listener = Listener::new();
    let (mut program, _connection) = listener.start(&built().program);
    assert_eq!(program.ask("variables"), "0");
    assert!(program.finish());
}

#[test]
fn sockets_are_given_to_whoever_takes_the_programs_place() {
    for linked in [&built().program, &built().fixed] {
        let listener = Listener::new();
        let (mut program, mut connection) = listener.start(linked);
        let path = listener.folder().join("sockets");
        let bytes = [path.as_os_str().as_encoded_bytes(), &[0]].concat();
        let port: u16 = program.ask("listen").parse().unwrap();
        let sockets: Vec<u32> = (0..64).collect();
        let refused = |receipt: &Receipt, reason: &str| assert!(receipt.reason.starts_with(reason), "{receipt:?}");
        refused(&connection.hand_over(0, &bytes, &[0, 1, 2, 99]), "no socket listens for TCP connections, of: 4");
        refused(&connection.hand_over(0, b"path", &sockets), "the path of a handover does not end");
        refused(
            &connection.hand_over(0, b"/nonexistent/path\0", &sockets),
            "cannot listen at the path of a handover, errno: 2",
        );
        assert_applied(&connection.hand_over(0, &bytes, &sockets), 6, 0);

        // The successor is its equal; it runs once the first has ended, and gets the socket by `bind`.
        let start = |environment: &[(&str, &Path)]| Program::start_with(linked, Some(&listener.socket()), environment);
        let mut next = start(&[("HOTSLOT_HANDOVER", &path)]);
        let hello = listener.accept();
        assert_eq!(hello.hello().pid, next.pid());
        next.tell(&format!("listen {port}"));
        // Who comes now comes to the successor, also if the first accepts still.
        program.tell("accept");
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        drop(program);
        assert_eq!(next.line(), port.to_string());
        next.tell("accept");
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer).unwrap();
        assert_eq!(answer.trim_end(), next.pid().to_string());
        assert_eq!(next.line(), stream.local_addr().unwrap().to_string());
        assert_eq!(next.ask("variables"), "0");
        assert!(next.finish());

        // Whom it was to replace is gone: it starts as any other.
        let mut alone = start(&[("HOTSLOT_HANDOVER", &path)]);
        assert_eq!(alone.ask("answer"), "1");
        assert!(alone.finish());
    }
}

#[test]
fn without_a_listener_the_program_runs() {
    let mut program = Program::start(&built().program, Some(Path::new("/nonexistent/agent")));
    assert_eq!(program.ask("answer"), "1");
    assert!(program.finish());
}

#[test]
fn what_keeps_the_agent_from_starting_is_said_once() {
    let socket = format!("/{}", "long/".repeat(30));
    let command = &mut Command::new(&built().program);
    let output = command.env("HOTSLOT_SOCKET", &socket).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "hotslot: the program runs, but takes no patches: the path in HOTSLOT_SOCKET is too long, bytes: 151\n"
    );
}

#[test]
fn a_forked_child_has_the_patches_but_not_the_connection() {
    let listener = Listener::new();
    let (mut program, mut connection) = listener.start(&built().program);
    let hello = connection.hello().clone();
    apply(&mut connection, &answers(&hello, 1, 0, 42));
    assert_eq!(program.ask("fork"), "0 1 42", "the child: sockets, threads, answer");
    assert_eq!(program.line(), "1 2 0", "the parent: sockets, threads, the child's status");
    apply(&mut connection, &answers(&hello, 2, 1, 43));
    assert_eq!(program.ask("answer"), "43");
    assert!(program.finish());
}

#[test]
fn forking_while_patches_come_harms_neither() {
    let listener = Listener::new();
    let (mut program, mut connection) = listener.start(&built().program);
    let hello = connection.hello().clone();
    apply(&mut connection, &answers(&hello, 1, 1, 1));
    let done = AtomicBool::new(false);
    let forks = std::thread::scope(|scope| {
        let forks = scope.spawn(|| {
            let (mut forks, mut last) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let child = program.numbers("fork");
                assert_eq!((child[0], child[1]), (0, 1));
                assert!(child[2] >= last, "{} after {last}", child[2]);
                last = child[2];
                assert_eq!(program.line(), "1 2 0");
                forks += 1;
            }
            forks
        });
        for version in 2..=200 {
            apply(&mut connection, &answers(&hello, version, u64::from(version), version));
        }
        done.store(true, Ordering::Relaxed);
        forks.join().unwrap()
    });
    assert!(forks > 0);
    assert_eq!(program.ask("answer"), "200");
    assert!(program.finish());
}

/// Links the compiled patch to the arena's start, and gives it with the address of its function.
fn linked(hello: &Hello, version: u32, file: &Path) -> (Patch, u64) {
    run(Command::new("cc")
        .args([
            "-nostdlib",
            "-static",
            "-no-pie",
            "-Wl,--eh-frame-hdr,-z,separate-code,--build-id=none,-e,patched_through",
        ])
        .arg(format!("-Wl,-Ttext-segment={:#x}", hello.arena.0 - hello.symbol_bias))
        .arg("-o")
        .args([file, &built().patch]));
    let elf = fs::read(file).unwrap();
    let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
    let half = |at: usize| u32::from_le_bytes(elf[at..at + 4].try_into().unwrap());
    let mut patch = Patch { version, ..Patch::default() };
    let (mut eh_frame_hdr, mut text) = (0, (0, 0));
    let count = usize::from(elf[56]);
    for header in (0..count).map(|index| word(32) as usize + index * 56) {
        let (kind, flags) = (half(header), half(header + 4));
        let (offset, address, size) =
            (word(header + 8) as usize, word(header + 16) + hello.symbol_bias, word(header + 32));
        if kind == 1 {
            let protection = if flags & 1 != 0 { EXECUTE } else { READ };
            patch.segments.push((address, size, protection, elf[offset..offset + size as usize].to_vec()));
            text = if flags & 1 != 0 { (address, address + size) } else { text };
        }
        if kind == 0x6474_e550 {
            eh_frame_hdr = address;
        }
    }
    patch.unwind = vec![(eh_frame_hdr, text.0, text.1)];
    patch.symbol_file = [file.as_os_str().as_encoded_bytes(), &[0]].concat();
    let entry = word(24) + hello.symbol_bias;
    patch.slots = vec![(hello.slots.0 + 8, entry)];
    (patch, entry)
}

#[test]
fn panics_and_backtraces_pass_through_a_patch() {
    for path in [&built().program, &built().fixed] {
        let listener = Listener::new();
        let (mut program, mut connection) = listener.start(path);
        let hello = connection.hello().clone();
        let main = program.numbers("where")[3];
        // std remembers the list of modules from its first backtrace, so one before the patch.
        assert!(program.ask("unwind").starts_with("caught "));
        let plain = program.ask(&format!("find {main}"));
        assert!(plain.starts_with("0 "));
        assert!(program.ask(&format!("find {}", hello.arena.0)).starts_with("-1 "));

        let (patch, entry) = linked(&hello, 1, &listener.folder().join("symbols"));
        apply(&mut connection, &patch);
        assert_eq!(program.ask("through"), "1001");
        let (header, start, end) = patch.unwind[0];
        assert_eq!(program.ask(&format!("find {entry}")), format!("0 {start} {end} {header}"));
        assert_eq!(program.ask(&format!("find {main}")), plain);
        assert!(program.ask(&format!("find {}", hello.arena.1 - 1)).starts_with("-1 "));
        let trace = program.ask("unwind");
        assert!(trace.starts_with("caught "), "{trace}");
        let frame = trace.split(';').skip_while(|line| !line.ends_with(": patched_through")).nth(1);
        assert!(frame.is_some_and(|line| line.trim().starts_with("at ") && line.contains("/patch.rs:6")), "{trace}");
        assert!(trace.contains(": main;"), "{trace}");
        assert!(program.finish());
    }
}
