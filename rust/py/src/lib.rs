//! Python bindings of secateur-core: check the arrays, release the GIL, call the core, map the errors. One file a stage.

#![allow(missing_docs, reason = "the public documentation is the Python package's")]

mod arrays;
mod errors;
mod formats;
mod operators;
mod plan;
mod recurrent;
mod runtime;
mod select;
mod store;
mod train;

use pyo3::prelude::*;
// What ONNX Runtime looks up in the same library.
pub use secateur_ort::RegisterCustomOps;

/// Every stage adds its own functions and classes to the module.
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    formats::register(m)?;
    operators::register(m)?;
    plan::register(m)?;
    recurrent::register(m)?;
    runtime::register(m)?;
    select::register(m)?;
    train::register(m)?;
    store::register(m)?;
    // pyo3 makes this list; the names are those of the stub file.
    m.delattr("__all__")
}
