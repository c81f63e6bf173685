//! What new thread-locals are at first → the pool of every thread, those that run and those to come.
//!
//! A thread's block of thread-locals begins as a copy of the program's initialisation image (PT_TLS). The pool is part of the
//! image, so what is written there reaches all threads to come. Those that run have to be reached one by one. Nobody knows
//! where another thread's block is, or how long it stays, but the thread itself: so each gets a signal, and its handler
//! copies from the image. Threads that have blocked the signal cannot be reached, and the patch is refused.
//!
//! A thread that is being made has its copy already, but cannot be signalled yet. So `pthread_create` is here, too, and waits
//! while a patch is applied. What libc makes for itself, to run a timer for instance, does not come by here.

use crate::patch::LOCK;
use crate::program::POOL_SIZE;
use crate::sys::{self, Pages, Reason, Routine};
use core::ffi::{c_int, c_long, c_ulong, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering::*};

const SYS_GETTID: c_long = 186;
const SYS_GETDENTS64: c_long = 217;
const SYS_TGKILL: c_long = 234;
const O_RDONLY: c_int = 0;
const O_DIRECTORY: c_int = 0o200_000;
const O_CLOEXEC: c_int = 0o2_000_000;
const SA_ONSTACK: c_int = 0x0800_0000;
const SA_RESTART: c_int = 0x1000_0000;
/// Real-time signals that glibc leaves to programs; the last are the least used.
const FIRST_SIGNAL: c_int = 35;
const LAST_SIGNAL: c_int = 64;
/// Nanoseconds that threads have to answer.
const PATIENCE: u64 = 2_000_000_000;
const MAX_THREADS: usize = 1 << 15;

/// `struct sigaction` of glibc on x86-64.
#[repr(C)]
struct Action {
    /// 0 for SIG_DFL.
    handler: usize,
    mask: [u64; 16],
    flags: c_int,
    restorer: usize,
}

unsafe extern "C" {
    fn sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn open(path: *const core::ffi::c_char, flags: c_int, ...) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn sched_yield() -> c_int;
}

/// What threads are asked to do: copy bytes `start` up to `end` of the pool from the image.
struct Job {
    /// Address of the pool in the image, and from the thread pointer.
    image: u64,
    pool_offset: i64,
    start: u32,
    end: u32,
    threads: *const Thread,
    count: AtomicU32,
}

struct Thread {
    /// 0 for none.
    id: AtomicI32,
    done: AtomicBool,
}

/// What a handler has to do; null for nothing.
static JOB: AtomicPtr<Job> = AtomicPtr::new(null_mut());
/// Handlers that may look at the job.
static INSIDE: AtomicU32 = AtomicU32::new(0);
/// Whether an agent runs: then `pthread_create` takes the lock.
static ACTIVE: AtomicBool = AtomicBool::new(false);
static NEXT_CREATE: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

type Create = extern "C" fn(*mut c_ulong, *const c_void, Routine, *mut c_void) -> c_int;

// Weak, as an object of the program may have a better one.
core::arch::global_asm!(".weak pthread_create", ".set pthread_create, __hotslot_pthread_create");

/// Stands before glibc's for the program.
///
/// # Safety
/// As for `pthread_create`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __hotslot_pthread_create(
    thread: *mut c_ulong,
    attributes: *const c_void,
    routine: Routine,
    data: *mut c_void,
) -> c_int {
    const EAGAIN: c_int = 11;
    let next = crate::unwind::next(&NEXT_CREATE, c"pthread_create");
    // SAFETY: glibc's `pthread_create` has this type; null is None.
    let Some(create) = (unsafe { core::mem::transmute::<*mut c_void, Option<Create>>(next) }) else { return EAGAIN };
    if !ACTIVE.load(Relaxed) {
        return create(thread, attributes, routine, data);
    }
    LOCK.hold(|| create(thread, attributes, routine, data))
}

/// From now on threads are made one at a time, and none while a patch is applied.
pub fn start() {
    ACTIVE.store(true, Relaxed);
}

/// Copies part of the pool in the image, at address `image`, to the pools of all threads. Called by the agent's thread,
/// under `LOCK`.
pub fn spread(image: u64, pool_offset: i64, start: u32, end: u32) -> Result<(), Reason> {
    let threads = Pages::new(MAX_THREADS * size_of::<Thread>())?;
    let threads_start = threads.cells().as_ptr().cast::<Thread>();
    let mut job = Job { image, pool_offset, start, end, threads: threads_start, count: AtomicU32::new(0) };
    let signal = take_signal()?;
    job.copy();
    JOB.store(&raw mut job, SeqCst);
    let outcome = job.run(signal);
    JOB.store(null_mut(), SeqCst);
    // A handler that began earlier may still have the job; it is about to be done.
    while INSIDE.load(SeqCst) != 0 {
        // SAFETY: takes nothing.
        unsafe { sched_yield() };
    }
    outcome
}

/// A real-time signal that nobody else uses, with our handler. It keeps the handler: a signal may arrive late.
fn take_signal() -> Result<c_int, Reason> {
    let ours = handle as extern "C" fn(c_int) as usize;
    for signal in (FIRST_SIGNAL..=LAST_SIGNAL).rev() {
        let mut old = Action { handler: 0, mask: [0; 16], flags: 0, restorer: 0 };
        // SAFETY: asks only, and writes to `old`.
        let failed = unsafe { sigaction(signal, core::ptr::null(), &raw mut old) } != 0;
        if !failed && old.handler == ours {
            return Ok(signal);
        }
        if failed || old.handler != 0 {
            continue;
        }
        let action = Action { handler: ours, mask: [0; 16], flags: SA_RESTART | SA_ONSTACK, restorer: 0 };
        // SAFETY: the handler is safe at any time, in any thread.
        if unsafe { sigaction(signal, &raw const action, null_mut()) } == 0 {
            return Ok(signal);
        }
    }
    Err(Reason::new("new thread-locals need a signal, and the program uses all, from", FIRST_SIGNAL as u64))
}

/// In a thread of the program, at any moment.
extern "C" fn handle(_: c_int) {
    INSIDE.fetch_add(1, SeqCst);
    let job = JOB.load(SeqCst);
    if !job.is_null() {
        // SAFETY: the agent keeps the job until no handler is inside.
        let job = unsafe { &*job };
        let me = thread_id();
        if let Some(thread) = job.threads().iter().find(|thread| thread.id.load(Relaxed) == me) {
            if !thread.done.load(Relaxed) {
                job.copy();
            }
            thread.done.store(true, Release);
        }
    }
    INSIDE.fetch_sub(1, SeqCst);
}

fn thread_id() -> i32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { syscall(SYS_GETTID) as i32 }
}

/// Signal 0 only asks whether the thread is there.
fn send(thread: i32, signal: c_int) -> bool {
    // SAFETY: takes integers; a handler is in place.
    unsafe { syscall(SYS_TGKILL, sys::pid(), thread, signal) == 0 }
}

impl Job {
    fn threads(&self) -> &[Thread] {
        // SAFETY: so many entries of the pages that `spread` holds; they change through atomics only.
        unsafe { core::slice::from_raw_parts(self.threads, self.count.load(Acquire) as usize) }
    }

    /// For the calling thread.
    fn copy(&self) {
        let pointer: u64;
        // SAFETY: at fs:0 the ABI keeps the thread pointer itself.
        unsafe { core::arch::asm!("mov {}, qword ptr fs:[0]", out(reg) pointer, options(nostack, readonly)) };
        let start = u64::from(self.start);
        let pool = pointer.wrapping_add_signed(self.pool_offset).wrapping_add(start);
        let image = self.image.wrapping_add(start);
        let size = self.end.saturating_sub(self.start).min(POOL_SIZE) as usize;
        // SAFETY: `start` and `end` are in the pool, and that in the thread's own block; no code that runs yet uses it.
        unsafe { core::ptr::copy_nonoverlapping(image as *const u8, pool as *mut u8, size) };
    }

    /// Until a look at all threads finds no new one.
    fn run(&self, signal: c_int) -> Result<(), Reason> {
        let end = sys::now().wrapping_add(PATIENCE);
        loop {
            let known = self.threads().len();
            self.list()?;
            let new = self.threads().get(known..).unwrap_or_default();
            if new.is_empty() {
                return Ok(());
            }
            for thread in new {
                if !send(thread.id.load(Relaxed), signal) {
                    thread.done.store(true, Relaxed);
                }
            }
            while let Some(thread) = self.threads().iter().find(|thread| !thread.done.load(Acquire)) {
                let id = thread.id.load(Relaxed);
                if !send(id, 0) {
                    // It has ended.
                    thread.done.store(true, Relaxed);
                } else if sys::now() > end {
                    return Err(Reason::new(
                        "new thread-locals: no answer from a thread, which may block signals",
                        id as u64,
                    ));
                } else {
                    sys::pause();
                }
            }
        }
    }

    /// Adds the threads of the program that are not known yet, except this one.
    fn list(&self) -> Result<(), Reason> {
        // SAFETY: the path ends with a NUL.
        let folder = unsafe { open(c"/proc/self/task".as_ptr(), O_RDONLY | O_DIRECTORY | O_CLOEXEC) };
        if folder < 0 {
            return Err(Reason::new("new thread-locals: /proc/self/task cannot be read, descriptor", 0));
        }
        let outcome = self.read(folder);
        // SAFETY: opened above.
        unsafe { close(folder) };
        outcome
    }

    fn read(&self, folder: c_int) -> Result<(), Reason> {
        let buffer = Pages::new(16 << 10)?;
        let me = thread_id();
        loop {
            let cells = buffer.cells();
            // SAFETY: the kernel writes at most so many bytes to memory of ours.
            let size = unsafe { syscall(SYS_GETDENTS64, folder, cells.as_ptr(), cells.len()) };
            let Ok(size) = usize::try_from(size) else {
                return Err(Reason::new(
                    "new thread-locals: /proc/self/task cannot be read, descriptor",
                    folder as u64,
                ));
            };
            if size == 0 {
                return Ok(());
            }
            let mut rest = cells.get(..size).unwrap_or_default();
            // getdents64(2): u64 inode, u64 offset, u16 length of all, u8 type, then the name and a NUL.
            while let (Some(low), Some(high)) = (rest.get(16), rest.get(17)) {
                let length = usize::from(u16::from_le_bytes([low.get(), high.get()]));
                let name = rest.get(19..length).unwrap_or_default();
                let digits = name.iter().map(|cell| cell.get()).take_while(u8::is_ascii_digit);
                let id = digits.fold(0, |id: i32, digit| id.wrapping_mul(10).wrapping_add(i32::from(digit - b'0')));
                if id != 0 && id != me && !self.threads().iter().any(|thread| thread.id.load(Relaxed) == id) {
                    self.add(id)?;
                }
                rest = rest.get(length.max(1)..).unwrap_or_default();
            }
        }
    }

    fn add(&self, id: i32) -> Result<(), Reason> {
        let count = self.count.load(Relaxed) as usize;
        if count == MAX_THREADS {
            return Err(Reason::new("new thread-locals: more threads than", MAX_THREADS as u64));
        }
        // SAFETY: within the pages that `spread` holds.
        let thread = unsafe { self.threads.add(count) };
        // SAFETY: there, and zeros are a thread with id 0.
        let thread = unsafe { &*thread };
        thread.id.store(id, Relaxed);
        self.count.store(count as u32 + 1, Release);
        Ok(())
    }
}
