//! Scores to masks: exact thresholds and top-k over one tensor or many, and patterns of groups.
//!
//! One order decides everything: the larger score first; of equal scores (−0 = +0) the one whose tensor's name comes first by
//! bytes, then the one with the smaller flat index. Infinities are scores like others; NaN is refused by name and index. Results
//! do not depend on the number of threads.

mod apply;
mod blocks;
mod bracket;
mod key;
mod mask_mut;
mod narrow;
mod nm;
mod pass;
mod score;
mod tally;
mod topk;

pub use apply::{apply, apply_bits_in_place, apply_in_place};
pub use blocks::block_mask;
pub use key::{Float, Key, Weight};
pub use mask_mut::MaskMut;
pub use nm::nm_mask;
pub use score::{Score, absolute_sum};
pub use tally::{Keys, Tally, scores_at, tally};

use crate::argument;
use crate::error::{Error, Result};
use crate::executor::{self, Executor};
use half::{bf16, f16};
use pass::{Piece, TASK, Ties, blocks, cut as pieces_of};
use score::{Among, Source};
use std::fmt::Write;
use topk::Selection;

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

/// Scores of any precision. All are ranked exactly against each other.
#[derive(Debug, Clone, Copy)]
pub enum Scores<'a> {
    /// float32.
    F32(Score<'a, f32>),
    /// float64.
    F64(Score<'a, f64>),
    /// IEEE half precision.
    F16(Score<'a, f16>),
    /// bfloat16.
    Bf16(Score<'a, bf16>),
}

/// The same expression for the scores of any precision.
macro_rules! each {
    ($scores:expr, $score:ident => $does:expr) => {
        match $scores {
            Scores::F32($score) => $does,
            Scores::F64($score) => $does,
            Scores::F16($score) => $does,
            Scores::Bf16($score) => $does,
        }
    };
}
use each;

impl<'a> Scores<'a> {
    /// Their keys of 32 bits, where these hold them.
    fn short(&self) -> Option<&(dyn Source<u32> + 'a)> {
        match self {
            Scores::F32(score) => Some(score),
            Scores::F16(score) => Some(score),
            Scores::Bf16(score) => Some(score),
            Scores::F64(_) => None,
        }
    }

    /// Their keys of 64 bits.
    fn long(&self) -> &(dyn Source<u64> + 'a) {
        each!(self, score => score)
    }
}

impl Tensor<'_> {
    /// The number of scores.
    pub fn len(&self) -> usize {
        each!(&self.scores, score => score.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn check(&self) -> Result<()> {
        let even = each!(&self.scores, score => score.is_even());
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
        let find = |i| each!(&self.scores, score => score.nan_at(i));
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
    check_rank(tensors, k)?;
    let found = match short(tensors) {
        Some(sources) => topk::threshold(executor, &sources, k).map(|threshold| threshold.key.score()),
        None => topk::threshold(executor, &long(tensors), k).map(|threshold| threshold.key.score()),
    };
    found.map_err(|at| tensors[at].nan_error())
}

/// The last that a selection keeps: with it the mask of any part of any tensor can be told without the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// Its score.
    pub score: f64,
    /// Which of the tensors it is in.
    pub tensor: usize,
    /// Where in this tensor.
    pub index: usize,
}

/// A guess of the last kept score, which changes nothing but the time that a selection takes.
#[derive(Debug, Clone, Copy)]
pub struct Near {
    /// The guess.
    pub score: f64,
    /// How far off it may be, beside a 1/2048 of it.
    pub within: f64,
}

impl From<f64> for Near {
    fn from(score: f64) -> Near {
        Near { score, within: 0.0 }
    }
}

/// The k-th in the order of all scores together, 1 ≤ k ≤ their number. `near` is a guess of its score, which changes nothing but
/// the time that this takes.
pub fn cut(executor: &dyn Executor, tensors: &[Tensor<'_>], k: usize, near: Option<Near>) -> Result<Cut> {
    fn find<K: Key>(
        executor: &dyn Executor,
        sources: &[&dyn Source<K>],
        k: usize,
        near: Option<Near>,
    ) -> std::result::Result<Cut, usize> {
        let found = Selection::new(executor, sources, pieces_of(sources), k, near)?;
        let (tensor, index) = found.last(sources);
        Ok(Cut { score: found.threshold.key.score(), tensor, index })
    }
    check_rank(tensors, k)?;
    let order = in_order(tensors);
    let sorted: Vec<_> = order.iter().map(|&at| tensors[at]).collect();
    let found = match short(&sorted) {
        Some(sources) => find(executor, &sources, k, near),
        None => find(executor, &long(&sorted), k, near),
    };
    match found {
        Ok(found) => Ok(Cut { tensor: order[found.tensor], ..found }),
        Err(at) => Err(sorted[at].nan_error()),
    }
}

/// Keeps the scores above `score`, and of those equal to it the ones before flat index `end`: the part that one tensor has in a
/// [`cut`].
pub fn cut_mask(executor: &dyn Executor, tensor: &Tensor<'_>, score: f64, end: usize, mask: MaskMut<'_>) -> Result<()> {
    fn write<K: Key>(executor: &dyn Executor, source: &dyn Source<K>, limit: K, end: usize, mask: MaskMut<'_>) -> bool {
        let sources = [source];
        let pieces = with_masks(pieces_of(&sources), vec![mask]);
        let ties = |piece: &Piece<'_>| Ties { end: end.saturating_sub(piece.range.start), ..Ties::ALL };
        executor::map(executor, pieces, |mut piece| piece.keep(&sources, limit, ties(&piece))).contains(&true)
    }
    tensor.check()?;
    mask.check(tensor.len())?;
    let nan = match tensor.scores.short() {
        // A score that float32 cannot hold is compared as float64.
        Some(source) if f64::from(score as f32) == score => write(executor, source, Key::near(score), end, mask),
        _ => write(executor, tensor.scores.long(), Key::near(score), end, mask),
    };
    if nan { Err(tensor.nan_error()) } else { Ok(()) }
}

/// Keeps exactly the first `k` in the order of scores; `masks[i]` belongs to `tensors[i]`. Returns the last kept score, if any is.
/// `near` is a guess of it, which changes nothing but the time that this takes.
pub fn top_k_mask(
    executor: &dyn Executor,
    tensors: &[Tensor<'_>],
    k: usize,
    near: Option<Near>,
    masks: Vec<MaskMut<'_>>,
) -> Result<Option<f64>> {
    let n = count(tensors)?;
    if k > n {
        return Err(argument!("k: expected 0 to {n} (the number of scores), got {k}"));
    }
    top_k_mask_among(executor, tensors, &vec![None; tensors.len()], k, near, masks)
}

/// As [`top_k_mask`] among the scores whose byte of `alive` is not 0: all, where a tensor has none. Fewer than `k` are all kept.
/// Bytes, for the same reason as in [`apply`].
pub fn top_k_mask_among(
    executor: &dyn Executor,
    tensors: &[Tensor<'_>],
    alive: &[Option<&[u8]>],
    k: usize,
    near: Option<Near>,
    masks: Vec<MaskMut<'_>>,
) -> Result<Option<f64>> {
    fn write<K: Key>(
        executor: &dyn Executor,
        sources: &[&dyn Source<K>],
        alive: &[Option<&[u8]>],
        k: usize,
        near: Option<Near>,
        mut masks: Vec<MaskMut<'_>>,
    ) -> std::result::Result<Option<f64>, usize> {
        let among = sources.iter().zip(alive).map(|(&all, alive)| alive.map(|alive| Among { all, alive }));
        let among: Vec<Option<Among<'_, K>>> = among.collect();
        let competing = sources.iter().zip(&among).map(|(&all, among)| match among {
            Some(among) => among as &dyn Source<K>,
            None => all,
        });
        let sources: Vec<_> = competing.collect();
        if k == 0 {
            let nan = executor::map(executor, pieces_of(&sources), |piece| {
                blocks(sources[piece.source], piece.range, |_, _| ()).then_some(piece.source)
            });
            masks.iter_mut().zip(&sources).for_each(|(mask, source)| mask.fill(source.len(), false));
            return nan.into_iter().flatten().next().map_or(Ok(None), Err);
        }
        let pieces = with_masks(pieces_of(&sources), masks);
        let found = Selection::new(executor, &sources, pieces, k, near)?;
        let score = found.threshold.key.score();
        found.correct(executor, &sources);
        Ok(Some(score))
    }
    count(tensors)?;
    if [masks.len(), alive.len()] != [tensors.len(); 2] {
        return Err(argument!("masks: expected one of each tensor"));
    }
    masks.iter().zip(tensors).try_for_each(|(mask, tensor)| mask.check(tensor.len()))?;
    let mut competing = 0;
    for (alive, tensor) in alive.iter().zip(tensors) {
        if let Some(alive) = alive.filter(|alive| alive.len() != tensor.len()) {
            return Err(argument!("alive: {} weights need as many bools, got {}", tensor.len(), alive.len()));
        }
        competing += alive.map_or(tensor.len(), nonzeros);
    }
    let k = k.min(competing);
    let order = in_order(tensors);
    let sorted: Vec<_> = order.iter().map(|&at| tensors[at]).collect();
    let alive: Vec<_> = order.iter().map(|&at| alive[at]).collect();
    let mut masks: Vec<_> = masks.into_iter().map(Some).collect();
    let masks = order.iter().filter_map(|&at| masks[at].take()).collect();
    let done = match short(&sorted) {
        Some(sources) => write(executor, &sources, &alive, k, near, masks),
        None => write(executor, &long(&sorted), &alive, k, near, masks),
    };
    done.map_err(|at| sorted[at].nan_error())
}

/// How many are not 0.
fn nonzeros(bytes: &[u8]) -> usize {
    // Sums of bytes, which cannot exceed 128: the compiler adds many at once.
    bytes.chunks(128).map(|bytes| usize::from(bytes.iter().map(|&byte| u8::from(byte != 0)).sum::<u8>())).sum()
}

/// The pieces of sources, each with its part of the source's mask.
fn with_masks<'a>(pieces: Vec<Piece<'static>>, masks: Vec<MaskMut<'a>>) -> Vec<Piece<'a>> {
    let masks = masks.into_iter().flat_map(|mask| mask.pieces(TASK));
    pieces.into_iter().zip(masks).map(|(piece, mask)| Piece { mask: Some(mask), ..piece }).collect()
}

/// The tensors' positions in the order of their names.
fn in_order(tensors: &[Tensor<'_>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&at| tensors[at].name);
    order
}

fn check_rank(tensors: &[Tensor<'_>], k: usize) -> Result<()> {
    let n = count(tensors)?;
    if (1..=n).contains(&k) {
        return Ok(());
    }
    Err(argument!("k: expected 1 to {n} (the number of scores), got {k}"))
}

/// The number of scores of well-formed tensors.
fn count(tensors: &[Tensor<'_>]) -> Result<usize> {
    tensors.iter().try_fold(0, |n, tensor| tensor.check().map(|()| n + tensor.len()))
}

/// Keys of 32 bits, where they hold the scores of all tensors.
fn short<'a>(tensors: &'a [Tensor<'a>]) -> Option<Vec<&'a dyn Source<u32>>> {
    tensors.iter().map(|tensor| tensor.scores.short().map(|source| source as &dyn Source<u32>)).collect()
}

/// Keys of 64 bits, which hold any.
fn long<'a>(tensors: &'a [Tensor<'a>]) -> Vec<&'a dyn Source<u64>> {
    tensors.iter().map(|tensor| tensor.scores.long() as &dyn Source<u64>).collect()
}

#[cfg(test)]
mod tests;
