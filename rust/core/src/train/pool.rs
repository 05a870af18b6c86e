//! Max and average pooling of channels-last images, forward and backward.

use super::for_each_chunk;
use super::window::Window;
use crate::argument;
use crate::error::Result;
use crate::executor::Executor;
use crate::simd::{Kernel, Target, Vector, dispatch};
use std::ops::Range;
use std::sync::Mutex;

/// A pooling of `images` channels-last images. Padding counts for nothing: neither as a maximum nor in an average.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    window: Window,
    images: usize,
    channels: usize,
}

impl Pool {
    /// A pooling; `window` holds the images' height and width.
    pub fn new(window: Window, images: usize, channels: usize) -> Result<Pool> {
        let (height, width) = window.kernel();
        // The maximum's place in the window is kept as u16.
        if height * width > usize::from(u16::MAX) + 1 {
            return Err(argument!("pool_size: expected at most 65536 elements, got {height} x {width}"));
        }
        // Such a window would have no maximum and no average.
        for axis in [window.rows, window.columns] {
            if (0..axis.output()).any(|output| axis.taps(output).is_empty()) {
                return Err(argument!("padding: a window lies wholly in the padding"));
            }
        }
        Ok(Pool { window, images, channels })
    }

    /// Floats of one input image.
    pub fn input_len(&self) -> usize {
        let (height, width) = self.window.input();
        height * width * self.channels
    }

    /// Floats of one output image.
    pub fn output_len(&self) -> usize {
        let (height, width) = self.window.output();
        height * width * self.channels
    }

    fn work(&self) -> usize {
        self.images * self.output_len() * self.window.kernel().0 * self.window.kernel().1
    }

    /// The maximum of every window into `y`, and its place (row · width + column, the first of equals) into `place`.
    ///
    /// # Panics
    /// Where a slice has not the length that the shapes ask for: callers check shapes.
    pub fn max(&self, executor: &dyn Executor, x: &[f32], y: &mut [f32], place: &mut [u16]) {
        self.check(x.len(), y.len());
        assert_eq!(place.len(), y.len());
        let (input, output) = (self.input_len(), self.output_len());
        let places: Vec<_> = place.chunks_mut(output.max(1)).map(Mutex::new).collect();
        for_each_chunk(executor, self.work(), y, output, &|image, y| {
            let mut place = places[image].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            dispatch(Target::detect(), Max { pool: self, x: &x[image * input..][..input], y, place: &mut place });
        });
    }

    /// The gradient of [`Pool::max`]: all of `dx` is overwritten.
    ///
    /// # Panics
    /// Where a slice has not the length that the shapes ask for: callers check shapes.
    pub fn max_backward(&self, executor: &dyn Executor, dy: &[f32], place: &[u16], dx: &mut [f32]) {
        self.check(dx.len(), dy.len());
        assert_eq!(place.len(), dy.len());
        let output = self.output_len();
        for_each_chunk(executor, self.work(), dx, self.input_len(), &|image, dx| {
            let (dy, place) = (&dy[image * output..][..output], &place[image * output..][..output]);
            dispatch(Target::detect(), MaxBackward { pool: self, dy, place, dx });
        });
    }

    /// The average of every window's elements into `y`.
    ///
    /// # Panics
    /// Where a slice has not the length that the shapes ask for: callers check shapes.
    pub fn average(&self, executor: &dyn Executor, x: &[f32], y: &mut [f32]) {
        self.check(x.len(), y.len());
        let input = self.input_len();
        for_each_chunk(executor, self.work(), y, self.output_len(), &|image, y| {
            dispatch(Target::detect(), Average { pool: self, x: &x[image * input..][..input], y });
        });
    }

    /// The gradient of [`Pool::average`]: all of `dx` is overwritten.
    ///
    /// # Panics
    /// Where a slice has not the length that the shapes ask for: callers check shapes.
    pub fn average_backward(&self, executor: &dyn Executor, dy: &[f32], dx: &mut [f32]) {
        self.check(dx.len(), dy.len());
        let output = self.output_len();
        for_each_chunk(executor, self.work(), dx, self.input_len(), &|image, dx| {
            dispatch(Target::detect(), AverageBackward { pool: self, dy: &dy[image * output..][..output], dx });
        });
    }

    fn check(&self, input: usize, output: usize) {
        assert!(input == self.images * self.input_len() && output == self.images * self.output_len());
    }

    /// Calls `visit(output range, taps, in-window elements)` for every window of an image, in order; the elements come as
    /// (place in the window, range in the image).
    #[inline(always)]
    fn windows(&self, mut visit: impl FnMut(Range<usize>, usize, Elements)) {
        let (height, width) = self.window.output();
        let (strides, before) = (self.window.strides(), self.window.before());
        for y in 0..height {
            let rows = self.window.rows.taps(y);
            for x in 0..width {
                let columns = self.window.columns.taps(x);
                let at = (y * width + x) * self.channels;
                let elements = Elements {
                    top: y * strides.0 + rows.start - before.0,
                    left: x * strides.1 + columns.start - before.1,
                    rows: rows.clone(),
                    columns,
                    kernel_width: self.window.kernel().1,
                    input_width: self.window.input().1,
                    channels: self.channels,
                };
                visit(at..at + self.channels, elements.rows.len() * elements.columns.len(), elements);
            }
        }
    }
}

/// The elements of one window that lie in the image.
struct Elements {
    top: usize,
    left: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    kernel_width: usize,
    input_width: usize,
    channels: usize,
}

impl Elements {
    #[inline(always)]
    fn each(&self, mut visit: impl FnMut(u16, Range<usize>)) {
        for (y, row) in self.rows.clone().enumerate() {
            for (x, column) in self.columns.clone().enumerate() {
                let at = ((self.top + y) * self.input_width + self.left + x) * self.channels;
                // At most 65536 places: `Pool::new` checked.
                visit((row * self.kernel_width + column) as u16, at..at + self.channels);
            }
        }
    }
}

struct Max<'a> {
    pool: &'a Pool,
    x: &'a [f32],
    y: &'a mut [f32],
    place: &'a mut [u16],
}

impl Kernel for Max<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        self.pool.windows(|at, _, elements| {
            let (y, place) = (&mut self.y[at.clone()], &mut self.place[at]);
            let mut first = true;
            elements.each(|tap, range| {
                let x = &self.x[range];
                if first {
                    y.copy_from_slice(x);
                    place.fill(tap);
                    first = false;
                    return;
                }
                for ((y, place), x) in y.iter_mut().zip(place.iter_mut()).zip(x) {
                    *place = if *x > *y { tap } else { *place };
                    *y = if *x > *y { *x } else { *y };
                }
            });
        });
    }
}

struct MaxBackward<'a> {
    pool: &'a Pool,
    dy: &'a [f32],
    place: &'a [u16],
    dx: &'a mut [f32],
}

impl Kernel for MaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        // Where the windows tile the image, every element is written once and the zeros need no pass of their own.
        let tiles = self.pool.window.tiles();
        if !tiles {
            self.dx.fill(0.0);
        }
        self.pool.windows(|at, _, elements| {
            let (dy, place) = (&self.dy[at.clone()], &self.place[at]);
            elements.each(|tap, range| {
                let arrays = self.dx[range].iter_mut().zip(dy).zip(place);
                if tiles {
                    arrays.for_each(|((dx, dy), place)| *dx = if *place == tap { *dy } else { 0.0 });
                } else {
                    arrays.for_each(|((dx, dy), place)| *dx += if *place == tap { *dy } else { 0.0 });
                }
            });
        });
    }
}

struct Average<'a> {
    pool: &'a Pool,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Average<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        self.pool.windows(|at, count, elements| {
            let y = &mut self.y[at];
            y.fill(0.0);
            elements.each(|_, range| {
                for (y, x) in y.iter_mut().zip(&self.x[range]) {
                    *y += x;
                }
            });
            let scale = 1.0 / count as f32;
            y.iter_mut().for_each(|y| *y *= scale);
        });
    }
}

struct AverageBackward<'a> {
    pool: &'a Pool,
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for AverageBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        self.dx.fill(0.0);
        self.pool.windows(|at, count, elements| {
            let (dy, scale) = (&self.dy[at], 1.0 / count as f32);
            elements.each(|_, range| {
                for (dx, dy) in self.dx[range].iter_mut().zip(dy) {
                    *dx += dy * scale;
                }
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::with_threads;

    #[test]
    fn matches_the_definition() {
        let threads = with_threads(2);
        let sizes = [(1, 1), (2, 2), (3, 2), (2, 3), (3, 4), (5, 7)];
        for (kernel, strides) in sizes.into_iter().flat_map(|k| [(1, 1), (2, 2), (3, 1), k].map(|s| (k, s))) {
            for (pads, channels) in [((0, 0, 0, 0), 1), ((1, 0, 1, 1), 3), ((0, 1, 0, 0), 33)] {
                let Ok(window) = Window::new((9, 8), kernel, strides, (1, 1), pads) else { continue };
                let Ok(pool) = Pool::new(window, 2, channels) else { continue };
                let ((oh, ow), (top, left)) = (window.output(), (pads.0, pads.1));
                let x: Vec<f32> = (0..2 * pool.input_len()).map(|i| ((i * 31 + i / 7) % 11) as f32 - 5.0).collect();
                let dy: Vec<f32> = (0..2 * pool.output_len()).map(|i| (i % 5) as f32 - 2.0).collect();
                let (mut y, mut mean) = (vec![0.0; dy.len()], vec![0.0; dy.len()]);
                let (mut dx, mut spread) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                for at in 0..dy.len() {
                    let (c, ox, oy, n) =
                        (at % channels, at / channels % ow, at / channels / ow % oh, at / channels / ow / oh);
                    let inside: Vec<usize> = (0..kernel.0 * kernel.1)
                        .map(|tap| (oy * strides.0 + tap / kernel.1, ox * strides.1 + tap % kernel.1))
                        .filter(|&(r, s)| r >= top && s >= left && r - top < 9 && s - left < 8)
                        .map(|(r, s)| ((n * 9 + r - top) * 8 + s - left) * channels + c)
                        .collect();
                    let best = inside.iter().copied().reduce(|a, b| if x[b] > x[a] { b } else { a }).unwrap();
                    y[at] = x[best];
                    dx[best] += dy[at];
                    let scale = 1.0 / inside.len() as f32;
                    mean[at] = inside.iter().map(|&i| x[i]).sum::<f32>() * scale;
                    inside.iter().for_each(|&i| spread[i] += dy[at] * scale);
                }
                let (mut got, mut place, mut back) = (vec![9.0; y.len()], vec![0; y.len()], vec![9.0; x.len()]);
                pool.max(&*threads, &x, &mut got, &mut place);
                pool.max_backward(&*threads, &dy, &place, &mut back);
                assert_eq!((&got, &back), (&y, &dx));
                pool.average(&*threads, &x, &mut got);
                pool.average_backward(&*threads, &dy, &mut back);
                assert_eq!((got, back), (mean, spread));
            }
        }
    }
}
