//! The gradient of a sparse matrix, on its nonzeros only: values[i, j] = dY[i] · X[j] (sampled dense-dense product, SDDMM).
//!
//! ```text
//! for chunk of T lines of columns:         a task has some bands of rows
//!   for block of columns of the matrix:    its lines of X are copied side by side, and stay in the first-level cache
//!     for four quads:                      a quad: 4 nonzeros of a row, of which the first lies in the block
//!       acc[4] = Σ_t dY[row][t] * X[column][t];  4 registers become 1: each step adds halves of pairs
//!       4 such registers become 1:         lane q holds the sum of the q-th product
//!       sums[4 · 4] += it                  in the order of the quads: one line after the other
//! for band, block, four quads:             values[..] = sums[..], where each quad has its place
//! ```
//!
//! The sum over lanes costs as much as a multiply-add or two that way; one by one it would cost more than the product.
//! No loop over quads ends where a row does: how many nonzeros of a row lie in a block is not to be foreseen, and a wrong
//! guess takes as long as a quad. Every value is summed in the order of the chunks, whatever the task or the thread.

use super::panels::{Spare, copy_padded};
use super::rows::Rows;
use super::sweep::{bands, bands_a_task, rows_of};
use crate::executor::{Executor, map};
use crate::simd::{Kernel, LANES, Target, Vector, dispatch, first_lanes};
use std::ops::Range;

/// Lines of X and dY in a chunk at most.
const MOST_LINES: usize = 8;
/// Columns of a block: with what quads hold of the next block, less than a first-level cache of 48 KiB, 32 KiB about.
const STEP: usize = 64;
/// Columns from the first of a block on that its quads may meet, and that the copy holds: column c in slot c % WINDOW.
const WINDOW: usize = 512;

/// Nonzeros that are summed together.
pub(super) const FOUR: usize = 4;

/// Four nonzeros of a row, or as many as there are within a window.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(16))]
struct Quad {
    /// The slots of their columns, 16 bits each, in one word: loads are what a chunk waits for. Behind the last its slot again.
    slots: u64,
    /// The row, in its band.
    row: u16,
    /// How many they are.
    count: u16,
    /// The first of them among the nonzeros of the band.
    to: u32,
}

/// The nonzeros of a matrix four by four, in the order in which [`Quads::sddmm`] takes them.
#[derive(Debug)]
pub struct Quads {
    rows: usize,
    columns: usize,
    /// Nonzeros before each band, and all of them.
    before: Vec<usize>,
    quads: Vec<Quad>,
    /// For every block the quads of each band that begin in it, in fours, and once more for the end.
    starts: Vec<usize>,
    /// For every block how far its quads reach: the last column and one.
    reach: Vec<usize>,
}

impl Quads {
    /// The quads of that matrix.
    pub fn new(rows: &Rows) -> Quads {
        let (starts, index, _) = rows.parts();
        let mut next = starts[..rows.rows()].to_vec();
        let blocks = rows.columns().div_ceil(STEP);
        let mut all = Quads {
            rows: rows.rows(),
            columns: rows.columns(),
            before: vec![0],
            quads: Vec::with_capacity(rows.nnz() / FOUR + 2 * rows.rows()),
            starts: vec![0],
            reach: vec![0; blocks],
        };
        let bands: Vec<_> = (0..bands(rows.rows())).map(|band| rows_of(&(band..band + 1), rows.rows())).collect();
        all.before.extend(bands.iter().map(|band| starts[band.end]));
        for (block, reach) in all.reach.iter_mut().enumerate() {
            let first = block * STEP;
            for band in &bands {
                for row in band.clone() {
                    let row_end = starts[row + 1];
                    while next[row] < row_end && (index[next[row]] as usize) < first + STEP {
                        let rest = &index[next[row]..row_end.min(next[row] + FOUR)];
                        // Columns ascend.
                        let (count, slots) = match rest {
                            &[a, b, c, d] if (d as usize) < first + WINDOW => (FOUR, [a, b, c, d]),
                            _ => {
                                let count = rest.partition_point(|&column| (column as usize) < first + WINDOW);
                                (count, std::array::from_fn(|q| rest[q.min(count - 1)]))
                            }
                        };
                        let slot = |q: usize| (slots[q] as usize % WINDOW) as u64;
                        all.quads.push(Quad {
                            slots: (0..FOUR).fold(0, |slots, q| slots | slot(q) << (16 * q)),
                            row: (row - band.start) as u16,
                            count: count as u16,
                            to: (next[row] - starts[band.start]) as u32,
                        });
                        *reach = (*reach).max(rest[count - 1] as usize + 1);
                        next[row] += count;
                    }
                }
                // Quads of no nonzero: their products go nowhere.
                all.quads.resize(all.quads.len().next_multiple_of(FOUR), Quad::default());
                all.starts.push(all.quads.len());
            }
        }
        all
    }

    /// The quads of some bands in a block.
    fn range(&self, block: usize, bands: &Range<usize>) -> Range<usize> {
        let starts = &self.starts[block * (self.before.len() - 1)..];
        starts[bands.start]..starts[bands.end]
    }

    /// Memory in bytes.
    pub fn nbytes(&self) -> usize {
        size_of_val(&self.quads[..]) + size_of::<usize>() * (self.before.len() + self.starts.len() + self.reach.len())
    }

    /// `values[p] = dY[i] · X[j]` for the p-th nonzero (i, j) of the matrix; `dy` is row-major (m, n), `x` row-major (k, n).
    ///
    /// # Panics
    /// Where a slice does not fit: callers check shapes.
    #[expect(clippy::too_many_arguments, reason = "the arguments of a product, and where it works")]
    pub fn sddmm(
        &self,
        executor: &dyn Executor,
        target: Target,
        spare: &Spare,
        n: usize,
        dy: &[f32],
        x: &[f32],
        values: &mut [f32],
    ) {
        assert!(dy.len() == self.rows * n && x.len() == self.columns * n, "sddmm: an operand does not fit the matrix");
        let bands = self.before.len() - 1;
        assert_eq!(values.len(), self.before[bands], "sddmm: one value a nonzero");
        if n == 0 || values.is_empty() {
            return values.fill(0.0);
        }
        let a_task = bands_a_task(self.rows, self.reach.len(), 1, executor);
        let mut tasks = Vec::new();
        let mut rest = values;
        for first in (0..bands).step_by(a_task) {
            let range = first..(first + a_task).min(bands);
            let (values, behind) = rest.split_at_mut(self.before[range.end] - self.before[range.start]);
            rest = behind;
            tasks.push((range, values));
        }
        map(executor, tasks, |(bands, values)| {
            let lengths = [
                WINDOW * MOST_LINES * LANES,
                rows_of(&bands, self.rows).len() * MOST_LINES * LANES,
                (0..self.reach.len()).map(|block| self.range(block, &bands).len() * FOUR).sum(),
            ];
            let mut memory = spare.take(lengths.iter().sum());
            let (window, rest) = memory.split_at_mut(lengths[0]);
            let (padded, sums) = rest.split_at_mut(lengths[1]);
            dispatch(target, Task { quads: self, bands, n, dy, x, window, padded, sums, values });
            spare.put(memory);
        });
    }
}

/// One task: some bands of rows, and the values of their nonzeros.
struct Task<'a> {
    quads: &'a Quads,
    bands: Range<usize>,
    n: usize,
    dy: &'a [f32],
    x: &'a [f32],
    /// Lines of X.
    window: &'a mut [f32],
    /// Lines of dY, where its own cannot be read as they are.
    padded: &'a mut [f32],
    /// The sums so far, in the order of the quads.
    sums: &'a mut [f32],
    values: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let mut from = 0;
        while from < self.n {
            // A chunk more would cost as much as three lines of zeros.
            from += match (self.n - from).div_ceil(LANES) {
                5.. => self.chunk::<V, 8>(v, from),
                3.. => self.chunk::<V, 4>(v, from),
                2 => self.chunk::<V, 2>(v, from),
                _ => self.chunk::<V, 1>(v, from),
            };
        }
        self.scatter(v);
    }
}

impl Task<'_> {
    /// Adds T lines of columns from `from` on to every value; returns how many columns these are.
    #[inline(always)]
    fn chunk<V: Vector, const T: usize>(&mut self, v: V, from: usize) -> usize {
        let all = self.quads;
        let width = (T * LANES).min(self.n - from);
        let rows = rows_of(&self.bands, all.rows);
        // Read again and again: lines begin at lines, and are whole.
        let (dy, dy_step) = if width == T * LANES && self.n.is_multiple_of(LANES) {
            (&self.dy[rows.start * self.n + from..], self.n)
        } else {
            for (row, lines) in rows.clone().zip(self.padded.chunks_exact_mut(T * LANES)) {
                copy_padded(&self.dy[row * self.n + from..][..width], lines);
            }
            (&*self.padded, T * LANES)
        };
        let mut copied = 0;
        let mut sums = self.sums.chunks_exact_mut(LANES);
        for (block, &reach) in all.reach.iter().enumerate() {
            for column in copied..reach {
                let lines = &mut self.window[column % WINDOW * T * LANES..][..T * LANES];
                copy_padded(&self.x[column * self.n + from..][..width], lines);
            }
            copied = copied.max(reach);
            for band in self.bands.clone() {
                let band = band..band + 1;
                let dy = &dy[(rows_of(&band, all.rows).start - rows.start) * dy_step..];
                for (quads, sums) in all.quads[all.range(block, &band)].chunks_exact(FOUR).zip(&mut sums) {
                    // SAFETY: `Quads::new` gave every quad a row of the band, of which `dy` holds T lines, and slots of
                    // the window, which holds T lines of each.
                    unsafe {
                        let products = [
                            products::<V, T>(v, &quads[0], dy.as_ptr(), dy_step, self.window.as_ptr()),
                            products::<V, T>(v, &quads[1], dy.as_ptr(), dy_step, self.window.as_ptr()),
                            products::<V, T>(v, &quads[2], dy.as_ptr(), dy_step, self.window.as_ptr()),
                            products::<V, T>(v, &quads[3], dy.as_ptr(), dy_step, self.window.as_ptr()),
                        ];
                        let products = halve(v, products);
                        v.store(sums, if from > 0 { v.add(v.load(sums), products) } else { products });
                    }
                }
            }
        }
        width
    }

    /// Puts all sums to their places, band by band: values of more rows would not stay in the second-level cache.
    #[inline(always)]
    fn scatter<V: Vector>(self, v: V) {
        let all = self.quads;
        let mut values = self.values;
        for band in self.bands.clone() {
            let (here, behind) = values.split_at_mut(all.before[band + 1] - all.before[band]);
            values = behind;
            let mut sums = &self.sums[..];
            for block in 0..all.reach.len() {
                let (task, band) = (all.range(block, &self.bands), all.range(block, &(band..band + 1)));
                let lines = sums[(band.start - task.start) * FOUR..].chunks_exact(LANES);
                for (quads, sums) in all.quads[band].chunks_exact(FOUR).zip(lines) {
                    let sums = v.load(sums);
                    for (q, quad) in quads.iter().enumerate() {
                        let to = here.as_mut_ptr().wrapping_add(quad.to as usize).wrapping_sub(FOUR * q);
                        // SAFETY: `Quads::new` gave every quad nonzeros of the band, all of whose values are here.
                        unsafe { v.store_masked(to, sums, first_lanes(quad.count as usize) << (FOUR * q)) };
                    }
                }
                sums = &sums[task.len() * FOUR..];
            }
        }
    }
}

/// dY of a quad's row · X of its columns, of T lines each: four sums of neighbouring lanes a nonzero, as [`halve`] leaves them.
///
/// # Safety
/// `dy` holds T lines of the row, where rows are `dy_step` apart, and `window` T lines of every slot.
#[inline(always)]
unsafe fn products<V: Vector, const T: usize>(
    v: V,
    quad: &Quad,
    dy: *const f32,
    dy_step: usize,
    window: *const f32,
) -> V::F32 {
    let mut acc = [v.splat(0.0); FOUR];
    // SAFETY: the caller's promise.
    unsafe {
        let y = dy.add(quad.row as usize * dy_step);
        let x: [_; FOUR] = std::array::from_fn(|q| window.add((quad.slots >> (16 * q)) as u16 as usize * T * LANES));
        for t in 0..T {
            let y = v.load_ptr(y.add(t * LANES));
            for q in 0..FOUR {
                let x = v.load_ptr(x[q].add(t * LANES));
                acc[q] = if t == 0 { v.mul(y, x) } else { v.mul_add(y, x, acc[q]) };
            }
        }
    }
    halve(v, acc)
}

/// Four registers to one, which holds the sums of groups of four neighbouring lanes, register after register.
///
/// Not by `Vector`'s folds: they leave the sums in another order, and adding them where they belong then takes a quarter longer.
#[inline(always)]
pub(super) fn halve<V: Vector>(v: V, acc: [V::F32; FOUR]) -> V::F32 {
    join(v, join(v, acc[0], acc[1]), join(v, acc[2], acc[3]))
}

/// Two registers to one, which holds the sums of pairs of neighbouring lanes.
#[inline(always)]
fn join<V: Vector>(v: V, a: V::F32, b: V::F32) -> V::F32 {
    let (even, odd) = v.unzip(a, b);
    v.add(even, odd)
}
