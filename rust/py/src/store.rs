//! Arrays, masks and metadata to the bytes of a file and back.

use crate::errors::to_py;
use numpy::{Element, IntoPyArray, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use secateur_core::mask::Mask;
use secateur_core::store::{self, Tensor, Values};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

type Metadata = BTreeMap<String, String>;

/// An array argument as NumPy itself lays it out in C order, in native byte order, aligned.
enum Held<'py> {
    F32(PyReadonlyArrayDyn<'py, f32>),
    F64(PyReadonlyArrayDyn<'py, f64>),
    I64(PyReadonlyArrayDyn<'py, i64>),
    U8(PyReadonlyArrayDyn<'py, u8>),
    Bool(PyReadonlyArrayDyn<'py, u8>),
}

impl<'py> Held<'py> {
    fn of(value: &Bound<'py, PyAny>, what: &str) -> PyResult<(Self, Vec<usize>)> {
        fn ready<'py, T: Element>(value: &Bound<'py, PyAny>) -> PyResult<Option<PyReadonlyArrayDyn<'py, T>>> {
            let Ok(array) = value.cast::<PyArrayDyn<T>>() else { return Ok(None) };
            if array.is_c_contiguous() && array.is_aligned() {
                return Ok(Some(array.try_readonly()?));
            }
            Ok(Some(value.call_method1("copy", ("C",))?.cast::<PyArrayDyn<T>>()?.try_readonly()?))
        }
        let shape = match value.getattr("shape") {
            Ok(shape) => shape.extract().unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let held = if let Some(array) = ready(value)? {
            Held::F32(array)
        } else if let Some(array) = ready(value)? {
            Held::F64(array)
        } else if let Some(array) = ready(value)? {
            Held::I64(array)
        } else if let Some(array) = ready(value)? {
            Held::U8(array)
        } else if value.cast::<PyArrayDyn<bool>>().is_ok() {
            // Through u8: an array made by a view may hold other bytes than 0 and 1.
            let bytes = value.call_method1("copy", ("C",))?.call_method1("view", ("uint8",))?;
            Held::Bool(bytes.cast::<PyArrayDyn<u8>>()?.try_readonly()?)
        } else {
            let found = value.getattr("dtype").and_then(|dtype| dtype.str().map(|name| name.to_string()));
            return Err(PyTypeError::new_err(format!(
                "{what}: expected a float32, float64, int64, uint8 or bool array, got {}",
                found.or_else(|_| value.get_type().name().map(|name| name.to_string()))?
            )));
        };
        Ok((held, shape))
    }

    fn values(&self) -> PyResult<Values<'_>> {
        Ok(match self {
            Held::F32(array) => Values::F32(Cow::Borrowed(array.as_slice()?)),
            Held::F64(array) => Values::F64(Cow::Borrowed(array.as_slice()?)),
            Held::I64(array) => Values::I64(Cow::Borrowed(array.as_slice()?)),
            Held::U8(array) => Values::U8(Cow::Borrowed(array.as_slice()?)),
            Held::Bool(array) => Values::Bool(array.as_slice()?.iter().map(|byte| *byte != 0).collect()),
        })
    }
}

fn arrays<'py>(map: &Bound<'py, PyDict>, what: &str) -> PyResult<BTreeMap<String, (Held<'py>, Vec<usize>)>> {
    let mut held = BTreeMap::new();
    for (name, value) in map {
        let name: String =
            name.extract().map_err(|_| PyTypeError::new_err(format!("{what}: expected names, got {name}")))?;
        let array = Held::of(&value, &format!("{what}[{name:?}]"))?;
        held.insert(name, array);
    }
    Ok(held)
}

/// The bytes of a file with these tensors, masks of some of them, and metadata that names the "kind".
#[pyfunction]
fn encode<'py>(
    py: Python<'py>,
    tensors: &Bound<'py, PyDict>,
    masks: &Bound<'py, PyDict>,
    metadata: Metadata,
) -> PyResult<Bound<'py, PyBytes>> {
    let (held, mask_arrays) = (arrays(tensors, "tensors")?, arrays(masks, "masks")?);
    let mut bits = BTreeMap::new();
    for (name, (mask, shape)) in &mask_arrays {
        let Values::Bool(mask) = mask.values()? else {
            return Err(PyTypeError::new_err(format!("masks[{name:?}]: expected a bool array")));
        };
        match held.get(name) {
            Some((_, wanted)) if wanted == shape => bits.insert(name.clone(), Mask::from_bools(&mask)),
            Some((_, wanted)) => {
                let message = format!("masks[{name:?}]: expected shape {wanted:?}, got {shape:?}");
                return Err(PyValueError::new_err(message));
            }
            None => return Err(PyValueError::new_err(format!("masks[{name:?}]: there is no tensor of this name"))),
        };
    }
    let mut contents = BTreeMap::new();
    for (name, (array, shape)) in &held {
        let tensor = Tensor { shape: shape.clone(), values: array.values()?, mask: bits.remove(name) };
        contents.insert(name.clone(), tensor);
    }
    let bytes = py.detach(|| store::encode(&contents, &metadata)).map_err(to_py)?;
    Ok(PyBytes::new(py, &bytes))
}

/// Reads the bytes of a file, or the file at a path: (tensors, masks, metadata).
#[pyfunction]
fn decode<'py>(
    py: Python<'py>,
    source: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyDict>, Metadata)> {
    let (contents, metadata) = if let Ok(bytes) = source.cast::<PyBytes>() {
        let bytes = bytes.as_bytes();
        py.detach(|| store::decode(&mut &bytes[..], bytes.len() as u64))
    } else {
        let path: PathBuf = source.extract().map_err(|_| {
            PyTypeError::new_err(format!("source: expected bytes or a path, got {}", source.get_type()))
        })?;
        py.detach(|| store::decode_file(&path))
    }
    .map_err(to_py)?;
    let (tensors, masks) = (PyDict::new(py), PyDict::new(py));
    for (name, tensor) in contents {
        let array = match tensor.values {
            Values::F32(values) => shaped(py, values, &tensor.shape)?,
            Values::F64(values) => shaped(py, values, &tensor.shape)?,
            Values::I64(values) => shaped(py, values, &tensor.shape)?,
            Values::U8(values) => shaped(py, values, &tensor.shape)?,
            Values::Bool(values) => shaped(py, values, &tensor.shape)?,
        };
        tensors.set_item(&name, array)?;
        if let Some(mask) = tensor.mask {
            masks.set_item(&name, shaped(py, mask.to_bools().into(), &tensor.shape)?)?;
        }
    }
    Ok((tensors, masks, metadata))
}

fn shaped<'py, T: Element + Clone>(
    py: Python<'py>,
    values: Cow<'_, [T]>,
    shape: &[usize],
) -> PyResult<Bound<'py, PyAny>> {
    Ok(values.into_owned().into_pyarray(py).reshape(shape)?.into_any())
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(encode, m)?)?;
    m.add_function(wrap_pyfunction!(decode, m)?)?;
    Ok(())
}
