//! Scores made on the fly, and the integers that order them.
//!
//! A score is never stored: each pass computes it again from the weights and turns it into a *key*, an unsigned integer with
//! the same order. So selection is written once, over integers, and needs no array the size of the weights.

use crate::simd::{Kernel, Target, Vector, dispatch};
use std::ops::{Add, Mul};

/// A float type that weights come in.
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

/// An integer in the order of the floats that it stands for.
pub trait Key: Copy + Ord + Default + Send + Sync + 'static {
    /// The float type.
    type Value: Float;
    /// Bits of a key.
    const BITS: u32;
    /// The key of a score that is not NaN. −0 and +0 have the same.
    fn of(score: Self::Value) -> Self;
    /// The score of a key (+0 for both zeros), widened.
    fn score(self) -> f64;
    /// `self >> shift`, cut to a machine word; a shift of all bits or more leaves 0.
    fn prefix(self, shift: u32) -> u64;
    /// The key with these bits.
    fn whole(bits: u64) -> Self;
}

macro_rules! key {
    ($($key:ty, $signed:ty, $float:ty);*) => { $(
        impl Key for $key {
            type Value = $float;
            const BITS: u32 = <$key>::BITS;
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
        }
    )* };
}
key!(u32, i32, f32; u64, i64, f64);

/// How the scores of one tensor are made.
#[derive(Debug, Clone, Copy)]
pub enum Score<'a, T> {
    /// Given as they are.
    Given(&'a [T]),
    /// |w|: the order of the L1 and of the L2 norm of single weights.
    Magnitude(&'a [T]),
    /// |g|.
    Gradient(&'a [T]),
    /// |w · g|, the first-order Taylor term of the loss when the weight goes (Molchanov et al., 2019).
    Taylor(&'a [T], &'a [T]),
    /// |w| + λ · |g|.
    Combined(&'a [T], &'a [T], T),
}

impl<T: Float> Score<'_, T> {
    /// The number of scores.
    pub fn len(&self) -> usize {
        match self {
            Score::Given(x) | Score::Magnitude(x) | Score::Gradient(x) => x.len(),
            // Weights and gradients that differ in length were refused by the caller; the shorter is always safe.
            Score::Taylor(w, g) | Score::Combined(w, g, _) => w.len().min(g.len()),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the operands are of one length.
    pub(super) fn is_even(&self) -> bool {
        match self {
            Score::Given(_) | Score::Magnitude(_) | Score::Gradient(_) => true,
            Score::Taylor(w, g) | Score::Combined(w, g, _) => w.len() == g.len(),
        }
    }

    /// The argument whose element `i` makes the score NaN, or `None` where the score is a number.
    pub(super) fn nan_at(&self, i: usize) -> Option<&'static str> {
        let (culprits, score): (&[(&str, T)], T) = match *self {
            Score::Given(x) => (&[("scores", x[i])], x[i]),
            Score::Magnitude(x) => (&[("weights", x[i])], x[i]),
            Score::Gradient(x) => (&[("grads", x[i])], x[i]),
            Score::Taylor(w, g) => (&[("weights", w[i]), ("grads", g[i])], w[i] * g[i]),
            Score::Combined(w, g, lam) => (&[("weights", w[i]), ("grads", g[i])], w[i].abs() + lam * g[i].abs()),
        };
        let named = culprits.iter().find(|(_, value)| value.is_nan()).map(|(name, _)| *name);
        // inf · 0 is NaN although neither factor is.
        named.or(score.is_nan().then_some("the score of weights"))
    }
}

/// Anything that yields keys.
pub(super) trait Source<K>: Sync {
    /// How many.
    fn len(&self) -> usize;
    /// Writes the keys from `start` on into `keys`; returns whether a score among them was NaN (its key is meaningless).
    fn keys(&self, start: usize, keys: &mut [K]) -> bool;
}

impl<T: Float, K: Key<Value: From<T>>> Source<K> for Score<'_, T> {
    fn len(&self) -> usize {
        self.len()
    }

    fn keys(&self, start: usize, keys: &mut [K]) -> bool {
        dispatch(Target::detect(), Fill { score: *self, start, keys })
    }
}

/// Writes the keys of a block; returns whether a score was NaN.
struct Fill<'a, 'k, T, K> {
    score: Score<'a, T>,
    start: usize,
    keys: &'k mut [K],
}

impl<T: Float, K: Key<Value: From<T>>> Kernel for Fill<'_, '_, T, K> {
    type Output = bool;

    #[inline(always)]
    fn run<V: Vector>(self, _: V) -> bool {
        let Fill { score, start, keys } = self;
        let range = start..start + keys.len();
        match score {
            Score::Given(x) => convert(keys, x[range].iter().copied()),
            Score::Magnitude(x) | Score::Gradient(x) => convert(keys, x[range].iter().map(|x| x.abs())),
            Score::Taylor(w, g) => convert(keys, w[range.clone()].iter().zip(&g[range]).map(|(&w, &g)| (w * g).abs())),
            Score::Combined(w, g, lam) => {
                convert(keys, w[range.clone()].iter().zip(&g[range]).map(|(w, g)| w.abs() + lam * g.abs()))
            }
        }
    }
}

#[inline(always)]
fn convert<T: Float, K: Key<Value: From<T>>>(keys: &mut [K], scores: impl Iterator<Item = T>) -> bool {
    let mut nan = false;
    for (key, score) in keys.iter_mut().zip(scores) {
        nan |= score.is_nan();
        *key = K::of(score.into());
    }
    nan
}

/// Keys gathered by an earlier pass.
impl<K: Key> Source<K> for Vec<K> {
    fn len(&self) -> usize {
        self.len()
    }

    fn keys(&self, start: usize, keys: &mut [K]) -> bool {
        keys.copy_from_slice(&self[start..start + keys.len()]);
        false
    }
}

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
