//! Shapes on a spiral that turns. Every click on the picture adds one.

use std::cell::{Cell, RefCell};
use std::f64::consts::TAU;
use std::rc::Rc;

use shapes::{Point, Shape, colour, mix};
use wasm_bindgen::prelude::*;
use web_sys::{CanvasRenderingContext2d, HtmlCanvasElement};

use crate::page::{element, listen, show, window};

/// Of a turn: the angle at which sunflower seeds leave the most room for each other.
const GOLDEN: f64 = 0.381_966;

type Shapes = Rc<RefCell<Vec<Box<dyn Shape>>>>;
type Frame = Closure<dyn FnMut(f64)>;

thread_local! {
    static FRAMES: Cell<u32> = const { Cell::new(0) };
}

pub fn start() -> Result<(), JsValue> {
    let canvas: HtmlCanvasElement = element("picture")?.unchecked_into();
    let context: CanvasRenderingContext2d = canvas
        .get_context("2d")?
        .ok_or("the browser gives no 2d context")?
        .unchecked_into();
    let shapes: Shapes = Rc::new(RefCell::new((0..150).map(shapes::nth).collect()));

    let added = Rc::clone(&shapes);
    listen(&canvas, "click", move |_| {
        let mut shapes = added.borrow_mut();
        let next = shapes.len();
        shapes.push(shapes::nth(next));
    })?;

    every_frame(move |seconds| {
        FRAMES.set(FRAMES.get() + 1);
        let shapes = shapes.borrow();
        draw(&canvas, &context, &shapes, seconds);
        show("caption", &caption(&shapes));
    });
    Ok(())
}

fn caption(shapes: &[Box<dyn Shape>]) -> String {
    match shapes.last() {
        Some(last) => format!("{} shapes, the last a {}", shapes.len(), last.describe()),
        None => "No shapes".to_owned(),
    }
}

fn draw(
    canvas: &HtmlCanvasElement,
    context: &CanvasRenderingContext2d,
    shapes: &[Box<dyn Shape>],
    seconds: f64,
) {
    let (width, height) = fit(canvas);
    context.clear_rect(0.0, 0.0, width, height);
    let middle = Point {
        x: width / 2.0,
        y: height / 2.0,
    };
    let radius = width.min(height) * 0.43;

    for (index, shape) in shapes.iter().enumerate() {
        let distance = ((index as f64 + 0.5) / shapes.len() as f64).sqrt();
        let place = spiral(index, distance, seconds);
        let size = radius * size(distance, seconds);
        let turn = TAU * shape.spin() * seconds + index as f64;

        context.begin_path();
        for corner in shape.outline() {
            let corner = middle + place * radius + rotate(corner, turn) * size;
            context.line_to(corner.x, corner.y);
        }
        context.close_path();
        context.set_fill_style_str(&colour(distance).to_string());
        context.fill();
    }
}

/// Where the shape of this index is, `distance` from the middle.
fn spiral(index: usize, distance: f64, seconds: f64) -> Point {
    Point::polar(distance, TAU * (GOLDEN * index as f64 + 0.01 * seconds))
}

/// The radius of a shape; a slow wave runs outwards.
fn size(distance: f64, seconds: f64) -> f64 {
    let wave = (TAU * (distance * 1.5 - seconds * 0.2)).sin() * 0.5 + 0.5;
    mix(0.024, 0.054, distance) * mix(0.6, 1.0, wave)
}

fn rotate(point: Point, angle: f64) -> Point {
    let (sin, cos) = angle.sin_cos();
    Point {
        x: point.x * cos - point.y * sin,
        y: point.x * sin + point.y * cos,
    }
}

/// Gives the canvas as many pixels as it covers on the screen.
fn fit(canvas: &HtmlCanvasElement) -> (f64, f64) {
    let scale = window().device_pixel_ratio();
    let width = (f64::from(canvas.client_width()) * scale).round();
    let height = (f64::from(canvas.client_height()) * scale).round();
    if (canvas.width(), canvas.height()) != (width as u32, height as u32) {
        canvas.set_width(width as u32);
        canvas.set_height(height as u32);
    }
    (width, height)
}

/// Calls `frame` with the seconds since the page was opened, before every repaint.
fn every_frame(mut frame: impl FnMut(f64) + 'static) {
    let closure: Rc<RefCell<Option<Frame>>> = Rc::default();
    let again = Rc::clone(&closure);
    *closure.borrow_mut() = Some(Closure::new(move |milliseconds: f64| {
        request(again.borrow().as_ref());
        frame(milliseconds / 1000.0);
    }));
    request(closure.borrow().as_ref());
}

fn request(closure: Option<&Frame>) {
    if let Some(closure) = closure {
        window()
            .request_animation_frame(closure.as_ref().unchecked_ref())
            .expect("a page can ask for frames");
    }
}
