//! The loop that all multi-column kernels share: a packed matrix swept over runs of its operand.
//!
//! The operand is a set of *rows of lines* (a line is 16 floats). Column j of the matrix meets the operand at
//! `position(j) · unit`, so one loop serves matmul and convolution alike:
//!
//! ```text
//! matmul, panels of `unit` columns     convolution, batch innermost        convolution, pixels in the lanes
//! position(j) = j                      position(c,y,x) = (c·H + y)·W + x   the same, in rows of whole registers
//! a span = one panel                   a span = one output row             a span = a few output rows
//!
//! for tile in span:                 T lines of the operand and of the result
//!   for block in K-blocks:          the tile's operand rows of one block stay in L1
//!     for group in row groups:      R rows of the matrix, as the format groups them
//!       acc[R][T] = bias or partial result
//!       for (position, values[R]):  acc[r][t] += values[r] * operand[position·unit + t]
//!       store acc                   last block: bias was added first, activation now
//! ```
//!
//! Tasks share rows by *bands* of [`band_rows`]: inside a band a format may take the rows in any order. Every result element
//! is summed in the order that the packing has fixed, whatever the tile, the task or the thread.

use super::epilogue::{Activation, Epilogue};
use super::kblocks::KBlocks;
use super::shared::Shared;
use crate::executor::Executor;
use crate::simd::{Kernel, LANES, Target, Vector, dispatch, prefetch};
use std::ops::Range;

/// A contiguous run of operand lines and where its results go, in floats from the start of either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where position 0 of this run lies in the operand.
    pub input: usize,
    /// Where row 0 of this run lies in the result.
    pub output: usize,
    /// Its length, in lines.
    pub lines: usize,
}

/// How a matrix meets its operand.
#[derive(Debug, Clone, Copy)]
pub struct Geometry<'a> {
    /// Floats in one step of a position.
    pub unit: usize,
    /// Floats between two rows of the result.
    pub row_stride: usize,
    /// The runs; their results do not overlap.
    pub spans: &'a [Span],
}

impl Geometry<'_> {
    /// The floats that the result spans for `m` rows.
    fn output_len(&self, m: usize) -> usize {
        let last = |span: &Span| span.output + (m - 1) * self.row_stride + span.lines * LANES;
        if m == 0 { 0 } else { self.spans.iter().map(last).max().unwrap_or(0) }
    }

    /// The floats that an operand must hold for positions up to `reach`.
    fn input_len(&self, reach: Option<usize>) -> usize {
        let Some(reach) = reach else { return 0 };
        self.spans.iter().map(|span| span.input + reach * self.unit + span.lines * LANES).max().unwrap_or(0)
    }
}

/// Rows of a task of several K-blocks at most, about: their partial sums stay in the second-level cache.
const TASK_ROWS: usize = 1024;
/// Rows of a band at least: among fewer it is hard to find a partner.
const LEAST_ROWS: usize = 128;
/// Bands for threads to share, if there are rows for as many.
const BANDS: usize = 4;

/// Rows of a band of a matrix: the more there are, the more a format gains from taking them in an order of its own. A multiple
/// of the rows of every block.
pub fn band_rows(rows: usize) -> usize {
    rows.div_ceil(BANDS).clamp(LEAST_ROWS, TASK_ROWS).next_multiple_of(LANES)
}

/// Bands of a matrix.
pub fn bands(rows: usize) -> usize {
    rows.div_ceil(band_rows(rows))
}

/// Bands in a task, where there are so many `pieces` of the operand: two tasks a thread at least, if there are bands for
/// it, but no more than needed, because each task reads its operand anew. Nor more rows than may stay in cache from one K-block
/// to the next, if there are several.
pub(super) fn bands_a_task(rows: usize, blocks: usize, pieces: usize, executor: &dyn Executor) -> usize {
    let wanted = if executor.threads() == 1 { 1 } else { (2 * executor.threads()).div_ceil(pieces) };
    let most = if blocks > 1 { TASK_ROWS / band_rows(rows) } else { usize::MAX };
    bands(rows).div_ceil(wanted).min(most)
}

/// A packed matrix that [`sweep`] can run.
pub trait Sweep: Sync {
    /// Rows of the matrix.
    fn rows(&self) -> usize;
    /// Its columns, where they meet the operand and how they are cut.
    fn blocks(&self) -> &KBlocks;
    /// Rows that are swept together.
    const GROUP_ROWS: usize;

    /// Lines in a tile of a long run on a target with this many registers, at most 8: where taps share lines, many of them
    /// fit a cache, and what is read of the weights serves them all.
    fn run_lines(registers: usize) -> usize;

    /// Lines in a tile of a panel, at most 8.
    fn tile_lines(&self, registers: usize) -> usize;

    /// Columns of a K-block in panels, for a matrix of this density.
    fn panel_columns(registers: usize, density: f64) -> usize;

    /// One tile of T lines, one K-block, some bands of rows.
    ///
    /// # Safety
    /// `input` holds 16 T floats at the positions of the block's columns, times `unit`; `partial`, `output` and the residual
    /// hold 16 T floats in each of the bands' rows, as far apart as their strides say.
    unsafe fn tile<V: Vector, const T: usize>(&self, v: V, at: Tile<'_>);
}

/// The name of a kernel for tiles of so many lines, for example `spmm_csr_f32_1x64__avx512`.
fn kernel_name<M: Sweep>(format: &str, lines: usize, target: Target) -> String {
    format!("spmm_{format}_f32_{}x{}__{}", M::GROUP_ROWS, lines * LANES, target.name())
}

/// The name of the kernel that takes panels.
pub fn panel_kernel<M: Sweep>(matrix: &M, format: &str, target: Target) -> String {
    kernel_name::<M>(format, matrix.tile_lines(target.registers()), target)
}

/// The name of the kernel that takes long runs.
pub fn run_kernel<M: Sweep>(format: &str, target: Target) -> String {
    kernel_name::<M>(format, M::run_lines(target.registers()), target)
}

/// The rows of some bands, in a matrix of `rows`.
#[inline(always)]
pub(super) fn rows_of(bands: &Range<usize>, rows: usize) -> Range<usize> {
    let band = band_rows(rows);
    bands.start * band..(bands.end * band).min(rows)
}

/// The place of one call of [`Sweep::tile`].
pub struct Tile<'a> {
    /// K-block.
    pub block: usize,
    /// Bands of rows.
    pub bands: Range<usize>,
    /// The operand at position 0.
    pub input: *const f32,
    /// Floats in one step of a position.
    pub unit: usize,
    /// Row 0 of the partial sums that the blocks before left, and this one leaves unless it is the last. Only rows of the bands
    /// need to be there: row 0 may lie before the memory.
    pub partial: *mut f32,
    /// Floats between two rows of partial sums.
    pub partial_stride: usize,
    /// The result's row 0, in the same way.
    pub output: *mut f32,
    /// Floats between two rows of the result.
    pub output_stride: usize,
    /// The first K-block starts from the bias, the others from what is stored.
    pub first: bool,
    /// The last K-block applies the activation.
    pub last: bool,
    /// Bias of all rows.
    pub bias: &'a [f32],
    /// What is added to the bias: row 0, and floats between rows.
    pub residual: Option<(*const f32, usize)>,
    /// Results are clamped to this from below.
    pub floor: f32,
}

impl Tile<'_> {
    /// The rows of the bands, in a matrix of `rows`.
    #[inline(always)]
    pub fn rows(&self, rows: usize) -> Range<usize> {
        rows_of(&self.bands, rows)
    }

    /// The accumulators of a row to start from.
    ///
    /// # Safety
    /// `row` is one of the bands'; otherwise as [`Sweep::tile`].
    #[inline(always)]
    pub unsafe fn start<V: Vector, const T: usize>(&self, v: V, row: usize) -> [V::F32; T] {
        if self.last {
            // A large result is far away, and its rows too far apart for the processor to foresee where this one's is stored.
            let to = self.output.wrapping_add(row * self.output_stride);
            (0..T).for_each(|t| prefetch(to.wrapping_add(t * LANES).cast_const()));
        }
        // SAFETY: the caller's promise; the bias holds all rows.
        unsafe {
            if self.first {
                let bias = v.splat(*self.bias.get_unchecked(row));
                let Some((residual, stride)) = self.residual else { return [bias; T] };
                let from = residual.wrapping_add(row * stride);
                std::array::from_fn(|t| v.add(v.load_ptr(from.add(t * LANES)), bias))
            } else {
                let from = self.partial.wrapping_add(row * self.partial_stride);
                std::array::from_fn(|t| v.load_ptr(from.add(t * LANES)))
            }
        }
    }

    /// Stores the accumulators of a row.
    ///
    /// # Safety
    /// As [`Tile::start`].
    #[inline(always)]
    pub unsafe fn finish<V: Vector, const T: usize>(&self, v: V, row: usize, acc: [V::F32; T]) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.last {
                let (to, floor) = (self.output.wrapping_add(row * self.output_stride), v.splat(self.floor));
                for (t, &x) in acc.iter().enumerate() {
                    v.store_ptr(to.add(t * LANES), v.max(floor, x));
                }
            } else {
                let to = self.partial.wrapping_add(row * self.partial_stride);
                for (t, &x) in acc.iter().enumerate() {
                    v.store_ptr(to.add(t * LANES), x);
                }
            }
        }
    }
}

/// Lines in one task, about.
const TASK_LINES: usize = 8;

/// `output = activation(matrix · operand + bias + residual)` over all spans.
///
/// # Panics
/// Where operand, result, residual or bias are smaller than the geometry says: callers check shapes.
pub fn sweep<M: Sweep>(
    matrix: &M,
    executor: &dyn Executor,
    target: Target,
    geometry: &Geometry<'_>,
    input: &[f32],
    output: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    if matrix.rows() == 0 || geometry.spans.is_empty() {
        return;
    }
    assert!(input.len() >= geometry.input_len(matrix.blocks().reach()), "sweep: the operand is too small");
    let output_len = geometry.output_len(matrix.rows());
    assert!(output.len() >= output_len, "sweep: the result is too small");
    assert!(epilogue.residual.is_none_or(|residual| residual.len() >= output_len), "sweep: the residual is too small");
    let bias = epilogue.padded_bias(matrix.rows());
    // Tasks write disjoint spans × row groups.
    let output = Shared::new(output);

    let lines: usize = geometry.spans.iter().map(|span| span.lines).max().unwrap_or(1).max(1);
    let spans_a_task = (TASK_LINES / lines).max(1);
    let span_tasks = geometry.spans.len().div_ceil(spans_a_task);
    let bands = bands(matrix.rows());
    let bands_a_task = bands_a_task(matrix.rows(), matrix.blocks().len(), span_tasks, executor);
    let band_tasks = bands.div_ceil(bands_a_task);

    executor.run(span_tasks * band_tasks, &|task| {
        let first_span = task / band_tasks * spans_a_task;
        let first_band = task % band_tasks * bands_a_task;
        let run = Run {
            matrix,
            geometry: Geometry {
                spans: &geometry.spans[first_span..(first_span + spans_a_task).min(geometry.spans.len())],
                ..*geometry
            },
            bands: first_band..(first_band + bands_a_task).min(bands),
            input: input.as_ptr(),
            output: output.get(),
            bias: &bias,
            residual: epilogue.residual.map(<[f32]>::as_ptr),
            floor: epilogue.activation.floor(),
            afterwards: epilogue.activation.afterwards(),
            partial: None,
        };
        dispatch(target, run);
    });
}

/// As [`sweep`] on this thread, some bands of rows alone; `bias` holds a value a row and a register more. Partial sums lie in
/// `partial`, side by side, if there is one of [`partial_len`] floats: where the result's rows lie far apart, each would
/// be a page of its own.
///
/// # Panics
/// Where operand, result, bias or partial sums are smaller than the geometry says: callers check shapes.
#[expect(clippy::too_many_arguments, reason = "the arguments of sweep, and the bands")]
pub(super) fn sweep_bands<M: Sweep>(
    matrix: &M,
    target: Target,
    geometry: &Geometry<'_>,
    bands: Range<usize>,
    input: &[f32],
    output: &mut [f32],
    bias: &[f32],
    activation: Activation,
    partial: Option<&mut [f32]>,
) {
    let rows = matrix.rows();
    assert!(input.len() >= geometry.input_len(matrix.blocks().reach()), "sweep: the operand is too small");
    assert!(output.len() >= geometry.output_len(rows), "sweep: the result is too small");
    assert!(bias.len() >= rows + LANES && bands.end <= self::bands(rows), "sweep: the bias is too short");
    let partial_len = partial_len::<M>(rows_of(&bands, rows).len(), target);
    assert!(partial.as_ref().is_none_or(|partial| partial.len() >= partial_len), "sweep: the partial sums are too few");
    let run = Run {
        matrix,
        geometry: *geometry,
        bands,
        input: input.as_ptr(),
        output: output.as_mut_ptr(),
        bias,
        residual: None,
        floor: activation.floor(),
        afterwards: activation.afterwards(),
        partial: partial.map(<[f32]>::as_mut_ptr),
    };
    dispatch(target, run);
}

/// Floats of the partial sums of so many rows, in the longest tile.
pub(super) fn partial_len<M: Sweep>(rows: usize, target: Target) -> usize {
    rows * M::run_lines(target.registers()) * LANES
}

/// One task.
struct Run<'a, M: Sweep> {
    matrix: &'a M,
    geometry: Geometry<'a>,
    bands: Range<usize>,
    input: *const f32,
    output: *mut f32,
    bias: &'a [f32],
    residual: Option<*const f32>,
    floor: f32,
    afterwards: Option<Activation>,
    /// Those of the bands' first row, if not in the result.
    partial: Option<*mut f32>,
}

impl<M: Sweep> Kernel for Run<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let most = M::run_lines(V::REGISTERS);
        for span in self.geometry.spans {
            // Equal tiles: 9 lines are 3 + 3 + 3, not 4 + 4 + 1.
            let tiles = span.lines.div_ceil(most);
            let mut line = 0;
            for tile in 0..tiles {
                let lines = (span.lines - line).div_ceil(tiles - tile);
                match lines {
                    1 => self.tile::<V, 1>(v, span, line),
                    2 => self.tile::<V, 2>(v, span, line),
                    3 => self.tile::<V, 3>(v, span, line),
                    5 if most > 4 => self.tile::<V, 5>(v, span, line),
                    6 if most > 4 => self.tile::<V, 6>(v, span, line),
                    7 if most > 4 => self.tile::<V, 7>(v, span, line),
                    8 if most > 4 => self.tile::<V, 8>(v, span, line),
                    _ => self.tile::<V, 4>(v, span, line),
                }
                line += lines;
            }
        }
    }
}

impl<M: Sweep> Run<'_, M> {
    /// All K-blocks and bands of one tile.
    #[inline(always)]
    fn tile<V: Vector, const T: usize>(&self, v: V, span: &Span, line: usize) {
        let blocks = self.matrix.blocks().len();
        for block in 0..blocks {
            // SAFETY: `sweep` asserted that the operand reaches the largest position of every span and that the result, and a
            // residual, hold every row of every span; this tile lies inside `span`.
            unsafe {
                let place = span.output + line * LANES;
                let output = self.output.add(place);
                let first = rows_of(&self.bands, self.matrix.rows()).start;
                let (partial, partial_stride) = match self.partial {
                    Some(partial) => (partial.wrapping_sub(first * T * LANES), T * LANES),
                    None => (output, self.geometry.row_stride),
                };
                let at = Tile {
                    block,
                    bands: self.bands.clone(),
                    // Without columns there may be no operand behind the pointer.
                    input: self.input.wrapping_add(span.input + line * LANES),
                    unit: self.geometry.unit,
                    partial,
                    partial_stride,
                    output,
                    output_stride: self.geometry.row_stride,
                    first: block == 0,
                    last: block + 1 == blocks,
                    bias: self.bias,
                    residual: self.residual.map(|residual| (residual.add(place), self.geometry.row_stride)),
                    floor: self.floor,
                };
                self.matrix.tile::<V, T>(v, at);
            }
        }
        if let Some(activation) = self.afterwards {
            for row in rows_of(&self.bands, self.matrix.rows()) {
                let at = span.output + row * self.geometry.row_stride + line * LANES;
                // SAFETY: results that this task has just stored, side by side.
                let results = unsafe { std::slice::from_raw_parts_mut(self.output.add(at), T * LANES) };
                activation.of_slice(v.target(), results);
            }
        }
    }
}
