"""Residual connections: trained, pruned, compiled, saved."""

from __future__ import annotations

import numpy as np
import pytest

import reference
import secateur as sc
from secateur import nn


def convolution(filters, size=3, strides=1, activation=None):
    return nn.Conv2D(filters, size, strides, padding="same", activation=activation)


def resnet(shape=(2, 10, 12)):
    """Blocks with and without weights on the shortcut, in one another, and after a normalization."""
    model = nn.Sequential(
        [
            nn.Conv2D(16, 3, padding="same", use_bias=False),
            nn.BatchNorm(),
            nn.ReLU(),
            nn.Residual([convolution(16, activation="relu"), convolution(16), nn.BatchNorm()]),
            nn.ReLU(),
            nn.Residual([nn.Residual([convolution(16, 1)]), nn.Tanh()]),
            nn.BatchNorm(),
            nn.Residual(
                [convolution(24, 3, 2, "relu"), convolution(24)], [convolution(24, 1, 2), nn.BatchNorm()]
            ),
            nn.ReLU(),
            nn.AveragePool2D(2),
            nn.Residual([nn.MaxPool2D(3, 1, padding="same")]),
            nn.Flatten(),
            nn.Residual([nn.Dense(24, "sigmoid"), nn.Dense(144)]),
            nn.Dense(5),
        ]
    ).build(shape, random_state=0)
    rng = np.random.default_rng(0)
    for layer in model.leaves():
        if layer.buffers:
            layer.buffers["running_mean"] += rng.normal(0, 0.1, layer.buffers["running_mean"].shape)
            layer.buffers["running_var"] += rng.random(layer.buffers["running_var"].shape)
        if "bias" in layer.params:
            layer.params["bias"] += rng.normal(0, 0.1, layer.params["bias"].shape)
    return model


def pruned(model, density=0.3):
    rng = np.random.default_rng(1)
    model.set_masks({name: rng.random(model.parameters()[name].shape) < density for name in model.prunable()})
    return model


def test_gradients_are_those_of_the_sum():
    layer = nn.Residual(
        [convolution(3, activation="tanh"), convolution(4, (2, 3), 2)], [convolution(4, 1, 2)]
    )
    rng = np.random.default_rng(0)
    model = nn.Sequential([convolution(2, 1), layer, nn.Tanh()]).build((2, 5, 4), random_state=0)
    first, one, two, other = (leaf for leaf in model.leaves() if leaf.params)
    x = rng.normal(size=(2, 2, 5, 4)).astype(np.float32)
    weights = rng.normal(size=(2, 4, 3, 2)).astype(np.float32)

    def total(params):
        def conv(leaf, x):
            weight, bias = (params[f"{leaf.name}.{key}"] for key in ("weight", "bias"))
            return reference.conv2d(x, weight, bias, leaf.strides, leaf.pads)

        inner = conv(first, x.astype(np.float64))
        both = conv(two, np.tanh(conv(one, inner))) + conv(other, inner)
        return float((np.tanh(both) * weights).sum())

    params = {name: array.astype(np.float64) for name, array in model.parameters().items()}
    assert model.forward(x, training=True).shape == weights.shape
    model.backward(weights)
    for name, gradient in model.gradients().items():
        numeric = reference.numeric_gradient(
            lambda v, name=name: total({**params, name: v}), params[name].copy()
        )
        np.testing.assert_allclose(gradient, numeric, rtol=3e-4, atol=3e-4)
    assert set(model.gradients()) == set(params)


def test_names_and_sizes():
    model = resnet()
    inside = ["conv2d.weight", "conv2d.bias", "conv2d_1.weight", "conv2d_1.bias"]
    inside += ["batch_norm.gamma", "batch_norm.beta"]
    assert list(model.parameters())[3:9] == [f"residual.{name}" for name in inside]
    assert "residual_1.residual.conv2d.weight" in model.prunable()
    assert "residual_2.shortcut.conv2d.weight" in model.prunable()
    assert "residual_2.shortcut.conv2d" in model.summary()
    assert model.macs() == sum(leaf.macs() for leaf in model.leaves()) == model.copy().macs()
    assert len(model.get_weights()) == len(model.parameters()) + len(model.buffers())


@pytest.mark.parametrize("target", sc._core.cpu_targets())
def test_plans_equal_their_models(target):
    model = pruned(resnet())
    plan = sc.compile(model, batch=(1, 8, 32), threads=2, target=target)
    x = np.random.default_rng(2).standard_normal((50, 2, 10, 12), dtype=np.float32)
    for n in (0, 1, 2, 7, 8, 31, 32, 50):
        before = x[:n].copy()
        y = plan(x[:n])
        assert y.shape == (n, 5)
        if n:
            np.testing.assert_allclose(y, model.predict(x[:n]), atol=2e-5, rtol=2e-5)
        assert np.array_equal(x[:n], before)


def test_sums_are_part_of_the_layers_before_them():
    block = nn.Residual([convolution(32, activation="relu"), convolution(32)])
    model = nn.Sequential([block, nn.ReLU()]).build((32, 14, 14), random_state=0)
    for batch in (1, 32):
        plan = sc.compile(model, batch=batch, threads=1)
        names = {row["name"] for row in plan.report(batch, dense=False)}
        assert "residual" not in names and "relu" not in names
        # The input is the shortcut, and is not copied unless the layers want it laid out anew.
        images = 32 * 14 * 14 * 4 * batch
        assert plan.activation_bytes(batch) < 12 * images


def test_files(tmp_path):
    model, x = pruned(resnet()), np.random.default_rng(3).standard_normal((9, 2, 10, 12), dtype=np.float32)
    sc.save(model, tmp_path / "model.safetensors")
    loaded = sc.load(tmp_path / "model.safetensors")
    assert np.array_equal(loaded.predict(x), model.predict(x))
    assert loaded.masks.keys() == model.masks.keys()
    plan = sc.compile(model, batch=(1, 9), threads=1)
    sc.save(plan, tmp_path / "plan.safetensors")
    assert np.array_equal(sc.load(tmp_path / "plan.safetensors")(x), plan(x))


def test_training_and_pruning():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 240)
    x = (rng.normal(size=(3, 2, 8, 8))[y] * 0.5 + rng.normal(size=(240, 2, 8, 8))).astype(np.float32)
    block = nn.Residual([convolution(12, activation="relu"), convolution(12), nn.BatchNorm()])
    model = nn.Sequential([convolution(12), block, nn.ReLU(), nn.MaxPool2D(4), nn.Flatten(), nn.Dense(3)])
    pruner = sc.DynamicPruner(sc.Gradual(sparsity=0.8, every=5))
    model.fit(x, y, epochs=8, batch_size=24, optimizer=nn.Adam(0.01), callbacks=[pruner], random_state=0)
    assert model.evaluate(x, y)["accuracy"] > 0.9
    kept = sum(int(np.count_nonzero(model.parameters()[name])) for name in model.prunable())
    total = sum(model.parameters()[name].size for name in model.prunable())
    assert abs(kept - 0.2 * total) <= 1
    result = sc.prune(model, 0.9, scope="erk", progress=False)
    plan = sc.compile(result.model, batch=8, threads=1)
    np.testing.assert_allclose(plan(x), result.model.predict(x), atol=1e-5, rtol=1e-5)


def test_neurons_inside_may_go_and_those_in_the_sum_not():
    model = resnet()
    inside = ["residual.conv2d", "residual_2.conv2d", "residual_4.dense"]
    result = sc.prune(model, 0.05, granularity="neuron", include=inside, progress=False)
    assert result.model.num_parameters() < model.num_parameters()
    x = np.ones((2, 2, 10, 12), np.float32)
    np.testing.assert_allclose(
        sc.compile(result.model, batch=2, threads=1)(x), result.model.predict(x), atol=1e-4
    )
    for name in ("conv2d", "residual.conv2d_1", "residual_2.shortcut.conv2d", "residual_1.residual.conv2d"):
        with pytest.raises(sc.UnsupportedOpError, match=f"{name}: neurons that are added to others"):
            sc.prune(model, 0.1, granularity="neuron", include=[name], progress=False)


def test_bad_arguments():
    layer = nn.ReLU()
    with pytest.raises(ValueError, match="layers: expected at least one layer, got none"):
        nn.Residual([])
    with pytest.raises(ValueError, match="layers: expected Layer objects, got int at 1"):
        nn.Residual([layer, 3])
    with pytest.raises(ValueError, match="layers: the same relu object twice"):
        nn.Residual([layer], [layer])
    with pytest.raises(ValueError, match="layers: the same relu object twice"):
        nn.Sequential([nn.Residual([layer]), layer])
    with pytest.raises(
        ValueError, match=r"residual: cannot add \(4,\), the shortcut's output, to the layers' \(3,\)"
    ):
        nn.Sequential([nn.Residual([nn.Dense(3)])]).build((4,))
