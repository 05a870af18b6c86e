//! The transforms of F(4×4, 3×3), sixteen channels in the lanes: one-dimensional ones, applied to columns and then to rows.

use super::{POINTS, TILE};
use crate::formats::Epilogue;
use crate::ops::Shape;
use crate::simd::{Kernel, LANES, Vector};

/// Rows and columns of the pixels that a tile reads.
pub const PATCH: usize = 6;

/// G, of the points 0, ±1, ±2 and ∞.
const FILTER: [[f64; 3]; PATCH] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
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
    /// The row of tiles.
    pub row: usize,
    /// Tiles in it.
    pub tiles: usize,
    /// The image, channels last.
    pub image: &'a [f32],
    /// `[point][tile][channel, filled up to whole registers]`.
    pub to: &'a mut [f32],
    /// Floats between points.
    pub plane: usize,
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Gather { shape: Shape { c, h, w }, row, tiles, image, to, plane } = self;
        let y = row * TILE;
        let (to, plane, lines) = (to.as_chunks_mut::<LANES>().0, plane / LANES, c.div_ceil(LANES));
        for tile in 0..tiles {
            let x = tile * TILE;
            let start = (y * w + x) * c;
            let inside = y + PATCH <= h && x + PATCH <= w;
            for line in 0..lines {
                let to = &mut to[tile * lines + line..][..(POINTS - 1) * plane + 1];
                let line = line * LANES;
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

/// Bᵀ d B of one patch. Its rows are made one or two at a time, from pixels loaded anew, so that all stays in registers; loops
/// would keep them in memory.
#[inline(always)]
fn patch<V: Vector>(v: V, d: &[f32], (down, right): (usize, usize), to: &mut [[f32; LANES]], plane: usize) {
    across(v, outers(v, d, down, right), to, plane, 0);
    let [(a0, b0), (a1, b1), (a2, b2), (a3, b3), (a4, b4), (a5, b5)] = pairs::<V, Ones>(v, &d[down..], down, right);
    across(v, [a0, a1, a2, a3, a4, a5], to, plane, 1);
    across(v, [b0, b1, b2, b3, b4, b5], to, plane, 2);
    let [(a0, b0), (a1, b1), (a2, b2), (a3, b3), (a4, b4), (a5, b5)] = pairs::<V, Twos>(v, &d[down..], down, right);
    across(v, [a0, a1, a2, a3, a4, a5], to, plane, 3);
    across(v, [b0, b1, b2, b3, b4, b5], to, plane, 4);
    across(v, outers(v, &d[down..], down, right), to, plane, 5);
}

/// A row of Bᵀ d, which mixes every second row from the first on.
#[inline(always)]
fn outers<V: Vector>(v: V, d: &[f32], down: usize, right: usize) -> [V::F32; PATCH] {
    #[inline(always)]
    fn at<V: Vector>(v: V, d: &[f32], down: usize) -> V::F32 {
        outer(v, v.load(d), v.load(&d[2 * down..]), v.load(&d[4 * down..]))
    }
    [
        at(v, d, down),
        at(v, &d[right..], down),
        at(v, &d[2 * right..], down),
        at(v, &d[3 * right..], down),
        at(v, &d[4 * right..], down),
        at(v, &d[5 * right..], down),
    ]
}

/// What makes two rows of Bᵀ of four of d.
trait Pair {
    fn of<V: Vector>(v: V, d1: V::F32, d2: V::F32, d3: V::F32, d4: V::F32) -> (V::F32, V::F32);
}

/// Two rows of Bᵀ d, which mix the first four.
#[inline(always)]
fn pairs<V: Vector, P: Pair>(v: V, d: &[f32], down: usize, right: usize) -> [(V::F32, V::F32); PATCH] {
    #[inline(always)]
    fn at<V: Vector, P: Pair>(v: V, d: &[f32], down: usize) -> (V::F32, V::F32) {
        P::of(v, v.load(d), v.load(&d[down..]), v.load(&d[2 * down..]), v.load(&d[3 * down..]))
    }
    [
        at::<V, P>(v, d, down),
        at::<V, P>(v, &d[right..], down),
        at::<V, P>(v, &d[2 * right..], down),
        at::<V, P>(v, &d[3 * right..], down),
        at::<V, P>(v, &d[4 * right..], down),
        at::<V, P>(v, &d[5 * right..], down),
    ]
}

/// A row of Bᵀ d times B, stored.
#[inline(always)]
fn across<V: Vector>(v: V, d: [V::F32; PATCH], to: &mut [[f32; LANES]], plane: usize, row: usize) {
    let [d0, d1, d2, d3, d4, d5] = d;
    let (a1, b1) = Ones::of(v, d1, d2, d3, d4);
    let (a2, b2) = Twos::of(v, d1, d2, d3, d4);
    let row = row * PATCH;
    v.store(&mut to[row * plane], outer(v, d0, d2, d4));
    v.store(&mut to[(row + 1) * plane], a1);
    v.store(&mut to[(row + 2) * plane], b1);
    v.store(&mut to[(row + 3) * plane], a2);
    v.store(&mut to[(row + 4) * plane], b2);
    v.store(&mut to[(row + 5) * plane], outer(v, d1, d3, d5));
}

/// A row of Bᵀ for the point 0 or ∞: 4a − 5b + c.
#[inline(always)]
fn outer<V: Vector>(v: V, a: V::F32, b: V::F32, c: V::F32) -> V::F32 {
    v.mul_add(v.splat(4.0), a, v.mul_add(v.splat(-5.0), b, c))
}

/// The rows of Bᵀ for the points ±1.
struct Ones;
impl Pair for Ones {
    #[inline(always)]
    fn of<V: Vector>(v: V, d1: V::F32, d2: V::F32, d3: V::F32, d4: V::F32) -> (V::F32, V::F32) {
        let even = v.mul_add(v.splat(-4.0), d2, d4);
        let odd = v.mul_add(v.splat(-4.0), d1, d3);
        (v.add(even, odd), v.sub(even, odd))
    }
}

/// The rows of Bᵀ for the points ±2.
struct Twos;
impl Pair for Twos {
    #[inline(always)]
    fn of<V: Vector>(v: V, d1: V::F32, d2: V::F32, d3: V::F32, d4: V::F32) -> (V::F32, V::F32) {
        let even = v.sub(d4, d2);
        let odd = v.sub(d3, d1);
        (v.mul_add(v.splat(2.0), odd, even), v.mul_add(v.splat(-2.0), odd, even))
    }
}

/// The outputs of a row of tiles: Aᵀ M A, of which what lies inside the image is stored.
pub struct Scatter<'a> {
    /// Channels of the image.
    pub channels: usize,
    /// Columns of the image.
    pub columns: usize,
    /// Tiles of the row.
    pub tiles: usize,
    /// The first of them in `from`.
    pub first: usize,
    /// `[point][tile][channel, filled up to whole registers]`.
    pub from: &'a [f32],
    /// Floats between points.
    pub plane: usize,
    /// Residual, which begins where `to` does, and activation.
    pub epilogue: Epilogue<'a>,
    /// Up to four rows of the image, channels last.
    pub to: &'a mut [f32],
}

impl Kernel for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Scatter { channels, columns, tiles, first, from, plane, epilogue, to } = self;
        let (from, plane, lines) = (from.as_chunks::<LANES>().0, plane / LANES, channels.div_ceil(LANES));
        let row = columns * channels;
        let rows = to.len() / row.max(1);
        let activation = epilogue.without_residual().activation;
        let floor = v.splat(activation.floor());
        for tile in 0..tiles {
            for line in 0..lines {
                let from = &from[(first + tile) * lines + line..][..(POINTS - 1) * plane + 1];
                let line = line * LANES;
                let half = [
                    column(v, from, plane, 0),
                    column(v, from, plane, 1),
                    column(v, from, plane, 2),
                    column(v, from, plane, 3),
                    column(v, from, plane, 4),
                    column(v, from, plane, 5),
                ];
                let to = &mut to[tile * TILE * channels + line..];
                if rows >= TILE && (tile + 1) * TILE <= columns && line + LANES <= channels {
                    store(v, across_half(v, &half, 0), floor, to, channels);
                    store(v, across_half(v, &half, 1), floor, &mut to[row..], channels);
                    store(v, across_half(v, &half, 2), floor, &mut to[2 * row..], channels);
                    store(v, across_half(v, &half, 3), floor, &mut to[3 * row..], channels);
                } else {
                    for y in 0..TILE.min(rows) {
                        let results = across_half(v, &half, y);
                        for (x, &result) in results.iter().enumerate().take(columns - tile * TILE) {
                            let to = &mut to[y * row + x * channels..];
                            v.store_some(to, v.max(floor, result), channels - line);
                        }
                    }
                }
            }
        }
        if let Some(activation) = activation.afterwards() {
            activation.of_slice(v.target(), to);
        }
        epilogue.of_sums(v, 0, to);
    }
}

/// Four neighbouring pixels.
#[inline(always)]
fn store<V: Vector>(v: V, [y0, y1, y2, y3]: [V::F32; TILE], floor: V::F32, to: &mut [f32], channels: usize) {
    v.store(to, v.max(floor, y0));
    v.store(&mut to[channels..], v.max(floor, y1));
    v.store(&mut to[2 * channels..], v.max(floor, y2));
    v.store(&mut to[3 * channels..], v.max(floor, y3));
}

/// A column of Aᵀ M.
#[inline(always)]
fn column<V: Vector>(v: V, from: &[[f32; LANES]], plane: usize, x: usize) -> [V::F32; TILE] {
    down(
        v,
        v.load(&from[x * plane]),
        v.load(&from[(PATCH + x) * plane]),
        v.load(&from[(2 * PATCH + x) * plane]),
        v.load(&from[(3 * PATCH + x) * plane]),
        v.load(&from[(4 * PATCH + x) * plane]),
        v.load(&from[(5 * PATCH + x) * plane]),
    )
}

/// A row of Aᵀ M times A.
#[inline(always)]
fn across_half<V: Vector>(v: V, half: &[[V::F32; TILE]; PATCH], y: usize) -> [V::F32; TILE] {
    down(v, half[0][y], half[1][y], half[2][y], half[3][y], half[4][y], half[5][y])
}

/// Aᵀ times a column.
#[inline(always)]
fn down<V: Vector>(v: V, m0: V::F32, m1: V::F32, m2: V::F32, m3: V::F32, m4: V::F32, m5: V::F32) -> [V::F32; TILE] {
    let (even1, odd1) = (v.add(m1, m2), v.sub(m1, m2));
    let (even2, odd2) = (v.add(m3, m4), v.sub(m3, m4));
    [
        v.add(m0, v.add(even1, even2)),
        v.mul_add(v.splat(2.0), odd2, odd1),
        v.mul_add(v.splat(4.0), even2, even1),
        v.add(v.mul_add(v.splat(8.0), odd2, odd1), m5),
    ]
}
