//! Dense 3×3 convolutions by Winograd's minimal filtering F(4×4, 3×3): a quarter of the multiplications (Lavin & Gray,
//! *Fast Algorithms for Convolutional Neural Networks*, arXiv 1509.09308).
//!
//! ```text
//! output    tiles of 4 × 4 pixels; each reads a patch of 6 × 6, which overlaps its neighbours' by 2
//! V         [row of tiles][36 points][tile][channel]       V = Bᵀ d B of every patch d
//! U         36 matrices (outputs, channels)                U = G g Gᵀ of every filter g, at packing, in float64
//! M         [36 points][tile][output]
//!
//! for chunk of rows of tiles, whose V and M stay in the second-level cache:
//!   V = Bᵀ d B                                   channels in the lanes
//!   for each of the 36 points: M = V · Uᵀ        outputs in the lanes, as `formats::Direct`
//!   y = Aᵀ M A                                   outputs in the lanes
//! ```
//!
//! **Error.** The transforms subtract, and so the bound of a direct convolution, γ · (|g| ∗ |d|), does not hold. What does: a
//! product of a weight and a pixel reaches an output through sums whose every term is rounded at most once in U (which is
//! made in float64: one more pays for that), 2 + 2 times in V (a column and a row of Bᵀ), once for each of C channels in M, and
//! 3 + 3 times in y. So, elementwise, for any finite input short of underflow, with u = 2⁻²⁴ and γ_k = k·u / (1 − k·u):
//!
//! ```text
//! |error| ≤ γ_{C+12} · ( |Aᵀ| [ Σ over channels of (|G| |g| |Gᵀ|) ⊙ (|Bᵀ| |d| |B|) ] |A| + |bias| )
//! ```
//!
//! over the whole 6 × 6 patch d of the output's tile. In norms: |error| ≤ γ_{C+12} · (κ · C · max|g| · max|d| + |bias|), where κ
//! is 256 at a tile's first output and 2304 = 48² at its last; a direct convolution has 9. With random data, errors are four to
//! five times those of a direct convolution (root mean square; the largest up to nine times).

#[cfg(test)]
mod tests;
mod transform;

use super::linear::{Linear, sequential_if_small};
use super::{Operator, Shape};
use crate::executor::{Executor, Sequential, default_threads, for_each_chunk, map};
use crate::formats::direct::Pixels;
use crate::formats::{Direct, Epilogue, Rows};
use crate::simd::{Buffer, LANES, Target, dispatch};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use transform::{Gather, Scatter};

/// Rows and columns of a tile.
const TILE: usize = 4;

/// Points at which patches and filters are multiplied.
const POINTS: usize = 36;

/// The point whose product reaches every output once: sums start from the bias there.
const BIASED: usize = 7;

/// U: the transformed filters of every channel, a matrix for each point.
fn products(weights: &Rows, channels: usize, target: Target) -> Vec<Direct> {
    let rows = weights.rows().next_multiple_of(LANES);
    let mut points = vec![vec![0.0; rows * channels]; POINTS];
    let mut filter = vec![[0.0; 9]; channels];
    for row in 0..weights.rows() {
        filter.fill([0.0; 9]);
        for (column, w) in weights.row(row) {
            filter[column / 9][column % 9] = f64::from(w);
        }
        for (channel, g) in filter.iter().enumerate() {
            for (point, u) in points.iter_mut().zip(transform::filter(g)) {
                point[row * channels + channel] = u as f32;
            }
        }
    }
    points.iter().map(|point| Direct::pack(rows, channels, point, target)).collect()
}

/// A dense 3×3 convolution of stride 1, channels last in and out.
pub struct Winograd {
    layer: Linear,
    /// U, one matrix a point, rows filled up to whole registers.
    products: Arc<Vec<Direct>>,
    /// What the sums of a point start from: zeros, or the bias.
    starts: [Buffer; 2],
    images: usize,
    /// Rows of tiles of an image, and tiles in a row.
    grid: (usize, usize),
    /// The rows of tiles that are done together, counted over all images.
    chunks: Vec<Range<usize>>,
    target: Target,
}

impl Winograd {
    /// Whether a layer can run this way, with channels enough that it may pay.
    pub fn applies(layer: &Linear) -> bool {
        let window = layer.window;
        let plain = (window.size, window.stride, window.dilation) == ((3, 3), (1, 1), (1, 1)) && layer.groups == 1;
        plain && layer.input.c >= LANES && layer.output.c >= LANES
    }

    /// What `images` cost, in multiply-adds of a dense convolution.
    pub fn macs(layer: &Linear, images: usize) -> f64 {
        let tiles = images * layer.output.h.div_ceil(TILE) * layer.output.w.div_ceil(TILE);
        let (from, to) = (layer.input.c, layer.output.c.next_multiple_of(LANES));
        // Either transform costs about as much as 6 multiply-adds of a value, and to read a value of U as 5.
        let weights = (POINTS * from * to) as f64;
        tiles as f64 * (1.15 * weights + (6 * POINTS * (from + to)) as f64) + 5.0 * weights
    }

    /// Packs the layer's weights, for a batch of `images`.
    pub fn new(layer: &Linear, images: usize, target: Target) -> Winograd {
        let (filters, channels) = (layer.weights.rows(), layer.input.c);
        let rows = filters.next_multiple_of(LANES);
        let products =
            layer.weights.packed(layer.form("winograd", target), |weights| products(weights, channels, target));
        let mut bias = Buffer::zeroed(rows);
        if let Some(from) = &layer.bias {
            bias[..filters].copy_from_slice(from);
        }
        let grid = (layer.output.h.div_ceil(TILE), layer.output.w.div_ceil(TILE));
        let widths = (channels.next_multiple_of(LANES), rows);
        Winograd {
            layer: layer.without_weights(),
            products,
            starts: [Buffer::zeroed(rows), bias],
            images,
            grid,
            chunks: chunks(grid, images, widths),
            target,
        }
    }

    /// Floats between the points of a row of tiles in V: an odd number of lines, since lines that lie a power of two apart evict
    /// each other.
    fn plane(&self) -> usize {
        ((self.grid.1 * self.layer.input.c.div_ceil(LANES)) | 1) * LANES
    }

    /// Floats of V and of M for so many rows of tiles.
    fn floats(&self, rows: usize) -> (usize, usize) {
        let product = ((rows * self.grid.1 * self.layer.output.c.div_ceil(LANES)) | 1) * LANES;
        (rows * POINTS * self.plane(), POINTS * product)
    }

    /// Floats that one chunk works in.
    fn slot(&self) -> usize {
        let (v, m) = self.floats(self.chunks.iter().map(Range::len).max().unwrap_or(0));
        v + m
    }

    /// The chunks that can be worked on at once.
    fn slots(&self) -> usize {
        self.chunks.len().min(default_threads())
    }

    /// One chunk; `output` is what it writes, `scratch` a slot.
    fn chunk(
        &self,
        executor: &dyn Executor,
        rows: Range<usize>,
        input: &[f32],
        output: &mut [f32],
        epilogue: Epilogue<'_>,
        scratch: &mut [f32],
    ) {
        let Linear { input: from, output: to, .. } = self.layer;
        let (down, across) = self.grid;
        let (plane, target) = (self.plane(), self.target);
        let (len, products) = self.floats(rows.len());
        let (patches, rest) = scratch.split_at_mut(len);
        for_each_chunk(executor, patches, POINTS * plane, &|at, patches| {
            let (image, row) = ((rows.start + at) / down, (rows.start + at) % down);
            let image = &input[image * from.len()..][..from.len()];
            dispatch(target, Gather { shape: from, row, tiles: across, image, to: patches, plane });
        });
        let outputs = to.c.next_multiple_of(LANES);
        let pixels = Pixels {
            images: 1,
            output: (rows.len(), across),
            image_step: 0,
            row_step: POINTS * plane,
            column_step: from.c.next_multiple_of(LANES),
            output_step: outputs,
            segments: (1, 1),
            segment: from.c,
            segment_steps: (0, 0),
        };
        let products = &mut rest[..products];
        let point_len = products.len() / POINTS;
        for_each_chunk(executor, products, point_len, &|point, product| {
            let start = &self.starts[usize::from(point == BIASED)];
            self.products[point].multiply(&pixels, &patches[point * plane..], product, start);
        });
        let products = &*products;
        let place = |row: usize| (row / down * to.h + row % down * TILE) * to.w * to.c;
        let parts = output.chunks_mut(to.len()).flat_map(|image| image.chunks_mut(TILE * to.w * to.c));
        map(executor, parts.enumerate().collect(), |(at, part)| {
            let scatter = Scatter {
                channels: to.c,
                columns: to.w,
                tiles: across,
                first: at * across,
                from: products,
                plane: point_len,
                epilogue: epilogue.from(place(rows.start + at)),
                to: part,
            };
            dispatch(target, scatter);
        });
    }
}

/// Floats of V and M that a chunk should hold at most: they stay in the second-level cache.
const CHUNK: usize = 150_000;

/// Cuts the rows of tiles of all images into chunks: whole images, or equal parts of one.
fn chunks((down, across): (usize, usize), images: usize, widths: (usize, usize)) -> Vec<Range<usize>> {
    // Every chunk reads all of U once: where U is larger than that cache itself, larger chunks move less in all.
    let most = CHUNK.max(POINTS * widths.0 * widths.1 / 3);
    let most = (most / (POINTS * across * (widths.0 + widths.1)).max(1)).max(1);
    if down <= most {
        let most = (most / down.max(1)).max(1);
        let count = images.div_ceil(most);
        return (0..count).map(|at| at * images / count * down..(at + 1) * images / count * down).collect();
    }
    let count = down.div_ceil(most);
    let part = |image: usize| {
        (0..count).map(move |at| image * down + at * down / count..image * down + (at + 1) * down / count)
    };
    (0..images).flat_map(part).collect()
}

impl Operator for Winograd {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], scratch: &mut [f32]) {
        let (Shape { c, h, w }, input) = (self.layer.output, inputs[0]);
        // The bias is in the sums already.
        let epilogue = Epilogue { bias: None, ..self.layer.epilogue(0, inputs) };
        let executor = sequential_if_small(executor, self.layer.macs() * self.images / 4);
        let slot = self.slot();
        let mut rest = &mut output[..self.images * c * h * w];
        let mut parts = Vec::with_capacity(self.chunks.len());
        for chunk in &self.chunks {
            let place = |row: usize| row / self.grid.0 * h + (row % self.grid.0 * TILE).min(h);
            let (part, behind) = rest.split_at_mut((place(chunk.end) - place(chunk.start)) * w * c);
            parts.push((chunk.clone(), part));
            rest = behind;
        }
        // As many chunks as every thread can have alike are a thread's own; the threads share the others.
        let shared = parts.split_off(parts.len() / executor.threads() * executor.threads());
        let slots = self.slots().min(executor.threads()).min(parts.len());
        let parts = Mutex::new(parts.into_iter());
        for_each_chunk(executor, &mut scratch[..slots * slot], slot, &|_, scratch| {
            loop {
                let next = parts.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
                let Some((rows, output)) = next else { break };
                self.chunk(&Sequential, rows, input, output, epilogue, scratch);
            }
        });
        for (rows, output) in shared {
            self.chunk(executor, rows, input, output, epilogue, &mut scratch[..slot]);
        }
    }

    fn scratch(&self) -> usize {
        self.slots() * self.slot()
    }

    fn kernel(&self) -> String {
        format!("winograd_f32_4x3__{}", self.target.name())
    }

    fn nbytes(&self) -> usize {
        self.products.iter().map(Direct::nbytes).sum()
    }
}
