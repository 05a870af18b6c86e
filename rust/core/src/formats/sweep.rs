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
//!     for group in row groups:      R rows of the matrix
//!       acc[R][T] = bias or partial result
//!       for (position, values[R]):  acc[r][t] += values[r] * operand[position·unit + t]
//!       store acc                   last block: bias was added first, activation now
//! ```
//!
//! Every result element is summed in the order of the columns, whatever the tile, the task or the thread.

use super::epilogue::{Activation, Epilogue};
use super::shared::Shared;
use crate::executor::Executor;
use crate::simd::{Kernel, LANES, Target, Vector, dispatch};

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
#[derive(Debug, Clone)]
pub struct Geometry {
    /// Floats in one step of a position.
    pub unit: usize,
    /// Floats between two rows of the result.
    pub row_stride: usize,
    /// The runs; their results do not overlap.
    pub spans: Vec<Span>,
}

impl Geometry {
    /// A matmul with one panel of `width` columns, a multiple of 16.
    pub fn panel(width: usize) -> Geometry {
        Geometry { unit: width, row_stride: width, spans: vec![Span { input: 0, output: 0, lines: width / LANES }] }
    }

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

/// The widest panel, in floats.
pub const MAX_PANEL: usize = 4 * LANES;

/// The width, in floats, of equal panels that hold `n` columns, at most `most` (a multiple of 16) wide.
pub fn panel_width(n: usize, most: usize) -> usize {
    let panels = n.div_ceil(most).max(1);
    n.div_ceil(panels).next_multiple_of(LANES).max(LANES)
}

/// A packed matrix that [`sweep`] can run.
pub trait Sweep: Sync {
    /// Rows of the matrix.
    fn rows(&self) -> usize;
    /// K-blocks, at least 1.
    fn blocks(&self) -> usize;
    /// Row groups.
    fn groups(&self) -> usize;
    /// Rows in a group (the last group may hold fewer).
    fn group_rows(&self) -> usize;
    /// The largest position of any column; `None` without columns.
    fn reach(&self) -> Option<usize>;
    /// Lines in a tile on a target with this many registers: at most 6.
    fn tile_lines(&self, registers: usize) -> usize;

    /// One tile of T lines, one K-block, one row group.
    ///
    /// # Safety
    /// `input` holds [`Sweep::reach`] · `unit` + 16 T floats; `output` holds 16 T floats in each of the group's rows,
    /// `row_stride` apart.
    unsafe fn tile<V: Vector, const T: usize>(&self, v: V, at: Tile<'_>);
}

/// The place of one call of [`Sweep::tile`].
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// K-block.
    pub block: usize,
    /// Row group.
    pub group: usize,
    /// The operand at position 0.
    pub input: *const f32,
    /// Floats in one step of a position.
    pub unit: usize,
    /// The result's first row of the group.
    pub output: *mut f32,
    /// Floats between two rows of the result.
    pub row_stride: usize,
    /// The first K-block starts from the bias, the others from what is stored.
    pub first: bool,
    /// The last K-block applies the activation.
    pub last: bool,
    /// Bias of all rows, padded to whole groups.
    pub bias: &'a [f32],
    /// Results are clamped to this from below.
    pub floor: f32,
}

impl Tile<'_> {
    /// The accumulators to start from: Q rows from row `r` of the group on, of which `here` exist.
    ///
    /// # Safety
    /// As [`Sweep::tile`]; the bias holds Q rows from `row` on.
    #[inline(always)]
    pub unsafe fn start<V: Vector, const Q: usize, const T: usize>(
        &self,
        v: V,
        row: usize,
        r: usize,
        here: usize,
    ) -> [[V::F32; T]; Q] {
        // Small bodies with constant bounds, here and in `finish`: the loops unroll and accumulators stay in registers.
        let mut acc = [[v.splat(0.0); T]; Q];
        for (q, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                if self.first {
                    *acc = [v.splat(*self.bias.get_unchecked(row + q)); T];
                } else if q < here {
                    *acc = std::array::from_fn(|t| v.load_ptr(self.output.add((r + q) * self.row_stride + t * LANES)));
                }
            }
        }
        acc
    }

    /// Stores the accumulators of Q rows from row `r` of the group on, of which `here` exist.
    ///
    /// # Safety
    /// As [`Sweep::tile`].
    #[inline(always)]
    pub unsafe fn finish<V: Vector, const Q: usize, const T: usize>(
        &self,
        v: V,
        r: usize,
        here: usize,
        acc: [[V::F32; T]; Q],
    ) {
        let floor = v.splat(if self.last { self.floor } else { f32::NEG_INFINITY });
        for (q, acc) in acc.iter().enumerate() {
            if q < here {
                for (t, &x) in acc.iter().enumerate() {
                    // SAFETY: the caller's promise.
                    unsafe {
                        v.store_ptr(self.output.add((r + q) * self.row_stride + t * LANES), v.max(x, floor));
                    }
                }
            }
        }
    }
}

/// Rows of the matrix in one task, where there are too few spans to keep the threads busy. Fixed: see executor.rs.
const TASK_ROWS: usize = 128;
/// Lines in one task, about.
const TASK_LINES: usize = 8;

/// `output = activation(matrix · operand + bias)` over all spans.
///
/// # Panics
/// Where operand, result or bias are smaller than the geometry says: callers check shapes.
pub fn sweep<M: Sweep>(
    matrix: &M,
    executor: &dyn Executor,
    target: Target,
    geometry: &Geometry,
    input: &[f32],
    output: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    if matrix.rows() == 0 || geometry.spans.is_empty() {
        return;
    }
    assert!(input.len() >= geometry.input_len(matrix.reach()), "sweep: the operand is too small");
    assert!(output.len() >= geometry.output_len(matrix.rows()), "sweep: the result is too small");
    let bias = epilogue.padded_bias(matrix.rows());
    // Tasks write disjoint spans × row groups.
    let output = Shared::new(output);

    let lines: usize = geometry.spans.iter().map(|span| span.lines).max().unwrap_or(1).max(1);
    let spans_a_task = (TASK_LINES / lines).max(1);
    let span_tasks = geometry.spans.len().div_ceil(spans_a_task);
    let groups_a_task = (TASK_ROWS / matrix.group_rows()).max(1);
    // Cutting rows re-reads the operand, so it is done only where the spans are few.
    let group_tasks = if span_tasks >= 8 { 1 } else { matrix.groups().div_ceil(groups_a_task) };
    let groups_a_task = matrix.groups().div_ceil(group_tasks);

    executor.run(span_tasks * group_tasks, &|task| {
        let first_span = task / group_tasks * spans_a_task;
        let first_group = task % group_tasks * groups_a_task;
        let run = Run {
            matrix,
            geometry,
            spans: &geometry.spans[first_span..(first_span + spans_a_task).min(geometry.spans.len())],
            groups: first_group..(first_group + groups_a_task).min(matrix.groups()),
            input: input.as_ptr(),
            output: output.get(),
            bias: &bias,
            floor: epilogue.floor(),
            afterwards: epilogue.afterwards(),
        };
        dispatch(target, run);
    });
}

/// One task.
struct Run<'a, M: Sweep> {
    matrix: &'a M,
    geometry: &'a Geometry,
    spans: &'a [Span],
    groups: std::ops::Range<usize>,
    input: *const f32,
    output: *mut f32,
    bias: &'a [f32],
    floor: f32,
    afterwards: Option<Activation>,
}

impl<M: Sweep> Kernel for Run<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let most = self.matrix.tile_lines(V::REGISTERS);
        for span in self.spans {
            // Equal tiles: 9 lines are 3 + 3 + 3, not 4 + 4 + 1.
            let tiles = span.lines.div_ceil(most);
            let mut line = 0;
            for tile in 0..tiles {
                let lines = (span.lines - line).div_ceil(tiles - tile);
                match lines {
                    1 => self.tile::<V, 1>(v, span, line),
                    2 => self.tile::<V, 2>(v, span, line),
                    3 => self.tile::<V, 3>(v, span, line),
                    4 => self.tile::<V, 4>(v, span, line),
                    5 => self.tile::<V, 5>(v, span, line),
                    _ => self.tile::<V, 6>(v, span, line),
                }
                line += lines;
            }
        }
    }
}

impl<M: Sweep> Run<'_, M> {
    /// All K-blocks and row groups of one tile.
    #[inline(always)]
    fn tile<V: Vector, const T: usize>(&self, v: V, span: &Span, line: usize) {
        let blocks = self.matrix.blocks();
        for block in 0..blocks {
            for group in self.groups.clone() {
                let row = group * self.matrix.group_rows();
                let offset = span.output + row * self.geometry.row_stride + line * LANES;
                // SAFETY: `sweep` asserted that the operand reaches the largest position of every span and that the
                // result holds every row of every span; this tile lies inside `span`.
                unsafe {
                    let at = Tile {
                        block,
                        group,
                        // Without columns there may be no operand behind the pointer.
                        input: self.input.wrapping_add(span.input + line * LANES),
                        unit: self.geometry.unit,
                        output: self.output.add(offset),
                        row_stride: self.geometry.row_stride,
                        first: block == 0,
                        last: block + 1 == blocks,
                        bias: self.bias,
                        floor: self.floor,
                    };
                    self.matrix.tile::<V, T>(v, at);
                }
            }
        }
        if let Some(activation) = self.afterwards {
            let rows = self.groups.start * self.matrix.group_rows()
                ..(self.groups.end * self.matrix.group_rows()).min(self.matrix.rows());
            for row in rows {
                for t in 0..T {
                    let at = span.output + row * self.geometry.row_stride + (line + t) * LANES;
                    // SAFETY: a result that this task has just stored.
                    unsafe {
                        let to = self.output.add(at);
                        v.store_ptr(to, activation.of_vector(v, v.load_ptr(to)));
                    }
                }
            }
        }
    }
}
