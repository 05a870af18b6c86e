//! Depthwise convolution of images in rows of pixels, straight from where they lie.
//!
//! ```text
//! for 4 rows of the result, 16 columns:        acc[4] = bias
//!   for each row of the image that they read:  rows of the border are left out
//!     for each tap of a filter's row:          16 pixels from any address; lanes in the border are not loaded
//!       acc[row] += weight · pixels            of every row that this one is a tap of: one load serves up to three
//! ```
//!
//! At stride 2, two registers are unzipped: even columns are of one tap, odd ones of the next.

use super::Window;
use super::cells::Planes;
use super::epilogue::Activation;
use crate::simd::{Kernel, LANES, Target, Vector, dispatch};

/// Rows of the result that are made together.
const ROWS: usize = 4;

/// Columns of a filter, at most.
const MOST: usize = 5;

/// Where a tap's pixels lie, for 16 columns of the result.
#[derive(Debug, Clone, Copy, Default)]
struct Taps {
    /// The first, from the row's beginning.
    start: isize,
    /// Those inside the image, of 16 and of the next 16.
    inside: [u16; 2],
}

/// A depthwise convolution for one shape of images.
#[derive(Debug, Clone)]
pub struct DepthwiseRows {
    window: Window,
    input: Planes,
    output: Planes,
    /// Rows of the border above the image.
    top: usize,
    /// For every 16 columns of the result, by column of the filter.
    taps: Vec<[Taps; MOST]>,
}

/// Weights of a channel, and what is done to its results.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    /// Rows and columns of the filter, row-major.
    pub weights: &'a [f32],
    /// Where sums begin.
    pub bias: f32,
    /// Applied last.
    pub activation: Activation,
}

impl DepthwiseRows {
    /// The convolution with so many rows of zeros above and columns before the image; `None` where filters are of another
    /// kind than 3×3 or 5×5 of stride 1 or 2.
    pub fn new(window: Window, input: Planes, output: Planes, before: (usize, usize)) -> Option<DepthwiseRows> {
        let Window { size, stride, dilation } = window;
        if !matches!(size, (3, 3) | (5, 5)) || !matches!(stride, (1, 1) | (2, 2)) || dilation != (1, 1) {
            return None;
        }
        let inside = |start: isize| {
            let lanes = (0..LANES).filter(|&lane| (0..input.size.1 as isize).contains(&(start + lane as isize)));
            lanes.fold(0u16, |lanes, lane| lanes | 1 << lane)
        };
        let taps = (0..output.size.1).step_by(LANES).map(|column| {
            std::array::from_fn(|tap| {
                let start = (column * stride.1 + tap) as isize - before.1 as isize;
                Taps { start, inside: [inside(start), inside(start + LANES as isize)] }
            })
        });
        Some(DepthwiseRows { window, input, output, top: before.0, taps: taps.collect() })
    }

    /// One channel of one image: `y` from `x`.
    ///
    /// # Panics
    /// Where a slice does not hold the channel, or the weights are not the filter's: callers check shapes.
    pub fn channel(&self, target: Target, filter: Filter<'_>, x: &[f32], y: &mut [f32]) {
        assert!(x.len() >= self.input.channel_len() && y.len() >= self.output.channel_len(), "depthwise: a channel");
        assert!(filter.weights.len() == self.window.size.0 * self.window.size.1, "depthwise: the filter");
        dispatch(target, Channel { rows: self, filter, x, y });
    }
}

/// One channel.
struct Channel<'a> {
    rows: &'a DepthwiseRows,
    filter: Filter<'a>,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Channel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        match (self.rows.window.size, self.rows.window.stride) {
            ((3, _), (1, _)) => self.convolve::<V, 3, 1>(v),
            ((3, _), _) => self.convolve::<V, 3, 2>(v),
            (_, (1, _)) => self.convolve::<V, 5, 1>(v),
            _ => self.convolve::<V, 5, 2>(v),
        }
    }
}

impl Channel<'_> {
    /// Filters of `SIZE` by `SIZE`, at this stride.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "iterators over registers may stay calls, which spill them")]
    fn convolve<V: Vector, const SIZE: usize, const STRIDE: usize>(self, v: V) {
        let Channel { rows: DepthwiseRows { input, output, top, taps, .. }, filter, x, y } = self;
        let mut weights = [[v.splat(0.0); SIZE]; SIZE];
        for i in 0..SIZE {
            for j in 0..SIZE {
                weights[i][j] = v.splat(filter.weights[i * SIZE + j]);
            }
        }
        let (bias, floor) = (v.splat(filter.bias), v.splat(filter.activation.floor()));
        for first in (0..output.size.0).step_by(ROWS) {
            let rows = ROWS.min(output.size.0 - first);
            for (line, taps) in taps.iter().enumerate() {
                let mut acc = [bias; ROWS];
                for at in 0..(ROWS - 1) * STRIDE + SIZE {
                    let row = (first * STRIDE + at).wrapping_sub(*top);
                    if row >= input.size.0 || at >= (rows - 1) * STRIDE + SIZE {
                        continue;
                    }
                    let from = x[row * input.pitch..].as_ptr();
                    let mut pixels = [v.splat(0.0); SIZE];
                    for tap in (0..SIZE).step_by(STRIDE) {
                        let Taps { start, inside } = taps[tap];
                        // SAFETY: the lanes inside the image are of this row of the channel, which `channel` asserted.
                        unsafe {
                            let from = from.wrapping_offset(start);
                            let one = v.load_masked(v.splat(0.0), from, inside[0]);
                            if STRIDE == 1 {
                                pixels[tap] = one;
                            } else {
                                let two = v.load_masked(v.splat(0.0), from.wrapping_add(LANES), inside[1]);
                                let (even, odd) = v.unzip(one, two);
                                pixels[tap] = even;
                                if tap + 1 < SIZE {
                                    pixels[tap + 1] = odd;
                                }
                            }
                        }
                    }
                    for row in 0..ROWS {
                        if at >= row * STRIDE && at - row * STRIDE < SIZE {
                            for tap in 0..SIZE {
                                acc[row] = v.mul_add(weights[at - row * STRIDE][tap], pixels[tap], acc[row]);
                            }
                        }
                    }
                }
                let columns = output.size.1 - line * LANES;
                for row in 0..ROWS {
                    if row < rows {
                        let to = &mut y[(first + row) * output.pitch + line * LANES..];
                        // SAFETY: the row's columns from this line on.
                        unsafe { v.store_first(to.as_mut_ptr(), v.max(acc[row], floor), columns) };
                    }
                }
            }
        }
        if let Some(activation) = filter.activation.afterwards() {
            activation.of_slice(v, y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::Rows;
    use crate::naive::{self, numbers};
    use crate::ops::Shape;
    use crate::ops::relayout::Border;

    /// Every shape of the image up to two registers of columns, filters that hang over on any side.
    #[test]
    fn channels_agree_with_the_definition() {
        let borders = [(0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (0, 1, 3, 0), (4, 0, 0, 5)];
        for (at, (top, left, bottom, right)) in borders.into_iter().enumerate() {
            let border = Border { top, left, bottom, right };
            for (size, stride) in [(3, 1), (3, 2), (5, 1), (5, 2)] {
                let window = Window::new((size, size), (stride, stride));
                for (h, w) in (1..11).flat_map(|h| [1, 2, 5, 8, 15, 16, 17, 31, 32, 33, 40].map(|w| (h, w))) {
                    let shape = Shape { c: 1, h, w };
                    let outer = border.around(shape);
                    if outer.h < size || outer.w < size {
                        continue;
                    }
                    let weights = Rows::from_dense(1, size * size, &numbers(size * size, 0.9, at as u64)).unwrap();
                    let (x, bias) = (numbers(h * w, 1.0, (h * 50 + w) as u64), 0.25);
                    let activation = [Activation::Relu, Activation::Tanh][at % 2];
                    let wanted =
                        naive::conv2d((&weights, (&[bias], &[])), (window, 1), border, (shape, &x), activation);
                    let (rows, columns) = window.over(outer.h, outer.w);
                    let input = Planes { channels: 1, size: (h, w), pitch: w };
                    let output = Planes { channels: 1, size: (rows, columns), pitch: columns };
                    let rows = DepthwiseRows::new(window, input, output, (top, left)).unwrap();
                    for target in Target::available() {
                        let mut y = vec![f32::NAN; wanted.len()];
                        rows.channel(target, Filter { weights: &weights.to_dense(), bias, activation }, &x, &mut y);
                        let agree = wanted.iter().zip(&y).all(|(wanted, &y)| wanted.allows(y));
                        assert!(agree, "{border:?} {window:?} {h}x{w} {}", target.name());
                    }
                }
            }
        }
    }

    #[test]
    fn other_filters_are_left_to_others() {
        let planes = Planes { channels: 1, size: (9, 9), pitch: 9 };
        let (of, one) = (|window| DepthwiseRows::new(window, planes, planes, (0, 0)), Window::new((3, 3), (1, 1)));
        assert!(of(one).is_some());
        let others = [
            Window { dilation: (2, 2), ..one },
            Window { stride: (1, 2), ..one },
            Window { stride: (3, 3), ..one },
            Window { size: (3, 5), ..one },
        ];
        assert!(others.into_iter().all(|window| of(window).is_none()));
    }
}
