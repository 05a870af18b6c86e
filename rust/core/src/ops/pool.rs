//! Max and average pooling, in any layout.

use super::{Layout, Operator, Shape};
use crate::executor::{Executor, for_each_chunk};
use crate::formats::{Reduction, Window};
use crate::simd::{Kernel, LANES, Target, Vector, dispatch};

/// A pooling of a batch; windows that hang over the border count only what is inside.
pub struct Pool {
    /// What a window is reduced to.
    pub reduction: Reduction,
    /// The window.
    pub window: Window,
    /// Rows above and columns before the image that windows may hang over; they hold nothing.
    pub offset: (usize, usize),
    /// Shape of an image.
    pub input: Shape,
    /// Shape of its result.
    pub output: Shape,
    /// Layout of both.
    pub layout: Layout,
    /// Images.
    pub images: usize,
    /// CPU target.
    pub target: Target,
}

impl Operator for Pool {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        let input = inputs[0];
        let (from, to) = (self.layout.strides(self.input), self.layout.strides(self.output));
        let len = self.layout.len(self.output, self.images);
        for_each_chunk(executor, &mut output[..len], to.group_step, &|group, output| {
            let input = &input[group * from.group_step..(group + 1) * from.group_step];
            dispatch(self.target, Run { pool: self, input, output });
        });
    }

    fn kernel(&self) -> String {
        let name = if self.reduction == Reduction::Max { "maxpool" } else { "avgpool" };
        format!("{name}_f32__{}", self.target.name())
    }
}

/// One group of images.
struct Run<'a> {
    pool: &'a Pool,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Pool { reduction, window, offset, input, output, layout, .. } = *self.pool;
        let (from, to) = (layout.strides(input), layout.strides(output));
        let halves = halves(window, offset, input, output);
        if layout == Layout::PixelPanel && halves {
            return self.halve(v);
        }
        // Channels that lie side by side are lanes of one run; else each channel is a run of its images or of one pixel.
        let (runs, lanes) = if from.c == 1 && to.c == 1 { (1, output.c) } else { (output.c, to.group) };
        if lanes.is_multiple_of(LANES) && halves {
            return self.halve_lanes(v, runs, lanes);
        }
        for run in 0..runs {
            for y in 0..output.h {
                let rows = clip(y, window.stride.0, window.size.0, offset.0, input.h);
                for x in 0..output.w {
                    let columns = clip(x, window.stride.1, window.size.1, offset.1, input.w);
                    let scale = 1.0 / (rows.len() * columns.len()).max(1) as f32;
                    let out = &mut self.output[run * to.c + y * to.h + x * to.w..][..lanes];
                    let cell = |row: usize, column: usize| run * from.c + row * from.h + column * from.w;
                    let whole = lanes / LANES * LANES;
                    for lane in (0..whole).step_by(LANES) {
                        let mut acc = v.splat(if reduction == Reduction::Max { f32::NEG_INFINITY } else { 0.0 });
                        for row in rows.clone() {
                            for column in columns.clone() {
                                let x = v.load(&self.input[cell(row, column) + lane..]);
                                acc = if reduction == Reduction::Max { v.max(acc, x) } else { v.add(acc, x) };
                            }
                        }
                        let acc = if reduction == Reduction::Max { acc } else { v.mul(acc, v.splat(scale)) };
                        v.store(&mut out[lane..], acc);
                    }
                    for (lane, out) in out.iter_mut().enumerate().skip(whole) {
                        let mut acc = if reduction == Reduction::Max { f32::NEG_INFINITY } else { 0.0 };
                        for row in rows.clone() {
                            for column in columns.clone() {
                                let x = self.input[cell(row, column) + lane];
                                acc = match reduction {
                                    Reduction::Max => {
                                        if x > acc {
                                            x
                                        } else {
                                            acc
                                        }
                                    }
                                    Reduction::Average => acc + x,
                                };
                            }
                        }
                        *out = if reduction == Reduction::Max { acc } else { acc * scale };
                    }
                }
            }
        }
    }
}

impl Run<'_> {
    /// Whole registers of channels or images, windows of two by two: four neighbours become one.
    #[inline(always)]
    fn halve_lanes<V: Vector>(self, v: V, runs: usize, lanes: usize) {
        let Pool { reduction, input, output, layout, .. } = *self.pool;
        let (from, to) = (layout.strides(input), layout.strides(output));
        for run in 0..runs {
            for y in 0..output.h {
                let top = &self.input[run * from.c + 2 * y * from.h..][..from.h + 2 * output.w * lanes];
                let (top, bottom) = (top.chunks_exact(2 * lanes), top[from.h..].chunks_exact(2 * lanes));
                let out = &mut self.output[run * to.c + y * to.h..][..output.w * lanes];
                for (out, (top, bottom)) in out.chunks_exact_mut(lanes).zip(top.zip(bottom)) {
                    for lane in (0..lanes).step_by(LANES) {
                        let (a, b) = (v.load(&top[lane..]), v.load(&top[lanes + lane..]));
                        let (c, d) = (v.load(&bottom[lane..]), v.load(&bottom[lanes + lane..]));
                        v.store(&mut out[lane..], reduction.of_four(v, [a, b, c, d]));
                    }
                }
            }
        }
    }

    /// Pixels in the lanes, windows of two by two: pairs of columns are the even and odd lanes of two registers.
    #[inline(always)]
    fn halve<V: Vector>(self, v: V) {
        let Pool { reduction, input, output, layout, .. } = *self.pool;
        let (from, to) = (layout.strides(input), layout.strides(output));
        let join = |a, b| if reduction == Reduction::Max { v.max(a, b) } else { v.add(a, b) };
        let scale = v.splat(0.25);
        for c in 0..output.c {
            for y in 0..output.h {
                let top = &self.input[c * from.c + 2 * y * from.h..][..2 * from.h];
                let out = &mut self.output[c * to.c + y * to.h..][..to.h];
                let (top, bottom) = top.split_at(from.h);
                for (out, at) in out.chunks_exact_mut(LANES).zip((0..from.h).step_by(2 * LANES)) {
                    let first = join(v.load(&top[at..]), v.load(&bottom[at..]));
                    // A row of an odd number of registers ends with a pair of which only the first exists.
                    let second = at + LANES;
                    let second =
                        if second < from.h { join(v.load(&top[second..]), v.load(&bottom[second..])) } else { first };
                    let (even, odd) = v.unzip(first, second);
                    let joined = join(even, odd);
                    v.store(out, if reduction == Reduction::Max { joined } else { v.mul(joined, scale) });
                }
            }
        }
    }
}

/// Whether windows are two by two, side by side and inside the image: those that hang over the lower or right border have no
/// offset, but need clipping.
pub fn halves(window: Window, offset: (usize, usize), input: Shape, output: Shape) -> bool {
    window == Window::HALVING && offset == (0, 0) && 2 * output.h <= input.h && 2 * output.w <= input.w
}

/// The rows (or columns) of window `at` that lie inside the image.
#[inline(always)]
fn clip(at: usize, stride: usize, size: usize, offset: usize, len: usize) -> std::ops::Range<usize> {
    let start = at * stride;
    start.saturating_sub(offset)..(start + size).saturating_sub(offset).min(len)
}
