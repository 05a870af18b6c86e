//! The gradient of a convolution's weights, on their nonzeros only: an SDDMM over the cells of the images.
//!
//! ```text
//! for images that share cells, rows of cells:          a task has some of the images
//!   cut x                                              [channel][row][column][16 cells]
//!   cut dY, by the grid of the outputs                 [filter][row][column][16 cells]
//!   for chunk of R rows of T lines of dY:              a few rows of a cell: many multiply-adds a sum over lanes
//!     for block of channels:                           their lines stay in the second-level cache
//!       for filter, 4 nonzeros (channel, tap) of it:
//!         acc[4] = Σ dY[filter][y][x] * X[channel][y·stride + tap row][x·stride + tap column]
//!         sums += 4 registers become 1: 4 lanes a nonzero, which are added when all is done
//! ```
//!
//! Lanes of dY that are no pixels are zero, whatever the input's cells hold there. Images are summed in groups whose number
//! does not depend on the threads.

use super::Rows;
use super::cells::Cut;
use super::convolve::Convolution;
use super::panels::Spare;
use super::sddmm::{FOUR, halve};
use crate::executor::{Executor, for_each_chunk, map};
use crate::simd::{Kernel, LANES, Target, Vector, dispatch};
use std::ops::Range;

/// The most groups of images with sums of their own.
const GROUPS: usize = 8;
/// Lines of a filter's outputs in a chunk, about: many multiply-adds a sum over lanes.
const CHUNK_LINES: usize = 48;
/// Lines of X that a block holds: 64 KiB. A block that fits the first-level cache would leave a filter few nonzeros in it.
const BLOCK_LINES: usize = 1024;

impl Convolution {
    /// Where every nonzero of the filters meets the cells: what [`Convolution::gradient`] takes.
    pub fn index(&self, filters: &Rows) -> Vec<u32> {
        filters.parts().1.iter().map(|&column| self.position(column as usize)).collect()
    }

    /// `values[p]` = the sum over images and outputs of `dy` times what the p-th nonzero of the filters met in `x`, where
    /// the filters are in `groups` groups of equal size.
    ///
    /// # Panics
    /// Where a slice does not hold the images, or the filters do not fit: callers check shapes.
    #[expect(clippy::too_many_arguments, reason = "the arguments of a gradient, and where it works")]
    pub fn gradient(
        &self,
        (filters, index, groups): (&Rows, &[u32], usize),
        executor: &dyn Executor,
        target: Target,
        spare: &Spare,
        images: usize,
        dy: &[f32],
        x: &[f32],
        values: &mut [f32],
    ) {
        let (nnz, rows) = (filters.nnz(), filters.rows());
        assert!(x.len() >= images * self.input.len() && dy.len() >= images * self.output.len(), "gradient: images");
        assert!(rows == self.output.channels && index.len() == nnz && values.len() == nnz, "gradient: the filters");
        if images * self.output.len() == 0 || nnz == 0 {
            return values.fill(0.0);
        }
        let together = self.written.together;
        let a_group = images.div_ceil(together).div_ceil(GROUPS) * together;
        let parts = images.div_ceil(a_group);
        // Filters are cut where there are too few images for the threads; then each task cuts the same cells.
        let shares = if groups == 1 { executor.threads().div_ceil(parts) } else { 1 };
        let a_share = rows.div_ceil(shares);
        let mut sums = vec![0.0; if parts == 1 { 0 } else { parts * nnz }];
        let (starts, ..) = filters.parts();
        let mut tasks = Vec::new();
        for (part, mut sums) in (if parts == 1 { &mut *values } else { &mut sums }).chunks_mut(nnz).enumerate() {
            for first in (0..rows).step_by(a_share) {
                let range = first..(first + a_share).min(rows);
                let (here, behind) = sums.split_at_mut(starts[range.end] - starts[first]);
                sums = behind;
                tasks.push((part * a_group..images.min((part + 1) * a_group), range, here));
            }
        }
        map(executor, tasks, |(images, range, values)| {
            // A register more: the last nonzeros may be fewer than four.
            let len = values.len() * FOUR + LANES;
            let mut sums = spare.take(len);
            sums[..len].fill(0.0);
            for image in images.clone().step_by(together) {
                let end = images.end.min(image + together);
                let x = &x[image * self.input.len()..end * self.input.len()];
                let dy = &dy[image * self.output.len()..end * self.output.len()];
                self.add_gradient((filters, index, groups), target, spare, (dy, x), (range.clone(), &mut sums));
            }
            for (value, sums) in values.iter_mut().zip(sums.chunks_exact(FOUR)) {
                *value = (sums[0] + sums[1]) + (sums[2] + sums[3]);
            }
            spare.put(sums);
        });
        if parts > 1 {
            const PIECE: usize = 4096;
            for_each_chunk(executor, values, PIECE, &|piece, values| {
                values.fill(0.0);
                for sums in sums.chunks_exact(nnz) {
                    values.iter_mut().zip(&sums[piece * PIECE..]).for_each(|(value, sum)| *value += sum);
                }
            });
        }
    }

    /// Adds what images that share cells contribute to the sums of some filters' nonzeros.
    fn add_gradient(
        &self,
        (filters, index, groups): (&Rows, &[u32], usize),
        target: Target,
        spare: &Spare,
        (dy, x): (&[f32], &[f32]),
        (range, sums): (Range<usize>, &mut [f32]),
    ) {
        let cells_len = self.input.channels * self.steps.0;
        let mut memory = spare.take(cells_len + self.output.channels * self.steps.1);
        let (x_cells, dy_cells) = memory.split_at_mut(cells_len);
        let (stride, extent) = (self.window.stride.0, self.window.extent().0);
        for start in (0..self.written.size.0).step_by(self.rows) {
            let end = (start + self.rows).min(self.written.size.0);
            let rows = start * stride..(end - 1) * stride + extent;
            dispatch(target, Cut { pieces: &self.cut, rows, images: x, cells: x_cells, channel_step: self.steps.0 });
            let rows = start..end;
            dispatch(target, Cut { pieces: &self.join, rows, images: dy, cells: dy_cells, channel_step: self.steps.1 });
            let (starts, ..) = filters.parts();
            let first = starts[range.start];
            for group in 0..groups {
                let filters = filters.rows() / groups;
                let range = (group * filters).max(range.start)..((group + 1) * filters).min(range.end);
                if range.is_empty() {
                    continue;
                }
                let channels = self.input.channels / groups;
                let task = Task {
                    convolution: self,
                    starts,
                    index,
                    next: Vec::with_capacity(range.len()),
                    sums: &mut sums[(starts[range.start] - first) * FOUR..],
                    range,
                    channels,
                    rows: end - start,
                    dy: dy_cells,
                    x: &x_cells[group * channels * self.steps.0..],
                };
                dispatch(target, task);
            }
        }
        spare.put(memory);
    }
}

/// Some filters of one group, over some rows of cells.
struct Task<'a> {
    convolution: &'a Convolution,
    /// Where the nonzeros of all filters begin.
    starts: &'a [usize],
    /// Where each meets the cells: positions that ascend in every filter.
    index: &'a [u32],
    range: Range<usize>,
    /// The first nonzero of each filter that this chunk has not met.
    next: Vec<usize>,
    /// Four lanes a nonzero of these filters.
    sums: &'a mut [f32],
    channels: usize,
    rows: usize,
    dy: &'a [f32],
    x: &'a [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        if self.convolution.window.stride.1 == 1 {
            self.chunks::<V, true>(v);
        } else {
            self.chunks::<V, false>(v);
        }
    }
}

impl Task<'_> {
    #[inline(always)]
    fn chunks<V: Vector, const NEAR: bool>(mut self, v: V) {
        let width = self.convolution.written.size.1;
        let most = if V::REGISTERS >= 32 { 8 } else { 2 };
        // Equal chunks: 14 lines are 7 + 7, not 8 + 6.
        let chunks = width.div_ceil(most);
        let rows = (CHUNK_LINES * chunks / width).clamp(1, self.rows);
        let rows = self.rows.div_ceil(self.rows.div_ceil(rows));
        let mut row = 0;
        while row < self.rows {
            let rows = rows.min(self.rows - row);
            let mut column = 0;
            for chunk in 0..chunks {
                let lines = (width - column).div_ceil(chunks - chunk);
                match lines {
                    8 if V::REGISTERS >= 32 => self.chunk::<V, 8, NEAR>(v, (row, column), rows),
                    7 if V::REGISTERS >= 32 => self.chunk::<V, 7, NEAR>(v, (row, column), rows),
                    6 if V::REGISTERS >= 32 => self.chunk::<V, 6, NEAR>(v, (row, column), rows),
                    5 if V::REGISTERS >= 32 => self.chunk::<V, 5, NEAR>(v, (row, column), rows),
                    4 if V::REGISTERS >= 32 => self.chunk::<V, 4, NEAR>(v, (row, column), rows),
                    3 if V::REGISTERS >= 32 => self.chunk::<V, 3, NEAR>(v, (row, column), rows),
                    2 => self.chunk::<V, 2, NEAR>(v, (row, column), rows),
                    _ => self.chunk::<V, 1, NEAR>(v, (row, column), rows),
                }
                column += lines;
            }
            row += rows;
        }
    }

    /// Adds some rows of T lines to every sum.
    #[inline(always)]
    fn chunk<V: Vector, const T: usize, const NEAR: bool>(&mut self, v: V, (row, column): (usize, usize), rows: usize) {
        let Convolution { window, read, written, steps, .. } = self.convolution;
        let ((down, right), extent) = (window.stride, window.extent());
        let steps_of_rows = (written.row_len(), down * read.row_len());
        let step = if NEAR { LANES } else { right * LANES };
        let y_len = (rows - 1) * steps_of_rows.0 + T * LANES;
        let x_len = (rows - 1) * steps_of_rows.1 + (T - 1) * step + LANES;
        let x = &self.x[row * steps_of_rows.1 + column * right * LANES..];
        let dy = &self.dy[row * steps_of_rows.0 + column * LANES..];
        let touched = ((rows - 1) * down + extent.0) * ((T - 1) * right + extent.1);
        let channels = (BLOCK_LINES / touched).max(1);

        let first = self.starts[self.range.start];
        self.next.clear();
        self.next.extend_from_slice(&self.starts[self.range.clone()]);
        for channel in (0..self.channels).step_by(channels) {
            let end = ((channel + channels).min(self.channels) * (steps.0 / LANES)) as u32;
            for (filter, next) in self.range.clone().zip(&mut self.next) {
                let mut run = &self.index[*next..self.starts[filter + 1]];
                if run.first().is_none_or(|&position| position >= end) {
                    continue;
                }
                let y = &dy[filter * steps.1..][..y_len];
                loop {
                    let mut here = 0;
                    let mut operands = [x; FOUR];
                    for q in 0..FOUR {
                        if here == q && q < run.len() && run[q] < end {
                            operands[q] = &x[run[q] as usize * LANES..][..x_len];
                            here += 1;
                        }
                    }
                    let zero = v.splat(0.0);
                    // SAFETY: `y` and the operands were sliced to hold all rows of T lines.
                    let acc = unsafe {
                        match here {
                            0 => break,
                            1 => {
                                let [a] = dots::<V, T, 1>(v, y, [operands[0]], rows, steps_of_rows, step);
                                [a, zero, zero, zero]
                            }
                            2 => {
                                let both = [operands[0], operands[1]];
                                let [a, b] = dots::<V, T, 2>(v, y, both, rows, steps_of_rows, step);
                                [a, b, zero, zero]
                            }
                            3 => {
                                let three = [operands[0], operands[1], operands[2]];
                                let [a, b, c] = dots::<V, T, 3>(v, y, three, rows, steps_of_rows, step);
                                [a, b, c, zero]
                            }
                            _ => dots::<V, T, FOUR>(v, y, operands, rows, steps_of_rows, step),
                        }
                    };
                    let sums = &mut self.sums[(*next - first) * FOUR..];
                    v.store(sums, v.add(v.load(sums), halve(v, acc)));
                    *next += here;
                    run = &run[here..];
                    if here < FOUR {
                        break;
                    }
                }
            }
        }
    }
}

/// y · x for Q operands, lane by lane, over rows of T lines.
///
/// # Safety
/// `y` and each of `x` hold the last line of the last row, where rows are `row_steps` apart and lines of x `step`.
#[inline(always)]
unsafe fn dots<V: Vector, const T: usize, const Q: usize>(
    v: V,
    y: &[f32],
    x: [&[f32]; Q],
    rows: usize,
    row_steps: (usize, usize),
    step: usize,
) -> [V::F32; Q] {
    let mut acc = [v.splat(0.0); Q];
    for row in 0..rows {
        for t in 0..T {
            // SAFETY: the caller's promise.
            unsafe {
                let y = v.load_ptr(y.as_ptr().add(row * row_steps.0 + t * LANES));
                for q in 0..Q {
                    let x = v.load_ptr(x[q].as_ptr().add(row * row_steps.1 + t * step));
                    acc[q] = v.mul_add(y, x, acc[q]);
                }
            }
        }
    }
    acc
}
