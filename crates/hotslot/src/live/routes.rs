//! `Rebuild` with what `axum::serve` asks of a router.

use super::rebuild::{Rebuild, rebuild};
use axum::Router;
use axum::ServiceExt;
use axum::extract::Request;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use axum::http;
use axum::routing::IntoMakeService;
use axum::serve::{IncomingStream, Listener};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use tower_service::Service;

/// A [`Router`] that is made again after each patch, before its next request; see [`router`](crate::router()). In release
/// builds it is the `Router` itself, which has the methods and traits that this has, among others.
#[derive(Clone, Debug)]
pub struct Routes(Rebuild<Router>);

pub fn router(make: impl Fn() -> Router + Send + Sync + 'static) -> Routes {
    Routes(rebuild(make))
}

impl Routes {
    /// For `axum::serve` with layers around it; as [`Router::into_make_service`].
    #[must_use]
    pub fn into_make_service(self) -> IntoMakeService<Self> {
        ServiceExt::<Request>::into_make_service(self)
    }

    /// Gives handlers the client's address; as [`Router::into_make_service_with_connect_info`].
    #[must_use]
    pub fn into_make_service_with_connect_info<C>(self) -> IntoMakeServiceWithConnectInfo<Self, C> {
        ServiceExt::<Request>::into_make_service_with_connect_info(self)
    }
}

impl<B> Service<http::Request<B>> for Routes
where
    Router: Service<http::Request<B>>,
{
    type Response = <Router as Service<http::Request<B>>>::Response;
    type Error = <Router as Service<http::Request<B>>>::Error;
    type Future = <Router as Service<http::Request<B>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        self.0.call(request)
    }
}

/// Lets `axum::serve` take `Routes` as it takes a `Router`: every connection gets a clone.
impl<L: Listener> Service<IncomingStream<'_, L>> for Routes {
    type Response = Self;
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: IncomingStream<'_, L>) -> Self::Future {
        ready(Ok(self.clone()))
    }
}
