//! Server-sent events: the time once per second, for as long as someone watches.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::response::sse::{Event, Sse};
use futures_util::stream::{Stream, unfold};
use serde_json::json;

use crate::connected;

pub async fn watch() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let connection = connected();
    let start = (tokio::time::interval(Duration::from_secs(1)), 0);
    Sse::new(unfold(start, move |(mut interval, ticks)| async move {
        interval.tick().await;
        Some((Ok(tick(connection, ticks)), (interval, ticks + 1)))
    }))
}

fn tick(connection: u64, ticks: u64) -> Event {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let event = json!({
        "connection": connection,
        "process": std::process::id(),
        "version": hotslot::version(),
        "ticks": ticks,
        "time": time(now.as_secs()),
    });
    Event::default().data(event.to_string())
}

/// The time of day in UTC.
fn time(seconds: u64) -> String {
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}")
}
