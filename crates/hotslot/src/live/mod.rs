//! What the crate is in a program that hotslot may run: everything here starts from `Code`, which the agent changes.

mod code;
mod hooks;
mod listener;
#[cfg(feature = "tower")]
mod rebuild;
#[cfg(feature = "axum")]
mod routes;

pub use hooks::on_patch;
pub use listener::listener;
#[cfg(feature = "tower")]
pub use rebuild::{Rebuild, rebuild};
#[cfg(feature = "axum")]
pub use routes::{Routes, router};

pub fn version() -> u64 {
    code::Code::now().version()
}
