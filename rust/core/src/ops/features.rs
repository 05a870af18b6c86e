//! Softmax and normalization over features that lie side by side: a row a vector.

use super::Operator;
use crate::executor::{Executor, for_each_chunk};
use crate::simd::{Kernel, LANES, Target, Vector, dispatch, math};

/// Floats in a task at least.
const CHUNK: usize = 1 << 14;

/// Softmax.
pub struct Softmax {
    /// Floats of a row.
    pub features: usize,
    /// CPU target.
    pub target: Target,
}

/// Mean 0 and variance 1, then a factor and a summand a feature.
pub struct LayerNorm {
    /// One factor a feature.
    pub scale: Vec<f32>,
    /// One summand a feature.
    pub shift: Vec<f32>,
    /// Added to the variance.
    pub epsilon: f32,
    /// CPU target.
    pub target: Target,
}

/// Whole rows in tasks, one kernel for each.
fn for_rows(
    executor: &dyn Executor,
    features: usize,
    input: &[f32],
    output: &mut [f32],
    task: &(dyn Fn(&[f32], &mut [f32]) + Sync),
) {
    let features = features.max(1);
    let chunk = CHUNK.div_ceil(features) * features;
    for_each_chunk(executor, output, chunk, &|index, output| task(&input[index * chunk..][..output.len()], output));
}

impl Operator for Softmax {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        for_rows(executor, self.features, inputs[0], output, &|input, output| {
            dispatch(self.target, Rows { input, output, row: SoftmaxRow, features: self.features });
        });
    }

    fn kernel(&self) -> String {
        format!("softmax_f32__{}", self.target.name())
    }
}

impl Operator for LayerNorm {
    fn run(&self, executor: &dyn Executor, inputs: &[&[f32]], output: &mut [f32], _scratch: &mut [f32]) {
        let features = self.scale.len();
        for_rows(executor, features, inputs[0], output, &|input, output| {
            dispatch(self.target, Rows { input, output, row: LayerNormRow(self), features });
        });
    }

    fn kernel(&self) -> String {
        format!("layer_norm_f32__{}", self.target.name())
    }
}

/// What is done to a row, which is not empty.
trait Row: Copy {
    fn run<V: Vector>(self, v: V, x: &[f32], y: &mut [f32]);
}

struct Rows<'a, R> {
    input: &'a [f32],
    output: &'a mut [f32],
    row: R,
    features: usize,
}

impl<R: Row> Kernel for Rows<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let features = self.features.max(1);
        for (y, x) in self.output.chunks_exact_mut(features).zip(self.input.chunks_exact(features)) {
            self.row.run(v, x, y);
        }
    }
}

/// The registers of a row, the last one filled up.
#[inline(always)]
fn registers<V: Vector>(v: V, x: &[f32], fill: f32) -> impl Iterator<Item = V::F32> {
    x.chunks(LANES).map(move |chunk| filled(v, chunk, fill))
}

#[inline(always)]
fn filled<V: Vector>(v: V, x: &[f32], fill: f32) -> V::F32 {
    if x.len() == LANES {
        return v.load(x);
    }
    let mut lanes = [fill; LANES];
    lanes[..x.len()].copy_from_slice(x);
    v.with_lanes(lanes)
}

#[inline(always)]
fn store<V: Vector>(v: V, x: V::F32, to: &mut [f32]) {
    match to.len() {
        LANES => v.store(to, x),
        len => to.copy_from_slice(&v.to_array(x)[..len]),
    }
}

#[derive(Clone, Copy)]
struct SoftmaxRow;

impl Row for SoftmaxRow {
    #[inline(always)]
    fn run<V: Vector>(self, v: V, x: &[f32], y: &mut [f32]) {
        let most = registers(v, x, f32::NEG_INFINITY).fold(v.splat(f32::NEG_INFINITY), |most, x| v.max(most, x));
        let most = v.splat(v.to_array(most).into_iter().fold(f32::NEG_INFINITY, f32::max));
        let mut sum = v.splat(0.0);
        for (x, y) in registers(v, x, f32::NEG_INFINITY).zip(y.chunks_mut(LANES)) {
            let power = math::exp(v, v.sub(x, most));
            store(v, power, y);
            // What filled up the last register counts for nothing.
            sum = v.add(sum, filled(v, y, 0.0));
        }
        let factor = v.splat(1.0 / v.sum(sum));
        for y in y.chunks_mut(LANES) {
            let power = filled(v, y, 0.0);
            store(v, v.mul(power, factor), y);
        }
    }
}

#[derive(Clone, Copy)]
struct LayerNormRow<'a>(&'a LayerNorm);

impl Row for LayerNormRow<'_> {
    #[inline(always)]
    fn run<V: Vector>(self, v: V, x: &[f32], y: &mut [f32]) {
        let LayerNorm { scale, shift, epsilon, .. } = self.0;
        let n = x.len() as f32;
        let sum = registers(v, x, 0.0).fold(v.splat(0.0), |sum, x| v.add(sum, x));
        let mean = v.sum(sum) / n;
        let around = v.splat(mean);
        let squares = registers(v, x, mean).fold(v.splat(0.0), |sum, x| {
            let far = v.sub(x, around);
            v.mul_add(far, far, sum)
        });
        let factor = v.splat(1.0 / (v.sum(squares) / n + epsilon).sqrt());
        let parts = registers(v, scale, 0.0).zip(registers(v, shift, 0.0));
        for ((x, (scale, shift)), y) in registers(v, x, 0.0).zip(parts).zip(y.chunks_mut(LANES)) {
            store(v, v.mul_add(v.mul(v.sub(x, around), factor), scale, shift), y);
        }
    }
}
