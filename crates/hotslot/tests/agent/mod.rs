//! In the place of the agent: its word, and what it does to it.

use std::sync::atomic::{AtomicU64, Ordering};

const SYS_FUTEX: i64 = 202;
const FUTEX_WAKE_PRIVATE: i32 = 1 | 128;

unsafe extern "C" {
    fn syscall(number: i64, ...) -> i64;
}

#[unsafe(export_name = "__hotslot_version")]
static WORD: AtomicU64 = AtomicU64::new(0);

/// As after a patch, or at the start, or after an undo.
pub fn announce(version: u64) {
    let count = (WORD.load(Ordering::Relaxed) & 0xffff_ffff) + 1;
    WORD.store(version << 32 | count, Ordering::Release);
    // SAFETY: wakes whoever waits at a static.
    unsafe { syscall(SYS_FUTEX, WORD.as_ptr(), FUTEX_WAKE_PRIVATE, i32::MAX) };
}
