"""Compiled recurrent networks against their models, on every CPU target."""

from __future__ import annotations

import numpy as np
import pytest

import secateur as sc
from secateur import nn

SMALLEST = 1e-5


def stack(cell, return_sequences):
    """Everything that a sequence may meet, with padding."""
    return nn.Sequential(
        [
            nn.Embedding(30, 12, mask_zero=True),
            nn.Bidirectional(cell(10, return_sequences=True)),
            nn.LayerNorm(),
            nn.Dropout(0.2),
            cell(9, return_sequences=True),
            nn.Residual([nn.TimeDistributed([nn.Dense(9, activation="tanh"), nn.ReLU()])]),
            cell(17, return_sequences=return_sequences),
            *([nn.TimeDistributed(nn.Dense(4, activation="softmax"))] if return_sequences else [nn.Dense(4)]),
        ]
    )


def ids(rng, n, steps=7):
    x = rng.integers(1, 30, (n, steps))
    for row, length in zip(x, rng.integers(0, steps + 1, n), strict=True):
        row[length:] = 0
    return x


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.SimpleRNN])
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("target", sc._core.cpu_targets())
def test_recurrent_plans_equal_their_models(cell, return_sequences, target):
    model = stack(cell, return_sequences).build((7,), random_state=0)
    rng = np.random.default_rng(0)
    for sparsity in (None, 0.7):
        if sparsity is not None:
            model = sc.prune(model, sparsity, progress=False).model
        plan = sc.compile(model, batch=(1, 20), target=target)
        for n in (0, 1, 3, 20, 37):
            x = ids(rng, n)
            wanted = model.predict(x) if n else np.empty((0, *model.output_shape))
            got = plan(x)
            assert got.shape == wanted.shape
            np.testing.assert_allclose(got, wanted, rtol=0, atol=SMALLEST)


@pytest.mark.parametrize("steps", [1, 5])
def test_sequences_of_numbers_flattened(steps):
    model = nn.Sequential([nn.GRU(6, return_sequences=True), nn.Flatten(), nn.Dense(3)])
    model = model.build((steps, 4), random_state=0)
    x = np.random.default_rng(1).normal(size=(19, steps, 4))
    plan = sc.compile(model, batch=(1, 16))
    for n in (1, 19):
        np.testing.assert_allclose(plan(x[:n]), model.predict(x[:n]), rtol=0, atol=SMALLEST)
    one = nn.Sequential([nn.LSTM(6, return_sequences=True)]).build((steps, 4), random_state=0)
    np.testing.assert_allclose(sc.compile(one, batch=1)(x), one.predict(x), rtol=0, atol=SMALLEST)


def test_plans_of_sequences_survive_files(tmp_path):
    model = sc.prune(stack(nn.LSTM, True).build((7,), random_state=0), 0.8, progress=False).model
    plan = sc.compile(model, batch=(1, 20))
    sc.save(plan, tmp_path / "plan.safetensors")
    again = sc.load(tmp_path / "plan.safetensors")
    x = ids(np.random.default_rng(0), 20)
    np.testing.assert_array_equal(again(x), plan(x))
    assert again.choices == plan.choices
    table = plan.explain(20)
    for word in ("Embedding", "lstm_1.input", "LSTM", "Concat", "LayerNorm"):
        assert word in table
    row = next(row for row in plan.report(20) if row["name"] == "lstm_1")
    assert row["macs"] == 20 * 7 * 4 * 17 * 17 and row["nonzero_macs"] < row["macs"] and row["us_dense"] > 0


def test_bits_do_not_depend_on_threads():
    model = nn.Sequential([nn.LSTM(96, return_sequences=True), nn.LSTM(64)]).build((5, 40), random_state=0)
    model = sc.prune(model, 0.8, progress=False).model
    x = np.random.default_rng(0).normal(size=(48, 5, 40)).astype(np.float32)
    first = sc.compile(model, batch=(1, 48), threads=1)
    for threads in (2, 3, 8):
        other = sc.compile(model, batch=(1, 48), threads=threads, choices=first.choices)
        for n in (1, 48):
            np.testing.assert_array_equal(other(x[:n]), first(x[:n]))


@pytest.mark.parametrize("wrong", [-1.0, 30.0, 0.5, np.nan])
def test_ids_without_a_vector_are_named(wrong):
    plan = sc.compile(stack(nn.GRU, False).build((7,), random_state=0), batch=1)
    x = np.ones((1, 7))
    x[0, 3] = wrong
    with pytest.raises(ValueError, match="x: expected ids from 0 to 29, got"):
        plan(x)
    with pytest.raises(ValueError, match=r"x: expected shape \(n, 7\), got \[1, 8\]"):
        plan(np.ones((1, 8)))


@pytest.mark.parametrize("target", sc._core.cpu_targets())
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_words_and_their_letters(target, padding):
    words = [nn.Slice(0), nn.Embedding(30, 12, mask_zero=True)]
    of_a_word = [
        nn.Embedding(11, 5),
        nn.Conv1D(9, 3, 2, padding, "relu", dilation=1),
        nn.LayerNorm(),
        nn.GlobalMaxPool1D(),
        nn.Dense(7, activation="tanh"),
    ]
    letters = [nn.Slice(1, 7), nn.TimeDistributed(of_a_word)]
    layers = [
        nn.Concatenate(words, letters, [nn.Slice(2, 5), nn.TimeDistributed(nn.Dense(3))]),
        nn.Bidirectional(nn.LSTM(10, return_sequences=True)),
        nn.TimeDistributed(nn.Dense(4)),
    ]
    model = nn.Sequential(layers).build((6, 8), random_state=0)
    model = sc.prune(model, 0.6, progress=False).model
    rng = np.random.default_rng(0)
    x = rng.integers(0, 11, (37, 6, 8))
    x[::3, 4:] = 0
    plan = sc.compile(model, batch=(1, 20), target=target)
    for n in (1, 3, 37):
        np.testing.assert_allclose(plan(x[:n]), model.predict(x[:n]), rtol=0, atol=SMALLEST)
    x[0, 0, 3] = 11
    with pytest.raises(ValueError, match="x: expected ids from 0 to 10, got 11"):
        plan(x)


@pytest.mark.parametrize("steps", [1, 9])
def test_convolutions_over_steps(steps):
    layers = [nn.Embedding(20, 6), nn.Conv1D(8, 3, padding="same"), nn.ReLU(), nn.GlobalMaxPool1D()]
    model = nn.Sequential([*layers, nn.Dense(3)]).build((steps,), random_state=0)
    x = np.random.default_rng(0).integers(0, 20, (25, steps))
    plan = sc.compile(model, batch=(1, 16))
    for n in (1, 25):
        np.testing.assert_allclose(plan(x[:n]), model.predict(x[:n]), rtol=0, atol=SMALLEST)
    pooled = nn.Sequential([layers[0], nn.Conv1D(8, 1), nn.GlobalMaxPool1D()]).build((steps,), 0)
    np.testing.assert_allclose(sc.compile(pooled)(x), pooled.predict(x), rtol=0, atol=SMALLEST)


def test_what_plans_cannot_run_for_every_step_is_named():
    inner = nn.TimeDistributed([nn.Embedding(9, 3), nn.Flatten()])
    model = nn.Sequential([inner, nn.LSTM(3)]).build((4, 5), random_state=0)
    with pytest.raises(sc.UnsupportedOpError, match=r"time_distributed.flatten: plans cannot run"):
        sc.compile(model)


def test_long_sequences_run_in_slices():
    model = nn.Sequential([nn.LSTM(64), nn.Dense(2)]).build((600, 3), random_state=0)
    plan = sc.compile(model, batch=1, threads=1)
    # The products with all gates of a sample are 600 * 256 numbers.
    assert plan._plan.at_once(500) == (1 << 24) // (600 * 256)
    x = np.random.default_rng(0).normal(size=(120, 600, 3)).astype(np.float32)
    np.testing.assert_allclose(plan(x), model.predict(x), rtol=0, atol=1e-4)


def test_padding_within_a_step_says_nothing_of_the_steps():
    """Words of letters, of which only the first has none of padding."""
    x = np.array([[[7, 3], [7, 0], [7, 5], [7, 0]]], np.float32)
    inner = [nn.Embedding(9, 4, mask_zero=True), nn.GlobalMaxPool1D()]
    model = nn.Sequential([nn.Slice(1, 2), nn.TimeDistributed(inner), nn.LSTM(3)]).build((4, 2), 0)
    np.testing.assert_allclose(sc.compile(model, batch=1)(x), model.predict(x), atol=SMALLEST)
    deeper = nn.Sequential([nn.TimeDistributed(inner), nn.LSTM(3)]).build((4, 2), 0)
    np.testing.assert_allclose(sc.compile(deeper, batch=1)(x), deeper.predict(x), atol=SMALLEST)


@pytest.mark.parametrize("options", [{}, {"padding": "same"}, {"strides": 2}])
@pytest.mark.parametrize("residual", [False, True])
def test_padding_does_not_outlive_its_steps(options, residual):
    convolution = nn.Conv1D(5, 3, **options)
    if residual:
        convolution = nn.Residual([convolution], [nn.Conv1D(5, 3, **options)])
    layers = [nn.Embedding(9, 4, mask_zero=True), convolution, nn.LSTM(3)]
    model = nn.Sequential(layers).build((8,), random_state=0)
    x = ids(np.random.default_rng(0), 6, 8) % 9
    np.testing.assert_allclose(sc.compile(model, batch=6)(x), model.predict(x), atol=SMALLEST)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Concatenate([nn.Conv2D(4, 3, padding="same")], [nn.Conv2D(4, 3, padding="same")])], (4, 4, 4)),
        ([nn.Slice(0, 2), nn.Flatten(), nn.Dense(3)], (4, 4, 4)),
        ([nn.Slice(1), nn.Dense(3)], (4, 4)),
        ([nn.Slice(1)], (3, 4)),
        ([nn.Residual([nn.Slice(1)], [nn.Slice(2)]), nn.Dense(3)], (3, 4)),
    ],
)
def test_features_that_plans_do_not_have_are_refused(layers, shape):
    with pytest.raises(sc.UnsupportedOpError, match=r"(slice|concatenate).*: plans (have|take)"):
        sc.compile(nn.Sequential(layers).build(shape, 0), batch=1)
