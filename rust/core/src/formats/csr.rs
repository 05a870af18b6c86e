//! Compressed rows, in K-blocks: the format of unstructured sparsity.
//!
//! ```text
//!            block 0          block 1
//! row 0   . a . . . b  |  . . . c . .       starts  [0 2 3 | 3 4 5]      one run a block and row
//! row 1   . . d . . .  |  . e . . . .       values  [a b d | c e]
//!                                           index   [1 5 2 | 3 1]        u16, from the block's first position
//!
//! for (value, index) in run:                T loads and T multiply-adds a nonzero
//!   for t in 0..T: acc[t] += value * operand[index·unit + t]
//! ```
//!
//! After Elsen et al. 2019, *Fast Sparse ConvNets* (arXiv:1911.09723).

use super::kblocks::KBlocks;
use super::rows::Rows;
use super::sweep::{Sweep, Tile};
use super::vector::{Dot, RowDots};
use super::{Format, Pack};
use crate::simd::{LANES, Vector};

/// A matrix in compressed, K-blocked rows.
#[derive(Debug, Clone)]
pub struct Csr {
    rows: usize,
    columns: usize,
    blocks: KBlocks,
    /// Where run (block, row) starts; the next entry is where it ends.
    starts: Vec<u32>,
    values: Vec<f32>,
    index: Vec<u16>,
}

impl Csr {
    /// Packed for one column: K-blocks as long as an index reaches, so that runs are long.
    pub fn pack_vector(rows: &Rows) -> Csr {
        Csr::pack(rows, KBlocks::new((0..rows.columns() as u32).collect(), usize::MAX))
    }
}

impl Pack for Csr {
    fn pack(rows: &Rows, blocks: KBlocks) -> Csr {
        let mut starts = Vec::with_capacity(blocks.len() * rows.rows() + 1);
        let (mut values, mut index) = (Vec::with_capacity(rows.nnz()), Vec::with_capacity(rows.nnz()));
        // Blocks are visited in column order: each row keeps its place.
        let mut next: Vec<_> = (0..rows.rows()).map(|row| rows.row(row).peekable()).collect();
        for block in 0..blocks.len() {
            let end = blocks.columns(block).end;
            for row in &mut next {
                starts.push(values.len() as u32);
                while let Some((column, value)) = row.next_if(|&(column, _)| column < end) {
                    values.push(value);
                    index.push(blocks.index(block, column));
                }
            }
        }
        starts.push(values.len() as u32);
        Csr { rows: rows.rows(), columns: rows.columns(), blocks, starts, values, index }
    }
}

impl Format for Csr {
    fn name(&self) -> &'static str {
        "csr"
    }
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }
    fn nbytes(&self) -> usize {
        self.values.len() * 6 + self.starts.len() * 4 + self.blocks.nbytes()
    }
    fn stored(&self) -> usize {
        self.values.len()
    }
    fn to_dense(&self) -> Vec<f32> {
        let mut dense = vec![0.0; self.rows * self.columns];
        for block in 0..self.blocks.len() {
            let column_of = self.blocks.columns_by_index(block);
            for row in 0..self.rows {
                let run = block * self.rows + row;
                for at in self.starts[run] as usize..self.starts[run + 1] as usize {
                    dense[row * self.columns + column_of[&self.index[at]]] = self.values[at];
                }
            }
        }
        dense
    }
}

impl Sweep for Csr {
    fn rows(&self) -> usize {
        self.rows
    }
    fn blocks(&self) -> usize {
        self.blocks.len()
    }
    fn group_rows(&self) -> usize {
        1
    }
    fn reach(&self) -> Option<usize> {
        self.blocks.reach()
    }
    fn tile_lines(&self, _registers: usize) -> usize {
        // More lines share a nonzero's decoding, but then fewer operand rows fit the first-level cache.
        4
    }

    #[inline(always)]
    unsafe fn tile<V: Vector, const T: usize>(&self, v: V, at: Tile<'_>) {
        let base = at.input.wrapping_add(self.blocks.base(at.block) * at.unit);
        for row in at.rows(self.rows) {
            let run = at.block * self.rows + row;
            // SAFETY: `pack` made one start a (block, row) and one more, ascending to the number of values; every index plus
            // its block's base is at most `reach`, which the caller's operand covers.
            unsafe {
                let run = *self.starts.get_unchecked(run) as usize..*self.starts.get_unchecked(run + 1) as usize;
                let mut acc = at.start::<V, T>(v, row);
                for i in run {
                    let value = v.splat(*self.values.get_unchecked(i));
                    let line = base.add(*self.index.get_unchecked(i) as usize * at.unit);
                    for (t, acc) in acc.iter_mut().enumerate() {
                        *acc = v.mul_add(value, v.load_ptr(line.add(t * LANES)), *acc);
                    }
                }
                at.finish::<V, T>(v, row, acc);
            }
        }
    }
}

impl RowDots for Csr {
    #[inline(always)]
    fn dots<V: Vector>(&self, v: V, x: Dot<'_>, first: usize, out: &mut [f32]) {
        for (row, out) in (first..).zip(out) {
            let mut acc = [v.splat(0.0); 2];
            let mut tail = 0.0f32;
            for block in 0..self.blocks.len() {
                let run = block * self.rows + row;
                let run = self.starts[run] as usize..self.starts[run + 1] as usize;
                let (values, index) = (&self.values[run.clone()], &self.index[run]);
                let x = &x.values()[self.blocks.base(block)..];
                let whole = values.len() / LANES * LANES;
                for i in (0..whole).step_by(LANES) {
                    // SAFETY: 16 values and indices remain; an index plus its block's base is a column of the matrix,
                    // and `Dot` holds one value a column.
                    unsafe {
                        let gathered = v.gather_ptr(x.as_ptr(), index.as_ptr().add(i));
                        let acc = &mut acc[i / LANES % 2];
                        *acc = v.mul_add(v.load_ptr(values.as_ptr().add(i)), gathered, *acc);
                    }
                }
                tail += values[whole..].iter().zip(&index[whole..]).map(|(w, &i)| w * x[i as usize]).sum::<f32>();
            }
            *out = v.sum(v.add(acc[0], acc[1])) + tail;
        }
    }
}
