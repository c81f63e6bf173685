//! A closure that makes a service in; a service that is made anew when the code has changed.

use super::code::Code;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tower_service::Service;

/// A service that is made again after each patch, before its next request; see [`rebuild`](crate::rebuild()). In release
/// builds it is `S` itself.
pub struct Rebuild<S> {
    shared: Arc<Shared<S>>,
    /// This clone's own, so that requests share nothing between patches.
    latest: Made<S>,
}

struct Shared<S> {
    make: Box<dyn Fn() -> S + Send + Sync>,
    latest: Mutex<Made<S>>,
}

#[derive(Clone)]
struct Made<S> {
    /// What the program ran just before it was made.
    code: Code,
    service: S,
}

pub fn rebuild<S, F>(make: F) -> Rebuild<S>
where
    S: Clone,
    F: Fn() -> S + Send + Sync + 'static,
{
    let latest = Made { code: Code::now(), service: make() };
    Rebuild { shared: Arc::new(Shared { make: Box::new(make), latest: Mutex::new(latest.clone()) }), latest }
}

impl<S: Clone> Rebuild<S> {
    fn update(&mut self) {
        if self.latest.code == Code::now() {
            return;
        }
        let mut latest = self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner);
        // Read again: only under the lock does it never go back.
        let code = Code::now();
        if latest.code != code {
            latest.code = code;
            match catch_unwind(AssertUnwindSafe(&self.shared.make)) {
                Ok(service) => latest.service = service,
                Err(_) => eprintln!("hotslot: the service could not be made again; that of before goes on"),
            }
        }
        self.latest = latest.clone();
    }
}

impl<S: Clone> Clone for Rebuild<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), latest: self.latest.clone() }
    }
}

impl<S: fmt::Debug> fmt::Debug for Rebuild<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rebuild").field(&self.latest.service).finish()
    }
}

impl<S, R> Service<R> for Rebuild<S>
where
    S: Service<R> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// The place to change: a service that said it is ready must be the one that is called.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.update();
        self.latest.service.poll_ready(context)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.latest.service.call(request)
    }
}
