//! Three numbers: a place, a direction or a colour.
use std::ops::{Add, Mul, Neg, Sub};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Vector {
    pub x: f32,
    pub y: f32,
    pub z: f32,
}

pub const fn vector(x: f32, y: f32, z: f32) -> Vector {
    Vector { x, y, z }
}

impl Vector {
    #[inline]
    pub fn dot(self, other: Vector) -> f32 {
        self.x * other.x + self.y * other.y + self.z * other.z
    }

    #[inline]
    pub fn cross(self, other: Vector) -> Vector {
        vector(
            self.y * other.z - self.z * other.y,
            self.z * other.x - self.x * other.z,
            self.x * other.y - self.y * other.x,
        )
    }

    #[inline]
    pub fn length(self) -> f32 {
        self.dot(self).sqrt()
    }

    #[inline]
    pub fn unit(self) -> Vector {
        self * (1.0 / self.length())
    }

    /// Channel by channel.
    #[inline]
    pub fn tint(self, other: Vector) -> Vector {
        vector(self.x * other.x, self.y * other.y, self.z * other.z)
    }

    #[inline]
    pub fn mix(self, other: Vector, share: f32) -> Vector {
        self * (1.0 - share) + other * share
    }

    #[inline]
    pub fn reflect(self, normal: Vector) -> Vector {
        self - normal * (2.0 * self.dot(normal))
    }
}

impl Add for Vector {
    type Output = Vector;
    #[inline]
    fn add(self, other: Vector) -> Vector {
        vector(self.x + other.x, self.y + other.y, self.z + other.z)
    }
}

impl Sub for Vector {
    type Output = Vector;
    #[inline]
    fn sub(self, other: Vector) -> Vector {
        vector(self.x - other.x, self.y - other.y, self.z - other.z)
    }
}

impl Neg for Vector {
    type Output = Vector;
    #[inline]
    fn neg(self) -> Vector {
        vector(-self.x, -self.y, -self.z)
    }
}

impl Mul<f32> for Vector {
    type Output = Vector;
    #[inline]
    fn mul(self, factor: f32) -> Vector {
        vector(self.x * factor, self.y * factor, self.z * factor)
    }
}
