//! The window that filters and poolings slide over an image.

/// A sliding window over rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Window {
    /// Rows and columns.
    pub size: (usize, usize),
    /// Steps down and right.
    pub stride: (usize, usize),
    /// Rows and columns from one tap of a filter to the next; poolings have 1.
    pub dilation: (usize, usize),
}

impl Window {
    /// A window of neighbouring elements.
    pub const fn new(size: (usize, usize), stride: (usize, usize)) -> Window {
        Window { size, stride, dilation: (1, 1) }
    }

    /// One pixel.
    pub const ONE: Window = Window::new((1, 1), (1, 1));

    /// Two by two, side by side: each side of the image is halved.
    pub const HALVING: Window = Window::new((2, 2), (2, 2));

    /// Rows and columns from the first tap to the last.
    pub fn extent(&self) -> (usize, usize) {
        ((self.size.0 - 1) * self.dilation.0 + 1, (self.size.1 - 1) * self.dilation.1 + 1)
    }

    /// Rows and columns of the result over an image that holds at least one window.
    pub fn over(&self, h: usize, w: usize) -> (usize, usize) {
        let (rows, columns) = self.extent();
        ((h - rows) / self.stride.0 + 1, (w - columns) / self.stride.1 + 1)
    }

    /// Where a column of weights, which lie in the order (channel, row, column), meets an image with so many pixels from a channel
    /// to the next and from a row to the next.
    pub fn position(&self, column: usize, channel_step: usize, row_step: usize) -> u32 {
        let (rows, columns) = self.size;
        let (channel, y, x) = (column / (rows * columns), column / columns % rows, column % columns);
        (channel * channel_step + y * self.dilation.0 * row_step + x * self.dilation.1) as u32
    }
}
