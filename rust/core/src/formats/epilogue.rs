//! What happens to a result before it is stored: bias, another result, then activation.

use crate::argument;
use crate::error::Result;
use crate::simd::{Buffer, LANES, Vector};

/// The activations that a kernel can fuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// max(x, 0).
    Relu,
    /// The hyperbolic tangent, within 2 ulp of the exact one.
    Tanh,
    /// 1 / (1 + exp(−x)), within 4 ulp of the exact one.
    Sigmoid,
}

impl Activation {
    /// The names that [`Activation::parse`] knows.
    pub const NAMES: [&'static str; 3] = ["relu", "tanh", "sigmoid"];

    /// The activation of that name.
    pub fn parse(name: &str) -> Result<Activation> {
        match name {
            "relu" => Ok(Activation::Relu),
            "tanh" => Ok(Activation::Tanh),
            "sigmoid" => Ok(Activation::Sigmoid),
            _ => Err(argument!("activation: unknown name {name:?}; choose from {}", Activation::NAMES.join(", "))),
        }
    }

    /// The name, `none` for the identity.
    pub fn name(self) -> &'static str {
        match self {
            Activation::None => "none",
            Activation::Relu => "relu",
            Activation::Tanh => "tanh",
            Activation::Sigmoid => "sigmoid",
        }
    }

    /// The activation of one value.
    #[inline(always)]
    pub fn of(self, x: f32) -> f32 {
        match self {
            Activation::None => x,
            // Not f32::max: the vector targets return the second operand for equal and unordered ones.
            Activation::Relu => {
                if x > 0.0 {
                    x
                } else {
                    0.0
                }
            }
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        }
    }

    /// The activation of a register.
    #[inline(always)]
    pub fn of_vector<V: Vector>(self, v: V, x: V::F32) -> V::F32 {
        match self {
            Activation::None => x,
            Activation::Relu => v.max(x, v.splat(0.0)),
            _ => v.with_lanes(v.to_array(x).map(|x| self.of(x))),
        }
    }

    /// What results are clamped to from below as they are stored: ReLU costs nothing that way.
    pub(crate) fn floor(self) -> f32 {
        if self == Activation::Relu { 0.0 } else { f32::NEG_INFINITY }
    }

    /// The activation left to apply to stored results: kernels stay small, and their accumulators in registers.
    pub(crate) fn afterwards(self) -> Option<Activation> {
        Some(self).filter(|kind| matches!(kind, Activation::Tanh | Activation::Sigmoid))
    }

    /// The activation of all values of a slice, in place.
    #[inline(always)]
    pub fn of_slice<V: Vector>(self, v: V, values: &mut [f32]) {
        let mut chunks = values.chunks_exact_mut(LANES);
        for chunk in &mut chunks {
            let x = v.load(chunk);
            v.store(chunk, self.of_vector(v, x));
        }
        chunks.into_remainder().iter_mut().for_each(|x| *x = self.of(*x));
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
        let mut results = results.chunks_exact_mut(LANES);
        let mut residual = residual.chunks_exact(LANES);
        for (results, residual) in (&mut results).zip(&mut residual) {
            let sum = v.add(v.load(results), v.load(residual));
            v.store(results, self.activation.of_vector(v, sum));
        }
        for (y, r) in results.into_remainder().iter_mut().zip(residual.remainder()) {
            *y = self.activation.of(*y + r);
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
    pub(crate) fn of_rows(&self, results: &mut [f32], width: usize) {
        for (row, results) in results.chunks_exact_mut(width.max(1)).enumerate() {
            let bias = self.bias.map_or(0.0, |bias| bias[row]);
            results.iter_mut().for_each(|y| *y = self.activation.of(*y + bias));
        }
    }
}
