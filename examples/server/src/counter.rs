//! One number that all share.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::App;

pub async fn show(State(app): State<Arc<App>>) -> Json<Value> {
    shown(app.count.load(Ordering::Relaxed))
}

pub async fn add(State(app): State<Arc<App>>, Path(by): Path<i64>) -> Json<Value> {
    let before = app.count.fetch_add(by, Ordering::Relaxed);
    shown(before.wrapping_add(by))
}

pub async fn reset(State(app): State<Arc<App>>) -> Json<Value> {
    app.count.store(0, Ordering::Relaxed);
    shown(0)
}

fn shown(count: i64) -> Json<Value> {
    Json(json!({ "count": count, "label": label(count) }))
}

fn label(count: i64) -> String {
    match count {
        0 => "Nothing counted yet".to_owned(),
        1 => "One thing counted".to_owned(),
        2.. => format!("{count} things counted"),
        _ => format!("{} things owed", -i128::from(count)),
    }
}
