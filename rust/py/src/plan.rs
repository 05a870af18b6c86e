//! Compiled plans.

use crate::arrays;
use crate::errors::to_py;
use crate::formats::target;
use numpy::{PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use secateur_core::executor::{self, Executor};
use secateur_core::plan;
use secateur_core::store::network::{self, Arrays};
use secateur_core::store::{Tensor, Values};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Compiles a network of plain data: JSON nodes and their arrays, by "NODE.ARRAY", over samples of a shape. Choices as JSON by
/// batch size, or None to choose; timed, or by the cost model; with Winograd's algorithm, or without.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the arguments of sc.compile")]
fn compile(
    py: Python<'_>,
    input_shape: Vec<usize>,
    nodes: &str,
    tensors: &Bound<'_, PyDict>,
    batch: Vec<usize>,
    threads: Option<usize>,
    target: Option<&str>,
    choices: Option<&str>,
    timed: bool,
    winograd: bool,
) -> PyResult<CompiledPlan> {
    let target = self::target(target)?;
    let executor = threads.map_or_else(executor::current, executor::with_threads);
    let mut held = BTreeMap::new();
    for (name, value) in tensors {
        let name: String = name.extract()?;
        held.insert(name.clone(), arrays::floats(&name, &value)?);
    }
    let mut tensors = Arrays::new();
    for (name, array) in &held {
        let values = Values::F32(array.as_slice()?.into());
        tensors.insert(name.clone(), Tensor { shape: array.shape().to_vec(), values, mask: None });
    }
    let plan = py.detach(|| {
        let mut graph = network::graph(&input_shape, nodes, &tensors)?;
        graph.allow_winograd(winograd);
        let given = choices.map_or(Ok(Default::default()), plan::choose::from_json)?;
        plan::Plan::new(graph, &batch, target, executor.clone(), &given, timed)
    });
    Ok(CompiledPlan { plan: plan.map_err(to_py)?, executor })
}

/// A compiled network; `secateur.Plan` is its face.
#[pyclass(frozen, module = "secateur")]
pub struct CompiledPlan {
    plan: plan::Plan,
    executor: Arc<dyn Executor>,
}

#[pymethods]
impl CompiledPlan {
    /// `open`: as one of many numbers of vectors, see the core's `run_open`.
    fn run<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>, open: bool) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let x = arrays::floats("x", x)?;
        let wanted = self.plan.input_shape();
        let Some((&images, _)) = x.shape().split_first().filter(|(_, rest)| *rest == wanted) else {
            let wanted: Vec<String> = wanted.iter().map(usize::to_string).collect();
            let wanted = wanted.join(", ");
            return Err(PyValueError::new_err(format!("x: expected shape (n, {wanted}), got {:?}", x.shape())));
        };
        let shape = [vec![images], self.plan.output_shape()].concat();
        let y: Bound<'_, PyArrayDyn<f32>> = arrays::zeros(py, shape)?;
        {
            let (x, mut y) = (x.as_slice()?, y.readwrite());
            let y = y.as_slice_mut()?;
            let run = if open { plan::Plan::run_open } else { plan::Plan::run_on };
            py.detach(|| run(&self.plan, &*self.executor, images, x, y)).map_err(to_py)?;
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
    m.add_function(wrap_pyfunction!(compile, m)?)?;
    m.add_class::<CompiledPlan>()
}
