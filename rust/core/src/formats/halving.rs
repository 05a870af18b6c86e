//! Convolutions with images in the lanes whose results are pooled, two by two, before they leave the cache.
//!
//! ```text
//! for panel of images, row of the result, bands of filters:     a task
//!   for run of columns:
//!     sweep the run's two rows                                  [filter][2][columns of the run][lines of images]
//!     pool them into the result                                 bias and activation are in them already
//! ```

use super::cells::Planes;
use super::epilogue::Epilogue;
use super::panels::Spare;
use super::shared::Shared;
use super::sweep::{Geometry, Span, Sweep, bands, bands_a_task, rows_of, sweep_bands};
use super::{KBlocks, Rows, Window};
use crate::executor::Executor;
use crate::simd::{Kernel, LANES, Target, Vector, dispatch};
use std::ops::Range;

/// What a window of pixels is reduced to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// The largest value.
    Max,
    /// The mean of the values inside the image.
    Average,
}

impl Reduction {
    /// What is left of windows of two by two pixels, each the lanes of a register.
    #[inline(always)]
    pub fn of_four<V: Vector>(self, v: V, [a, b, c, d]: [V::F32; 4]) -> V::F32 {
        match self {
            Reduction::Max => v.max(v.max(a, b), v.max(c, d)),
            Reduction::Average => v.mul(v.add(v.add(a, b), v.add(c, d)), v.splat(0.25)),
        }
    }
}

/// Lines of a row of a run, about: those of a tile.
const RUN_LINES: usize = 8;

/// A convolution and the pooling after it, whatever the weights.
#[derive(Debug, Clone)]
pub struct Halving {
    window: Window,
    reduction: Reduction,
    /// The images read, and those that pooling leaves.
    images: (Planes, Planes),
    /// Registers of images in a panel.
    lines: usize,
    /// Pixels of the result in a run, at most.
    run: usize,
    /// The two rows of a whole run at the start of an image, and of the one that ends a row.
    spans: [Vec<Span>; 2],
}

impl Halving {
    /// A convolution of panels of so many lines of images, `images.0` to what pooling makes `images.1`.
    pub fn new(window: Window, reduction: Reduction, images: (Planes, Planes), lines: usize) -> Halving {
        let run = (RUN_LINES / (2 * lines)).max(1);
        let spans = [run, images.1.size.1 % run].map(|pixels| spans(window, images.0.pitch, lines, 2 * pixels));
        Halving { window, reduction, images, lines, run, spans }
    }

    /// How the columns of a group's weights meet the images; tiles have so many lines at most.
    pub fn blocks(&self, weights: &Rows, tile_lines: usize) -> KBlocks {
        let (h, w) = self.images.0.size;
        let positions = (0..weights.columns()).map(|column| self.window.position(column, h * w, w)).collect();
        let lines = if self.window.stride.1 == 1 { 2 * self.run * self.lines } else { self.lines };
        KBlocks::new(positions, KBlocks::filters(self.window, tile_lines.min(lines), self.lines, weights.density()))
    }

    /// `y = pooled(activation(filters * x + bias))` for panels of images; the filters are in groups of equal size, each over
    /// channels of its own.
    ///
    /// # Panics
    /// Where a slice does not hold the panels, or the filters do not fit: callers check shapes.
    #[expect(clippy::too_many_arguments, reason = "the arguments of a convolution, and where it works")]
    pub fn run<M: Sweep>(
        &self,
        groups: &[M],
        executor: &dyn Executor,
        target: Target,
        spare: &Spare,
        panels: usize,
        x: &[f32],
        y: &mut [f32],
        epilogue: Epilogue<'_>,
    ) {
        let (from, to) = self.images;
        let unit = self.lines * LANES;
        if panels == 0 || to.is_empty() {
            return;
        }
        assert!(x.len() >= panels * from.len() * unit && y.len() >= panels * to.len() * unit, "halving: images");
        assert!(groups.iter().map(Sweep::rows).sum::<usize>() == to.channels, "halving: the filters do not fit");
        let filters = to.channels / groups.len();
        let bands = bands(filters);
        let bias = epilogue.padded_bias(to.channels);
        let pieces = panels * groups.len() * to.size.0;
        let bands_a_task = bands_a_task(filters, groups[0].blocks().len(), pieces, executor);
        let band_tasks = bands.div_ceil(bands_a_task);
        let result = Shared::new(y);
        executor.run(pieces * band_tasks, &|task| {
            let (piece, first) = (task / band_tasks, task % band_tasks * bands_a_task);
            let (panel, row) = (piece / groups.len() / to.size.0, piece % to.size.0);
            let group = piece / to.size.0 % groups.len();
            let channel = group * (from.channels / groups.len());
            let task = Task {
                halving: self,
                matrix: &groups[group],
                target,
                x: &x[(panel * from.len() + channel * from.channel_len()) * unit..],
                row,
                bands: first..(first + bands_a_task).min(bands),
                // SAFETY: `y` holds the panels.
                result: unsafe { result.get().add((panel * to.len() + group * filters * to.channel_len()) * unit) },
                bias: &bias[group * filters..],
                epilogue,
            };
            task.run(spare);
        });
    }
}

/// Two rows of so many results, at the start of images with rows of `pitch` pixels.
fn spans(window: Window, pitch: usize, lines: usize, pixels: usize) -> Vec<Span> {
    let (stride, unit) = (window.stride, lines * LANES);
    // Neighbouring outputs read neighbouring inputs only at stride 1.
    let (runs, length) = if stride.1 == 1 { (1, pixels) } else { (pixels, 1) };
    let span = |at: usize| Span {
        input: (at / runs * stride.0 * pitch + at % runs * stride.1) * unit,
        output: at * length * unit,
        lines: length * lines,
    };
    (0..2 * runs).map(span).collect()
}

/// One row of pooled results.
struct Task<'a, M> {
    halving: &'a Halving,
    matrix: &'a M,
    target: Target,
    x: &'a [f32],
    row: usize,
    bands: Range<usize>,
    result: *mut f32,
    bias: &'a [f32],
    epilogue: Epilogue<'a>,
}

impl<M: Sweep> Task<'_, M> {
    fn run(self, spare: &Spare) {
        let Task { halving, matrix, target, x, row, bands, result, bias, epilogue } = self;
        let ((from, to), stride, unit) = (halving.images, halving.window.stride, halving.lines * LANES);
        let mut sums = spare.take(matrix.rows() * 4 * halving.run * unit);
        for column in (0..to.size.1).step_by(halving.run) {
            let pixels = halving.run.min(to.size.1 - column);
            let spans = &halving.spans[usize::from(pixels < halving.run)];
            let geometry = Geometry { unit, row_stride: 4 * pixels * unit, spans };
            let x = &x[2 * (row * stride.0 * from.pitch + column * stride.1) * unit..];
            sweep_bands(matrix, target, &geometry, bands.clone(), x, &mut sums, bias, epilogue.activation, None);
            let pool = Pool {
                sums: &sums,
                row_stride: geometry.row_stride,
                rows: rows_of(&bands, matrix.rows()),
                lines: halving.lines,
                reduction: halving.reduction,
                result: result.wrapping_add((row * to.pitch + column) * unit),
                channel_step: to.channel_len() * unit,
            };
            dispatch(target, pool);
        }
        spare.put(sums);
    }
}

/// The sums of a run into pixels of the result.
struct Pool<'a> {
    sums: &'a [f32],
    /// Floats between filters' sums: two rows of pixels.
    row_stride: usize,
    /// Filters.
    rows: Range<usize>,
    /// Registers of a pixel.
    lines: usize,
    reduction: Reduction,
    /// The first of the pixels, of filter 0.
    result: *mut f32,
    /// Floats between filters' results.
    channel_step: usize,
}

impl Kernel for Pool<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Pool { sums, row_stride, rows, lines, reduction, result, channel_step } = self;
        let unit = lines * LANES;
        for row in rows {
            let (top, bottom) = sums[row * row_stride..][..row_stride].split_at(row_stride / 2);
            for (pixel, (top, bottom)) in top.chunks_exact(2 * unit).zip(bottom.chunks_exact(2 * unit)).enumerate() {
                for lane in (0..unit).step_by(LANES) {
                    let four = [&top[lane..], &top[unit + lane..], &bottom[lane..], &bottom[unit + lane..]];
                    let pooled = reduction.of_four(v, four.map(|lanes| v.load(lanes)));
                    // SAFETY: `Halving::run` asserted that the result holds all filters' images; this task alone writes to
                    // these pixels.
                    unsafe { v.store_ptr(result.add(row * channel_step + pixel * unit + lane), pooled) };
                }
            }
        }
    }
}
