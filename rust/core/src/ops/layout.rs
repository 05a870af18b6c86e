//! How a batch of activations lies in memory.
//!
//! ```text
//! RowMajor       n, c, h, w                     what users pass: NCHW images, (n, features) vectors
//! ChannelsLast   n, h, w, c                     outputs in the lanes: dense convolution, small batches
//! BatchInner(l)  panel, c, h, w, 16·l images    images in the lanes: every filter tap is an aligned offset, Flatten is free
//! PixelPanel     n, c, h, w padded to 16·…      pixels in the lanes: pooling of single images
//! Inside(border) n, c, h, w without a border     row-major images whose readers imagine the border of zeros around them
//! Pooled(l)      as BatchInner, pooled images     what the pooling that reads the edge leaves: its writer has pooled
//! ```

use super::relayout::Border;
use crate::formats::{Planes, Reduction};
use crate::simd::LANES;

/// The shape of one image: channels, rows, columns. A vector of features is (features, 1, 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Shape {
    /// Channels, or features.
    pub c: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
}

impl Shape {
    /// A vector.
    pub fn features(c: usize) -> Shape {
        Shape { c, h: 1, w: 1 }
    }

    /// Elements of one image; the largest number where there are more than that.
    pub fn len(&self) -> usize {
        self.c.saturating_mul(self.h).saturating_mul(self.w)
    }

    /// Whether an image has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The order of a batch of images in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// n, c, h, w.
    RowMajor,
    /// n, h, w, c.
    ChannelsLast,
    /// Panels of 16 · lines images: panel, c, h, w, image.
    BatchInner {
        /// Registers of images.
        lines: usize,
    },
    /// n, c, h, w with rows padded to whole registers.
    PixelPanel,
    /// n, c, h, w of what is inside a border of zeros, which is not in memory.
    Inside(Border),
    /// As `BatchInner`, what a pooling of two by two leaves of the images.
    Pooled {
        /// Registers of images.
        lines: usize,
        /// How four pixels are reduced.
        reduction: Reduction,
    },
}

/// Steps between neighbours, in elements. Images are counted within their group.
#[derive(Debug, Clone, Copy)]
pub struct Strides {
    /// Images of a group: 1, or those of a panel.
    pub group: usize,
    /// From a group to the next.
    pub group_step: usize,
    /// From an image of a group to the next.
    pub n: usize,
    /// From a channel to the next.
    pub c: usize,
    /// From a row to the next.
    pub h: usize,
    /// From a column to the next.
    pub w: usize,
}

impl Layout {
    /// Where two layouts are the same memory, the one name for both: with one pixel or one channel, channels last *is*
    /// row-major.
    pub fn canonical(self, shape: Shape) -> Layout {
        match self {
            Layout::ChannelsLast if shape.h * shape.w == 1 || shape.c == 1 => Layout::RowMajor,
            layout => layout,
        }
    }

    /// The steps of this layout.
    pub fn strides(self, Shape { c, h, w }: Shape) -> Strides {
        let len = c * h * w;
        match self {
            Layout::RowMajor => Strides { group: 1, group_step: len, n: 0, c: h * w, h: w, w: 1 },
            Layout::ChannelsLast => Strides { group: 1, group_step: len, n: 0, c: 1, h: w * c, w: c },
            Layout::BatchInner { lines } => {
                let width = lines * LANES;
                Strides { group: width, group_step: len * width, n: 1, c: h * w * width, h: w * width, w: width }
            }
            Layout::PixelPanel => {
                let pitch = w.next_multiple_of(LANES);
                Strides { group: 1, group_step: c * h * pitch, n: 0, c: h * pitch, h: pitch, w: 1 }
            }
            Layout::Inside(_) => Layout::RowMajor.strides(self.in_memory(Shape { c, h, w })),
            Layout::Pooled { lines, .. } => Layout::BatchInner { lines }.strides(self.in_memory(Shape { c, h, w })),
        }
    }

    /// The border that is not in memory.
    pub fn border(self) -> Border {
        if let Layout::Inside(border) = self { border } else { Border::default() }
    }

    /// The shape of what is in memory of images of this shape.
    pub fn in_memory(self, shape: Shape) -> Shape {
        match self {
            Layout::Inside(border) => {
                let (h, w) = (shape.h - border.top - border.bottom, shape.w - border.left - border.right);
                Shape { h, w, ..shape }
            }
            Layout::Pooled { .. } => Shape { h: shape.h / 2, w: shape.w / 2, ..shape },
            _ => shape,
        }
    }

    /// What of images of this shape is in memory, in rows of pixels.
    pub fn planes(self, shape: Shape) -> Planes {
        let Shape { c, h, w } = self.in_memory(shape);
        Planes { channels: c, size: (h, w), pitch: self.strides(shape).h }
    }

    /// Floats that `images` images take.
    pub fn len(self, shape: Shape, images: usize) -> usize {
        let strides = self.strides(shape);
        images.div_ceil(strides.group) * strides.group_step
    }

    /// Floats of a buffer for `images` images: a register of pixels may be loaded from the last pixel on.
    pub fn buffer_len(self, shape: Shape, images: usize) -> usize {
        self.len(shape, images) + if self == Layout::PixelPanel { LANES } else { 0 }
    }

    /// For tables: `row-major`, `channels-last`, `batch-inner:32`, `pixel-panel`, `inside:1,1,1,1`, `pooled:32`.
    pub fn name(self) -> String {
        match self {
            Layout::RowMajor => "row-major".into(),
            Layout::ChannelsLast => "channels-last".into(),
            Layout::BatchInner { lines } => format!("batch-inner:{}", lines * LANES),
            Layout::PixelPanel => "pixel-panel".into(),
            Layout::Pooled { lines, .. } => format!("pooled:{}", lines * LANES),
            Layout::Inside(Border { top, left, bottom, right }) => format!("inside:{top},{left},{bottom},{right}"),
        }
    }
}
