//! What happens to a result before it is stored: bias, another result, then activation.

use crate::argument;
use crate::error::Result;
use crate::simd::{Buffer, Kernel, LANES, Target, Vector, dispatch, math};

/// The activations that a kernel can fuse.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// max(x, 0).
    Relu,
    /// The hyperbolic tangent, within 2 ulp of the exact one.
    Tanh,
    /// 1 / (1 + exp(−x)), within 4 ulp of the exact one, 2e-38 at most where that is less.
    Sigmoid,
    /// x · Φ(x), Φ being the normal distribution's; within 2 ulp of x.
    Gelu,
    /// Its approximation by a hyperbolic tangent; within 8 ulp of x.
    GeluTanh,
    /// x · sigmoid(x); within 4 ulp of x.
    Silu,
    /// x · clip(x / 6 + 1 / 2, 0, 1).
    HardSwish,
    /// clip(a · x + b, 0, 1).
    HardSigmoid(f32, f32),
    /// x above 0, a · x below.
    LeakyRelu(f32),
    /// x, from the first to the second; the second where they have changed places.
    Clip(f32, f32),
}

impl Activation {
    /// Those without a number, by name.
    pub const NAMED: [(&'static str, Activation); 7] = [
        ("relu", Activation::Relu),
        ("tanh", Activation::Tanh),
        ("sigmoid", Activation::Sigmoid),
        ("gelu", Activation::Gelu),
        ("gelu_tanh", Activation::GeluTanh),
        ("silu", Activation::Silu),
        ("hard_swish", Activation::HardSwish),
    ];

    /// The activation of that name.
    ///
    /// # Errors
    /// A name that is not among [`Activation::NAMED`].
    pub fn parse(name: &str) -> Result<Activation> {
        let known = Activation::NAMED.into_iter().find(|(known, _)| *known == name);
        known.map(|(_, activation)| activation).ok_or_else(|| {
            let names = Activation::NAMED.map(|(known, _)| known).join(", ");
            argument!("activation: unknown name {name:?}; choose from {names}")
        })
    }

    /// The name, `none` for the identity.
    pub fn name(self) -> &'static str {
        match self {
            Activation::None => "none",
            Activation::HardSigmoid(..) => "hard_sigmoid",
            Activation::LeakyRelu(_) => "leaky_relu",
            Activation::Clip(..) => "clip",
            named => Activation::NAMED.iter().find(|(_, it)| *it == named).map_or("", |(name, _)| name),
        }
    }

    /// The activation of a register.
    #[inline(always)]
    pub fn of_vector<V: Vector>(self, v: V, x: V::F32) -> V::F32 {
        match self {
            Activation::None => x,
            Activation::Relu => v.max(v.splat(0.0), x),
            _ => {
                let mut lanes = v.to_array(x);
                self.of_slice(v.target(), &mut lanes);
                v.with_lanes(lanes)
            }
        }
    }

    /// What results are clamped to from below as they are stored: ReLU costs nothing that way.
    pub(crate) fn floor(self) -> f32 {
        if self == Activation::Relu { 0.0 } else { f32::NEG_INFINITY }
    }

    /// The activation left to apply to stored results: kernels stay small, and their accumulators in registers.
    pub(crate) fn afterwards(self) -> Option<Activation> {
        Some(self).filter(|kind| !matches!(kind, Activation::None | Activation::Relu))
    }

    /// The activation of all values of a slice, in place. Where a slice is cut changes no result.
    ///
    /// A call of its own, and not part of the kernels, of which there are many.
    #[inline(never)]
    pub fn of_slice(self, target: Target, values: &mut [f32]) {
        if self != Activation::None {
            dispatch(target, OfSlice { activation: self, values });
        }
    }
}

struct OfSlice<'a> {
    activation: Activation,
    values: &'a mut [f32],
}

impl Kernel for OfSlice<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let mut chunks = self.values.chunks_exact_mut(LANES);
        for chunk in &mut chunks {
            let x = v.load(chunk);
            v.store(chunk, of_register(self.activation, v, x));
        }
        let rest = chunks.into_remainder();
        let mut lanes = [0.0; LANES];
        lanes[..rest.len()].copy_from_slice(rest);
        let lanes = v.to_array(of_register(self.activation, v, v.with_lanes(lanes)));
        rest.copy_from_slice(&lanes[..rest.len()]);
    }
}

#[inline(always)]
fn of_register<V: Vector>(activation: Activation, v: V, x: V::F32) -> V::F32 {
    match activation {
        Activation::None => x,
        Activation::Relu => v.max(v.splat(0.0), x),
        Activation::Tanh => math::tanh(v, x),
        Activation::Sigmoid => math::sigmoid(v, x),
        Activation::Gelu => math::gelu(v, x),
        Activation::GeluTanh => math::gelu_tanh(v, x),
        Activation::Silu => v.mul(x, math::sigmoid(v, x)),
        Activation::HardSwish => v.mul(x, math::line(v, x, 1.0 / 6.0, 0.5)),
        Activation::HardSigmoid(a, b) => math::line(v, x, a, b),
        Activation::LeakyRelu(a) => {
            let zero = v.splat(0.0);
            v.mul_add(math::min(v, zero, x), v.splat(a), v.max(zero, x))
        }
        Activation::Clip(low, high) => math::min(v, v.splat(high), v.max(v.splat(low), x)),
    }
}

/// Bias, residual and activation.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// One value an output row.
    pub bias: Option<&'a [f32]>,
    /// One value a result, which lie as the results do; added before the activation.
    pub residual: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
}

impl<'a> Epilogue<'a> {
    /// Without a residual.
    pub fn new(bias: Option<&'a [f32]>, activation: Activation) -> Epilogue<'a> {
        Epilogue { bias, residual: None, activation }
    }

    /// That of the results from so many floats on.
    pub(crate) fn from(self, at: usize) -> Epilogue<'a> {
        Epilogue { residual: self.residual.map(|residual| &residual[at..]), ..self }
    }

    /// As it is where there is no residual; where there is one, for kernels that leave it, and with it the activation, to a
    /// pass of their own: see [`Epilogue::of_sums`].
    pub(crate) fn without_residual(self) -> Epilogue<'a> {
        match self.residual {
            Some(_) => Epilogue::new(self.bias, Activation::None),
            None => self,
        }
    }

    /// Adds the residuals from `at` on to results and applies the activation, in place.
    #[inline(always)]
    pub(crate) fn of_sums<V: Vector>(&self, v: V, at: usize, results: &mut [f32]) {
        let Some(residual) = self.residual else { return };
        let residual = &residual[at..][..results.len()];
        let least = self.activation.floor();
        let floor = v.splat(least);
        let mut sums = results.chunks_exact_mut(LANES);
        let mut residual = residual.chunks_exact(LANES);
        for (sum, residual) in (&mut sums).zip(&mut residual) {
            v.store(sum, v.max(floor, v.add(v.load(sum), v.load(residual))));
        }
        let rest = sums.into_remainder().iter_mut().zip(residual.remainder());
        for (y, r) in rest {
            let sum = *y + r;
            // NaN stays, as in the registers.
            *y = if sum < least { least } else { sum };
        }
        if let Some(activation) = self.activation.afterwards() {
            activation.of_slice(v.target(), results);
        }
    }

    /// The bias of `rows` rows, zeros where there is none, padded so that kernels may read a register from any row on.
    ///
    /// # Panics
    /// Where there is a bias of another length: callers check shapes.
    pub(super) fn padded_bias(&self, rows: usize) -> Buffer {
        let mut padded = Buffer::zeroed(rows + LANES);
        if let Some(bias) = self.bias {
            assert_eq!(bias.len(), rows, "epilogue: the bias does not fit the rows");
            padded[..rows].copy_from_slice(bias);
        }
        padded
    }

    /// Bias and activation, one result row after another: for kernels that only multiply.
    pub(crate) fn of_rows(&self, target: Target, results: &mut [f32], width: usize) {
        if let Some(bias) = self.bias {
            for (results, bias) in results.chunks_exact_mut(width.max(1)).zip(bias) {
                results.iter_mut().for_each(|y| *y += bias);
            }
        }
        self.activation.of_slice(target, results);
    }

    /// As [`Epilogue::of_rows`] where the results of all rows lie side by side.
    pub(crate) fn of_columns(&self, target: Target, results: &mut [f32], rows: usize) {
        if let Some(bias) = self.bias {
            for results in results.chunks_exact_mut(rows.max(1)) {
                results.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
        }
        self.activation.of_slice(target, results);
    }
}
