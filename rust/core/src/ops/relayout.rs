//! From one layout to another, with or without a border of zeros: every move of activations is this one visible step.

use super::{Layout, Operator, Shape};
use crate::executor::{Executor, for_each_chunk};
use crate::simd::{Kernel, LANES, Target, Vector, dispatch};

/// Rows and columns of zeros around an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
pub struct Border {
    /// Rows above.
    pub top: usize,
    /// Columns before.
    pub left: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns behind.
    pub right: usize,
}

impl Border {
    /// Whether there is none.
    pub fn is_zero(&self) -> bool {
        *self == Border::default()
    }

    /// The shape with the border.
    pub fn around(&self, Shape { c, h, w }: Shape) -> Shape {
        let along = |len: usize, before: usize, after: usize| len.saturating_add(before).saturating_add(after);
        Shape { c, h: along(h, self.top, self.bottom), w: along(w, self.left, self.right) }
    }
}

/// Copies images from one layout to another.
pub struct Relayout {
    shape: Shape,
    border: Border,
    from: Layout,
    to: Layout,
    images: usize,
    target: Target,
}

/// One loop of the copy: how often, and how far it moves in the source and in the destination.
#[derive(Clone, Copy)]
struct Loop {
    count: usize,
    from: usize,
    to: usize,
}

impl Relayout {
    /// A copy of `images` images of `shape` into images with `border` around them.
    pub fn new(shape: Shape, border: Border, from: Layout, to: Layout, images: usize, target: Target) -> Relayout {
        Relayout { shape, border, from, to, images, target }
    }

    /// A copy of an edge of this shape. A border that was not in memory is laid around the images.
    pub fn of_edge(shape: Shape, from: Layout, to: Layout, images: usize, target: Target) -> Relayout {
        let (border, inner) = (from.border(), from.in_memory(shape));
        let from = if border.is_zero() { from } else { Layout::RowMajor };
        Relayout::new(inner, border, from, to, images, target)
    }

    /// Zeros where no pixel comes to lie: a row of the image is one run of floats in every layout, however many channels or
    /// images it holds.
    fn clear_around(&self, chunk: &mut [f32]) {
        let Shape { h, w, .. } = self.shape;
        let padded = self.border.around(self.shape);
        let to = self.to.strides(padded);
        let (above, before) = (self.border.top, self.border.left * to.w);
        for (row, floats) in chunk.chunks_exact_mut(to.h.max(1)).enumerate() {
            if (above..above + h).contains(&(row % padded.h)) {
                floats[..before].fill(0.0);
                floats[before + w * to.w..].fill(0.0);
            } else {
                floats.fill(0.0);
            }
        }
    }

    /// The loops over one group of images, slowest destination step first, after those of one turn.
    fn loops(&self, images: usize) -> [Loop; 4] {
        let from = self.from.strides(self.shape);
        let to = self.to.strides(self.border.around(self.shape));
        // Images of the source are a group apart where it has groups of one, and likewise for the destination.
        let n = Loop {
            count: images,
            from: if from.group == 1 { from.group_step } else { from.n },
            to: if to.group == 1 { to.group_step } else { to.n },
        };
        let (mut h, mut w) = (self.shape.h, self.shape.w);
        if from.h == w * from.w && to.h == w * to.w {
            // Rows without anything between them are one long row.
            (h, w) = (1, h * w);
        }
        let mut loops = [
            n,
            Loop { count: self.shape.c, from: from.c, to: to.c },
            Loop { count: h, from: from.h, to: to.h },
            Loop { count: w, from: from.w, to: to.w },
        ];
        loops.sort_by_key(|step| (step.count > 1, std::cmp::Reverse(step.to)));
        loops
    }
}

impl Operator for Relayout {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        let input = inputs[0];
        let padded = self.border.around(self.shape);
        let (from, to) = (self.from.strides(self.shape), self.to.strides(padded));
        let group = from.group.max(to.group);
        let offset = self.border.top * to.h + self.border.left * to.w;
        let chunk = group / to.group * to.group_step;
        for_each_chunk(executor, &mut output[..self.to.len(padded, self.images)], chunk, &|index, chunk| {
            let first = index * group;
            // Lanes without an image or a pixel are zero, so that kernels never meet stale values.
            if first + group > self.images {
                chunk.fill(0.0);
            } else if !self.border.is_zero() || self.to == Layout::PixelPanel {
                self.clear_around(chunk);
            }
            let source = &input[first / from.group * from.group_step..];
            if chunk.len() > offset && !self.shape.is_empty() {
                let loops = self.loops(group.min(self.images - first));
                dispatch(self.target, Copy { loops, from: source, to: &mut chunk[offset..] });
            }
        });
    }

    fn kernel(&self) -> String {
        if self.border.is_zero() { "relayout".into() } else { "pad".into() }
    }
}

/// Four nested loops; the innermost two are a transposition, or the innermost one a slice copy, wherever they can be.
struct Copy<'a> {
    loops: [Loop; 4],
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Copy<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let [mut a, mut b, mut c, d] = self.loops;
        // The loop that walks runs of the source goes next to the innermost one, which walks runs of the destination.
        let runs = |step: &Loop| step.from == 1 && step.count > 1;
        if runs(&b) {
            std::mem::swap(&mut b, &mut c);
        } else if runs(&a) {
            std::mem::swap(&mut a, &mut c);
        }
        for i in 0..a.count {
            for j in 0..b.count {
                let from = &self.from[i * a.from + j * b.from..];
                let to = &mut self.to[i * a.to + j * b.to..];
                if runs(&c) && d.to == 1 && d.from != 1 {
                    transpose(v, c, d, from, to);
                } else {
                    lines(c, d, from, to);
                }
            }
        }
    }
}

#[inline(always)]
fn lines(c: Loop, d: Loop, from: &[f32], to: &mut [f32]) {
    for k in 0..c.count {
        let (from, to) = (&from[k * c.from..], &mut to[k * c.to..]);
        if d.from == 1 && d.to == 1 {
            to[..d.count].copy_from_slice(&from[..d.count]);
        } else {
            let from = from.iter().step_by(d.from.max(1));
            for (x, &y) in to.iter_mut().step_by(d.to.max(1)).zip(from).take(d.count) {
                *x = y;
            }
        }
    }
}

/// Transposes 16 × 16 at a time: `run` walks runs of the source, `across` runs of the destination.
#[inline(always)]
fn transpose<V: Vector>(v: V, run: Loop, across: Loop, from: &[f32], to: &mut [f32]) {
    for at in (0..across.count).step_by(LANES) {
        let rows = LANES.min(across.count - at);
        for start in (0..run.count).step_by(LANES) {
            let columns = LANES.min(run.count - start);
            let mut tile: [V::F32; LANES] = std::array::from_fn(|row| {
                let from = if row < rows { &from[(at + row) * across.from + start..] } else { &[] };
                if from.len() >= LANES {
                    return v.load(from);
                }
                let mut lanes = [0.0; LANES];
                lanes.iter_mut().zip(from).for_each(|(lane, &x)| *lane = x);
                v.with_lanes(lanes)
            });
            v.transpose(&mut tile);
            for (column, &register) in tile.iter().enumerate().take(columns) {
                let to = &mut to[(start + column) * run.to + at..];
                if rows == LANES {
                    v.store(to, register);
                } else {
                    to[..rows].copy_from_slice(&v.to_array(register)[..rows]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::with_threads;

    const LAYOUTS: [Layout; 5] = [
        Layout::RowMajor,
        Layout::ChannelsLast,
        Layout::BatchInner { lines: 1 },
        Layout::BatchInner { lines: 2 },
        Layout::PixelPanel,
    ];

    fn at(layout: Layout, shape: Shape, n: usize, c: usize, h: usize, w: usize) -> usize {
        let s = layout.strides(shape);
        n / s.group * s.group_step + n % s.group * s.n + c * s.c + h * s.h + w * s.w
    }

    #[test]
    fn every_pair_of_layouts_with_and_without_border() {
        for (c, h, w) in [(1, 1, 1), (3, 5, 7), (17, 1, 1), (2, 4, 33), (0, 3, 3)] {
            let shape = Shape { c, h, w };
            for images in [0, 1, 3, 17, 33] {
                for border in [Border::default(), Border { top: 1, left: 2, bottom: 0, right: 3 }] {
                    for from in LAYOUTS {
                        for to in LAYOUTS {
                            let both = [from, to].map(|layout| layout.strides(shape).group);
                            if both[0] > 1 && both[1] > 1 && both[0] != both[1] {
                                continue;
                            }
                            check(shape, images, border, from, to);
                        }
                    }
                }
            }
        }
    }

    fn check(shape: Shape, images: usize, border: Border, from: Layout, to: Layout) {
        let padded = border.around(shape);
        let mut input = vec![f32::NAN; from.len(shape, images)];
        let value = |n: usize, c: usize, h: usize, w: usize| (((n * 50 + c) * 50 + h) * 50 + w + 1) as f32;
        let each = |f: &mut dyn FnMut(usize, usize, usize, usize)| {
            for n in 0..images {
                for c in 0..shape.c {
                    for h in 0..shape.h {
                        (0..shape.w).for_each(|w| f(n, c, h, w));
                    }
                }
            }
        };
        each(&mut |n, c, h, w| input[at(from, shape, n, c, h, w)] = value(n, c, h, w));
        let mut output = vec![f32::NAN; to.len(padded, images)];
        for target in Target::available() {
            let relayout = Relayout::new(shape, border, from, to, images, target);
            relayout.run(&*with_threads(2), &[&input], &mut output, &mut []);
            let mut inside = 0.0;
            each(&mut |n, c, h, w| {
                let got = output[at(to, padded, n, c, h + border.top, w + border.left)];
                assert_eq!(got, value(n, c, h, w), "{from:?} {to:?} {shape:?} {images} {}", target.name());
                inside += got as f64;
            });
            assert_eq!(inside, output.iter().map(|&x| x as f64).sum::<f64>(), "the rest is zero: {from:?} {to:?}");
        }
    }
}
