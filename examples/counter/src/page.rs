//! The few things of the DOM that the rest needs.

use wasm_bindgen::prelude::*;
use web_sys::{Document, Element, Event};

pub fn window() -> web_sys::Window {
    web_sys::window().expect("this runs in a page")
}

pub fn document() -> Document {
    window().document().expect("a page has a document")
}

/// The element with this id.
pub fn element(id: &str) -> Result<Element, JsValue> {
    document()
        .get_element_by_id(id)
        .ok_or_else(|| JsValue::from_str(&format!("index.html has no element #{id}")))
}

/// Calls `handler` at every `event` for as long as the page is open.
pub fn listen(
    target: &Element,
    event: &str,
    handler: impl FnMut(Event) + 'static,
) -> Result<(), JsValue> {
    let closure = Closure::<dyn FnMut(Event)>::new(handler);
    target.add_event_listener_with_callback(event, closure.as_ref().unchecked_ref())?;
    closure.forget();
    Ok(())
}

/// Makes `text` the text of the element with this id, if it is not that already.
pub fn show(id: &str, text: &str) {
    if let Ok(element) = element(id)
        && element.text_content().as_deref() != Some(text)
    {
        element.set_text_content(Some(text));
    }
}
