//! Column blocks of R rows: each loaded operand line serves R rows.
//!
//! ```text
//! R = 4          groups of R rows       columns  [1 2 5 | 0 …]        index u16, from the K-block's first position
//! row 0  . a e . . i                    values   [a b c d | e f g h | i j k l | …]     R values a column
//! row 1  . b f . . j
//! row 2  . c g . . k                    for (index, values[R]) in run:
//! row 3  . d h . . l                      for t in 0..T: x[t] = operand[index·unit + t]
//!                                         for r in 0..R, t in 0..T: acc[r][t] += values[r] * x[t]
//! ```
//!
//! A column is stored where any of its R values is nonzero, so every matrix packs exactly; full blocks pack without waste.
//! R is 4, 8 or, for few columns of the operand, 16. In panels 16x1 is two groups of 8 with the same columns; 4x4 is four
//! columns in a row. With every column stored it is the *dense* kernel of panels. For few columns the R rows lie in the
//! lanes instead, and `x` is broadcast to them: neither gather nor expand.

use super::kblocks::KBlocks;
use super::rows::Rows;
use super::sweep::{Sweep, Tile, band_rows};
use super::vector::{Lanes, Operand};
use super::{Format, Pack};
use crate::simd::{Buffer, LANES, Stored, Vector, prefetch};

/// How far ahead values of 16 bits, which are for weights in memory, are asked for, in bytes: beyond the page, where the
/// processor's own prefetching stops. Whole floats arrive as fast without.
const AHEAD: usize = 8192;

/// A matrix in column blocks of `R` rows.
#[derive(Debug, Clone)]
pub struct Block<const R: usize, S: Stored = f32> {
    rows: usize,
    columns: usize,
    blocks: KBlocks,
    /// Every run holds a multiple of this many columns.
    whole: usize,
    /// The group of each run of a K-block. In panels the shortest runs of a band come first: where neighbours are of one length,
    /// the branch at their end is foreseen.
    order: Vec<u32>,
    /// Where each run starts, in stored columns; the next entry is where it ends.
    starts: Vec<u32>,
    /// R values a stored column.
    values: Buffer<S>,
    index: Vec<u16>,
}

impl<const R: usize> Block<R> {
    /// Packs the columns of each group of R rows that hold a nonzero, or all of them.
    pub fn pack_columns(rows: &Rows, blocks: KBlocks, all: bool) -> Block<R> {
        Block::pack_runs(rows, blocks, all, 1, band_rows(rows.rows()) / R)
    }
}

impl<const R: usize, S: Stored> Block<R, S> {
    fn groups(&self) -> usize {
        self.rows.div_ceil(R)
    }

    /// The same with runs of a multiple of `whole` columns: their last ones are repeated with zeros. Of so
    /// many groups `together` the shortest runs come first.
    fn pack_runs(rows: &Rows, blocks: KBlocks, all: bool, whole: usize, together: usize) -> Self {
        let groups = rows.rows().div_ceil(R);
        // The dense R × columns strip of each group, a group at a time, then runs in (block, group) order.
        let mut runs: Vec<(Vec<u16>, Vec<f32>)> = vec![Default::default(); blocks.len() * groups];
        let mut strip = vec![[0.0f32; R]; rows.columns()];
        for group in 0..groups {
            strip.fill([0.0; R]);
            for (r, row) in (group * R..rows.rows().min(group * R + R)).enumerate() {
                for (column, value) in rows.row(row) {
                    strip[column][r] = value;
                }
            }
            for block in 0..blocks.len() {
                let (index, values) = &mut runs[block * groups + group];
                for column in blocks.columns(block) {
                    if all || strip[column] != [0.0; R] {
                        index.push(blocks.index(block, column));
                        values.extend(strip[column]);
                    }
                }
                let padded = index.len().next_multiple_of(whole);
                index.resize(padded, index.last().copied().unwrap_or(0));
                values.resize(padded * R, 0.0);
            }
        }
        let mut order: Vec<u32> = (0..blocks.len()).flat_map(|_| 0..groups as u32).collect();
        let mut starts = Vec::with_capacity(runs.len() + 1);
        let (mut index, mut values) = (Vec::new(), Vec::new());
        for (runs, order) in runs.chunks(groups.max(1)).zip(order.chunks_mut(groups.max(1))) {
            order.chunks_mut(together).for_each(|some| some.sort_by_key(|&group| runs[group as usize].0.len()));
            for &group in &*order {
                starts.push(index.len() as u32);
                index.extend(&runs[group as usize].0);
                values.extend(&runs[group as usize].1);
            }
        }
        starts.push(index.len() as u32);
        // An index is read before the lines of the one before it.
        index.push(0);
        let values = Buffer::rounded(&values);
        Block { rows: rows.rows(), columns: rows.columns(), blocks, whole, order, starts, values, index }
    }
}

impl<const R: usize, S: Stored> Block<R, S> {
    /// Packed for few columns: K-blocks as long as an index reaches, so that runs are long.
    pub fn pack_vector(rows: &Rows) -> Self {
        let blocks = KBlocks::new((0..rows.columns() as u32).collect(), usize::MAX);
        Block::pack_runs(rows, blocks, false, LANES / R, 1)
    }
}

impl<const R: usize> Pack for Block<R> {
    fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    fn pack(rows: &Rows, blocks: KBlocks) -> Block<R> {
        Block::pack_columns(rows, blocks, false)
    }
}

impl<const R: usize, S: Stored> Format for Block<R, S> {
    fn name(&self) -> &'static str {
        "block"
    }
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }
    fn nbytes(&self) -> usize {
        self.values.nbytes() + self.index.len() * 2 + (self.order.len() + self.starts.len()) * 4 + self.blocks.nbytes()
    }
    fn stored(&self) -> usize {
        self.values.len()
    }
    fn to_dense(&self) -> Vec<f32> {
        let groups = self.groups();
        let mut dense = vec![0.0; self.rows * self.columns];
        for block in 0..self.blocks.len() {
            let column_of = self.blocks.columns_by_index(block);
            for run in block * groups..(block + 1) * groups {
                let group = self.order[run] as usize;
                for at in self.starts[run] as usize..self.starts[run + 1] as usize {
                    for r in 0..R.min(self.rows - group * R) {
                        // Zeros fill blocks and runs.
                        let value = self.values[at * R + r].widen();
                        if value != 0.0 {
                            dense[(group * R + r) * self.columns + column_of[&self.index[at]]] = value;
                        }
                    }
                }
            }
        }
        dense
    }
}

impl<const R: usize> Sweep for Block<R> {
    const GROUP_ROWS: usize = R;

    fn rows(&self) -> usize {
        self.rows
    }
    fn blocks(&self) -> &KBlocks {
        &self.blocks
    }
    fn run_lines(registers: usize) -> usize {
        // Rows share their loads as it is: narrow tiles leave room for long K-blocks, whose partial sums move less often. On
        // eight registers four accumulators, a line and a broadcast fit.
        if registers >= 32 { 2 } else { 1 }
    }
    fn tile_lines(&self, registers: usize) -> usize {
        Self::run_lines(registers)
    }
    fn panel_columns(registers: usize, _density: f64) -> usize {
        // A line serves so many multiply-adds that it may come from the second-level cache; what a block begins and ends with,
        // a load and a store for every accumulator, costs more.
        4 * KBlocks::panels(Self::run_lines(registers))
    }

    #[inline(always)]
    unsafe fn tile<V: Vector, const T: usize>(&self, v: V, at: Tile<'_>) {
        // Whole groups in registers where they fit, else four rows at a time.
        let rows = at.rows(self.rows);
        let first = at.block * self.groups();
        for run in first + rows.start / R..first + rows.end.div_ceil(R) {
            // SAFETY: the caller's promise, passed on; bands are whole groups, and there is a run a group.
            unsafe {
                let row = *self.order.get_unchecked(run) as usize * R;
                if R == 8 && V::REGISTERS >= 32 {
                    self.rows_of_group::<V, 8, T>(v, &at, run, row, 0);
                } else {
                    for from in (0..R.min(self.rows - row)).step_by(4) {
                        self.rows_of_group::<V, 4, T>(v, &at, run, row, from);
                    }
                }
            }
        }
    }
}

impl<const R: usize> Block<R> {
    /// Rows `from .. from + Q` of the run of the group that starts at `row`, where they exist.
    ///
    /// # Safety
    /// As [`Sweep::tile`].
    #[inline(always)]
    unsafe fn rows_of_group<V: Vector, const Q: usize, const T: usize>(
        &self,
        v: V,
        at: &Tile<'_>,
        run: usize,
        row: usize,
        from: usize,
    ) {
        let here = self.rows - row - from;
        // SAFETY: `pack_columns` made one start a (block, group) and one more, R values an index, one index behind the last, and
        // indices that with their block's base are positions of the block, which the caller's operand covers; only rows of the
        // matrix are loaded and stored.
        unsafe {
            let run = *self.starts.get_unchecked(run) as usize..*self.starts.get_unchecked(run + 1) as usize;
            let base = at.input.wrapping_add(self.blocks.base(at.block) * at.unit);
            // Small bodies with constant bounds: the loops unroll and accumulators stay in registers.
            let mut acc = [[v.splat(0.0); T]; Q];
            for (q, acc) in acc.iter_mut().enumerate() {
                if q < here {
                    *acc = at.start::<V, T>(v, row + from + q);
                }
            }
            let mut ahead = *self.index.get_unchecked(run.start);
            for i in run {
                let line = base.add(std::mem::replace(&mut ahead, *self.index.get_unchecked(i + 1)) as usize * at.unit);
                let x: [V::F32; T] = std::array::from_fn(|t| v.load_ptr(line.add(t * LANES)));
                let values = self.values.as_ptr().add(i * R + from);
                for (r, acc) in acc.iter_mut().enumerate() {
                    let value = v.splat(*values.add(r));
                    for (acc, &x) in acc.iter_mut().zip(&x) {
                        *acc = v.mul_add(value, x, *acc);
                    }
                }
            }
            for (q, &acc) in acc.iter().enumerate() {
                if q < here {
                    at.finish::<V, T>(v, row + from + q, acc);
                }
            }
        }
    }
}

impl<const R: usize, S: Stored> Lanes for Block<R, S> {
    fn reads_behind(&self) -> bool {
        false
    }

    /// 16 / R columns of a group of R rows at a time: `acc[lane] += values[lane] * x[column of lane / R]`.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "iterators over registers may stay calls, which spill them")]
    unsafe fn group<V: Vector, const N: usize>(&self, v: V, x: Operand<'_, N>, group: usize) -> [V::F32; N] {
        let (at_once, groups) = (LANES / R, self.groups());
        assert!(self.whole == at_once, "block: packed for panels");
        let mut acc = [[v.splat(0.0); 4]; N];
        for part in 0..at_once.min(groups - group * at_once) {
            let (mut even, mut odd) = ([v.splat(0.0); N], [v.splat(0.0); N]);
            for block in 0..self.blocks.len() {
                let base = self.blocks.base(block);
                let x: [*const f32; N] = std::array::from_fn(|j| x.vector(j).wrapping_add(base));
                let run = block * groups + group * at_once + part;
                // SAFETY: `pack_runs` made one start a (block, group) and one more, and runs of whole registers
                // (asserted); an operand has a value a column.
                unsafe {
                    let mut i = *self.starts.get_unchecked(run) as usize;
                    let end = *self.starts.get_unchecked(run + 1) as usize;
                    while i + 2 * at_once <= end {
                        self.step(v, x, i, &mut even);
                        self.step(v, x, i + at_once, &mut odd);
                        i += 2 * at_once;
                    }
                    if i < end {
                        self.step(v, x, i, &mut even);
                    }
                }
            }
            for j in 0..N {
                acc[j][part] = v.add(even[j], odd[j]);
            }
        }
        let mut out = [v.splat(0.0); N];
        for (out, [a, b, c, d]) in out.iter_mut().zip(acc) {
            *out = match R {
                16 => a,
                8 => v.fold_halves(a, b),
                _ => v.fold_quarters(v.fold_halves(a, b), v.fold_halves(c, d)),
            };
        }
        out
    }
}

impl<const R: usize, S: Stored> Block<R, S> {
    /// 16 / R columns from `i` on.
    ///
    /// # Safety
    /// That many columns are stored from `i` on, and each `x` has a value a column from the block's base on.
    #[inline(always)]
    unsafe fn step<V: Vector, const N: usize>(&self, v: V, x: [*const f32; N], i: usize, acc: &mut [V::F32; N]) {
        // SAFETY: the caller's promise, and `pack_runs` made R values an index.
        unsafe {
            let values = self.values.as_ptr().add(i * R);
            if S::HALF {
                prefetch(values.cast::<u8>().wrapping_add(AHEAD));
            }
            let weights = v.widen_ptr(values);
            for (acc, x) in acc.iter_mut().zip(x) {
                *acc = v.mul_add(weights, v.spread_ptr::<R>(x, self.index.as_ptr().add(i)), *acc);
            }
        }
    }
}
