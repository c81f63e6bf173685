//! Shapes and colours as plain numbers. Nothing here knows about a browser.

use std::f64::consts::TAU;
use std::fmt;
use std::ops::{Add, Mul};

/// A place in the picture, whose middle is (0, 0) and whose rim is one away from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
}

impl Point {
    pub fn polar(radius: f64, angle: f64) -> Self {
        Self {
            x: radius * angle.cos(),
            y: radius * angle.sin(),
        }
    }
}

impl Add for Point {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            x: self.x + other.x,
            y: self.y + other.y,
        }
    }
}

impl Mul<f64> for Point {
    type Output = Self;

    fn mul(self, scale: f64) -> Self {
        Self {
            x: self.x * scale,
            y: self.y * scale,
        }
    }
}

/// What lies `amount` of the way (0 to 1) from `from` to `to`.
pub fn mix<T>(from: T, to: T, amount: f64) -> T
where
    T: Add<Output = T> + Mul<f64, Output = T>,
{
    from * (1.0 - amount) + to * amount
}

/// A colour as CSS writes it: hue in degrees, the rest in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Colour {
    pub hue: f64,
    pub saturation: f64,
    pub lightness: f64,
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "hsl({:.1} {:.1}% {:.1}%)",
            self.hue, self.saturation, self.lightness
        )
    }
}

/// The colour of a shape by its distance from the middle, 0 to 1.
pub fn colour(distance: f64) -> Colour {
    Colour {
        hue: mix(42.0, -72.0, distance),
        saturation: mix(92.0, 62.0, distance),
        lightness: mix(60.0, 56.0, distance),
    }
}

/// Something that can be drawn as a closed line, one unit in radius.
pub trait Shape {
    fn name(&self) -> String;

    fn outline(&self) -> Vec<Point>;

    /// Turns per second.
    fn spin(&self) -> f64 {
        0.05
    }

    fn describe(&self) -> String {
        format!("{} with {} corners", self.name(), self.outline().len())
    }
}

pub struct Polygon {
    pub sides: u32,
}

impl Shape for Polygon {
    fn name(&self) -> String {
        match self.sides {
            3 => "triangle".to_owned(),
            4 => "square".to_owned(),
            sides => format!("{sides}-gon"),
        }
    }

    fn outline(&self) -> Vec<Point> {
        around(self.sides)
            .map(|angle| Point::polar(1.0, angle))
            .collect()
    }
}

pub struct Star {
    pub points: u32,
}

impl Shape for Star {
    fn name(&self) -> String {
        "star".to_owned()
    }

    fn outline(&self) -> Vec<Point> {
        around(self.points * 2)
            .enumerate()
            .map(|(corner, angle)| Point::polar(if corner % 2 == 0 { 1.15 } else { 0.5 }, angle))
            .collect()
    }

    fn spin(&self) -> f64 {
        -0.08
    }
}

pub struct Disc;

impl Shape for Disc {
    fn name(&self) -> String {
        "disc".to_owned()
    }

    fn outline(&self) -> Vec<Point> {
        around(32).map(|angle| Point::polar(0.85, angle)).collect()
    }

    fn describe(&self) -> String {
        format!("{} without corners", self.name())
    }
}

/// Angles of `corners` evenly spaced directions.
fn around(corners: u32) -> impl Iterator<Item = f64> {
    (0..corners).map(move |corner| TAU * f64::from(corner) / f64::from(corners))
}

/// The kinds of shape, in turn.
pub fn nth(index: usize) -> Box<dyn Shape> {
    match index % 4 {
        0 => Box::new(Disc),
        1 => Box::new(Polygon { sides: 3 }),
        2 => Box::new(Star { points: 5 }),
        _ => Box::new(Polygon { sides: 4 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_numbers_and_points_alike() {
        assert_eq!(mix(2.0, 4.0, 0.25), 2.5);
        let (a, b) = (Point { x: 0.0, y: 2.0 }, Point { x: 4.0, y: 0.0 });
        assert_eq!(mix(a, b, 0.5), Point { x: 2.0, y: 1.0 });
    }

    #[test]
    fn describes_what_it_draws() {
        assert_eq!(Polygon { sides: 3 }.describe(), "triangle with 3 corners");
        assert_eq!(Star { points: 5 }.describe(), "star with 10 corners");
        assert_eq!(Disc.describe(), "disc without corners");
    }

    #[test]
    fn colours_are_written_as_css() {
        assert_eq!(colour(0.0).to_string(), "hsl(42.0 92.0% 60.0%)");
    }
}
