//! A page with a counter, a list of notes and a moving picture. Plain Rust: nothing in it asks to be swapped.

mod notes;
mod page;
mod picture;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use wasm_bindgen::prelude::*;

use page::{element, listen, show};

/// Clicks on any of the counter's buttons since the page was opened.
static CLICKS: AtomicU32 = AtomicU32::new(0);

#[wasm_bindgen(start)]
fn start() -> Result<(), JsValue> {
    counter()?;
    notes::start()?;
    picture::start()
}

/// What the page says when asked for a report.
#[wasm_bindgen]
pub fn report(name: &str) -> String {
    let clicks = CLICKS.load(Ordering::Relaxed);
    let notes = notes::count();
    format!("{name}: {clicks} clicks, {notes} notes")
}

fn counter() -> Result<(), JsValue> {
    let count = Rc::new(Cell::new(0));
    render(count.get());

    let state = Rc::clone(&count);
    listen(&element("increment")?, "click", move |_| {
        state.set(state.get() + 1);
        clicked(state.get());
    })?;

    let state = Rc::clone(&count);
    listen(&element("decrement")?, "click", move |_| {
        state.set(state.get() - 1);
        clicked(state.get());
    })?;

    listen(&element("reset")?, "click", move |_| {
        count.set(0);
        clicked(count.get());
    })
}

fn clicked(count: i32) {
    CLICKS.fetch_add(1, Ordering::Relaxed);
    render(count);
}

fn render(count: i32) {
    show("count", &count.to_string());
    show("label", &label(count));
}

fn label(count: i32) -> String {
    match count {
        0 => "Nothing counted yet".to_owned(),
        1 => "One thing counted".to_owned(),
        2.. => format!("{count} things counted"),
        _ => format!("{} things owed", -count),
    }
}
