//! hotslot swaps the code of a running program at every save, and needs nothing of this crate for it. This crate is for a
//! program that wants to know: which version it runs ([`version`]), and when that changes ([`on_patch`]); and for what
//! only runs once in a program's life, so that new code alone would not be seen: its routes (`router`, `rebuild`) and its
//! listening socket ([`listener`]).
//!
//! ```
//! hotslot::on_patch(|version| println!("now at version {version}"));
//! ```
//!
//! Not run by hotslot, the program behaves as if this crate were not there: the version is 0, hooks are never called,
//! routes are built once. Without `debug_assertions`, so in release builds, or on anything but Linux on x86-64, nothing
//! of it is in the program: functions are empty or call what they are given, and the services are yours, not wrapped.
//!
//! # Features
//!
//! None is on by default.
//!
//! - `axum`: `router`, for axum 0.8.
//! - `tower`: `rebuild`, for any tower service, so also for hyper.

#[cfg_attr(all(debug_assertions, target_os = "linux", target_arch = "x86_64", not(miri)), path = "live/mod.rs")]
#[cfg_attr(not(all(debug_assertions, target_os = "linux", target_arch = "x86_64", not(miri))), path = "inert.rs")]
mod hot;

use std::io;
use std::net::{TcpListener, ToSocketAddrs};

#[cfg(feature = "tower")]
pub use hot::Rebuild;
#[cfg(feature = "axum")]
pub use hot::Routes;

/// The version of the code that the program runs: 0 as it was built, and one more with each patch. It goes back by one when
/// hotslot undoes a patch.
///
/// ```
/// assert_eq!(hotslot::version(), 0);
/// ```
#[must_use]
#[inline]
pub fn version() -> u64 {
    hot::version()
}

/// Calls `hook` with the version after each patch from now on, also after one was undone.
///
/// Hooks run on a thread of their own, one after the other in the order they were registered in, while the program's other
/// threads already run the new code. When patches come faster than hooks return, one call stands for several. A hook that
/// panics is called again after the next patch. No thread is started unless hotslot runs the program.
///
/// A hook is ordinary code of yours: after a patch that changed its body, the new body runs.
///
/// ```
/// # mod cache { pub fn clear() {} }
/// hotslot::on_patch(|_| cache::clear());
/// ```
///
/// To act in async code, let a hook wake it, by a `tokio::sync::Notify` or a `tokio::sync::watch` for instance.
#[inline]
pub fn on_patch<F>(hook: F)
where
    F: FnMut(u64) + Send + 'static,
{
    hot::on_patch(hook);
}

/// A listening socket at `address`: one that was handed over when hotslot restarted the program, so that no client is
/// turned away meanwhile, or else a new one, as by [`TcpListener::bind`].
///
/// Sockets are handed over as by systemd: `LISTEN_FDS` says how many there are, from descriptor 3 on, and `LISTEN_PID`, if
/// it is set, whose they are. One is taken, once, if it listens at `address`; port 0 takes that of any port, so a restart
/// keeps the port. In release builds nothing is taken over.
///
/// The socket blocks. For tokio:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let listener = hotslot::listener("127.0.0.1:0")?;
/// listener.set_nonblocking(true)?;
/// let listener = tokio::net::TcpListener::from_std(listener)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`TcpListener::bind`].
#[inline]
pub fn listener<A>(address: A) -> io::Result<TcpListener>
where
    A: ToSocketAddrs,
{
    hot::listener(address)
}

/// A tower service that is made by `make`, and again when the code has changed: before the next request, on whichever
/// connection. What the service shall remember is made outside, and moved in.
///
/// In release builds `make` is called once and [`Rebuild<S>`](Rebuild) is `S`: the service as it is.
///
/// Requests on their way stay with the service that took them. When `make` panics after a patch, the service from before
/// goes on until the next.
///
/// ```
/// use std::convert::Infallible;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use tower_service::Service;
/// # use std::future::{Ready, ready};
/// # use std::task::{Context, Poll};
/// # #[derive(Clone)]
/// # struct Greeter { greeting: &'static str, greeted: Arc<AtomicU64> }
/// # impl Service<&'static str> for Greeter {
/// #     type Response = String;
/// #     type Error = Infallible;
/// #     type Future = Ready<Result<String, Infallible>>;
/// #     fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> { Poll::Ready(Ok(())) }
/// #     fn call(&mut self, name: &'static str) -> Self::Future {
/// #         let count = self.greeted.fetch_add(1, Ordering::Relaxed) + 1;
/// #         ready(Ok(format!("{} {name}, {count} so far", self.greeting)))
/// #     }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let greeted = Arc::new(AtomicU64::new(0));
/// let mut greeter = hotslot::rebuild(move || Greeter { greeting: "Hello", greeted: greeted.clone() });
/// assert_eq!(greeter.call("Ada").await, Ok("Hello Ada, 1 so far".to_owned()));
/// # }
/// ```
#[cfg(feature = "tower")]
#[inline]
pub fn rebuild<S, F>(make: F) -> Rebuild<S>
where
    S: Clone + Send,
    F: Fn() -> S + Send + Sync + 'static,
{
    hot::rebuild(make)
}

/// What [`rebuild`] does, for the [`Router`](axum::Router) of axum 0.8: routes that a patch adds, removes or renames are
/// there at the next request, on connections that are open as on new ones. WebSockets and streams stay.
///
/// Make state outside of the closure, so that it stays too. The closure itself, and what it calls, is what you edit.
///
/// In release builds the closure is called once and [`Routes`] is the `Router` it gives.
///
/// ```no_run
/// use axum::Router;
/// use axum::extract::State;
/// use axum::routing::get;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// fn app(hits: Arc<AtomicU64>) -> Router {
///     Router::new().route("/", get(home)).with_state(hits)
/// }
///
/// async fn home(State(hits): State<Arc<AtomicU64>>) -> String {
///     format!("Hit {}", hits.fetch_add(1, Ordering::Relaxed) + 1)
/// }
///
/// #[tokio::main]
/// async fn main() -> std::io::Result<()> {
///     let hits = Arc::new(AtomicU64::new(0));
///     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
///     axum::serve(listener, hotslot::router(move || app(hits.clone()))).await
/// }
/// ```
///
/// A layer around the closure's `Router`, inside the closure, changes with it. `Routes` is also a service, so it can be
/// wrapped in layers that stay, or be the `fallback_service` of a `Router` whose own routes stay.
#[cfg(feature = "axum")]
#[inline]
pub fn router<F>(make: F) -> Routes
where
    F: Fn() -> axum::Router + Send + Sync + 'static,
{
    hot::router(make)
}
