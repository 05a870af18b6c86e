//! One column: y = W · x, a dot product a row. What kernels need of `x`, and the loop over tasks that they share.

use super::Format;
use super::epilogue::Epilogue;
use crate::executor::{Executor, for_each_chunk};
use crate::simd::{Buffer, Kernel, LANES, Target, Vector, dispatch};

/// The vector of a matrix-vector product, zero-padded to whole registers.
#[derive(Clone, Copy)]
pub struct Dot<'a>(&'a [f32]);

impl<'a> Dot<'a> {
    /// The padded values: at least one a column, and whole registers.
    #[inline(always)]
    pub fn values(self) -> &'a [f32] {
        self.0
    }
}

/// A packed matrix that knows the dot products of its rows with a vector.
pub trait RowDots: Format + Sync {
    /// `out[i]` = row `first + i` · x, summed in one order whatever `first` and the length of `out`.
    fn dots<V: Vector>(&self, v: V, x: Dot<'_>, first: usize, out: &mut [f32]);
}

/// Rows in a task.
const TASK_ROWS: usize = 64;

/// `y = activation(matrix · x + bias)`.
///
/// # Panics
/// Where `x`, `y` or the bias do not fit the matrix: callers check shapes.
pub fn multiply<M: RowDots>(
    matrix: &M,
    executor: &dyn Executor,
    target: Target,
    x: &[f32],
    y: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    assert!(matrix.shape() == (y.len(), x.len()), "multiply: a vector does not fit the matrix");
    assert!(epilogue.bias.is_none_or(|bias| bias.len() >= y.len()), "multiply: the bias is too small");
    let mut padded = Buffer::zeroed(x.len().next_multiple_of(LANES));
    padded[..x.len()].copy_from_slice(x);
    let x = Dot(&padded);
    for_each_chunk(executor, y, TASK_ROWS, &|task, out| {
        dispatch(target, Rows { matrix, x, first: task * TASK_ROWS, out, epilogue });
    });
}

/// One task.
struct Rows<'a, M: RowDots> {
    matrix: &'a M,
    x: Dot<'a>,
    first: usize,
    out: &'a mut [f32],
    epilogue: Epilogue<'a>,
}

impl<M: RowDots> Kernel for Rows<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        self.matrix.dots(v, self.x, self.first, self.out);
        for (row, out) in (self.first..).zip(self.out) {
            *out = self.epilogue.activation.of(*out + self.epilogue.bias.map_or(0.0, |bias| bias[row]));
        }
    }
}
