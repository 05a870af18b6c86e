"""What pruning one layer at a time costs."""

import numpy as np
import pytest

import secateur as sc
from secateur import nn


def model():
    layers = [nn.Dense(24, activation="relu"), nn.Dense(16, activation="relu"), nn.Dense(3)]
    return nn.Sequential(layers).build((10,), 0)


X = np.random.default_rng(0).normal(size=(150, 10)).astype(np.float32)


@pytest.mark.parametrize("criterion", ["l1", "wanda", "obs"])
def test_each_layer_alone(criterion):
    whole = model()
    rows = sc.sensitivity(whole, X, (0.5, 0.9), criterion=criterion)
    assert [row["tensor"] for row in rows[::2]] == ["dense.weight", "dense_1.weight", "dense_2.weight"]
    for mild, hard in zip(rows[::2], rows[1::2], strict=True):
        assert mild["tensor"] == hard["tensor"] and 0 < mild["error"] < hard["error"]
        assert (mild["sparsity"], hard["sparsity"]) == pytest.approx((0.5, 0.9), abs=0.02)
    data = None if criterion == "l1" else X
    pruned = sc.prune(
        whole, 0.5, criterion=criterion, scope="layer", include="dense_1", data=data, progress=False
    )
    before, after = whole.predict(X), pruned.model.predict(X)
    wanted = np.sum(np.square(after - before, dtype=np.float64)) / np.sum(np.square(before, dtype=np.float64))
    assert rows[2]["error"] == pytest.approx(wanted, rel=1e-4)


def test_by_score_and_by_pattern(tmp_path):
    whole = model()
    y = whole.predict(X).argmax(1)
    rows = sc.sensitivity(whole, validate=(X, y), sparsities=(0.0, 0.99), include="dense*")
    assert [row["drop"] for row in rows[::2]] == [0, 0, 0] and min(row["drop"] for row in rows[1::2]) > 0
    called = sc.sensitivity(whole, validate=lambda m: len(m.layers), sparsities=(0.5,), include="dense")
    assert called == [{"tensor": "dense.weight", "sparsity": 0.5, "drop": 0.0}]
    (row,) = sc.sensitivity(whole, X, (None,), granularity="2:4", include="dense_1")
    assert row["sparsity"] == 0.5 and row["error"] > 0


def test_onnx_models_and_files(tmp_path):
    whole = model()
    sc.export_onnx(whole, tmp_path / "m.onnx")
    ours = sc.sensitivity(whole, X, (0.7,))
    theirs = sc.sensitivity(tmp_path / "m.onnx", X, (0.7,))
    for mine, found in zip(ours, theirs, strict=True):
        assert found["tensor"] == mine["tensor"] and found["error"] == pytest.approx(mine["error"], rel=1e-3)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, "data: give samples"),
        ({"data": X, "sparsities": ()}, "sparsities: expected at least one"),
        ({"data": X, "sparsities": (0.5, 2)}, r"sparsities: expected a number in \[0, 1\]"),
        ({"data": X, "granularity": "neuron"}, "granularity: a neuron belongs"),
        ({"data": X[:, :4]}, r"data: expected shape \(n, 10\)"),
        ({"data": X, "criterion": "taylor"}, "data: expected a pair"),
    ],
)
def test_bad_arguments(how, words):
    with pytest.raises(ValueError, match=words):
        sc.sensitivity(model(), **how)
