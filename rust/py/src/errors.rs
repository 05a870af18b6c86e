//! Core errors to Python exceptions. The classes live in `secateur/errors.py`, where users can read them.

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use secateur_core::Error;

static FORMAT_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static UNSUPPORTED_OP_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// The exception of a core error: `core(..).map_err(to_py)`.
pub fn to_py(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Argument(_) => PyValueError::new_err(message),
        Error::Io(_) => PyOSError::new_err(message),
        Error::Format(_) => package_error(&FORMAT_ERROR, "FormatError", message),
        Error::Unsupported(_) => package_error(&UNSUPPORTED_OP_ERROR, "UnsupportedOpError", message),
    }
}

fn package_error(class: &PyOnceLock<Py<PyType>>, name: &str, message: String) -> PyErr {
    Python::attach(|py| match class.import(py, "secateur.errors", name) {
        Ok(class) => PyErr::from_type(class.clone(), message),
        Err(error) => error,
    })
}
