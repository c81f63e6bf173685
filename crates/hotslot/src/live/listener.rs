//! Listening sockets that a parent process left open for this one, or new ones.
//!
//! All of it is `inline`, so none is in a program that does not use it: one that names `LISTEN_FDS` is taken for one that
//! reads it.

use std::env;
use std::ffi::{c_int, c_void};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{FromRawFd, RawFd};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The first descriptor of those handed over (sd_listen_fds(3)).
const FIRST: RawFd = 3;
const F_SETFD: c_int = 2;
const FD_CLOEXEC: c_int = 1;
const SOL_SOCKET: c_int = 1;
const SO_ACCEPTCONN: c_int = 30;

unsafe extern "C" {
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, size: *mut u32) -> c_int;
}

#[inline]
pub fn listener<A: ToSocketAddrs>(address: A) -> io::Result<TcpListener> {
    static INHERITED: OnceLock<Mutex<Vec<TcpListener>>> = OnceLock::new();
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let inherited = INHERITED.get_or_init(|| Mutex::new(inherited()));
    let mut inherited = inherited.lock().unwrap_or_else(PoisonError::into_inner);
    match inherited.iter().position(|listener| addresses.iter().any(|&wanted| listens_at(listener, wanted))) {
        Some(index) => Ok(inherited.remove(index)),
        None => TcpListener::bind(&*addresses),
    }
}

#[inline]
fn listens_at(listener: &TcpListener, wanted: SocketAddr) -> bool {
    let at = |address: SocketAddr| address.ip() == wanted.ip() && [address.port(), 0].contains(&wanted.port());
    listener.local_addr().is_ok_and(at)
}

/// Called once, as what it gives owns the descriptors.
#[inline]
fn inherited() -> Vec<TcpListener> {
    let pid = std::process::id().to_string();
    let for_us = env::var("LISTEN_PID").map_or(true, |wanted| wanted.is_empty() || wanted == pid);
    let count = env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).filter(|_| for_us).unwrap_or(0);
    (FIRST..FIRST.saturating_add(count)).filter(|&fd| is_listening(fd)).map(take).collect()
}

/// False for what is not a socket, or none at all: a program may get the variables of its parent, but not the sockets.
#[inline]
fn is_listening(fd: RawFd) -> bool {
    let mut listens: c_int = 0;
    let mut size = size_of::<c_int>() as u32;
    // SAFETY: writes at most `size` bytes to `listens`.
    let failed = unsafe { getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, (&raw mut listens).cast(), &raw mut size) } != 0;
    !failed && listens != 0
}

#[inline]
fn take(fd: RawFd) -> TcpListener {
    // SAFETY: takes integers. Programs that this one starts shall not get the socket.
    unsafe { fcntl(fd, F_SETFD, FD_CLOEXEC) };
    // SAFETY: by the convention the descriptor was opened for this program, and it is taken once.
    unsafe { TcpListener::from_raw_fd(fd) }
}
