//! N:M sparsity: at most N nonzeros in every M neighbouring columns of a row, with 16 rows in the lanes.
//!
//! ```text
//! 2:4      columns 0..4   4..8        values  [a c e 0 …] [b d 0 0 …] | …    N slots of 16 rows a group of M columns,
//! row 0   . a . b | …                                                        zeros fill up
//! row 1   c . d . | …                 index   [1 0 3 0 …] [3 2 0 0 …] | …    16 lanes × 32 bits: the column inside the
//! row 2   . . . e | …                                                        group, 2 bits (M = 4) or 4 (M = 8) a slot
//!
//! for group of M columns:            table = x[group * M ..][..M], repeated through the register
//!   for slot in 0..N:                acc[lane] += values[slot][lane] * table[index[lane] & (M - 1)];   index >>= bits
//! ```
//!
//! A look-up is one permutation inside quarters or halves of a register, whose instruction reads the lowest bits of an index
//! and ignores the others: one register of indices serves 16 slots (M = 4) or 8, a shift apart. After the 2:4 pattern of
//! Mishra et al. 2021, *Accelerating Sparse Deep Neural Networks* (arXiv:2104.08378).

use super::Format;
use super::rows::Rows;
use super::vector::{Few, Lanes, Operand};
use crate::simd::{Buffer, LANES, Stored, Vector, prefetch};

/// The patterns that are packed, as (N, M), tightest first.
pub const PATTERNS: [(usize, usize); 3] = [(1, 4), (2, 4), (4, 8)];

/// The tightest pattern that all rows fit.
pub fn fitting(rows: &Rows) -> Option<(usize, usize)> {
    PATTERNS.into_iter().find(|&(n, m)| rows.fits(n, m))
}

/// Packs `rows` in the tightest pattern that they fit.
pub fn pack<S: Stored>(rows: &Rows) -> Option<Box<dyn Few>> {
    Some(match fitting(rows)? {
        (1, _) => Box::new(Nm::<1, 4, S>::pack(rows)),
        (2, _) => Box::new(Nm::<2, 4, S>::pack(rows)),
        _ => Box::new(Nm::<4, 8, S>::pack(rows)),
    })
}

/// How far ahead values of 16 bits, which are for weights in memory, are asked for, in bytes: beyond the page, where the
/// processor's own prefetching stops. From cache it costs more than it brings.
const AHEAD: usize = 8192;

/// Accumulators a vector: a look-up takes about as long as two multiply-adds wait for each other.
const SUMS: usize = 2;

/// A matrix with at most `N` nonzeros in every `M` neighbouring columns of a row.
#[derive(Debug, Clone)]
pub struct Nm<const N: usize, const M: usize, S: Stored> {
    rows: usize,
    columns: usize,
    /// Whole slots, group of 16 rows after group.
    values: Buffer<S>,
    /// For each group of 16 rows whole words of [`Nm::WORD`] slots.
    index: Vec<[u32; LANES]>,
}

impl<const N: usize, const M: usize, S: Stored> Nm<N, M, S> {
    /// Bits of a column inside its group; of M = 8 one is left free, so that a word holds whole groups.
    const BITS: usize = if M == 4 { 2 } else { 4 };
    /// Slots of a word of indices.
    const WORD: usize = 32 / Self::BITS;
    /// Groups of columns at once: as many as it takes to have a slot for every accumulator.
    const AT_ONCE: usize = SUMS.div_ceil(N);

    #[inline(always)]
    fn next<V: Vector>(v: V, index: V::Index) -> V::Index {
        if M == 4 { v.next_index::<2>(index) } else { v.next_index::<4>(index) }
    }

    /// Slots of a row.
    fn slots(&self) -> usize {
        self.columns.div_ceil(M) * N
    }

    /// Packs `rows`, which [`fitting`] found to have this pattern.
    fn pack(rows: &Rows) -> Self {
        const { assert!(matches!((N, M), (1, 4) | (2, 4) | (4, 8))) };
        let slots = rows.columns().div_ceil(M) * N;
        let (groups, words) = (rows.rows().div_ceil(LANES), slots.div_ceil(Self::WORD));
        let mut values = vec![0.0; groups * slots * LANES];
        let mut index = vec![[0u32; LANES]; groups * words];
        for row in 0..rows.rows() {
            let (group, lane) = (row / LANES, row % LANES);
            let mut next = 0;
            for (column, value) in rows.row(row) {
                // Behind the slot before, and not before the first of its own columns.
                let slot = next.max(column / M * N);
                next = slot + 1;
                values[(group * slots + slot) * LANES + lane] = value;
                index[group * words + slot / Self::WORD][lane] |=
                    ((column % M) as u32) << (slot % Self::WORD * Self::BITS);
            }
        }
        Nm { rows: rows.rows(), columns: rows.columns(), values: Buffer::rounded(&values), index }
    }
}

impl<const N: usize, const M: usize, S: Stored> Format for Nm<N, M, S> {
    fn name(&self) -> &'static str {
        "nm"
    }
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }
    fn nbytes(&self) -> usize {
        self.values.nbytes() + self.index.len() * LANES * 4
    }
    fn stored(&self) -> usize {
        self.values.len()
    }
    fn to_dense(&self) -> Vec<f32> {
        let (slots, words) = (self.slots(), self.slots().div_ceil(Self::WORD));
        let mut dense = vec![0.0; self.rows * self.columns];
        for row in 0..self.rows {
            let (group, lane) = (row / LANES, row % LANES);
            for slot in 0..slots {
                let value = self.values[(group * slots + slot) * LANES + lane].widen();
                // Zeros are never stored for themselves.
                if value != 0.0 {
                    let word = self.index[group * words + slot / Self::WORD][lane];
                    let column = (word >> (slot % Self::WORD * Self::BITS)) as usize % M;
                    dense[row * self.columns + slot / N * M + column] = value;
                }
            }
        }
        dense
    }
}

impl<const N: usize, const M: usize, S: Stored> Lanes for Nm<N, M, S> {
    fn reads_behind(&self) -> bool {
        !self.columns.is_multiple_of(M)
    }

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "iterators over registers may stay calls, which spill them")]
    unsafe fn group<V: Vector, const J: usize>(&self, v: V, x: Operand<'_, J>, group: usize) -> [V::F32; J] {
        let (slots, groups) = (self.slots(), self.columns.div_ceil(M));
        let words = slots.div_ceil(Self::WORD);
        let mut x: [*const f32; J] = std::array::from_fn(|j| x.vector(j));
        let mut acc = [[v.splat(0.0); SUMS]; J];
        // SAFETY: `pack` made the slots and the words of every group of rows; an operand has a value a column and zeros
        // behind them for those that the last group of columns lacks.
        unsafe {
            let mut values = self.values.as_ptr().add(group * slots * LANES);
            let mut left = groups;
            for word in self.index.get_unchecked(group * words..(group + 1) * words) {
                let mut index = v.words_ptr(word.as_ptr());
                // Constant bounds inside: the loops unroll, and accumulators stay in registers.
                for _ in 0..left.min(Self::WORD / N) / Self::AT_ONCE {
                    for slot in 0..N * Self::AT_ONCE {
                        if S::HALF {
                            prefetch(values.wrapping_add(slot * LANES).cast::<u8>().wrapping_add(AHEAD));
                        }
                        let weights = v.widen_ptr(values.add(slot * LANES));
                        for j in 0..J {
                            let table = v.repeat_ptr::<M>(x[j].wrapping_add(slot / N * M));
                            acc[j][slot % SUMS] = v.mul_add(weights, v.pick::<M>(table, index), acc[j][slot % SUMS]);
                        }
                        index = Self::next(v, index);
                    }
                    values = values.add(N * Self::AT_ONCE * LANES);
                    for j in 0..J {
                        x[j] = x[j].wrapping_add(Self::AT_ONCE * M);
                    }
                }
                // The last of an odd number, where two are taken at once.
                if left < Self::WORD / N && left % Self::AT_ONCE > 0 {
                    let weights = v.widen_ptr(values);
                    for j in 0..J {
                        acc[j][0] = v.mul_add(weights, v.pick::<M>(v.repeat_ptr::<M>(x[j]), index), acc[j][0]);
                    }
                }
                left = left.saturating_sub(Self::WORD / N);
            }
        }
        let mut out = [v.splat(0.0); J];
        for (out, [a, b]) in out.iter_mut().zip(acc) {
            *out = v.add(a, b);
        }
        out
    }
}
