//! The workers and what they share: the picture in tiles, and which tile of which pass is next.
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
        sums: Vec::new(),
        samples: 0,
    })
}; TILES];

/// For the page's thread too, which must not wait: nobody holds any of these for long.
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
fn finish(picture: u32, tile: usize, samples: Vec<Vector>) {
    let mut progress = lock(&PROGRESS);
    if progress.picture != picture {
        return;
    }
    let mut tile = lock(&PICTURE[tile]);
    if progress.pass == 0 {
        *tile = Tile {
            sums: samples,
            samples: 1,
        };
    } else {
        for (sum, sample) in tile.sums.iter_mut().zip(samples) {
            *sum = *sum + sample;
        }
        tile.samples += 1;
    }
    progress.done += 1;
    if progress.done == TILES {
        progress.pass += 1;
        progress.next = 0;
        progress.done = 0;
        CHANGED.notify_all();
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
    drop(progress);
    CHANGED.notify_all();
}

pub fn passes() -> u32 {
    lock(&PROGRESS).pass
}

/// Red, green, blue and opacity of each pixel.
pub fn picture() -> Vec<u8> {
    let mut pixels = vec![255; WIDTH * HEIGHT * 4];
    for (number, tile) in PICTURE.iter().enumerate() {
        let (left, top) = (number % COLUMNS * TILE, number / COLUMNS * TILE);
        let tile = lock(tile);
        let share = 1.0 / tile.samples.max(1) as f32;
        for (index, sum) in tile.sums.iter().enumerate() {
            let (x, y) = (left + index % TILE, top + index / TILE);
            let at = (y * WIDTH + x) * 4;
            pixels[at..at + 3].copy_from_slice(&develop(*sum * share));
        }
    }
    pixels
}

/// From light to what a screen shows.
fn develop(light: Vector) -> [u8; 3] {
    let curve = |value: f32| {
        let mapped = value * (2.51 * value + 0.03) / (value * (2.43 * value + 0.59) + 0.14);
        (mapped.clamp(0.0, 1.0).powf(1.0 / 2.2) * 255.0) as u8
    };
    [curve(light.x), curve(light.y), curve(light.z)]
}
