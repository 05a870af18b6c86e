//! One bit an element and the nonzeros in order: the format of one column at moderate sparsity.
//!
//! ```text
//! row 0   . a . . b c …    masks   [0b…110010 …]     one u16 for 16 columns
//! row 1   d . . e . . …    values  [a b c … | d e …]  row after row
//!
//! for each 16 columns:     acc += expand(values, mask) * x[16];   values += popcount(mask)
//! ```
//!
//! It reads 4 bytes a nonzero and an eighth of a byte an element, and `x` in order: no gather.

use super::Format;
use super::rows::Rows;
use super::vector::{Dot, RowDots};
use crate::simd::{LANES, Vector};

/// Rows computed together: their pointer chains hide each other's latency.
const TOGETHER: usize = 4;

/// A matrix as a bitmap and its nonzeros.
#[derive(Debug, Clone)]
pub struct Bitmap {
    rows: usize,
    columns: usize,
    /// Masks of row after row, ⌈columns / 16⌉ each.
    masks: Vec<u16>,
    /// Where each row's values start, and the end.
    starts: Vec<u32>,
    /// The nonzeros, and 16 zeros that the last expand may read.
    values: Vec<f32>,
}

impl Bitmap {
    /// Packs `rows`.
    pub fn pack(rows: &Rows) -> Bitmap {
        let chunks = rows.columns().div_ceil(LANES);
        let mut masks = vec![0u16; rows.rows() * chunks];
        let (mut starts, mut values) = (vec![0u32], Vec::with_capacity(rows.nnz() + LANES));
        for row in 0..rows.rows() {
            for (column, value) in rows.row(row) {
                masks[row * chunks + column / LANES] |= 1 << (column % LANES);
                values.push(value);
            }
            starts.push(values.len() as u32);
        }
        values.extend([0.0; LANES]);
        Bitmap { rows: rows.rows(), columns: rows.columns(), masks, starts, values }
    }
}

impl Format for Bitmap {
    fn name(&self) -> &'static str {
        "bitmap"
    }
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }
    fn nbytes(&self) -> usize {
        self.masks.len() * 2 + self.starts.len() * 4 + self.values.len() * 4
    }
    fn stored(&self) -> usize {
        self.values.len() - LANES
    }
    fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
    fn to_dense(&self) -> Vec<f32> {
        let chunks = self.columns.div_ceil(LANES);
        let mut dense = vec![0.0; self.rows * self.columns];
        let mut values = self.values.iter();
        for row in 0..self.rows {
            for column in 0..self.columns {
                if self.masks[row * chunks + column / LANES] >> (column % LANES) & 1 == 1 {
                    dense[row * self.columns + column] = values.next().copied().unwrap_or(0.0);
                }
            }
        }
        dense
    }
}

impl RowDots for Bitmap {
    #[inline(always)]
    fn dots<V: Vector>(&self, v: V, x: Dot<'_>, first: usize, out: &mut [f32]) {
        let mut groups = out.chunks_exact_mut(TOGETHER);
        let mut row = first;
        for group in &mut groups {
            group.copy_from_slice(&self.rows_together::<V, TOGETHER>(v, x, row));
            row += TOGETHER;
        }
        for out in groups.into_remainder() {
            *out = self.rows_together::<V, 1>(v, x, row)[0];
            row += 1;
        }
    }
}

impl Bitmap {
    #[inline(always)]
    fn rows_together<V: Vector, const Q: usize>(&self, v: V, x: Dot<'_>, row: usize) -> [f32; Q] {
        let chunks = self.columns.div_ceil(LANES);
        assert!((row + Q) * chunks <= self.masks.len() && x.values().len() >= chunks * LANES);
        let mut next: [usize; Q] = std::array::from_fn(|q| self.starts[row + q] as usize);
        let mut acc = [v.splat(0.0); Q];
        for chunk in 0..chunks {
            // SAFETY: asserted above for masks and `x`; the masks of the rows before have as many bits as values were
            // passed, so 16 values or their padding remain (`pack`).
            unsafe {
                let x = v.load_ptr(x.values().as_ptr().add(chunk * LANES));
                for q in 0..Q {
                    let mask = *self.masks.get_unchecked((row + q) * chunks + chunk);
                    acc[q] = v.mul_add(v.expand_ptr(self.values.as_ptr().add(next[q]), mask), x, acc[q]);
                    next[q] += mask.count_ones() as usize;
                }
            }
        }
        acc.map(|acc| v.sum(acc))
    }
}
