//! A path tracer on as many threads as there are: each pass adds one sample to every pixel, and the picture clears up.
//!
//! Change a colour in `scene.rs`, the lens in `camera.rs` or how light bounces in `trace.rs`, and save: all threads go on
//! with the new code, while rays are in flight.
mod camera;
mod pool;
mod scene;
mod trace;
mod vector;

use wasm_bindgen::prelude::*;

use pool::{HEIGHT, WIDTH};

/// What a worker needs to run the same program in the same memory.
#[wasm_bindgen]
pub fn shared_module() -> JsValue {
    wasm_bindgen::module()
}

#[wasm_bindgen]
pub fn shared_memory() -> JsValue {
    wasm_bindgen::memory()
}

#[wasm_bindgen]
pub fn width() -> u32 {
    WIDTH as u32
}

#[wasm_bindgen]
pub fn height() -> u32 {
    HEIGHT as u32
}

/// A worker's whole life: it never returns.
#[wasm_bindgen]
pub fn work(worker: u32) {
    pool::work(worker);
}

/// How many of the workers are to work; the others wait.
#[wasm_bindgen]
pub fn employ(workers: u32) {
    pool::employ(workers);
}

/// Begins the picture anew.
#[wasm_bindgen]
pub fn restart() {
    pool::restart();
}

/// Turns the camera around the scene, by radians.
#[wasm_bindgen]
pub fn orbit(right: f32, up: f32) {
    camera::orbit(right, up);
    pool::restart();
}

/// Samples that every pixel has by now.
#[wasm_bindgen]
pub fn samples() -> u32 {
    pool::samples()
}

/// Where in the memory the picture is: red, green, blue and opacity of each pixel.
#[wasm_bindgen]
pub fn pixels() -> u32 {
    pool::pixels().addr() as u32
}
