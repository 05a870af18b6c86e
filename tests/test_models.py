"""Models as the pruning loops see them."""

import subprocess
import sys

import numpy as np
import pytest

import secateur as sc
from secateur import nn
from secateur.models.view import ADAPTERS, Consumer, register, view


def convnet(seed=0):
    return nn.Sequential(
        [
            nn.Conv2D(4, 3, padding="same"),
            nn.BatchNorm(),
            nn.ReLU(),
            nn.MaxPool2D(2),
            nn.Conv2D(6, 3, activation="tanh", use_bias=False),
            nn.Flatten(),
            nn.BatchNorm(),
            nn.Dense(5, activation="relu"),
            nn.Dense(3),
        ]
    ).build((2, 8, 10), seed)


def test_parameters_are_the_live_prunable_weights():
    model = convnet()
    tensors = view(model).parameters()
    assert list(tensors) == ["conv2d.weight", "conv2d_1.weight", "dense.weight", "dense_1.weight"]
    assert all(tensor is model.parameters()[name] for name, tensor in tensors.items())


def test_consumers_reach_through_everything_that_keeps_channels_apart():
    model_view = view(convnet())
    norm = ["gamma", "beta", "running_mean", "running_var"]
    assert model_view.consumers("conv2d.weight") == [
        Consumer("conv2d.bias", 0),
        *(Consumer(f"batch_norm.{key}", 0) for key in norm),
        Consumer("conv2d_1.weight", 1),
    ]
    pixels = 2 * 3
    assert model_view.consumers("conv2d_1.weight") == [
        *(Consumer(f"batch_norm_1.{key}", 0, pixels) for key in norm),
        Consumer("dense.weight", 1, pixels),
    ]
    assert model_view.consumers("dense_1.weight") == [Consumer("dense_1.bias", 0)]
    assert [model_view.positions(name) for name in model_view.parameters()] == [80, 6, 1, 1]


def assert_same(snapshot, other):
    assert snapshot.keys() == other.keys() and snapshot["provenance"] == other["provenance"]
    for group in ("parameters", "buffers", "masks"):
        assert snapshot[group].keys() == other[group].keys()
        for name, array in snapshot[group].items():
            np.testing.assert_array_equal(array, other[group][name])


def test_gradients_over_data_are_those_of_the_mean_loss():
    model = convnet()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 2, 8, 10)), rng.integers(0, 3, 300)
    small = nn.Sequential([nn.Flatten(), nn.Dense(4, activation="tanh"), nn.Dense(3)]).build((2, 8, 10), 0)
    before = small.snapshot()
    found = view(small).gradients((x, y))
    small.compute_gradients(x, y)
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, small.gradients()[name], rtol=1e-4, atol=1e-7)
    assert_same(small.snapshot(), before)
    # Running statistics, too, stay as they were.
    buffers = {name: array.copy() for name, array in model.buffers().items()}
    view(model).gradients((x, y))
    assert all(np.array_equal(array, buffers[name]) for name, array in model.buffers().items())


def test_clone_shares_nothing():
    model = convnet()
    clone = view(model).clone()
    for array in clone.parameters().values():
        array += 1
    assert all(
        not np.array_equal(array, clone.parameters()[name])
        for name, array in view(model).parameters().items()
    )
    assert not any(
        np.shares_memory(array, clone.parameters()[name]) for name, array in view(model).parameters().items()
    )


def test_replace_refuses_widths_that_do_not_fit_and_changes_nothing():
    model = convnet()
    before = model.snapshot()
    narrow = model.parameters()["conv2d.weight"][:2]
    with pytest.raises(ValueError, match=r"arrays: expected shape \(2,\) for conv2d.bias"):
        view(model).replace({"conv2d.weight": narrow})
    with pytest.raises(ValueError, match=r"no array 'conv2d\.wrong'"):
        view(model).replace({"conv2d.wrong": narrow})
    after = model.snapshot()
    assert_same(after, before)
    assert model.layers[0].filters == 4


def tied():
    model = nn.Sequential([nn.Dense(4, activation="relu"), nn.Dense(4, activation="relu"), nn.Dense(4)])
    model.build((4,), 0)
    model.layers[2].params["weight"] = model.layers[0].params["weight"]
    return model


def test_tied_weights_are_listed_once_and_stay_tied():
    model = tied()
    model_view = view(model)
    assert list(model_view.parameters()) == ["dense.weight", "dense_1.weight"]
    mask = np.eye(4, dtype=bool)
    clone = model_view.clone()
    clone.set_masks({"dense.weight": mask})
    assert clone.model.layers[0].params["weight"] is clone.model.layers[2].params["weight"]
    assert np.array_equal(clone.model.masks["dense_2.weight"], mask)
    clone.replace({"dense.weight": np.ones((4, 4), np.float32)})
    assert clone.model.layers[0].params["weight"] is clone.model.layers[2].params["weight"]
    with pytest.raises(sc.UnsupportedOpError, match="tied to"):
        model_view.consumers("dense.weight")


class Foreign(nn.Layer):
    kind = "foreign_to_secateur"

    def forward(self, x, training=False):
        return x


def test_foreign_layers_and_models_are_refused_by_name():
    model = nn.Sequential([nn.Dense(4), Foreign(), nn.Dense(2)]).build((3,), 0)
    with pytest.raises(sc.UnsupportedOpError, match="foreign_to_secateur: a layer of type Foreign"):
        view(model)
    with pytest.raises(TypeError, match="model: expected one of OnnxModel, Sequential, got dict"):
        view({})
    with pytest.raises(ValueError, match="model: it is not built"):
        view(nn.Sequential([nn.Dense(2)]))
    with pytest.raises(ValueError, match="model: it has no weights to prune"):
        view(nn.Sequential([nn.ReLU()]).build((3,)))


def test_a_softmax_within_the_model_couples_neurons():
    model = nn.Sequential([nn.Dense(4, activation="softmax"), nn.Dense(2)]).build((3,), 0)
    with pytest.raises(sc.UnsupportedOpError, match="dense: neurons before a softmax"):
        view(model).consumers("dense.weight")


class Wrapped:
    def __init__(self, model):
        self.inner = model


class WrappedView:
    def __init__(self, wrapped):
        self.model = wrapped


def test_adapters_are_found_by_the_name_of_the_type():
    register(f"{__name__}.Wrapped", f"{__name__}:WrappedView")
    try:

        class Child(Wrapped):
            pass

        child = Child(None)
        assert view(child).model is child
    finally:
        del ADAPTERS[f"{__name__}.Wrapped"]


def test_importing_the_package_imports_no_framework():
    code = (
        "import sys, secateur; print([m for m in ('torch', 'onnx', 'sklearn', 'scipy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
