"""Importance against its formulas."""

import numpy as np
import pytest

import secateur as sc
from secateur.criteria import CRITERIA

RNG = np.random.default_rng(0)
W, G = RNG.standard_normal((2, 6, 4, 3, 3)).astype(np.float32)

SINGLE = {
    "l1": lambda w, g, lam: abs(w) + lam * abs(g),
    "l2": lambda w, g, lam: abs(w) + lam * abs(g),
    "gradient": lambda w, g, lam: abs(g),
    "taylor": lambda w, g, lam: abs(w * g),
    "combined": lambda w, g, lam: abs(w) + lam * abs(g),
}
SLICE = {
    "l1": lambda w, g, lam: abs(w).mean(1) + lam * abs(g).mean(1),
    "l2": lambda w, g, lam: np.sqrt((w * w).mean(1)) + lam * abs(g).mean(1),
    "gradient": lambda w, g, lam: abs(g).mean(1),
    "taylor": lambda w, g, lam: abs((w * g).mean(1)),
    "combined": lambda w, g, lam: abs(w).mean(1) + lam * abs(g).mean(1),
}


def lam_of(criterion):
    return 0.0 if criterion in ("gradient", "taylor") else 0.7


@pytest.mark.parametrize("criterion", SINGLE)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_single_weights(criterion, dtype):
    lam, w, g = lam_of(criterion), W.astype(dtype), G.astype(dtype)
    scores = sc.importance(w, g, criterion=criterion, lam=lam)
    assert scores.shape == w.shape and scores.dtype == (np.float64 if dtype == np.float64 else np.float32)
    expected = SINGLE[criterion](w.astype(np.float64), g.astype(np.float64), lam)
    np.testing.assert_allclose(scores, expected, rtol=3 * np.finfo(scores.dtype).eps)


@pytest.mark.parametrize("criterion", SLICE)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_slices(criterion, axis):
    lam = lam_of(criterion)
    scores = sc.importance(W, G, criterion=criterion, lam=lam, neuron_axis=axis)
    rows = [np.moveaxis(x.astype(np.float64), axis, 0).reshape(W.shape[axis], -1) for x in (W, G)]
    assert scores.shape == (W.shape[axis],) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, SLICE[criterion](*rows, lam), rtol=1e-6, atol=1e-7)


def test_the_default_adds_lambda_times_the_gradient():
    np.testing.assert_array_equal(sc.importance(W), abs(W))
    np.testing.assert_array_equal(sc.importance(W, G, lam=0.5), abs(W) + np.float32(0.5) * abs(G))


def test_random_is_seeded():
    first, second, third = (sc.importance(W, criterion="random", random_state=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert (first != third).any() and ((first >= 0) & (first < 1)).all()
    assert sc.importance(W, criterion="random", neuron_axis=0).shape == (6,)


def test_callables_score_weights_and_are_averaged_over_slices():
    np.testing.assert_array_equal(sc.importance(W, G, criterion=lambda w, g: w + g), W + G)
    scores = sc.importance(W, criterion=lambda w, g: w * 0 + 2, neuron_axis=1)
    assert scores.tolist() == [2.0] * 4
    with pytest.raises(ValueError, match=r"^criterion: expected scores of shape"):
        sc.importance(W, criterion=lambda w, g: w[0])


def test_extreme_values_neither_overflow_nor_vanish():
    for dtype, scale in [(np.float32, 1e38), (np.float64, 1e300), (np.float32, 1e-40), (np.float64, 1e-310)]:
        w = np.full((2, 3), scale, dtype)
        np.testing.assert_allclose(sc.importance(w, criterion="l2", neuron_axis=0), w[:, 0], rtol=1e-6)
    assert sc.importance([[np.inf, 1.0], [2.0, 2.0]], criterion="l2", neuron_axis=0).tolist() == [np.inf, 2.0]


def test_slices_without_weights_score_zero():
    assert sc.importance(np.zeros((3, 0)), neuron_axis=0).tolist() == [0, 0, 0]
    assert sc.importance(np.zeros((3, 0)), criterion="l2", neuron_axis=1).tolist() == []
    assert sc.importance(np.zeros((0,))).tolist() == []


BAD = [
    ({"criterion": "l3"}, ValueError, f"criterion: unknown 'l3'; choose from {', '.join(CRITERIA)}"),
    ({"criterion": None}, ValueError, "criterion: unknown None; choose from"),
    ({"criterion": "gradient"}, ValueError, "grads: criterion 'gradient' needs the gradients"),
    ({"lam": 0.5}, ValueError, "grads: lam needs the gradients"),
    ({"lam": -1}, ValueError, "lam: expected a number >= 0, got -1"),
    ({"lam": float("nan")}, ValueError, "lam: expected a number >= 0, got nan"),
    ({"lam": "1"}, TypeError, "lam: expected a number, got str"),
    ({"criterion": "random", "lam": 1}, ValueError, "lam: not used by criterion random"),
    ({"neuron_axis": 4}, ValueError, "neuron_axis: 4 is out of range for an array of 4 dimensions"),
    ({"neuron_axis": 0.0}, TypeError, "neuron_axis: expected an integer, got float"),
    ({"grads": G[0]}, ValueError, "grads: expected the weights' shape"),
    ({"grads": np.where(abs(G) > 2, np.nan, G), "lam": 1}, ValueError, r"grads\[\d, \d, \d, \d\] is NaN"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        sc.importance(W, **options)


def test_nan_and_undefined_scores_are_named():
    with pytest.raises(ValueError, match=r"^weights\[1\] is NaN"):
        sc.importance([0.0, np.nan])
    with pytest.raises(ValueError, match=r"^the score of weights\[0\] is NaN"):
        sc.importance([0.0, 1.0], [np.inf, 1.0], criterion="taylor")
    with pytest.raises(TypeError, match=r"^weights: expected real numbers"):
        sc.importance(["a"])


@pytest.mark.parametrize("criterion", ["wanda", "obs"])
def test_wanda_weighs_weights_by_their_inputs(criterion):
    w, x = np.array([[1.0, -2.0, 3.0], [0.0, 4.0, -1.0]]), np.array([[3.0, 0.0, 1.0], [4.0, 1.0, -1.0]])
    norms = np.linalg.norm(x, axis=0)
    scores = sc.importance(w, criterion=criterion, norms=norms)
    np.testing.assert_allclose(scores, abs(w) * norms)
    by_neuron = sc.importance(w, criterion=criterion, norms=norms, neuron_axis=0)
    np.testing.assert_allclose(by_neuron, scores.mean(axis=1))
    with pytest.raises(ValueError, match=r"norms\[1\] is NaN"):
        sc.importance(w, criterion=criterion, norms=[1, np.nan, 1])


def test_random_scores_have_nothing_to_do_with_weights_of_the_same_seed():
    model = sc.nn.Sequential([sc.nn.Dense(200), sc.nn.Dense(100)]).build((100,), random_state=3)
    weights = {name: model.parameters()[name].copy() for name in model.prunable()}
    pruned = sc.prune(model, 0.5, criterion="random", scope="layer", random_state=3, progress=False)
    for name, mask in pruned.masks.items():
        assert 0.45 < (weights[name][mask] > 0).mean() < 0.55
    scores = sc.importance(np.zeros((100, 50)), criterion="random", random_state=0)
    drawn = np.random.default_rng(0).random((100, 50))
    assert abs(np.corrcoef(scores.ravel(), drawn.ravel())[0, 1]) < 0.1
