//! Recurrent layers through time; arrays are (rows, steps, samples).

use crate::arrays::{slice, zeros};
use crate::errors::to_py;
use crate::formats::PackedMatrix;
use numpy::{PyArray3, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use secateur_core::executor;
use secateur_core::ops::cell::Cell;
use secateur_core::train::recurrent::{self, Forward, Outer, Sizes, Weights, remembered};

type Steps<'py> = PyReadonlyArray3<'py, f32>;
type Made<'py> = Bound<'py, PyArray3<f32>>;

/// Whole weights, or packed ones.
#[derive(FromPyObject)]
enum Matrix<'py> {
    Packed(PyRef<'py, PackedMatrix>),
    Dense(PyReadonlyArray2<'py, f32>),
}

impl Matrix<'_> {
    fn shape(&self) -> (usize, usize) {
        match self {
            Matrix::Packed(matrix) => matrix.shape(),
            Matrix::Dense(array) => (array.shape()[0], array.shape()[1]),
        }
    }

    /// Calls `work` with the weights, without the GIL.
    fn with<R: Send>(&self, py: Python<'_>, work: impl FnOnce(Weights<'_>) -> R + Send) -> PyResult<R> {
        match self {
            Matrix::Packed(matrix) => {
                let matrix: &PackedMatrix = matrix;
                Ok(py.detach(|| matrix.with(|matrix| work(Weights::Packed(matrix)))))
            }
            Matrix::Dense(array) => {
                let array = slice("weight", array)?;
                Ok(py.detach(|| work(Weights::Dense(array))))
            }
        }
    }
}

fn wrong(message: String) -> PyErr {
    PyValueError::new_err(message)
}

fn sizes(cell: &str, gates: &[usize]) -> PyResult<Sizes> {
    let cell = Cell::parse(cell).map_err(to_py)?;
    let &[rows, steps, samples] = gates else { return Err(wrong("gates: expected 3 dimensions".into())) };
    if !rows.is_multiple_of(cell.gates()) {
        return Err(wrong(format!("gates: {rows} rows are not {} a unit", cell.gates())));
    }
    Ok(Sizes { cell, units: rows / cell.gates(), steps, samples })
}

fn check(name: &str, shape: &[usize], wanted: &[usize]) -> PyResult<()> {
    if shape == wanted { Ok(()) } else { Err(wrong(format!("{name}: expected shape {wanted:?}, got {shape:?}"))) }
}

fn check_skip(skip: Option<&PyReadonlyArray2<'_, bool>>, sizes: Sizes) -> PyResult<()> {
    skip.map_or(Ok(()), |skip| check("skip", skip.shape(), &[sizes.steps, sizes.samples]))
}

/// From the products with the input (gates · units, steps, samples) to the gates after their activations, the states (units,
/// steps, samples) and what else the gradient needs, an array like the states or one of no rows.
#[pyfunction]
#[pyo3(signature = (cell, x, weight, bias=None, skip=None))]
fn recurrent_forward<'py>(
    py: Python<'py>,
    cell: &str,
    x: Steps<'py>,
    weight: Matrix<'py>,
    bias: Option<PyReadonlyArray1<'py, f32>>,
    skip: Option<PyReadonlyArray2<'py, bool>>,
) -> PyResult<(Made<'py>, Made<'py>, Made<'py>)> {
    let sizes = sizes(cell, x.shape())?;
    let Sizes { cell, units, steps, samples } = sizes;
    let rows = cell.gates() * units;
    let (m, k) = weight.shape();
    check("weight", &[m, k], &[rows, units])?;
    check_skip(skip.as_ref(), sizes)?;
    if let Some(bias) = &bias {
        check("bias", bias.shape(), &[rows])?;
    }
    let made = |rows| zeros(py, [rows, steps, samples]);
    let (gates, states, memory) = (made(rows)?, made(units)?, made(remembered(cell) * units)?);
    {
        let x = slice("x", &x)?;
        let bias = bias.as_ref().map(|bias| slice("bias", bias)).transpose()?;
        let skip = skip.as_ref().map(|skip| slice("skip", skip)).transpose()?;
        let (mut gates, mut states, mut memory) = (gates.readwrite(), states.readwrite(), memory.readwrite());
        let (gates, states) = (gates.as_slice_mut()?, states.as_slice_mut()?);
        let memory = memory.as_slice_mut()?;
        weight.with(py, |weights| {
            recurrent::forward(&*executor::current(), sizes, weights, bias, x, skip, gates, states, memory);
        })?;
    }
    Ok((gates, states, memory))
}

/// From what `recurrent_forward` made and the gradient of the states (`dy`) and of the last ones (`last`), to those of the
/// products with the input, and of a GRU's last products with the state. A packed weight is the transposed one.
#[pyfunction]
#[pyo3(signature = (cell, gates, states, memory, weight, skip=None, dy=None, last=None))]
#[expect(clippy::too_many_arguments, reason = "the arrays of a recurrence")]
fn recurrent_backward<'py>(
    py: Python<'py>,
    cell: &str,
    gates: Steps<'py>,
    states: Steps<'py>,
    memory: Steps<'py>,
    weight: Matrix<'py>,
    skip: Option<PyReadonlyArray2<'py, bool>>,
    dy: Option<Steps<'py>>,
    last: Option<PyReadonlyArray2<'py, f32>>,
) -> PyResult<(Made<'py>, Made<'py>)> {
    let sizes = sizes(cell, gates.shape())?;
    let Sizes { cell, units, steps, samples } = sizes;
    let rows = cell.gates() * units;
    let shape = |rows| [rows, steps, samples];
    check("states", states.shape(), &shape(units))?;
    check("memory", memory.shape(), &shape(remembered(cell) * units))?;
    let (m, k) = weight.shape();
    let wanted = if matches!(weight, Matrix::Packed(_)) { [units, rows] } else { [rows, units] };
    check("weight", &[m, k], &wanted)?;
    check_skip(skip.as_ref(), sizes)?;
    dy.as_ref().map_or(Ok(()), |dy| check("dy", dy.shape(), &shape(units)))?;
    last.as_ref().map_or(Ok(()), |last| check("last", last.shape(), &[units, samples]))?;
    let made = |rows| zeros(py, shape(rows));
    let (dx, du) = (made(rows)?, made(if cell == Cell::Gru { units } else { 0 })?);
    {
        let known = Forward {
            gates: slice("gates", &gates)?,
            states: slice("states", &states)?,
            memory: slice("memory", &memory)?,
        };
        let outer = Outer {
            states: dy.as_ref().map(|dy| slice("dy", dy)).transpose()?,
            last: last.as_ref().map(|last| slice("last", last)).transpose()?,
        };
        let skip = skip.as_ref().map(|skip| slice("skip", skip)).transpose()?;
        let (mut to_x, mut to_u) = (dx.readwrite(), du.readwrite());
        let (to_x, to_u) = (to_x.as_slice_mut()?, to_u.as_slice_mut()?);
        weight.with(py, |weights| {
            recurrent::backward(&*executor::current(), sizes, weights, known, skip, outer, to_x, to_u);
        })?;
    }
    Ok((dx, du))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(recurrent_forward, m)?)?;
    m.add_function(wrap_pyfunction!(recurrent_backward, m)?)?;
    Ok(())
}
