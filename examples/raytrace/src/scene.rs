//! What there is to see. The most rewarding file to edit.
use crate::vector::{Vector, vector};

pub struct Ball {
    pub centre: Vector,
    pub radius: f32,
    pub surface: Surface,
}

#[derive(Clone, Copy)]
pub struct Surface {
    pub colour: Vector,
    /// 0 is chalk, 1 a mirror.
    pub gloss: f32,
    /// Of the reflection.
    pub blur: f32,
    /// Light of its own.
    pub glow: f32,
}

const fn matte(colour: Vector) -> Surface {
    Surface {
        colour,
        gloss: 0.04,
        blur: 0.3,
        glow: 0.0,
    }
}

const fn metal(colour: Vector, blur: f32) -> Surface {
    Surface {
        colour,
        gloss: 0.92,
        blur,
        glow: 0.0,
    }
}

const fn lamp(colour: Vector, glow: f32) -> Surface {
    Surface {
        colour,
        gloss: 0.0,
        blur: 0.0,
        glow,
    }
}

/// A big ball, a ring of small ones around it, and a lamp. The ground is added by `ground`.
pub fn ball(index: usize) -> Option<Ball> {
    let ring = 11;
    let ball = match index {
        0 => Ball {
            centre: vector(0.0, 1.0, 0.0),
            radius: 1.0,
            surface: metal(vector(0.93, 0.90, 0.86), 0.02),
        },
        1 => Ball {
            centre: vector(-3.4, 5.2, -1.8),
            radius: 1.8,
            surface: lamp(vector(1.0, 0.86, 0.66), 3.4),
        },
        _ if index < 2 + ring => {
            let turn = (index - 2) as f32 / ring as f32 * std::f32::consts::TAU;
            let radius = 0.34 + 0.12 * (turn * 3.0).sin();
            let centre = vector(2.1 * turn.cos(), radius, 2.1 * turn.sin());
            let colour = rainbow(turn);
            let surface = if index % 3 == 0 {
                metal(colour, 0.12)
            } else {
                matte(colour)
            };
            Ball {
                centre,
                radius,
                surface,
            }
        }
        _ => return None,
    };
    Some(ball)
}

/// From warm to cool and back.
fn rainbow(turn: f32) -> Vector {
    let channel = |shift: f32| 0.5 + 0.42 * (turn + shift).cos();
    vector(channel(0.0), channel(4.4) * 0.8, channel(2.4))
}

/// The plane at height 0.
pub fn ground(place: Vector) -> Surface {
    let is_dark = (place.x.floor() + place.z.floor()) as i32 & 1 == 0;
    let fade = (place.length() / 18.0).min(1.0);
    let colour = if is_dark {
        vector(0.16, 0.17, 0.20)
    } else {
        vector(0.62, 0.60, 0.57)
    };
    matte(colour.mix(vector(0.36, 0.37, 0.40), fade))
}

/// What a ray sees that meets nothing.
pub fn sky(direction: Vector) -> Vector {
    let height = 0.5 * (direction.y + 1.0);
    vector(0.94, 0.72, 0.58).mix(vector(0.16, 0.27, 0.52), height.sqrt()) * 0.55
}
