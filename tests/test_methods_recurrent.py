"""Every method on recurrent layers: exact, nothing comes back, resumable, masked and packed."""

from __future__ import annotations

import numpy as np
import pytest

import secateur as sc
import test_methods
from secateur import nn
from secateur.nn import packed as packing
from test_methods import Keep, same, state
from test_methods_growth import METHODS, OPTIMIZERS, Watch


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch):
    monkeypatch.setattr(packing, "LEAST", 0)


def sums(n=192):
    """Whether the first features of a sequence add up to something positive; sequences of many lengths."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 6, 5)).astype(np.float32)
    return x, (x[:, :, 0].sum(axis=1) > 0).astype(int)


def network(seed=0):
    layers = [
        nn.Bidirectional(nn.LSTM(8, return_sequences=True)),
        nn.LayerNorm(),
        nn.TimeDistributed(nn.Dense(12, activation="relu")),
        nn.GRU(10),
        nn.Dense(2),
    ]
    return nn.Sequential(layers).build((6, 5), seed)


EVERY = {
    name: make
    for name, make in {**test_methods.METHODS, **METHODS}.items()
    # Layers that lie next to others keep their neurons.
    if "neuron" not in name and "2:4" not in name and name != "own"
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("packed", [None, 1.0])
def test_no_weight_revives_and_the_target_holds(name, optimizer, packed):
    method = EVERY[name]()
    # All steps that the figure asks for, where that is a matter of the optimizer.
    epochs = 84 if name in ("gradual", "rigl") and packed is None else 12
    x, y = sums()
    model, watch, pruner = network(), Watch(method), sc.DynamicPruner(method)
    model.fit(
        x, y, epochs=epochs, batch_size=16, optimizer=OPTIMIZERS[optimizer](), random_state=0, packed=packed,
        callbacks=[pruner, watch], progress=False,
    )  # fmt: skip
    assert watch.steps == 12 * epochs
    sizes = {name: model.parameters()[name].size for name in method.names}
    assert {key.rpartition(".")[2] for key in sizes} >= {"weight", "recurrent_weight"}
    zeros = sum(int((~model.masks[name]).sum()) for name in sizes)
    assert abs(zeros - method.target * sum(sizes.values())) <= 8 * (16 if "blocks" in name else 1)
    assert pruner.sparsity == pytest.approx(zeros / sum(sizes.values()))


@pytest.mark.parametrize("name", EVERY)
def test_resuming_equals_the_uninterrupted_run(name, tmp_path):
    x, y = sums()
    arguments = {"epochs": 6, "batch_size": 16, "random_state": 0, "progress": False, "packed": 1.0}
    whole, first, second = network(), network(), network(seed=5)
    whole.fit(x, y, callbacks=[sc.DynamicPruner(EVERY[name]())], **arguments)
    keep = Keep(2)
    first.fit(x, y, callbacks=[sc.DynamicPruner(EVERY[name]()), keep], **arguments)
    sc.save(keep.checkpoint, tmp_path / "c.safetensors")
    second.fit(
        x, y, callbacks=[sc.DynamicPruner(EVERY[name]()), nn.Callback()],
        resume=sc.load(tmp_path / "c.safetensors"), **arguments,
    )  # fmt: skip
    assert same(state(second), state(whole))


def test_pruned_recurrent_layers_learn_the_same_packed():
    x, y = sums()
    found = []
    for packed in (None, 1.0):
        model = network()
        sc.prune(model, 0.6, inplace=True, progress=False)
        history = model.fit(x, y, epochs=4, batch_size=16, random_state=0, packed=packed, progress=False)
        found.append((model.parameters(), history["loss"], history["packed"]))
    assert found[0][2] == [0.0] * 4 and found[1][2] == pytest.approx([1.0] * 4)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-3)
    for name, array in found[0][0].items():
        np.testing.assert_allclose(found[1][0][name], array, rtol=0, atol=2e-3)
