//! Pairs of rows that share their operand, in K-blocks: the fastest format of single weights.
//!
//! ```text
//! in each K-block, rows that share many columns are paired        pair    rows (0, 2): 1 mixed step, 1 and 2 columns left
//! row 0   . a . b . c                                             index   [1 3 0 | 5 | 4 5]
//! row 2   d e . . f g                                             values  [a e b d | c | f g]
//!
//! steps of four weights, T lines each a column of the operand:
//!   mixed: a column of both rows and one of each         3 T loads and 1, 4 T multiply-adds
//!   both:  two columns of both rows, if there are more   2 T loads and 1, 4 T multiply-adds
//!   apart: two columns of each row, if those are more    4 T loads and 1, 4 T multiply-adds
//! what is left of either row, a column at a time:          T loads and 1,   T multiply-adds
//! ```
//!
//! A core does about one load for each multiply-add, and a weight of its own needs T + 1 loads for T of them: loads are what
//! limits compressed rows. So a line that serves two rows is loaded once, four weights are one load, and mixed steps keep
//! loads and multiply-adds busy together, where all columns of both rows and then all others would keep one waiting for the
//! other. Even random rows have good partners among a hundred others, because each K-block pairs anew: at 128 columns and
//! 10% density a row shares a third of its columns with its partner, where a neighbour would share a tenth. The idea of
//! sharing loads between rows of like patterns is from *Register Tiling for Unstructured Sparsity in Neural Network
//! Inference* (PLDI 2023).

use super::kblocks::KBlocks;
use super::next::{BEHIND, Next, add, add_to_both};
use super::rows::Rows;
use super::sweep::{Sweep, Tile, bands, rows_of};
use super::{Format, Pack};
use crate::simd::{Kernel, Target, Vector, dispatch};
use std::iter::repeat_n;

/// Two rows in one K-block, or one: `other` is [`NONE`] then.
#[derive(Debug, Clone, Copy)]
struct Pair {
    one: u32,
    other: u32,
    /// Steps: mixed, both, apart.
    steps: [u16; 3],
    /// Columns that are left of `one` and of `other`.
    rest: [u16; 2],
}

/// Whose a column is.
#[derive(Debug, Clone, Copy)]
enum Of {
    Both,
    One,
    Other,
}

impl Pair {
    /// Whose the columns are, in their order.
    fn order(&self) -> impl Iterator<Item = Of> + use<> {
        let [mixed, both, apart] = self.steps.map(usize::from);
        let [one, other] = self.rest.map(usize::from);
        let mixed = repeat_n([Of::Both, Of::One, Of::Other], mixed).flatten();
        let apart = repeat_n([Of::One, Of::Other], 2 * apart).flatten();
        mixed
            .chain(repeat_n(Of::Both, 2 * both))
            .chain(apart)
            .chain(repeat_n(Of::One, one))
            .chain(repeat_n(Of::Other, other))
    }
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

/// The nonzeros of one row in one K-block, columns counted from the block's first.
#[derive(Debug, Clone, Copy)]
struct Run<'a> {
    row: u32,
    first: usize,
    index: &'a [u32],
    values: &'a [f32],
}

impl Run<'_> {
    fn nonzeros(&self) -> impl Iterator<Item = (usize, f32)> {
        self.index.iter().zip(self.values).map(|(&column, &value)| (column as usize - self.first, value))
    }
}

/// Whether a run's mask, one bit a column of the block, has the column.
fn has(mask: &[u64], at: usize) -> bool {
    mask.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
}

/// A pair with its columns, counted from the block's first, and its values, in the order in which they are read.
struct Paired {
    pair: Pair,
    columns: Vec<u16>,
    values: Vec<f32>,
}

impl Paired {
    /// Runs with their masks.
    fn new((one, mine): (&Run<'_>, &[u64]), other: Option<(&Run<'_>, &[u64])>) -> Paired {
        let row = other.map_or(NONE, |(other, _)| other.row);
        let size = one.index.len().max(other.map_or(0, |(other, _)| other.index.len()));
        let mut both = Vec::with_capacity(size);
        let (mut a, mut b) = (Vec::with_capacity(size), Vec::with_capacity(size));
        let theirs = other.map_or(&[] as &[u64], |(_, theirs)| theirs);
        one.nonzeros().for_each(|(at, v)| if has(theirs, at) { both.push((at, v, 0.0)) } else { a.push((at, v)) });
        let mut shared = both.iter_mut();
        for (at, w) in other.iter().flat_map(|(other, _)| other.nonzeros()) {
            match has(mine, at).then(|| shared.next()).flatten() {
                Some(pair) => pair.2 = w,
                None => b.push((at, w)),
            }
        }
        let mixed = both.len().min(a.len()).min(b.len());
        // Of an odd number the last becomes a column of each.
        if (both.len() - mixed) % 2 == 1
            && let Some((at, v, w)) = both.pop()
        {
            a.push((at, v));
            b.push((at, w));
        }
        let apart = (a.len().min(b.len()) - mixed) / 2;
        let steps = [mixed, (both.len() - mixed) / 2, apart].map(|steps| steps as u16);
        let rest = [&a, &b].map(|all| (all.len() - mixed - 2 * apart) as u16);
        let pair = Pair { one: one.row, other: row, steps, rest };
        let places = both.len() + a.len() + b.len();
        let (mut both, mut a, mut b) = (both.into_iter(), a.into_iter(), b.into_iter());
        let mut paired =
            Paired { pair, columns: Vec::with_capacity(places), values: Vec::with_capacity(places + both.len()) };
        for of in pair.order() {
            let next = match of {
                Of::Both => both.next().map(|(at, v, w)| (at, v, Some(w))),
                Of::One => a.next().map(|(at, v)| (at, v, None)),
                Of::Other => b.next().map(|(at, v)| (at, v, None)),
            };
            if let Some((at, v, w)) = next {
                paired.columns.push(at as u16);
                paired.values.push(v);
                paired.values.extend(w);
            }
        }
        paired
    }
}

/// How many runs a partner is sought among: those nearest in length. Among all 1024 of a band are hardly better ones.
const NEAR: usize = 192;

/// The search for the run that shares most columns with one: where it is `among` them.
struct Partner<'a> {
    mine: &'a [u64],
    among: &'a [usize],
    /// As many words a run as `mine`.
    masks: &'a [u64],
}

impl Kernel for Partner<'_> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run<V: Vector>(self, _: V) -> Option<usize> {
        // Loops, not iterators: these would be functions of their own, without the target's instruction for counting.
        let (mut best, mut most) = (None, 0);
        for (at, &run) in self.among.iter().enumerate() {
            let theirs = &self.masks[run * self.mine.len()..][..self.mine.len()];
            let mut shared = 0;
            for (a, b) in self.mine.iter().zip(theirs) {
                shared += (a & b).count_ones();
            }
            // Of equals the last, which is nearest in length.
            if shared >= most {
                (best, most) = (Some(at), shared);
            }
        }
        best
    }
}

impl Pattern {
    /// Pairs the runs of a band: the longest first, each with the one that shares most of its columns.
    fn add_band(&mut self, block: usize, mut runs: Vec<Run<'_>>) {
        self.starts.push(self.end());
        runs.sort_by_key(|run| run.index.len());
        let words = self.blocks.columns(block).len().div_ceil(64);
        let mut masks = vec![0u64; runs.len() * words];
        for (run, mask) in runs.iter().zip(masks.chunks_exact_mut(words.max(1))) {
            run.nonzeros().for_each(|(at, _)| mask[at / 64] |= 1 << (at % 64));
        }
        let mask = |run: usize| &masks[run * words..][..words];
        let mut left: Vec<usize> = (0..runs.len()).collect();
        let mut band = Vec::with_capacity(runs.len().div_ceil(2));
        while let Some(one) = left.pop() {
            let near = left.len().saturating_sub(NEAR);
            let search = Partner { mine: mask(one), among: &left[near..], masks: &masks };
            let other = dispatch(Target::detect(), search).map(|at| left.remove(near + at));
            band.push(Paired::new((&runs[one], mask(one)), other.map(|other| (&runs[other], mask(other)))));
        }
        // Each loop of a pair ends in a branch. Where neighbours take as many steps of a kind, it is foreseen.
        band.sort_by_key(|Paired { pair: Pair { steps: [mixed, both, apart], rest, .. }, .. }| {
            (*rest, *apart, *mixed, *both)
        });
        let first = self.blocks.columns(block).start;
        for Paired { pair, columns, values } in band {
            self.pairs.push(pair);
            self.index.extend(columns.iter().map(|&at| self.blocks.index(block, first + at as usize)));
            self.values.extend(values);
        }
    }

    fn end(&self) -> Start {
        Start { pair: self.pairs.len() as u32, value: self.values.len() as u32, index: self.index.len() as u32 }
    }

    fn bands(&self) -> usize {
        bands(self.rows)
    }
}

impl Pack for Pattern {
    fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    fn pack(rows: &Rows, blocks: KBlocks) -> Pattern {
        let (starts, index, values) = rows.parts();
        let mut next = starts.to_vec();
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
                let band = rows_of(&(band..band + 1), rows.rows());
                let mut runs = Vec::with_capacity(band.len());
                for row in band {
                    let from = next[row];
                    let mut to = from;
                    while to < starts[row + 1] && (index[to] as usize) < columns.end {
                        to += 1;
                    }
                    next[row] = to;
                    if every || to > from {
                        let (index, values) = (&index[from..to], &values[from..to]);
                        runs.push(Run { row: row as u32, first: columns.start, index, values });
                    }
                }
                packed.add_band(block, runs);
            }
        }
        packed.starts.push(packed.end());
        packed.index.extend(BEHIND);
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
                for (of, index) in pair.order().zip(index.by_ref()) {
                    if !matches!(of, Of::Other) {
                        put(pair.one, index, values.next());
                    }
                    if !matches!(of, Of::One) {
                        put(pair.other, index, values.next());
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
    fn run_lines(registers: usize) -> usize {
        // Both rows' accumulators, a line and two broadcasts fit the register file.
        if registers >= 32 { 8 } else { 2 }
    }
    fn tile_lines(&self, registers: usize) -> usize {
        // As many as the operand of a block leaves room for in the first-level cache.
        let most = if self.blocks.longest() > KBlocks::panels(8) { 4 } else { 8 };
        most.min(Self::run_lines(registers))
    }
    fn panel_columns(registers: usize, density: f64) -> usize {
        // Many sums side by side hide how long a multiply-add takes. Where few weights are left, what a block begins and ends
        // with costs more.
        let lines = if density > 0.25 { 8 } else { 4 };
        KBlocks::suited(KBlocks::panels(lines.min(Self::run_lines(registers))), density)
    }

    #[inline(always)]
    unsafe fn tile<V: Vector, const T: usize>(&self, v: V, at: Tile<'_>) {
        let first = at.block * self.bands() + at.bands.start;
        let (from, to) = (self.starts[first], self.starts[first + at.bands.len()]);
        // SAFETY: `pack` gave every pair of a band as many indices and values as its steps and what is left take, in the order
        // in which they are read here, and `BEHIND` at the end; every index plus its block's base is a position of the block,
        // which the caller's operand covers; and the rows of a band's pairs are that band's, which the caller's result holds.
        unsafe {
            let base = at.input.wrapping_add(self.blocks.base(at.block) * at.unit);
            let index = self.index.as_ptr().add(from.index as usize);
            let mut next = Next::new(base, at.unit, index, self.values.as_ptr().add(from.value as usize));
            for pair in self.pairs.get_unchecked(from.pair as usize..to.pair as usize) {
                let paired = pair.other != NONE;
                let [mixed, both, apart] = pair.steps;
                let mut a = at.start::<V, T>(v, pair.one as usize);
                let mut b = [v.splat(0.0); T];
                if paired {
                    b = at.start::<V, T>(v, pair.other as usize);
                }
                for _ in 0..mixed {
                    let ([shared, i, j], [p, q, r, s]) = (next.lines(), next.weights(v));
                    add_to_both::<V, T>(v, (&mut a, p), (&mut b, q), shared);
                    add::<V, T>(v, &mut a, r, i);
                    add::<V, T>(v, &mut b, s, j);
                }
                for _ in 0..both {
                    let ([i, j], [p, q, r, s]) = (next.lines(), next.weights(v));
                    add_to_both::<V, T>(v, (&mut a, p), (&mut b, q), i);
                    add_to_both::<V, T>(v, (&mut a, r), (&mut b, s), j);
                }
                for _ in 0..apart {
                    let ([i, j, k, l], [p, q, r, s]) = (next.lines(), next.weights(v));
                    add::<V, T>(v, &mut a, p, i);
                    add::<V, T>(v, &mut b, q, j);
                    add::<V, T>(v, &mut a, r, k);
                    add::<V, T>(v, &mut b, s, l);
                }
                for _ in 0..pair.rest[0] {
                    let ([line], p) = (next.lines(), next.weight(v));
                    add::<V, T>(v, &mut a, p, line);
                }
                for _ in 0..pair.rest[1] {
                    let ([line], q) = (next.lines(), next.weight(v));
                    add::<V, T>(v, &mut b, q, line);
                }
                at.finish::<V, T>(v, pair.one as usize, a);
                if paired {
                    at.finish::<V, T>(v, pair.other as usize, b);
                }
            }
        }
    }
}
