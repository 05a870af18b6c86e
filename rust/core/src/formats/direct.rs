//! Dense weights with the outputs in the lanes: convolution and matmul over channels-last activations, without copies.
//!
//! ```text
//! weights   [group of O lines of outputs][k][O · 16]      one contiguous stream a group
//! input     pixel p starts at pixel(p); its window is `segments` runs of `segment` floats (rows of the filter)
//!
//! for rows of the filter:                      as many as a group's weights stay in the second-level cache, for all pixels
//!   acc[P][O] = bias or partial sum            P pixels × O lines of outputs in registers
//!   for each k of the window:                  O loads, P broadcasts, P·O multiply-adds
//!     acc[p][o] += input[pixel(p) + k] * weights[k][o]
//! ```
//!
//! A Dense layer is a 1×1 window over one pixel an image. Every activation is read by broadcast, so no alignment, padding
//! or im2col is needed, and channels-last results are the next layer's input as they are.

use super::epilogue::Epilogue;
use super::shared::Shared;
use crate::executor::Executor;
use crate::simd::{Buffer, Kernel, LANES, Target, Vector, dispatch};
use std::ops::Range;

/// Where the pixels of a channels-last convolution lie; all in floats.
#[derive(Debug, Clone, Copy)]
pub struct Pixels {
    /// Images in the batch.
    pub images: usize,
    /// Rows and columns of the output.
    pub output: (usize, usize),
    /// From one image to the next.
    pub image_step: usize,
    /// From an output row's input to the next one's.
    pub row_step: usize,
    /// From an output column's input to the next one's.
    pub column_step: usize,
    /// From an output pixel to the next: the weights' rows, or more where they write a part of the channels.
    pub output_step: usize,
    /// Rows of the filter, and contiguous runs in each: one, or as many as columns where those have gaps between them.
    pub segments: (usize, usize),
    /// Floats in a run: filter width × channels, or the channels that the weights read.
    pub segment: usize,
    /// From one row of the filter to the next, and from run to run.
    pub segment_steps: (usize, usize),
}

impl Pixels {
    /// `images` vectors of `features`: a Dense layer.
    #[cfg(test)]
    fn vectors(images: usize, features: usize, outputs: usize) -> Pixels {
        Pixels {
            images,
            output: (1, 1),
            image_step: features,
            row_step: 0,
            column_step: 0,
            output_step: outputs,
            segments: (1, 1),
            segment: features,
            segment_steps: (0, 0),
        }
    }

    fn count(&self) -> usize {
        self.images * self.output.0 * self.output.1
    }

    /// Where the inputs of P neighbouring pixels begin: short sums would notice a division for each.
    #[inline(always)]
    fn starts<const P: usize>(&self, pixel: usize) -> [usize; P] {
        let (rows, columns) = self.output;
        let (line, mut column) = (pixel / columns, pixel % columns);
        let (mut image, mut row) = (line / rows, line % rows);
        let mut starts = [0; P];
        for start in &mut starts {
            *start = image * self.image_step + row * self.row_step + column * self.column_step;
            column += 1;
            if column == columns {
                (column, row) = (0, row + 1);
                if row == rows {
                    (row, image) = (0, image + 1);
                }
            }
        }
        starts
    }

    fn input_len(&self) -> usize {
        let (rows, columns) = self.output;
        if self.count() == 0 || self.segments.0 * self.segments.1 * self.segment == 0 {
            return 0;
        }
        (self.images - 1) * self.image_step
            + (rows - 1) * self.row_step
            + (columns - 1) * self.column_step
            + (self.segments.0 - 1) * self.segment_steps.0
            + (self.segments.1 - 1) * self.segment_steps.1
            + self.segment
    }
}

/// Dense weights packed for [`Direct::run`].
#[derive(Debug, Clone)]
pub struct Direct {
    rows: usize,
    columns: usize,
    target: Target,
    packed: Buffer,
}

/// Lines of outputs that a group holds at most: with P pixels, P · O accumulators.
fn group_lines(target: Target) -> usize {
    if target.name() == "avx512" { 4 } else { 1 }
}

/// Groups of at most `most` lines, as equal as they can be.
fn groups(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let lines = rows.div_ceil(LANES);
    let count = lines.div_ceil(most).max(1);
    (0..count).map(move |group| group * lines / count..(group + 1) * lines / count)
}

impl Direct {
    /// Packs a row-major (rows, columns) matrix; the columns in the order in which a window lies in the input.
    pub fn pack(rows: usize, columns: usize, dense: &[f32], target: Target) -> Direct {
        assert_eq!(dense.len(), rows * columns, "direct: weights do not fill their shape");
        let mut packed = Buffer::zeroed(rows.next_multiple_of(LANES) * columns);
        let mut at = 0;
        for group in groups(rows, group_lines(target)) {
            for column in 0..columns {
                for row in group.start * LANES..group.end * LANES {
                    if row < rows {
                        packed[at] = dense[row * columns + column];
                    }
                    at += 1;
                }
            }
        }
        Direct { rows, columns, target, packed }
    }

    /// The kernel's name.
    pub fn kernel(&self) -> String {
        let lines = self.rows.div_ceil(LANES).clamp(1, group_lines(self.target));
        format!("direct_dense_f32_{}o__{}", lines * LANES, self.target.name())
    }

    /// Memory in bytes.
    pub fn nbytes(&self) -> usize {
        self.packed.len() * 4
    }

    /// `output[pixel][row] = activation(window(pixel) · weights[row] + bias[row] + residual[pixel][row])`.
    ///
    /// # Panics
    /// Where a slice is smaller than the geometry says: callers check shapes.
    pub fn run(
        &self,
        executor: &dyn Executor,
        pixels: &Pixels,
        input: &[f32],
        output: &mut [f32],
        epilogue: Epilogue<'_>,
    ) {
        self.check(pixels, input, output);
        assert!(
            epilogue.residual.is_none_or(|residual| residual.len() >= output.len()),
            "direct: the residual is too small"
        );
        let bias = epilogue.padded_bias(self.rows);
        let groups: Vec<_> = groups(self.rows, group_lines(self.target)).collect();
        let chunks = pixels.count().div_ceil(TASK_PIXELS);
        // Tasks write disjoint (lines × pixels).
        let output = Shared::new(output);
        executor.run(groups.len() * chunks, &|task| {
            let chunk = task % chunks * TASK_PIXELS;
            let run = Run {
                direct: self,
                pixels,
                input: input.as_ptr(),
                output: output.get(),
                bias: &bias,
                epilogue,
                lines: groups[task / chunks].clone(),
                range: chunk..(chunk + TASK_PIXELS).min(pixels.count()),
            };
            dispatch(self.target, run);
        });
    }

    /// `output[pixel][row] = window(pixel) · weights[row] + start[row]`, as one task; `start` is filled up to whole registers.
    ///
    /// # Panics
    /// Where a slice is smaller than the geometry says: callers check shapes.
    pub fn multiply(&self, pixels: &Pixels, input: &[f32], output: &mut [f32], start: &[f32]) {
        self.check(pixels, input, output);
        assert!(start.len() >= self.rows.next_multiple_of(LANES), "direct: too few sums to start from");
        for lines in groups(self.rows, group_lines(self.target)) {
            let run = Run {
                direct: self,
                pixels,
                input: input.as_ptr(),
                output: output.as_mut_ptr(),
                bias: start,
                epilogue: Epilogue::default(),
                lines,
                range: 0..pixels.count(),
            };
            dispatch(self.target, run);
        }
    }

    /// What makes a [`Run`] sound.
    fn check(&self, pixels: &Pixels, input: &[f32], output: &[f32]) {
        let terms = pixels.segments.0 * pixels.segments.1 * pixels.segment;
        assert_eq!(terms, self.columns, "direct: the window is not the matrix's width");
        assert!(input.len() >= pixels.input_len(), "direct: the input is too small");
        assert!(pixels.output_step >= self.rows, "direct: pixels of the output overlap");
        let last = pixels.count().saturating_sub(1) * pixels.output_step;
        assert!(
            output.len() >= if pixels.count() == 0 { 0 } else { last + self.rows },
            "direct: the output is too small"
        );
    }
}

/// Pixels in a task.
const TASK_PIXELS: usize = 120;
/// Floats of a group's weights that all pixels of a task meet before the next ones: half a second-level cache of 1 MiB.
const CACHED: usize = 128 << 10;

/// One task: some lines of outputs for some pixels.
struct Run<'a> {
    direct: &'a Direct,
    pixels: &'a Pixels,
    input: *const f32,
    output: *mut f32,
    bias: &'a [f32],
    epilogue: Epilogue<'a>,
    lines: Range<usize>,
    range: Range<usize>,
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        // P · O accumulators of 24 (of 32 registers), or 3 logical ones of 8.
        match self.lines.len() {
            0 => {}
            1 if V::REGISTERS < 32 => self.group::<V, 1, 3, 1>(v),
            1 => self.group::<V, 1, 12, 4>(v),
            2 => self.group::<V, 2, 12, 4>(v),
            3 => self.group::<V, 3, 8, 3>(v),
            _ => self.group::<V, 4, 6, 3>(v),
        }
    }
}

impl Run<'_> {
    #[inline(always)]
    fn group<V: Vector, const O: usize, const P: usize, const H: usize>(&self, v: V) {
        let rows = self.pixels.segments.0;
        let row_len = self.direct.columns / rows.max(1) * O * LANES;
        let at_once = (CACHED / row_len.max(1)).clamp(1, rows.max(1));
        // Once at least: without columns there still is a bias.
        for row in (0..rows.max(1)).step_by(at_once) {
            self.filter_rows::<V, O, P, H>(v, row..(row + at_once).min(rows));
        }
    }

    /// Some rows of the filter, for all pixels.
    #[inline(always)]
    fn filter_rows<V: Vector, const O: usize, const P: usize, const H: usize>(&self, v: V, rows: Range<usize>) {
        let mut pixel = self.range.start;
        while pixel < self.range.end {
            let left = self.range.end - pixel;
            // SAFETY: `Direct::check` asserted that the input covers every window, the output every pixel and row, and
            // `lines` and `range` lie inside them.
            unsafe {
                if left >= P {
                    self.tile::<V, O, P>(v, pixel, &rows);
                    pixel += P;
                } else if left >= H {
                    self.tile::<V, O, H>(v, pixel, &rows);
                    pixel += H;
                } else {
                    self.tile::<V, O, 1>(v, pixel, &rows);
                    pixel += 1;
                }
            }
        }
    }

    /// P pixels from `pixel` on, O lines of outputs, some rows of the filter: partial sums wait in the output.
    ///
    /// # Safety
    /// The pixels are inside the geometry, whose input and output the pointers cover, and the rows are the filter's.
    #[inline(always)]
    unsafe fn tile<V: Vector, const O: usize, const P: usize>(&self, v: V, pixel: usize, rows: &Range<usize>) {
        let Pixels { segments, segment, segment_steps, output_step, .. } = *self.pixels;
        let first = self.lines.start * LANES;
        let outputs = self.direct.rows;
        let whole = first + O * LANES <= outputs;
        let before = rows.start * segments.1 * segment;
        // SAFETY: the caller's promise; the group's weights are `columns` runs of O lines from its first line on.
        unsafe {
            let mut weights = self.direct.packed.as_ptr().add(first * self.direct.columns + before * O * LANES);
            let input = self.input.wrapping_add(rows.start * segment_steps.0);
            let mut windows = self.pixels.starts::<P>(pixel).map(|start| input.wrapping_add(start));
            let bias: [V::F32; O] = std::array::from_fn(|o| v.load_ptr(self.bias.as_ptr().add(first + o * LANES)));
            let mut acc = [bias; P];
            if rows.start > 0 {
                for (p, acc) in acc.iter_mut().enumerate() {
                    let from = self.output.add((pixel + p) * output_step + first).cast_const();
                    for (o, acc) in acc.iter_mut().enumerate() {
                        *acc = match whole || o + 1 < O {
                            true => v.load_ptr(from.add(o * LANES)),
                            false => v.load_first(from.add(o * LANES), outputs - first - o * LANES),
                        };
                    }
                }
            }
            let after_row = segment_steps.0.wrapping_sub(segments.1 * segment_steps.1);
            for _ in rows.clone() {
                for _ in 0..segments.1 {
                    for k in 0..segment {
                        let w: [V::F32; O] = std::array::from_fn(|o| v.load_ptr(weights.add(o * LANES)));
                        weights = weights.add(O * LANES);
                        for (acc, window) in acc.iter_mut().zip(&windows) {
                            let x = v.splat(*window.add(k));
                            for (acc, &w) in acc.iter_mut().zip(&w) {
                                *acc = v.mul_add(x, w, *acc);
                            }
                        }
                    }
                    // Past the last segment the pointer is never read: no address arithmetic beyond the allocation is promised.
                    windows = windows.map(|window| window.wrapping_add(segment_steps.1));
                }
                windows = windows.map(|window| window.wrapping_add(after_row));
            }
            // Small bodies with constant bounds: the loops unroll and the accumulators stay in registers.
            let is_last = rows.end == segments.0;
            let least = if is_last { self.epilogue.without_residual().activation.floor() } else { f32::NEG_INFINITY };
            let floor = v.splat(least);
            for (p, acc) in acc.iter().enumerate() {
                let to = self.output.add((pixel + p) * output_step + first);
                for (o, &x) in acc.iter().enumerate() {
                    let x = v.max(floor, x);
                    if whole || o + 1 < O {
                        v.store_ptr(to.add(o * LANES), x);
                    } else {
                        v.store_first(to.add(o * LANES), x, outputs - first - o * LANES);
                    }
                }
            }
            if !is_last {
                return;
            }
            if self.epilogue.residual.is_some() {
                for p in 0..P {
                    let (at, len) = ((pixel + p) * output_step + first, (O * LANES).min(outputs - first));
                    let results = std::slice::from_raw_parts_mut(self.output.add(at), len);
                    self.epilogue.of_sums(v, at, results);
                }
            } else if let Some(activation) = self.epilogue.activation.afterwards() {
                for p in 0..P {
                    let (at, len) = ((pixel + p) * output_step + first, (O * LANES).min(outputs - first));
                    activation.of_slice(v.target(), std::slice::from_raw_parts_mut(self.output.add(at), len));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::with_threads;
    use crate::formats::epilogue::Activation;

    #[test]
    fn vectors_and_windows_match_the_triple_loop() {
        for target in Target::available() {
            for (rows, features, images) in [(0, 3, 2), (1, 1, 1), (5, 0, 2), (10, 7, 13), (33, 5, 31), (130, 3, 9)] {
                let weights: Vec<f32> = (0..rows * features).map(|i| (i % 7) as f32 - 3.0).collect();
                let input: Vec<f32> = (0..images * features).map(|i| (i % 5) as f32 - 2.0).collect();
                let bias: Vec<f32> = (0..rows).map(|i| i as f32).collect();
                let direct = Direct::pack(rows, features, &weights, target);
                for threads in [1, 3] {
                    let mut output = vec![f32::NAN; images * rows];
                    let epilogue = Epilogue::new(Some(&bias), Activation::Relu);
                    let pixels = Pixels::vectors(images, features, rows);
                    direct.run(&*with_threads(threads), &pixels, &input, &mut output, epilogue);
                    for image in 0..images {
                        for row in 0..rows {
                            let dot = |k: usize| weights[row * features + k] * input[image * features + k];
                            let wanted = ((0..features).map(dot).sum::<f32>() + bias[row]).max(0.0);
                            assert_eq!(output[image * rows + row], wanted, "{} {rows} {features}", target.name());
                        }
                    }
                }
            }
        }
    }

    /// Filters whose rows fill a cache, row by row: partial sums, and a residual and an activation at the end alone.
    #[test]
    fn large_filters_match_the_triple_loop() {
        let (filter_rows, segment, count) = (3, CACHED / LANES, 8);
        let columns = filter_rows * segment;
        let pixels = Pixels {
            output: (2, 4),
            row_step: 40,
            column_step: 7,
            segments: (filter_rows, 1),
            segment,
            segment_steps: (segment + 3, 0),
            ..Pixels::vectors(1, 0, 70)
        };
        let input: Vec<f32> = (0..pixels.input_len()).map(|i| (i % 5) as f32 - 2.0).collect();
        let residual: Vec<f32> = (0..count * 70).map(|i| (i % 9) as f32 - 4.0).collect();
        for (target, rows) in Target::available().into_iter().flat_map(|target| [(target, 20), (target, 70)]) {
            let weights: Vec<f32> = (0..rows * columns).map(|i| (i % 7) as f32 - 3.0).collect();
            let direct = Direct::pack(rows, columns, &weights, target);
            let mut output = vec![f32::NAN; count * 70];
            let epilogue = Epilogue { residual: Some(&residual), ..Epilogue::new(None, Activation::Relu) };
            direct.run(&*with_threads(2), &pixels, &input, &mut output, epilogue);
            for (pixel, start) in pixels.starts::<8>(0).into_iter().enumerate() {
                for row in 0..rows {
                    let x = |k: usize| input[start + k / segment * (segment + 3) + k % segment];
                    let sum = (0..columns).map(|k| weights[row * columns + k] * x(k)).sum::<f32>();
                    let at = pixel * 70 + row;
                    assert_eq!(output[at], (sum + residual[at]).max(0.0), "{} {rows}", target.name());
                }
            }
        }
    }
}
