//! Pairs of rows that share their operand, in K-blocks: the fastest format of single weights.
//!
//! ```text
//! in each K-block, rows that share many columns are paired        pair    rows (0, 2), counts both 2, one 1, other 2
//! row 0   . a . b . c                                             index   [1 5 | 3 0 | 4]
//! row 2   d e . . f g                                             values  [a e c g | b d | f]
//!
//! for (column, v, w) in both:         T loads, 2 T multiply-adds
//!   for t in 0..T: x = operand[column·unit + t];  one[t] += v * x;  other[t] += w * x
//! for (i, v, j, w) in alternation:    a column of each row: 2 T independent sums
//!   for t in 0..T: one[t] += v * operand[i·unit + t];  other[t] += w * operand[j·unit + t]
//! for what is left of the longer row: T loads, T multiply-adds
//! ```
//!
//! A core does about one load for each multiply-add, and a weight of its own needs T + 1 loads for T of them: loads are what
//! limits compressed rows, and a line that serves two rows is loaded once. Even random rows have good partners among a
//! hundred others, because each K-block pairs anew: at 128 columns and 10% density a row shares a third of its columns
//! with its partner, where a neighbour would share a tenth. The idea of sharing loads between rows of like patterns is
//! from *Register Tiling for Unstructured Sparsity in Neural Network Inference* (PLDI 2023).

use super::kblocks::KBlocks;
use super::rows::Rows;
use super::sweep::{BAND_ROWS, Sweep, Tile};
use super::{Format, Pack};
use crate::simd::{LANES, Vector};

/// Two rows in one K-block, or one: `other` is [`NONE`] then.
#[derive(Debug, Clone, Copy)]
struct Pair {
    one: u32,
    other: u32,
    /// Columns of both rows, of `one` alone, of `other` alone.
    counts: [u16; 3],
}

/// In the place of a second row.
const NONE: u32 = u32::MAX;

/// Where the pairs of a band of rows start in one K-block.
#[derive(Debug, Clone, Copy, Default)]
struct Start {
    pair: u32,
    value: u32,
    index: u32,
}

/// A matrix in pairs of rows, paired anew in every K-block and band of rows.
#[derive(Debug, Clone)]
pub struct Pattern {
    rows: usize,
    columns: usize,
    blocks: KBlocks,
    /// One a (block, band), and the end.
    starts: Vec<Start>,
    pairs: Vec<Pair>,
    values: Vec<f32>,
    index: Vec<u16>,
}

/// The nonzeros of one row in one K-block.
#[derive(Debug, Clone, Default)]
struct Run {
    row: u32,
    nonzeros: Vec<(usize, f32)>,
    /// One bit a column of the block.
    mask: Vec<u64>,
}

impl Run {
    fn shared(&self, other: &Run) -> u32 {
        self.mask.iter().zip(&other.mask).map(|(a, b)| (a & b).count_ones()).sum()
    }

    /// The nonzeros in columns that `other` has too, or has not.
    fn select(&self, other: &Run, both: bool) -> impl Iterator<Item = (usize, f32)> {
        let has = |at: usize| other.mask.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1);
        self.nonzeros.iter().copied().filter(move |&(at, _)| has(at) == both)
    }
}

impl Pattern {
    /// Pairs the runs of a band: the longest first, each with the one that shares most of its columns.
    fn add_band(&mut self, block: usize, mut runs: Vec<Run>) {
        self.starts.push(self.end());
        runs.sort_by_key(|run| run.nonzeros.len());
        while let Some(one) = runs.pop() {
            // Of equals the last, which is nearest in length.
            let best = (0..runs.len()).max_by_key(|&at| runs[at].shared(&one));
            let other = best.map(|at| runs.remove(at));
            self.add_pair(block, &one, other.as_ref());
        }
    }

    fn add_pair(&mut self, block: usize, one: &Run, other: Option<&Run>) {
        let nothing = Run::default();
        let rows = (one.row, other.map_or(NONE, |other| other.row));
        let other = other.unwrap_or(&nothing);
        let first = self.blocks.columns(block).start;
        let mut counts = [0u16; 3];
        for ((at, v), (_, w)) in one.select(other, true).zip(other.select(one, true)) {
            self.index.push(self.blocks.index(block, first + at));
            self.values.extend([v, w]);
            counts[0] += 1;
        }
        let (mut a, mut b) = (one.select(other, false), other.select(one, false));
        loop {
            let next = [a.next(), b.next()];
            for (nonzero, count) in next.into_iter().zip(&mut counts[1..]) {
                if let Some((at, value)) = nonzero {
                    self.index.push(self.blocks.index(block, first + at));
                    self.values.push(value);
                    *count += 1;
                }
            }
            if next == [None, None] {
                break;
            }
        }
        self.pairs.push(Pair { one: rows.0, other: rows.1, counts });
    }

    fn end(&self) -> Start {
        Start { pair: self.pairs.len() as u32, value: self.values.len() as u32, index: self.index.len() as u32 }
    }

    fn bands(&self) -> usize {
        self.rows.div_ceil(BAND_ROWS)
    }
}

impl Pack for Pattern {
    fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    fn pack(rows: &Rows, blocks: KBlocks) -> Pattern {
        let mut next: Vec<_> = (0..rows.rows()).map(|row| rows.row(row).peekable()).collect();
        let mut packed = Pattern {
            rows: rows.rows(),
            columns: rows.columns(),
            starts: Vec::new(),
            pairs: Vec::new(),
            values: Vec::with_capacity(rows.nnz()),
            index: Vec::with_capacity(rows.nnz()),
            blocks,
        };
        for block in 0..packed.blocks.len() {
            let columns = packed.blocks.columns(block);
            // The first block starts from the bias and the last applies the activation: there every row has its turn.
            let every = block == 0 || block + 1 == packed.blocks.len();
            for band in 0..packed.bands() {
                let band = band * BAND_ROWS..((band + 1) * BAND_ROWS).min(rows.rows());
                let mut runs = Vec::with_capacity(band.len());
                for row in band {
                    let mut run = Run { row: row as u32, mask: vec![0; columns.len().div_ceil(64)], ..Run::default() };
                    while let Some((column, value)) = next[row].next_if(|&(column, _)| column < columns.end) {
                        let at = column - columns.start;
                        run.mask[at / 64] |= 1 << (at % 64);
                        run.nonzeros.push((at, value));
                    }
                    if every || !run.nonzeros.is_empty() {
                        runs.push(run);
                    }
                }
                packed.add_band(block, runs);
            }
        }
        packed.starts.push(packed.end());
        packed
    }
}

impl Format for Pattern {
    fn name(&self) -> &'static str {
        "pattern"
    }
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }
    fn nbytes(&self) -> usize {
        self.values.len() * 4
            + self.index.len() * 2
            + self.pairs.len() * size_of::<Pair>()
            + self.starts.len() * size_of::<Start>()
            + self.blocks.nbytes()
    }
    fn stored(&self) -> usize {
        self.values.len()
    }
    fn to_dense(&self) -> Vec<f32> {
        let mut dense = vec![0.0; self.rows * self.columns];
        let (mut index, mut values) = (self.index.iter(), self.values.iter());
        for block in 0..self.blocks.len() {
            let column_of = self.blocks.columns_by_index(block);
            let mut put = |row: u32, index: &u16, value: Option<&f32>| {
                dense[row as usize * self.columns + column_of[index]] = value.copied().unwrap_or(0.0);
            };
            let bands = block * self.bands()..(block + 1) * self.bands();
            let pairs = self.starts[bands.start].pair as usize..self.starts[bands.end].pair as usize;
            for pair in &self.pairs[pairs] {
                let [both, one, other] = pair.counts;
                for index in index.by_ref().take(both as usize) {
                    put(pair.one, index, values.next());
                    put(pair.other, index, values.next());
                }
                for at in 0..one.max(other) {
                    for (row, count) in [(pair.one, one), (pair.other, other)] {
                        if at < count
                            && let Some(index) = index.next()
                        {
                            put(row, index, values.next());
                        }
                    }
                }
            }
        }
        dense
    }
}

impl Sweep for Pattern {
    const GROUP_ROWS: usize = 2;

    fn rows(&self) -> usize {
        self.rows
    }
    fn blocks(&self) -> &KBlocks {
        &self.blocks
    }
    fn tile_lines(registers: usize) -> usize {
        // Both rows' accumulators, a line and two broadcasts fit the register file.
        if registers >= 32 { 4 } else { 2 }
    }
    fn run_lines(registers: usize) -> usize {
        if registers >= 32 { 8 } else { 2 }
    }

    #[inline(always)]
    unsafe fn tile<V: Vector, const T: usize>(&self, v: V, at: Tile<'_>) {
        let first = at.block * self.bands() + at.bands.start;
        let (from, to) = (self.starts[first], self.starts[first + at.bands.len()]);
        // SAFETY: `pack` gave every pair of a band as many indices and values as it counts, in the order in which they are
        // read here; every index plus its block's base is a position of the block, which the caller's operand covers; and the rows of
        // a band's pairs are that band's, which the caller's result holds.
        unsafe {
            let base = at.input.wrapping_add(self.blocks.base(at.block) * at.unit);
            let mut index = self.index.as_ptr().add(from.index as usize);
            let mut values = self.values.as_ptr().add(from.value as usize);
            let mut line = || {
                let line = base.wrapping_add(*index as usize * at.unit);
                index = index.add(1);
                line
            };
            let mut value = || {
                let value = v.splat(*values);
                values = values.add(1);
                value
            };
            for pair in self.pairs.get_unchecked(from.pair as usize..to.pair as usize) {
                let paired = pair.other != NONE;
                let [both, one, other] = pair.counts;
                let mut a = at.start::<V, T>(v, pair.one as usize);
                let mut b = [v.splat(0.0); T];
                if paired {
                    b = at.start::<V, T>(v, pair.other as usize);
                }
                for _ in 0..both {
                    let (line, p, q) = (line(), value(), value());
                    for t in 0..T {
                        let x = v.load_ptr(line.add(t * LANES));
                        a[t] = v.mul_add(p, x, a[t]);
                        b[t] = v.mul_add(q, x, b[t]);
                    }
                }
                let alternate = one.min(other);
                for _ in 0..alternate {
                    let (i, j, p, q) = (line(), line(), value(), value());
                    for (t, a) in a.iter_mut().enumerate() {
                        *a = v.mul_add(p, v.load_ptr(i.add(t * LANES)), *a);
                    }
                    for (t, b) in b.iter_mut().enumerate() {
                        *b = v.mul_add(q, v.load_ptr(j.add(t * LANES)), *b);
                    }
                }
                for _ in alternate..one {
                    let (line, p) = (line(), value());
                    for (t, a) in a.iter_mut().enumerate() {
                        *a = v.mul_add(p, v.load_ptr(line.add(t * LANES)), *a);
                    }
                }
                for _ in alternate..other {
                    let (line, q) = (line(), value());
                    for (t, b) in b.iter_mut().enumerate() {
                        *b = v.mul_add(q, v.load_ptr(line.add(t * LANES)), *b);
                    }
                }
                at.finish::<V, T>(v, pair.one as usize, a);
                if paired {
                    at.finish::<V, T>(v, pair.other as usize, b);
                }
            }
        }
    }
}
