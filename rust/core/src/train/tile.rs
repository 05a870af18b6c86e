//! The register tiles of convolution: channels in the lanes, elements of the image in the rows of a tile.
//!
//! ```text
//!            T registers = 16·T output channels
//!          ┌────────┬────────┐
//! element 0│  acc   │  acc   │   for every tap and input channel k:
//! element 1│  acc   │  acc   │       w[0..T] = weights[k]
//!   …      │        │        │       for every element p of the tile:
//! element P│  acc   │  acc   │           acc[p] += w · input[p + k]        (broadcast)
//!          └────────┴────────┘
//! ```
//! The gradient of the weights is the same tile with taps in the rows and a sum over the elements.

// Plain counted loops over tiles: they unroll into registers, and every index is a constant.
#![expect(clippy::needless_range_loop)]

use super::window::Class;
use crate::simd::{Kernel, LANES, Target, Vector};

/// Registers side by side in a tile, and rows: 24 accumulators where there are 32 registers of 16 floats, 6 elsewhere.
pub(super) fn shape(target: Target) -> (usize, usize) {
    if target.name() == "avx512" { (2, 12) } else { (1, 6) }
}

/// Output channels in column blocks: `blocks(n, T)` yields (first channel, registers), all T wide but for the last.
pub(super) fn blocks(channels: usize, registers: usize) -> impl Iterator<Item = (usize, usize)> {
    let vectors = channels.div_ceil(LANES);
    (0..vectors).step_by(registers).map(move |v| (v * LANES, registers.min(vectors - v)))
}

/// Floats that `channels` take in whole registers.
pub(super) fn padded(channels: usize) -> usize {
    channels.div_ceil(LANES) * LANES
}

/// Calls a tile function with its row count as a constant.
macro_rules! with_rows {
    ($rows:expr, $tile:ident::<$V:ty, $T:literal>($($arg:expr),* $(,)?)) => {
        match $rows {
            1 => $tile::<$V, $T, 1>($($arg),*),
            2 => $tile::<$V, $T, 2>($($arg),*),
            3 => $tile::<$V, $T, 3>($($arg),*),
            4 => $tile::<$V, $T, 4>($($arg),*),
            5 => $tile::<$V, $T, 5>($($arg),*),
            6 => $tile::<$V, $T, 6>($($arg),*),
            7 => $tile::<$V, $T, 7>($($arg),*),
            8 => $tile::<$V, $T, 8>($($arg),*),
            9 => $tile::<$V, $T, 9>($($arg),*),
            10 => $tile::<$V, $T, 10>($($arg),*),
            11 => $tile::<$V, $T, 11>($($arg),*),
            _ => $tile::<$V, $T, 12>($($arg),*),
        }
    };
}

/// One image through a window: `output[p] = bias + Σ weights[tap] · input[p + tap]`, clamped at 0 with `relu`.
pub(super) struct Gather<'a> {
    pub classes: &'a [Class],
    /// Taps in a row of the kernel.
    pub kernel_width: usize,
    /// The image read, with its width and its floats per element.
    pub input: &'a [f32],
    pub input_width: usize,
    pub input_channels: usize,
    /// Panels of the blocks one after the other; each `[tap][input channel][lane]`.
    pub weights: &'a [f32],
    /// One float per lane of every block.
    pub bias: &'a [f32],
    pub relu: bool,
    /// The image written and its channels.
    pub output: &'a mut [f32],
    pub output_channels: usize,
    pub tile: (usize, usize),
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let depth = if self.bias.is_empty() { 0 } else { self.weights.len() / self.bias.len() };
        for (first, registers) in blocks(self.output_channels, self.tile.0) {
            let panel = &self.weights[first * depth..][..registers * LANES * depth];
            match registers {
                1 => self.block::<V, 1>(v, panel, first),
                _ => self.block::<V, 2>(v, panel, first),
            }
        }
    }
}

impl Gather<'_> {
    #[inline(always)]
    fn block<V: Vector, const T: usize>(&mut self, v: V, panel: &[f32], first: usize) {
        for class in self.classes {
            let skip = class.first * self.input_channels * T * LANES;
            for positions in class.positions.chunks(self.tile.1) {
                match T {
                    1 => with_rows!(
                        positions.len(),
                        gather_tile::<V, 1>(self, v, class, positions, &panel[skip..], first)
                    ),
                    _ => with_rows!(
                        positions.len(),
                        gather_tile::<V, 2>(self, v, class, positions, &panel[skip..], first)
                    ),
                }
            }
        }
    }
}

#[inline(always)]
fn gather_tile<V: Vector, const T: usize, const P: usize>(
    job: &mut Gather<'_>,
    v: V,
    class: &Class,
    positions: &[(usize, usize)],
    weights: &[f32],
    first: usize,
) {
    let channels = job.input_channels;
    // Neighbouring taps that read neighbouring elements are one run.
    let (columns, run) = if class.steps.1 == 1 { (1, class.taps.1 * channels) } else { (class.taps.1, channels) };
    let mut starts = [0; P];
    let mut sums = [[v.splat(0.0); T]; P];
    for p in 0..P {
        starts[p] = positions[p].1 * channels;
        for t in 0..T {
            sums[p][t] = v.load(&job.bias[first + t * LANES..]);
        }
    }
    for row in 0..class.taps.0 {
        for column in 0..columns {
            let mut elements: [&[f32]; P] = [&[]; P];
            let from = (row * class.steps.0 * job.input_width + column * class.steps.1) * channels;
            for p in 0..P {
                elements[p] = &job.input[starts[p] + from..][..run];
            }
            let weights = &weights[(row * job.kernel_width + column) * channels * T * LANES..][..run * T * LANES];
            for (k, w) in weights.chunks_exact(T * LANES).enumerate() {
                for p in 0..P {
                    let x = v.splat(elements[p][k]);
                    for t in 0..T {
                        sums[p][t] = v.mul_add(v.load(&w[t * LANES..]), x, sums[p][t]);
                    }
                }
            }
        }
    }
    for p in 0..P {
        let at = positions[p].0 * job.output_channels + first;
        for t in 0..T {
            let sum = if job.relu { v.max(v.splat(0.0), sums[p][t]) } else { sums[p][t] };
            let lanes = LANES.min(job.output_channels - first - t * LANES);
            let to = &mut job.output[at + t * LANES..][..lanes];
            if lanes == LANES {
                v.store(to, sum);
            } else {
                to.copy_from_slice(&v.to_array(sum)[..lanes]);
            }
        }
    }
}

/// One image's share of the gradient of the weights: `gradient[tap] += Σ over elements p of delta[p] · input[p + tap]`.
pub(super) struct Outer<'a> {
    /// The image with its padding.
    pub input: &'a [f32],
    /// Where each element of `delta` reads its first tap.
    pub starts: &'a [usize],
    /// Distance of each (tap, channel) from the first; neighbours in runs of `run`.
    pub taps: &'a [usize],
    pub run: usize,
    /// The gradient of the output, `[element][channel]` with the channels filled up to whole registers.
    pub delta: &'a [f32],
    pub channels: usize,
    /// Panels of the blocks; each `[tap, channel][lane]`.
    pub gradient: &'a mut [f32],
    pub tile: (usize, usize),
}

/// Rows of a tile whose taps are no neighbours: each needs a register of its own besides the accumulators.
const SCATTERED: usize = 9;

impl Kernel for Outer<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        // Runs are cut evenly: 96 taps as 8 × 12, 13 as 7 + 6. Short ones are joined.
        let neighbours = self.run > SCATTERED / 2;
        let (run, most) =
            if neighbours { (self.run, self.tile.1) } else { (self.taps.len(), SCATTERED.min(self.tile.1)) };
        let rows = run.div_ceil(run.div_ceil(most));
        for (first, registers) in blocks(self.channels, self.tile.0) {
            for (start, tap) in
                (0..self.taps.len()).step_by(run).flat_map(|s| (s..s + run).step_by(rows).map(move |t| (s, t)))
            {
                let rows = rows.min(start + run - tap);
                match (registers, neighbours) {
                    (1, true) => with_rows!(rows, neighbour_tile::<V, 1>(&mut self, v, first, tap)),
                    (_, true) => with_rows!(rows, neighbour_tile::<V, 2>(&mut self, v, first, tap)),
                    (1, false) => with_rows!(rows, scattered_tile::<V, 1>(&mut self, v, first, tap)),
                    (_, false) => with_rows!(rows, scattered_tile::<V, 2>(&mut self, v, first, tap)),
                }
            }
        }
    }
}

#[inline(always)]
fn neighbour_tile<V: Vector, const T: usize, const P: usize>(job: &mut Outer<'_>, v: V, first: usize, tap: usize) {
    let mut sums = [[v.splat(0.0); T]; P];
    let input = &job.input[job.taps[tap]..];
    for (delta, &start) in job.delta.chunks_exact(padded(job.channels)).zip(job.starts) {
        let delta = &delta[first..][..T * LANES];
        let elements = &input[start..][..P];
        for p in 0..P {
            let x = v.splat(elements[p]);
            for t in 0..T {
                sums[p][t] = v.mul_add(v.load(&delta[t * LANES..]), x, sums[p][t]);
            }
        }
    }
    add_tile::<V, T, P>(job, v, first, tap, sums);
}

#[inline(always)]
fn scattered_tile<V: Vector, const T: usize, const P: usize>(job: &mut Outer<'_>, v: V, first: usize, tap: usize) {
    let mut taps = [0; P];
    taps.copy_from_slice(&job.taps[tap..][..P]);
    let mut sums = [[v.splat(0.0); T]; P];
    for (delta, &start) in job.delta.chunks_exact(padded(job.channels)).zip(job.starts) {
        let delta = &delta[first..][..T * LANES];
        for p in 0..P {
            let x = v.splat(job.input[start + taps[p]]);
            for t in 0..T {
                sums[p][t] = v.mul_add(v.load(&delta[t * LANES..]), x, sums[p][t]);
            }
        }
    }
    add_tile::<V, T, P>(job, v, first, tap, sums);
}

#[inline(always)]
fn add_tile<V: Vector, const T: usize, const P: usize>(
    job: &mut Outer<'_>,
    v: V,
    first: usize,
    tap: usize,
    sums: [[V::F32; T]; P],
) {
    let panel = &mut job.gradient[first * job.taps.len() + tap * T * LANES..][..P * T * LANES];
    for p in 0..P {
        for t in 0..T {
            let to = &mut panel[(p * T + t) * LANES..][..LANES];
            v.store(to, v.add(v.load(to), sums[p][t]));
        }
    }
}
