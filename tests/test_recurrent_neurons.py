"""Hidden units: taken out of recurrent layers with all that belongs to them."""

from __future__ import annotations

import numpy as np
import pytest

import secateur as sc
from secateur import nn
from secateur.models.view import Consumer, view
from secateur.neurons import Layout


def stacked(cell=nn.LSTM):
    """A chain in which every kind of reader follows a recurrent layer."""
    layers = [
        cell(12, return_sequences=True),
        nn.Dropout(0.1),
        cell(10, return_sequences=True),
        nn.TimeDistributed([nn.Dense(8, activation="relu"), nn.ReLU()]),
        cell(9, return_sequences=True),
        nn.Flatten(),
        nn.Dense(6, activation="tanh"),
        nn.Dense(3),
    ]
    return nn.Sequential(layers).build((4, 5), random_state=0)


def test_what_belongs_to_a_unit():
    model_view = view(stacked())
    assert model_view.neurons("lstm.weight") == [
        Consumer("lstm.weight", 0, 1, 4),
        Consumer("lstm.recurrent_weight", 0, 1, 4),
        Consumer("lstm.recurrent_weight", 1),
    ]
    assert model_view.neurons("lstm.recurrent_weight") == []
    assert model_view.consumers("lstm.weight") == [
        Consumer("lstm.bias", 0, 1, 4),
        Consumer("lstm_1.weight", 1),
    ]
    assert model_view.consumers("lstm_1.weight")[-1] == Consumer("time_distributed.dense.weight", 1)
    assert model_view.consumers("time_distributed.dense.weight")[-1] == Consumer("lstm_2.weight", 1)
    assert model_view.consumers("lstm_2.weight")[-1] == Consumer("dense.weight", 1, 1, 4)
    layout = Layout.of(model_view)
    sizes = {name: tensor.size for name, tensor in model_view.parameters().items()}
    assert {name: layout.weights(name, layout.widths) for name in sizes} == sizes
    # The unit's own rows and columns, those of the recurrence meeting in four weights, and its readers.
    weights, macs = layout.saving("lstm.weight", layout.widths)
    assert weights == 4 * 5 + 4 * (2 * 12 - 1) + 4 * 10
    assert macs == 4 * weights


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.SimpleRNN])
def test_units_of_zeros_go_without_a_change(cell):
    model = stacked(cell)
    rng = np.random.default_rng(0)
    layout, model_view = Layout.of(view(model)), view(model)
    masks = {name: np.ones(tensor.shape, bool) for name, tensor in model_view.parameters().items()}
    gone = {}
    for name, consumers in layout.removable.items():
        width = layout.widths[name]
        gone[name] = np.sort(rng.choice(width, width // 3, replace=False))
        for consumer in consumers:
            if consumer.name in masks:
                along = np.moveaxis(masks[consumer.name], consumer.axis, 0)
                along[consumer.places(gone[name], width)] = False
    model.set_masks(masks)
    smaller = sc.remove_dead_neurons(model)
    for layer, name in zip(smaller.leaves(), [leaf.name for leaf in model.leaves()], strict=True):
        if f"{name}.weight" in gone:
            width = layout.widths[f"{name}.weight"] - len(gone[f"{name}.weight"])
            assert layer.output_shape[-1] == width, name
    x = rng.normal(size=(7, 4, 5))
    np.testing.assert_allclose(smaller.predict(x), model.predict(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("criterion", ["l1", "l2", "gradient"])
def test_pruning_units_meets_the_target(criterion, tmp_path):
    model = nn.Sequential([nn.Embedding(20, 8), nn.LSTM(48), nn.Dense(3)]).build((6,), random_state=0)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 20, (64, 6)), rng.integers(0, 3, 64)
    data = (x, y) if criterion == "gradient" else None
    result = sc.prune(
        model, 0.8, granularity="neuron", criterion=criterion, data=data, round_to=None, progress=False
    )
    before = sum(model.parameters()[name].size for name in model.prunable())
    after = sum(result.model.parameters()[name].size for name in result.model.prunable())
    units = result.model.layers[1].units
    group = 4 * (8 + 2 * units + 1) + 3
    assert abs(1 - after / before - 0.8) <= group / before
    kept = model.layers[1].params["recurrent_weight"].reshape(4, 48, 48)
    small = result.model.layers[1].params["recurrent_weight"].reshape(4, units, units)
    order = [int(np.flatnonzero(np.isin(kept[0], row).sum(axis=1) == units)[0]) for row in small[0]]
    np.testing.assert_array_equal(small, kept[:, order][:, :, order])
    sc.save(result.model, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(sc.load(tmp_path / "model.safetensors").predict(x), result.model.predict(x))
    np.testing.assert_allclose(sc.compile(result.model)(x), result.model.predict(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shrink", [False, True])
def test_units_go_while_training(shrink):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 5, 4))
    y = (x[:, :, 0].sum(axis=1) > 0).astype(int)
    model = nn.Sequential([nn.GRU(24), nn.Dense(2)])
    pruner = sc.DynamicPruner(sc.Gradual(0.7, granularity="neuron", every=5), shrink=shrink)
    model.fit(x, y, epochs=12, optimizer=nn.Adam(0.01), random_state=0, callbacks=[pruner], progress=False)
    assert model.layers[0].units < 24 if shrink else model.layers[0].units == 24
    smaller = sc.remove_dead_neurons(model)
    assert smaller.layers[0].units <= 14
    np.testing.assert_allclose(smaller.predict(x), model.predict(x), rtol=0, atol=1e-5)
    assert model.evaluate(x, y)["accuracy"] > 0.9


def test_units_that_cannot_go_are_named():
    both = nn.Sequential([nn.Bidirectional(nn.LSTM(4)), nn.Dense(3)]).build((4, 2), 0)
    with pytest.raises(
        sc.UnsupportedOpError, match=r"bidirectional.ahead: neurons whose outputs lie next to"
    ):
        view(both).consumers("bidirectional.ahead.weight")
    read = nn.Sequential([nn.LSTM(4, return_sequences=True), nn.Bidirectional(nn.GRU(4)), nn.Dense(3)])
    with pytest.raises(sc.UnsupportedOpError, match="lstm: neurons that are read by several layers"):
        view(read.build((4, 2), 0)).consumers("lstm.weight")
    normal = nn.Sequential([nn.LSTM(4, return_sequences=True), nn.LayerNorm(), nn.GRU(3), nn.Dense(3)])
    with pytest.raises(sc.UnsupportedOpError, match="layer_norm: neurons before a layer_norm"):
        view(normal.build((4, 2), 0)).consumers("lstm.weight")
    # The last layer's units are the output.
    last = nn.Sequential([nn.LSTM(6, return_sequences=True), nn.LSTM(4)]).build((4, 2), 0)
    assert set(Layout.of(view(last)).removable) == {"lstm.weight"}
