//! Two-dimensional convolution (cross-correlation, as every framework means it), forward and backward.

use super::for_each_chunk;
use super::tile::{self, Gather, Outer, blocks, padded};
use super::window::{Way, Window};
use crate::argument;
use crate::error::Result;
use crate::executor::Executor;
use crate::simd::{Kernel, LANES, Target, Vector, dispatch};

/// The most groups into which the images of a batch are cut for sums over images.
const GROUPS: usize = 8;

/// A convolution of `images` channels-last images. Weights are `[filter][channel][row][column]`.
#[derive(Debug, Clone, Copy)]
pub struct Conv {
    window: Window,
    images: usize,
    channels: usize,
    filters: usize,
    target: Target,
}

/// What [`Conv::backward`] reads.
#[derive(Clone, Copy)]
pub struct Backward<'a> {
    /// The input of the forward pass.
    pub x: &'a [f32],
    /// The weights of the forward pass.
    pub weight: &'a [f32],
    /// The loss's gradient with respect to the output.
    pub dy: &'a [f32],
    /// The output, where the forward pass clamped it at 0.
    pub relu_output: Option<&'a [f32]>,
}

impl Conv {
    /// A convolution; `window` holds the images' height and width.
    pub fn new(window: Window, images: usize, channels: usize, filters: usize) -> Result<Conv> {
        if channels == 0 || filters == 0 {
            return Err(argument!(
                "weight: expected at least one filter and one channel, got {filters} and {channels}"
            ));
        }
        Ok(Conv { window, images, channels, filters, target: Target::detect() })
    }

    /// The same convolution on another target.
    pub fn on(self, target: Target) -> Conv {
        Conv { target, ..self }
    }

    /// Floats of one input image.
    pub fn input_len(&self) -> usize {
        let (height, width) = self.window.input();
        height * width * self.channels
    }

    /// Floats of one output image.
    pub fn output_len(&self) -> usize {
        let (height, width) = self.window.output();
        height * width * self.filters
    }

    /// Floats of the weights.
    pub fn weight_len(&self) -> usize {
        self.filters * self.depth()
    }

    /// Taps times channels: the terms of one output element.
    fn depth(&self) -> usize {
        let (height, width) = self.window.kernel();
        height * width * self.channels
    }

    fn work(&self) -> usize {
        self.images * self.output_len() * self.depth()
    }

    /// `y = x ∗ weight + bias`, clamped at 0 with `relu`.
    ///
    /// # Panics
    /// Where a slice has not the length that the shapes ask for: callers check shapes.
    pub fn forward(
        &self,
        executor: &dyn Executor,
        x: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        relu: bool,
        y: &mut [f32],
    ) {
        assert!(x.len() == self.images * self.input_len() && y.len() == self.images * self.output_len());
        assert!(weight.len() == self.weight_len() && bias.is_none_or(|bias| bias.len() == self.filters));
        let target = self.target;
        let tile = tile::shape(target);
        let weights = self.pack(weight, Way::Forward, tile.0);
        let mut lanes = vec![0.0; padded(self.filters)];
        if let Some(bias) = bias {
            lanes[..self.filters].copy_from_slice(bias);
        }
        let classes = self.window.classes(Way::Forward);
        for_each_chunk(executor, self.work(), y, self.output_len(), &|image, output| {
            let gather = Gather {
                classes: &classes,
                kernel_width: self.window.kernel().1,
                input: &x[image * self.input_len()..][..self.input_len()],
                input_width: self.window.input().1,
                input_channels: self.channels,
                weights: &weights,
                bias: &lanes,
                relu,
                output,
                output_channels: self.filters,
                tile,
            };
            dispatch(target, gather);
        });
    }

    /// The gradients with respect to the weights and the bias and, where asked for, the input: all are overwritten.
    ///
    /// # Panics
    /// Where a slice has not the length that the shapes ask for: callers check shapes.
    pub fn backward(
        &self,
        executor: &dyn Executor,
        from: Backward<'_>,
        dx: Option<&mut [f32]>,
        dw: &mut [f32],
        db: &mut [f32],
    ) {
        let Backward { x, weight, dy, relu_output } = from;
        let (input, output, filters) = (self.input_len(), self.output_len(), padded(self.filters));
        assert!(x.len() == self.images * input && dy.len() == self.images * output);
        assert!(relu_output.is_none_or(|y| y.len() == dy.len()) && weight.len() == self.weight_len());
        assert!(dw.len() == self.weight_len() && db.len() == self.filters);
        assert!(dx.as_ref().is_none_or(|dx| dx.len() == x.len()));
        let target = self.target;
        let tile = tile::shape(target);
        let weights = if dx.is_some() { self.pack(weight, Way::Backward, tile.0) } else { Vec::new() };
        let zero = vec![0.0; padded(self.channels)];
        let classes = if dx.is_some() { self.window.classes(Way::Backward) } else { Vec::new() };
        let (starts, taps) = self.reads();

        // Every group sums its own gradient, so that the order of additions is the same for any number of threads. A
        // group's chunk holds the weights' panels and then the bias'.
        let group = self.images.div_ceil(GROUPS).max(1);
        let groups = self.images.div_ceil(group);
        let share = self.depth() * filters + filters;
        let mut sums = vec![0.0f32; groups * share];
        let dx = std::sync::Mutex::new(
            dx.map(|dx| dx.chunks_mut((group * input).max(1))).into_iter().flatten().map(Some).collect::<Vec<_>>(),
        );
        let work = self.work() * 2;
        for_each_chunk(executor, work, &mut sums, share, &|task, sums| {
            let mut dx =
                dx.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_mut(task).and_then(Option::take);
            let (dw, db) = sums.split_at_mut(self.depth() * filters);
            let mut scratch = vec![0.0; self.padded_len()];
            let mut delta = vec![0.0; output / self.filters * filters];
            for (i, image) in (task * group..self.images.min((task + 1) * group)).enumerate() {
                let dy = &dy[image * output..][..output];
                let y = relu_output.map(|y| &y[image * output..][..output]);
                dispatch(target, Delta { dy, y, channels: self.filters, delta: &mut delta, bias: db });
                let x = &x[image * input..][..input];
                let x = self.pad(x, &mut scratch);
                dispatch(
                    target,
                    Outer {
                        input: x,
                        starts: &starts,
                        taps: &taps,
                        run: self.channels * if self.window.dilation().1 == 1 { self.window.kernel().1 } else { 1 },
                        delta: &delta,
                        channels: self.filters,
                        gradient: dw,
                        tile,
                    },
                );
                if let Some(dx) = &mut dx {
                    let gather = Gather {
                        classes: &classes,
                        kernel_width: self.window.kernel().1,
                        input: &delta,
                        input_width: self.window.output().1,
                        input_channels: filters,
                        weights: &weights,
                        bias: &zero,
                        relu: false,
                        output: &mut dx[i * input..][..input],
                        output_channels: self.channels,
                        tile,
                    };
                    dispatch(target, gather);
                }
            }
        });
        self.reduce(executor, &sums, share, tile.0, dw, db);
    }

    /// Adds the groups' sums in order and brings the weights' gradient into the layout of the weights.
    fn reduce(
        &self,
        executor: &dyn Executor,
        sums: &[f32],
        share: usize,
        registers: usize,
        dw: &mut [f32],
        db: &mut [f32],
    ) {
        let (height, width) = self.window.kernel();
        let (depth, filters) = (self.depth(), padded(self.filters));
        let mut total = vec![0.0f32; share];
        // A cache line's multiple: no two tasks write the same line.
        let piece = 4096;
        for_each_chunk(executor, sums.len(), &mut total, piece, &|i, total| {
            for sums in sums.chunks_exact(share) {
                for (to, from) in total.iter_mut().zip(&sums[i * piece..]) {
                    *to += from;
                }
            }
        });
        db.copy_from_slice(&total[depth * filters..][..self.filters]);
        for (first, vectors) in blocks(self.filters, registers) {
            let lanes = vectors * LANES;
            let panel = &total[first * depth..][..lanes * depth];
            for filter in first..self.filters.min(first + lanes) {
                let dw = &mut dw[filter * depth..][..depth];
                for tap in 0..height * width {
                    for channel in 0..self.channels {
                        dw[channel * height * width + tap] =
                            panel[(tap * self.channels + channel) * lanes + filter - first];
                    }
                }
            }
        }
    }

    /// Weights as panels for [`Gather`]: written channels in the lanes, (row, column, read channel) down the panel, with
    /// the read channels of the backward way filled up to whole registers.
    fn pack(&self, weight: &[f32], way: Way, registers: usize) -> Vec<f32> {
        let (height, width) = self.window.kernel();
        let taps = height * width;
        let (written, read, read_padded) = match way {
            Way::Forward => (self.filters, self.channels, self.channels),
            Way::Backward => (self.channels, self.filters, padded(self.filters)),
        };
        // Distances in `weight` between neighbouring written and read channels.
        let (by_written, by_read) = match way {
            Way::Forward => (self.channels * taps, taps),
            Way::Backward => (taps, self.channels * taps),
        };
        let (rows, columns) = self.window.order(way);
        let mut panels = vec![0.0; padded(written) * taps * read_padded];
        for (first, vectors) in blocks(written, registers) {
            let lanes = vectors * LANES;
            let used = lanes.min(written - first);
            let panel = &mut panels[first * taps * read_padded..];
            let order = rows.iter().flat_map(|row| columns.iter().map(move |column| row * width + column));
            for (tap, panel) in order.zip(panel.chunks_exact_mut(read_padded * lanes)) {
                for (channel, to) in panel.chunks_exact_mut(lanes).take(read).enumerate() {
                    let from = &weight[first * by_written + channel * by_read + tap..];
                    for (to, from) in to[..used].iter_mut().zip(from.iter().step_by(by_written)) {
                        *to = *from;
                    }
                }
            }
        }
        panels
    }

    /// Where, in a padded image, each output element reads its first tap, and the distances of all taps from there.
    fn reads(&self) -> (Vec<usize>, Vec<usize>) {
        let ((height, width), (by_row, by_column)) = (self.window.output(), self.window.strides());
        let (kernel_height, kernel_width) = self.window.kernel();
        let pitch = self.window.padded().1;
        let at = |row: usize, column: usize| (row * pitch + column) * self.channels;
        let starts = (0..height).flat_map(|y| (0..width).map(move |x| at(y * by_row, x * by_column)));
        let (down, right) = self.window.dilation();
        let pixels = (0..kernel_height).flat_map(|y| (0..kernel_width).map(move |x| at(y * down, x * right)));
        let taps = pixels.flat_map(|start| start..start + self.channels);
        (starts.collect(), taps.collect())
    }

    fn padded_len(&self) -> usize {
        let (height, width) = self.window.padded();
        if self.window.is_padded() { height * width * self.channels } else { 0 }
    }

    /// The image with its padding: itself where there is none, else a copy in `scratch`, whose border stays 0.
    fn pad<'a>(&self, image: &'a [f32], scratch: &'a mut [f32]) -> &'a [f32] {
        if !self.window.is_padded() {
            return image;
        }
        let ((top, left), pitch) = (self.window.before(), self.window.padded().1 * self.channels);
        let width = self.window.input().1 * self.channels;
        for (row, from) in image.chunks_exact(width).enumerate() {
            scratch[(top + row) * pitch + left * self.channels..][..width].copy_from_slice(from);
        }
        scratch
    }
}

/// The gradient before the activation, its channels filled up to whole registers, and its sum added to the bias'.
struct Delta<'a> {
    dy: &'a [f32],
    y: Option<&'a [f32]>,
    channels: usize,
    delta: &'a mut [f32],
    bias: &'a mut [f32],
}

impl Kernel for Delta<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, _: V) {
        let pitch = padded(self.channels);
        for (i, (to, dy)) in self.delta.chunks_exact_mut(pitch).zip(self.dy.chunks_exact(self.channels)).enumerate() {
            let to = &mut to[..self.channels];
            match self.y {
                None => to.copy_from_slice(dy),
                Some(y) => {
                    for ((to, dy), y) in to.iter_mut().zip(dy).zip(&y[i * self.channels..]) {
                        *to = if *y > 0.0 { *dy } else { 0.0 };
                    }
                }
            }
            for (sum, delta) in self.bias.iter_mut().zip(to) {
                *sum += *delta;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::with_threads;

    #[test]
    fn the_same_bits_for_any_thread_count() {
        let window = Window::new((13, 11), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)).unwrap();
        let conv = Conv::new(window, 35, 8, 33).unwrap();
        let noise = |len: usize| -> Vec<f32> { (0..len).map(|i| ((i * 7919) as f32).sin()).collect() };
        let (x, weight) = (noise(35 * conv.input_len()), noise(conv.weight_len()));
        let dy = noise(35 * conv.output_len());
        let run = |threads| {
            let threads = with_threads(threads);
            let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
            let (mut dw, mut db) = (vec![0.0; weight.len()], vec![0.0; 33]);
            conv.forward(&*threads, &x, &weight, None, true, &mut y);
            let from = Backward { x: &x, weight: &weight, dy: &dy, relu_output: Some(&y) };
            conv.backward(&*threads, from, Some(&mut dx), &mut dw, &mut db);
            (y, dx, dw, db)
        };
        let wanted = run(1);
        for threads in [2, 3, 8] {
            assert!(run(threads) == wanted);
        }
    }
}
