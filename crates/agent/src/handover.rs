//! Listening sockets of a program → those of the program that takes its place.
//!
//! The old program's agent listens at a path, and gives its sockets to whoever connects there (SCM_RIGHTS). The new
//! program's agent connects before `main`, and keeps `main` waiting until that connection ends: the old one keeps it open
//! for as long as it lives, so the two programs never run at once. What comes in meanwhile waits in the sockets' queues.
//!
//! The new program need not know of all this. When it calls `bind` for the address of a socket that is kept for it, its own
//! descriptor becomes that socket, which listens already. With `HOTSLOT_LISTEN` it is also told in the way of
//! sd_listen_fds(3). Sockets that nobody asks for are closed after `KEPT_NS`, or when one of them is in the way.

use crate::patch::LOCK;
use crate::sys::{self, Address, Reason};
use crate::wire::{Bytes, Handover};
use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering::*};

const SYS_BIND: c_long = 49;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOCK_CLOEXEC: c_int = 0o2_000_000;
const SOL_SOCKET: c_int = 1;
const SO_TYPE: c_int = 3;
const SO_RCVTIMEO: c_int = 20;
const SO_ACCEPTCONN: c_int = 30;
/// A number that no other socket has.
const SO_COOKIE: c_int = 57;
const SOCK_STREAM: c_int = 1;
const SCM_RIGHTS: c_int = 1;
const MSG_NOSIGNAL: c_int = 0x4000;
const MSG_CMSG_CLOEXEC: c_int = 0x4000_0000;
const F_GETFD: c_int = 1;
const F_GETFL: c_int = 3;
const F_SETFL: c_int = 4;
const F_DUPFD_CLOEXEC: c_int = 1030;
const FD_CLOEXEC: c_int = 1;
const O_CLOEXEC: c_int = 0o2_000_000;
const EADDRINUSE: i32 = 98;
const PR_SET_PDEATHSIG: c_int = 1;
const SIGKILL: c_int = 9;

const MAX_SOCKETS: usize = 64;
/// Seconds that the new program has to come.
const PATIENCE: i64 = 10;
/// The program has so many nanoseconds to ask for its sockets.
const KEPT_NS: u64 = 30_000_000_000;
/// Out of the way of descriptors that a program counts on.
const ELSEWHERE: c_int = 128;
/// The first descriptor of sd_listen_fds(3).
const FIRST: c_int = 3;

/// `struct msghdr`, `struct iovec` and a `struct cmsghdr` with room, as of glibc on x86-64.
#[repr(C)]
struct Parcel {
    name: *mut c_void,
    name_size: u32,
    parts: *mut Part,
    part_count: usize,
    control: *mut Control,
    control_size: usize,
    flags: c_int,
}
#[repr(C)]
struct Part {
    bytes: *mut u8,
    size: usize,
}
#[repr(C)]
struct Control {
    size: usize,
    level: c_int,
    kind: c_int,
    descriptors: [c_int; MAX_SOCKETS],
}
const CONTROL_HEADER: usize = 16;

/// An address as the kernel gives it; large enough for every family.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Name([u8; 128]);

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn accept4(fd: c_int, address: *mut c_void, size: *mut u32, flags: c_int) -> c_int;
    fn sendmsg(fd: c_int, parcel: *const Parcel, flags: c_int) -> isize;
    fn recvmsg(fd: c_int, parcel: *mut Parcel, flags: c_int) -> isize;
    fn getsockopt(fd: c_int, level: c_int, option: c_int, value: *mut c_void, size: *mut u32) -> c_int;
    fn setsockopt(fd: c_int, level: c_int, option: c_int, value: *const c_void, size: u32) -> c_int;
    fn getsockname(fd: c_int, name: *mut Name, size: *mut u32) -> c_int;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int;
    fn setenv(name: *const c_char, value: *const c_char, replace: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
}

// ------------------------------------------------------------------------------------------------------------- give

/// To the new program's agent, which sees by its end that this program has ended. -1 for none; changed under `LOCK`.
static SIGN_OF_LIFE: AtomicI32 = AtomicI32::new(-1);

/// Sockets that are about to be given away.
pub struct Offer {
    listener: c_int,
    control: Control,
}

/// Listens for the new program.
pub fn offer(handover: &Handover<'_>) -> Result<Offer, Reason> {
    let path = text(handover.path).ok_or(Reason::new("the path of a handover does not end with its only NUL", 0))?;
    let address = Address::new(path)?;
    let mut control =
        Control { size: CONTROL_HEADER, level: SOL_SOCKET, kind: SCM_RIGHTS, descriptors: [0; MAX_SOCKETS] };
    let mut known = [0; MAX_SOCKETS];
    let mut count = 0;
    for fd in handover.sockets.clone().filter(|&fd| is_listening(fd)) {
        // Several descriptors may be one socket: as it was handed over, and as the program asked for it.
        let Some(cookie) = option::<u64>(fd, SO_COOKIE).filter(|cookie| !known.contains(cookie)) else { continue };
        if let Some((place, known)) = control.descriptors.get_mut(count).zip(known.get_mut(count)) {
            (*place, *known) = (fd, cookie);
            count += 1;
        }
    }
    control.size += count * size_of::<c_int>();
    if count == 0 {
        return Err(Reason::new("no socket listens for TCP connections, of", handover.sockets.clone().count() as u64));
    }
    let listener = sys::open_socket().ok_or(Reason::new("no socket for a handover, sockets", 1))?;
    let offer = Offer { listener, control };
    let wait = [PATIENCE, 0];
    // SAFETY: a `struct timeval`, borrowed for the call.
    unsafe { setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, (&raw const wait).cast(), size_of_val(&wait) as u32) };
    let (address, size) = address.raw();
    // SAFETY: a whole address, borrowed for the call.
    let bound = unsafe { syscall(SYS_BIND, listener, address, size) } == 0;
    // SAFETY: takes integers.
    if bound && unsafe { listen(listener, 1) } == 0 {
        return Ok(offer);
    }
    Err(Reason::new("cannot listen at the path of a handover, errno", sys::errno().unsigned_abs().into()))
}

impl Drop for Offer {
    fn drop(&mut self) {
        sys::close_socket(self.listener);
    }
}

impl Offer {
    /// Waits for the new program and gives it the sockets; from then on this one finds no connections there. If none comes,
    /// nothing has happened.
    pub fn give(mut self, handover: &Handover<'_>) {
        // SAFETY: null says that nobody asks for the address.
        let fd = unsafe { accept4(self.listener, null_mut(), null_mut(), SOCK_CLOEXEC) };
        if fd < 0 {
            return;
        }
        LOCK.hold(|| {
            let before = SIGN_OF_LIFE.swap(fd, Relaxed);
            if before >= 0 {
                sys::close_socket(before);
            }
        });
        let descriptors = self.control.size.saturating_sub(CONTROL_HEADER) / size_of::<c_int>();
        for place in self.control.descriptors.iter_mut().take(descriptors) {
            // SAFETY: takes integers.
            *place = unsafe { fcntl(*place, F_DUPFD_CLOEXEC, ELSEWHERE) };
        }
        handover.sockets.clone().filter(|&fd| is_listening(fd)).for_each(divert);
        // One byte, as rights do not travel alone.
        let mut byte = 0;
        let mut part = Part { bytes: &raw mut byte, size: 1 };
        let control_size = self.control.size;
        let parcel = Parcel::new(&mut part, &mut self.control, control_size);
        // SAFETY: everything the parcel leads to is borrowed for the call.
        unsafe { sendmsg(fd, &raw const parcel, MSG_NOSIGNAL) };
        self.control.descriptors.iter().take(descriptors).for_each(|&fd| sys::close_socket(fd));
    }
}

/// Puts a socket to which nobody connects in the place of one that was given away, so that no request is accepted by a
/// program that is about to end. A thread that waits in `accept` takes one more.
fn divert(fd: c_int) {
    // SAFETY: takes integers.
    let flags = unsafe { fcntl(fd, F_GETFL) };
    // SAFETY: takes integers.
    let closes = unsafe { fcntl(fd, F_GETFD) } & FD_CLOEXEC != 0;
    let Some(nowhere) = sys::open_socket() else { return };
    let unnamed = sys::AF_UNIX as u16;
    // SAFETY: an address without a name, for which the kernel finds one (unix(7), autobind).
    unsafe { syscall(SYS_BIND, nowhere, &raw const unnamed, size_of_val(&unnamed)) };
    // SAFETY: takes integers.
    unsafe { listen(nowhere, 0) };
    // SAFETY: takes integers.
    unsafe { fcntl(nowhere, F_SETFL, flags) };
    // SAFETY: what the program knows as a listening socket stays one.
    unsafe { dup3(nowhere, fd, if closes { O_CLOEXEC } else { 0 }) };
    sys::close_socket(nowhere);
}

impl Parcel {
    fn new(part: &mut Part, control: &mut Control, control_size: usize) -> Self {
        let (parts, control) = (&raw mut *part, &raw mut *control);
        Self { name: null_mut(), name_size: 0, parts, part_count: 1, control, control_size, flags: 0 }
    }
}

/// In a forked child, under `LOCK`: it is not the program whose end somebody waits for.
pub fn forget() {
    let fd = SIGN_OF_LIFE.swap(-1, Relaxed);
    if fd >= 0 {
        sys::close_socket(fd);
    }
}

/// A path in a message.
fn text(bytes: Bytes<'_>) -> Option<&CStr> {
    let end = bytes.len().checked_sub(1)?;
    if bytes.iter().position(|byte| byte.get() == 0) != Some(end) {
        return None;
    }
    // SAFETY: just checked to end with its only NUL; the agent's thread alone has the message.
    Some(unsafe { CStr::from_ptr(bytes.as_ptr().cast()) })
}

/// `T` is the type that the option has.
fn option<T: Default>(fd: c_int, option: c_int) -> Option<T> {
    let mut value = T::default();
    let mut size = size_of::<T>() as u32;
    // SAFETY: the kernel writes at most `size` bytes to `value`, an integer.
    let failed = unsafe { getsockopt(fd, SOL_SOCKET, option, (&raw mut value).cast(), &raw mut size) } != 0;
    (!failed).then_some(value)
}

fn is_listening(fd: c_int) -> bool {
    option::<c_int>(fd, SO_ACCEPTCONN) == Some(1) && name(fd).is_some_and(|name| name.key().is_some())
}

fn name(fd: c_int) -> Option<Name> {
    let mut name = Name([0; 128]);
    let mut size = size_of::<Name>() as u32;
    // SAFETY: the kernel writes at most `size` bytes to `name`.
    let failed = unsafe { getsockname(fd, &raw mut name, &raw mut size) } != 0;
    (!failed).then_some(name)
}

impl Name {
    /// What tells one TCP address from another: family, port, address, and of IPv6 the interface. None of other families,
    /// and of port 0, which stands for any.
    fn key(&self) -> Option<[u8; 24]> {
        let Self(bytes) = self;
        let mut key = [0; 24];
        let (family, port) = (u16::from_ne_bytes([bytes[0], bytes[1]]), [bytes[2], bytes[3]]);
        let parts: [&[u8]; 2] = match family {
            AF_INET => [bytes.get(0..8)?, &[]],
            // Between port and address is what routers see, which is no part of the address.
            AF_INET6 => [bytes.get(0..4)?, bytes.get(8..28)?],
            _ => return None,
        };
        if port == [0, 0] {
            return None;
        }
        for (place, &byte) in key.iter_mut().zip(parts.into_iter().flatten()) {
            *place = byte;
        }
        Some(key)
    }
}

// ------------------------------------------------------------------------------------------------------------- take

/// A socket kept for the program.
struct Kept {
    /// -1 for none.
    fd: AtomicI32,
    /// Of the socket: a program that closes all descriptors it does not know may have given ours to something else.
    cookie: AtomicU64,
}

static KEPT: [Kept; MAX_SOCKETS] = [const { Kept { fd: AtomicI32::new(-1), cookie: AtomicU64::new(0) } }; MAX_SOCKETS];
/// Until when, by `sys::now`; 0 when nothing is kept.
static KEPT_UNTIL: AtomicU64 = AtomicU64::new(0);

/// The connection to the old program.
pub struct Predecessor(c_int);

/// Takes over the sockets of the program whose agent listens at `path`; none when it is gone. Before `main`.
pub fn take(path: &CStr, tells: bool) -> Option<Predecessor> {
    let address = Address::new(path).ok()?;
    let fd = elsewhere(sys::open_socket()?);
    let predecessor = Predecessor(fd);
    if !sys::connect_socket(fd, &address) {
        return None;
    }
    let mut byte = 0_u8;
    let mut part = Part { bytes: &raw mut byte, size: 1 };
    let mut control = Control { size: 0, level: 0, kind: 0, descriptors: [0; MAX_SOCKETS] };
    let mut parcel = Parcel::new(&mut part, &mut control, size_of::<Control>());
    // SAFETY: everything the parcel leads to is ours for the call.
    let received = unsafe { recvmsg(fd, &raw mut parcel, MSG_CMSG_CLOEXEC) };
    let is_rights = control.level == SOL_SOCKET && control.kind == SCM_RIGHTS;
    if received != 1 || parcel.control_size < CONTROL_HEADER || !is_rights {
        return Some(predecessor);
    }
    let count = control.size.saturating_sub(CONTROL_HEADER) / size_of::<c_int>();
    for (kept, &fd) in KEPT.iter().zip(control.descriptors.iter().take(count)) {
        let fd = elsewhere(fd);
        kept.cookie.store(option(fd, SO_COOKIE).unwrap_or(0), Relaxed);
        kept.fd.store(fd, Release);
    }
    KEPT_UNTIL.store(sys::now().wrapping_add(KEPT_NS), Relaxed);
    if tells {
        tell(count.min(MAX_SOCKETS));
    }
    Some(predecessor)
}

/// Moves a descriptor away from the low numbers.
fn elsewhere(fd: c_int) -> c_int {
    // SAFETY: takes integers.
    let moved = unsafe { fcntl(fd, F_DUPFD_CLOEXEC, ELSEWHERE) };
    if moved < 0 {
        return fd;
    }
    sys::close_socket(fd);
    moved
}

/// As sd_listen_fds(3) says. What the program got at those descriptors from whoever started hotslot gives way; but what was
/// opened in this program before `main`, by a library, does not. It differs in that it is to be closed by `exec`.
fn tell(count: usize) {
    let descriptors = || FIRST..FIRST + count as c_int;
    // SAFETY: takes integers.
    let own = |fd| matches!(unsafe { fcntl(fd, F_GETFD) }, flags @ 0.. if flags & FD_CLOEXEC != 0);
    if descriptors().any(own) {
        return;
    }
    for (fd, kept) in descriptors().zip(&KEPT) {
        // SAFETY: takes integers; nobody in this program knows the new descriptor.
        unsafe { dup3(kept.fd.load(Relaxed), fd, 0) };
    }
    // Put together here, so that programs that mention such a name can be told from those that have an agent.
    for (end, value) in [(&b"FDS"[..], count as u64), (b"PID", sys::pid().into())] {
        let mut name = *b"LISTEN_\0\0\0\0\0";
        for (place, &byte) in name.iter_mut().skip(7).zip(end) {
            *place = byte;
        }
        let mut digits = [0_u8; 24];
        let mut places = digits.iter_mut();
        sys::decimal(value, &mut |byte| places.next().into_iter().for_each(|place| *place = byte));
        // SAFETY: both end with a NUL and are copied; no other thread runs yet.
        unsafe { setenv(name.as_ptr().cast(), digits.as_ptr().cast(), 1) };
    }
}

impl Predecessor {
    /// Until the old program has ended.
    pub fn wait(self) {
        // Should hotslot be killed now, nobody ends the old program, and this one is not needed.
        // SAFETY: takes integers.
        unsafe { prctl(PR_SET_PDEATHSIG, SIGKILL, null::<c_void>(), null::<c_void>(), null::<c_void>()) };
        let byte = [const { core::cell::Cell::new(0) }; 1];
        while sys::receive_all(self.0, &byte) {}
        // SAFETY: takes integers.
        unsafe { prctl(PR_SET_PDEATHSIG, 0, null::<c_void>(), null::<c_void>(), null::<c_void>()) };
    }
}

impl Drop for Predecessor {
    fn drop(&mut self) {
        sys::close_socket(self.0);
    }
}

/// How many milliseconds sockets are still to be kept; -1 when there are none. Those whose time is over are closed.
pub fn milliseconds_left() -> c_int {
    let until = KEPT_UNTIL.load(Relaxed);
    if until == 0 {
        return -1;
    }
    let now = sys::now();
    if now < until {
        return ((until - now) / 1_000_000) as c_int + 1;
    }
    release();
    -1
}

/// Closes what is kept; false when nothing is.
fn release() -> bool {
    KEPT_UNTIL.store(0, Relaxed);
    let mut any = false;
    for kept in &KEPT {
        if let Some(fd) = kept.take(|_| true) {
            sys::close_socket(fd);
            any = true;
        }
    }
    any
}

impl Kept {
    /// The descriptor, which is the caller's from now on, if it is still that of the socket and the caller `wants` it.
    fn take(&self, wants: impl Fn(c_int) -> bool) -> Option<c_int> {
        let fd = self.fd.load(Acquire);
        if fd < 0 || option(fd, SO_COOKIE) != Some(self.cookie.load(Relaxed)) || !wants(fd) {
            return None;
        }
        self.fd.compare_exchange(fd, -1, AcqRel, Relaxed).ok()
    }
}

// Weak, as an object of the program may have a function of that name.
core::arch::global_asm!(".weak bind", ".set bind, __hotslot_bind");

/// Stands before libc's for the program.
///
/// # Safety
/// As for `bind`: so many bytes of `address` can be read.
#[unsafe(no_mangle)]
unsafe extern "C" fn __hotslot_bind(fd: c_int, address: *const u8, size: u32) -> c_int {
    if KEPT_UNTIL.load(Relaxed) != 0 && !address.is_null() {
        let mut wanted = Name([0; 128]);
        let count = wanted.0.len().min(size as usize);
        // SAFETY: as the caller promises.
        unsafe { core::ptr::copy_nonoverlapping(address, wanted.0.as_mut_ptr(), count) };
        if claim(fd, &wanted) {
            return 0;
        }
    }
    // SAFETY: the kernel checks the address.
    let mut result = unsafe { syscall(SYS_BIND, fd, address, size) };
    // Another address with the same port, say.
    if result != 0 && sys::errno() == EADDRINUSE && release() {
        // SAFETY: as before.
        result = unsafe { syscall(SYS_BIND, fd, address, size) };
    }
    result as c_int
}

/// Makes `fd` the socket that is kept for the address, with the flags that it has.
fn claim(fd: c_int, wanted: &Name) -> bool {
    let Some(key) = wanted.key() else { return false };
    if option::<c_int>(fd, SO_TYPE) != Some(SOCK_STREAM) {
        return false;
    }
    for kept in &KEPT {
        let Some(kept) = kept.take(|fd| name(fd).and_then(|name| name.key()) == Some(key)) else { continue };
        // SAFETY: takes integers.
        let flags = unsafe { fcntl(fd, F_GETFL) };
        // SAFETY: takes integers.
        unsafe { fcntl(kept, F_SETFL, flags) };
        // SAFETY: takes integers.
        let closes = unsafe { fcntl(fd, F_GETFD) } & FD_CLOEXEC != 0;
        // SAFETY: the caller of `bind` owns `fd`.
        let claimed = unsafe { dup3(kept, fd, if closes { O_CLOEXEC } else { 0 }) } == fd;
        sys::close_socket(kept);
        return claimed;
    }
    false
}
