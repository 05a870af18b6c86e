"""N:M patterns hold in every scope, in static and in dynamic pruning."""

import numpy as np
import pytest

import secateur as sc
from secateur import nn

X = np.random.default_rng(0).normal(size=(64, 10))
Y = np.arange(64) % 3


def model():
    """Rows of 10, 16 and 7 weights: two of three end in the middle of a group."""
    layers = [nn.Dense(16, activation="relu"), nn.Dense(7, activation="relu"), nn.Dense(3)]
    return nn.Sequential(layers).build((10,), 0)


def check(masks, n, m):
    """Check that every row of every tensor has what the pattern leaves, and no group more."""
    for name, mask in masks.items():
        padded = np.pad(mask, ((0, 0), (0, -mask.shape[1] % m))).reshape(len(mask), -1, m)
        assert padded.sum(-1).max() <= n, name
        full, tail = divmod(mask.shape[1], m)
        assert mask.sum() == len(mask) * (full * n + min(tail, n)), name


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8"])
@pytest.mark.parametrize("scope", ["global", "layer", "erk", "lamp", "output"])
def test_static(scope, pattern):
    n, m = map(int, pattern.split(":"))
    check(sc.prune(model(), granularity=pattern, scope=scope).masks, n, m)
    found = sc.prune(model(), granularity=pattern, scope=scope, schedule="linear")
    check(found.masks, n, m)
    steps = [record["sparsity"] for record in found.history]
    assert steps == sorted(steps) and steps[1] == pytest.approx(steps[-1] / 5, abs=0.02)


@pytest.mark.parametrize("scope", ["global", "layer", "erk", "lamp", "output"])
def test_of_a_model_that_is_pruned_already(scope):
    """What was gone stays so, and no group has more than N."""
    before = sc.prune(model(), 0.5).model
    masks = sc.prune(before, granularity="2:4", scope=scope).masks
    for name, mask in masks.items():
        assert (mask <= before.masks[name]).all()
        padded = np.pad(mask, ((0, 0), (0, -mask.shape[1] % 4))).reshape(len(mask), -1, 4)
        left = np.pad(before.masks[name], ((0, 0), (0, -mask.shape[1] % 4))).reshape(padded.shape)
        np.testing.assert_array_equal(padded.sum(-1), np.minimum(left.sum(-1), 2))


@pytest.mark.parametrize(
    "method",
    [
        lambda: sc.SET(0.5, every=2, granularity="2:4"),
        lambda: sc.RigL(0.5, every=2, granularity="2:4"),
        lambda: sc.RigL(0.5, every=2, granularity="2:4", scope="layer"),
        lambda: sc.Gradual(0.5, every=2, granularity="2:4", scope="erk"),
    ],
)
def test_dynamic(method):
    trained = model()
    pruner = sc.DynamicPruner(method())
    trained.fit(X, Y, epochs=4, batch_size=16, callbacks=[pruner], random_state=0, progress=False)
    assert len(trained.masks) == 3
    check(trained.masks, 2, 4)
