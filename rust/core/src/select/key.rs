//! The integers that order scores.
//!
//! A score is never stored: each pass computes it again from the weights and turns it into a *key*, an unsigned integer with
//! the same order. So selection is written once, over integers, and needs no array the size of the weights.

use crate::simd::{LANES, Stored, Vector, WORD};
use half::{bf16, f16};
use std::ops::{Add, Mul};

/// A float type that scores are made in.
pub trait Float: Copy + Default + Send + Sync + PartialEq + Add<Output = Self> + Mul<Output = Self> + 'static {
    /// The absolute value.
    fn abs(self) -> Self;
    /// Whether it is NaN.
    fn is_nan(self) -> bool;
}

macro_rules! float {
    ($($float:ty),*) => { $(
        impl Float for $float {
            #[inline(always)]
            fn abs(self) -> Self {
                <$float>::abs(self)
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                <$float>::is_nan(self)
            }
        }
    )* };
}
float!(f32, f64);

/// A float type that weights come in. Those of 16 bits are scored in float32, which holds them and their products exactly.
pub trait Weight: Copy + Send + Sync + 'static {
    /// What its scores are made in.
    type Score: Float;
    /// The weight as such.
    fn wide(self) -> Self::Score;
    /// The weights as such: themselves, or widened into as much of `block` as they are.
    fn widened<'a, V: Vector>(v: V, weights: &'a [Self], block: &'a mut [Self::Score; WORD]) -> &'a [Self::Score];
}

macro_rules! weight {
    ($($float:ty),*; $($half:ty),*) => {
        $(impl Weight for $float {
            type Score = $float;
            #[inline(always)]
            fn wide(self) -> $float {
                self
            }
            #[inline(always)]
            fn widened<'a, V: Vector>(_: V, weights: &'a [$float], _: &'a mut [$float; WORD]) -> &'a [$float] {
                weights
            }
        })*
        $(impl Weight for $half {
            type Score = f32;
            #[inline(always)]
            fn wide(self) -> f32 {
                self.widen()
            }
            #[inline(always)]
            fn widened<'a, V: Vector>(v: V, weights: &'a [$half], block: &'a mut [f32; WORD]) -> &'a [f32] {
                let block = &mut block[..weights.len()];
                let (lines, tail) = weights.as_chunks::<LANES>();
                let (to, to_tail) = block.as_chunks_mut::<LANES>();
                for (to, line) in to.iter_mut().zip(lines) {
                    v.store(to, v.widen(line));
                }
                for (to, weight) in to_tail.iter_mut().zip(tail) {
                    *to = weight.widen();
                }
                block
            }
        })*
    };
}
weight!(f32, f64; bf16, f16);

/// An integer in the order of the floats that it stands for.
pub trait Key: Copy + Ord + Default + Send + Sync + 'static {
    /// The float type.
    type Value: Float;
    /// Bits of a key.
    const BITS: u32;
    /// Less than the key of any score, and more than the default.
    const SMALLEST: Self;
    /// More than the key of any score, and not the last.
    const LARGEST: Self;
    /// The key of a score that is not NaN. −0 and +0 have the same.
    fn of(score: Self::Value) -> Self;
    /// The key of a score, rounded to the key's type.
    fn near(score: f64) -> Self;
    /// The score of a key (+0 for both zeros), widened.
    fn score(self) -> f64;
    /// `self >> shift`, cut to a machine word; a shift of all bits or more leaves 0.
    fn prefix(self, shift: u32) -> u64;
    /// The key with these bits.
    fn whole(bits: u64) -> Self;
    /// The next larger one, if there is one.
    fn next(self) -> Self;
    /// What is smaller and larger by about 1/2048 to 1/1024 of the score.
    fn neighbourhood(self) -> (Self, Self);
    /// Bit i tells whether `keys[i]` is `limit` or more.
    fn at_least<V: Vector>(v: V, keys: &[Self; WORD], limit: Self) -> u64;
}

macro_rules! key {
    ($($key:ty, $signed:ty, $float:ty, $at_least:ident);*) => { $(
        impl Key for $key {
            type Value = $float;
            const BITS: u32 = <$key>::BITS;
            const SMALLEST: $key = 1;
            const LARGEST: $key = <$key>::MAX - 1;
            #[inline(always)]
            fn of(score: $float) -> $key {
                // Adding +0 turns −0 into +0 and changes nothing else.
                let bits = (score + 0.0).to_bits();
                // Positive: set the sign bit. Negative: flip all bits, since larger magnitude means smaller score.
                bits ^ ((((bits as $signed) >> (<$key>::BITS - 1)) as $key) | 1 << (<$key>::BITS - 1))
            }
            #[inline(always)]
            fn score(self) -> f64 {
                let top = 1 << (<$key>::BITS - 1);
                f64::from(<$float>::from_bits(if self & top != 0 { self ^ top } else { !self }))
            }
            #[inline(always)]
            fn prefix(self, shift: u32) -> u64 {
                u64::from(self.checked_shr(shift).unwrap_or(0))
            }
            #[inline(always)]
            fn whole(bits: u64) -> $key {
                bits as $key
            }
            #[inline(always)]
            fn near(score: f64) -> $key {
                <$key>::of(score as $float)
            }
            #[inline(always)]
            fn next(self) -> $key {
                self.saturating_add(1)
            }
            fn neighbourhood(self) -> ($key, $key) {
                let step = 1 << (<$float>::MANTISSA_DIGITS - 11);
                (self.saturating_sub(step).max(Self::SMALLEST), self.saturating_add(step).min(Self::LARGEST))
            }
            #[inline(always)]
            fn at_least<V: Vector>(v: V, keys: &[$key; WORD], limit: $key) -> u64 {
                v.$at_least(keys, limit)
            }
        }
    )* };
}
key!(u32, i32, f32, at_least_u32; u64, i64, f64, at_least_u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_the_order_of_floats() {
        let ascending = [
            f32::NEG_INFINITY,
            f32::MIN,
            -1.0,
            -f32::MIN_POSITIVE,
            -1e-45,
            0.0,
            1e-45,
            f32::MIN_POSITIVE,
            1.0,
            f32::MAX,
            f32::INFINITY,
        ];
        for pair in ascending.windows(2) {
            assert!(u32::of(pair[0]) < u32::of(pair[1]), "{pair:?}");
            assert!(u64::of(pair[0].into()) < u64::of(pair[1].into()), "{pair:?}");
        }
        assert_eq!(u32::of(-0.0), u32::of(0.0));
        assert_eq!(u64::of(-0.0), u64::of(0.0));
        for x in ascending {
            assert_eq!(u32::of(x).score(), f64::from(x));
            assert_eq!(u64::of(x.into()).score(), f64::from(x));
        }
        assert!(u32::of(-0.0).score().is_sign_positive());
    }
}
