//! Convolution of every channel by itself: nothing is summed over channels, so a matrix product has nothing to do here.
//!
//! ```text
//! images or pixels in the lanes, one channel at a time       channels in the lanes, one pixel at a time
//!
//! copy the channel into a plane with its border              for each line of channels:
//! for each line of the plane:                                  acc = bias
//!   acc = bias                                                 for each tap inside the image:
//!   for each tap: acc += weight · plane[line + offset(tap)]      acc += weights[tap] · x[pixel + offset(tap)]
//! copy the rows of the image out
//! ```
//!
//! Dense 3×3 and 5×5 filters of stride 1 or 2 read rows of pixels from where they lie instead
//! ([`crate::formats::depthwise`]).
//!
//! A plane is one run, whatever the width of its rows: what is computed where a row's windows hang over into the next one is
//! never copied out. For stride s it is s · s planes, of every s-th row and column, and a tap lies in one of them. So border
//! and stride cost a copy in the first-level cache, and no pass over the whole activations.

use super::linear::{Linear, sequential_if_small};
use super::{Layout, Operator, Shape};
use crate::executor::{Executor, for_each_chunk};
use crate::formats::depthwise::{self, DepthwiseRows, Filter};
use crate::simd::{Buffer, Kernel, LANES, Target, Vector, dispatch};
use std::sync::Arc;

/// A depthwise convolution: as many groups as channels.
pub struct Depthwise {
    layer: Linear,
    /// `[filter][tap]`; with the channels in the lanes `[tap][filter]`, filled up to whole registers.
    weights: Arc<Buffer>,
    bias: Buffer,
    layouts: (Layout, Layout),
    /// Whether zeros are skipped: not with the channels in the lanes.
    sparse: bool,
    /// Where rows of pixels need no copy.
    rows: Option<DepthwiseRows>,
    images: usize,
    target: Target,
}

/// Floats that a task computes, about.
const TASK: usize = 1 << 15;

impl Depthwise {
    /// The operator for a layer and layouts that [`crate::plan::choose`] lists.
    pub fn new(layer: &Linear, layouts: (Layout, Layout), sparse: bool, images: usize, target: Target) -> Depthwise {
        let (filters, taps) = (layer.weights.rows(), layer.weights.columns());
        let lanes = filters.next_multiple_of(LANES);
        let in_lanes = channels_in_lanes(layer, layouts);
        let (name, steps) = if in_lanes { ("tap, filter", (1, lanes)) } else { ("filter, tap", (taps, 1)) };
        let weights = layer.weights.packed(layer.form(name, target), |from| {
            let mut weights = Buffer::zeroed(lanes * taps);
            for filter in 0..filters {
                for (tap, w) in from.row(filter) {
                    weights[filter * steps.0 + tap * steps.1] = w;
                }
            }
            weights
        });
        let mut bias = Buffer::zeroed(lanes);
        if let Some(from) = &layer.bias {
            bias[..filters].copy_from_slice(from);
        }
        let in_rows = !sparse && layouts.0.strides(layer.input).w == 1 && layouts.1.strides(layer.output).w == 1;
        let rows = in_rows.then(|| {
            let planes = (layouts.0.planes(layer.input), layouts.1.planes(layer.output));
            DepthwiseRows::new(layer.window, planes.0, planes.1, (layer.border.top, layer.border.left))
        });
        let rows = rows.flatten();
        Depthwise { layer: layer.without_weights(), weights, bias, layouts, sparse, rows, images, target }
    }
}

/// Whether the channels lie side by side, and every one has one filter.
fn channels_in_lanes(layer: &Linear, (input, output): (Layout, Layout)) -> bool {
    let sides = (input.strides(layer.input).c, output.strides(layer.output).c);
    sides == (1, 1) && layer.input.c == layer.output.c
}

impl Operator for Depthwise {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        let input = inputs[0];
        let Depthwise { layer, layouts, images, target, .. } = self;
        let executor = sequential_if_small(executor, layer.macs() * images);
        let step = layouts.0.strides(layer.input).group_step;
        let lanes = channels_in_lanes(layer, *layouts);
        // A unit is a row of the output, or a channel of a group of images.
        let Shape { c, h, w } = layer.output;
        let (unit, units) = if lanes { (w * c, h) } else { (layouts.1.strides(layer.output).c, c) };
        let share = TASK.div_ceil(unit.max(1));
        let len = layouts.1.len(layer.output, *images);
        for_each_chunk(executor, &mut output[..len], share * unit, &|task, output| {
            let units_of = output.chunks_exact_mut(unit).enumerate();
            let place = |at: usize| ((task * share + at) / units, (task * share + at) % units);
            if lanes {
                for (at, output) in units_of {
                    let (image, y) = place(at);
                    dispatch(*target, Row { op: self, y, input: &input[image * step..], output });
                }
            } else if let Some(rows) = &self.rows {
                let (taps, pitch) = (layer.weights.columns(), layouts.0.strides(layer.input).c);
                let channels = units_of.map(|(at, y)| {
                    let (image, filter) = place(at);
                    let x = &input[image * step + filter / (c / layer.input.c) * pitch..];
                    let weights = &self.weights[filter * taps..][..taps];
                    let filter = Filter { weights, bias: self.bias[filter], activation: layer.activation };
                    depthwise::Channel { filter, x, y }
                });
                rows.channels(*target, channels);
            } else {
                let mut planes = Planes::new(self);
                for (at, output) in units_of {
                    let (group, filter) = place(at);
                    let input = &input[group * step..];
                    dispatch(*target, Channel { op: self, planes: &mut planes, group, filter, input, output });
                }
            }
        });
    }

    fn kernel(&self) -> String {
        format!("depthwise_{}_f32__{}", if self.sparse { "csr" } else { "dense" }, self.target.name())
    }

    fn nbytes(&self) -> usize {
        self.weights.len() * 4
    }
}

/// Taps in a pass: their weights stay in registers, with the sums of a tile.
const PASS: usize = 9;

/// Lines in a tile.
const TILE: usize = 4;

/// Calls a pass with its number of taps as a constant.
macro_rules! with_taps {
    ($taps:expr, $this:ident.$pass:ident::<$V:ty>($($arg:expr),*)) => {
        match $taps {
            0 => $this.$pass::<$V, 0>($($arg),*),
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

/// A channel with its border, and its result in rows as far apart.
struct Planes {
    /// Floats of a pixel: images in the lanes, or one.
    pixel: usize,
    /// Floats of a row of a plane, and of a plane.
    pitch: usize,
    plane: usize,
    /// For every row and column modulo the stride a plane; what is not of the image stays 0.
    input: Buffer,
    output: Buffer,
    /// The group and channel that `input` holds.
    held: Option<(usize, usize)>,
    /// The taps of a filter: where they lie, and their weights.
    taps: Vec<(usize, f32)>,
}

impl Planes {
    fn new(op: &Depthwise) -> Planes {
        let Linear { window, border, input, output, .. } = op.layer;
        let outer = border.around(input);
        let pixel = op.layouts.0.strides(input).group;
        let pitch = outer.w.div_ceil(window.stride.1) * pixel;
        let plane = outer.h.div_ceil(window.stride.0) * pitch;
        let len = ((output.h - 1) * pitch + output.w * pixel).next_multiple_of(TILE * LANES);
        let floats = window.stride.0 * window.stride.1 * plane + TILE * LANES + pitch;
        Planes {
            pixel,
            pitch,
            plane,
            input: Buffer::zeroed(floats),
            output: Buffer::zeroed(len),
            held: None,
            taps: Vec::new(),
        }
    }
}

/// A channel of the output for a group of images.
struct Channel<'a> {
    op: &'a Depthwise,
    planes: &'a mut Planes,
    group: usize,
    filter: usize,
    /// The group's images.
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for Channel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let layer = &self.op.layer;
        self.fill(v);
        self.list_taps();
        let count = self.planes.taps.len();
        for pass in 0..count.div_ceil(PASS).max(1) {
            with_taps!(count - pass * PASS, self.pass::<V>(v, pass));
        }
        let to = self.op.layouts.1.strides(layer.output);
        let (pitch, row) = (self.planes.pitch, layer.output.w * self.planes.pixel);
        for y in 0..layer.output.h {
            copy(&mut self.output[y * to.h..][..row], &self.planes.output[y * pitch..]);
        }
        if let Some(activation) = layer.activation.afterwards() {
            activation.of_slice(v.target(), self.output);
        }
    }
}

impl Channel<'_> {
    /// Copies the filter's channel into the planes.
    #[inline(always)]
    fn fill<V: Vector>(&mut self, v: V) {
        let Linear { window, border, input, output, .. } = &self.op.layer;
        let from = self.op.layouts.0.strides(*input);
        let channel = self.filter / (output.c / input.c);
        let held = (self.group, channel);
        if self.planes.held.replace(held) == Some(held) {
            return;
        }
        let (pixel, (down, right)) = (self.planes.pixel, window.stride);
        for y in 0..input.h {
            // Longer than the row, for whole registers.
            let row = &self.input[channel * from.c + y * from.h..];
            let at = y + border.top;
            let first = at % down * right * self.planes.plane + at / down * self.planes.pitch;
            for x in 0..right.min(input.w) {
                // Columns x, x + s, x + 2s … are neighbours in one plane.
                let at = x + border.left;
                let start = first + at % right * self.planes.plane + at / right * pixel;
                let count = (input.w - x).div_ceil(right);
                let to = &mut self.planes.input[start..][..count * pixel];
                if right == 1 {
                    copy(to, row);
                } else if pixel > 1 {
                    for (to, from) in to.chunks_exact_mut(pixel).zip(row[x * pixel..].chunks(right * pixel)) {
                        copy(to, from);
                    }
                } else if right == 2 {
                    halve(v, &row[x..], to);
                } else {
                    to.iter_mut().zip(row[x..].iter().step_by(right)).for_each(|(to, &x)| *to = x);
                }
            }
        }
    }

    fn list_taps(&mut self) {
        let Depthwise { layer, weights, sparse, .. } = self.op;
        let (window, (down, right)) = (layer.window, layer.window.stride);
        let planes = &mut *self.planes;
        planes.taps.clear();
        let count = layer.weights.columns();
        for (tap, &w) in weights[self.filter * count..][..count].iter().enumerate() {
            if *sparse && w == 0.0 {
                continue;
            }
            let (y, x) = (tap / window.size.1 * window.dilation.0, tap % window.size.1 * window.dilation.1);
            let plane = (y % down * right + x % right) * planes.plane;
            planes.taps.push((plane + y / down * planes.pitch + x / right * planes.pixel, w));
        }
    }

    /// Adds up to [`PASS`] taps to the whole plane.
    #[inline(always)]
    fn pass<V: Vector, const T: usize>(&mut self, v: V, pass: usize) {
        let Planes { input, output, taps, .. } = &mut *self.planes;
        let mut offsets = [0; T];
        let mut factors = [v.splat(0.0); T];
        for t in 0..T {
            let (offset, w) = taps[pass * PASS + t];
            (offsets[t], factors[t]) = (offset, v.splat(w));
        }
        let last = pass * PASS + T == taps.len();
        let floor = v.splat(if last { self.op.layer.activation.floor() } else { f32::NEG_INFINITY });
        let bias = v.splat(self.op.bias[self.filter]);
        for (tile, out) in output.chunks_exact_mut(TILE * LANES).enumerate() {
            let mut acc = [bias; TILE];
            if pass > 0 {
                for (p, acc) in acc.iter_mut().enumerate() {
                    *acc = v.load(&out[p * LANES..]);
                }
            }
            for t in 0..T {
                let x = &input[offsets[t] + tile * TILE * LANES..][..TILE * LANES];
                for (p, acc) in acc.iter_mut().enumerate() {
                    *acc = v.mul_add(factors[t], v.load(&x[p * LANES..]), *acc);
                }
            }
            for (p, &acc) in acc.iter().enumerate() {
                v.store(&mut out[p * LANES..], v.max(floor, acc));
            }
        }
    }
}

/// Fills `to` from the start of `from`: rows are short, and calls of memcpy would take longer than the arithmetic.
#[inline(always)]
fn copy(to: &mut [f32], from: &[f32]) {
    #[inline(always)]
    fn pieces<const N: usize>(to: &mut [f32], from: &[f32]) {
        for (to, from) in to.as_chunks_mut::<N>().0.iter_mut().zip(from.as_chunks::<N>().0) {
            *to = *from;
        }
        // The last piece ends with the row, over what the one before has written.
        let last = to.len() - N;
        to[last..][..N].copy_from_slice(&from[last..][..N]);
    }
    let from = &from[..to.len()];
    match to.len() {
        0..4 => to.iter_mut().zip(from).for_each(|(to, &x)| *to = x),
        4..8 => pieces::<4>(to, from),
        8..16 => pieces::<8>(to, from),
        _ => pieces::<LANES>(to, from),
    }
}

/// Fills `to` from every second element.
#[inline(always)]
fn halve<V: Vector>(v: V, from: &[f32], to: &mut [f32]) {
    for (i, to) in to.chunks_mut(LANES).enumerate() {
        let from = &from[2 * i * LANES..];
        match (from.as_chunks::<{ 2 * LANES }>().0.first(), to.len()) {
            (Some(pair), LANES) => v.store(to, v.unzip(v.load(pair), v.load(&pair[LANES..])).0),
            (Some(pair), _) => copy(to, &v.to_array(v.unzip(v.load(pair), v.load(&pair[LANES..])).0)),
            _ => to.iter_mut().zip(from.iter().step_by(2)).for_each(|(to, &x)| *to = x),
        }
    }
}

/// A row of the output, channels in the lanes.
struct Row<'a> {
    op: &'a Depthwise,
    y: usize,
    /// The image.
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let Linear { window, border, input: Shape { h, w, c }, output, activation, .. } = self.op.layer;
        let lanes = self.op.bias.len();
        let inside = |at: usize, before: usize, len: usize| at.checked_sub(before).filter(|&at| at < len);
        // Where the taps inside the image read, and their weights.
        let mut taps: Vec<(usize, usize)> = Vec::with_capacity(window.size.0 * window.size.1);
        for x in 0..output.w {
            taps.clear();
            for i in 0..window.size.0 {
                let row = inside(self.y * window.stride.0 + i * window.dilation.0, border.top, h);
                for j in 0..window.size.1 {
                    let column = inside(x * window.stride.1 + j * window.dilation.1, border.left, w);
                    if let (Some(row), Some(column)) = (row, column) {
                        taps.push(((row * w + column) * c, (i * window.size.1 + j) * lanes));
                    }
                }
            }
            for pass in 0..taps.len().div_ceil(PASS).max(1) {
                with_taps!(taps.len() - pass * PASS, self.pass::<V>(v, x, pass, &taps));
            }
        }
        if let Some(activation) = activation.afterwards() {
            activation.of_slice(v.target(), self.output);
        }
    }
}

impl Row<'_> {
    /// Adds up to [`PASS`] taps to pixel `x`.
    #[inline(always)]
    fn pass<V: Vector, const T: usize>(&mut self, v: V, x: usize, pass: usize, taps: &[(usize, usize)]) {
        let mut here = [(0, 0); T];
        here.copy_from_slice(&taps[pass * PASS..][..T]);
        let last = pass * PASS + T == taps.len();
        let floor = if last { self.op.layer.activation.floor() } else { f32::NEG_INFINITY };
        let channels = self.op.layer.input.c;
        let out = &mut self.output[x * channels..][..channels];
        let tiles = channels / (TILE * LANES);
        for tile in 0..tiles {
            tile_of::<V, T, TILE>(v, self.op, self.input, &here, out, (tile * TILE * LANES, pass == 0, floor));
        }
        let done = tiles * TILE * LANES;
        let whole = channels / LANES * LANES;
        for line in (done..whole).step_by(LANES) {
            tile_of::<V, T, 1>(v, self.op, self.input, &here, out, (line, pass == 0, floor));
        }
        for (lane, out) in out.iter_mut().enumerate().skip(whole) {
            let mut acc = if pass == 0 { self.op.bias[lane] } else { *out };
            for (from, weights) in here {
                acc = self.input[from + lane].mul_add(self.op.weights[weights + lane], acc);
            }
            *out = if acc > floor { acc } else { floor };
        }
    }
}

/// P lines of channels from `first` on.
#[inline(always)]
fn tile_of<V: Vector, const T: usize, const P: usize>(
    v: V,
    op: &Depthwise,
    input: &[f32],
    taps: &[(usize, usize); T],
    out: &mut [f32],
    (first, fresh, floor): (usize, bool, f32),
) {
    let out = &mut out[first..][..P * LANES];
    let from = if fresh { &op.bias[first..][..P * LANES] } else { &*out };
    let mut acc = [v.splat(0.0); P];
    for (p, acc) in acc.iter_mut().enumerate() {
        *acc = v.load(&from[p * LANES..]);
    }
    for &(x, w) in taps {
        let (x, w) = (&input[x + first..][..P * LANES], &op.weights[w + first..][..P * LANES]);
        for (p, acc) in acc.iter_mut().enumerate() {
            *acc = v.mul_add(v.load(&x[p * LANES..]), v.load(&w[p * LANES..]), *acc);
        }
    }
    for (p, &acc) in acc.iter().enumerate() {
        v.store(&mut out[p * LANES..], v.max(v.splat(floor), acc));
    }
}
