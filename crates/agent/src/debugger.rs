//! Tells gdb and lldb of patches: images of ELF files in memory, in the list that programs which compile code themselves keep
//! for debuggers (GDB manual, "JIT Compilation Interface").
//!
//! A debugger finds the list by the name of one symbol and hears of changes by a breakpoint on another. Both are weak here, so
//! that a program with a compiler of its own keeps its list, to itself: nobody could tell when it changes it.

use crate::sys::{Pages, Reason};
use crate::wire::Bytes;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

/// As many as patches that have unwind tables.
const MAX_ENTRIES: usize = 8192;
/// Bytes for images, many in one piece of memory: most are smaller than a page.
const SPACE: usize = 64 << 10;
const REGISTER: u32 = 1;

/// `struct jit_code_entry`.
#[repr(C)]
struct Entry {
    next: AtomicPtr<Entry>,
    previous: AtomicPtr<Entry>,
    image: AtomicU64,
    size: AtomicU64,
}

/// `struct jit_descriptor`.
#[repr(C)]
struct List {
    version: u32,
    action: AtomicU32,
    relevant: AtomicPtr<Entry>,
    first: AtomicPtr<Entry>,
}

static ENTRIES: [Entry; MAX_ENTRIES] = [const {
    Entry {
        next: AtomicPtr::new(null_mut()),
        previous: AtomicPtr::new(null_mut()),
        image: AtomicU64::new(0),
        size: AtomicU64::new(0),
    }
}; MAX_ENTRIES];
static ENTRY_COUNT: AtomicUsize = AtomicUsize::new(0);
/// Where the next image goes, and how many bytes are left there.
static FREE: AtomicU64 = AtomicU64::new(0);
static FREE_SIZE: AtomicUsize = AtomicUsize::new(0);

// Hidden, so that a compiler in a shared library does not take them for its own.
core::arch::global_asm!(
    ".pushsection .data.__jit_debug_descriptor, \"aw\", @progbits",
    ".balign 8",
    ".globl __hotslot_debugger_list",
    ".hidden __hotslot_debugger_list",
    ".weak __jit_debug_descriptor",
    ".hidden __jit_debug_descriptor",
    ".type __jit_debug_descriptor, @object",
    ".size __jit_debug_descriptor, 24",
    "__hotslot_debugger_list:",
    "__jit_debug_descriptor:",
    ".long 1, 0",
    ".quad 0, 0",
    ".popsection",
    ".pushsection .text.__jit_debug_register_code, \"ax\", @progbits",
    ".weak __jit_debug_register_code",
    ".hidden __jit_debug_register_code",
    ".type __jit_debug_register_code, @function",
    ".size __jit_debug_register_code, 1",
    "__jit_debug_register_code:",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    /// What the name that debuggers look for stands for, unless the program has it too.
    static __hotslot_debugger_list: List;
    fn __jit_debug_register_code();
}

/// The list that debuggers read.
fn published() -> *const List {
    let list;
    // The compiler would take it for granted that two names are two places.
    // SAFETY: computes an address.
    unsafe {
        core::arch::asm!("lea {}, [rip + __jit_debug_descriptor]", out(reg) list, options(nomem, nostack, preserves_flags));
    }
    list
}

/// Copies an image to where it stays for as long as the program runs.
fn keep(image: Bytes<'_>) -> Result<u64, Reason> {
    if image.len() > FREE_SIZE.load(Relaxed) {
        let size = image.len().max(SPACE);
        FREE.store(Pages::new(size)?.leak() as u64, Relaxed);
        FREE_SIZE.store(size, Relaxed);
    }
    let address = FREE.load(Relaxed);
    // SAFETY: so many bytes there are ours, and nobody else has their address yet.
    unsafe { core::ptr::copy_nonoverlapping(image.as_ptr().cast::<u8>(), address as *mut u8, image.len()) };
    FREE.store(address.wrapping_add(image.len() as u64), Relaxed);
    FREE_SIZE.store(FREE_SIZE.load(Relaxed).wrapping_sub(image.len()), Relaxed);
    Ok(address)
}

/// Debuggers know the ELF file `image` from now on. Called by the agent's thread alone.
pub fn register(image: Bytes<'_>) -> Result<(), Reason> {
    // SAFETY: it is above, and everything in it is atomic but for the version, which nobody changes.
    let list = unsafe { &__hotslot_debugger_list };
    if !core::ptr::eq(list, published()) {
        return Err(Reason::new("the program has a list for debuggers of its own, at", published() as u64));
    }
    let count = ENTRY_COUNT.load(Relaxed);
    let Some(entry) = ENTRIES.get(count) else {
        return Err(Reason::new("no room for more code that debuggers know; images", count as u64));
    };
    entry.image.store(keep(image)?, Relaxed);
    entry.size.store(image.len() as u64, Relaxed);
    ENTRY_COUNT.store(count + 1, Relaxed);
    let place = (&raw const *entry).cast_mut();
    let next = list.first.load(Relaxed);
    entry.next.store(next, Relaxed);
    // SAFETY: null, or one of `ENTRIES`: nobody else writes to our list.
    if let Some(next) = unsafe { next.as_ref() } {
        next.previous.store(place, Relaxed);
    }
    list.relevant.store(place, Relaxed);
    list.action.store(REGISTER, Relaxed);
    list.first.store(place, Release);
    // SAFETY: takes nothing and does nothing; a debugger that is there stops in it.
    unsafe { __jit_debug_register_code() };
    Ok(())
}
