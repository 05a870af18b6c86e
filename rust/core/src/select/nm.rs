//! N:M patterns: of every m neighbours along an axis the n largest are kept.
//!
//! ```text
//! 2:4 along the last axis      | 3 1 0 2 | 5 5 5 5 | 7 8 9 |        the tail of r < m keeps min(n, r)
//!                              | x . . x | x x . . | . x x |        ties: the earlier
//! ```

use super::Tensor;
use super::key::Key;
use super::score::Source;
use crate::argument;
use crate::error::Result;
use crate::executor::{self, Executor};
use crate::simd::{Kernel, Target, Vector, dispatch};

/// Elements of one task, about.
const TASK: usize = 1 << 16;
/// Up to this m, comparing every pair of a group beats sorting it.
const PAIRS: usize = 32;
/// Keys made at a time (more where a single group is larger).
const BLOCK: usize = 4096;

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
    let fine = match tensor.scores.short() {
        Some(source) => rule.run(executor, source, mask),
        None => rule.run(executor, tensor.scores.long(), mask),
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
            if self.inner == 1 { self.lines(source, start, mask) } else { self.bands(source, start, mask) }
        });
        !nan.contains(&true)
    }

    /// Whole lines (or a part of one that starts with a group), whose groups lie one after another.
    fn lines<K: Key>(&self, source: &dyn Source<K>, start: usize, mask: &mut [bool]) -> bool {
        // Lines without tails are as good as one long line.
        let line = if self.length.is_multiple_of(self.m) { mask.len() } else { self.length };
        let step = (BLOCK / self.m).max(1).saturating_mul(self.m);
        let mut keys = vec![K::default(); step.min(line)];
        let mut nan = false;
        for (i, mask) in mask.chunks_mut(line).enumerate() {
            for (j, mask) in mask.chunks_mut(step).enumerate() {
                let keys = &mut keys[..mask.len()];
                nan |= source.keys(start + i * line + j * step, keys);
                let whole = match self.m {
                    2 => dispatch(Target::detect(), Groups::<K, 2> { n: self.n, keys, mask }),
                    4 => dispatch(Target::detect(), Groups::<K, 4> { n: self.n, keys, mask }),
                    8 => dispatch(Target::detect(), Groups::<K, 8> { n: self.n, keys, mask }),
                    16 => dispatch(Target::detect(), Groups::<K, 16> { n: self.n, keys, mask }),
                    _ => 0,
                };
                for (keys, mask) in keys[whole..].chunks(self.m).zip(mask[whole..].chunks_mut(self.m)) {
                    self.tile(keys, &mut mask.chunks_mut(1).collect::<Vec<_>>());
                }
            }
        }
        nan
    }

    /// Bands of up to m rows of `inner` elements, whose groups lie side by side; looked at in tiles of some columns.
    fn bands<K: Key>(&self, source: &dyn Source<K>, start: usize, mask: &mut [bool]) -> bool {
        let (inner, slab) = (self.inner, self.length * self.inner);
        let rows = self.m.min(self.length);
        let width = (BLOCK / rows).clamp(1, inner);
        let mut keys = vec![K::default(); rows * width];
        let mut nan = false;
        for (i, mask) in mask.chunks_mut(slab).enumerate() {
            for (j, mask) in mask.chunks_mut(rows * inner).enumerate() {
                let start = start + i * slab + j * rows * inner;
                for column in (0..inner).step_by(width) {
                    let columns = column..inner.min(column + width);
                    let mut parts: Vec<&mut [bool]> =
                        mask.chunks_mut(inner).map(|row| &mut row[columns.clone()]).collect();
                    let keys = &mut keys[..parts.len() * columns.len()];
                    for (row, keys) in keys.chunks_mut(columns.len()).enumerate() {
                        nan |= source.keys(start + row * inner + column, keys);
                    }
                    self.tile(keys, &mut parts);
                }
            }
        }
        nan
    }

    /// Groups side by side, one a column; a row of keys for a row of the mask.
    fn tile<K: Key>(&self, keys: &[K], mask: &mut [&mut [bool]]) {
        let (n, rows) = (self.n, mask.len());
        let width = keys.len() / rows;
        if n >= rows {
            mask.iter_mut().for_each(|row| row.fill(true));
        } else if rows <= PAIRS {
            dispatch(Target::detect(), Columns { n, keys, mask });
        } else {
            mask.iter_mut().for_each(|row| row.fill(false));
            let mut order = Vec::with_capacity(rows);
            for column in 0..width {
                order.clear();
                order.extend((0..rows).map(|row| (std::cmp::Reverse(keys[row * width + column]), row)));
                // n < rows, so the n first are those ahead of position n.
                order.select_nth_unstable(n);
                order[..n].iter().for_each(|&(_, row)| mask[row][column] = true);
            }
        }
    }
}

/// Whole groups of M one after another; returns how many elements they are.
struct Groups<'a, K, const M: usize> {
    n: usize,
    keys: &'a [K],
    mask: &'a mut [bool],
}

impl<K: Key, const M: usize> Kernel for Groups<'_, K, M> {
    type Output = usize;

    #[inline(always)]
    fn run<V: Vector>(self, _: V) -> usize {
        let (keys, mask) = (self.keys.as_chunks::<M>().0, self.mask.as_chunks_mut::<M>().0);
        for (keys, mask) in keys.iter().zip(mask) {
            for (i, own) in keys.iter().enumerate() {
                let before = keys[..i].iter().map(|key| usize::from(key >= own)).sum::<usize>();
                let after = keys[i + 1..].iter().map(|key| usize::from(key > own)).sum::<usize>();
                mask[i] = before + after < self.n;
            }
        }
        keys.len() * M
    }
}

/// Up to [`PAIRS`] rows of keys, a group a column.
struct Columns<'a, 'm, K> {
    n: usize,
    keys: &'a [K],
    mask: &'a mut [&'m mut [bool]],
}

impl<K: Key> Kernel for Columns<'_, '_, K> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        let width = self.keys.len() / self.mask.len();
        let mut ahead = [0u8; BLOCK];
        let ahead = &mut ahead[..width];
        for (row, (own, mask)) in self.keys.chunks(width).zip(self.mask).enumerate() {
            // How many are ahead: those before it that are as large, and those after it that are larger.
            ahead.fill(0);
            for keys in self.keys[..row * width].chunks(width) {
                ahead
                    .iter_mut()
                    .zip(keys.iter().zip(own))
                    .for_each(|(ahead, (key, own))| *ahead += u8::from(key >= own));
            }
            for keys in self.keys[(row + 1) * width..].chunks(width) {
                ahead
                    .iter_mut()
                    .zip(keys.iter().zip(own))
                    .for_each(|(ahead, (key, own))| *ahead += u8::from(key > own));
            }
            mask.iter_mut().zip(ahead.iter()).for_each(|(mask, &ahead)| *mask = usize::from(ahead) < self.n);
        }
    }
}
