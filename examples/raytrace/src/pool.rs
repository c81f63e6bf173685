//! The workers and what they share: the picture in tiles, and which tile of which pass is next.
//!
//! The page's thread must not wait, and would spin where others wait. So what it looks at for every frame has no lock.
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::camera;
use crate::trace::{Dice, light};
use crate::vector::Vector;

pub const WIDTH: usize = 640;
pub const HEIGHT: usize = 400;
const TILE: usize = 40;
const COLUMNS: usize = WIDTH / TILE;
const TILES: usize = COLUMNS * (HEIGHT / TILE);
/// A picture with so many samples is done.
const PASSES: u32 = 2000;

/// A square of the picture.
struct Tile {
    picture: u32,
    /// Of all samples of each pixel so far.
    sums: Vec<Vector>,
    samples: u32,
}

struct Progress {
    /// Counts the pictures that were begun.
    picture: u32,
    pass: u32,
    next: usize,
    done: usize,
    employed: u32,
}

static PROGRESS: Mutex<Progress> = Mutex::new(Progress {
    picture: 0,
    pass: 0,
    next: 0,
    done: 0,
    employed: 0,
});
static CHANGED: Condvar = Condvar::new();
static PICTURE: [Mutex<Tile>; TILES] = [const {
    Mutex::new(Tile {
        picture: 0,
        sums: Vec::new(),
        samples: 0,
    })
}; TILES];
/// Passes that are complete, and what they show: red, green, blue and opacity of each pixel.
static SAMPLES: AtomicU32 = AtomicU32::new(0);
static PIXELS: [AtomicU32; WIDTH * HEIGHT] = [const { AtomicU32::new(0) }; WIDTH * HEIGHT];

/// For the page's thread too: nobody holds it for long.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    loop {
        if let Ok(guard) = mutex.try_lock() {
            return guard;
        }
        std::hint::spin_loop();
    }
}

pub fn work(worker: u32) {
    loop {
        let (picture, pass, tile) = claim(worker);
        let samples = sample(tile, pass);
        finish(picture, tile, samples);
    }
}

/// The next tile for a worker; waits until there is one.
fn claim(worker: u32) -> (u32, u32, usize) {
    let mut progress = PROGRESS.lock().unwrap();
    while worker >= progress.employed || progress.next == TILES || progress.pass == PASSES {
        progress = CHANGED.wait(progress).unwrap();
    }
    let tile = progress.next;
    progress.next += 1;
    (progress.picture, progress.pass, tile)
}

/// One sample for each pixel of a tile.
fn sample(tile: usize, pass: u32) -> Vec<Vector> {
    let (left, top) = (tile % COLUMNS * TILE, tile / COLUMNS * TILE);
    let mut samples = Vec::with_capacity(TILE * TILE);
    for y in top..top + TILE {
        for x in left..left + TILE {
            let mut dice = Dice::new((y * WIDTH + x) as u32 ^ pass.wrapping_mul(0x9e37_79b9));
            let across = (x as f32 + dice.roll() - WIDTH as f32 / 2.0) / (HEIGHT as f32 / 2.0);
            let down = (y as f32 + dice.roll()) / (HEIGHT as f32 / 2.0) - 1.0;
            let (eye, direction) = camera::ray(across, -down);
            samples.push(light(eye, direction, &mut dice));
        }
    }
    samples
}

/// Samples of a picture that has been begun anew meanwhile count for nothing.
fn finish(picture: u32, number: usize, samples: Vec<Vector>) {
    let mut tile = PICTURE[number].lock().unwrap();
    if PROGRESS.lock().unwrap().picture != picture {
        return;
    }
    if tile.picture != picture || tile.samples == 0 {
        *tile = Tile {
            picture,
            sums: samples,
            samples: 1,
        };
    } else {
        for (sum, sample) in tile.sums.iter_mut().zip(samples) {
            *sum = *sum + sample;
        }
        tile.samples += 1;
    }
    show(number, &tile);
    drop(tile);
    let mut progress = PROGRESS.lock().unwrap();
    if progress.picture != picture {
        return;
    }
    progress.done += 1;
    if progress.done == TILES {
        progress.pass += 1;
        progress.next = 0;
        progress.done = 0;
        SAMPLES.store(progress.pass, Ordering::Release);
        CHANGED.notify_all();
    }
}

fn show(number: usize, tile: &Tile) {
    let (left, top) = (number % COLUMNS * TILE, number / COLUMNS * TILE);
    let share = 1.0 / tile.samples as f32;
    for (index, sum) in tile.sums.iter().enumerate() {
        let (x, y) = (left + index % TILE, top + index / TILE);
        let [red, green, blue] = develop(*sum * share);
        let pixel = u32::from_le_bytes([red, green, blue, 255]);
        PIXELS[y * WIDTH + x].store(pixel, Ordering::Relaxed);
    }
}

pub fn employ(workers: u32) {
    lock(&PROGRESS).employed = workers;
    CHANGED.notify_all();
}

pub fn restart() {
    let mut progress = lock(&PROGRESS);
    progress.picture = progress.picture.wrapping_add(1);
    progress.pass = 0;
    progress.next = 0;
    progress.done = 0;
    SAMPLES.store(0, Ordering::Release);
    drop(progress);
    CHANGED.notify_all();
}

pub fn samples() -> u32 {
    SAMPLES.load(Ordering::Acquire)
}

pub fn pixels() -> *const AtomicU32 {
    PIXELS.as_ptr()
}

/// From light to what a screen shows.
fn develop(light: Vector) -> [u8; 3] {
    let curve = |value: f32| {
        let mapped = value * (2.51 * value + 0.03) / (value * (2.43 * value + 0.59) + 0.14);
        (mapped.clamp(0.0, 1.0).powf(1.0 / 2.2) * 255.0) as u8
    };
    [curve(light.x), curve(light.y), curve(light.z)]
}
