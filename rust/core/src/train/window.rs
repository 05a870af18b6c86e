//! Sliding windows: which taps of a kernel fall on which input elements, forward and backward.

use crate::argument;
use crate::error::Result;
use std::collections::BTreeMap;
use std::ops::Range;

/// The largest window (its gaps included), stride or padding: keeps every index far from overflow.
const LIMIT: usize = u16::MAX as usize;

/// A window sliding along one axis of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    input: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    before: usize,
    after: usize,
}

impl Axis {
    /// A window of `kernel` elements, each `dilation` after the last, moving by `stride` over `input` elements with zeros
    /// `before` and `after` them.
    pub fn new(
        input: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
        (before, after): (usize, usize),
    ) -> Result<Axis> {
        if kernel == 0 || kernel > LIMIT {
            return Err(argument!("kernel_size: expected 1 to {LIMIT}, got {kernel}"));
        }
        if stride == 0 || stride > LIMIT {
            return Err(argument!("strides: expected 1 to {LIMIT}, got {stride}"));
        }
        if dilation == 0 || dilation > LIMIT {
            return Err(argument!("dilation: expected 1 to {LIMIT}, got {dilation}"));
        }
        let extent = (kernel - 1) * dilation + 1;
        if extent > LIMIT {
            return Err(argument!("dilation: a window of {kernel} spreads over {extent}, more than {LIMIT}"));
        }
        if before >= extent || after >= extent {
            return Err(argument!("padding: expected less than the window's {extent}, got {}", before.max(after)));
        }
        if input == 0 || input > isize::MAX as usize / 4 || input + before + after < extent {
            return Err(argument!("kernel_size: {extent} does not fit into an input of {input} with its padding"));
        }
        Ok(Axis { input, kernel, stride, dilation, before, after })
    }

    /// Elements from the first tap to the last.
    fn extent(&self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }

    /// Window positions.
    pub fn output(&self) -> usize {
        (self.input + self.before + self.after - self.extent()) / self.stride + 1
    }

    /// The taps of the window at `output` that fall inside the input.
    pub(super) fn taps(&self, output: usize) -> Range<usize> {
        let start = output * self.stride;
        let first_at = |element: usize| element.saturating_sub(start).div_ceil(self.dilation);
        let end = self.kernel.min(first_at(self.input + self.before));
        // A window whose taps all lie in the padding has none.
        first_at(self.before).min(end)..end
    }

    /// Groups the outputs by the taps that reach the input.
    fn forward(&self) -> Vec<Group> {
        let mut groups = BTreeMap::new();
        for output in 0..self.output() {
            let taps = self.taps(output);
            let read =
                if taps.is_empty() { 0 } else { output * self.stride + taps.start * self.dilation - self.before };
            let at: &mut Vec<_> = groups.entry((taps.start, taps.len())).or_default();
            at.push((output, read));
        }
        Group::collect(groups)
    }

    /// Groups the inputs by the taps that lead back to an output. Tap numbers are ranks in [`Axis::backward_order`].
    fn backward(&self) -> Vec<Group> {
        let mut rank = vec![0; self.kernel];
        for (i, &tap) in self.backward_order().iter().enumerate() {
            rank[tap] = i;
        }
        let outputs = self.output();
        let mut groups = BTreeMap::new();
        for input in 0..self.input {
            let end = input + self.before;
            // Falling taps are rising outputs.
            let back = |tap: usize| end - tap * self.dilation;
            let mut hits = (0..self.kernel.min(end / self.dilation + 1))
                .rev()
                .filter(|&tap| back(tap).is_multiple_of(self.stride) && back(tap) / self.stride < outputs);
            let first = hits.next();
            let key = first.map_or((0, 0), |tap| (rank[tap], 1 + hits.count()));
            let at: &mut Vec<_> = groups.entry(key).or_default();
            at.push((input, first.map_or(0, |tap| back(tap) / self.stride)));
        }
        Group::collect(groups)
    }

    /// The taps ordered so that those that one input element meets are neighbours: by residue, then falling.
    fn backward_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.kernel).rev().collect();
        order.sort_by_key(|tap| tap % (self.stride / self.common()));
        order
    }

    /// The greatest common divisor of stride and dilation: an input element meets every stride / divisor-th tap, on
    /// outputs dilation / divisor apart.
    fn common(&self) -> usize {
        let (mut a, mut b) = (self.stride, self.dilation);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    }

    /// Distance of the elements that neighbouring taps of a group read.
    fn step(&self, way: Way) -> usize {
        match way {
            Way::Forward => self.dilation,
            Way::Backward => self.dilation / self.common(),
        }
    }
}

/// Elements along an axis that meet the same taps: `count` of them from number `first`, on elements [`Axis::step`] apart.
struct Group {
    first: usize,
    count: usize,
    /// (element written, first element read)
    at: Vec<(usize, usize)>,
}

impl Group {
    fn collect(groups: BTreeMap<(usize, usize), Vec<(usize, usize)>>) -> Vec<Group> {
        groups.into_iter().map(|((first, count), at)| Group { first, count, at }).collect()
    }
}

/// A window sliding over images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Along the height.
    pub rows: Axis,
    /// Along the width.
    pub columns: Axis,
}

/// Elements of an image that meet the same taps of a window.
pub(super) struct Class {
    /// (element written, first element read), as row · width + column of their images.
    pub positions: Vec<(usize, usize)>,
    /// Rows and columns of taps.
    pub taps: (usize, usize),
    /// Rows and columns between the elements that neighbouring taps read.
    pub steps: (usize, usize),
    /// The first tap, as row · kernel width + column in the order of [`Window::order`].
    pub first: usize,
}

/// Which way a window is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// An output element gathers input elements.
    Forward,
    /// An input element's gradient gathers output gradients.
    Backward,
}

impl Window {
    /// A window over images of `input` (height, width); `pads` are top, left, bottom, right.
    pub fn new(
        input: (usize, usize),
        kernel: (usize, usize),
        strides: (usize, usize),
        dilation: (usize, usize),
        pads: (usize, usize, usize, usize),
    ) -> Result<Window> {
        let (top, left, bottom, right) = pads;
        Ok(Window {
            rows: Axis::new(input.0, kernel.0, strides.0, dilation.0, (top, bottom))?,
            columns: Axis::new(input.1, kernel.1, strides.1, dilation.1, (left, right))?,
        })
    }

    /// Height and width of the output.
    pub fn output(&self) -> (usize, usize) {
        (self.rows.output(), self.columns.output())
    }

    /// Height and width of the kernel.
    pub fn kernel(&self) -> (usize, usize) {
        (self.rows.kernel, self.columns.kernel)
    }

    pub(super) fn input(&self) -> (usize, usize) {
        (self.rows.input, self.columns.input)
    }

    pub(super) fn strides(&self) -> (usize, usize) {
        (self.rows.stride, self.columns.stride)
    }

    pub(super) fn dilation(&self) -> (usize, usize) {
        (self.rows.dilation, self.columns.dilation)
    }

    /// Top and left padding.
    pub(super) fn before(&self) -> (usize, usize) {
        (self.rows.before, self.columns.before)
    }

    pub(super) fn is_padded(&self) -> bool {
        self.rows.before + self.rows.after + self.columns.before + self.columns.after > 0
    }

    /// Whether every input element lies in exactly one window.
    pub(super) fn tiles(&self) -> bool {
        let tiles =
            |axis: Axis| axis.stride == axis.kernel && axis.dilation == 1 && axis.input.is_multiple_of(axis.kernel);
        tiles(self.rows) && tiles(self.columns) && !self.is_padded()
    }

    /// Height and width of the input with its padding.
    pub(super) fn padded(&self) -> (usize, usize) {
        let padded = |axis: Axis| axis.input + axis.before + axis.after;
        (padded(self.rows), padded(self.columns))
    }

    /// Every written element, in classes.
    pub(super) fn classes(&self, way: Way) -> Vec<Class> {
        let (rows, columns, written, read) = match way {
            Way::Forward => (self.rows.forward(), self.columns.forward(), self.output().1, self.columns.input),
            Way::Backward => (self.rows.backward(), self.columns.backward(), self.columns.input, self.output().1),
        };
        let mut classes = Vec::with_capacity(rows.len() * columns.len());
        for y in &rows {
            for x in &columns {
                let positions =
                    y.at.iter()
                        .flat_map(|&(wy, ry)| x.at.iter().map(move |&(wx, rx)| (wy * written + wx, ry * read + rx)));
                classes.push(Class {
                    positions: positions.collect(),
                    taps: (y.count, x.count),
                    steps: (self.rows.step(way), self.columns.step(way)),
                    first: y.first * self.columns.kernel + x.first,
                });
            }
        }
        classes
    }

    /// The kernel's rows and columns in the order in which classes number their taps.
    pub(super) fn order(&self, way: Way) -> (Vec<usize>, Vec<usize>) {
        match way {
            Way::Forward => ((0..self.rows.kernel).collect(), (0..self.columns.kernel).collect()),
            Way::Backward => (self.rows.backward_order(), self.columns.backward_order()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pairs (output, tap, input) of an axis, from the definition.
    fn pairs(axis: Axis) -> Vec<(usize, usize, usize)> {
        let mut pairs = Vec::new();
        for output in 0..axis.output() {
            for tap in 0..axis.kernel {
                let at = output * axis.stride + tap * axis.dilation;
                if at >= axis.before && at - axis.before < axis.input {
                    pairs.push((output, tap, at - axis.before));
                }
            }
        }
        pairs
    }

    #[test]
    fn groups_hold_every_tap_once() {
        let shapes =
            (1..8).flat_map(|i| (1..6).flat_map(move |k| (1..5).flat_map(move |s| (1..5).map(move |d| (i, k, s, d)))));
        for (input, kernel, stride, dilation) in shapes {
            let extent = (kernel - 1) * dilation + 1;
            for (before, after) in (0..extent).flat_map(|b| (0..extent).map(move |a| (b, a))) {
                let Ok(axis) = Axis::new(input, kernel, stride, dilation, (before, after)) else { continue };
                let mut wanted = pairs(axis);
                let mut forward = Vec::new();
                for group in axis.forward() {
                    for (output, read) in group.at {
                        let step = axis.step(Way::Forward);
                        forward.extend((0..group.count).map(|i| (output, group.first + i, read + i * step)));
                    }
                }
                let order = axis.backward_order();
                let mut backward = Vec::new();
                for group in axis.backward() {
                    for (input, read) in group.at {
                        let step = axis.step(Way::Backward);
                        backward.extend((0..group.count).map(|i| (read + i * step, order[group.first + i], input)));
                    }
                }
                wanted.sort();
                forward.sort();
                backward.sort();
                assert_eq!(forward, wanted, "{axis:?}");
                assert_eq!(backward, wanted, "{axis:?}");
            }
        }
    }

    #[test]
    fn impossible_windows_are_refused() {
        for (input, kernel, stride, dilation, pads) in [
            (3, 0, 1, 1, (0, 0)),
            (3, 4, 1, 1, (0, 0)),
            (3, 2, 0, 1, (0, 0)),
            (3, 2, 1, 1, (2, 0)),
            (0, 1, 1, 1, (0, 0)),
            (3, 2, 1, 0, (0, 0)),
            (3, 2, 1, 3, (0, 0)),
            (3, 2, 1, 2, (3, 0)),
            (9, 60000, 1, 60000, (9, 0)),
        ] {
            assert!(Axis::new(input, kernel, stride, dilation, pads).is_err());
        }
    }
}
