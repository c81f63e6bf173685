//! Messages of hotslot on a Unix socket in; new code in the running program out.
//!
//! The user's own rustc compiles this crate to one object (`--crate-type lib --emit obj -C panic=abort -C opt-level=2 -C
//! codegen-units=1`), which is linked into the program. It needs libc, and `__hotslot_slots_start` and
//! `__hotslot_slots_end` from the object with the stubs; nothing of core or std, so any order on the link line will do.
//! Nothing here allocates from the program's heap or panics.
//!
//! Without `HOTSLOT_SOCKET` in the environment no thread, no mapping and no file descriptor is made. The variable is taken
//! away, so that programs that this one starts are as if it had not been there.
#![no_std]

mod arena;
mod debugger;
mod handover;
mod patch;
mod program;
mod sys;
mod thread;
mod tls;
mod unwind;
mod wire;

/// Run by the loader before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    let [socket, path, tells] = [c"HOTSLOT_SOCKET", c"HOTSLOT_HANDOVER", c"HOTSLOT_LISTEN"].map(|name| {
        let value = sys::environment(name);
        sys::forget_environment(name);
        value
    });
    let Some(socket) = socket else { return };
    let predecessor = path.and_then(|path| handover::take(path, tells.is_some()));
    if let Err(reason) = thread::start(socket) {
        sys::complain(&reason);
    }
    if let Some(predecessor) = predecessor {
        predecessor.wait();
    }
}
