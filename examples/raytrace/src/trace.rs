//! One ray through the scene, and the light it brings back.
use crate::scene::{self, Surface};
use crate::vector::{Vector, vector};

const BOUNCES: u32 = 5;

/// Numbers that look random, from a seed.
pub struct Dice(u32);

impl Dice {
    pub fn new(seed: u32) -> Dice {
        Dice(seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453))
    }

    /// From 0 up to 1.
    pub fn roll(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let word = ((self.0 >> ((self.0 >> 28) + 4)) ^ self.0).wrapping_mul(277_803_737);
        ((word >> 22) ^ word) as f32 / 4_294_967_296.0
    }

    /// On a ball of radius 1.
    fn direction(&mut self) -> Vector {
        let height = 1.0 - 2.0 * self.roll();
        let turn = std::f32::consts::TAU * self.roll();
        let radius = (1.0 - height * height).max(0.0).sqrt();
        vector(radius * turn.cos(), height, radius * turn.sin())
    }
}

struct Hit {
    distance: f32,
    place: Vector,
    normal: Vector,
    surface: Surface,
}

pub fn light(mut origin: Vector, mut direction: Vector, dice: &mut Dice) -> Vector {
    let mut gathered = vector(0.0, 0.0, 0.0);
    let mut share = vector(1.0, 1.0, 1.0);
    for _ in 0..BOUNCES {
        let Some(hit) = meet(origin, direction) else {
            return gathered + share.tint(scene::sky(direction));
        };
        gathered = gathered + share.tint(hit.surface.colour * hit.surface.glow);
        if hit.surface.glow > 0.0 {
            break;
        }
        direction = bounce(direction, &hit, dice);
        share = share.tint(hit.surface.colour);
        origin = hit.place + hit.normal * 1e-3;
    }
    gathered
}

/// Where light goes that comes from `direction`.
fn bounce(direction: Vector, hit: &Hit, dice: &mut Dice) -> Vector {
    let scattered = hit.normal + dice.direction();
    if dice.roll() < hit.surface.gloss {
        let mirrored = direction.reflect(hit.normal) + dice.direction() * hit.surface.blur;
        if mirrored.dot(hit.normal) > 0.0 {
            return mirrored.unit();
        }
    }
    if scattered.dot(scattered) < 1e-6 {
        hit.normal
    } else {
        scattered.unit()
    }
}

fn meet(origin: Vector, direction: Vector) -> Option<Hit> {
    let mut nearest: Option<Hit> = None;
    let mut index = 0;
    while let Some(ball) = scene::ball(index) {
        index += 1;
        let to = origin - ball.centre;
        let along = to.dot(direction);
        let inside = along * along - to.dot(to) + ball.radius * ball.radius;
        if inside <= 0.0 {
            continue;
        }
        let distance = -along - inside.sqrt();
        if distance > 1e-3 && nearest.as_ref().is_none_or(|hit| distance < hit.distance) {
            let place = origin + direction * distance;
            let normal = (place - ball.centre) * (1.0 / ball.radius);
            nearest = Some(Hit {
                distance,
                place,
                normal,
                surface: ball.surface,
            });
        }
    }
    if direction.y < -1e-4 {
        let distance = -origin.y / direction.y;
        if distance > 1e-3 && nearest.as_ref().is_none_or(|hit| distance < hit.distance) {
            let place = origin + direction * distance;
            let surface = scene::ground(place);
            nearest = Some(Hit {
                distance,
                place,
                normal: vector(0.0, 1.0, 0.0),
                surface,
            });
        }
    }
    nearest
}
