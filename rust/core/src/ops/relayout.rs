//! From one layout to another, with or without a border of zeros: every move of activations is this one visible step.

use super::{Layout, Operator, Shape};
use crate::executor::{Executor, for_each_chunk};

/// Rows and columns of zeros around an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
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
        Shape { c, h: h + self.top + self.bottom, w: w + self.left + self.right }
    }
}

/// Copies images from one layout to another.
pub struct Relayout {
    shape: Shape,
    border: Border,
    from: Layout,
    to: Layout,
    images: usize,
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
    pub fn new(shape: Shape, border: Border, from: Layout, to: Layout, images: usize) -> Relayout {
        Relayout { shape, border, from, to, images }
    }

    /// The loops over one group of images, slowest destination step first.
    fn loops(&self, images: usize) -> [Loop; 4] {
        let from = self.from.strides(self.shape);
        let to = self.to.strides(self.border.around(self.shape));
        // Images of the source are a group apart where it has groups of one, and likewise for the destination.
        let n = Loop {
            count: images,
            from: if from.group == 1 { from.group_step } else { from.n },
            to: if to.group == 1 { to.group_step } else { to.n },
        };
        let mut loops = [
            n,
            Loop { count: self.shape.c, from: from.c, to: to.c },
            Loop { count: self.shape.h, from: from.h, to: to.h },
            Loop { count: self.shape.w, from: from.w, to: to.w },
        ];
        loops.sort_by_key(|step| std::cmp::Reverse((step.to, step.count)));
        loops
    }
}

impl Operator for Relayout {
    fn run(&self, executor: &dyn Executor, input: &[f32], output: &mut [f32], _scratch: &mut [f32]) {
        let padded = self.border.around(self.shape);
        let (from, to) = (self.from.strides(self.shape), self.to.strides(padded));
        let group = from.group.max(to.group);
        let offset = self.border.top * to.h + self.border.left * to.w;
        // Lanes without an image or a pixel are zero, so that kernels never meet stale values.
        let clear = !self.border.is_zero() || !self.images.is_multiple_of(to.group) || self.to == Layout::PixelPanel;
        let chunk = group / to.group * to.group_step;
        for_each_chunk(executor, &mut output[..self.to.len(padded, self.images)], chunk, &|index, chunk| {
            if clear {
                chunk.fill(0.0);
            }
            let first = index * group;
            let source = &input[first / from.group * from.group_step..];
            if chunk.len() > offset && !self.shape.is_empty() {
                copy(&self.loops(group.min(self.images - first)), source, &mut chunk[offset..]);
            }
        });
    }

    fn kernel(&self) -> String {
        if self.border.is_zero() { "relayout".into() } else { "pad".into() }
    }
}

/// Four nested loops; the innermost is a slice copy where both sides are contiguous.
fn copy(&[a, b, c, d]: &[Loop; 4], from: &[f32], to: &mut [f32]) {
    for i in 0..a.count {
        for j in 0..b.count {
            for k in 0..c.count {
                let source = &from[i * a.from + j * b.from + k * c.from..];
                let target = &mut to[i * a.to + j * b.to + k * c.to..];
                if d.from == 1 && d.to == 1 {
                    target[..d.count].copy_from_slice(&source[..d.count]);
                } else {
                    let source = source.iter().step_by(d.from.max(1));
                    for (x, &y) in target.iter_mut().step_by(d.to.max(1)).zip(source).take(d.count) {
                        *x = y;
                    }
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
        Relayout::new(shape, border, from, to, images).run(&*with_threads(2), &input, &mut output, &mut []);
        let mut inside = 0.0;
        each(&mut |n, c, h, w| {
            let got = output[at(to, padded, n, c, h + border.top, w + border.left)];
            assert_eq!(got, value(n, c, h, w), "{from:?} {to:?} {shape:?} {images}");
            inside += got as f64;
        });
        assert_eq!(inside, output.iter().map(|&x| x as f64).sum::<f64>(), "the rest is zero: {from:?} {to:?}");
    }
}
