//! Packed weight matrices, and packed convolutions beside them.

mod conv2d;

use crate::arrays;
use crate::errors::to_py;
use numpy::{IntoPyArray, PyArrayDyn, PyArrayMethods, PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use secateur_core::executor;
use secateur_core::formats::{Activation, Epilogue, Kind, Rows};
use secateur_core::simd::{Storage, Target};
use std::sync::{Arc, RwLock, RwLockReadGuard};

/// A pruned (m, k) weight matrix, packed to multiply fast. Made by :func:`secateur.pack`.
#[pyclass(frozen, module = "secateur")]
pub struct PackedMatrix {
    matrix: Arc<RwLock<secateur_core::formats::PackedMatrix>>,
    /// A view of the matrix with rows and columns exchanged.
    transposed: bool,
    columns: usize,
}

impl PackedMatrix {
    fn read(&self) -> RwLockReadGuard<'_, secateur_core::formats::PackedMatrix> {
        self.matrix.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Calls `work` with the matrix that this is a view of, transposed where the view is.
    pub fn with<R>(&self, work: impl FnOnce(&secateur_core::formats::PackedMatrix) -> R) -> R {
        let matrix = self.read();
        work(if self.transposed { matrix.transposed() } else { &matrix })
    }

    /// The number of columns of an operand of `rows` rows.
    fn columns_of(name: &str, rows: usize, shape: &[usize]) -> PyResult<usize> {
        match *shape {
            [here] if here == rows => Ok(1),
            [here, n] if here == rows => Ok(n),
            _ => Err(PyValueError::new_err(format!("{name}: expected shape ({rows},) or ({rows}, n), got {shape:?}"))),
        }
    }

    fn new(rows: Rows, options: Options, columns: Option<usize>) -> PyResult<Self> {
        let Options { kind, target, storage } = options;
        let matrix = secateur_core::formats::PackedMatrix::new(rows, kind, columns, target, storage).map_err(to_py)?;
        Ok(PackedMatrix { matrix: Arc::new(RwLock::new(matrix)), transposed: false, columns: columns.unwrap_or(128) })
    }
}

/// How to pack, checked before anything is converted.
struct Options {
    kind: Option<Kind>,
    target: Target,
    storage: Storage,
}

impl Options {
    fn parse(format: &str, block: (usize, usize), target: Option<&str>, storage: &str) -> PyResult<Options> {
        let kind = Kind::parse(format, block).map_err(to_py)?;
        Ok(Options { kind, target: self::target(target)?, storage: Storage::parse(storage).map_err(to_py)? })
    }
}

pub fn target(name: Option<&str>) -> PyResult<Target> {
    name.map_or(Ok(Target::detect()), |name| Target::parse(name).map_err(to_py))
}

#[pymethods]
impl PackedMatrix {
    #[staticmethod]
    #[pyo3(signature = (weights, format, columns, block, target, storage))]
    fn from_dense(
        py: Python<'_>,
        weights: &Bound<'_, PyAny>,
        format: &str,
        columns: Option<usize>,
        block: (usize, usize),
        target: Option<&str>,
        storage: &str,
    ) -> PyResult<Self> {
        let options = Options::parse(format, block, target, storage)?;
        let weights = arrays::floats("weights", weights)?;
        let &[m, k] = weights.shape() else {
            return Err(PyValueError::new_err(format!("weights: expected 2 dimensions, got {}", weights.ndim())));
        };
        let dense = weights.as_slice()?;
        let rows = py.detach(|| Rows::from_dense(m, k, dense)).map_err(to_py)?;
        PackedMatrix::new(rows, options, columns)
    }

    #[staticmethod]
    #[pyo3(signature = (shape, indptr, indices, values, format, columns, block, target, storage))]
    #[expect(clippy::too_many_arguments, reason = "the arrays of a CSR matrix and the options of pack")]
    fn from_csr(
        py: Python<'_>,
        shape: (usize, usize),
        indptr: PyReadonlyArray1<'_, i64>,
        indices: PyReadonlyArray1<'_, i64>,
        values: &Bound<'_, PyAny>,
        format: &str,
        columns: Option<usize>,
        block: (usize, usize),
        target: Option<&str>,
        storage: &str,
    ) -> PyResult<Self> {
        let options = Options::parse(format, block, target, storage)?;
        let values = arrays::floats("values", values)?;
        let (indptr, indices, values) = (indptr.as_slice()?, indices.as_slice()?, values.as_slice()?);
        let rows = py.detach(|| Rows::from_parts(shape.0, shape.1, indptr, indices, values)).map_err(to_py)?;
        PackedMatrix::new(rows, options, columns)
    }

    #[pyo3(signature = (x, bias=None, activation=None, out=None))]
    fn matmul<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        bias: Option<&Bound<'py, PyAny>>,
        activation: Option<&str>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let activation = activation.map_or(Ok(Activation::None), |name| Activation::parse(name).map_err(to_py))?;
        let bias = bias.map(|bias| arrays::floats("bias", bias)).transpose()?;
        let x = arrays::floats("x", x)?;
        let (m, k) = self.shape();
        let n = PackedMatrix::columns_of("x", k, x.shape())?;
        let shape = if x.ndim() == 1 { vec![m] } else { vec![m, n] };
        let bias = bias.as_ref().map(|bias| bias.as_slice()).transpose()?;
        let epilogue = Epilogue::new(bias, activation);
        let executor = executor::current();
        let values = x.as_slice()?;
        arrays::filled(py, out, &shape, &[values, bias.unwrap_or_default()], |y| {
            py.detach(|| self.with(|w| w.matmul(&*executor, n, values, y, epilogue))).map_err(to_py)
        })
    }

    fn __matmul__<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        self.matmul(py, x, None, None, None)
    }

    /// `x @ W`, as (W.T @ x.T).T.
    fn __rmatmul__<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let transposed = py.import("numpy")?.getattr("asarray")?.call1((x,))?.getattr("T")?;
        self.transpose().matmul(py, &transposed, None, None, None)?.getattr("T")
    }

    /// NumPy leaves `array @ W` to `__rmatmul__`.
    #[classattr]
    fn __array_ufunc__() -> Option<()> {
        None
    }

    /// dY · Xᵀ on the nonzeros: the gradient of `values`.
    #[pyo3(signature = (dy, x, out=None))]
    fn sddmm<'py>(
        &self,
        py: Python<'py>,
        dy: &Bound<'py, PyAny>,
        x: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let (dy, x) = (arrays::floats("dy", dy)?, arrays::floats("x", x)?);
        let (m, k) = self.shape();
        let n = PackedMatrix::columns_of("dy", m, dy.shape())?;
        if PackedMatrix::columns_of("x", k, x.shape())? != n || x.ndim() != dy.ndim() {
            return Err(PyValueError::new_err(format!(
                "x: shape {:?} does not go with dy's {:?}",
                x.shape(),
                dy.shape()
            )));
        }
        let executor = executor::current();
        let (dy, x) = (dy.as_slice()?, x.as_slice()?);
        arrays::filled(py, out, &[self.nnz()], &[dy, x], |values| {
            py.detach(|| self.with(|w| w.sddmm(&*executor, n, dy, x, values))).map_err(to_py)
        })
    }

    /// Replaces the values of the nonzeros; the structure stays.
    fn update(&self, py: Python<'_>, values: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.transposed {
            return Err(PyValueError::new_err("values: update the matrix itself, not its transposed view"));
        }
        let values = arrays::floats("values", values)?;
        if values.ndim() != 1 {
            return Err(PyValueError::new_err(format!("values: expected 1 dimension, got {}", values.ndim())));
        }
        let values = values.as_slice()?;
        let (matrix, executor) = (&self.matrix, executor::current());
        py.detach(|| matrix.write().unwrap_or_else(|poisoned| poisoned.into_inner()).update(&*executor, values))
            .map_err(to_py)
    }

    #[getter]
    fn values<'py>(&self, py: Python<'py>) -> Bound<'py, PyArrayDyn<f32>> {
        self.with(|w| w.rows().parts().2.to_vec()).into_pyarray(py).to_dyn().clone()
    }

    /// The transposed matrix, as a view that shares the weights; its own packing is made at first use.
    #[getter(T)]
    fn transpose(&self) -> PackedMatrix {
        PackedMatrix { matrix: self.matrix.clone(), transposed: !self.transposed, columns: self.columns }
    }

    fn to_dense<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let (m, k) = self.shape();
        arrays::filled(py, None, &[m, k], &[], |dense| {
            py.detach(|| self.with(|w| w.rows().write_dense(dense)));
            Ok(())
        })
    }

    fn to_scipy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let scipy = py.import("scipy.sparse").map_err(|_| {
            match py.import("secateur.errors").and_then(|errors| errors.getattr("MissingExtraError")) {
                Ok(class) => match class.call1(("to_scipy needs SciPy: pip install 'secateur[scipy]'",)) {
                    Ok(error) => PyErr::from_value(error),
                    Err(error) => error,
                },
                Err(error) => error,
            }
        })?;
        let (values, index, starts) = self.with(|w| {
            let (starts, index, values) = w.rows().parts();
            let starts: Vec<i64> = starts.iter().map(|&start| start as i64).collect();
            let index: Vec<i32> = index.iter().map(|&column| column as i32).collect();
            (values.to_vec(), index, starts)
        });
        let parts = (values.into_pyarray(py), index.into_pyarray(py), starts.into_pyarray(py));
        let options = pyo3::types::PyDict::new(py);
        options.set_item("shape", self.shape())?;
        scipy.getattr("csr_matrix")?.call((parts,), Some(&options))
    }

    #[getter]
    pub fn shape(&self) -> (usize, usize) {
        let matrix = self.read();
        let rows = matrix.rows();
        if self.transposed { (rows.columns(), rows.rows()) } else { (rows.rows(), rows.columns()) }
    }

    #[getter]
    fn nnz(&self) -> usize {
        self.read().rows().nnz()
    }

    #[getter]
    fn density(&self) -> f64 {
        self.read().rows().density()
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.read().nbytes()
    }

    #[getter]
    fn storage(&self) -> &'static str {
        self.read().storage().name()
    }

    #[getter]
    fn format(&self) -> &'static str {
        self.with(|w| w.kernel(self.columns).0)
    }

    #[getter]
    fn kernel(&self) -> String {
        self.with(|w| w.kernel(self.columns).1)
    }

    fn __repr__(&self) -> String {
        let (m, k) = self.shape();
        format!("PackedMatrix({m} x {k}, {}, density {:.3}, {})", self.format(), self.density(), self.kernel())
    }

    fn __bool__(&self) -> PyResult<bool> {
        Err(PyTypeError::new_err("the truth value of a PackedMatrix is ambiguous"))
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PackedMatrix>()?;
    m.add_class::<conv2d::PackedConv2D>()
}
