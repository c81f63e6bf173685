//! From where it is seen.
use std::sync::atomic::{AtomicU32, Ordering};

use crate::vector::{Vector, vector};

/// Radians, as bits of an `f32`: every thread reads them.
static AROUND: AtomicU32 = AtomicU32::new(0.9f32.to_bits());
static ABOVE: AtomicU32 = AtomicU32::new(0.34f32.to_bits());

pub fn orbit(right: f32, up: f32) {
    let around = read(&AROUND) - right;
    let above = (read(&ABOVE) + up).clamp(0.04, 1.4);
    AROUND.store(around.to_bits(), Ordering::Relaxed);
    ABOVE.store(above.to_bits(), Ordering::Relaxed);
}

/// Where a ray begins and where it goes; `x` and `y` are from -1 to 1 over the shorter side of the picture.
pub fn ray(x: f32, y: f32) -> (Vector, Vector) {
    let distance = 6.4;
    let zoom = 1.9;
    let (around, above) = (read(&AROUND), read(&ABOVE));
    let target = vector(0.0, 0.75, 0.0);
    let eye = target
        + vector(
            above.cos() * around.cos(),
            above.sin(),
            above.cos() * around.sin(),
        ) * distance;
    let forward = (target - eye).unit();
    let right = forward.cross(vector(0.0, 1.0, 0.0)).unit();
    let up = right.cross(forward);
    (eye, (forward * zoom + right * x + up * y).unit())
}

fn read(angle: &AtomicU32) -> f32 {
    f32::from_bits(angle.load(Ordering::Relaxed))
}
