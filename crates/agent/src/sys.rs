//! What the agent asks of libc and the kernel (Linux x86-64, glibc): declarations, and safe wrappers where one is sound.

use core::cell::{Cell, UnsafeCell};
use core::ffi::{CStr, c_char, c_int, c_long, c_ulong, c_void};
use core::ptr::{null, null_mut};
use core::sync::atomic::AtomicU64;

/// Bytes per page on x86-64.
pub const PAGE: u64 = 4096;

const PROT_READ: c_int = 1;
const PROT_WRITE: c_int = 2;
const PROT_EXEC: c_int = 4;
const MAP_PRIVATE: c_int = 0x02;
const MAP_FIXED: c_int = 0x10;
const MAP_ANONYMOUS: c_int = 0x20;
const MAP_NORESERVE: c_int = 0x4000;
const MAP_FIXED_NOREPLACE: c_int = 0x10_0000;
pub const AF_UNIX: c_int = 1;
const SOCK_STREAM: c_int = 1;
const SOCK_CLOEXEC: c_int = 0o2_000_000;
const MSG_NOSIGNAL: c_int = 0x4000;
const EINTR: i32 = 4;
const POLLIN: i16 = 1;
const SIG_SETMASK: c_int = 2;
const PTHREAD_CREATE_DETACHED: c_int = 1;
const CLOCK_MONOTONIC: c_int = 1;
const PR_SET_NAME: c_int = 15;
const SYS_FUTEX: c_long = 202;
const FUTEX_WAKE_PRIVATE: c_int = 1 | 128;
const SYS_MEMBARRIER: c_long = 324;
const MEMBARRIER_SYNC_CORE: c_int = 1 << 5;
const MEMBARRIER_REGISTER_SYNC_CORE: c_int = 1 << 6;
const RTLD_NEXT: *mut c_void = -1_isize as *mut c_void;

type Handler = extern "C" fn();
pub type Routine = extern "C" fn(*mut c_void) -> *mut c_void;

/// `sizeof(pthread_attr_t)`, `sizeof(sigset_t)` and `sizeof(pthread_mutex_t)` of glibc on x86-64.
#[repr(C, align(16))]
struct Attributes([u8; 56]);
#[repr(C, align(16))]
struct Signals([u8; 128]);
#[repr(C, align(16))]
struct Mutex([u8; 40]);
#[repr(C)]
struct Time {
    seconds: i64,
    nanoseconds: i64,
}
#[repr(C)]
struct Poll {
    fd: c_int,
    events: i16,
    happened: i16,
}
#[repr(C)]
#[derive(Clone, Copy)]
struct SocketAddress {
    family: u16,
    path: [u8; 108],
}

unsafe extern "C" {
    fn mmap(address: *mut c_void, size: usize, protection: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
    fn munmap(address: *mut c_void, size: usize) -> c_int;
    fn mprotect(address: *mut c_void, size: usize, protection: c_int) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(fd: c_int, address: *const SocketAddress, size: u32) -> c_int;
    fn send(fd: c_int, bytes: *const u8, size: usize, flags: c_int) -> isize;
    fn recv(fd: c_int, bytes: *mut u8, size: usize, flags: c_int) -> isize;
    fn close(fd: c_int) -> c_int;
    fn poll(descriptors: *mut Poll, count: c_ulong, milliseconds: c_int) -> c_int;
    fn write(fd: c_int, bytes: *const u8, size: usize) -> isize;
    fn symlink(target: *const c_char, path: *const c_char) -> c_int;
    fn unlink(path: *const c_char) -> c_int;
    fn getpid() -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn prctl(option: c_int, ...) -> c_int;
    fn secure_getenv(name: *const c_char) -> *const c_char;
    fn unsetenv(name: *const c_char) -> c_int;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn nanosleep(time: *const Time, rest: *mut Time) -> c_int;
    fn clock_gettime(clock: c_int, time: *mut Time) -> c_int;
    fn sigfillset(set: *mut Signals) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const Signals, old: *mut Signals) -> c_int;
    fn pthread_attr_init(attributes: *mut Attributes) -> c_int;
    fn pthread_attr_setdetachstate(attributes: *mut Attributes, state: c_int) -> c_int;
    fn pthread_attr_setstacksize(attributes: *mut Attributes, size: usize) -> c_int;
    fn pthread_create(thread: *mut c_ulong, attributes: *const c_void, run: Routine, data: *mut c_void) -> c_int;
    fn pthread_mutex_lock(mutex: *mut Mutex) -> c_int;
    fn pthread_mutex_unlock(mutex: *mut Mutex) -> c_int;
    fn __register_atfork(prepare: Handler, parent: Handler, child: Handler, object: *const c_void) -> c_int;
    fn __errno_location() -> *mut c_int;
}

/// Why something was not done: a sentence, and the number (an address, an errno, a version) that goes with it.
#[derive(Clone, Copy)]
pub struct Reason {
    pub text: &'static str,
    pub number: u64,
}

impl Reason {
    pub const fn new(text: &'static str, number: u64) -> Self {
        Self { text, number }
    }

    fn errno(text: &'static str, errno: i32) -> Self {
        Self::new(text, u64::from(errno.unsigned_abs()))
    }

    /// Feeds `text: number` to `put`, byte by byte; addresses in hexadecimal, what is too small for one in decimal.
    pub fn spell(&self, mut put: impl FnMut(u8)) {
        self.text.bytes().for_each(&mut put);
        b": ".iter().for_each(|&byte| put(byte));
        if self.number < 1 << 16 {
            return decimal(self.number, &mut put);
        }
        b"0x".iter().for_each(|&byte| put(byte));
        let digits = (67 - self.number.leading_zeros()) / 4;
        for digit in (0..digits).rev() {
            let value = (self.number >> (digit * 4) & 15) as u8;
            put(if value < 10 { b'0' + value } else { b'a' - 10 + value });
        }
    }
}

/// Feeds the digits of a number to `put`.
pub fn decimal(mut number: u64, put: &mut impl FnMut(u8)) {
    let mut digits = [0; 20];
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        count += 1;
        if number == 0 {
            break;
        }
    }
    digits.iter().skip(digits.len() - count).for_each(|&digit| put(digit));
}

pub fn errno() -> i32 {
    // SAFETY: takes nothing and cannot fail.
    let place = unsafe { __errno_location() };
    // SAFETY: the calling thread's own errno.
    unsafe { *place }
}

/// Tells the person at the terminal.
pub fn complain(reason: &Reason) {
    let mut line = [0_u8; 256];
    let mut size = 0;
    let mut put = |byte| {
        if let Some(place) = line.get_mut(size) {
            *place = byte;
            size += 1;
        }
    };
    b"hotslot: the program runs, but takes no patches: ".iter().for_each(|&byte| put(byte));
    reason.spell(&mut put);
    put(b'\n');
    // SAFETY: `size` bytes of `line` were written.
    unsafe { write(2, line.as_ptr(), size) };
}

/// A variable's value; none when it is unset or empty, or the program runs with more rights than its user.
pub fn environment(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: `name` ends with a NUL.
    let value = unsafe { secure_getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: a value in the environment ends with a NUL; nothing changes the environment before `main`, and the callers
    // copy it before that.
    let value = unsafe { CStr::from_ptr(value) };
    (!value.is_empty()).then_some(value)
}

/// Takes a variable away, so that programs that this one starts do not have it. Before `main`, as no other thread runs yet.
pub fn forget_environment(name: &CStr) {
    // SAFETY: `name` ends with a NUL.
    unsafe { unsetenv(name.as_ptr()) };
}

pub fn pid() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { getpid() }.unsigned_abs()
}

/// The definition of `name` that the program would have used without the agent's; null when there is none.
pub fn next(name: &CStr) -> *mut c_void {
    // SAFETY: `name` ends with a NUL.
    unsafe { dlsym(RTLD_NEXT, name.as_ptr()) }
}

/// Monotonic, in nanoseconds.
pub fn now() -> u64 {
    let mut time = Time { seconds: 0, nanoseconds: 0 };
    // SAFETY: writes to `time`.
    unsafe { clock_gettime(CLOCK_MONOTONIC, &raw mut time) };
    (time.seconds as u64).wrapping_mul(1_000_000_000).wrapping_add(time.nanoseconds as u64)
}

pub fn sleep(milliseconds: u64) {
    let time = Time { seconds: (milliseconds / 1000) as i64, nanoseconds: (milliseconds % 1000 * 1_000_000) as i64 };
    // SAFETY: reads `time`; a null pointer means that nobody asks for the rest.
    unsafe { nanosleep(&raw const time, null_mut()) };
}

/// For as short as the kernel can.
pub fn pause() {
    let time = Time { seconds: 0, nanoseconds: 20_000 };
    // SAFETY: as in `sleep`.
    unsafe { nanosleep(&raw const time, null_mut()) };
}

// ---------------------------------------------------------------------------------------------------------- memory

/// Zeroed memory of the agent's own, unmapped when dropped. It never comes from the program's heap.
pub struct Pages {
    address: *mut u8,
    size: usize,
}

impl Pages {
    pub fn new(size: usize) -> Result<Self, Reason> {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        // SAFETY: a new mapping wherever the kernel likes touches no other memory.
        let address = unsafe { mmap(null_mut(), size, PROT_READ | PROT_WRITE, flags, -1, 0) };
        if address as isize == -1 {
            return Err(Reason::errno("no memory, errno", errno()));
        }
        Ok(Self { address: address.cast(), size })
    }

    pub fn cells(&self) -> &[Cell<u8>] {
        // SAFETY: the mapping holds `size` zeroed bytes and is ours alone; `Pages` is not `Sync`.
        unsafe { core::slice::from_raw_parts(self.address.cast(), self.size) }
    }

    /// The memory for as long as the program runs.
    pub fn leak(self) -> *mut u8 {
        core::mem::ManuallyDrop::new(self).address
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and every borrow of it has ended.
        unsafe { munmap(self.address.cast(), self.size) };
    }
}

/// What a page may be used for. There is no variant that is both writable and executable.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Protection {
    Read = 1,
    Write = 2,
    Execute = 3,
}

impl Protection {
    const fn flags(self) -> c_int {
        match self {
            Self::Read => PROT_READ,
            Self::Write => PROT_READ | PROT_WRITE,
            Self::Execute => PROT_READ | PROT_EXEC,
        }
    }
}

/// Reserves `size` bytes at exactly `address` without access; false when something is there.
pub fn reserve(address: u64, size: u64) -> bool {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    // SAFETY: MAP_FIXED_NOREPLACE replaces no mapping; older kernels take it as a hint.
    let got = unsafe { mmap(address as *mut c_void, size as usize, 0, flags, -1, 0) };
    if got as isize == -1 {
        return false;
    }
    if got as u64 != address {
        // SAFETY: the mapping was just made, elsewhere than asked, and nobody knows it.
        unsafe { munmap(got, size as usize) };
        return false;
    }
    true
}

/// Gives whole pages a protection.
///
/// # Safety
/// The pages are the arena's, or data of the program that nobody expects to be unreadable.
pub unsafe fn protect(address: u64, size: u64, protection: Protection) -> Result<(), Reason> {
    // SAFETY: as the caller promises.
    let failed = unsafe { mprotect(address as *mut c_void, size as usize, protection.flags()) } != 0;
    if failed { Err(Reason::errno("mprotect failed, errno", errno())) } else { Ok(()) }
}

/// Takes whole pages back to what `reserve` made them: zero and without access.
///
/// # Safety
/// The pages are the arena's and nothing points to them.
pub unsafe fn release(address: u64, size: u64) {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    // SAFETY: as the caller promises. Should the kernel fail, the pages stay unused and unreachable.
    unsafe { mmap(address as *mut c_void, size as usize, 0, flags, -1, 0) };
}

/// Lets `synchronize` be used; asked once, at the start.
pub fn register_synchronize() -> Result<(), Reason> {
    membarrier(MEMBARRIER_REGISTER_SYNC_CORE)
}

/// Every thread of the program executes a serializing instruction before it goes on, so that none runs stale instructions
/// (Intel SDM volume 3, 9.1.3, cross-modifying code; membarrier(2)).
pub fn synchronize() -> Result<(), Reason> {
    membarrier(MEMBARRIER_SYNC_CORE)
}

fn membarrier(command: c_int) -> Result<(), Reason> {
    // SAFETY: membarrier takes three integers and touches no memory.
    let failed = unsafe { syscall(SYS_MEMBARRIER, command, 0, 0) } != 0;
    if failed { Err(Reason::errno("membarrier failed, errno", errno())) } else { Ok(()) }
}

/// Makes the file `path` lead to `target`; both end with a NUL.
pub fn link(target: &CStr, path: &CStr) -> Result<(), Reason> {
    // SAFETY: `path` ends with a NUL; that it may not exist is fine.
    unsafe { unlink(path.as_ptr()) };
    // SAFETY: both end with a NUL.
    let failed = unsafe { symlink(target.as_ptr(), path.as_ptr()) } != 0;
    if failed { Err(Reason::errno("symlink failed, errno", errno())) } else { Ok(()) }
}

// ----------------------------------------------------------------------------------------------------------- socket

/// The path of a Unix socket, copied from the environment.
#[derive(Clone, Copy)]
pub struct Address(SocketAddress);

impl Address {
    pub fn new(path: &CStr) -> Result<Self, Reason> {
        let mut address = SocketAddress { family: AF_UNIX as u16, path: [0; 108] };
        let bytes = path.to_bytes();
        if bytes.len() >= address.path.len() {
            return Err(Reason::new("the path in HOTSLOT_SOCKET is too long, bytes", bytes.len() as u64));
        }
        for (place, &byte) in address.path.iter_mut().zip(bytes) {
            *place = byte;
        }
        Ok(Self(address))
    }

    /// For system calls: where it is and how long.
    pub fn raw(&self) -> (*const c_void, u32) {
        ((&raw const self.0).cast(), size_of::<SocketAddress>() as u32)
    }

    /// The folder of the socket, with the slash; empty for a name without one.
    pub fn folder(&self) -> &[u8] {
        let end = self.0.path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        self.0.path.get(..end).unwrap_or_default()
    }
}

/// A file descriptor that a program started by this one does not get.
pub fn open_socket() -> Option<i32> {
    // SAFETY: takes three integers.
    let fd = unsafe { socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) };
    (fd >= 0).then_some(fd)
}

pub fn connect_socket(fd: i32, address: &Address) -> bool {
    // SAFETY: the address is a whole sockaddr_un whose path ends with a NUL.
    unsafe { connect(fd, &raw const address.0, size_of::<SocketAddress>() as u32) == 0 }
}

pub fn close_socket(fd: i32) {
    // SAFETY: callers pass a descriptor they own and forget it.
    unsafe { close(fd) };
}

/// False when the other end is gone.
pub fn send_all(fd: i32, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        // SAFETY: the bytes are borrowed for the call.
        let sent = unsafe { send(fd, bytes.as_ptr(), bytes.len(), MSG_NOSIGNAL) };
        if sent < 0 && errno() == EINTR {
            continue;
        }
        if sent <= 0 {
            return false;
        }
        bytes = bytes.get(sent as usize..).unwrap_or_default();
    }
    true
}

/// Waits until there is something to receive, the end included; false when it takes too long. -1 for any time.
pub fn wait_for(fd: i32, milliseconds: i32) -> bool {
    let mut poll_for = Poll { fd, events: POLLIN, happened: 0 };
    // SAFETY: one entry, borrowed for the call.
    unsafe { poll(&raw mut poll_for, 1, milliseconds) != 0 }
}

/// Fills `cells`; false when the other end is gone before that.
pub fn receive_all(fd: i32, mut cells: &[Cell<u8>]) -> bool {
    while !cells.is_empty() {
        // SAFETY: cells may be written through a shared borrow, and this thread alone has them.
        let received = unsafe { recv(fd, cells.as_ptr().cast_mut().cast(), cells.len(), 0) };
        if received < 0 && errno() == EINTR {
            continue;
        }
        if received <= 0 {
            return false;
        }
        cells = cells.get(received as usize..).unwrap_or_default();
    }
    true
}

// ---------------------------------------------------------------------------------------------------------- threads

/// Starts a detached thread that gets no signals. `stack` in bytes; thread-locals of the program come out of it.
pub fn spawn(run: Routine, data: *mut c_void, stack: usize) -> Result<(), Reason> {
    let mut all = Signals([0; 128]);
    let mut before = Signals([0; 128]);
    let mut attributes = Attributes([0; 56]);
    let mut thread = 0;
    // SAFETY: writes a signal set.
    unsafe { sigfillset(&raw mut all) };
    // SAFETY: writes thread attributes.
    unsafe { pthread_attr_init(&raw mut attributes) };
    // SAFETY: the attributes were initialised.
    unsafe { pthread_attr_setdetachstate(&raw mut attributes, PTHREAD_CREATE_DETACHED) };
    // SAFETY: the attributes were initialised.
    unsafe { pthread_attr_setstacksize(&raw mut attributes, stack) };
    // SAFETY: both sets are valid. A thread inherits the mask it is made under.
    unsafe { pthread_sigmask(SIG_SETMASK, &raw const all, &raw mut before) };
    // SAFETY: the attributes were initialised; `data` is only handed on.
    let error = unsafe { pthread_create(&raw mut thread, (&raw const attributes).cast(), run, data) };
    // SAFETY: `before` was filled above.
    unsafe { pthread_sigmask(SIG_SETMASK, &raw const before, null_mut()) };
    if error == 0 { Ok(()) } else { Err(Reason::errno("no thread, errno", error)) }
}

/// Wakes all threads that wait for the low half of `word` to change (futex(2)).
pub fn wake(word: &AtomicU64) {
    // SAFETY: the kernel uses the address only to find who waits there; on x86-64 the low half comes first.
    unsafe { syscall(SYS_FUTEX, word.as_ptr(), FUTEX_WAKE_PRIVATE, c_int::MAX) };
}

/// A mutual exclusion that can also be taken before `fork` and given back after it.
pub struct Lock(UnsafeCell<Mutex>);

// SAFETY: only libc touches the bytes, and its mutexes are made for many threads.
unsafe impl Sync for Lock {}

impl Lock {
    /// PTHREAD_MUTEX_INITIALIZER is all zeros.
    pub const fn new() -> Self {
        Self(UnsafeCell::new(Mutex([0; 40])))
    }

    pub fn lock(&self) {
        // SAFETY: an initialised mutex that never moves, as it is a static.
        unsafe { pthread_mutex_lock(self.0.get()) };
    }

    pub fn unlock(&self) {
        // SAFETY: as above. Unlocking what this thread has not locked would be a bug, but is no memory error.
        unsafe { pthread_mutex_unlock(self.0.get()) };
    }

    pub fn hold<T>(&self, act: impl FnOnce() -> T) -> T {
        self.lock();
        let result = act();
        self.unlock();
        result
    }
}

/// Names the calling thread, for debuggers.
pub fn name_thread(name: &CStr) {
    // SAFETY: `name` ends with a NUL.
    unsafe { prctl(PR_SET_NAME, name.as_ptr(), null::<c_void>(), null::<c_void>(), null::<c_void>()) };
}

/// Has glibc call these around `fork`. This is what its `pthread_atfork` calls, which itself is in an archive that GNU ld
/// has already passed when it comes to the agent.
pub fn at_fork(prepare: Handler, parent: Handler, child: Handler) -> Result<(), Reason> {
    // SAFETY: the functions live as long as the program; null stands for the program itself.
    let error = unsafe { __register_atfork(prepare, parent, child, null()) };
    if error == 0 { Ok(()) } else { Err(Reason::errno("no way to see forks, errno", error)) }
}
