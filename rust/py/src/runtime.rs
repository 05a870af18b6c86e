//! Threads and CPU targets.

use crate::formats;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use secateur_core::executor;
use secateur_core::simd::{self, Target};

/// Sets how many threads calls without `threads=` use.
#[pyfunction]
fn set_num_threads(n: isize) -> PyResult<()> {
    match usize::try_from(n) {
        Ok(threads @ 1..=1024) => {
            executor::set_threads(threads);
            Ok(())
        }
        _ => Err(PyValueError::new_err(format!("n: expected 1 to 1024 threads, got {n}"))),
    }
}

/// How many threads calls without `threads=` use.
#[pyfunction]
fn get_num_threads() -> usize {
    executor::current().threads()
}

/// The name of the CPU target in use.
#[pyfunction]
fn cpu_target() -> &'static str {
    Target::detect().name()
}

/// The names of the targets that this CPU has, slowest first.
#[pyfunction]
fn cpu_targets() -> Vec<&'static str> {
    Target::available().iter().map(|target| target.name()).collect()
}

/// The processor and the CPU target: what choices were measured on.
#[pyfunction]
fn cpu_signature(target: &str) -> PyResult<String> {
    Ok(formats::target(Some(target))?.signature())
}

/// Floating-point operations a second that one core reaches in registers: the roof of compute-bound kernels.
#[pyfunction]
fn peak_flops(py: Python<'_>) -> f64 {
    py.detach(|| simd::peak_flops(Target::detect()))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(set_num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(get_num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(cpu_target, m)?)?;
    m.add_function(wrap_pyfunction!(cpu_targets, m)?)?;
    m.add_function(wrap_pyfunction!(cpu_signature, m)?)?;
    m.add_function(wrap_pyfunction!(peak_flops, m)?)?;
    Ok(())
}
