//! Graphs and compiled plans.

use crate::arrays;
use crate::errors::to_py;
use crate::formats::target;
use numpy::{PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use secateur_core::executor;
use secateur_core::formats::Reduction;
use secateur_core::formats::{Activation, Rows, Window};
use secateur_core::ops::Shape;
use secateur_core::ops::cell::Cell;
use secateur_core::ops::relayout::Border;
use secateur_core::plan;
use std::time::Duration;

fn activation(name: Option<&str>) -> PyResult<Activation> {
    name.map_or(Ok(Activation::None), |name| Activation::parse(name).map_err(to_py))
}

fn values(name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<f32>>> {
    value.map(|value| Ok(arrays::floats(name, value)?.as_slice()?.to_vec())).transpose()
}

/// The (m, k) weights of an array of any rank: its first axis is the rows.
fn weights(py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Rows> {
    let array = arrays::floats("weight", value)?;
    let Some((&rows, rest)) = array.shape().split_first() else {
        return Err(PyValueError::new_err("weight: expected an array of outputs, got a number"));
    };
    let (columns, dense) = (rest.iter().product(), array.as_slice()?);
    py.detach(|| Rows::from_dense(rows, columns, dense)).map_err(to_py)
}

/// A network under construction: each call adds a node that reads edges by number, and returns that of the edge it writes. The
/// input's is 0, and the last node's output is the network's.
#[pyclass(module = "secateur")]
pub struct Graph {
    graph: plan::Graph,
}

type Pads = (usize, usize, usize, usize);

fn border((top, left, bottom, right): Pads) -> Border {
    Border { top, left, bottom, right }
}

#[pymethods]
impl Graph {
    #[new]
    fn new(c: usize, h: usize, w: usize) -> Graph {
        Graph { graph: plan::Graph::new(Shape { c, h, w }) }
    }

    /// A network over sequences (n, steps, features); of ids (n, steps), which have one feature.
    #[staticmethod]
    fn of_sequences(steps: usize, features: usize) -> Graph {
        Graph { graph: plan::Graph::of_sequences(steps, features) }
    }

    #[pyo3(signature = (name, x, weight, bias, activation))]
    fn dense(
        &mut self,
        py: Python<'_>,
        name: &str,
        x: usize,
        weight: &Bound<'_, PyAny>,
        bias: Option<&Bound<'_, PyAny>>,
        activation: Option<&str>,
    ) -> PyResult<usize> {
        let (weights, bias) = (weights(py, weight)?, values("bias", bias)?);
        self.graph.dense(name, x, weights, bias, self::activation(activation)?).map_err(to_py)
    }

    #[pyo3(signature = (name, x, weight, bias, kernel_size, strides, dilation, groups, pads, activation))]
    #[expect(clippy::too_many_arguments, reason = "the attributes of a convolution")]
    fn conv2d(
        &mut self,
        py: Python<'_>,
        name: &str,
        x: usize,
        weight: &Bound<'_, PyAny>,
        bias: Option<&Bound<'_, PyAny>>,
        kernel_size: (usize, usize),
        strides: (usize, usize),
        dilation: (usize, usize),
        groups: usize,
        pads: Pads,
        activation: Option<&str>,
    ) -> PyResult<usize> {
        let (weights, bias) = (weights(py, weight)?, values("bias", bias)?);
        let window = Window { size: kernel_size, stride: strides, dilation };
        let activation = self::activation(activation)?;
        self.graph.conv2d(name, x, weights, bias, (window, groups), border(pads), activation).map_err(to_py)
    }

    fn pool(
        &mut self,
        name: &str,
        x: usize,
        kind: &str,
        size: (usize, usize),
        strides: (usize, usize),
        pads: Pads,
    ) -> PyResult<usize> {
        let reduction = match kind {
            "max" => Reduction::Max,
            "average" => Reduction::Average,
            _ => {
                return Err(PyValueError::new_err(format!("kind: unknown pooling {kind:?}; choose from average, max")));
            }
        };
        self.graph.pool(name, x, reduction, Window::new(size, strides), border(pads)).map_err(to_py)
    }

    fn activation(&mut self, name: &str, x: usize, kind: &str) -> PyResult<usize> {
        let kind = Activation::parse(kind).map_err(to_py)?;
        self.graph.activation(name, x, kind).map_err(to_py)
    }

    fn scale(&mut self, name: &str, x: usize, scale: &Bound<'_, PyAny>, shift: &Bound<'_, PyAny>) -> PyResult<usize> {
        let (scale, shift) = (arrays::floats("scale", scale)?, arrays::floats("shift", shift)?);
        self.graph.scale(name, x, scale.as_slice()?.to_vec(), shift.as_slice()?.to_vec()).map_err(to_py)
    }

    fn softmax(&mut self, name: &str, x: usize) -> PyResult<usize> {
        self.graph.softmax(name, x).map_err(to_py)
    }

    fn flatten(&mut self, name: &str, x: usize) -> PyResult<usize> {
        self.graph.flatten(name, x).map_err(to_py)
    }

    fn add(&mut self, name: &str, x: usize, y: usize) -> PyResult<usize> {
        self.graph.add(name, (x, y)).map_err(to_py)
    }

    fn look_up(&mut self, name: &str, x: usize, table: &Bound<'_, PyAny>) -> PyResult<usize> {
        let table = arrays::floats("table", table)?;
        let features = table.shape().get(1).copied().unwrap_or(0);
        self.graph.look_up(name, x, table.as_slice()?.to_vec(), features).map_err(to_py)
    }

    #[pyo3(signature = (name, cell, products, ids, weight, bias, sequences, reverse))]
    #[expect(clippy::too_many_arguments, reason = "the attributes of a recurrent layer")]
    fn recurrent(
        &mut self,
        py: Python<'_>,
        name: &str,
        cell: &str,
        products: usize,
        ids: Option<usize>,
        weight: &Bound<'_, PyAny>,
        bias: Option<&Bound<'_, PyAny>>,
        sequences: bool,
        reverse: bool,
    ) -> PyResult<usize> {
        let (weights, bias) = (weights(py, weight)?, values("bias", bias)?);
        let cell = Cell::parse(cell).map_err(to_py)?;
        self.graph.recurrent(name, cell, (products, ids), weights, bias, (sequences, reverse)).map_err(to_py)
    }

    fn layer_norm(
        &mut self,
        name: &str,
        x: usize,
        scale: &Bound<'_, PyAny>,
        shift: &Bound<'_, PyAny>,
        epsilon: f32,
    ) -> PyResult<usize> {
        let (scale, shift) = (arrays::floats("scale", scale)?, arrays::floats("shift", shift)?);
        self.graph.layer_norm(name, x, scale.as_slice()?.to_vec(), shift.as_slice()?.to_vec(), epsilon).map_err(to_py)
    }

    fn slice(&mut self, name: &str, x: usize, first: usize, count: usize) -> PyResult<usize> {
        self.graph.slice(name, x, (first, count)).map_err(to_py)
    }

    fn concat(&mut self, name: &str, x: usize, y: usize) -> PyResult<usize> {
        self.graph.concat(name, (x, y)).map_err(to_py)
    }

    /// Choices as JSON by batch size, or None to choose; timed, or by the cost model; with Winograd's algorithm, or without.
    #[pyo3(signature = (batch, threads, target, choices, timed, winograd))]
    #[expect(clippy::too_many_arguments, reason = "the arguments of sc.compile")]
    fn compile(
        &self,
        py: Python<'_>,
        batch: Vec<usize>,
        threads: Option<usize>,
        target: Option<&str>,
        choices: Option<&str>,
        timed: bool,
        winograd: bool,
    ) -> PyResult<CompiledPlan> {
        let target = self::target(target)?;
        let executor = threads.map_or_else(executor::current, executor::with_threads);
        let mut graph = self.graph.clone();
        graph.allow_winograd(winograd);
        let plan = py.detach(|| {
            let given = choices.map_or(Ok(Default::default()), plan::choose::from_json)?;
            plan::Plan::new(graph, &batch, target, executor, &given, timed)
        });
        Ok(CompiledPlan { plan: plan.map_err(to_py)? })
    }
}

/// A compiled network; `secateur.Plan` is its face.
#[pyclass(frozen, module = "secateur")]
pub struct CompiledPlan {
    plan: plan::Plan,
}

#[pymethods]
impl CompiledPlan {
    fn run<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let x = arrays::floats("x", x)?;
        let wanted = self.plan.input_axes();
        let Some((&images, _)) = x.shape().split_first().filter(|(_, rest)| *rest == wanted) else {
            let wanted: Vec<String> = wanted.iter().map(usize::to_string).collect();
            let wanted = wanted.join(", ");
            return Err(PyValueError::new_err(format!("x: expected shape (n, {wanted}), got {:?}", x.shape())));
        };
        let shape = [vec![images], self.plan.output_axes()].concat();
        let y = PyArrayDyn::zeros(py, shape, false);
        {
            let (x, mut y) = (x.as_slice()?, y.readwrite());
            let y = y.as_slice_mut()?;
            py.detach(|| self.plan.run(images, x, y)).map_err(to_py)?;
        }
        Ok(y)
    }

    fn tune(&self, py: Python<'_>) {
        py.detach(|| self.plan.tune());
    }

    #[getter]
    fn choices(&self) -> String {
        plan::choose::to_json(&self.plan.choices())
    }

    #[getter]
    fn target(&self) -> &'static str {
        self.plan.target().name()
    }

    #[getter]
    fn threads(&self) -> usize {
        self.plan.threads()
    }

    fn at_once(&self, images: usize) -> usize {
        self.plan.at_once(images)
    }

    fn threads_for(&self, images: usize) -> usize {
        self.plan.threads_for(images)
    }

    fn activation_bytes(&self, images: usize) -> usize {
        self.plan.activation_bytes(images)
    }

    /// One dict a step; `dense` also times dense kernels in the place of each node with weights.
    fn report<'py>(
        &self,
        py: Python<'py>,
        images: usize,
        dense: bool,
        seconds: f64,
    ) -> PyResult<Vec<Bound<'py, PyDict>>> {
        if images == 0 || !(seconds > 0.0 && seconds < 3600.0) {
            return Err(PyValueError::new_err("report: expected a positive batch and 0 to 3600 seconds a node"));
        }
        let reports = py.detach(|| self.plan.report(images, dense, Duration::from_secs_f64(seconds)));
        reports
            .into_iter()
            .map(|step| {
                let row = PyDict::new(py);
                row.set_item("name", step.name)?;
                row.set_item("op", step.op)?;
                row.set_item("kernel", step.kernel)?;
                row.set_item("format", step.format)?;
                row.set_item("density", step.density)?;
                row.set_item("input_layout", step.layouts.0)?;
                row.set_item("output_layout", step.layouts.1)?;
                row.set_item("us", step.us)?;
                row.set_item("us_chosen", step.against_dense.map(|pair| pair.0))?;
                row.set_item("us_dense", step.against_dense.map(|pair| pair.1))?;
                row.set_item("nonzero_macs", step.macs.0)?;
                row.set_item("macs", step.macs.1)?;
                row.set_item("roofline", step.roofline)?;
                row.set_item("nbytes", step.nbytes)?;
                Ok(row)
            })
            .collect()
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Graph>()?;
    m.add_class::<CompiledPlan>()
}
