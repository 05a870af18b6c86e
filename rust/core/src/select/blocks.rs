//! Masks of whole blocks.
//!
//! An array is seen as a matrix of its first axis by all others and cut into blocks of r × c; those at the lower and right edge
//! may be smaller. A block's score is the sum of |score| over it.
//!
//! ```text
//! 2x3 over 5 × 7:   A A A B B B C      one block removed removes 6 weights, C 2, G and H 3, I 1
//!                   A A A B B B C
//!                   D D D E E E F
//!                   D D D E E E F
//!                   G G G H H H I
//! ```
//!
//! Blocks go from the last of the order on, as many as bring the number of removed weights nearest to sparsity · n (of two
//! equally near numbers of blocks the even one: without smaller blocks that is round_half_even(sparsity · blocks)).

use super::key::{Float, Weight};
use super::score::Score;
use super::{MaskMut, Scores, Tensor, count, each, top_k_mask};
use crate::argument;
use crate::error::Result;
use crate::executor::{self, Executor};

/// Elements of one task, about.
const TASK: usize = 1 << 17;

/// The blocks of one tensor.
#[derive(Clone, Copy)]
struct Grid {
    rows: usize,
    columns: usize,
    block: (usize, usize),
}

impl Grid {
    fn new(shape: &[usize], block: (usize, usize)) -> Grid {
        let columns = shape.iter().skip(1).product();
        // A matrix without columns has no blocks, however many rows it has.
        Grid { rows: if columns == 0 { 0 } else { shape[0] }, columns, block }
    }

    /// Blocks down and across.
    fn shape(&self) -> (usize, usize) {
        (self.rows.div_ceil(self.block.0), self.columns.div_ceil(self.block.1))
    }

    /// Weights of the blocks in order.
    fn sizes(self) -> impl Iterator<Item = usize> {
        let (down, across) = self.shape();
        (0..down * across).map(move |at| {
            let (i, j) = (at / across * self.block.0, at % across * self.block.1);
            (self.rows - i).min(self.block.0) * (self.columns - j).min(self.block.1)
        })
    }

    /// Weights of a row of blocks, and how many such rows make a task.
    fn band(&self) -> (usize, usize) {
        let weights = self.block.0.saturating_mul(self.columns).max(1);
        (weights, (TASK / weights).max(1))
    }

    /// Sums of |score| over the blocks, in float64 and in C order within the block; `None` where one is NaN.
    fn sums<T: Weight<Score: Into<f64>>>(&self, executor: &dyn Executor, scores: &[T]) -> Option<Vec<f64>> {
        let (_, across) = self.shape();
        let (weights, bands) = self.band();
        let sums = executor::map(executor, scores.chunks(weights.saturating_mul(bands)).collect(), |scores| {
            let mut sums = vec![0.0f64; scores.len().div_ceil(weights) * across];
            for (sums, scores) in sums.chunks_mut(across).zip(scores.chunks(weights)) {
                for row in scores.chunks(self.columns) {
                    if self.block.1 == 1 {
                        sums.iter_mut().zip(row).for_each(|(sum, score)| *sum += score.wide().abs().into());
                        continue;
                    }
                    for (sum, scores) in sums.iter_mut().zip(row.chunks(self.block.1)) {
                        scores.iter().for_each(|score| *sum += score.wide().abs().into());
                    }
                }
            }
            sums
        });
        let sums = sums.concat();
        (!sums.iter().any(|sum| sum.is_nan())).then_some(sums)
    }

    /// Every weight's bit from its block's.
    fn expand(&self, executor: &dyn Executor, kept: &[bool], mask: &mut [bool]) {
        let (_, across) = self.shape();
        let (weights, bands) = self.band();
        let parts = mask.chunks_mut(weights.saturating_mul(bands)).zip(kept.chunks((across * bands).max(1)));
        executor::map(executor, parts.collect(), |(mask, kept)| {
            for (mask, kept) in mask.chunks_mut(weights).zip(kept.chunks(across)) {
                for row in mask.chunks_mut(self.columns) {
                    if self.block.1 == 1 {
                        row.copy_from_slice(kept);
                        continue;
                    }
                    row.chunks_mut(self.block.1).zip(kept).for_each(|(mask, &kept)| mask.fill(kept));
                }
            }
        });
    }
}

/// Removes whole blocks of all tensors together until `sparsity` is met as nearly as whole blocks can. Scores are given ones;
/// `masks[i]` belongs to `tensors[i]`.
pub fn block_mask(
    executor: &dyn Executor,
    tensors: &[Tensor<'_>],
    block: (usize, usize),
    sparsity: f64,
    masks: &mut [&mut [bool]],
) -> Result<()> {
    let n = count(tensors)?;
    super::kept(sparsity, n)?;
    if block.0 == 0 || block.1 == 0 {
        return Err(argument!("block: expected two positive integers, got {block:?}"));
    }
    if masks.len() != tensors.len() || masks.iter().zip(tensors).any(|(mask, tensor)| mask.len() != tensor.len()) {
        return Err(argument!("masks: expected one of the size of each tensor"));
    }
    let mut grids = Vec::with_capacity(tensors.len());
    let mut sums = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        if tensor.shape.is_empty() {
            return Err(argument!("{}: expected at least one dimension to cut into blocks", tensor.label("scores")));
        }
        let grid = Grid::new(tensor.shape, block);
        let sum = each!(&tensor.scores, score => match score {
            Score::Given(scores) => grid.sums(executor, scores),
            _ => return Err(argument!("{}: blocks take given scores", tensor.label("scores"))),
        });
        sums.push(sum.ok_or_else(|| tensor.nan_error())?);
        grids.push(grid);
    }
    let shapes: Vec<[usize; 1]> = sums.iter().map(|sums| [sums.len()]).collect();
    let blocks: Vec<Tensor<'_>> = (tensors.iter().zip(&shapes).zip(&sums))
        .map(|((tensor, shape), sums)| Tensor { name: tensor.name, shape, scores: Scores::F64(Score::Given(sums)) })
        .collect();
    let k = blocks_kept(tensors, &grids, &sums, sparsity * n as f64);
    let mut kept: Vec<Vec<bool>> = sums.iter().map(|sums| vec![false; sums.len()]).collect();
    top_k_mask(executor, &blocks, k, None, kept.iter_mut().map(|kept| MaskMut::Bools(kept)).collect())?;
    for ((grid, kept), mask) in grids.iter().zip(&kept).zip(masks) {
        grid.expand(executor, kept, mask);
    }
    Ok(())
}

/// How many blocks stay so that the number of removed weights is nearest to `target`.
fn blocks_kept(tensors: &[Tensor<'_>], grids: &[Grid], sums: &[Vec<f64>], target: f64) -> usize {
    let total: usize = sums.iter().map(Vec::len).sum();
    let whole = |grid: &Grid| grid.rows.is_multiple_of(grid.block.0) && grid.columns.is_multiple_of(grid.block.1);
    if grids.iter().all(whole) {
        let size = grids.first().map_or(1.0, |grid| grid.block.0 as f64 * grid.block.1 as f64);
        return total - ((target / size).round_ties_even() as usize).min(total);
    }
    // Blocks of different sizes: walk from the last of the order on.
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| tensors[i].name);
    let mut blocks: Vec<(f64, usize)> =
        order.iter().flat_map(|&i| sums[i].iter().copied().zip(grids[i].sizes())).collect();
    // Stable, so of equal sums the later block, which goes first, comes last.
    blocks.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut gone, mut removed) = (0, 0.0);
    for &(_, size) in blocks.iter().rev() {
        let more = removed + size as f64;
        let (short, over) = (target - removed, more - target);
        if over > short || (over == short && gone % 2 == 0) {
            break;
        }
        gone += 1;
        removed = more;
    }
    total - gone
}
