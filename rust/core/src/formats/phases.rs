//! The gradient of a convolution's input: convolutions of dY by the transposed filters, one a phase of the strides.
//!
//! ```text
//! input y = phase + stride·i meets output (y + before - tap·dilation) / stride = i + offset(tap), where that is whole:
//! for one phase the taps that divide, falling, are a filter at stride 1          stride 2, 3 taps, one before
//!                                                                                 phase 0: tap 1          offsets 0
//! stride 1: one phase, all taps, a border of dilation·(taps - 1) - before         phase 1: taps 2, 0      offsets 0, 1
//! ```
//!
//! No zero is put between the outputs, and no multiply-add wasted on one.

use super::Rows;
use super::cells::Planes;
use super::window::Window;

/// The inputs of one phase along an axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Axis {
    /// The first input.
    pub phase: usize,
    /// How many there are, a stride apart.
    pub count: usize,
    /// The taps that meet them, by the outputs that they lead to.
    taps: Vec<usize>,
    /// Outputs from one tap to the next.
    step: usize,
    /// Outputs that the first input would meet before the first.
    before: isize,
}

impl Axis {
    /// The phases of `size` inputs under a window of `kernel` taps with a border of zeros before them; not those that no tap
    /// meets.
    pub fn phases(size: usize, kernel: usize, stride: usize, dilation: usize, before: usize) -> Vec<Axis> {
        let of_phase = |phase: usize| {
            let offset = |tap: usize| (phase + before) as isize - (tap * dilation) as isize;
            let taps: Vec<usize> = (0..kernel).rev().filter(|&tap| offset(tap) % stride as isize == 0).collect();
            let offsets: Vec<isize> = taps.iter().map(|&tap| offset(tap) / stride as isize).collect();
            Axis {
                phase,
                count: (size - phase).div_ceil(stride),
                step: offsets.windows(2).map(|pair| pair[1] - pair[0]).next().unwrap_or(1) as usize,
                before: -offsets.first().copied().unwrap_or(0),
                taps,
            }
        };
        (0..stride.min(size)).map(of_phase).filter(|axis| !axis.taps.is_empty()).collect()
    }
}

/// The inputs of one phase along both axes.
#[derive(Debug, Clone)]
pub(super) struct Phase {
    /// Down.
    pub rows: Axis,
    /// Right.
    pub columns: Axis,
}

impl Phase {
    /// The phases of images of a size, with a border above and before them: the gradient of all other inputs is zero.
    pub fn all(size: (usize, usize), window: Window, before: (usize, usize)) -> Vec<Phase> {
        let Window { size: kernel, stride, dilation } = window;
        let rows = Axis::phases(size.0, kernel.0, stride.0, dilation.0, before.0);
        let columns = Axis::phases(size.1, kernel.1, stride.1, dilation.1, before.1);
        let pair = |rows: &Axis| {
            let rows = rows.clone();
            columns
                .iter()
                .map(move |columns| Phase { rows: rows.clone(), columns: columns.clone() })
                .collect::<Vec<_>>()
        };
        rows.iter().flat_map(pair).collect()
    }

    /// The window over dY.
    pub fn window(&self) -> Window {
        let size = (self.rows.taps.len(), self.columns.taps.len());
        Window { size, stride: (1, 1), dilation: (self.rows.step, self.columns.step) }
    }

    /// The border of dY.
    pub fn before(&self) -> (isize, isize) {
        (self.rows.before, self.columns.before)
    }

    /// The gradients of these inputs, without gaps.
    pub fn planes(&self, channels: usize) -> Planes {
        Planes { channels, size: (self.rows.count, self.columns.count), pitch: self.columns.count }
    }

    /// The filters of one group, transposed and with this phase's taps alone; `kernel` is the size of the whole window.
    pub fn filters(&self, filters: &Rows, kernel: (usize, usize)) -> Rows {
        let taps = kernel.0 * kernel.1;
        let Window { size: (rows, columns), .. } = self.window();
        let rank = |axis: &Axis, kernel: usize| {
            (0..kernel).map(|tap| axis.taps.iter().position(|&it| it == tap)).collect::<Vec<_>>()
        };
        let (down, right) = (rank(&self.rows, kernel.0), rank(&self.columns, kernel.1));
        filters.moved((filters.columns() / taps, filters.rows() * rows * columns), |filter, column| {
            let (channel, tap) = (column / taps, column % taps);
            let (y, x) = (down[tap / kernel.1]?, right[tap % kernel.1]?);
            Some((channel, (filter * rows + y) * columns + x))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_hold_every_tap_of_every_input_once() {
        for (size, kernel, stride, dilation) in (1..9usize)
            .flat_map(|i| (1..6usize).flat_map(move |k| (1..5).flat_map(move |s| (1..5).map(move |d| (i, k, s, d)))))
        {
            for before in 0..8 {
                let mut wanted = Vec::new();
                for (input, tap) in (0..size).flat_map(|input| (0..kernel).map(move |tap| (input, tap))) {
                    let at = (input + before) as isize - (tap * dilation) as isize;
                    if at % stride as isize == 0 {
                        wanted.push((input, tap, at / stride as isize));
                    }
                }
                let mut found = Vec::new();
                for axis in Axis::phases(size, kernel, stride, dilation, before) {
                    for i in 0..axis.count {
                        for (rank, &tap) in axis.taps.iter().enumerate() {
                            let output = (i + rank * axis.step) as isize - axis.before;
                            found.push((axis.phase + i * stride, tap, output));
                        }
                    }
                }
                wanted.sort();
                found.sort();
                assert_eq!(found, wanted, "{size} {kernel} {stride} {dilation} {before}");
            }
        }
    }
}
