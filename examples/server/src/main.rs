//! A server with a counter, a chat, a clock and a slow answer. Only the routes ask to be made again, below in `main`.

mod chat;
mod clock;
mod counter;

use std::env;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::response::Html;
use axum::routing::{get, post};
use axum::{Json, Router};
use bots::Bot;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

/// WebSockets and streams that were ever opened.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// What the server knows. It is made once, so it stays when routes change.
struct App {
    count: AtomicI64,
    lines: broadcast::Sender<String>,
    bots: Vec<Box<dyn Bot>>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = match env::var("PORT") {
        Ok(port) => port
            .parse()
            .map_err(|_| format!("PORT is '{port}', not a port"))?,
        Err(_) => 3000,
    };
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| format!("port {port}: {error}"))?;
    println!("listening on http://{}", listener.local_addr()?);

    let app = Arc::new(App {
        count: AtomicI64::new(0),
        lines: broadcast::channel(64).0,
        bots: bots::all(),
    });
    axum::serve(listener, hotslot::router(move || routes(&app))).await?;
    Ok(())
}

/// Add a route, or rename one: the next request finds it.
fn routes(app: &Arc<App>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/about", get(about))
        .route("/counter", get(counter::show).delete(counter::reset))
        .route("/counter/{by}", post(counter::add))
        .route("/chat", get(chat::join))
        .route("/clock", get(clock::watch))
        .route("/slow", get(slow))
        .with_state(Arc::clone(app))
}

async fn page() -> Html<&'static str> {
    Html(include_str!("../index.html"))
}

async fn about() -> String {
    format!("{} connections so far", CONNECTIONS.load(Ordering::Relaxed))
}

/// Takes its time. A patch that comes meanwhile is there when it goes on.
async fn slow() -> Json<Value> {
    let start = Instant::now();
    let before = hotslot::version();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let after = hotslot::version();
    Json(json!({ "before": before, "after": after, "text": verdict(start.elapsed()) }))
}

fn verdict(time: Duration) -> String {
    format!("done in {:.1} s", time.as_secs_f64())
}

/// The number of a connection that was just opened.
fn connected() -> u64 {
    CONNECTIONS.fetch_add(1, Ordering::Relaxed) + 1
}
