//! A WebSocket for everyone who talks. What one says all hear, and the bots may answer.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use crate::{App, connected};

pub async fn join(upgrade: WebSocketUpgrade, State(app): State<Arc<App>>) -> Response {
    upgrade.on_upgrade(move |socket| talk(socket, app, connected()))
}

async fn talk(mut socket: WebSocket, app: Arc<App>, connection: u64) {
    let mut lines = app.lines.subscribe();
    let mut next = Some(welcome(&app, connection));
    loop {
        if let Some(line) = next.take()
            && socket.send(line.into()).await.is_err()
        {
            return;
        }
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => say(&app, connection, text.trim()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            line = lines.recv() => match line {
                Ok(line) => next = Some(line),
                Err(RecvError::Lagged(missed)) => next = Some(notice(&format!("{missed} lines missed"))),
                Err(RecvError::Closed) => return,
            },
        }
    }
}

fn welcome(app: &App, connection: u64) -> String {
    let help: Vec<_> = app.bots.iter().map(|bot| bot.help()).collect();
    let text = format!("You are guest {connection}. {}.", help.join("; "));
    json!({ "connection": connection, "name": "", "text": text }).to_string()
}

fn say(app: &App, connection: u64, text: &str) {
    if text.is_empty() {
        return;
    }
    tell(app, &guest(connection), text);
    for bot in &app.bots {
        if let Some(reply) = bot.reply(text) {
            tell(app, bot.name(), &reply);
        }
    }
}

fn guest(connection: u64) -> String {
    format!("guest {connection}")
}

fn tell(app: &App, name: &str, text: &str) {
    // An error would mean that nobody listens.
    let _ = app
        .lines
        .send(json!({ "name": name, "text": text }).to_string());
}

fn notice(text: &str) -> String {
    json!({ "name": "", "text": text }).to_string()
}
