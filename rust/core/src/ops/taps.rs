//! Pixels in the lanes: where the taps of a filter find their registers of pixels.
//!
//! Where rows of input and output take the same registers, at stride 1, a tap is an offset into the image itself; loads
//! are unaligned, but all taps share one image that fits the first-level cache. Else the image is copied once a horizontal
//! tap, into rows of the output's pitch, with every s-th pixel of every s-th row for stride s:
//!
//! ```text
//! [image][channel][tap column][row mod vertical stride][row / vertical stride][column of the output, padded to 16]
//! ```

use super::Layout;
use super::linear::Linear;
use super::swept::Runs;
use crate::executor::{Executor, for_each_chunk};
use crate::formats::Window;
use crate::formats::sweep::Span;
use crate::simd::LANES;

/// How the taps of one convolution read its images.
pub(super) struct Taps {
    from: Layout,
    /// Whether the image itself serves.
    shared: bool,
    /// Rows of a copy.
    rows: usize,
    /// Floats in a row of a copy, and of the output.
    pitch: usize,
}

/// Registers of pixels in a span, about: rows of the output that a task computes together.
const SPAN_LINES: usize = 12;

impl Taps {
    /// The taps of a layer over images in this layout.
    pub fn new(layer: &Linear, from: Layout) -> Taps {
        let pitch = layer.output.w.next_multiple_of(LANES);
        let shared = from == Layout::PixelPanel
            && layer.window.stride == (1, 1)
            && layer.input.w.next_multiple_of(LANES) == pitch;
        let rows = layer.input.h.div_ceil(layer.window.stride.0);
        Taps { from, shared, rows, pitch }
    }

    /// Floats of the copies of a channel.
    pub fn channel_len(&self, window: Window) -> usize {
        let copies = if self.shared { 1 } else { window.size.1 * window.stride.0 };
        copies * self.rows * self.pitch
    }

    /// Where the columns of the weights meet the operand.
    pub fn positions(&self, layer: &Linear) -> Vec<u32> {
        let Window { size: (rows, columns), stride: (down, _), dilation } = layer.window;
        (0..layer.weights.columns())
            .map(|k| {
                if self.shared {
                    return layer.window.position(k, self.rows * self.pitch, self.pitch);
                }
                let (channel, y, x) = (k / (rows * columns), k / columns % rows * dilation.0, k % columns);
                let row = ((channel * columns + x) * down + y % down) * self.rows + y / down;
                (row * (self.pitch / LANES)) as u32
            })
            .collect()
    }

    /// The runs of rows of the output.
    pub fn runs(&self, layer: &Linear, images: usize) -> Runs {
        let plane = layer.output.h * self.pitch;
        let image = layer.input.c * self.channel_len(layer.window);
        let rows_a_span = (SPAN_LINES * LANES / self.pitch).max(1);
        let mut spans = Vec::new();
        for n in 0..images {
            for y in (0..layer.output.h).step_by(rows_a_span) {
                let rows = rows_a_span.min(layer.output.h - y);
                spans.push(Span {
                    input: n * image + y * self.pitch,
                    output: n * layer.output.c * plane + y * self.pitch,
                    lines: rows * self.pitch / LANES,
                });
            }
        }
        Runs { unit: if self.shared { 1 } else { LANES }, row_stride: plane, spans }
    }

    /// Floats of the copies of all images.
    pub fn scratch(&self, layer: &Linear, images: usize) -> usize {
        if self.shared { 0 } else { images * layer.input.c * self.channel_len(layer.window) }
    }

    /// What the taps read: the images themselves, or copies in `scratch`.
    pub fn operand<'a>(
        &self,
        layer: &Linear,
        executor: &dyn Executor,
        images: &'a [f32],
        scratch: &'a mut [f32],
    ) -> &'a [f32] {
        if self.shared {
            return images;
        }
        self.fill(layer, executor, images, scratch);
        scratch
    }

    fn fill(&self, layer: &Linear, executor: &dyn Executor, input: &[f32], copies: &mut [f32]) {
        let Window { stride: (down, right), dilation, .. } = layer.window;
        let steps = self.from.strides(layer.input);
        let width = layer.output.w;
        for_each_chunk(executor, copies, self.channel_len(layer.window), &|index, copies| {
            let (n, c) = (index / layer.input.c, index % layer.input.c);
            let channel = &input[n * steps.group_step + c * steps.c..];
            for (at, row) in copies.chunks_exact_mut(self.pitch).enumerate() {
                let (x, y) = (at / self.rows / down * dilation.1, at % self.rows * down + at / self.rows % down);
                if y >= layer.input.h {
                    row.fill(0.0);
                    continue;
                }
                let source = &channel[y * steps.h + x..];
                if right > 1 {
                    row.iter_mut().zip(source.iter().step_by(right)).take(width).for_each(|(x, &y)| *x = y);
                } else if source.len() >= row.len() {
                    // Whole registers, for speed: what lies beyond the row's pixels is computed with and never read.
                    for (to, from) in row.chunks_exact_mut(LANES).zip(source.chunks_exact(LANES)) {
                        to.copy_from_slice(from);
                    }
                } else {
                    row[..width].copy_from_slice(&source[..width]);
                }
            }
        });
    }
}
