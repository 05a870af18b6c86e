//! A convolution as users describe it, and what it makes of images of one size: checked here, once.

use super::Window;
use crate::argument;
use crate::error::Result;
use crate::simd::LANES;

/// Zeros around the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// So many that the result has ceil(input / stride) rows and columns, an odd one more below and behind.
    Same,
    /// Rows above, columns before, rows below, columns behind.
    Fixed([usize; 4]),
}

/// A convolution of images of any size; checked by [`Conv2d::new`].
#[derive(Debug, Clone, Copy)]
pub struct Conv2d {
    pub(super) channels: usize,
    pub(super) filters: usize,
    pub(super) groups: usize,
    pub(super) window: Window,
    padding: Padding,
}

/// A convolution over images of one size.
#[derive(Debug, Clone, Copy)]
pub struct Over {
    /// Rows of zeros above and columns of zeros before the images.
    pub before: (usize, usize),
    /// Rows and columns of the results.
    pub result: (usize, usize),
}

/// The largest window (its gaps included), stride or padding: keeps every index far from overflow.
const LIMIT: usize = u16::MAX as usize;

impl Conv2d {
    /// A convolution with `filters` filters over `channels` channels in groups.
    ///
    /// # Errors
    /// Where the numbers contradict each other or are too large.
    pub fn new((filters, channels, groups): (usize, usize, usize), window: Window, padding: Padding) -> Result<Conv2d> {
        if groups == 0 || !channels.is_multiple_of(groups) || !filters.is_multiple_of(groups) {
            return Err(argument!("groups: {groups} does not divide {channels} channels and {filters} filters"));
        }
        let Window { size, stride, dilation } = window;
        if channels == 0 || filters == 0 || size.0 == 0 || size.1 == 0 {
            return Err(argument!("weight: expected at least one filter, channel, row and column"));
        }
        for (name, pair) in [("stride", stride), ("dilation", dilation)] {
            if !(1..=LIMIT).contains(&pair.0) || !(1..=LIMIT).contains(&pair.1) {
                return Err(argument!("{name}: expected 1 to {LIMIT}, got {pair:?}"));
            }
        }
        if size.0 > LIMIT || size.1 > LIMIT || window.extent().0.max(window.extent().1) > LIMIT {
            return Err(argument!("dilation: a window of {size:?} spreads over more than {LIMIT}"));
        }
        match padding {
            Padding::Fixed(pads) if pads.iter().any(|&pad| pad > LIMIT) => {
                Err(argument!("padding: expected 0 to {LIMIT}, got {pads:?}"))
            }
            _ => Ok(Conv2d { channels, filters, groups, window, padding }),
        }
    }

    /// What becomes of images of this size.
    ///
    /// # Errors
    /// Where no window fits into the images, or they are too large.
    pub fn over(&self, size: (usize, usize)) -> Result<Over> {
        let ((h, w), (rows, columns), stride) = (size, self.window.extent(), self.window.stride);
        let same = |size: usize, window: usize, stride: usize| {
            let missing = (size.div_ceil(stride).saturating_sub(1) * stride + window).saturating_sub(size);
            (missing / 2, missing - missing / 2)
        };
        if h.max(w) > i32::MAX as usize {
            return Err(argument!("x: images of {h} x {w} are too large"));
        }
        let ((top, bottom), (left, right)) = match self.padding {
            Padding::Same => (same(h, rows, stride.0), same(w, columns, stride.1)),
            Padding::Fixed([top, left, bottom, right]) => ((top, bottom), (left, right)),
        };
        let (outer_h, outer_w) = (h + top + bottom, w + left + right);
        if h == 0 || w == 0 || outer_h < rows || outer_w < columns {
            return Err(argument!("x: a window of {rows} x {columns} does not fit into images of {h} x {w}"));
        }
        // Cells hold at most four times the image with its border, and room between channels; positions take 32 bits.
        let area = outer_h.checked_mul(outer_w).and_then(|area| area.checked_add(2 * LANES));
        match area.and_then(|area| area.checked_mul(self.channels.max(self.filters))) {
            Some(len) if len <= 1 << 30 => {}
            _ => return Err(argument!("x: images of {h} x {w} are too large")),
        }
        Ok(Over { before: (top, left), result: self.window.over(outer_h, outer_w) })
    }

    /// Columns of the weights.
    pub(super) fn columns(&self) -> usize {
        self.channels / self.groups * self.window.size.0 * self.window.size.1
    }
}
