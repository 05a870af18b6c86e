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
use super::next::{Next, add};
use super::rows::Rows;
use super::sweep::{Sweep, Tile};
use super::vector::{Lanes, Operand};
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
    /// One a value, and 16 zeros that the last gather may read.
    index: Vec<u16>,
}

impl Csr {
    /// Packed for one column: K-blocks as long as an index reaches, so that runs are long.
    pub fn pack_vector(rows: &Rows) -> Csr {
        Csr::pack(rows, KBlocks::new((0..rows.columns() as u32).collect(), usize::MAX))
    }
}

impl Pack for Csr {
    fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

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
        index.extend([0; LANES]);
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

/// In panels: more lines would share a nonzero's decoding, but then fewer operand rows fit the first-level cache.
const TILE_LINES: usize = 4;

impl Sweep for Csr {
    const GROUP_ROWS: usize = 1;

    fn rows(&self) -> usize {
        self.rows
    }
    fn blocks(&self) -> &KBlocks {
        &self.blocks
    }
    fn run_lines(registers: usize) -> usize {
        if registers >= 32 { 8 } else { TILE_LINES }
    }
    fn tile_lines(&self, _registers: usize) -> usize {
        TILE_LINES
    }
    fn panel_columns(_registers: usize, _density: f64) -> usize {
        KBlocks::panels(TILE_LINES)
    }

    #[inline(always)]
    unsafe fn tile<V: Vector, const T: usize>(&self, v: V, at: Tile<'_>) {
        let base = at.input.wrapping_add(self.blocks.base(at.block) * at.unit);
        for row in at.rows(self.rows) {
            let run = at.block * self.rows + row;
            // SAFETY: `pack` made one start a (block, row) and one more, ascending to the number of values, and 16 indices
            // behind the last; every index plus its block's base is a position of the block, which the caller's operand covers.
            unsafe {
                let run = *self.starts.get_unchecked(run) as usize..*self.starts.get_unchecked(run + 1) as usize;
                let index = self.index.as_ptr().add(run.start);
                let mut next = Next::new(base, at.unit, index, self.values.as_ptr().add(run.start));
                let mut acc = at.start::<V, T>(v, row);
                for _ in 0..run.len() / 4 {
                    let ([i, j, k, l], [p, q, r, s]) = (next.lines(), next.weights(v));
                    add::<V, T>(v, &mut acc, p, i);
                    add::<V, T>(v, &mut acc, q, j);
                    add::<V, T>(v, &mut acc, r, k);
                    add::<V, T>(v, &mut acc, s, l);
                }
                for _ in 0..run.len() % 4 {
                    let ([line], weight) = (next.lines(), next.weight(v));
                    add::<V, T>(v, &mut acc, weight, line);
                }
                at.finish::<V, T>(v, row, acc);
            }
        }
    }
}

impl Lanes for Csr {
    fn reads_behind(&self) -> bool {
        false
    }

    /// A dot product a row, 16 nonzeros at a time, then the sums of 16 rows together.
    #[inline(always)]
    unsafe fn group<V: Vector, const N: usize>(&self, v: V, x: Operand<'_, N>, group: usize) -> [V::F32; N] {
        let mut acc = [[v.splat(0.0); LANES]; N];
        let rows = group * LANES..self.rows.min((group + 1) * LANES);
        for block in 0..self.blocks.len() {
            let base = self.blocks.base(block);
            let x: [*const f32; N] = std::array::from_fn(|j| x.vector(j).wrapping_add(base));
            for (lane, row) in rows.clone().enumerate() {
                let run = block * self.rows + row;
                // SAFETY: `pack` made one start a (block, row) and one more. An index plus its block's base is a column,
                // and an operand has a value a column; the 16 indices from any on are one block's, or of several blocks
                // (more than 2¹⁶ columns) where `last` keeps to the run, or the padding of `pack`, column 0 of the block.
                unsafe {
                    let start = *self.starts.get_unchecked(run) as usize;
                    let end = *self.starts.get_unchecked(run + 1) as usize;
                    let mut sums = [v.splat(0.0); N];
                    let mut i = start;
                    while i < end {
                        let weights = v.load_first(self.values.as_ptr().add(i), end - i);
                        let mut last = [0; LANES];
                        let mut index = self.index.as_ptr().add(i);
                        if end - i < LANES && self.blocks.len() > 1 {
                            last[..end - i].copy_from_slice(&self.index[i..end]);
                            index = last.as_ptr();
                        }
                        for (sum, x) in sums.iter_mut().zip(x) {
                            *sum = v.mul_add(weights, v.gather_ptr(x, index), *sum);
                        }
                        i += LANES;
                    }
                    for (acc, sum) in acc.iter_mut().zip(sums) {
                        acc[lane] = v.add(acc[lane], sum);
                    }
                }
            }
        }
        let mut out = [v.splat(0.0); N];
        for (out, acc) in out.iter_mut().zip(&acc) {
            *out = v.sums(acc);
        }
        out
    }
}
