//! Selection. `secateur/selection.py` brings every argument to C-contiguous native arrays first; what is not is refused here.

use crate::arrays;
use crate::errors::to_py;
use half::slice::HalfBitsSliceExt;
use half::{bf16, f16};
use numpy::{
    Element, IntoPyArray, PyArray1, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyReadwriteArrayDyn,
    PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use secateur_core::Result;
use secateur_core::executor::{self, Executor, Sequential};
use secateur_core::select::{self, Keys, MaskMut, Near, Score, Scores, Tensor, Weight};
use std::sync::Arc;

/// A name or none, the weights or scores, the gradients where the score takes them, and "f16" or "bf16" where the arrays hold
/// the bits of such numbers as uint16.
type Argument<'py> = (Option<String>, Bound<'py, PyUntypedArray>, Option<Bound<'py, PyUntypedArray>>, Option<String>);
type Mask<'py> = Bound<'py, PyArrayDyn<bool>>;
type Bits<'py> = Bound<'py, PyArrayDyn<u8>>;
type Array<'py, T> = PyReadonlyArrayDyn<'py, T>;

/// The arrays of one tensor, borrowed for as long as the core reads them.
enum Operands<'py> {
    F32(Array<'py, f32>, Option<Array<'py, f32>>),
    F64(Array<'py, f64>, Option<Array<'py, f64>>),
    F16(Array<'py, u16>, Option<Array<'py, u16>>),
    Bf16(Array<'py, u16>, Option<Array<'py, u16>>),
}

struct Operand<'py> {
    name: Option<String>,
    shape: Vec<usize>,
    operands: Operands<'py>,
}

fn borrow<'py, T: Element>(array: &Bound<'py, PyUntypedArray>) -> PyResult<Array<'py, T>> {
    let array = array
        .cast::<PyArrayDyn<T>>()
        .map_err(|_| PyTypeError::new_err(format!("array: unsupported dtype {}", array.dtype())))?;
    let array = array.try_readonly().map_err(|_| PyValueError::new_err("array: is being written to elsewhere"))?;
    if array.is_c_contiguous() && array.as_slice().is_ok() {
        Ok(array)
    } else {
        Err(PyValueError::new_err("array: expected a C-contiguous, aligned one"))
    }
}

impl<'py> Operand<'py> {
    fn new((name, array, grads, half): Argument<'py>) -> PyResult<Self> {
        let shape = array.shape().to_vec();
        if grads.as_ref().is_some_and(|grads| grads.shape() != shape) {
            return Err(PyValueError::new_err("grads: expected the shape of the weights"));
        }
        let grads = grads.as_ref();
        let operands = match half.as_deref() {
            Some("f16") => Operands::F16(borrow(&array)?, grads.map(borrow).transpose()?),
            Some("bf16") => Operands::Bf16(borrow(&array)?, grads.map(borrow).transpose()?),
            Some(half) => return Err(PyValueError::new_err(format!("half: expected f16 or bf16, got {half:?}"))),
            None if array.cast::<PyArrayDyn<f32>>().is_ok() => {
                Operands::F32(borrow(&array)?, grads.map(borrow).transpose()?)
            }
            None => Operands::F64(borrow(&array)?, grads.map(borrow).transpose()?),
        };
        Ok(Operand { name, shape, operands })
    }

    fn tensor(&self, rule: Rule<'_>) -> PyResult<Tensor<'_>> {
        // `borrow` has seen that all are contiguous.
        let scores = match &self.operands {
            Operands::F32(array, grads) => {
                Scores::F32(rule.score(array.as_slice()?, slice(grads)?, rule.lam as f32)?)
            }
            Operands::F64(array, grads) => Scores::F64(rule.score(array.as_slice()?, slice(grads)?, rule.lam)?),
            Operands::F16(array, grads) => {
                let (array, grads) = (array.as_slice()?.reinterpret_cast::<f16>(), slice(grads)?);
                Scores::F16(rule.score(array, grads.map(|grads| grads.reinterpret_cast()), rule.lam as f32)?)
            }
            Operands::Bf16(array, grads) => {
                let (array, grads) = (array.as_slice()?.reinterpret_cast::<bf16>(), slice(grads)?);
                Scores::Bf16(rule.score(array, grads.map(|grads| grads.reinterpret_cast()), rule.lam as f32)?)
            }
        };
        Ok(Tensor { name: self.name.as_deref(), shape: &self.shape, scores })
    }
}

fn slice<'a, T: Element>(array: &'a Option<Array<'_, T>>) -> PyResult<Option<&'a [T]>> {
    Ok(array.as_ref().map(|array| array.as_slice()).transpose()?)
}

/// How scores are made of the operands.
#[derive(Clone, Copy)]
struct Rule<'a> {
    kind: &'a str,
    lam: f64,
}

const GIVEN: Rule = Rule { kind: "given", lam: 0.0 };

impl Rule<'_> {
    fn score<'a, T: Weight>(&self, array: &'a [T], grads: Option<&'a [T]>, lam: T::Score) -> PyResult<Score<'a, T>> {
        Ok(match (self.kind, grads) {
            ("given", None) => Score::Given(array),
            ("magnitude", None) => Score::Magnitude(array),
            ("gradient", Some(grads)) => Score::Gradient(grads),
            ("taylor", Some(grads)) => Score::Taylor(array, grads),
            ("combined", Some(grads)) => Score::Combined(array, grads, lam),
            (kind, _) => return Err(PyValueError::new_err(format!("kind: {kind:?} does not fit the arrays"))),
        })
    }
}

fn operands(arguments: Vec<Argument<'_>>) -> PyResult<Vec<Operand<'_>>> {
    arguments.into_iter().map(Operand::new).collect()
}

fn tensors_of<'a>(operands: &'a [Operand<'_>], rule: Rule<'_>) -> PyResult<Vec<Tensor<'a>>> {
    operands.iter().map(|operand| operand.tensor(rule)).collect()
}

/// Makes a mask an operand and has `fill` set them, without the GIL.
fn masks<'py>(
    py: Python<'py>,
    operands: &[Operand<'py>],
    rule: Rule<'_>,
    fill: impl FnOnce(&[Tensor<'_>], &mut [&mut [bool]]) -> Result<()> + Send,
) -> PyResult<Vec<Mask<'py>>> {
    let masks: Vec<Mask<'py>> =
        operands.iter().map(|operand| arrays::zeros(py, &operand.shape[..])).collect::<PyResult<_>>()?;
    let tensors = tensors_of(operands, rule)?;
    let mut borrowed: Vec<PyReadwriteArrayDyn<'_, bool>> = masks.iter().map(|mask| mask.readwrite()).collect();
    let mut slices = borrowed.iter_mut().map(|mask| mask.as_slice_mut()).collect::<std::result::Result<Vec<_>, _>>()?;
    py.detach(|| fill(&tensors, &mut slices)).map_err(to_py)?;
    drop(borrowed);
    Ok(masks)
}

/// Scores that one thread selects from in less time than another takes to wake.
const SMALL: usize = 1 << 18;

fn executor_for(tensors: &[Tensor<'_>]) -> Arc<dyn Executor> {
    let scores: usize = tensors.iter().map(Tensor::len).sum();
    if scores < SMALL { Arc::new(Sequential) } else { executor::current() }
}

/// The masks of the `k` first scores of all tensors together, and the last kept score. `kind`: "given", "magnitude", "gradient",
/// "taylor" or "combined"; `near`: a guess of that score; `alive`: for each tensor none,
/// or bytes that are not 0 where a score competes; `within`: how far off the guess may be.
#[pyfunction]
#[pyo3(signature = (tensors, k, kind, lam, near=None, alive=None, within=0.0))]
#[expect(clippy::too_many_arguments, reason = "what competes, by which score, and a guess of the threshold")]
fn topk_masks<'py>(
    py: Python<'py>,
    tensors: Vec<Argument<'py>>,
    k: usize,
    kind: &str,
    lam: f64,
    near: Option<f64>,
    alive: Option<Vec<Option<Bound<'py, PyUntypedArray>>>>,
    within: f64,
) -> PyResult<(Vec<Mask<'py>>, Option<f64>)> {
    let (mut score, near) = (None, near.map(|score| Near { score, within }));
    let bytes = |alive: &Option<Bound<'py, PyUntypedArray>>| alive.as_ref().map(borrow::<u8>).transpose();
    let alive: Option<Vec<_>> = alive.map(|alive| alive.iter().map(bytes).collect::<PyResult<_>>()).transpose()?;
    let alive: Option<Vec<_>> =
        alive.as_ref().map(|alive| alive.iter().map(slice).collect::<PyResult<_>>()).transpose()?;
    let masks = masks(py, &operands(tensors)?, Rule { kind, lam }, |tensors, masks| {
        let masks = masks.iter_mut().map(|mask| MaskMut::Bools(mask)).collect();
        let executor = executor_for(tensors);
        score = match &alive {
            Some(alive) => select::top_k_mask_among(&*executor, tensors, alive, k, near, masks)?,
            None => select::top_k_mask(&*executor, tensors, k, near, masks)?,
        };
        Ok(())
    })?;
    Ok((masks, score))
}

/// As [`topk_masks`], one bit a weight: of weight i bit i mod 8 of byte i / 8.
#[pyfunction]
#[pyo3(signature = (tensors, k, kind, lam, near=None))]
fn topk_bits<'py>(
    py: Python<'py>,
    tensors: Vec<Argument<'py>>,
    k: usize,
    kind: &str,
    lam: f64,
    near: Option<f64>,
) -> PyResult<(Vec<Bits<'py>>, Option<f64>)> {
    let operands = operands(tensors)?;
    let tensors = tensors_of(&operands, Rule { kind, lam })?;
    let masks: Vec<Bits<'py>> =
        tensors.iter().map(|tensor| arrays::zeros(py, vec![tensor.len().div_ceil(8)])).collect::<PyResult<_>>()?;
    let mut borrowed: Vec<PyReadwriteArrayDyn<'_, u8>> = masks.iter().map(|mask| mask.readwrite()).collect();
    let mut bits = Vec::new();
    for mask in &mut borrowed {
        bits.push(MaskMut::Bits(mask.as_slice_mut()?));
    }
    let score = py
        .detach(|| select::top_k_mask(&*executor_for(&tensors), &tensors, k, near.map(Near::from), bits))
        .map_err(to_py)?;
    drop(borrowed);
    Ok((masks, score))
}

/// The last of the `k` first scores: its value, which tensor it is in, and its flat index there.
#[pyfunction]
#[pyo3(signature = (tensors, k, kind, lam, near=None))]
fn topk_cut(
    py: Python<'_>,
    tensors: Vec<Argument<'_>>,
    k: usize,
    kind: &str,
    lam: f64,
    near: Option<f64>,
) -> PyResult<(f64, usize, usize)> {
    let operands = operands(tensors)?;
    let tensors = tensors_of(&operands, Rule { kind, lam })?;
    let cut = py.detach(|| select::cut(&*executor_for(&tensors), &tensors, k, near.map(Near::from))).map_err(to_py)?;
    Ok((cut.score, cut.tensor, cut.index))
}

/// The mask of what scores more than `score`, and of what scores as much the elements before flat index `end`.
#[pyfunction]
fn cut_mask<'py>(
    py: Python<'py>,
    tensor: Argument<'py>,
    kind: &str,
    lam: f64,
    score: f64,
    end: usize,
) -> PyResult<Mask<'py>> {
    let mut masks = masks(py, &operands(vec![tensor])?, Rule { kind, lam }, |tensors, masks| {
        for (tensor, mask) in tensors.iter().zip(masks) {
            select::cut_mask(&*executor::current(), tensor, score, end, MaskMut::Bools(mask))?;
        }
        Ok(())
    })?;
    Ok(masks.remove(0))
}

/// The k-th largest score of all tensors together.
#[pyfunction]
fn kth_largest(py: Python<'_>, tensors: Vec<Argument<'_>>, k: usize) -> PyResult<f64> {
    let operands = operands(tensors)?;
    let tensors = tensors_of(&operands, GIVEN)?;
    py.detach(|| select::kth_largest(&*executor_for(&tensors), &tensors, k)).map_err(to_py)
}

/// The scores of runs of weights from these flat indices on, widened; runs that hold a NaN are left out.
#[pyfunction]
fn scores_at<'py>(
    py: Python<'py>,
    tensor: Argument<'py>,
    kind: &str,
    lam: f64,
    at: PyReadonlyArrayDyn<'py, i64>,
    run: usize,
) -> PyResult<Bound<'py, PyArrayDyn<f64>>> {
    let operand = Operand::new(tensor)?;
    let tensor = operand.tensor(Rule { kind, lam })?;
    // A negative index becomes one that is refused.
    let at: Vec<usize> = at.as_slice()?.iter().map(|&at| at as usize).collect();
    let scores = py.detach(|| select::scores_at(&tensor, &at, run)).map_err(to_py)?;
    Ok(scores.into_pyarray(py).to_dyn().clone())
}

type Tallied<'py> = (usize, Bound<'py, PyArray1<u64>>, Bound<'py, PyArray1<u64>>, Bound<'py, PyArray1<u64>>);

/// How many scores have keys above `high`; how many lie in each step of 2^`shift` keys from `low` to `high`; and, where these are
/// not more than `most`, their keys and flat indices. `long`: keys of 64 bits.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // of Python's
fn tally<'py>(
    py: Python<'py>,
    tensor: Argument<'py>,
    kind: &str,
    lam: f64,
    long: bool,
    low: u64,
    high: u64,
    shift: u32,
    most: usize,
) -> PyResult<Tallied<'py>> {
    let operand = Operand::new(tensor)?;
    let tensor = operand.tensor(Rule { kind, lam })?;
    let executor = executor::current();
    let found = py.detach(|| select::tally(&*executor, &tensor, keys(long), low..=high, shift, most)).map_err(to_py)?;
    Ok((found.above, found.counts.into_pyarray(py), found.keys.into_pyarray(py), found.at.into_pyarray(py)))
}

fn keys(long: bool) -> Keys {
    if long { Keys::Long } else { Keys::Short }
}

/// The key that orders a score.
#[pyfunction]
fn key_of(score: f64, long: bool) -> u64 {
    keys(long).near(score)
}

/// The score that a key orders.
#[pyfunction]
fn score_of(key: u64, long: bool) -> f64 {
    keys(long).score(key)
}

/// The masks of the `n` largest of every `m` along `axis`, each tensor by itself.
#[pyfunction]
fn nm_masks<'py>(
    py: Python<'py>,
    tensors: Vec<Argument<'py>>,
    n: usize,
    m: usize,
    axes: Vec<usize>,
) -> PyResult<Vec<Mask<'py>>> {
    masks(py, &operands(tensors)?, GIVEN, |tensors, masks| {
        for ((tensor, mask), axis) in tensors.iter().zip(masks).zip(axes) {
            select::nm_mask(&*executor::current(), tensor, (n, m), axis, mask)?;
        }
        Ok(())
    })
}

/// The masks of whole blocks, all tensors ranked together.
#[pyfunction]
fn block_masks<'py>(
    py: Python<'py>,
    tensors: Vec<Argument<'py>>,
    block: (usize, usize),
    sparsity: f64,
) -> PyResult<Vec<Mask<'py>>> {
    masks(py, &operands(tensors)?, GIVEN, |tensors, masks| {
        select::block_mask(&*executor::current(), tensors, block, sparsity, masks)
    })
}

/// Σ|x| over all arrays, in float64.
#[pyfunction]
fn absolute_sum(arrays: Vec<PyReadonlyArrayDyn<'_, f32>>) -> PyResult<f64> {
    arrays.iter().try_fold(0.0, |sum, x| Ok(sum + select::absolute_sum(x.as_slice()?)))
}

/// How many of `n` weights a sparsity keeps.
#[pyfunction]
fn kept(sparsity: f64, n: usize) -> PyResult<usize> {
    select::kept(sparsity, n).map_err(to_py)
}

/// Writes the weights, or `out` itself where there are none, to `out`, with zeros where the mask's byte is 0. Weights are seen
/// as unsigned integers of their size: zero bits are the zero of every type. Returns whether all of the mask's bytes are 0 or 1.
#[pyfunction]
#[pyo3(signature = (out, mask, weights=None))]
fn mask_into<'py>(
    py: Python<'py>,
    out: &Bound<'py, PyUntypedArray>,
    mask: PyReadonlyArrayDyn<'py, u8>,
    weights: Option<&Bound<'py, PyUntypedArray>>,
) -> PyResult<bool> {
    fn typed<'py, T: Element + Copy + Default + Send + Sync>(
        py: Python<'py>,
        out: &Bound<'py, PyArrayDyn<T>>,
        mask: &PyReadonlyArrayDyn<'py, u8>,
        weights: Option<&Bound<'py, PyUntypedArray>>,
    ) -> PyResult<bool> {
        let mut out =
            out.try_readwrite().map_err(|_| PyValueError::new_err("out: read-only, or in use by another call"))?;
        let weights = weights.map(borrow::<T>).transpose()?;
        let weights = weights.as_ref().map(|weights| weights.as_slice()).transpose()?;
        let (out, kept) = (out.as_slice_mut()?, mask.as_slice()?);
        let executor = executor::current();
        py.detach(|| match weights {
            Some(weights) => select::apply(&*executor, weights, kept, out),
            None => select::apply_in_place(&*executor, out, kept),
        })
        .map_err(to_py)
    }
    if !out.is_c_contiguous() || !mask.is_c_contiguous() {
        return Err(PyValueError::new_err("out, mask: expected C-contiguous arrays"));
    }
    macro_rules! by_type {
        ($($uint:ty),*) => { $(
            if let Ok(out) = out.cast::<PyArrayDyn<$uint>>() {
                return typed(py, out, &mask, weights);
            }
        )* };
    }
    by_type!(u8, u16, u32, u64);
    Err(PyTypeError::new_err(format!("out: unsupported dtype {}", out.dtype())))
}

/// Sets to zero what a mask of bits does not keep. Weights are seen as in [`mask_into`].
#[pyfunction]
fn bits_into<'py>(
    py: Python<'py>,
    out: &Bound<'py, PyUntypedArray>,
    bits: PyReadonlyArrayDyn<'py, u8>,
) -> PyResult<()> {
    macro_rules! by_type {
        ($($uint:ty),*) => { $(
            if let Ok(out) = out.cast::<PyArrayDyn<$uint>>() {
                let mut out =
                    out.try_readwrite().map_err(|_| PyValueError::new_err("out: read-only, or in use by another call"))?;
                let (out, bits) = (out.as_slice_mut()?, bits.as_slice()?);
                return py.detach(|| select::apply_bits_in_place(&*executor::current(), out, bits)).map_err(to_py);
            }
        )* };
    }
    if !out.is_c_contiguous() {
        return Err(PyValueError::new_err("out: expected a C-contiguous array"));
    }
    by_type!(u16, u32, u64);
    Err(PyTypeError::new_err(format!("out: unsupported dtype {}", out.dtype())))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(topk_masks, m)?)?;
    m.add_function(wrap_pyfunction!(topk_bits, m)?)?;
    m.add_function(wrap_pyfunction!(topk_cut, m)?)?;
    m.add_function(wrap_pyfunction!(cut_mask, m)?)?;
    m.add_function(wrap_pyfunction!(bits_into, m)?)?;
    m.add_function(wrap_pyfunction!(kth_largest, m)?)?;
    m.add_function(wrap_pyfunction!(scores_at, m)?)?;
    m.add_function(wrap_pyfunction!(tally, m)?)?;
    m.add_function(wrap_pyfunction!(key_of, m)?)?;
    m.add_function(wrap_pyfunction!(score_of, m)?)?;
    m.add_function(wrap_pyfunction!(nm_masks, m)?)?;
    m.add_function(wrap_pyfunction!(block_masks, m)?)?;
    m.add_function(wrap_pyfunction!(kept, m)?)?;
    m.add_function(wrap_pyfunction!(absolute_sum, m)?)?;
    m.add_function(wrap_pyfunction!(mask_into, m)?)?;
    Ok(())
}
