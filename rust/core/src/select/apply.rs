//! Weights and a mask to weights with zeros.

use crate::argument;
use crate::error::Result;
use crate::executor::{self, Executor};

/// Elements of one task.
const TASK: usize = 1 << 18;

/// `out[i] = w[i]` where `kept[i]` is not 0, the type's zero elsewhere (so a −0 or NaN that goes becomes +0 too). The mask is
/// bytes because a caller's bool array may hold any.
pub fn apply<T>(executor: &dyn Executor, weights: &[T], kept: &[u8], out: &mut [T]) -> Result<()>
where
    T: Copy + Default + Send + Sync,
{
    if weights.len() != kept.len() || weights.len() != out.len() {
        return Err(argument!("mask: has {} elements, the weights {}", kept.len(), weights.len()));
    }
    let work = out.chunks_mut(TASK).zip(weights.chunks(TASK).zip(kept.chunks(TASK)));
    executor::map(executor, work.collect(), |(out, (weights, kept))| {
        for ((out, &weight), &kept) in out.iter_mut().zip(weights).zip(kept) {
            *out = if kept != 0 { weight } else { T::default() };
        }
    });
    Ok(())
}

/// As [`apply`], over the weights themselves.
pub fn apply_in_place<T>(executor: &dyn Executor, weights: &mut [T], kept: &[u8]) -> Result<()>
where
    T: Copy + Default + Send + Sync,
{
    if weights.len() != kept.len() {
        return Err(argument!("mask: has {} elements, the weights {}", kept.len(), weights.len()));
    }
    executor::map(executor, weights.chunks_mut(TASK).zip(kept.chunks(TASK)).collect(), |(weights, kept)| {
        for (weight, &kept) in weights.iter_mut().zip(kept) {
            *weight = if kept != 0 { *weight } else { T::default() };
        }
    });
    Ok(())
}

/// As [`apply_in_place`], of a mask of bits: that of weight i is bit i mod 8 of byte i / 8.
pub fn apply_bits_in_place<T>(executor: &dyn Executor, weights: &mut [T], kept: &[u8]) -> Result<()>
where
    T: Copy + Default + Send + Sync,
{
    if weights.len().div_ceil(8) != kept.len() {
        return Err(argument!("mask: has {} bytes for {} weights", kept.len(), weights.len()));
    }
    executor::map(executor, weights.chunks_mut(TASK).zip(kept.chunks(TASK / 8)).collect(), |(weights, kept)| {
        for (weights, &kept) in weights.chunks_mut(8).zip(kept) {
            for (bit, weight) in weights.iter_mut().enumerate() {
                *weight = if kept >> bit & 1 == 1 { *weight } else { T::default() };
            }
        }
    });
    Ok(())
}
