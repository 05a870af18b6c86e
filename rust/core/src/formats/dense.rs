//! Dense matrices through the `gemm` crate: the baseline that every packed format has to beat.

use super::shared::Shared;
use crate::executor::Executor;

/// A strided view of a float matrix: element (i, j) is at `data[i * rows_by + j * columns_by]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// The elements, from (0, 0) on.
    pub data: &'a [f32],
    /// Distance between rows, in elements.
    pub rows_by: usize,
    /// Distance between columns, in elements.
    pub columns_by: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix with rows of `width`.
    pub fn row_major(data: &'a [f32], width: usize) -> Self {
        Matrix { data, rows_by: width, columns_by: 1 }
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Matrix { data: self.data, rows_by: self.columns_by, columns_by: self.rows_by }
    }

    /// Whether every element of an `m` × `n` view lies inside `data`.
    fn holds(&self, m: usize, n: usize) -> bool {
        m == 0 || n == 0 || (m - 1) * self.rows_by + (n - 1) * self.columns_by < self.data.len()
    }
}

/// Parts that a large product is cut into: enough for a few threads, few enough that packing an operand anew for each
/// costs little. Fixed by the shape, so that the summation order of an element never depends on the number of threads.
const PARTS: usize = 8;
/// Multiply-adds in a part at least.
const PART_WORK: usize = 1 << 20;

/// `c = a · b + beta · c`, with `a` m × k, `b` k × n and `c` row-major m × n, contiguous.
///
/// # Panics
/// Where a view is smaller than its shape: callers check shapes.
pub fn gemm(
    executor: &dyn Executor,
    (m, k, n): (usize, usize, usize),
    a: Matrix<'_>,
    b: Matrix<'_>,
    beta: f32,
    c: &mut [f32],
) {
    assert!(a.holds(m, k) && b.holds(k, n) && c.len() == m * n, "gemm: a view is smaller than its shape");
    if c.is_empty() {
        return;
    }
    // The longer side is cut, in whole tiles of any kernel.
    let parts = (m * n * k / PART_WORK).clamp(1, PARTS);
    let by_rows = m >= n;
    let part = m.max(n).div_ceil(parts).next_multiple_of(48);
    let output = Shared::new(c);
    executor.run(m.max(n).div_ceil(part), &|task| {
        let from = task * part;
        let (i, j) = if by_rows { (from, 0) } else { (0, from) };
        let (rows, columns) = if by_rows { (part.min(m - i), n) } else { (m, part.min(n - j)) };
        // SAFETY: the views hold their shapes (asserted above), this block lies inside them, and no two tasks share a
        // block of `c`, which outlives `run`.
        unsafe {
            gemm::gemm(
                rows,
                columns,
                k,
                output.get().add(i * n + j),
                1,
                n as isize,
                beta != 0.0,
                a.data.as_ptr().add(if k == 0 { 0 } else { i * a.rows_by }),
                a.columns_by as isize,
                a.rows_by as isize,
                b.data.as_ptr().add(if k == 0 { 0 } else { j * b.columns_by }),
                b.columns_by as isize,
                b.rows_by as isize,
                beta,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::with_threads;

    #[test]
    fn integers_are_exact_for_every_shape_and_stride() {
        for (m, k, n) in [(0, 3, 2), (3, 0, 2), (1, 1, 1), (5, 7, 3), (65, 33, 513), (130, 9, 31)] {
            let a: Vec<f32> = (0..m * k).map(|i| (i % 7) as f32 - 3.0).collect();
            let b: Vec<f32> = (0..k * n).map(|i| (i % 5) as f32 - 2.0).collect();
            let mut wanted = vec![1.0f32; m * n];
            for i in 0..m {
                for j in 0..n {
                    wanted[i * n + j] += (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum::<f32>();
                }
            }
            let transposed: Vec<f32> = (0..k * n).map(|i| b[i % k * n + i / k]).collect();
            for threads in [1, 2] {
                let mut c = vec![1.0f32; m * n];
                let view = Matrix::row_major(&a, k);
                gemm(&*with_threads(threads), (m, k, n), view, Matrix::row_major(&b, n), 1.0, &mut c);
                assert_eq!(c, wanted);
                c.fill(1.0);
                let flipped = Matrix::row_major(&transposed, k).transposed();
                gemm(&*with_threads(threads), (m, k, n), view, flipped, 1.0, &mut c);
                assert_eq!(c, wanted);
            }
        }
    }
}
