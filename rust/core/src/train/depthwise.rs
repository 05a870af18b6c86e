//! Convolution of every channel by itself, with the channels in the lanes. Where a channel has several filters it is
//! repeated first, so that filter and channel numbers are the same.
//!
//! ```text
//! image   padded, [row][column][filter, filled up to whole registers]
//! weights [tap][filter]
//!
//! forward     y[p]     = bias + Σ over taps  weights[tap] · image[p + tap]
//! backward    dw[tap] += Σ over elements p   delta[p]     · image[p + tap]
//!             dx[p + tap] += weights[tap] · delta[p], for every p and tap
//! ```

use super::conv::Backward;
use super::for_each_chunk;
use super::tile::padded;
use super::window::Window;
use crate::executor::Executor;
use crate::simd::{Kernel, LANES, Target, Vector, dispatch};

/// The most parts into which the images of a batch are cut for sums over images.
const PARTS: usize = 8;

/// A depthwise convolution of `images` channels-last images: filter f reads channel f / (filters / channels).
#[derive(Debug, Clone, Copy)]
pub(super) struct Depthwise {
    pub window: Window,
    pub images: usize,
    pub channels: usize,
    pub filters: usize,
    pub target: Target,
}

impl Depthwise {
    fn input_len(&self) -> usize {
        self.window.input().0 * self.window.input().1 * self.channels
    }

    fn output_len(&self) -> usize {
        self.window.output().0 * self.window.output().1 * self.filters
    }

    fn taps(&self) -> usize {
        self.window.kernel().0 * self.window.kernel().1
    }

    fn padded_len(&self) -> usize {
        self.window.padded().0 * self.window.padded().1 * padded(self.filters)
    }

    fn work(&self) -> usize {
        self.images * self.output_len() * self.taps()
    }

    /// Weights `[filter][tap]` as `[tap][filter]`, filled up to whole registers.
    fn pack(&self, weight: &[f32]) -> Vec<f32> {
        let (taps, pitch) = (self.taps(), padded(self.filters));
        let mut packed = vec![0.0; taps * pitch];
        for (filter, weight) in weight.chunks_exact(taps).enumerate() {
            weight.iter().enumerate().for_each(|(tap, &w)| packed[tap * pitch + filter] = w);
        }
        packed
    }

    /// Where each output element reads its first tap in the padded image, and the distances of all taps from there.
    fn reads(&self) -> (Vec<usize>, Vec<usize>) {
        let (pitch, lanes) = (self.window.padded().1, padded(self.filters));
        let grid = |(rows, columns): (usize, usize), (down, right): (usize, usize)| -> Vec<usize> {
            (0..rows).flat_map(|y| (0..columns).map(move |x| (y * down * pitch + x * right) * lanes)).collect()
        };
        (grid(self.window.output(), self.window.strides()), grid(self.window.kernel(), self.window.dilation()))
    }

    /// Calls `visit(pixel of the image, first float of the same pixel in the padded image)`.
    fn inside(&self, mut visit: impl FnMut(usize, usize)) {
        let ((height, width), (top, left)) = (self.window.input(), self.window.before());
        let (pitch, lanes) = (self.window.padded().1, padded(self.filters));
        for y in 0..height {
            for x in 0..width {
                visit(y * width + x, ((top + y) * pitch + left + x) * lanes);
            }
        }
    }

    /// Fills the padded image, whose border stays as it is.
    fn fill(&self, image: &[f32], to: &mut [f32]) {
        let (channels, repeat) = (self.channels, self.filters / self.channels);
        self.inside(|pixel, at| {
            let (from, to) = (&image[pixel * channels..][..channels], &mut to[at..][..self.filters]);
            if repeat == 1 {
                to.copy_from_slice(from);
            } else {
                to.chunks_exact_mut(repeat).zip(from).for_each(|(to, &x)| to.fill(x));
            }
        });
    }

    /// The output's gradient before the activation, filled up to whole registers.
    fn delta(&self, dy: &[f32], y: Option<&[f32]>, delta: &mut [f32]) {
        for (i, to) in delta.chunks_exact_mut(padded(self.filters)).enumerate() {
            let here = i * self.filters..(i + 1) * self.filters;
            to[..self.filters].copy_from_slice(&dy[here.clone()]);
            if let Some(y) = y {
                to.iter_mut().zip(&y[here]).for_each(|(to, &y)| *to = if y > 0.0 { *to } else { 0.0 });
            }
        }
    }

    pub(super) fn forward(
        &self,
        executor: &dyn Executor,
        x: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        relu: bool,
        y: &mut [f32],
    ) {
        let weights = self.pack(weight);
        let (starts, taps) = self.reads();
        let mut lanes = vec![0.0; padded(self.filters)];
        if let Some(bias) = bias {
            lanes[..self.filters].copy_from_slice(bias);
        }
        for_each_chunk(executor, self.work(), y, self.output_len(), &|image, output| {
            let mut input = vec![0.0; self.padded_len()];
            self.fill(&x[image * self.input_len()..][..self.input_len()], &mut input);
            let (filters, floor) = (self.filters, if relu { 0.0 } else { f32::NEG_INFINITY });
            let (starts, taps) = (&starts, &taps);
            let job = Forward { input: &input, weights: &weights, bias: &lanes, starts, taps, filters, floor, output };
            dispatch(self.target, job);
        });
    }

    pub(super) fn backward(
        &self,
        executor: &dyn Executor,
        from: Backward<'_>,
        dx: Option<&mut [f32]>,
        dw: &mut [f32],
        db: &mut [f32],
    ) {
        let (starts, taps) = self.reads();
        let (input, output, lanes) = (self.input_len(), self.output_len(), padded(self.filters));
        let pixels = starts.len();
        let delta = |image: usize, delta: &mut [f32]| {
            let y = from.relu_output.map(|y| &y[image * output..][..output]);
            self.delta(&from.dy[image * output..][..output], y, delta);
        };
        if let Some(dx) = dx {
            let weights = self.pack(from.weight);
            let repeat = self.filters / self.channels;
            for_each_chunk(executor, self.work(), dx, input, &|image, dx| {
                let (mut before, mut gradient) = (vec![0.0; pixels * lanes], vec![0.0; self.padded_len()]);
                delta(image, &mut before);
                let (starts, taps, gradient) = (&starts, &taps, &mut gradient);
                dispatch(self.target, Scatter { delta: &before, weights: &weights, lanes, starts, taps, gradient });
                self.inside(|pixel, at| {
                    let to = &mut dx[pixel * self.channels..][..self.channels];
                    let parts = gradient[at..][..self.filters].chunks_exact(repeat);
                    to.iter_mut().zip(parts).for_each(|(to, parts)| *to = parts.iter().sum());
                });
            });
        }
        // Every part of the batch sums its own gradient, so that the order of additions is the same for any number of
        // threads. A part's chunk holds the weights' gradient and then the bias'.
        let part = self.images.div_ceil(PARTS).max(1);
        let share = (taps.len() + 1) * lanes;
        let mut sums = vec![0.0f32; self.images.div_ceil(part) * share];
        for_each_chunk(executor, self.work(), &mut sums, share, &|task, sums| {
            let (mut before, mut image) = (vec![0.0; pixels * lanes], vec![0.0; self.padded_len()]);
            for n in task * part..self.images.min((task + 1) * part) {
                self.fill(&from.x[n * input..][..input], &mut image);
                delta(n, &mut before);
                let (starts, taps, gradient) = (&starts, &taps, &mut *sums);
                dispatch(self.target, Outer { input: &image, delta: &before, lanes, starts, taps, gradient });
            }
        });
        for (filter, (dw, db)) in dw.chunks_exact_mut(taps.len()).zip(db).enumerate() {
            let total = |at: usize| sums.iter().skip(at * lanes + filter).step_by(share).sum();
            dw.iter_mut().enumerate().for_each(|(tap, dw)| *dw = total(tap));
            *db = total(taps.len());
        }
    }
}

struct Forward<'a> {
    input: &'a [f32],
    weights: &'a [f32],
    bias: &'a [f32],
    starts: &'a [usize],
    taps: &'a [usize],
    filters: usize,
    floor: f32,
    output: &'a mut [f32],
}

/// Elements whose sums stay in registers together.
const TILE: usize = 4;

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let whole = self.starts.len() / TILE * TILE;
        for first in (0..self.bias.len()).step_by(LANES) {
            for pixel in (0..whole).step_by(TILE) {
                self.tile::<V, TILE>(v, first, pixel);
            }
            for pixel in whole..self.starts.len() {
                self.tile::<V, 1>(v, first, pixel);
            }
        }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn tile<V: Vector, const P: usize>(&mut self, v: V, first: usize, pixel: usize) {
        let mut sums = [v.load(&self.bias[first..]); P];
        for (tap, weights) in self.taps.iter().zip(self.weights.chunks_exact(self.bias.len())) {
            let w = v.load(&weights[first..]);
            for (p, sum) in sums.iter_mut().enumerate() {
                *sum = v.mul_add(w, v.load(&self.input[self.starts[pixel + p] + tap + first..]), *sum);
            }
        }
        let lanes = LANES.min(self.filters - first);
        for (p, &sum) in sums.iter().enumerate() {
            let sum = v.max(v.splat(self.floor), sum);
            let to = &mut self.output[(pixel + p) * self.filters + first..][..lanes];
            if lanes == LANES {
                v.store(to, sum);
            } else {
                to.copy_from_slice(&v.to_array(sum)[..lanes]);
            }
        }
    }
}

struct Outer<'a> {
    input: &'a [f32],
    delta: &'a [f32],
    lanes: usize,
    starts: &'a [usize],
    taps: &'a [usize],
    gradient: &'a mut [f32],
}

impl Kernel for Outer<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let (weights, bias) = self.gradient.split_at_mut(self.taps.len() * self.lanes);
        for first in (0..self.lanes).step_by(LANES) {
            for (tap, to) in self.taps.iter().zip(weights.chunks_exact_mut(self.lanes)) {
                let mut sum = v.load(&to[first..]);
                for (start, delta) in self.starts.iter().zip(self.delta.chunks_exact(self.lanes)) {
                    sum = v.mul_add(v.load(&delta[first..]), v.load(&self.input[start + tap + first..]), sum);
                }
                v.store(&mut to[first..], sum);
            }
            let mut sum = v.load(&bias[first..]);
            for delta in self.delta.chunks_exact(self.lanes) {
                sum = v.add(sum, v.load(&delta[first..]));
            }
            v.store(&mut bias[first..], sum);
        }
    }
}

struct Scatter<'a> {
    delta: &'a [f32],
    weights: &'a [f32],
    lanes: usize,
    starts: &'a [usize],
    taps: &'a [usize],
    gradient: &'a mut [f32],
}

impl Kernel for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for (start, delta) in self.starts.iter().zip(self.delta.chunks_exact(self.lanes)) {
            for (tap, weights) in self.taps.iter().zip(self.weights.chunks_exact(self.lanes)) {
                let to = &mut self.gradient[start + tap..][..self.lanes];
                for first in (0..self.lanes).step_by(LANES) {
                    let sum = v.mul_add(v.load(&weights[first..]), v.load(&delta[first..]), v.load(&to[first..]));
                    v.store(&mut to[first..], sum);
                }
            }
        }
    }
}
