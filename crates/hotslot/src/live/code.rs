//! The word in which the agent says which code the program runs, if an agent is linked in.

use std::arch::asm;
use std::ffi::{c_int, c_long};
use std::ptr::null;
use std::sync::atomic::{AtomicU64, Ordering};

const SYS_FUTEX: c_long = 202;
const FUTEX_WAIT_PRIVATE: c_int = 128;

unsafe extern "C" {
    /// Of libc, which std links.
    fn syscall(number: c_long, ...) -> c_long;
}

/// The code that the program ran at some moment. Different after each patch, also when one was undone and another took its
/// version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// How often it changed, from 1 on; 0 when nothing will ever change it.
    count: u32,
    version: u32,
}

impl Code {
    /// What the agent wrote before this, new functions included, is seen after it.
    pub fn now() -> Self {
        let word = word().map_or(0, |word| word.load(Ordering::Acquire));
        Self { count: word as u32, version: (word >> 32) as u32 }
    }

    pub fn version(self) -> u64 {
        self.version.into()
    }

    pub fn may_change(self) -> bool {
        self.count != 0
    }

    /// Blocks the thread until the program runs other code than this.
    pub fn wait(self) {
        let Some(word) = word() else { return };
        while Self::now() == self {
            // SAFETY: a futex that lives as long as the program; on x86-64 the low half comes first. The kernel compares
            // it with `count` before it lets the thread sleep (futex(2)), so no change is missed.
            unsafe { syscall(SYS_FUTEX, word.as_ptr(), FUTEX_WAIT_PRIVATE, self.count, null::<u8>()) };
        }
    }
}

/// `__hotslot_version` of the agent; none in a program without one.
///
/// An undefined weak symbol has the address 0, but stable Rust cannot name one, so the linker's answer is read from the
/// global offset table directly. Hidden, so that it is settled by that linker and not sought in shared libraries. Never
/// inlined: the reference stays in this crate's own object.
#[inline(never)]
fn word() -> Option<&'static AtomicU64> {
    let address: *const AtomicU64;
    // SAFETY: the instruction loads a constant that the linker, or for a PIE the loader, has filled in.
    unsafe {
        asm!(
            ".weak __hotslot_version",
            ".hidden __hotslot_version",
            "mov {}, qword ptr [rip + __hotslot_version@GOTPCREL]",
            out(reg) address,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    // SAFETY: null, or a static of this type in the agent.
    unsafe { address.as_ref() }
}
