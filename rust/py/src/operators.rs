//! Operators on arrays, for what runs of a graph around its plans.

use crate::arrays;
use numpy::{PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use secateur_core::executor::{self, Executor, for_each_chunk};
use secateur_core::formats::dense::{Matrix, gemm};
use secateur_core::ops::Operator;
use secateur_core::ops::features::{LayerNorm, Softmax};
use secateur_core::simd::Target;
use std::sync::Arc;

fn executor(threads: Option<usize>) -> Arc<dyn Executor> {
    threads.map_or_else(executor::current, executor::with_threads)
}

/// Runs an operator from an array to another of its shape.
fn alike<'py>(
    py: Python<'py>,
    x: &PyReadonlyArrayDyn<'py, f32>,
    threads: Option<usize>,
    operator: &dyn Operator,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    arrays::filled(py, None, x.shape(), &[], |y| {
        let (x, executor) = (x.as_slice()?, executor(threads));
        py.detach(|| operator.run(&*executor, &[x], y, &mut []));
        Ok(())
    })
}

/// Softmax over the last axis.
#[pyfunction]
fn softmax<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let x = arrays::floats("x", x)?;
    let features = x.shape().last().copied().unwrap_or(1);
    alike(py, &x, threads, &Softmax { features, target: Target::detect() })
}

/// Normalization over the last axis.
#[pyfunction]
fn layer_norm<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    scale: &Bound<'py, PyAny>,
    shift: &Bound<'py, PyAny>,
    epsilon: f32,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let x = arrays::floats("x", x)?;
    let (scale, shift) = (arrays::floats("scale", scale)?, arrays::floats("shift", shift)?);
    let (scale, shift) = (scale.as_slice()?.to_vec(), shift.as_slice()?.to_vec());
    if x.shape().last() != Some(&scale.len()) || scale.len() != shift.len() {
        let message = format!("scale: {} factors and {} summands for shape {:?}", scale.len(), shift.len(), x.shape());
        return Err(PyValueError::new_err(message));
    }
    alike(py, &x, threads, &LayerNorm { scale, shift, epsilon, target: Target::detect() })
}

/// Matrices that follow each other, each at some offset in one stretch of memory.
struct Stack<'a> {
    data: &'a [f32],
    /// Of the first axis, rows, and columns, in elements.
    steps: [usize; 3],
}

impl<'a> Stack<'a> {
    fn matrix(&self, index: usize) -> Matrix<'a> {
        let [step, rows_by, columns_by] = self.steps;
        Matrix { data: &self.data[index * step..], rows_by, columns_by }
    }
}

/// A (stack, rows, columns) array as it lies, or a copy in C order where it does not lie in such steps.
fn stack<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<(PyReadonlyArrayDyn<'py, f32>, [usize; 3])> {
    let array = match value.cast::<PyArrayDyn<f32>>() {
        Ok(array) if array.ndim() == 3 && is_forward(array) => array.try_readonly()?,
        _ => arrays::floats(name, value)?,
    };
    if array.ndim() != 3 {
        return Err(PyValueError::new_err(format!("{name}: expected three axes, got {}", array.ndim())));
    }
    let steps = array.strides().iter().map(|&bytes| bytes as usize / size_of::<f32>());
    let steps = steps.collect::<Vec<_>>().try_into().unwrap_or_default();
    Ok((array, steps))
}

fn is_forward(array: &Bound<'_, PyArrayDyn<f32>>) -> bool {
    let size = size_of::<f32>() as isize;
    array.strides().iter().all(|&bytes| bytes >= 0 && bytes % size == 0)
        && (array.data() as usize).is_multiple_of(align_of::<f32>())
}

/// The products of matrices, (stack, m, k) times (stack, k, n).
#[pyfunction]
fn matmul_stack<'py>(
    py: Python<'py>,
    a: &Bound<'py, PyAny>,
    b: &Bound<'py, PyAny>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let ((a, a_steps), (b, b_steps)) = (stack("a", a)?, stack("b", b)?);
    let (&[count, m, k], &[other, inner, n]) = (a.shape(), b.shape()) else {
        return Err(PyValueError::new_err("a: expected three axes"));
    };
    if count != other || k != inner {
        return Err(PyValueError::new_err(format!("b: {:?} does not go with {:?}", b.shape(), a.shape())));
    }
    let (a, b) = (Stack { data: whole(&a), steps: a_steps }, Stack { data: whole(&b), steps: b_steps });
    arrays::filled(py, None, &[count, m, n], &[], |c| {
        if m * n == 0 || k == 0 {
            return Ok(());
        }
        let executor = executor(threads);
        py.detach(|| match count {
            1 => gemm(&*executor, (m, k, n), a.matrix(0), b.matrix(0), 0.0, c),
            _ => for_each_chunk(&*executor, c, m * n, &|index, c| {
                gemm(&executor::Sequential, (m, k, n), a.matrix(index), b.matrix(index), 0.0, c);
            }),
        });
        Ok(())
    })
}

/// The memory from an array's first element to its last, whose steps are not negative.
fn whole<'a>(array: &'a PyReadonlyArrayDyn<'_, f32>) -> &'a [f32] {
    if array.is_empty() {
        return &[];
    }
    let last = array.shape().iter().zip(array.strides()).map(|(&n, &bytes)| (n - 1) * bytes as usize).sum::<usize>();
    // SAFETY: the array holds its elements, the last of which lies so many bytes behind the first: `stack` checked that no
    // step is negative and that all are whole floats. It is borrowed for reading as long as the slice lives.
    unsafe { std::slice::from_raw_parts(array.data(), last / size_of::<f32>() + 1) }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(softmax, m)?)?;
    m.add_function(wrap_pyfunction!(layer_norm, m)?)?;
    m.add_function(wrap_pyfunction!(matmul_stack, m)?)?;
    Ok(())
}
