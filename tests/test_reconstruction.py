"""Layer-wise reconstruction, against plain float64 renderings and brute force."""

import itertools

import numpy as np
import pytest

from secateur.calibration import Moments
from secateur.granularity import Blocks, Pattern, Weights
from secateur.reconstruction import DAMPING, least_squares, reconstruct


def layer(seed=0, rows=3, k=6, n=200, groups=1):
    """Weights, and correlated inputs now and before."""
    rng = np.random.default_rng(seed)
    before = rng.normal(size=(groups, n, k)) @ rng.normal(size=(groups, k, k)) + rng.normal(size=k)
    now = before + 0.1 * rng.normal(size=before.shape)
    return rng.normal(size=(groups * rows, k)).astype(np.float32), now, before


def moments(now, before):
    n = now.shape[1]
    gram, cross = now.swapaxes(1, 2) @ now / n, before.swapaxes(1, 2) @ now / n
    return Moments(gram, cross, now.mean(1), before.mean(1))


def error(weights, tensor, now, before):
    """The mean square of what the layer gives too much or too little, with the damping's part."""
    groups = len(now)
    pruned, whole = (
        np.asarray(each, np.float64).reshape(groups, -1, now.shape[2]) for each in (weights, tensor)
    )
    missing = before @ whole.swapaxes(1, 2) - now @ pruned.swapaxes(1, 2)
    damping = DAMPING * np.mean(np.square(now))
    return np.sum(np.square(missing)) / now.shape[1] + damping * np.sum(np.square(pruned - whole))


def best(tensor, mask, now, before):
    """The weights that a mask leaves, row by row, by NumPy's solver."""
    groups, n, k = now.shape
    result = np.zeros(tensor.shape)
    for row, kept in enumerate(mask):
        x, x0 = now[row // (len(tensor) // groups)], before[row // (len(tensor) // groups)]
        hold = np.sqrt(DAMPING * np.mean(np.square(now)) * n) * np.eye(k)
        system, wanted = np.concatenate([x, hold]), np.concatenate([x0 @ tensor[row], hold @ tensor[row]])
        result[row, kept] = np.linalg.lstsq(system[:, kept], wanted, rcond=None)[0]
    return result


@pytest.mark.parametrize("groups", [1, 2])
def test_the_weights_that_stay_are_the_best_for_their_mask(groups):
    tensor, now, before = layer(groups=groups, rows=4, k=9)
    weights, mask = reconstruct(tensor, moments(now, before), None, 20, Weights(), "layer")
    assert mask.sum() == 20 and not weights[~mask].any() and weights.dtype == np.float32
    wanted = best(tensor, mask, now, before)
    assert error(weights, tensor, now, before) <= 1.01 * error(wanted, tensor, now, before)


def test_least_squares_solves_every_row_on_its_mask():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2, 30, 12))
    hessian, target = a.swapaxes(1, 2) @ a, rng.normal(size=(2, 5, 12))
    mask = rng.random((2, 5, 12)) < 0.5
    mask[0, 0] = False
    found = least_squares(np.zeros(mask.shape), target, hessian, mask)
    assert not found[~mask].any()
    for g, row in np.ndindex(2, 5):
        kept = mask[g, row]
        exact = np.linalg.solve(hessian[g][np.ix_(kept, kept)], target[g, row, kept])
        np.testing.assert_allclose(found[g, row, kept], exact, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("seed", range(8))
def test_near_the_best_of_all_masks(seed):
    """Brute force over every mask of a row: what is chosen step by step is not far from it."""
    tensor, now, before = layer(seed, rows=1, k=7)
    weights, _ = reconstruct(tensor, moments(now, before), None, 3, Weights(), "layer")
    found = []
    for kept in itertools.combinations(range(7), 3):
        mask = np.isin(np.arange(7), kept)[None]
        found.append(error(best(tensor, mask, now, before), tensor, now, before))
    plain = np.argsort(-np.abs(tensor[0]))[:3]
    magnitude = np.where(np.isin(np.arange(7), plain), tensor, 0)
    mine = error(weights, tensor, now, before)
    assert min(found) <= mine * 1.0001
    assert mine < error(magnitude, tensor, now, before)
    assert np.mean(np.array(found) < mine) < 0.3


@pytest.mark.parametrize("seed", range(5))
def test_better_than_masking_alone(seed):
    tensor, now, before = layer(seed, rows=16, k=32, n=500)
    weights, mask = reconstruct(tensor, moments(now, before), None, 100, Weights(), "layer")
    assert error(weights, tensor, now, before) < 0.8 * error(tensor * mask, tensor, now, before)


def test_every_output_keeps_as_many():
    tensor, now, before = layer(rows=8, k=20)
    _, mask = reconstruct(tensor, moments(now, before), None, 43, Weights(), "output")
    assert sorted(mask.sum(1)) == [5] * 5 + [6] * 3


@pytest.mark.parametrize("shape", [(4, 16), (4, 18), (4, 2, 3, 3)])
def test_patterns_hold(shape):
    k = int(np.prod(shape[1:]))
    tensor, now, before = layer(rows=shape[0], k=k)
    pattern = Pattern(2, 4)
    keep = shape[0] * pattern.kept(k)
    weights, mask = reconstruct(tensor.reshape(shape), moments(now, before), None, keep, pattern, "layer")
    assert mask.shape == weights.shape == shape and mask.sum() == keep
    rows = mask.reshape(shape[0], k)
    for start in range(0, k, 4):
        assert rows[:, start : start + 4].sum(1).max() <= 2


def test_blocks_go_whole():
    tensor, now, before = layer(rows=8, k=12)
    weights, mask = reconstruct(tensor, moments(now, before), None, 32, Blocks(4, 1), "layer")
    assert mask.sum() == 32
    blocks = mask.reshape(2, 4, 12).sum(1)
    assert set(blocks.ravel()) <= {0, 4}
    assert not weights[~mask].any()


def test_what_is_removed_stays_removed_and_the_rest_is_deterministic():
    tensor, now, before = layer(rows=8, k=20)
    first, mask = reconstruct(tensor, moments(now, before), None, 80, Weights(), "layer")
    second, fewer = reconstruct(first, moments(now, before), mask, 40, Weights(), "layer")
    assert fewer.sum() == 40 and not (fewer & ~mask).any() and not second[~fewer].any()
    again, same = reconstruct(tensor, moments(now, before), None, 80, Weights(), "layer")
    assert np.array_equal(first, again) and np.array_equal(mask, same)


@pytest.mark.parametrize("keep", [0, 1, 18])
def test_all_one_and_none(keep):
    tensor, _, before = layer()
    weights, mask = reconstruct(tensor, moments(before, before), None, keep, Weights(), "layer")
    assert mask.sum() == keep and np.count_nonzero(weights) == keep
    if keep == 18:
        np.testing.assert_allclose(weights, tensor, rtol=1e-6)


def test_inputs_that_are_zero_change_nothing():
    tensor = np.array([[1.0, -2.0, 3.0]], np.float32)
    nothing = np.zeros((1, 10, 3))
    weights, _ = reconstruct(tensor, moments(nothing, nothing), None, 2, Weights(), "layer")
    np.testing.assert_array_equal(weights, [[0, -2, 3]])
    half = np.random.default_rng(0).normal(size=(1, 50, 3)) * [1, 0, 1]
    weights, _ = reconstruct(tensor, moments(half, half), None, 2, Weights(), "layer")
    assert weights[0, 1] == 0 and np.isfinite(weights).all()


def test_centred_moments_leave_the_mean_to_the_bias():
    tensor, now, before = layer(rows=6, k=10, n=400)
    known = moments(now, before)
    plain, mask = reconstruct(tensor, known, None, 20, Weights(), "layer")
    weights, same = reconstruct(tensor, known.centred(), mask, 20, Weights(), "layer")
    assert np.array_equal(mask, same)
    missing = before[0] @ tensor.T - now[0] @ weights.T
    corrected = np.mean(np.square(missing - missing.mean(axis=0)))
    assert corrected < np.mean(np.square(before[0] @ tensor.T - now[0] @ plain.T))
