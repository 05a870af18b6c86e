//! Training operators on C-contiguous float32 arrays; images are channels-last here, `secateur.nn` shows them as NCHW.

use crate::arrays::{slice, uninitialized};
use crate::errors::to_py;
use numpy::{
    PyArray1, PyArray2, PyArray4, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray4,
    PyReadonlyArrayDyn, PyReadwriteArrayDyn, PyUntypedArrayMethods,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use secateur_core::executor;
use secateur_core::formats::dense::{Matrix, gemm};
use secateur_core::train::conv::Backward;
use secateur_core::train::grouped::Grouped;
use secateur_core::train::optimizer::{Adam, Parameter, Sgd};
use secateur_core::train::pool::Pool;
use secateur_core::train::window::Window;

type Images<'py> = PyReadonlyArray4<'py, f32>;
type Pair = (usize, usize);
type Pads = (usize, usize, usize, usize);

fn wrong(message: String) -> PyErr {
    PyValueError::new_err(message)
}

/// A contiguous argument's elements.
macro_rules! slice {
    ($array:ident) => {
        slice(stringify!($array), &$array)?
    };
}

/// As `slice!`, writable.
macro_rules! slice_mut {
    ($array:ident) => {{
        let wrong = || wrong(format!("{}: expected a C-contiguous array", stringify!($array)));
        if !$array.is_c_contiguous() {
            return Err(wrong());
        }
        $array.as_slice_mut().map_err(|_| wrong())?
    }};
}

/// `a @ b`, of transposed operands where asked for, plus a row vector.
#[pyfunction]
#[pyo3(signature = (a, b, bias=None, transpose_a=false, transpose_b=false))]
fn matmul<'py>(
    py: Python<'py>,
    a: PyReadonlyArray2<'py, f32>,
    b: PyReadonlyArray2<'py, f32>,
    bias: Option<PyReadonlyArray1<'py, f32>>,
    transpose_a: bool,
    transpose_b: bool,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let view = |shape: &[usize], transpose: bool| if transpose { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
    let ((m, k), (depth, n)) = (view(a.shape(), transpose_a), view(b.shape(), transpose_b));
    if k != depth {
        return Err(wrong(format!("b: expected {k} rows to multiply with, got {depth}")));
    }
    let bias = match &bias {
        Some(bias) => Some(slice!(bias)),
        None => None,
    };
    if bias.is_some_and(|bias| bias.len() != n) {
        return Err(wrong(format!("bias: expected {n} elements")));
    }
    let (x, y) = (Matrix::row_major(slice!(a), a.shape()[1]), Matrix::row_major(slice!(b), b.shape()[1]));
    let x = if transpose_a { x.transposed() } else { x };
    let y = if transpose_b { y.transposed() } else { y };
    // `gemm` overwrites every element where beta is 0; with a bias all rows are written first.
    let out = uninitialized(py, [m, n])?;
    let mut writable = out.readwrite();
    let c = slice_mut!(writable);
    py.detach(|| {
        if let Some(bias) = bias.filter(|bias| !bias.is_empty()) {
            c.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(bias));
        }
        gemm(&*executor::current(), (m, k, n), x, y, if bias.is_some() { 1.0 } else { 0.0 }, c);
    });
    drop(writable);
    Ok(out)
}

/// The convolution of `x` with filters of `weight`, and the shape of its output.
fn convolution(
    x: &[usize],
    weight: &[usize],
    (strides, dilation, groups): (Pair, Pair, usize),
    pads: Pads,
) -> PyResult<(Grouped, [usize; 4])> {
    let window = Window::new((x[1], x[2]), (weight[2], weight[3]), strides, dilation, pads).map_err(to_py)?;
    let conv = Grouped::new(window, x[0], x[3], weight[0], groups).map_err(to_py)?;
    if weight[1] != x[3] / groups {
        return Err(wrong(format!("weight: expected {} input channels, got {}", x[3] / groups, weight[1])));
    }
    let (height, width) = window.output();
    Ok((conv, [x[0], height, width, weight[0]]))
}

/// `x` (n, h, w, c) convolved with `weight` (o, c / groups, kh, kw); pads are top, left, bottom, right.
#[pyfunction]
#[pyo3(signature = (x, weight, bias, strides, dilation, groups, pads, relu=false))]
#[expect(clippy::too_many_arguments, reason = "the arrays and the geometry of one convolution")]
fn conv2d<'py>(
    py: Python<'py>,
    x: Images<'py>,
    weight: Images<'py>,
    bias: Option<PyReadonlyArray1<'py, f32>>,
    strides: Pair,
    dilation: Pair,
    groups: usize,
    pads: Pads,
    relu: bool,
) -> PyResult<Bound<'py, PyArray4<f32>>> {
    let (conv, shape) = convolution(x.shape(), weight.shape(), (strides, dilation, groups), pads)?;
    let bias = match &bias {
        Some(bias) => Some(slice!(bias)),
        None => None,
    };
    if bias.is_some_and(|bias| bias.len() != shape[3]) {
        return Err(wrong(format!("bias: expected {} elements", shape[3])));
    }
    let (x, weight) = (slice!(x), slice!(weight));
    let out = uninitialized(py, shape)?;
    let mut writable = out.readwrite();
    let y = slice_mut!(writable);
    py.detach(|| conv.forward(&*executor::current(), x, weight, bias, relu, y));
    drop(writable);
    Ok(out)
}

type Gradients<'py> = (Option<Bound<'py, PyArray4<f32>>>, Bound<'py, PyArray4<f32>>, Bound<'py, PyArray1<f32>>);

/// The gradients of `conv2d` with respect to the input (None unless asked for), the weights and the bias;
/// `relu_output` is the output where it was clamped at 0.
#[pyfunction]
#[pyo3(signature = (x, weight, dy, relu_output, strides, dilation, groups, pads, need_dx=true))]
#[expect(clippy::too_many_arguments, reason = "the arrays and the geometry of one convolution")]
fn conv2d_backward<'py>(
    py: Python<'py>,
    x: Images<'py>,
    weight: Images<'py>,
    dy: Images<'py>,
    relu_output: Option<Images<'py>>,
    strides: Pair,
    dilation: Pair,
    groups: usize,
    pads: Pads,
    need_dx: bool,
) -> PyResult<Gradients<'py>> {
    let (conv, shape) = convolution(x.shape(), weight.shape(), (strides, dilation, groups), pads)?;
    if dy.shape() != shape {
        return Err(wrong(format!("dy: expected shape {shape:?}, got {:?}", dy.shape())));
    }
    if let Some(y) = relu_output.as_ref().filter(|y| y.shape() != shape) {
        return Err(wrong(format!("relu_output: expected shape {shape:?}, got {:?}", y.shape())));
    }
    let dx =
        need_dx.then(|| uninitialized(py, [x.shape()[0], x.shape()[1], x.shape()[2], x.shape()[3]])).transpose()?;
    let filters = weight.shape()[0];
    let dw = uninitialized(py, [filters, weight.shape()[1], weight.shape()[2], weight.shape()[3]])?;
    let db = uninitialized(py, filters)?;
    let (mut gx, mut gw, mut gb) = (dx.as_ref().map(|dx| dx.readwrite()), dw.readwrite(), db.readwrite());
    let relu_output = match &relu_output {
        Some(relu_output) => Some(slice!(relu_output)),
        None => None,
    };
    let from = Backward { x: slice!(x), weight: slice!(weight), dy: slice!(dy), relu_output };
    let out_x = match &mut gx {
        Some(gx) => Some(slice_mut!(gx)),
        None => None,
    };
    let (out_w, out_b) = (slice_mut!(gw), slice_mut!(gb));
    py.detach(|| conv.backward(&*executor::current(), from, out_x, out_w, out_b));
    drop((gx, gw, gb));
    Ok((dx, dw, db))
}

fn pooling(x: &[usize], pool_size: Pair, strides: Pair, pads: Pads) -> PyResult<(Pool, [usize; 4])> {
    let window = Window::new((x[1], x[2]), pool_size, strides, (1, 1), pads).map_err(to_py)?;
    let (height, width) = window.output();
    Ok((Pool::new(window, x[0], x[3]).map_err(to_py)?, [x[0], height, width, x[3]]))
}

type Maxima<'py> = (Bound<'py, PyArray4<f32>>, Bound<'py, PyArray4<u16>>);

/// The maximum of every window of `x` (n, h, w, c), and its place in the window.
#[pyfunction]
fn max_pool<'py>(py: Python<'py>, x: Images<'py>, pool_size: Pair, strides: Pair, pads: Pads) -> PyResult<Maxima<'py>> {
    let (pool, shape) = pooling(x.shape(), pool_size, strides, pads)?;
    let x = slice!(x);
    let (out, places) = (uninitialized(py, shape)?, uninitialized(py, shape)?);
    let (mut y, mut place) = (out.readwrite(), places.readwrite());
    let (to, place_to) = (slice_mut!(y), slice_mut!(place));
    py.detach(|| pool.max(&*executor::current(), x, to, place_to));
    drop((y, place));
    Ok((out, places))
}

/// The gradient of `max_pool` with respect to an input of `shape`.
#[pyfunction]
fn max_pool_backward<'py>(
    py: Python<'py>,
    dy: Images<'py>,
    place: PyReadonlyArray4<'py, u16>,
    shape: [usize; 4],
    pool_size: Pair,
    strides: Pair,
    pads: Pads,
) -> PyResult<Bound<'py, PyArray4<f32>>> {
    let (pool, output) = pooling(&shape, pool_size, strides, pads)?;
    if dy.shape() != output || place.shape() != output {
        return Err(wrong(format!("dy: expected shape {output:?}, got {:?}", dy.shape())));
    }
    let (dy, place) = (slice!(dy), slice!(place));
    let out = uninitialized(py, shape)?;
    let mut writable = out.readwrite();
    let dx = slice_mut!(writable);
    py.detach(|| pool.max_backward(&*executor::current(), dy, place, dx));
    drop(writable);
    Ok(out)
}

/// The average of every window of `x` (n, h, w, c); padding does not count.
#[pyfunction]
fn average_pool<'py>(
    py: Python<'py>,
    x: Images<'py>,
    pool_size: Pair,
    strides: Pair,
    pads: Pads,
) -> PyResult<Bound<'py, PyArray4<f32>>> {
    let (pool, shape) = pooling(x.shape(), pool_size, strides, pads)?;
    let x = slice!(x);
    let out = uninitialized(py, shape)?;
    let mut writable = out.readwrite();
    let y = slice_mut!(writable);
    py.detach(|| pool.average(&*executor::current(), x, y));
    drop(writable);
    Ok(out)
}

/// The gradient of `average_pool` with respect to an input of `shape`.
#[pyfunction]
fn average_pool_backward<'py>(
    py: Python<'py>,
    dy: Images<'py>,
    shape: [usize; 4],
    pool_size: Pair,
    strides: Pair,
    pads: Pads,
) -> PyResult<Bound<'py, PyArray4<f32>>> {
    let (pool, output) = pooling(&shape, pool_size, strides, pads)?;
    if dy.shape() != output {
        return Err(wrong(format!("dy: expected shape {output:?}, got {:?}", dy.shape())));
    }
    let dy = slice!(dy);
    let out = uninitialized(py, shape)?;
    let mut writable = out.readwrite();
    let dx = slice_mut!(writable);
    py.detach(|| pool.average_backward(&*executor::current(), dy, dx));
    drop(writable);
    Ok(out)
}

type Floats<'py> = PyReadwriteArrayDyn<'py, f32>;

/// Refuses arrays of another shape than the weights'.
fn same_shape(weight: &Floats<'_>, others: &[(&str, &[usize])]) -> PyResult<()> {
    match others.iter().find(|(_, shape)| *shape != weight.shape()) {
        Some((name, shape)) => {
            Err(wrong(format!("{name}: expected the weights' shape {:?}, got {shape:?}", weight.shape())))
        }
        None => Ok(()),
    }
}

/// One step of Adam, in place: step number `step` counts from 1.
#[pyfunction]
#[pyo3(signature = (weight, gradient, m, v, mask, *, step, learning_rate, beta1, beta2, epsilon))]
#[expect(clippy::too_many_arguments, reason = "the arrays and hyperparameters of one update")]
fn adam_step<'py>(
    py: Python<'py>,
    mut weight: Floats<'py>,
    gradient: PyReadonlyArrayDyn<'py, f32>,
    mut m: Floats<'py>,
    mut v: Floats<'py>,
    mask: Option<PyReadonlyArrayDyn<'py, bool>>,
    step: i32,
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
) -> PyResult<()> {
    same_shape(&weight, &[("gradient", gradient.shape()), ("m", m.shape()), ("v", v.shape())])?;
    let mask = match &mask {
        Some(mask) => {
            same_shape(&weight, &[("mask", mask.shape())])?;
            Some(slice!(mask))
        }
        None => None,
    };
    let adam = Adam {
        rate: (learning_rate / (1.0 - beta1.powi(step))) as f32,
        beta1: beta1 as f32,
        beta2: beta2 as f32,
        root: (1.0 / (1.0 - beta2.powi(step)).sqrt()) as f32,
        epsilon: epsilon as f32,
    };
    let parameter = Parameter { weight: slice_mut!(weight), gradient: slice!(gradient), mask };
    let (m, v) = (slice_mut!(m), slice_mut!(v));
    py.detach(|| adam.step(&*executor::current(), parameter, m, v));
    Ok(())
}

/// One step of stochastic gradient descent with momentum, in place.
#[pyfunction]
#[pyo3(signature = (weight, gradient, velocity, mask, *, learning_rate, momentum, nesterov))]
#[expect(clippy::too_many_arguments, reason = "the arrays and hyperparameters of one update")]
fn sgd_step<'py>(
    py: Python<'py>,
    mut weight: Floats<'py>,
    gradient: PyReadonlyArrayDyn<'py, f32>,
    mut velocity: Floats<'py>,
    mask: Option<PyReadonlyArrayDyn<'py, bool>>,
    learning_rate: f64,
    momentum: f64,
    nesterov: bool,
) -> PyResult<()> {
    same_shape(&weight, &[("gradient", gradient.shape()), ("velocity", velocity.shape())])?;
    let mask = match &mask {
        Some(mask) => {
            same_shape(&weight, &[("mask", mask.shape())])?;
            Some(slice!(mask))
        }
        None => None,
    };
    let sgd = Sgd { rate: learning_rate as f32, momentum: momentum as f32, nesterov };
    let parameter = Parameter { weight: slice_mut!(weight), gradient: slice!(gradient), mask };
    let velocity = slice_mut!(velocity);
    py.detach(|| sgd.step(&*executor::current(), parameter, velocity));
    Ok(())
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(matmul, m)?)?;
    m.add_function(wrap_pyfunction!(conv2d, m)?)?;
    m.add_function(wrap_pyfunction!(conv2d_backward, m)?)?;
    m.add_function(wrap_pyfunction!(max_pool, m)?)?;
    m.add_function(wrap_pyfunction!(max_pool_backward, m)?)?;
    m.add_function(wrap_pyfunction!(average_pool, m)?)?;
    m.add_function(wrap_pyfunction!(average_pool_backward, m)?)?;
    m.add_function(wrap_pyfunction!(adam_step, m)?)?;
    m.add_function(wrap_pyfunction!(sgd_step, m)?)?;
    Ok(())
}
