//! N:M patterns: of every m neighbours along an axis the n largest are kept.
//!
//! ```text
//! 2:4 along the last axis      | 3 1 0 2 | 5 5 5 5 | 7 8 9 |        the tail of r < m keeps min(n, r)
//!                              | x . . x | x x . . | . x x |        ties: the earlier
//! ```

use super::score::{Key, Source};
use super::{Scores, Tensor};
use crate::argument;
use crate::error::Result;
use crate::executor::{self, Executor};

/// Elements of one task, about.
const TASK: usize = 1 << 16;
/// Up to this m, comparing every pair of a group beats sorting it.
const PAIRS: usize = 32;

/// Sets `mask` to true for the `n` largest of every `m` scores in a row along `axis`.
pub fn nm_mask(
    executor: &dyn Executor,
    tensor: &Tensor<'_>,
    (n, m): (usize, usize),
    axis: usize,
    mask: &mut [bool],
) -> Result<()> {
    tensor.check()?;
    if m == 0 || n > m {
        return Err(argument!("n, m: expected 0 <= n <= m and m >= 1, got {n}:{m}"));
    }
    let Some(&length) = tensor.shape.get(axis) else {
        return Err(argument!("axis: {axis} is out of range for {} dimensions", tensor.shape.len()));
    };
    if mask.len() != tensor.len() {
        return Err(argument!("mask: expected {} elements, got {}", tensor.len(), mask.len()));
    }
    let inner: usize = tensor.shape[axis + 1..].iter().product();
    let rule = Rule { n, m, length, inner };
    let fine = match &tensor.scores {
        Scores::F32(score) => rule.run::<u32>(executor, score, mask),
        Scores::F64(score) => rule.run::<u64>(executor, score, mask),
    };
    if fine { Ok(()) } else { Err(tensor.nan_error()) }
}

/// The array seen as … × `length` × `inner`, groups of `m` lying along the middle.
struct Rule {
    n: usize,
    m: usize,
    length: usize,
    inner: usize,
}

impl Rule {
    fn run<K: Key>(&self, executor: &dyn Executor, source: &dyn Source<K>, mask: &mut [bool]) -> bool {
        let slab = self.length * self.inner;
        if slab == 0 {
            return true;
        }
        // A slab holds `length` × `inner` elements; m × inner of them, one group for each of `inner`, are contiguous.
        let mut work: Vec<(usize, &mut [bool])> = Vec::new();
        if slab <= TASK {
            let step = TASK / slab * slab;
            work.extend(mask.chunks_mut(step).enumerate().map(|(i, part)| (i * step, part)));
        } else {
            let rows = (TASK / self.m.saturating_mul(self.inner)).max(1).saturating_mul(self.m);
            for (i, part) in mask.chunks_mut(slab).enumerate() {
                let step = rows.saturating_mul(self.inner);
                work.extend(part.chunks_mut(step).enumerate().map(|(j, part)| (i * slab + j * step, part)));
            }
        }
        let nan = executor::map(executor, work, |(start, mask)| {
            let mut keys = vec![K::default(); mask.len()];
            let nan = source.keys(start, &mut keys);
            for (keys, mask) in keys.chunks(slab).zip(mask.chunks_mut(slab)) {
                let groups = self.m.saturating_mul(self.inner);
                for (keys, mask) in keys.chunks(groups).zip(mask.chunks_mut(groups)) {
                    self.group(keys, mask);
                }
            }
            nan
        });
        !nan.contains(&true)
    }

    /// `inner` groups side by side, each of as many elements as there are rows.
    fn group<K: Key>(&self, keys: &[K], mask: &mut [bool]) {
        let (n, inner, rows) = (self.n, self.inner, keys.len() / self.inner);
        if n >= rows {
            mask.fill(true);
        } else if rows <= PAIRS {
            for at in 0..keys.len() {
                let (row, column) = (at / inner, at % inner);
                let key = keys[at];
                let ahead = (0..row).map(|i| u32::from(keys[i * inner + column] >= key)).sum::<u32>()
                    + (row + 1..rows).map(|i| u32::from(keys[i * inner + column] > key)).sum::<u32>();
                mask[at] = (ahead as usize) < n;
            }
        } else {
            mask.fill(false);
            let mut order = Vec::with_capacity(rows);
            for column in 0..inner {
                order.clear();
                order.extend((0..rows).map(|row| (std::cmp::Reverse(keys[row * inner + column]), row)));
                // n < rows, so the n first are the ones ahead of position n.
                order.select_nth_unstable(n);
                order[..n].iter().for_each(|&(_, row)| mask[row * inner + column] = true);
            }
        }
    }
}
