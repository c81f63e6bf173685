//! A list of notes: type one, press Enter.

use std::cell::RefCell;

use wasm_bindgen::prelude::*;
use web_sys::HtmlInputElement;

use crate::page::{document, element, listen, show};

thread_local! {
    static NOTES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

pub fn start() -> Result<(), JsValue> {
    let input: HtmlInputElement = element("note")?.unchecked_into();
    listen(&element("notes-form")?, "submit", move |event| {
        event.prevent_default();
        let text = input.value().trim().to_owned();
        if !text.is_empty() {
            input.set_value("");
            add(text);
        }
    })?;
    show("notes-count", &heading(count()));
    Ok(())
}

pub fn count() -> usize {
    NOTES.with_borrow(Vec::len)
}

fn add(text: String) {
    NOTES.with_borrow_mut(|notes| notes.push(text));
    if let Err(error) = render() {
        web_sys::console::error_1(&error);
    }
}

fn render() -> Result<(), JsValue> {
    show("notes-count", &heading(count()));
    let list = element("notes")?;
    list.set_text_content(None);
    NOTES.with_borrow(|notes| {
        for (index, note) in notes.iter().enumerate().rev() {
            let item = document().create_element("li")?;
            item.set_text_content(Some(&line(index, note)));
            list.append_child(&item)?;
        }
        Ok(())
    })
}

fn heading(count: usize) -> String {
    match count {
        0 => "none yet".to_owned(),
        1 => "1 note".to_owned(),
        _ => format!("{count} notes"),
    }
}

fn line(index: usize, note: &str) -> String {
    format!("{}. {note}", index + 1)
}
