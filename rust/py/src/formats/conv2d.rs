//! Packed convolutions.

use super::target;
use crate::arrays;
use crate::errors::to_py;
use numpy::{IntoPyArray, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use secateur_core::executor;
use secateur_core::formats::{Activation, Conv2d, Epilogue, Kind, PackedConv2d, Padding, Rows, Window};
use std::sync::{RwLock, RwLockReadGuard};

type Pair = (usize, usize);

/// Pruned filters (o, c / groups, kh, kw), packed to convolve fast. Made by :func:`secateur.pack_conv2d`.
#[pyclass(frozen, module = "secateur")]
pub struct PackedConv2D {
    packed: RwLock<PackedConv2d>,
    shape: [usize; 4],
    channels: usize,
}

/// The name, number of channels and shape of an array of images, checked.
fn images(name: &str, channels: usize, shape: &[usize]) -> PyResult<(usize, Pair)> {
    match *shape {
        [n, c, h, w] if c == channels => Ok((n, (h, w))),
        _ => Err(PyValueError::new_err(format!("{name}: expected shape (n, {channels}, h, w), got {shape:?}"))),
    }
}

impl PackedConv2D {
    fn read(&self) -> RwLockReadGuard<'_, PackedConv2d> {
        self.packed.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Rows and columns of the results of images of a size.
    fn over(&self, size: Pair) -> PyResult<Pair> {
        Ok(self.read().conv().over(size).map_err(to_py)?.result)
    }

    /// The number of images in dY, which must be what images of `size` give.
    fn results(&self, dy: &[usize], size: Pair) -> PyResult<usize> {
        let (n, found) = images("dy", self.shape[0], dy)?;
        let result = self.over(size)?;
        if found != result {
            let (filters, (h, w)) = (self.shape[0], result);
            return Err(PyValueError::new_err(format!("dy: expected shape (n, {filters}, {h}, {w}), got {dy:?}")));
        }
        Ok(n)
    }
}

#[pymethods]
impl PackedConv2D {
    /// `pads` are top, left, bottom, right; None is "same" padding.
    #[new]
    #[pyo3(signature = (weight, stride, pads, dilation, groups, format, target))]
    #[expect(clippy::too_many_arguments, reason = "the weights and the options of pack_conv2d")]
    fn new(
        py: Python<'_>,
        weight: &Bound<'_, PyAny>,
        stride: Pair,
        pads: Option<[usize; 4]>,
        dilation: Pair,
        groups: usize,
        format: &str,
        target: Option<&str>,
    ) -> PyResult<Self> {
        let target = self::target(target)?;
        if !["auto", "block", "csr", "pattern"].contains(&format) {
            let message = format!("format: unknown name {format:?}; choose from auto, block, csr, pattern");
            return Err(PyValueError::new_err(message));
        }
        let kind = Kind::parse(format, (8, 1)).map_err(to_py)?;
        let weight = arrays::floats("weight", weight)?;
        let &[filters, of_group, h, w] = weight.shape() else {
            return Err(PyValueError::new_err(format!("weight: expected 4 dimensions, got {}", weight.ndim())));
        };
        let channels = of_group.checked_mul(groups).ok_or_else(|| PyValueError::new_err("groups: too many"))?;
        let window = Window { size: (h, w), stride, dilation };
        let padding = pads.map_or(Padding::Same, Padding::Fixed);
        let conv = Conv2d::new((filters, channels, groups), window, padding).map_err(to_py)?;
        let dense = weight.as_slice()?;
        let packed = py.detach(|| {
            let rows = Rows::from_dense(filters, of_group * h * w, dense)?;
            PackedConv2d::new(conv, rows, kind, target)
        });
        let packed = RwLock::new(packed.map_err(to_py)?);
        Ok(PackedConv2D { packed, shape: [filters, of_group, h, w], channels })
    }

    #[pyo3(signature = (x, bias=None, activation=None, out=None))]
    fn __call__<'py>(
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
        let (n, size) = images("x", self.channels, x.shape())?;
        let (h, w) = self.over(size)?;
        let bias = bias.as_ref().map(|bias| bias.as_slice()).transpose()?;
        let epilogue = Epilogue::new(bias, activation);
        let (executor, x) = (executor::current(), x.as_slice()?);
        arrays::filled(py, out, &[n, self.shape[0], h, w], &[x, bias.unwrap_or_default()], |y| {
            py.detach(|| self.read().forward(&*executor, (n, size), x, y, epilogue)).map_err(to_py)
        })
    }

    /// The gradient of the input, images of `input_size`.
    #[pyo3(signature = (dy, input_size, out=None))]
    fn grad_input<'py>(
        &self,
        py: Python<'py>,
        dy: &Bound<'py, PyAny>,
        input_size: Pair,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let dy = arrays::floats("dy", dy)?;
        let n = self.results(dy.shape(), input_size)?;
        let (executor, dy) = (executor::current(), dy.as_slice()?);
        arrays::filled(py, out, &[n, self.channels, input_size.0, input_size.1], &[dy], |dx| {
            py.detach(|| self.read().grad_input(&*executor, (n, input_size), dy, dx)).map_err(to_py)
        })
    }

    /// The gradient of `values`.
    #[pyo3(signature = (dy, x, out=None))]
    fn sddmm<'py>(
        &self,
        py: Python<'py>,
        dy: &Bound<'py, PyAny>,
        x: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let (dy, x) = (arrays::floats("dy", dy)?, arrays::floats("x", x)?);
        let (n, size) = images("x", self.channels, x.shape())?;
        let found = self.results(dy.shape(), size)?;
        if found != n {
            return Err(PyValueError::new_err(format!("dy: expected {n} images, as in x, got {found}")));
        }
        let (executor, dy, x) = (executor::current(), dy.as_slice()?, x.as_slice()?);
        arrays::filled(py, out, &[self.nnz()], &[dy, x], |values| {
            py.detach(|| self.read().grad_weight(&*executor, (n, size), dy, x, values)).map_err(to_py)
        })
    }

    /// Replaces the values of the nonzeros; the structure stays.
    fn update(&self, py: Python<'_>, values: &Bound<'_, PyAny>) -> PyResult<()> {
        let values = arrays::floats("values", values)?;
        if values.ndim() != 1 {
            return Err(PyValueError::new_err(format!("values: expected 1 dimension, got {}", values.ndim())));
        }
        let (values, packed) = (values.as_slice()?, &self.packed);
        py.detach(|| packed.write().unwrap_or_else(|poisoned| poisoned.into_inner()).update(values)).map_err(to_py)
    }

    #[getter]
    fn values<'py>(&self, py: Python<'py>) -> Bound<'py, PyArrayDyn<f32>> {
        self.read().rows().parts().2.to_vec().into_pyarray(py).to_dyn().clone()
    }

    fn to_dense<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        arrays::filled(py, None, &self.shape, &[], |dense| {
            py.detach(|| self.read().rows().write_dense(dense));
            Ok(())
        })
    }

    #[getter]
    fn shape(&self) -> (usize, usize, usize, usize) {
        self.shape.into()
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
    fn kernel(&self) -> String {
        self.read().kernel()
    }

    fn __repr__(&self) -> String {
        let [o, c, h, w] = self.shape;
        format!("PackedConv2D({o} x {c} x {h} x {w}, density {:.3}, {})", self.density(), self.kernel())
    }

    fn __bool__(&self) -> PyResult<bool> {
        Err(PyTypeError::new_err("the truth value of a PackedConv2D is ambiguous"))
    }
}
