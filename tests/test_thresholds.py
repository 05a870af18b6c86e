"""Threshold functions on arrays: copies, kept if and only if score >= threshold."""

import os

import numpy as np
import pytest

import secateur as sc

CASES = int(os.environ.get("SECATEUR_CASES", "500"))

SINGLE = [
    lambda w, g, t, **axis: sc.l1_prune(w, t, **axis),
    lambda w, g, t, **axis: sc.l2_prune(w, t, **axis),
    lambda w, g, t, **axis: sc.grad_prune(w, g, t, **axis),
]
SCORES = [lambda w, g: abs(w), lambda w, g: np.sqrt(w**2), lambda w, g: abs(g)]
SLICES = [
    lambda w, g, axes: abs(w).mean(axes),
    lambda w, g, axes: np.sqrt((w**2).mean(axes)),
    lambda w, g, axes: abs(g).mean(axes),
]


@pytest.mark.parametrize("function", range(3))
def test_single_weights_and_slices(function):
    rng = np.random.default_rng(function)
    for _ in range(CASES // 5):
        shape = tuple(rng.integers(1, 6, rng.integers(1, 5)))
        # Quarters are exact, so that ties with the threshold are real ones.
        w, g = rng.integers(-8, 9, (2, *shape)) / 4
        dtype = rng.choice([np.float32, np.float64])
        threshold = float(rng.integers(0, 9) / 4)
        before = w.astype(dtype), g.astype(dtype)
        given = tuple(x.copy() for x in before)
        pruned = SINGLE[function](*given, threshold)
        np.testing.assert_array_equal(pruned, np.where(SCORES[function](w, g) >= threshold, w, 0))
        axis = int(rng.integers(-len(shape), len(shape)))
        axes = tuple(i for i in range(len(shape)) if i != axis % len(shape))
        scores = np.asarray(SLICES[function](w, g, axes), dtype)
        kept = np.expand_dims(scores >= threshold, axes)
        structured = SINGLE[function](*given, threshold, neuron_axis=axis)
        np.testing.assert_array_equal(structured, np.where(kept, w, 0))
        assert pruned.dtype == structured.dtype == dtype
        for x, y in zip(given, before, strict=True):
            np.testing.assert_array_equal(x, y)
        assert not np.shares_memory(pruned, given[0])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8"])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_weight_equal_to_the_threshold_stays_in_any_precision(dtype, axis):
    w = np.full((3, 5), 0.01, dtype)
    for prune in (sc.l1_prune, sc.l2_prune):
        pruned = prune(w, 0.01, neuron_axis=axis)
        assert pruned.dtype == w.dtype
        np.testing.assert_array_equal(pruned, w)
    np.testing.assert_array_equal(sc.grad_prune(np.ones_like(w), w, 0.01, neuron_axis=axis), 1)


def test_half_slices_are_compared_in_their_precision():
    """The mean, 0.50037, and the threshold are both 0.5005 there."""
    w = np.array([[0.5, 0.5005, 0.5005, 0.5005]], np.float16)
    np.testing.assert_array_equal(sc.l1_prune(w, 0.5003, neuron_axis=0), w)


def test_extremes():
    w = np.array([np.inf, -np.inf, 1e-45, -0.0, 5.0], np.float32)
    np.testing.assert_array_equal(sc.l1_prune(w, np.inf), [np.inf, -np.inf, 0, 0, 0])
    assert sc.l1_prune(w, 0).tobytes() == w.tobytes()
    np.testing.assert_array_equal(sc.l1_prune(w, 1e-45), [np.inf, -np.inf, np.float32(1e-45), 0, 5])
    assert sc.l1_prune(np.zeros((0, 3)), 1.0, neuron_axis=0).shape == (0, 3)
    assert sc.l1_prune([3, -1, 2], 2).tolist() == [3, 0, 2]


@pytest.mark.parametrize("prune", [sc.l1_prune, sc.l2_prune])
def test_bad_arguments_are_named(prune):
    w = np.ones((2, 3))
    for arguments, options, error, message in [
        ((w, -0.1), {}, ValueError, "threshold: expected a number >= 0, got -0.1"),
        ((w, np.nan), {}, ValueError, "threshold: expected a number >= 0, got nan"),
        ((w, None), {}, TypeError, "threshold: expected a number, got NoneType"),
        ((w, 0.1), {"neuron_axis": 2}, ValueError, "neuron_axis: 2 is out of range"),
        ((w * np.nan, 0.1), {}, ValueError, r"weights\[0, 0\] is NaN"),
        ((["a"], 0.1), {}, TypeError, "weights: expected real numbers"),
    ]:
        with pytest.raises(error, match=f"^{message}"):
            prune(*arguments, **options)


def test_gradients_must_fit():
    with pytest.raises(ValueError, match=r"^grads: expected the weights' shape \(2,\), got \(3,\)"):
        sc.grad_prune([1.0, 2.0], [1.0, 2.0, 3.0], 0.1)
    with pytest.raises(ValueError, match=r"^grads\[1\] is NaN"):
        sc.grad_prune([1.0, 2.0], [1.0, np.nan], 0.1)
