//! Hooks in; a thread that calls them whenever the agent says that the code has changed.

use super::code::Code;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

struct Hook {
    /// The code for which it need not be called any more.
    seen: Code,
    call: Box<dyn FnMut(u64) + Send>,
}

/// Hooks that the thread has not fetched yet. It owns them from then on, so a hook may register others.
static NEW: Mutex<Vec<Hook>> = Mutex::new(Vec::new());
static START: Once = Once::new();

pub fn on_patch<F>(hook: F)
where
    F: FnMut(u64) + Send + 'static,
{
    let seen = Code::now();
    if !seen.may_change() {
        return;
    }
    NEW.lock().unwrap_or_else(PoisonError::into_inner).push(Hook { seen, call: Box::new(hook) });
    START.call_once(|| {
        if let Err(error) = thread::Builder::new().name("hotslot hooks".to_owned()).spawn(run) {
            eprintln!("hotslot: hooks will not be called, as no thread could be started: {error}");
        }
    });
}

fn run() {
    let mut hooks = Vec::new();
    loop {
        hooks.append(&mut NEW.lock().unwrap_or_else(PoisonError::into_inner));
        // After fetching, so no hook has seen more than this.
        let code = Code::now();
        for hook in hooks.iter_mut().filter(|hook| hook.seen != code) {
            hook.seen = code;
            // The panic has been reported by the program's panic hook; that a later call finds what this one left half
            // done is between the hook and its captures, as with any `FnMut` that panics.
            let _ = catch_unwind(AssertUnwindSafe(|| (hook.call)(code.version())));
        }
        code.wait();
    }
}
