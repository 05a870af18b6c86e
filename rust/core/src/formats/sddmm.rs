//! The gradient of a sparse matrix, on its nonzeros only: values[i, j] = dY[i] · X[j] (sampled dense-dense product, SDDMM).
//!
//! ```text
//! for chunk of T lines of columns:         a task has some bands of rows
//!   for block of columns of the matrix:
//!     copy the block's rows of X side by side: they stay in the first-level cache
//!     for row in bands:                    y[T] = dY[row], in registers
//!       for 4 nonzeros of the row:         acc[4] = Σ_t y[t] * x[column][t];  4 registers become 1: each step adds
//!                                          halves of pairs
//!         when 4 fours are pending:        4 registers become 1, and lane q holds the sum of the q-th product
//! ```
//!
//! The sum over lanes costs as much as a multiply-add or two that way; one by one it would cost more than the product.
//! Every value is summed in the order of the chunks, whatever the task or the thread.

use super::rows::Rows;
use super::sweep::{BAND_ROWS, bands_a_task};
use crate::executor::{Executor, map};
use crate::simd::{Buffer, Kernel, LANES, Target, Vector, dispatch};
use std::ops::Range;

/// Lines of X that a block holds: 24 KiB, which leaves some of the first-level cache to the rest.
const BLOCK_LINES: usize = 384;

/// `values[p] = dY[i] · X[j]` for the p-th nonzero (i, j) of `rows`; `dy` is row-major (m, n), `x` row-major (k, n).
///
/// # Panics
/// Where a slice does not fit: callers check shapes.
pub fn sddmm(
    rows: &Rows,
    executor: &dyn Executor,
    target: Target,
    n: usize,
    dy: &[f32],
    x: &[f32],
    values: &mut [f32],
) {
    assert!(dy.len() == rows.rows() * n && x.len() == rows.columns() * n, "sddmm: an operand does not fit the matrix");
    assert_eq!(values.len(), rows.nnz(), "sddmm: one value a nonzero");
    let bands = rows.rows().div_ceil(BAND_ROWS);
    if bands == 0 {
        return;
    }
    let task_rows = bands_a_task(bands, 1, executor) * BAND_ROWS;
    let (starts, ..) = rows.parts();
    let mut tasks = Vec::new();
    let mut rest = values;
    for first in (0..rows.rows()).step_by(task_rows) {
        let range = first..(first + task_rows).min(rows.rows());
        let (values, behind) = rest.split_at_mut(starts[range.end] - starts[range.start]);
        rest = behind;
        tasks.push((range, values));
    }
    map(executor, tasks, |(range, values)| {
        values.fill(0.0);
        dispatch(target, Task { rows, range, n, dy, x, values });
    });
}

/// One task: some rows, and the values of their nonzeros.
struct Task<'a> {
    rows: &'a Rows,
    range: Range<usize>,
    n: usize,
    dy: &'a [f32],
    x: &'a [f32],
    values: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let mut operand = Buffer::zeroed(BLOCK_LINES * LANES);
        let mut from = 0;
        while from < self.n {
            // Long chunks sum few lanes a multiply-add; short ones finish what is left.
            let lines = (self.n - from).div_ceil(LANES);
            from += match lines {
                8.. if V::REGISTERS >= 32 => self.chunk::<V, 8>(v, from, &mut operand),
                4.. if V::REGISTERS >= 32 => self.chunk::<V, 4>(v, from, &mut operand),
                2.. => self.chunk::<V, 2>(v, from, &mut operand),
                _ => self.chunk::<V, 1>(v, from, &mut operand),
            };
        }
    }
}

impl Task<'_> {
    /// Adds T lines of columns from `from` on to every value; returns how many columns these are.
    #[inline(always)]
    fn chunk<V: Vector, const T: usize>(&mut self, v: V, from: usize, operand: &mut [f32]) -> usize {
        let (starts, index, _) = self.rows.parts();
        let first = starts[self.range.start];
        let columns = (T * LANES).min(self.n - from);
        let mut next: Vec<usize> = starts[self.range.clone()].to_vec();
        let mut pending = Pending { sums: [Line([0.0; LANES]); FOUR], places: [(0, 0); FOUR], count: 0 };
        for block in (0..self.rows.columns()).step_by(BLOCK_LINES / T) {
            let end = (block + BLOCK_LINES / T).min(self.rows.columns());
            for (column, line) in (block..end).zip(operand.chunks_exact_mut(T * LANES)) {
                let x: [V::F32; T] = load_padded(v, &self.x[column * self.n + from..][..columns]);
                x.iter().zip(line.chunks_exact_mut(LANES)).for_each(|(&x, line)| v.store(line, x));
            }
            let inside = |column: &&u32| (**column as usize) < end;
            for (row, next) in self.range.clone().zip(&mut next) {
                let mut run = &index[*next..starts[row + 1]];
                if run.first().filter(inside).is_none() {
                    continue;
                }
                let y: [V::F32; T] = load_padded(v, &self.dy[row * self.n + from..][..columns]);
                loop {
                    let four = run.get(FOUR - 1).filter(inside).is_some();
                    let here = if four { FOUR } else { run.iter().take(FOUR - 1).take_while(inside).count() };
                    if here == 0 {
                        break;
                    }
                    // Plain loops here and in `dot`: closures that hold them are not always inlined into the target's code.
                    let mut acc = [v.splat(0.0); FOUR];
                    if four {
                        for q in 0..FOUR {
                            acc[q] = dot(v, &y, operand, run[q] as usize - block);
                        }
                    } else {
                        for q in 0..here {
                            acc[q] = dot(v, &y, operand, run[q] as usize - block);
                        }
                    }
                    pending.push(v, acc, (*next - first, here), self.values);
                    *next += here;
                    run = &run[here..];
                }
            }
        }
        pending.flush(v, self.values);
        columns
    }
}

/// Products that are summed together, and sets of them.
pub(super) const FOUR: usize = 4;

/// One register in memory.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([f32; LANES]);

/// Products whose lanes are still to be summed, four in a line, and the places of the sums: where, and how many.
struct Pending {
    sums: [Line; FOUR],
    places: [(usize, usize); FOUR],
    count: usize,
}

impl Pending {
    #[inline(always)]
    fn push<V: Vector>(&mut self, v: V, acc: [V::F32; FOUR], place: (usize, usize), values: &mut [f32]) {
        v.store(&mut self.sums[self.count].0, halve(v, acc));
        self.places[self.count] = place;
        self.count += 1;
        if self.count == FOUR {
            self.flush(v, values);
        }
    }

    /// Adds what is pending to `values`.
    #[inline(always)]
    fn flush<V: Vector>(&mut self, v: V, values: &mut [f32]) {
        let sums = v.to_array(halve(v, std::array::from_fn(|q| v.load(&self.sums[q].0))));
        for (&(place, count), sums) in self.places[..self.count].iter().zip(sums.chunks_exact(FOUR)) {
            values[place..place + count].iter_mut().zip(sums).for_each(|(value, sum)| *value += sum);
        }
        self.count = 0;
    }
}

/// y · the T lines of a column, lane by lane.
#[inline(always)]
fn dot<V: Vector, const T: usize>(v: V, y: &[V::F32; T], operand: &[f32], column: usize) -> V::F32 {
    let x = &operand[column * T * LANES..(column + 1) * T * LANES];
    let mut acc = v.mul(y[0], v.load(x));
    for t in 1..T {
        acc = v.mul_add(y[t], v.load(&x[t * LANES..]), acc);
    }
    acc
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

/// T registers from at most as many floats, zeros behind.
#[inline(always)]
fn load_padded<V: Vector, const T: usize>(v: V, from: &[f32]) -> [V::F32; T] {
    if from.len() == T * LANES {
        return std::array::from_fn(|t| v.load(&from[t * LANES..]));
    }
    let mut padded = [0.0; 8 * LANES];
    padded[..from.len()].copy_from_slice(from);
    std::array::from_fn(|t| v.load(&padded[t * LANES..]))
}
