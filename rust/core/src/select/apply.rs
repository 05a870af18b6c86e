//! Weights and a mask to weights with zeros.

use crate::argument;
use crate::error::Result;
use crate::executor::{self, Executor};
use crate::simd::{Kernel, Target, Vector, dispatch};

/// Elements of one task.
const TASK: usize = 1 << 18;
/// Bits that become bools together: so many that the compiler makes a loop over registers of them, and few enough for L1.
const PART: usize = 512;

/// `out[i] = w[i]` where `kept[i]` is not 0, the type's zero elsewhere (so a −0 or NaN that goes becomes +0 too). The mask is
/// bytes because a caller's bool array may hold any. Returns whether all of them are 0 or 1.
pub fn apply<T>(executor: &dyn Executor, weights: &[T], kept: &[u8], out: &mut [T]) -> Result<bool>
where
    T: Copy + Default + Send + Sync,
{
    if weights.len() != kept.len() || weights.len() != out.len() {
        return Err(argument!("mask: has {} elements, the weights {}", kept.len(), weights.len()));
    }
    let work = out.chunks_mut(TASK).zip(weights.chunks(TASK).zip(kept.chunks(TASK)));
    let bools = executor::map(executor, work.collect(), |(out, (weights, kept))| {
        dispatch(Target::detect(), Copied { weights, kept, out })
    });
    Ok(!bools.contains(&false))
}

/// As [`apply`], over the weights themselves.
pub fn apply_in_place<T>(executor: &dyn Executor, weights: &mut [T], kept: &[u8]) -> Result<bool>
where
    T: Copy + Default + Send + Sync,
{
    if weights.len() != kept.len() {
        return Err(argument!("mask: has {} elements, the weights {}", kept.len(), weights.len()));
    }
    let bools =
        executor::map(executor, weights.chunks_mut(TASK).zip(kept.chunks(TASK)).collect(), |(weights, kept)| {
            dispatch(Target::detect(), Zeroed { weights, kept })
        });
    Ok(!bools.contains(&false))
}

/// The weights that are kept, elsewhere.
struct Copied<'a, T> {
    weights: &'a [T],
    kept: &'a [u8],
    out: &'a mut [T],
}

impl<T: Copy + Default> Kernel for Copied<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<V: Vector>(self, _: V) -> bool {
        let mut seen = 0;
        for ((out, &weight), &kept) in self.out.iter_mut().zip(self.weights).zip(self.kept) {
            *out = if kept != 0 { weight } else { T::default() };
            seen |= kept;
        }
        seen <= 1
    }
}

/// What is not kept becomes the type's zero. Returns whether all bytes are 0 or 1.
#[inline(always)]
pub(super) fn zero<T: Copy + Default>(weights: &mut [T], kept: &[u8]) -> bool {
    let mut seen = 0;
    for (weight, &kept) in weights.iter_mut().zip(kept) {
        *weight = if kept != 0 { *weight } else { T::default() };
        seen |= kept;
    }
    seen <= 1
}

/// The weights that are kept, where they are.
pub(super) struct Zeroed<'a, T> {
    pub weights: &'a mut [T],
    pub kept: &'a [u8],
}

impl<T: Copy + Default> Kernel for Zeroed<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<V: Vector>(self, _: V) -> bool {
        zero(self.weights, self.kept)
    }
}

/// The bits of a weight of some type, all 0 for its zero.
pub trait WeightBits: Copy + Send + Sync {
    /// The same bits, or none.
    fn if_kept(self, kept: bool) -> Self;
}

macro_rules! weight_bits {
    ($($uint:ty),*) => { $(
        impl WeightBits for $uint {
            #[inline(always)]
            fn if_kept(self, kept: bool) -> Self {
                // Not a choice, which the compiler might make a branch.
                self & <$uint>::from(kept).wrapping_neg()
            }
        }
    )* };
}
weight_bits!(u16, u32, u64);

/// As [`apply_in_place`], of a mask of bits: that of weight i is bit i mod 8 of byte i / 8.
pub fn apply_bits_in_place<T: WeightBits>(executor: &dyn Executor, weights: &mut [T], kept: &[u8]) -> Result<()> {
    if weights.len().div_ceil(8) != kept.len() {
        return Err(argument!("mask: has {} bytes for {} weights", kept.len(), weights.len()));
    }
    executor::map(executor, weights.chunks_mut(TASK).zip(kept.chunks(TASK / 8)).collect(), |(weights, kept)| {
        dispatch(Target::detect(), Apply { weights, kept });
    });
    Ok(())
}

/// Weights with their bits.
struct Apply<'a, T> {
    weights: &'a mut [T],
    kept: &'a [u8],
}

impl<T: WeightBits> Kernel for Apply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let (parts, tail) = self.weights.as_chunks_mut::<PART>();
        let (bits, last) = self.kept.split_at(parts.len() * PART / 8);
        let mut kept = [false; PART];
        for (weights, bits) in parts.iter_mut().zip(bits.as_chunks::<{ PART / 8 }>().0) {
            for (kept, bits) in kept.as_chunks_mut().0.iter_mut().zip(bits.as_chunks().0) {
                v.store_bools(kept, u64::from_le_bytes(*bits));
            }
            for (weight, &kept) in weights.iter_mut().zip(&kept) {
                *weight = weight.if_kept(kept);
            }
        }
        for (i, weight) in tail.iter_mut().enumerate() {
            *weight = weight.if_kept(last[i / 8] >> (i % 8) & 1 == 1);
        }
    }
}
