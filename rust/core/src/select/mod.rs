//! Scores to masks: exact thresholds and top-k over one tensor or many, and patterns of groups.
//!
//! One order decides everything: the larger score first; of equal scores (−0 = +0) the one whose tensor's name comes first by
//! bytes, then the one with the smaller flat index. Infinities are scores like others; NaN is refused by name and index. Results
//! do not depend on the number of threads.

mod apply;
mod blocks;
mod bracket;
mod nm;
mod score;
mod topk;

pub use apply::{apply, apply_in_place};
pub use blocks::block_mask;
pub use nm::nm_mask;
pub use score::{Float, Key, Score};

use crate::argument;
use crate::error::{Error, Result};
use crate::executor::Executor;
use score::Source;
use std::fmt::Write;

/// The scores of one tensor, in C order.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Its name; `None` for a lone array.
    pub name: Option<&'a str>,
    /// Its shape, for naming an element.
    pub shape: &'a [usize],
    /// Its scores.
    pub scores: Scores<'a>,
}

/// Scores in either precision. Both are ranked exactly against each other.
#[derive(Debug, Clone, Copy)]
pub enum Scores<'a> {
    /// float32.
    F32(Score<'a, f32>),
    /// float64.
    F64(Score<'a, f64>),
}

impl Tensor<'_> {
    /// The number of scores.
    pub fn len(&self) -> usize {
        match &self.scores {
            Scores::F32(score) => score.len(),
            Scores::F64(score) => score.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn check(&self) -> Result<()> {
        let even = match &self.scores {
            Scores::F32(score) => score.is_even(),
            Scores::F64(score) => score.is_even(),
        };
        let fits = self.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)) == Some(self.len());
        if even && fits {
            Ok(())
        } else {
            Err(argument!("{}: {} scores of shape {:?}", self.label("scores"), self.len(), self.shape))
        }
    }

    /// `argument` or `argument['name']`.
    fn label(&self, argument: &str) -> String {
        self.name.map_or(argument.to_owned(), |name| format!("{argument}['{name}']"))
    }

    /// The error that names the first NaN of this tensor.
    fn nan_error(&self) -> Error {
        let find = |i| match &self.scores {
            Scores::F32(score) => score.nan_at(i),
            Scores::F64(score) => score.nan_at(i),
        };
        let Some((at, argument)) = (0..self.len()).find_map(|i| find(i).map(|argument| (i, argument))) else {
            return argument!("{}: has a NaN", self.label("scores"));
        };
        let mut index = String::new();
        let mut stride = self.len();
        for (axis, &dim) in self.shape.iter().enumerate() {
            stride /= dim;
            let comma = if axis == 0 { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(index, "{comma}{}", at / stride % dim);
        }
        if self.shape.is_empty() {
            return argument!("{} is NaN", self.label(argument));
        }
        argument!("{}[{index}] is NaN", self.label(argument))
    }
}

/// How many of `n` weights (or groups) a sparsity keeps: n − round_half_even(sparsity · n).
pub fn kept(sparsity: f64, n: usize) -> Result<usize> {
    if !(0.0..=1.0).contains(&sparsity) {
        return Err(argument!("sparsity: expected a number in [0, 1], got {sparsity}"));
    }
    Ok(n - ((sparsity * n as f64).round_ties_even() as usize).min(n))
}

/// The k-th largest score of all tensors together, 1 ≤ k ≤ their number.
pub fn kth_largest(executor: &dyn Executor, tensors: &[Tensor<'_>], k: usize) -> Result<f64> {
    let n = count(tensors)?;
    if !(1..=n).contains(&k) {
        return Err(argument!("k: expected 1 to {n} (the number of scores), got {k}"));
    }
    let found = match f32_sources(tensors) {
        Some(sources) => topk::threshold(executor, &sources, k).map(|threshold| threshold.key.score()),
        None => topk::threshold(executor, &f64_sources(tensors), k).map(|threshold| threshold.key.score()),
    };
    found.map_err(|at| tensors[at].nan_error())
}

/// Sets exactly the first `k` in the order of scores to true, all others to false; `masks[i]` belongs to `tensors[i]`.
pub fn top_k_mask(executor: &dyn Executor, tensors: &[Tensor<'_>], k: usize, masks: &mut [&mut [bool]]) -> Result<()> {
    let n = count(tensors)?;
    if k > n {
        return Err(argument!("k: expected 0 to {n} (the number of scores), got {k}"));
    }
    if masks.len() != tensors.len() || masks.iter().zip(tensors).any(|(mask, tensor)| mask.len() != tensor.len()) {
        return Err(argument!("masks: expected one of the size of each tensor"));
    }
    let mut order: Vec<(Tensor<'_>, &mut [bool])> =
        tensors.iter().copied().zip(masks.iter_mut().map(|mask| &mut **mask)).collect();
    order.sort_by_key(|(tensor, _)| tensor.name);
    let (tensors, mut masks): (Vec<_>, Vec<_>) = order.into_iter().unzip();
    let done = match f32_sources(&tensors) {
        Some(sources) => topk::mask(executor, &sources, k, &mut masks),
        None => topk::mask(executor, &f64_sources(&tensors), k, &mut masks),
    };
    done.map_err(|at| tensors[at].nan_error())
}

/// The number of scores of well-formed tensors.
fn count(tensors: &[Tensor<'_>]) -> Result<usize> {
    tensors.iter().try_fold(0, |n, tensor| tensor.check().map(|()| n + tensor.len()))
}

/// The sources of float32 tensors; `None` where one is float64, and all have to be compared as such.
fn f32_sources<'a>(tensors: &'a [Tensor<'a>]) -> Option<Vec<&'a dyn Source<u32>>> {
    let source = |tensor: &'a Tensor<'a>| match &tensor.scores {
        Scores::F32(score) => Some(score as &dyn Source<u32>),
        Scores::F64(_) => None,
    };
    tensors.iter().map(source).collect()
}

fn f64_sources<'a>(tensors: &'a [Tensor<'a>]) -> Vec<&'a dyn Source<u64>> {
    let source = |tensor: &'a Tensor<'a>| match &tensor.scores {
        Scores::F32(score) => score as &dyn Source<u64>,
        Scores::F64(score) => score as &dyn Source<u64>,
    };
    tensors.iter().map(source).collect()
}

#[cfg(test)]
mod tests;
