//! The transforms of F(4×4, 3×3), sixteen channels in the lanes: one-dimensional ones, applied to columns and then to rows.

use super::{POINTS, TILE};
use crate::formats::Activation;
use crate::ops::Shape;
use crate::simd::{Kernel, LANES, Vector};

/// Rows and columns of the pixels that a tile reads.
pub const PATCH: usize = 6;

/// Bᵀ, of the points 0, ±1, ±2 and ∞.
#[cfg(test)]
pub const INPUT: [[f64; PATCH]; PATCH] = [
    [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
    [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
    [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
    [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
    [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
    [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
];

/// G.
pub const FILTER: [[f64; 3]; PATCH] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// Aᵀ.
#[cfg(test)]
pub const OUTPUT: [[f64; PATCH]; TILE] = [
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
    [0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
    [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
    [0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
];

/// G g Gᵀ of a filter of three rows.
pub fn filter(g: &[f64; 9]) -> [f64; POINTS] {
    let mut half = [[0.0; 3]; PATCH];
    for (half, row) in half.iter_mut().zip(FILTER) {
        for (x, half) in half.iter_mut().enumerate() {
            *half = row[0] * g[x] + row[1] * g[3 + x] + row[2] * g[6 + x];
        }
    }
    std::array::from_fn(|at| {
        let (half, row) = (half[at / PATCH], FILTER[at % PATCH]);
        half[0] * row[0] + half[1] * row[1] + half[2] * row[2]
    })
}

/// The patches of a row of tiles: V = Bᵀ d B, with zeros for what lies outside the image.
pub struct Gather<'a> {
    /// Shape of the image.
    pub shape: Shape,
    /// The row of tiles, and tiles in it.
    pub row: usize,
    pub tiles: usize,
    /// The image, channels last.
    pub image: &'a [f32],
    /// `[point][tile][channel, padded to lines]`, points `plane` floats apart.
    pub to: &'a mut [f32],
    pub plane: usize,
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Gather { shape: Shape { c, h, w }, row, tiles, image, to, plane } = self;
        let y = row * TILE;
        let width = c.next_multiple_of(LANES);
        for tile in 0..tiles {
            let x = tile * TILE;
            let start = (y * w + x) * c;
            let inside = y + PATCH <= h && x + PATCH <= w;
            for line in (0..width).step_by(LANES) {
                let to = &mut to[tile * width + line..][..(POINTS - 1) * plane + LANES];
                if inside && line + LANES <= c {
                    let end = ((PATCH - 1) * w + PATCH - 1) * c + LANES;
                    patch(v, &image[start + line..][..end], (w * c, c), to, plane);
                } else {
                    // A patch of its own, so that the transform is written once.
                    let mut own = [0.0; POINTS * LANES];
                    let lanes = LANES.min(c - line);
                    for at in 0..POINTS {
                        let (i, j) = (at / PATCH, at % PATCH);
                        if y + i < h && x + j < w {
                            let pixel = v.load_some(&image[start + (i * w + j) * c + line..], lanes);
                            v.store(&mut own[at * LANES..], pixel);
                        }
                    }
                    patch(v, &own, (PATCH * LANES, LANES), to, plane);
                }
            }
        }
    }
}

/// Bᵀ d B of one patch. Its rows are made one or two at a time, from pixels loaded anew, so that all stays in registers.
#[inline(always)]
fn patch<V: Vector>(v: V, d: &[f32], (down, right): (usize, usize), to: &mut [f32], plane: usize) {
    let zero = [v.splat(0.0); PATCH];
    let (mut a, mut b) = (zero, zero);
    for x in 0..PATCH {
        let d = &d[x * right..];
        a[x] = outer(v, v.load(d), v.load(&d[2 * down..]), v.load(&d[4 * down..]));
    }
    across(v, &a, to, plane);
    for x in 0..PATCH {
        let d = &d[x * right + down..];
        (a[x], b[x]) = ones(v, v.load(d), v.load(&d[down..]), v.load(&d[2 * down..]), v.load(&d[3 * down..]));
    }
    across(v, &a, &mut to[PATCH * plane..], plane);
    across(v, &b, &mut to[2 * PATCH * plane..], plane);
    for x in 0..PATCH {
        let d = &d[x * right + down..];
        (a[x], b[x]) = twos(v, v.load(d), v.load(&d[down..]), v.load(&d[2 * down..]), v.load(&d[3 * down..]));
    }
    across(v, &a, &mut to[3 * PATCH * plane..], plane);
    across(v, &b, &mut to[4 * PATCH * plane..], plane);
    for x in 0..PATCH {
        let d = &d[x * right + down..];
        a[x] = outer(v, v.load(d), v.load(&d[2 * down..]), v.load(&d[4 * down..]));
    }
    across(v, &a, &mut to[5 * PATCH * plane..], plane);
}

/// A row of Bᵀ d times B, stored.
#[inline(always)]
fn across<V: Vector>(v: V, d: &[V::F32; PATCH], to: &mut [f32], plane: usize) {
    let [d0, d1, d2, d3, d4, d5] = *d;
    v.store(to, outer(v, d0, d2, d4));
    let (a, b) = ones(v, d1, d2, d3, d4);
    v.store(&mut to[plane..], a);
    v.store(&mut to[2 * plane..], b);
    let (a, b) = twos(v, d1, d2, d3, d4);
    v.store(&mut to[3 * plane..], a);
    v.store(&mut to[4 * plane..], b);
    v.store(&mut to[5 * plane..], outer(v, d1, d3, d5));
}

/// The first and the last row of Bᵀ: 4a − 5b + c.
#[inline(always)]
fn outer<V: Vector>(v: V, a: V::F32, b: V::F32, c: V::F32) -> V::F32 {
    v.mul_add(v.splat(4.0), a, v.mul_add(v.splat(-5.0), b, c))
}

/// The rows of Bᵀ for the points ±1.
#[inline(always)]
fn ones<V: Vector>(v: V, d1: V::F32, d2: V::F32, d3: V::F32, d4: V::F32) -> (V::F32, V::F32) {
    let even = v.mul_add(v.splat(-4.0), d2, d4);
    let odd = v.mul_add(v.splat(-4.0), d1, d3);
    (v.add(even, odd), v.sub(even, odd))
}

/// The rows of Bᵀ for the points ±2.
#[inline(always)]
fn twos<V: Vector>(v: V, d1: V::F32, d2: V::F32, d3: V::F32, d4: V::F32) -> (V::F32, V::F32) {
    let even = v.sub(d4, d2);
    let odd = v.sub(d3, d1);
    (v.mul_add(v.splat(2.0), odd, even), v.mul_add(v.splat(-2.0), odd, even))
}

/// The outputs of a row of tiles: Aᵀ M A, of which what lies inside the image is stored.
pub struct Scatter<'a> {
    /// Channels, columns of the image.
    pub channels: usize,
    pub columns: usize,
    /// Tiles of the row, and where they begin in `from`.
    pub tiles: usize,
    pub first: usize,
    /// `[point][tile][output, padded to lines]`, points `plane` floats apart.
    pub from: &'a [f32],
    pub plane: usize,
    /// Of the outputs.
    pub activation: Activation,
    /// Up to four rows of the image, channels last.
    pub to: &'a mut [f32],
}

impl Kernel for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Scatter { channels, columns, tiles, first, from, plane, activation, to } = self;
        let width = channels.next_multiple_of(LANES);
        let row = columns * channels;
        let rows = to.len() / row.max(1);
        let floor = v.splat(activation.floor());
        for tile in 0..tiles {
            for line in (0..width).step_by(LANES) {
                let from = &from[(first + tile) * width + line..][..(POINTS - 1) * plane + LANES];
                let mut half = [[floor; PATCH]; TILE];
                for x in 0..PATCH {
                    let point = |y: usize| (y * PATCH + x) * plane;
                    let column = down(
                        v,
                        v.load(&from[point(0)..]),
                        v.load(&from[point(1)..]),
                        v.load(&from[point(2)..]),
                        v.load(&from[point(3)..]),
                        v.load(&from[point(4)..]),
                        v.load(&from[point(5)..]),
                    );
                    for y in 0..TILE {
                        half[y][x] = column[y];
                    }
                }
                let to = &mut to[tile * TILE * channels + line..];
                let inside = rows >= TILE && (tile + 1) * TILE <= columns && line + LANES <= channels;
                for (y, &[m0, m1, m2, m3, m4, m5]) in half.iter().enumerate() {
                    let results = down(v, m0, m1, m2, m3, m4, m5);
                    for (x, &result) in results.iter().enumerate() {
                        let result = v.max(result, floor);
                        if inside {
                            v.store(&mut to[y * row + x * channels..], result);
                        } else if y < rows && tile * TILE + x < columns {
                            v.store_some(&mut to[y * row + x * channels..], result, channels - line);
                        }
                    }
                }
            }
        }
        if let Some(activation) = activation.afterwards() {
            activation.of_slice(v, to);
        }
    }
}

/// Aᵀ times a column.
#[inline(always)]
fn down<V: Vector>(
    v: V,
    m0: V::F32,
    m1: V::F32,
    m2: V::F32,
    m3: V::F32,
    m4: V::F32,
    m5: V::F32,
) -> [V::F32; TILE] {
    let (even1, odd1) = (v.add(m1, m2), v.sub(m1, m2));
    let (even2, odd2) = (v.add(m3, m4), v.sub(m3, m4));
    [
        v.add(m0, v.add(even1, even2)),
        v.mul_add(v.splat(2.0), odd2, odd1),
        v.mul_add(v.splat(4.0), even2, even1),
        v.add(v.mul_add(v.splat(8.0), odd2, odd1), m5),
    ]
}
