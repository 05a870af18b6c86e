//! The gradient of a sparse matrix, on its nonzeros only: values[i, j] = dY[i] · X[j] (sampled dense-dense product, SDDMM).
//!
//! ```text
//! for chunk of T lines of columns:         a task has some bands of rows
//!   for block of columns of the matrix:
//!     copy the block's rows of X side by side: they stay in cache
//!     for row in bands:                    y[T] = dY[row], in registers
//!       for 4 nonzeros of the row:         acc[4] = Σ_t y[t] * x[column][t];  4 registers become 1: each step adds
//!                                          halves of pairs
//!       for 4 such registers:              they become 1: lane q holds the sum of the q-th product
//!         values[16] += it
//! ```
//!
//! The sum over lanes costs as much as a multiply-add or two that way; one by one it would cost more than the product.
//! Every value is summed in the order of the chunks, whatever the task or the thread.

use super::rows::Rows;
use super::sweep::{band_rows, bands_a_task};
use crate::executor::{Executor, map};
use crate::simd::{Buffer, Kernel, LANES, Target, Vector, dispatch, prefetch};
use std::ops::Range;

/// Lines of X that a block of a dense matrix would hold: less than the first-level cache.
const LINES: f64 = 400.0;
/// And what a block holds at most: 256 KiB, which leaves some of the second-level cache to the rest.
const MOST_LINES: usize = 4096;

/// Lines of X and dY that a chunk has at most.
fn most_lines(registers: usize) -> usize {
    if registers >= 32 { 8 } else { 2 }
}

/// The rows of a matrix cut at blocks of its columns.
#[derive(Debug)]
pub struct Cuts {
    /// Columns of a block.
    step: usize,
    /// For every block the nonzeros of each row that lie before it, and once more for the end.
    before: Vec<u32>,
}

impl Cuts {
    /// Cuts for [`sddmm`] on that target.
    pub fn new(rows: &Rows, target: Target) -> Cuts {
        // What is read of X comes from farther away the longer a block is, and a row's line of dY, the start and the end of a
        // run serve density · length nonzeros: length + 1 / (density · length) is least there.
        let lines = (LINES / rows.density().sqrt()) as usize;
        let step = lines.min(MOST_LINES) / most_lines(target.registers());
        let mut before = vec![0; rows.rows()];
        let (starts, index, _) = rows.parts();
        for block in (0..rows.columns()).step_by(step) {
            for row in 0..rows.rows() {
                let behind = before[before.len() - rows.rows()];
                let rest = &index[starts[row] + behind as usize..starts[row + 1]];
                let here = rest[..rest.len().min(step)].partition_point(|&column| (column as usize) < block + step);
                before.push(behind + here as u32);
            }
        }
        Cuts { step, before }
    }

    /// Memory in bytes.
    pub fn nbytes(&self) -> usize {
        self.before.len() * size_of::<u32>()
    }
}

/// `values[p] = dY[i] · X[j]` for the p-th nonzero (i, j) of `rows`, cut for the same target; `dy` is row-major (m, n), `x`
/// row-major (k, n).
///
/// # Panics
/// Where a slice does not fit: callers check shapes.
#[expect(clippy::too_many_arguments, reason = "the arguments of a product, and where it works")]
pub fn sddmm(
    rows: &Rows,
    cuts: &Cuts,
    executor: &dyn Executor,
    target: Target,
    n: usize,
    dy: &[f32],
    x: &[f32],
    values: &mut [f32],
) {
    assert!(dy.len() == rows.rows() * n && x.len() == rows.columns() * n, "sddmm: an operand does not fit the matrix");
    assert_eq!(values.len(), rows.nnz(), "sddmm: one value a nonzero");
    if n == 0 {
        return values.fill(0.0);
    }
    if rows.rows() == 0 {
        return;
    }
    let task_rows = bands_a_task(rows.rows(), 1, executor) * band_rows(rows.rows());
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
        dispatch(target, Task { rows, cuts, range, n, dy, x, values });
    });
}

/// One task: some rows, and the values of their nonzeros.
struct Task<'a> {
    rows: &'a Rows,
    cuts: &'a Cuts,
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
        let mut operand = Buffer::zeroed(self.cuts.step * most_lines(V::REGISTERS) * LANES);
        let mut sums = Buffer::zeroed((self.cuts.step * most_lines(V::REGISTERS)).next_multiple_of(LANES) * FOUR);
        let mut from = 0;
        while from < self.n {
            // Long chunks sum few lanes a multiply-add; short ones finish what is left.
            let lines = (self.n - from).div_ceil(LANES);
            from += match lines {
                8.. if V::REGISTERS >= 32 => self.chunk::<V, 8>(v, from, &mut operand, &mut sums),
                4.. if V::REGISTERS >= 32 => self.chunk::<V, 4>(v, from, &mut operand, &mut sums),
                2.. => self.chunk::<V, 2>(v, from, &mut operand, &mut sums),
                _ => self.chunk::<V, 1>(v, from, &mut operand, &mut sums),
            };
        }
    }
}

impl Task<'_> {
    /// Adds T lines of columns from `from` on to every value; returns how many columns these are.
    #[inline(always)]
    fn chunk<V: Vector, const T: usize>(&mut self, v: V, from: usize, operand: &mut [f32], sums: &mut [f32]) -> usize {
        let (starts, index, _) = self.rows.parts();
        let first = starts[self.range.start];
        let columns = (T * LANES).min(self.n - from);
        // Narrow chunks take several blocks at once.
        let step = self.cuts.step * (most_lines(V::REGISTERS) / T);
        let cuts = self.cuts.before.chunks_exact(self.rows.rows()).step_by(step / self.cuts.step);
        let last = &self.cuts.before[self.cuts.before.len() - self.rows.rows()..];
        let ends = cuts.clone().skip(1).chain([last]);
        for (block, (starts_here, ends)) in (0..self.rows.columns()).step_by(step).zip(cuts.zip(ends)) {
            let end = (block + step).min(self.rows.columns());
            for (column, line) in (block..end).zip(operand.chunks_exact_mut(T * LANES)) {
                let x: [V::F32; T] = load_padded(v, &self.x[column * self.n + from..][..columns]);
                x.iter().zip(line.chunks_exact_mut(LANES)).for_each(|(&x, line)| v.store(line, x));
            }
            let base = operand.as_ptr().wrapping_sub(block * T * LANES);
            for row in self.range.clone() {
                // Every row's run lies elsewhere in the index, and each comes from memory once a block.
                if row + 1 < self.range.end {
                    let next = index.as_ptr().wrapping_add(starts[row + 1] + starts_here[row + 1] as usize);
                    prefetch(next);
                    prefetch(next.wrapping_add(LANES));
                }
                let run = starts[row] + starts_here[row] as usize..starts[row] + ends[row] as usize;
                if run.is_empty() {
                    continue;
                }
                let y: [V::F32; T] = load_padded(v, &self.dy[row * self.n + from..][..columns]);
                let values = &mut self.values[run.start - first..run.end - first];
                let run = &index[run];
                // Columns ascend: all of them lie in the block.
                assert!(
                    run[0] as usize >= block && (run[run.len() - 1] as usize) < end,
                    "sddmm: cuts of another matrix"
                );
                // SAFETY: the operand holds T lines of every column of the block, among them those of the run.
                unsafe { products(v, &y, base, run, sums) };
                for (four, values) in sums.chunks_exact(FOUR * LANES).zip(values.chunks_mut(LANES)) {
                    let lines = std::array::from_fn(|f| v.load(&four[f * LANES..]));
                    let mut sums = halve(v, lines);
                    if from > 0 {
                        sums = v.add(v.load_some(values, values.len()), sums);
                    }
                    v.store_some(values, sums, values.len());
                }
            }
        }
        columns
    }
}

/// Products that are summed together, and sets of them.
pub(super) const FOUR: usize = 4;

/// y · the T lines of each column of `run`, a register to four of them, whose lanes are summed as [`halve`] does.
///
/// # Safety
/// `operand` holds T lines of each column of `run`, where column 0 comes first; `run` has one at least.
#[inline(always)]
unsafe fn products<V: Vector, const T: usize>(
    v: V,
    y: &[V::F32; T],
    operand: *const f32,
    run: &[u32],
    sums: &mut [f32],
) {
    // Plain loops here and in what is called: closures that hold them are not always inlined into the target's code.
    let last = (run.len() - 1) / FOUR;
    for f in 0..last {
        let columns = [run[f * FOUR], run[f * FOUR + 1], run[f * FOUR + 2], run[f * FOUR + 3]];
        // SAFETY: the caller's promise.
        v.store(&mut sums[f * LANES..], unsafe { four(v, y, operand, columns) });
    }
    // As many again, the last column more than once: how many there are is not to be foreseen, and a wrong guess would take
    // longer than three of them.
    let rest = &run[last * FOUR..];
    let columns = [rest[0], rest[1.min(rest.len() - 1)], rest[2.min(rest.len() - 1)], rest[rest.len() - 1]];
    // SAFETY: the caller's promise.
    v.store(&mut sums[last * LANES..], unsafe { four(v, y, operand, columns) });
}

/// y · the T lines of four columns.
///
/// # Safety
/// `operand` holds T lines of each, where column 0 comes first.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "iterators over registers may stay calls, which spill them")]
unsafe fn four<V: Vector, const T: usize>(v: V, y: &[V::F32; T], operand: *const f32, columns: [u32; FOUR]) -> V::F32 {
    let mut acc = [v.splat(0.0); FOUR];
    let x = columns.map(|column| operand.wrapping_add(column as usize * T * LANES));
    // SAFETY: the caller's promise.
    unsafe {
        for q in 0..FOUR {
            acc[q] = v.mul(y[0], v.load_ptr(x[q]));
        }
        for t in 1..T {
            for q in 0..FOUR {
                acc[q] = v.mul_add(y[t], v.load_ptr(x[q].add(t * LANES)), acc[q]);
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
