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
//!
//! Results of up to 8 columns, two rows a register, where they lie one behind the other:
//!
//! ```text
//! for 8 rows of the result:                    acc[4] = bias, of two rows each
//!   for each row of the image that they read:  this row and that of the next row of the result, a register each
//!     for each tap of a filter's row:          one permutation puts the tap's pixels of both rows side by side
//!       acc[two rows] += weight · pixels
//! ```

use super::Window;
use super::cells::Planes;
use super::epilogue::Activation;
use crate::simd::{Kernel, LANES, Target, Vector, dispatch};

/// Registers of results that are made together: of a row each, or of two.
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
    /// For every 16 columns of the result, by column of the filter.
    taps: Vec<[Taps; MOST]>,
    /// Where rows of the image with its border begin in the channel, and whether they are inside it and read: all lanes or
    /// none. As many as whole groups of registers need.
    lines: Vec<(isize, u16)>,
    /// Where two rows of the result share a register: by column of the filter, which of the 32 floats of two rows each lane
    /// takes.
    pairs: Option<[[u32; LANES]; MOST]>,
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
        let columns = output.size.1;
        let taps = (0..columns).step_by(LANES).map(|column| {
            std::array::from_fn(|tap| {
                let start = (column * stride.1 + tap) as isize - before.1 as isize;
                Taps { start, inside: [inside(start), inside(start + LANES as isize)] }
            })
        });
        let read = (output.size.0 - 1) * stride.0 + size.0;
        let lines = (0..(output.size.0.next_multiple_of(2 * ROWS) + 1) * stride.0 + size.0).map(|line| {
            let row = line as isize - before.0 as isize;
            let inside = line < read && (0..input.size.0 as isize).contains(&row);
            (row * input.pitch as isize, if inside { u16::MAX } else { 0 })
        });
        let narrow = 2 * columns <= LANES && (columns - 1) * stride.1 + size.1 <= LANES && output.pitch == columns;
        let pairs = narrow.then(|| {
            let from = |tap, lane| (lane / columns % 2 * LANES + lane % columns * stride.1 + tap) as u32;
            std::array::from_fn(|tap| std::array::from_fn(|lane| from(tap, lane)))
        });
        Some(DepthwiseRows { window, input, output, lines: lines.collect(), taps: taps.collect(), pairs })
    }

    /// Channels of images, each `y` from its `x`.
    ///
    /// # Panics
    /// Where a slice does not hold the channel, or the weights are not the filter's: callers check shapes.
    pub fn channels<'a>(&self, target: Target, channels: impl Iterator<Item = Channel<'a>>) {
        dispatch(target, Channels { rows: self, channels });
    }
}

/// One channel of one image.
#[derive(Debug)]
pub struct Channel<'a> {
    /// What is done to it.
    pub filter: Filter<'a>,
    /// The image's pixels.
    pub x: &'a [f32],
    /// The results.
    pub y: &'a mut [f32],
}

struct Channels<'a, I> {
    rows: &'a DepthwiseRows,
    channels: I,
}

impl<'a, I: Iterator<Item = Channel<'a>>> Kernel for Channels<'_, I> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        match (self.rows.window.size, self.rows.window.stride) {
            ((3, _), (1, _)) => self.of_size::<V, 3, 1>(v),
            ((3, _), _) => self.of_size::<V, 3, 2>(v),
            (_, (1, _)) => self.of_size::<V, 5, 1>(v),
            _ => self.of_size::<V, 5, 2>(v),
        }
    }
}

impl<'a, I: Iterator<Item = Channel<'a>>> Channels<'_, I> {
    /// Filters of `SIZE` by `SIZE`, at this stride; a loop over the channels for each kind of rows, as registers differ.
    #[inline(always)]
    fn of_size<V: Vector, const SIZE: usize, const STRIDE: usize>(self, v: V) {
        match &self.rows.pairs {
            Some(pairs) => self.convolve::<V, SIZE, STRIDE>(v, Some(pairs)),
            None => self.convolve::<V, SIZE, STRIDE>(v, None),
        }
    }

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "iterators over registers may stay calls, which spill them")]
    fn convolve<V: Vector, const SIZE: usize, const STRIDE: usize>(self, v: V, pairs: Option<&[[u32; LANES]; MOST]>) {
        let DepthwiseRows { input, output, .. } = self.rows;
        for Channel { filter, x, y } in self.channels {
            assert!(x.len() >= input.channel_len() && y.len() >= output.channel_len(), "depthwise: a channel");
            assert!(filter.weights.len() == SIZE * SIZE, "depthwise: the filter");
            let mut weights = [[v.splat(0.0); SIZE]; SIZE];
            for i in 0..SIZE {
                for j in 0..SIZE {
                    weights[i][j] = v.splat(filter.weights[i * SIZE + j]);
                }
            }
            let bounds = (v.splat(filter.bias), v.splat(filter.activation.floor()));
            match pairs {
                Some(pairs) => self.rows.narrow::<V, SIZE, STRIDE>(v, pairs, &weights, bounds, x, y),
                None => self.rows.wide::<V, SIZE, STRIDE>(v, &weights, bounds, x, y),
            }
            if let Some(activation) = filter.activation.afterwards() {
                activation.of_slice(v.target(), y);
            }
        }
    }
}

impl DepthwiseRows {
    /// One channel, a row of the result to a register.
    #[inline(always)]
    fn wide<V: Vector, const SIZE: usize, const STRIDE: usize>(
        &self,
        v: V,
        weights: &[[V::F32; SIZE]; SIZE],
        (bias, floor): (V::F32, V::F32),
        x: &[f32],
        y: &mut [f32],
    ) {
        let DepthwiseRows { output, lines, taps, .. } = self;
        for first in (0..output.size.0).step_by(ROWS) {
            let rows = ROWS.min(output.size.0 - first);
            let lines = &lines[first * STRIDE..][..(ROWS - 1) * STRIDE + SIZE];
            for (line, taps) in taps.iter().enumerate() {
                let mut acc = [bias; ROWS];
                for at in 0..(ROWS - 1) * STRIDE + SIZE {
                    let (from, read) = lines[at];
                    if read == 0 {
                        continue;
                    }
                    let from = x.as_ptr().wrapping_offset(from);
                    let mut pixels = [v.splat(0.0); SIZE];
                    for tap in (0..SIZE).step_by(STRIDE) {
                        let Taps { start, inside } = taps[tap];
                        // SAFETY: the lanes inside the image are of this row of the channel, which `convolve` asserted.
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
                        unsafe { v.store_first(to.as_mut_ptr(), v.max(floor, acc[row]), columns) };
                    }
                }
            }
        }
    }

    /// One channel, two rows of the result to a register.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "iterators over registers may stay calls, which spill them")]
    fn narrow<V: Vector, const SIZE: usize, const STRIDE: usize>(
        &self,
        v: V,
        pairs: &[[u32; LANES]; MOST],
        weights: &[[V::F32; SIZE]; SIZE],
        (bias, floor): (V::F32, V::F32),
        x: &[f32],
        y: &mut [f32],
    ) {
        let y = &mut y[..self.output.channel_len()];
        let two = 2 * self.output.pitch;
        let Taps { start, inside } = self.taps[0][0];
        let from = x.as_ptr().wrapping_offset(start);
        for first in (0..y.len()).step_by(ROWS * two) {
            let lines = &self.lines[first / self.output.pitch * STRIDE..][..(2 * ROWS - 1) * STRIDE + SIZE];
            let mut acc = [bias; ROWS];
            for at in 0..(2 * ROWS - 2) * STRIDE + SIZE {
                if at % (2 * STRIDE) >= SIZE {
                    continue;
                }
                // SAFETY: the lanes inside the image are of these rows of the channel, which `convolve` asserted.
                let window = unsafe {
                    let ((one, read), (next, below)) = (lines[at], lines[at + STRIDE]);
                    let one = v.load_masked(v.splat(0.0), from.wrapping_offset(one), read & inside[0]);
                    v.window(one, v.load_masked(v.splat(0.0), from.wrapping_offset(next), below & inside[0]))
                };
                let mut pixels = [v.splat(0.0); SIZE];
                for tap in 0..SIZE {
                    // SAFETY: an array of 16.
                    pixels[tap] = v.look_up(window, unsafe { v.words_ptr(pairs[tap].as_ptr()) });
                }
                for pair in 0..ROWS {
                    if at >= 2 * pair * STRIDE && at - 2 * pair * STRIDE < SIZE {
                        for tap in 0..SIZE {
                            acc[pair] = v.mul_add(weights[at - 2 * pair * STRIDE][tap], pixels[tap], acc[pair]);
                        }
                    }
                }
            }
            for pair in 0..ROWS {
                // Whole registers where there is room: rows that come later are written later.
                let to = y.len().min(first + pair * two);
                let left = y.len() - to;
                v.store_some(&mut y[to..], v.max(floor, acc[pair]), left);
            }
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
                for (h, w) in
                    (1..11).flat_map(|h| [1, 2, 3, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 31, 32, 33, 40].map(|w| (h, w)))
                {
                    let shape = Shape { c: 1, h, w };
                    let outer = border.around(shape);
                    if outer.h < size || outer.w < size {
                        continue;
                    }
                    let activation = [Activation::Relu, Activation::Tanh][at % 2];
                    let (rows, columns) = window.over(outer.h, outer.w);
                    let input = Planes { channels: 1, size: (h, w), pitch: w };
                    let output = Planes { channels: 1, size: (rows, columns), pitch: columns };
                    let plan = DepthwiseRows::new(window, input, output, (top, left)).unwrap();
                    // Two channels, with room behind their results.
                    let (weights, bias) = (numbers(2 * size * size, 0.9, at as u64), [0.25, -0.5]);
                    let (x, len) = (numbers(2 * h * w, 1.0, (h * 50 + w) as u64), rows * columns + 3);
                    for target in Target::available() {
                        let mut y = vec![f32::NAN; 2 * len];
                        let of = |(c, y)| {
                            let weights = &weights[c * size * size..][..size * size];
                            Channel { filter: Filter { weights, bias: bias[c], activation }, x: &x[c * h * w..], y }
                        };
                        plan.channels(target, y.chunks_exact_mut(len).enumerate().map(of));
                        for (c, y) in y.chunks_exact(len).enumerate() {
                            let weights = &weights[c * size * size..][..size * size];
                            let weights = Rows::from_dense(1, size * size, weights).unwrap();
                            let (kernel, x) = ((&weights, (&bias[c..=c], &[][..])), &x[c * h * w..][..h * w]);
                            let wanted = naive::conv2d(kernel, (window, 1), border, (shape, x), activation);
                            let agree = wanted.iter().zip(y).all(|(wanted, &y)| wanted.allows(y));
                            assert!(agree, "{border:?} {window:?} {h}x{w} {}", target.name());
                            assert!(y[wanted.len()..].iter().all(|y| y.is_nan()), "written behind the channel");
                        }
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
