//! NumPy arrays in and out. Inputs may have any layout and real dtype; what the core sees is contiguous float32.

use numpy::ndarray::Dimension;
use numpy::{
    Element, PyArrayDyn, PyArrayMethods, PyReadonlyArray, PyReadonlyArrayDyn, PyReadwriteArrayDyn,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// The argument `name` as a C-contiguous float32 array: itself where it is one, else a converted copy.
pub fn floats<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArrayDyn<'py, f32>> {
    if let Ok(array) = value.cast::<PyArrayDyn<f32>>()
        && array.is_c_contiguous()
        && (array.data() as usize).is_multiple_of(align_of::<f32>())
    {
        return readonly(name, array);
    }
    let py = value.py();
    static ASARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let asarray = ASARRAY.get_or_try_init(py, || py.import("numpy")?.getattr("asarray").map(Bound::unbind))?;
    let array = asarray.bind(py).call1((value,))?;
    let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
    if !"fiub".contains(&kind) {
        let dtype = array.getattr("dtype")?;
        return Err(PyTypeError::new_err(format!("{name}: expected real numbers, got dtype {dtype}")));
    }
    static CONVERT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    // `require` also copies misaligned and byte-swapped arrays.
    let convert = CONVERT.get_or_try_init(py, || py.import("numpy")?.getattr("require").map(Bound::unbind))?;
    let converted = convert.bind(py).call1((array, "float32", vec!["C", "A"]))?;
    readonly(name, converted.cast::<PyArrayDyn<f32>>().map_err(|error| PyTypeError::new_err(error.to_string()))?)
}

fn readonly<'py>(name: &str, array: &Bound<'py, PyArrayDyn<f32>>) -> PyResult<PyReadonlyArrayDyn<'py, f32>> {
    array.try_readonly().map_err(|_| PyValueError::new_err(format!("{name}: the array is being written to elsewhere")))
}

/// The elements of the argument `name`, in C order. (What the numpy crate calls contiguous may be in Fortran order too.)
pub fn slice<'a, T: Element, D: Dimension>(name: &str, array: &'a PyReadonlyArray<'_, T, D>) -> PyResult<&'a [T]> {
    let found = if array.is_c_contiguous() { array.as_slice().ok() } else { None };
    found.ok_or_else(|| PyValueError::new_err(format!("{name}: expected a C-contiguous array")))
}

/// The argument `name` as an array to write to: C-contiguous float32 of this shape, and none of the call's inputs.
fn output<'py>(name: &str, value: &Bound<'py, PyAny>, shape: &[usize]) -> PyResult<PyReadwriteArrayDyn<'py, f32>> {
    let array = value
        .cast::<PyArrayDyn<f32>>()
        .map_err(|_| PyTypeError::new_err(format!("{name}: expected a float32 array to write to")))?;
    if array.shape() != shape {
        return Err(PyValueError::new_err(format!("{name}: expected shape {shape:?}, got {:?}", array.shape())));
    }
    if !array.is_c_contiguous() {
        return Err(PyValueError::new_err(format!("{name}: expected a C-contiguous array")));
    }
    array.try_readwrite().map_err(|_| PyValueError::new_err(format!("{name}: read-only, or overlaps an input")))
}

/// The argument `out`, or a new array of this shape, after `fill` has written it.
pub fn filled<'py>(
    py: Python<'py>,
    out: Option<&Bound<'py, PyAny>>,
    shape: &[usize],
    fill: impl FnOnce(&mut [f32]) -> PyResult<()>,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    match out {
        Some(out) => {
            fill(output("out", out, shape)?.as_slice_mut()?)?;
            Ok(out.clone().cast_into::<PyArrayDyn<f32>>()?)
        }
        None => {
            let array = PyArrayDyn::zeros(py, shape.to_vec(), false);
            // SAFETY: nobody else has seen the new array.
            fill(unsafe { array.as_slice_mut()? })?;
            Ok(array)
        }
    }
}
