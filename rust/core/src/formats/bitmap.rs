//! One bit an element and the nonzeros in order: least bytes at moderate sparsity.
//!
//! ```text
//! lanes   16 rows       masks   [0b…0101  0b…0110 …]      one u16 for 16 rows of a column
//! row 0   a . . d       values  [a b | c e | …]           column after column, group after group: one stream
//! row 1   . c . .
//! row 2   b e . f       for each column j:  acc[lane] += expand(values, mask) * x[j];   values += popcount(mask)
//! ```
//!
//! It reads 4 bytes a nonzero and an eighth of a byte an element, in order: no gather. Masks are read four at a time, so
//! that where the next values lie waits for one addition in four.

use super::Format;
use super::rows::Rows;
use super::vector::{Lanes, Operand};
use crate::simd::{Buffer, LANES, Stored, Vector, prefetch};

/// How far ahead values are asked for, in bytes: beyond the page, where the processor's own prefetching stops.
const AHEAD: usize = 8192;

/// A matrix as a bitmap and its nonzeros.
#[derive(Debug, Clone)]
pub struct Bitmap<S: Stored = f32> {
    rows: usize,
    columns: usize,
    /// Group after group, the masks of four columns in a word.
    masks: Vec<u64>,
    /// Where each group's values start, and the end.
    starts: Vec<u32>,
    /// The nonzeros, and 16 zeros that the last expand may read.
    values: Buffer<S>,
}

impl<S: Stored> Bitmap<S> {
    /// Packs `rows`.
    pub fn pack(rows: &Rows) -> Self {
        let words = rows.columns().div_ceil(4);
        let groups = rows.rows().div_ceil(LANES);
        let mut masks = vec![0u64; groups * words];
        let (mut starts, mut values) = (vec![0u32], Vec::with_capacity(rows.nnz() + LANES));
        let mut elements = Vec::new();
        for group in 0..groups {
            elements.clear();
            for (lane, row) in (group * LANES..rows.rows().min((group + 1) * LANES)).enumerate() {
                elements.extend(rows.row(row).map(|(column, value)| (column, lane, value)));
            }
            elements.sort_unstable_by_key(|&(column, lane, _)| (column, lane));
            for &(column, lane, value) in &elements {
                masks[group * words + column / 4] |= 1 << (column % 4 * LANES + lane);
                values.push(value);
            }
            starts.push(values.len() as u32);
        }
        values.extend([0.0; LANES]);
        let values = Buffer::rounded(&values);
        Bitmap { rows: rows.rows(), columns: rows.columns(), masks, starts, values }
    }
}

impl<S: Stored> Format for Bitmap<S> {
    fn name(&self) -> &'static str {
        "bitmap"
    }
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }
    fn nbytes(&self) -> usize {
        self.masks.len() * 8 + self.starts.len() * 4 + self.values.nbytes()
    }
    fn stored(&self) -> usize {
        self.values.len() - LANES
    }
    fn to_dense(&self) -> Vec<f32> {
        let words = self.columns.div_ceil(4);
        let mut dense = vec![0.0; self.rows * self.columns];
        let mut values = self.values.iter();
        for (at, &word) in self.masks.iter().enumerate() {
            for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
                let (row, column) = (at / words * LANES + bit % LANES, at % words * 4 + bit / LANES);
                dense[row * self.columns + column] = values.next().map_or(0.0, |value| value.widen());
            }
        }
        dense
    }
}

impl<S: Stored> Lanes for Bitmap<S> {
    fn reads_behind(&self) -> bool {
        !self.columns.is_multiple_of(4)
    }

    #[inline(always)]
    unsafe fn group<V: Vector, const N: usize>(&self, v: V, x: Operand<'_, N>, group: usize) -> [V::F32; N] {
        let words = self.columns.div_ceil(4);
        let x: [*const f32; N] = std::array::from_fn(|j| x.vector(j));
        let mut acc = [[v.splat(0.0); 4]; N];
        // SAFETY: `pack` made the words of every group and as many values as bits, 16 to spare; the last word's columns
        // that the matrix lacks are zeros behind the operand.
        unsafe {
            let mut values = self.values.as_ptr().add(self.starts[group] as usize);
            for (at, &word) in self.masks.get_unchecked(group * words..(group + 1) * words).iter().enumerate() {
                prefetch(values.cast::<u8>().wrapping_add(AHEAD));
                prefetch(values.cast::<u8>().wrapping_add(AHEAD + 64));
                let before = [0, word << 48, word << 32, word << 16].map(|bits| bits.count_ones() as usize);
                for (t, before) in before.into_iter().enumerate() {
                    let weights = v.expand_ptr(values.add(before), (word >> (t * LANES)) as u16);
                    for (acc, x) in acc.iter_mut().zip(x) {
                        acc[t] = v.mul_add(weights, v.splat(*x.add(at * 4 + t)), acc[t]);
                    }
                }
                values = values.add(word.count_ones() as usize);
            }
        }
        let mut out = [v.splat(0.0); N];
        for (out, [a, b, c, d]) in out.iter_mut().zip(acc) {
            *out = v.add(v.add(a, b), v.add(c, d));
        }
        out
    }
}
