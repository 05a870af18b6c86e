//! NumPy arrays in and out. Inputs may have any layout and real dtype; what the core sees is contiguous float32.

use numpy::ndarray::{Dimension, IntoDimension};
use numpy::npyffi::{PY_ARRAY_API, npy_intp};
use numpy::{
    Element, PyArray, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyReadonlyArray, PyReadonlyArrayDyn,
    PyReadwriteArrayDyn, PyUntypedArrayMethods,
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

/// A new array of zeros in C order, or NumPy's error: a MemoryError where there is no room for it. (The numpy crate's own panics.)
pub fn zeros<T: Element, D: Dimension>(
    py: Python<'_>,
    shape: impl IntoDimension<Dim = D>,
) -> PyResult<Bound<'_, PyArray<T, D>>> {
    create(py, shape.into_dimension(), true)
}

/// As [`zeros`]; the elements are whatever was there. The caller overwrites them, all, before it or Python reads one.
pub fn uninitialized<T: Element, D: Dimension>(
    py: Python<'_>,
    shape: impl IntoDimension<Dim = D>,
) -> PyResult<Bound<'_, PyArray<T, D>>> {
    create(py, shape.into_dimension(), false)
}

fn create<T: Element, D: Dimension>(py: Python<'_>, shape: D, zeroed: bool) -> PyResult<Bound<'_, PyArray<T, D>>> {
    let mut sizes: Vec<npy_intp> = shape.slice().iter().map(|&size| size as npy_intp).collect();
    let (axes, sizes, dtype) = (sizes.len() as i32, sizes.as_mut_ptr(), T::get_dtype(py).into_dtype_ptr());
    // SAFETY: `sizes` has `axes` elements and outlives the call, which takes over the reference to the dtype. What it returns
    // is a new reference to an array of this dtype and as many axes, or null with an error set.
    unsafe {
        let array = match zeroed {
            true => PY_ARRAY_API.PyArray_Zeros(py, axes, sizes, dtype, 0),
            false => PY_ARRAY_API.PyArray_Empty(py, axes, sizes, dtype, 0),
        };
        Ok(Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked())
    }
}

/// The argument `name` as an array to write to: C-contiguous float32 of this shape, apart from the call's inputs.
fn output<'py>(
    name: &str,
    value: &Bound<'py, PyAny>,
    shape: &[usize],
    inputs: &[&[f32]],
) -> PyResult<PyReadwriteArrayDyn<'py, f32>> {
    let array = value
        .cast::<PyArrayDyn<f32>>()
        .map_err(|_| PyTypeError::new_err(format!("{name}: expected a float32 array to write to")))?;
    if array.shape() != shape {
        return Err(PyValueError::new_err(format!("{name}: expected shape {shape:?}, got {:?}", array.shape())));
    }
    if !array.is_c_contiguous() {
        return Err(PyValueError::new_err(format!("{name}: expected a C-contiguous array")));
    }
    // The numpy crate knows the views of one array; two arrays may lie over one buffer as well.
    let bytes = |start: *const f32, len: usize| start as usize..start as usize + len * size_of::<f32>();
    let written = bytes(array.data(), array.len());
    let read = |input: &&[f32]| bytes(input.as_ptr(), input.len());
    if inputs.iter().map(read).any(|read| read.start.max(written.start) < read.end.min(written.end)) {
        return Err(PyValueError::new_err(format!("{name}: overlaps an input")));
    }
    array.try_readwrite().map_err(|_| PyValueError::new_err(format!("{name}: read-only, or overlaps an input")))
}

/// The argument `out`, or a new array of this shape, after `fill` has written it; from `inputs`, which `out` may not overlap.
pub fn filled<'py>(
    py: Python<'py>,
    out: Option<&Bound<'py, PyAny>>,
    shape: &[usize],
    inputs: &[&[f32]],
    fill: impl FnOnce(&mut [f32]) -> PyResult<()>,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    match out {
        Some(out) => {
            fill(output("out", out, shape, inputs)?.as_slice_mut()?)?;
            Ok(out.clone().cast_into::<PyArrayDyn<f32>>()?)
        }
        None => {
            let array = zeros(py, shape)?;
            // SAFETY: nobody else has seen the new array.
            fill(unsafe { array.as_slice_mut()? })?;
            Ok(array)
        }
    }
}
