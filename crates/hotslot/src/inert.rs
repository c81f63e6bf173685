//! What the crate is where no code is ever swapped: nothing.

use std::io;
use std::net::{TcpListener, ToSocketAddrs};

#[inline]
pub fn version() -> u64 {
    0
}

#[inline]
pub fn on_patch<F>(_: F) {}

#[inline]
pub fn listener<A: ToSocketAddrs>(address: A) -> io::Result<TcpListener> {
    TcpListener::bind(address)
}

/// The service itself. Under hotslot, in builds with `debug_assertions`, a service that is made again after each patch.
#[cfg(feature = "tower")]
pub type Rebuild<S> = S;

#[cfg(feature = "tower")]
#[inline]
pub fn rebuild<S>(make: impl FnOnce() -> S) -> S {
    make()
}

/// The router itself. Under hotslot, in builds with `debug_assertions`, one that is made again after each patch.
#[cfg(feature = "axum")]
pub type Routes = axum::Router;

#[cfg(feature = "axum")]
#[inline]
pub fn router(make: impl FnOnce() -> axum::Router) -> axum::Router {
    make()
}
