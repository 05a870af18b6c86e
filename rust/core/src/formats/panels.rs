//! Sparse times dense, row-major in and out: panels of columns, whose operand is packed a K-block at a time.
//!
//! ```text
//! for panel of T lines of columns:          a task has one panel and some bands of rows
//!   for block in K-blocks:
//!     copy the block's operand rows of the panel side by side: they stay in the first-level cache
//!     for row in bands:                     acc[T] = bias or partial sum;  sum;  store
//!                                           last block: straight to the result
//! ```
//!
//! Partial sums have a panel of their own: in the result, rows that lie a large power of two apart evict each other.

use super::epilogue::Epilogue;
use super::shared::Shared;
use super::sweep::{Sweep, Tile, band_rows, bands, bands_a_task, rows_of};
use crate::executor::Executor;
use crate::simd::{Buffer, Kernel, LANES, Target, Vector, dispatch};
use std::ops::Range;
use std::sync::Mutex;

/// Working memory of earlier calls, to be used again.
#[derive(Debug, Default)]
pub struct Spare(Mutex<Vec<Buffer>>);

/// Buffers kept: those of a few threads.
const SPARES: usize = 8;

impl Spare {
    /// A buffer of at least that length. Its contents are whatever they were.
    pub(super) fn take(&self, len: usize) -> Buffer {
        let spare = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
        spare.filter(|buffer| buffer.len() >= len).unwrap_or_else(|| Buffer::zeroed(len))
    }

    pub(super) fn put(&self, buffer: Buffer) {
        let mut spare = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        spare.truncate(SPARES);
        spare.push(buffer);
    }
}

/// Columns in panels, as equal as whole lines allow: a short one at the end would cost as much as the others.
#[derive(Debug, Clone, Copy)]
struct Panels {
    lines: usize,
    count: usize,
}

impl Panels {
    /// Panels of `n` columns, each of at most so many lines.
    fn of(n: usize, most: usize) -> Panels {
        let lines = n.div_ceil(LANES);
        Panels { lines, count: lines.div_ceil(most) }
    }

    /// Where a panel begins, in lines.
    fn start(self, panel: usize) -> usize {
        panel * (self.lines / self.count) + panel.min(self.lines % self.count)
    }
}

/// `y = activation(matrix · x + bias + residual)`, with `x` row-major (k, n) and `y` row-major (m, n).
///
/// # Panics
/// Where a slice does not fit the matrix: callers check shapes.
#[expect(clippy::too_many_arguments, reason = "the arguments of a matmul, and where it works")]
pub fn multiply<M: Sweep>(
    matrix: &M,
    executor: &dyn Executor,
    target: Target,
    spare: &Spare,
    n: usize,
    x: &[f32],
    y: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    let (m, k) = (matrix.rows(), matrix.blocks().total());
    assert!(x.len() == k * n && y.len() == m * n, "multiply: a slice does not fit the matrix");
    assert!(epilogue.residual.is_none_or(|residual| residual.len() >= m * n), "multiply: the residual is too small");
    if m == 0 || n == 0 {
        return;
    }
    let bias = epilogue.padded_bias(m);
    let panels = Panels::of(n, matrix.tile_lines(target.registers()));
    let bands = bands(m);
    let blocks = matrix.blocks().len();
    let bands_a_task = bands_a_task(m, blocks, panels.count, executor);
    let band_tasks = bands.div_ceil(bands_a_task);
    let y = Shared::new(y);
    executor.run(panels.count * band_tasks, &|task| {
        let first = task % band_tasks * bands_a_task;
        let bands = first..(first + bands_a_task).min(bands);
        let panel = task / band_tasks;
        let (from, to) = (panels.start(panel), panels.start(panel + 1));
        let lines = to - from;
        let columns = from * LANES..(to * LANES).min(n);
        let operand_len = matrix.blocks().longest() * lines * LANES;
        // One block's sums of a whole panel are results.
        let partial_rows = if blocks == 1 && columns.len() == lines * LANES { 0 } else { bands.len() * band_rows(m) };
        let mut memory = spare.take(operand_len + partial_rows * lines * LANES);
        let (operand, partial) = memory.split_at_mut(operand_len);
        // Tasks write disjoint (columns × bands).
        let panel = Panel { matrix, x, n, columns, bands, operand, partial, y: y.get(), bias: &bias, epilogue };
        match lines {
            1 => dispatch(target, Lines::<_, 1>(panel)),
            2 => dispatch(target, Lines::<_, 2>(panel)),
            3 => dispatch(target, Lines::<_, 3>(panel)),
            4 => dispatch(target, Lines::<_, 4>(panel)),
            5 => dispatch(target, Lines::<_, 5>(panel)),
            6 => dispatch(target, Lines::<_, 6>(panel)),
            7 => dispatch(target, Lines::<_, 7>(panel)),
            _ => dispatch(target, Lines::<_, 8>(panel)),
        }
        spare.put(memory);
    });
}

/// Copies columns to lines, zeros behind them.
#[inline(always)]
pub(super) fn copy_padded(from: &[f32], lines: &mut [f32]) {
    let (columns, rest) = lines.split_at_mut(from.len());
    columns.copy_from_slice(from);
    rest.fill(0.0);
}

/// One task.
struct Panel<'a, M: Sweep> {
    matrix: &'a M,
    x: &'a [f32],
    n: usize,
    columns: Range<usize>,
    bands: Range<usize>,
    operand: &'a mut [f32],
    partial: &'a mut [f32],
    y: *mut f32,
    bias: &'a [f32],
    epilogue: Epilogue<'a>,
}

/// A panel of T lines.
struct Lines<'a, M: Sweep, const T: usize>(Panel<'a, M>);

impl<M: Sweep, const T: usize> Kernel for Lines<'_, M, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Panel { matrix, x, n, columns, bands, operand, partial, y, bias, epilogue } = self.0;
        let width = T * LANES;
        let whole = columns.len() == width;
        let blocks = matrix.blocks();
        let rows = rows_of(&bands, matrix.rows());
        // Row 0 of the matrix in the partial sums, which begin with the task's first row.
        let first = rows.start;
        if let Some(residual) = epilogue.residual.filter(|_| !whole) {
            // The first block starts from it: there are whole registers of it in the partial sums alone.
            for (row, sums) in rows.clone().zip(partial.chunks_exact_mut(width)) {
                sums[..columns.len()].copy_from_slice(&residual[row * n + columns.start..][..columns.len()]);
            }
        }
        let sums = partial.as_mut_ptr().wrapping_sub(first * width);
        let residual = epilogue.residual.map(|residual| match whole {
            true => (residual.as_ptr().wrapping_add(columns.start), n),
            false => (sums.cast_const(), width),
        });
        for block in 0..blocks.len() {
            let base = blocks.base(block);
            for (row, line) in blocks.columns(block).zip(operand.chunks_exact_mut(width)) {
                let from = &x[row * n + columns.start..];
                if from.len() >= width {
                    // What lies beyond the panel's columns is computed with and never stored.
                    for t in 0..T {
                        v.store(&mut line[t * LANES..], v.load(&from[t * LANES..]));
                    }
                } else {
                    copy_padded(&from[..columns.len()], line);
                }
            }
            let at = Tile {
                block,
                bands: bands.clone(),
                input: operand.as_ptr().wrapping_sub(base * width),
                unit: width,
                partial: sums,
                partial_stride: width,
                // SAFETY: `multiply` asserted that `y` holds m rows of n, and the panel's columns lie inside them.
                output: if whole { unsafe { y.add(columns.start) } } else { sums },
                output_stride: if whole { n } else { width },
                first: block == 0,
                last: block + 1 == blocks.len(),
                bias,
                residual,
                floor: epilogue.activation.floor(),
            };
            // SAFETY: the operand holds the block's rows from position `base` on, `width` apart; the partial sums hold the
            // bands' rows, unless the only block writes whole panels; the result and the residual whole panels of them.
            unsafe { matrix.tile::<V, T>(v, at) };
        }
        for row in rows {
            // SAFETY: `y` holds m rows of n; this task alone touches these columns of its rows.
            let out = unsafe { std::slice::from_raw_parts_mut(y.add(row * n + columns.start), columns.len()) };
            if !whole {
                let at = (row - first) * width;
                out.copy_from_slice(&partial[at..at + out.len()]);
            }
            if let Some(activation) = epilogue.activation.afterwards() {
                activation.of_slice(v.target(), out);
            }
        }
    }
}
