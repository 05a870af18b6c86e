//! How a weight lies in memory: as float32, or rounded to 16 bits, which become a float32 again as they are loaded.

use crate::argument;
use crate::error::Result;
use half::{bf16, f16};

/// The types of [`Stored`] that users name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// float32.
    #[default]
    F32,
    /// bfloat16: the upper half of a float32. Rounding moves a weight by at most 2⁻⁸ of itself.
    Bf16,
    /// IEEE half precision: by at most 2⁻¹¹ of itself, or 2⁻²⁵ where it is below 2⁻¹⁴; up to 65504.
    F16,
}

impl Storage {
    /// The names that [`Storage::parse`] knows.
    pub const NAMES: [&'static str; 3] = ["f32", "bf16", "f16"];

    /// The storage of that name.
    pub fn parse(name: &str) -> Result<Storage> {
        match name {
            "f32" => Ok(Storage::F32),
            "bf16" => Ok(Storage::Bf16),
            "f16" => Ok(Storage::F16),
            _ => Err(argument!("storage: unknown name {name:?}; choose from {}", Storage::NAMES.join(", "))),
        }
    }

    /// `f32`, `bf16` or `f16`.
    pub fn name(self) -> &'static str {
        Storage::NAMES[self as usize]
    }

    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        if self == Storage::F32 { 4 } else { 2 }
    }

    /// Rounds every value of `values`, called `name`, to the nearest that can be stored, of two the even one.
    ///
    /// # Errors
    /// Where a finite value is beyond the largest that can be stored.
    pub fn round(self, name: &str, values: &mut [f32]) -> Result<()> {
        let rounded: fn(f32) -> f32 = match self {
            Storage::F32 => return Ok(()),
            Storage::Bf16 => |x| bf16::round(x).widen(),
            Storage::F16 => |x| f16::round(x).widen(),
        };
        for x in values {
            let nearest = rounded(*x);
            if nearest.is_infinite() && x.is_finite() {
                return Err(argument!("{name}: {x} is beyond what storage {:?} can hold", self.name()));
            }
            *x = nearest;
        }
        Ok(())
    }
}

/// A type that weights are stored in: any bits are a number of it (or none, as IEEE has it), and all zero the number 0.
pub trait Stored: Copy + std::fmt::Debug + Send + Sync + 'static {
    /// The type's name.
    const STORAGE: Storage;
    /// Whether it takes half the bytes of a float32.
    const HALF: bool = size_of::<Self>() < size_of::<f32>();
    /// The nearest number of the type, of two the even one.
    fn round(x: f32) -> Self;
    /// The number as a float32, exactly.
    fn widen(self) -> f32;
}

impl Stored for f32 {
    const STORAGE: Storage = Storage::F32;
    #[inline(always)]
    fn round(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Stored for bf16 {
    const STORAGE: Storage = Storage::Bf16;
    #[inline(always)]
    fn round(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32_const()
    }
}

impl Stored for f16 {
    const STORAGE: Storage = Storage::F16;
    #[inline(always)]
    fn round(x: f32) -> f16 {
        f16::from_f32_const(x)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32_const()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_even() {
        let of = |storage: Storage, x: f32| {
            let mut values = [x];
            storage.round("values", &mut values).map(|()| values[0])
        };
        // Halfway between two neighbours, and a little beyond.
        let (ulp, half) = (2f32.powi(-7), 2f32.powi(-8));
        for (x, wanted) in [(1.0 + half, 1.0), (1.0 + ulp + half, 1.0 + 2.0 * ulp), (1.0 + half * 1.01, 1.0 + ulp)] {
            assert_eq!(of(Storage::Bf16, x).unwrap(), wanted);
        }
        let (ulp, half) = (2f32.powi(-10), 2f32.powi(-11));
        for (x, wanted) in [(1.0 + half, 1.0), (1.0 + ulp + half, 1.0 + 2.0 * ulp), (1.0 + half * 1.01, 1.0 + ulp)] {
            assert_eq!(of(Storage::F16, x).unwrap(), wanted);
        }
        // Subnormal, and too small.
        assert_eq!(of(Storage::F16, 3.0 * 2f32.powi(-25)).unwrap(), 2f32.powi(-23));
        assert_eq!(of(Storage::F16, -2f32.powi(-25)).unwrap(), 0.0);
        assert_eq!(of(Storage::F16, 65519.0).unwrap(), 65504.0);
        assert!(of(Storage::F16, 65520.0).unwrap_err().to_string().contains("values: 65520"));
        assert!(of(Storage::Bf16, f32::MAX).is_err() && of(Storage::Bf16, f32::INFINITY).is_ok());
    }
}
