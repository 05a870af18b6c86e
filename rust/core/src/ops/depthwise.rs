//! Convolution of every channel by itself: nothing is summed over channels, so a matrix product has nothing to do here.
//!
//! ```text
//! channels last       lanes are channels: y[pixel] = Σ over taps  weights[tap] · x[pixel + tap], register by register
//! images or pixels    lanes are neighbours of one channel: a filter's weights are broadcast once a plane, and every
//!                     tap is an offset into the channel
//!
//! acc = bias                                    up to 9 taps in a pass, whose operands have fixed lengths: no index is
//! for each tap of the pass:                     checked inside the loop; larger filters take several passes
//!   acc += weight[tap] · x[offset[tap] + i]
//! ```

use super::linear::Linear;
use super::pool::Window;
use super::{Layout, Operator, Shape};
use crate::executor::{Executor, for_each_chunk};
use crate::formats::Activation;
use crate::simd::{Buffer, Kernel, LANES, Target, Vector, dispatch};

/// A depthwise convolution: as many groups as channels.
pub struct Depthwise {
    layer: Linear,
    /// `[filter][tap]`; with the channels in the lanes `[tap][filter]`, filled up to whole registers.
    weights: Buffer,
    bias: Buffer,
    layouts: (Layout, Layout),
    images: usize,
    target: Target,
}

/// Floats that a task computes, about.
const TASK: usize = 8192;

impl Depthwise {
    /// The operator for a layer and layouts that [`crate::plan::choose`] lists: channels last only where every channel has
    /// one filter.
    pub fn new(layer: &Linear, layouts: (Layout, Layout), images: usize, target: Target) -> Depthwise {
        let (filters, taps) = (layer.weights.rows(), layer.weights.columns());
        let lanes = filters.next_multiple_of(LANES);
        let mut weights = Buffer::zeroed(lanes * taps);
        let steps = if channels_in_lanes(layer, layouts) { (1, lanes) } else { (taps, 1) };
        for filter in 0..filters {
            for (tap, w) in layer.weights.row(filter) {
                weights[filter * steps.0 + tap * steps.1] = w;
            }
        }
        let mut bias = Buffer::zeroed(lanes);
        if let Some(from) = &layer.bias {
            bias[..filters].copy_from_slice(from);
        }
        let layer = layer.without_weights();
        Depthwise { layer, weights, bias, layouts, images, target }
    }
}

fn channels_in_lanes(layer: &Linear, (input, output): (Layout, Layout)) -> bool {
    input.strides(layer.input).c == 1 && output.strides(layer.output).c == 1
}

impl Operator for Depthwise {
    fn run(&self, executor: &dyn Executor, input: &[f32], output: &mut [f32], _scratch: &mut [f32]) {
        let executor = super::linear::sequential_if_small(executor, self.layer.macs() * self.images);
        let (from, to) = (self.layouts.0.strides(self.layer.input), self.layouts.1.strides(self.layer.output));
        let len = self.layouts.1.len(self.layer.output, self.images);
        let lanes = channels_in_lanes(&self.layer, self.layouts);
        // A unit is a row of the output, or a channel of a group of images.
        let (unit, units) = if lanes { (to.h, self.layer.output.h) } else { (to.c, self.layer.output.c) };
        let share = TASK.div_ceil(unit.max(1));
        for_each_chunk(executor, &mut output[..len], share * unit, &|task, output| {
            for (at, output) in output.chunks_exact_mut(unit).enumerate() {
                let (group, at) = ((task * share + at) / units, (task * share + at) % units);
                let input = &input[group * from.group_step..];
                if lanes {
                    dispatch(self.target, Row { layer: self, y: at, input, output });
                } else {
                    dispatch(self.target, Plane { layer: self, filter: at, input, output });
                }
            }
        });
    }

    fn kernel(&self) -> String {
        format!("depthwise_dense_f32__{}", self.target.name())
    }

    fn nbytes(&self) -> usize {
        self.weights.len() * 4
    }
}

/// Taps in a pass: with their weights, the sum and an operand they fit 16 registers.
const PASS: usize = 9;

/// Calls a pass with its number of taps as a constant.
macro_rules! with_taps {
    ($taps:expr, $this:ident.$pass:ident::<$V:ty>($($arg:expr),*)) => {
        match $taps {
            1 => $this.$pass::<$V, 1>($($arg),*),
            2 => $this.$pass::<$V, 2>($($arg),*),
            3 => $this.$pass::<$V, 3>($($arg),*),
            4 => $this.$pass::<$V, 4>($($arg),*),
            5 => $this.$pass::<$V, 5>($($arg),*),
            6 => $this.$pass::<$V, 6>($($arg),*),
            7 => $this.$pass::<$V, 7>($($arg),*),
            8 => $this.$pass::<$V, 8>($($arg),*),
            _ => $this.$pass::<$V, PASS>($($arg),*),
        }
    };
}

/// A row of the output, channels in the lanes.
struct Row<'a> {
    layer: &'a Depthwise,
    y: usize,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let taps = self.layer.layer.weights.columns();
        for x in 0..self.layer.layer.output.w {
            for first in (0..taps).step_by(PASS) {
                with_taps!(taps - first, self.pass::<V>(v, x, first, taps));
            }
        }
    }
}

impl Row<'_> {
    /// Taps `first .. first + T` of pixel `x`.
    #[inline(always)]
    fn pass<V: Vector, const T: usize>(&mut self, v: V, x: usize, first: usize, taps: usize) {
        let Depthwise { layer, weights, bias, .. } = self.layer;
        let Linear { window, input: Shape { c, w, .. }, activation, .. } = *layer;
        let start = (self.y * window.stride.0 * w + x * window.stride.1) * c;
        let offsets = offsets::<T>(window, first, (w * c, c));
        let lanes = bias.len();
        let from: [&[f32]; T] = offsets.map(|offset| &self.input[start + offset..][..c]);
        let mut factors = [bias.as_chunks::<LANES>().0; T];
        for (t, factor) in factors.iter_mut().enumerate() {
            *factor = weights[(first + t) * lanes..][..lanes].as_chunks::<LANES>().0;
        }
        let (last, floor) = (first + T == taps, v.splat(floor(activation)));
        let out = &mut self.output[x * c..][..c];
        let (whole, rest) = out.as_chunks_mut::<LANES>();
        let lines = whole.len();
        let registers = from.map(|from| &from.as_chunks::<LANES>().0[..lines]);
        let factors_of = factors.map(|factors| &factors[..lines]);
        let biases = &bias.as_chunks::<LANES>().0[..lines];
        for (line, out) in whole.iter_mut().enumerate() {
            let mut acc = v.load(if first == 0 { &biases[line] } else { &*out });
            for t in 0..T {
                acc = v.mul_add(v.load(&registers[t][line]), v.load(&factors_of[t][line]), acc);
            }
            v.store(out, if last { v.max(acc, floor) } else { acc });
        }
        let done = lines * LANES;
        for (lane, out) in rest.iter_mut().enumerate() {
            let mut acc = if first == 0 { bias[done + lane] } else { *out };
            for t in 0..T {
                acc = from[t][done + lane].mul_add(factors[t][lines][lane], acc);
            }
            *out = if last && activation == Activation::Relu { acc.max(0.0) } else { acc };
        }
        if last && floor_only(activation).is_none() {
            activation.of_slice(v, out);
        }
    }
}

/// A channel of the output for a group of images, images or pixels in the lanes.
struct Plane<'a> {
    layer: &'a Depthwise,
    filter: usize,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for Plane<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let taps = self.layer.layer.weights.columns();
        for first in (0..taps).step_by(PASS) {
            with_taps!(taps - first, self.pass::<V>(v, first, taps));
        }
        let activation = self.layer.layer.activation;
        if floor_only(activation).is_none() {
            activation.of_slice(v, self.output);
        }
    }
}

impl Plane<'_> {
    /// Taps `first .. first + T` of the whole plane.
    #[inline(always)]
    fn pass<V: Vector, const T: usize>(&mut self, v: V, first: usize, taps: usize) {
        let Depthwise { layer, weights, bias, layouts, .. } = self.layer;
        let Linear { window, output, activation, .. } = layer;
        let (from, to) = (layouts.0.strides(layer.input), layouts.1.strides(*output));
        let channel = self.filter / (output.c / layer.input.c) * from.c;
        let offsets = offsets::<T>(*window, first, (from.h, from.w));
        let values = &weights[self.filter * taps..][first..first + T];
        let mut factors = [v.splat(0.0); T];
        for (factor, &w) in factors.iter_mut().zip(values) {
            *factor = v.splat(w);
        }
        let floor = if first + T == taps { floor(*activation) } else { f32::NEG_INFINITY };
        let floor = v.splat(floor);
        let start = (first == 0).then(|| v.splat(bias[self.filter]));
        // Neighbouring outputs read neighbouring inputs at stride 1: a row is one run. Else every pixel of images is one.
        let (run, pixels) = if window.stride.1 == 1 || to.w == 1 { (to.h, 1) } else { (to.w, output.w) };
        let step = if to.w == 1 { window.stride.1 } else { 1 };
        for y in 0..output.h {
            for pixel in 0..pixels {
                let at = channel + y * window.stride.0 * from.h + pixel * window.stride.1 * from.w;
                let out = &mut self.output[y * to.h + pixel * to.w..][..run];
                if step == 2 {
                    for (line, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                        let mut acc = start.unwrap_or(v.load(out));
                        for t in 0..T {
                            let at = at + offsets[t] + 2 * line * LANES;
                            let (even, _) = v.unzip(load(v, self.input, at), load(v, self.input, at + LANES));
                            acc = v.mul_add(factors[t], even, acc);
                        }
                        v.store(out, v.max(acc, floor));
                    }
                    continue;
                }
                let registers = offsets.map(|offset| self.input[at + offset..][..run].as_chunks::<LANES>().0);
                let (out, _) = out.as_chunks_mut::<LANES>();
                let registers = registers.map(|registers| &registers[..out.len()]);
                for (line, out) in out.iter_mut().enumerate() {
                    let mut acc = start.unwrap_or(v.load(out));
                    for t in 0..T {
                        acc = v.mul_add(factors[t], v.load(&registers[t][line]), acc);
                    }
                    v.store(out, v.max(acc, floor));
                }
            }
        }
    }
}

/// Where taps `first .. first + T` lie, from the first tap of the filter, given the steps of rows and columns.
#[inline(always)]
fn offsets<const T: usize>(window: Window, first: usize, (down, right): (usize, usize)) -> [usize; T] {
    let mut offsets = [0; T];
    for (t, offset) in offsets.iter_mut().enumerate() {
        let (row, column) = ((first + t) / window.size.1, (first + t) % window.size.1);
        *offset = row * window.dilation.0 * down + column * window.dilation.1 * right;
    }
    offsets
}

/// A register of pixels; those beyond the buffer are of no row.
#[inline(always)]
fn load<V: Vector>(v: V, input: &[f32], at: usize) -> V::F32 {
    match input.get(at..at + LANES) {
        Some(lanes) => v.load(lanes),
        None => {
            let mut lanes = [0.0; LANES];
            let rest = input.get(at..).unwrap_or(&[]);
            lanes[..rest.len()].copy_from_slice(rest);
            v.load(&lanes)
        }
    }
}

/// What results are clamped to from below, where the activation is nothing but that.
fn floor_only(activation: Activation) -> Option<f32> {
    match activation {
        Activation::None => Some(f32::NEG_INFINITY),
        Activation::Relu => Some(0.0),
        Activation::Tanh | Activation::Sigmoid => None,
    }
}

fn floor(activation: Activation) -> f32 {
    floor_only(activation).unwrap_or(f32::NEG_INFINITY)
}
