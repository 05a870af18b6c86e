//! The reference that kernels are tested against: the definitions, as loops in float64.

use crate::formats::Reduction;
use crate::formats::{Activation, Rows, Window};
use crate::ops::Shape;
use crate::ops::cell::Cell;
use crate::ops::relayout::Border;
use std::f64::consts::PI;

/// Rounding error of a float32 operation, relative.
const UNIT: f64 = 1.0 / (1u64 << 24) as f64;

/// A result as the definition has it, and how far from it float32 may lie.
#[derive(Debug, Clone, Copy)]
pub struct Exact {
    /// The result.
    pub value: f64,
    /// The largest error allowed: γ_k · Σ|terms|, γ_k = k·u / (1 − k·u) for k terms and u = 2⁻²⁴, whatever the order of
    /// the sum; and what the activation adds.
    pub bound: f64,
}

impl Exact {
    /// A sum of terms.
    fn sum(terms: impl Iterator<Item = f64>) -> Exact {
        let (mut value, mut size, mut count) = (0.0, 0.0, 1.0);
        for term in terms {
            (value, size, count) = (value + term, size + term.abs(), count + 1.0);
        }
        Exact { value, bound: count * UNIT / (1.0 - count * UNIT) * size }
    }

    fn activated(self, activation: Activation) -> Exact {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (x, size) = (self.value, self.value.abs());
        let (value, own) = match activation {
            Activation::None => (self.value, 0.0),
            Activation::Relu => (self.value.max(0.0), 0.0),
            Activation::Tanh => (self.value.tanh(), 4.0 * UNIT),
            Activation::Sigmoid => (sigmoid(self.value), 8.0 * UNIT),
            Activation::Gelu => (x * (1.0 + erf(x / 2f64.sqrt())) / 2.0, 4.0 * UNIT * size),
            Activation::GeluTanh => (x * sigmoid((8.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))), 16.0 * UNIT * size),
            Activation::Silu => (x * sigmoid(x), 8.0 * UNIT * size),
            Activation::HardSwish => (x * (x / 6.0 + 0.5).clamp(0.0, 1.0), 4.0 * UNIT * size),
            Activation::HardSigmoid(a, b) => {
                let (a, b) = (f64::from(a), f64::from(b));
                ((a * x + b).clamp(0.0, 1.0), UNIT * (a * x).abs().max(b.abs()))
            }
            Activation::LeakyRelu(a) => (if x > 0.0 { x } else { f64::from(a) * x }, 2.0 * UNIT * size),
            Activation::Clip(low, high) => (x.max(f64::from(low)).min(f64::from(high)), 0.0),
        };
        // None is steeper than that, but for those whose slope is an argument.
        let slope = match activation {
            Activation::HardSigmoid(a, _) | Activation::LeakyRelu(a) => f64::from(a).abs().max(1.0),
            _ => 1.5,
        };
        Exact { value, bound: self.bound * slope + own }
    }

    /// Whether a kernel's result is within the bound.
    pub fn allows(&self, result: f32) -> bool {
        (f64::from(result) - self.value).abs() <= self.bound
    }
}

/// The error function: a series of positive terms, and 1 where float64 sees no more.
pub fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    sum * (-x * x).exp() * 2.0 / PI.sqrt()
}

/// Pseudo-random numbers in [-1, 1), a share of them zero.
pub fn numbers(len: usize, density: f64, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    (0..len).map(|_| if next() < density { (next() * 2.0 - 1.0) as f32 } else { 0.0 }).collect()
}

/// Bias, one value a row or filter, and what is added besides, one value a result or none.
pub type Added<'a> = (&'a [f32], &'a [f32]);

/// activation(W · x + bias + residual), row-major (m, n), for row-major x (k, n).
pub fn matmul(weights: &Rows, n: usize, x: &[f32], (bias, residual): Added, activation: Activation) -> Vec<Exact> {
    (0..weights.rows() * n)
        .map(|at| {
            let (row, column) = (at / n, at % n);
            let products = weights.row(row).map(|(k, w)| f64::from(w) * f64::from(x[k * n + column]));
            Exact::sum(products.chain(added(bias[row], residual, at))).activated(activation)
        })
        .collect()
}

/// dY[i] · X[j] for every nonzero (i, j), for row-major dy (m, n) and x (k, n).
pub fn sddmm(weights: &Rows, n: usize, dy: &[f32], x: &[f32]) -> Vec<Exact> {
    let places = (0..weights.rows()).flat_map(|row| weights.row(row).map(move |(column, _)| (row, column)));
    let dot = |(row, column)| (0..n).map(move |at| f64::from(dy[row * n + at]) * f64::from(x[column * n + at]));
    places.map(|place| Exact::sum(dot(place))).collect()
}

/// The terms that are no products.
fn added(bias: f32, residual: &[f32], at: usize) -> impl Iterator<Item = f64> {
    [Some(bias), residual.get(at).copied()].into_iter().flatten().map(f64::from)
}

/// A convolution of one image (c, h, w) in groups with filters (out, c / groups · rows · columns) of a window, zeros around
/// the image.
pub fn conv2d(
    (filters, (bias, residual)): (&Rows, Added),
    (window, groups): (Window, usize),
    border: Border,
    (image, x): (Shape, &[f32]),
    activation: Activation,
) -> Vec<Exact> {
    let ((rows, columns), (down, right)) = (window.size, window.dilation);
    each(window, border, image, filters.rows(), |at, (filter, y, z)| {
        let products = filters.row(filter).filter_map(|(k, w)| {
            let (c, i, j) = (k / (rows * columns), k / columns % rows, k % columns);
            let c = filter / (filters.rows() / groups) * (image.c / groups) + c;
            pixel(border, image, x, c, y + i * down, z + j * right).map(|x| f64::from(w) * x)
        });
        Exact::sum(products.chain(added(bias[filter], residual, at))).activated(activation)
    })
}

/// Bᵀ, G and Aᵀ of Winograd's F(4×4, 3×3).
const INPUT: [[f64; 6]; 6] = [
    [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
    [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
    [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
    [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
    [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
    [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
];
const FILTER: [[f64; 3]; 6] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];
const OUTPUT: [[f64; 6]; 4] = [
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
    [0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
    [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
    [0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
];

/// |a| · |x| · |a|ᵀ.
fn sizes<const N: usize, const M: usize>(a: &[[f64; N]; M], x: &[[f64; N]; N]) -> [[f64; M]; M] {
    let entry = |i: usize, j: usize| {
        let terms = (0..N * N).map(|at| (a[i][at / N] * x[at / N][at % N] * a[j][at % N]).abs());
        terms.sum()
    };
    std::array::from_fn(|i| std::array::from_fn(|j| entry(i, j)))
}

/// [`conv2d`] by filters of 3×3, with the bound of [`crate::ops::winograd`] instead.
pub fn winograd(
    (filters, (bias, residual)): (&Rows, Added),
    border: Border,
    (image, x): (Shape, &[f32]),
    activation: Activation,
) -> Vec<Exact> {
    let window = Window::new((3, 3), (1, 1));
    let outer = border.around(image);
    let (h, w) = window.over(outer.h, outer.w);
    let count = (image.c + 12 + residual.len().min(1)) as f64;
    let gamma = count * UNIT / (1.0 - count * UNIT);
    let mut results = conv2d((filters, (bias, residual)), (window, 1), border, (image, x), Activation::None);
    let dense = filters.to_dense();
    let filters: Vec<_> = dense
        .chunks_exact(9)
        .map(|g| sizes(&FILTER, &std::array::from_fn(|i| std::array::from_fn(|j| f64::from(g[3 * i + j])))))
        .collect();
    for tile in 0..h.div_ceil(4) * w.div_ceil(4) {
        let (top, left) = (tile / w.div_ceil(4) * 4, tile % w.div_ceil(4) * 4);
        let pixel = |c, i, j| pixel(border, image, x, c, top + i, left + j).unwrap_or(0.0);
        let patch = |c| sizes(&INPUT, &std::array::from_fn(|i| std::array::from_fn(|j| pixel(c, i, j))));
        let patches: Vec<_> = (0..image.c).map(patch).collect();
        for (filter, bias) in bias.iter().enumerate() {
            let mut products = [[0.0; 6]; 6];
            for (g, d) in filters[filter * image.c..].iter().zip(&patches) {
                for at in 0..36 {
                    products[at / 6][at % 6] += g[at / 6][at % 6] * d[at / 6][at % 6];
                }
            }
            let sizes = sizes(&OUTPUT, &products);
            for (y, z) in (0..16).map(|at| (at / 4, at % 4)).filter(|&(y, z)| top + y < h && left + z < w) {
                let at = (filter * h + top + y) * w + left + z;
                let others: f64 = added(*bias, residual, at).map(f64::abs).sum();
                results[at].bound = gamma * (sizes[y][z] + others);
            }
        }
    }
    results.into_iter().map(|result| result.activated(activation)).collect()
}

/// The gradient of the input of [`conv2d`], an image of shape `image`, from that of its result.
pub fn conv2d_input(
    filters: &Rows,
    (window, groups): (Window, usize),
    border: Border,
    image: Shape,
    dy: &[f32],
) -> Vec<Exact> {
    let ((rows, columns), outer) = (window.size, border.around(image));
    let (h, w) = window.over(outer.h, outer.w);
    let (weights, channels) = (filters.to_dense(), image.c / groups);
    // The output that meets an element through a tap.
    let output = |at: usize, tap: usize, stride: usize, count: usize| {
        let at = at.checked_sub(tap)?;
        (at.is_multiple_of(stride) && at / stride < count).then_some(at / stride)
    };
    let of_group = filters.rows() / groups;
    let gradient = |at: usize| {
        let (c, y, x) = (at / (image.h * image.w), at / image.w % image.h + border.top, at % image.w + border.left);
        let group = c / channels * of_group..(c / channels + 1) * of_group;
        let taps = group.flat_map(|filter| (0..rows * columns).map(move |tap| (filter, tap)));
        Exact::sum(taps.filter_map(|(filter, tap)| {
            let weight = weights[(filter * channels + c % channels) * rows * columns + tap];
            let y = output(y, tap / columns * window.dilation.0, window.stride.0, h)?;
            let x = output(x, tap % columns * window.dilation.1, window.stride.1, w)?;
            (weight != 0.0).then(|| f64::from(weight) * f64::from(dy[(filter * h + y) * w + x]))
        }))
    };
    (0..image.len()).map(gradient).collect()
}

/// The gradient of the nonzeros of the filters of [`conv2d`] over some images (c, h, w), from those of their results.
pub fn conv2d_weight(
    filters: &Rows,
    (window, groups): (Window, usize),
    border: Border,
    (image, x): (Shape, &[f32]),
    dy: &[f32],
) -> Vec<Exact> {
    let ((rows, columns), (down, right)) = (window.size, window.dilation);
    let outer = border.around(image);
    let (h, w) = window.over(outer.h, outer.w);
    let channels = image.c / groups;
    let places = (0..filters.rows()).flat_map(|filter| filters.row(filter).map(move |(k, _)| (filter, k)));
    places
        .map(|(filter, k)| {
            let c = filter / (filters.rows() / groups) * channels + k / (rows * columns);
            let (i, j) = (k / columns % rows * down, k % columns * right);
            let images = x.chunks(image.len()).zip(dy.chunks(filters.rows() * h * w));
            Exact::sum(images.flat_map(|(x, dy)| {
                (0..h * w).filter_map(move |at| {
                    let (y, z) = (at / w * window.stride.0, at % w * window.stride.1);
                    let x = pixel(border, image, x, c, y + i, z + j)?;
                    Some(x * f64::from(dy[filter * h * w + at]))
                })
            }))
        })
        .collect()
}

/// A pooling of one image (c, h, w): the maximum or the mean of what of the image lies in the window.
pub fn pool(reduction: Reduction, window: Window, border: Border, (image, x): (Shape, &[f32])) -> Vec<Exact> {
    each(window, border, image, image.c, |_, (c, y, z)| {
        let taps = (0..window.size.0).flat_map(|i| (0..window.size.1).map(move |j| (i, j)));
        let values: Vec<f64> = taps.filter_map(|(i, j)| pixel(border, image, x, c, y + i, z + j)).collect();
        let count = values.len() as f64;
        match reduction {
            Reduction::Max => Exact { value: values.into_iter().fold(f64::NEG_INFINITY, f64::max), bound: 0.0 },
            Reduction::Average => Exact::sum(values.into_iter().map(|x| x / count).chain([0.0])),
        }
    })
}

/// The pooling of two by two results each.
pub fn halved(reduction: Reduction, image: Shape, x: &[Exact]) -> Vec<Exact> {
    each(Window::HALVING, Border::default(), image, image.c, |_, (c, y, z)| {
        let four = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(i, j)| x[(c * image.h + y + i) * image.w + z + j]);
        let bounds = four.map(|x| x.bound);
        match reduction {
            Reduction::Max => Exact {
                value: four.map(|x| x.value).into_iter().fold(f64::NEG_INFINITY, f64::max),
                bound: bounds.into_iter().fold(0.0, f64::max),
            },
            Reduction::Average => {
                let mean = Exact::sum(four.into_iter().map(|x| x.value / 4.0));
                Exact { bound: mean.bound + bounds.iter().sum::<f64>() / 4.0 * (1.0 + 8.0 * UNIT), ..mean }
            }
        }
    })
}

/// `result(channel, row, column)` of every window, given where it begins in the image with its border.
fn each(
    window: Window,
    border: Border,
    image: Shape,
    channels: usize,
    result: impl Fn(usize, (usize, usize, usize)) -> Exact,
) -> Vec<Exact> {
    let outer = border.around(image);
    let (h, w) = window.over(outer.h, outer.w);
    (0..channels * h * w)
        .map(|at| result(at, (at / (h * w), at / w % h * window.stride.0, at % w * window.stride.1)))
        .collect()
}

/// The value at a row and column of the image with its border; `None` in the border.
fn pixel(border: Border, image: Shape, x: &[f32], c: usize, row: usize, column: usize) -> Option<f64> {
    let (row, column) = (row.checked_sub(border.top)?, column.checked_sub(border.left)?);
    (row < image.h && column < image.w).then(|| f64::from(x[(c * image.h + row) * image.w + column]))
}

/// The states of a recurrent layer, from the products with its input (steps, gates · units): all of them, those of padding 0,
/// or the last one.
pub fn recurrent(
    cell: Cell,
    (weights, bias): (&Rows, Option<&[f32]>),
    (sequences, reverse): (bool, bool),
    products: &[f32],
    skip: &[bool],
) -> Vec<f64> {
    let (rows, units, steps) = (weights.rows(), weights.columns(), skip.len());
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let (mut h, mut c, mut all) = (vec![0.0; units], vec![0.0; units], vec![0.0; steps * units]);
    for turn in 0..steps {
        let step = if reverse { steps - 1 - turn } else { turn };
        if skip[step] {
            continue;
        }
        let x = |row: usize| f64::from(products[step * rows + row]);
        let u: Vec<f64> = (0..rows)
            .map(|row| {
                let product: f64 = weights.row(row).map(|(column, w)| f64::from(w) * h[column]).sum();
                product + bias.map_or(0.0, |bias| f64::from(bias[row]))
            })
            .collect();
        for j in 0..units {
            let gate = |gate: usize| x(gate * units + j) + u[gate * units + j];
            h[j] = match cell {
                Cell::Tanh => gate(0).tanh(),
                Cell::Relu => gate(0).max(0.0),
                Cell::Lstm => {
                    c[j] = sigmoid(gate(1)) * c[j] + sigmoid(gate(0)) * gate(2).tanh();
                    sigmoid(gate(3)) * c[j].tanh()
                }
                Cell::Gru => {
                    let n = (x(2 * units + j) + sigmoid(gate(0)) * u[2 * units + j]).tanh();
                    let z = sigmoid(gate(1));
                    (1.0 - z) * n + z * h[j]
                }
            };
        }
        all[step * units..][..units].copy_from_slice(&h);
    }
    if sequences { all } else { h }
}

/// Features of mean 0 and variance 1, scaled and shifted.
pub fn layer_norm(x: &[f32], scale: &[f32], shift: &[f32], epsilon: f64) -> Vec<f64> {
    let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / x.len() as f64;
    let middle = mean(&mut x.iter().copied());
    let var = mean(&mut x.iter().map(|x| (x - middle).powi(2)));
    let parts = x.iter().zip(scale).zip(shift);
    parts.map(|((x, &s), &t)| (x - middle) / (var + epsilon).sqrt() * f64::from(s) + f64::from(t)).collect()
}
