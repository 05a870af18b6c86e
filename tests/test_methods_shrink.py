"""Neurons that leave the arrays while the model trains."""

import numpy as np
import pytest

import secateur as sc
from secateur import nn
from test_methods import SIZE, Keep, blobs, mlp, same, state

METHODS = {
    "gradual": lambda: sc.Gradual(0.6, every=5, granularity="neuron"),
    "gradient": lambda: sc.GradientDynamic(0.6, every=5, rate=0.2, granularity="neuron"),
    "sparse": lambda: sc.SparseDynamic(0.6, rate=0.02, granularity="neuron"),
    "snip": lambda: sc.SNIP(0.6, granularity="neuron"),
}


def cnn(seed=0):
    return nn.Sequential(
        [
            nn.Conv2D(8, 3, activation="relu"), nn.BatchNorm(), nn.MaxPool2D(2),
            nn.Conv2D(12, 3, padding="same"), nn.ReLU(),
            nn.Flatten(), nn.Dense(20, activation="relu"), nn.Dense(3),
        ]
    ).build((1, 8, 8), seed)  # fmt: skip


class Widths(nn.Callback):
    """The number of weights after every batch, and the shapes of all that belongs to them."""

    def __init__(self):
        self.sizes = []

    def on_batch_end(self, state):
        model, params = state.model, state.model.parameters()
        self.sizes.append(sum(params[name].size for name in model.prunable()))
        for memory in state.optimizer.slots.values():
            assert {name: array.shape for name, array in memory.items()} == {
                name: array.shape for name, array in params.items()
            }


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("optimizer", [lambda: nn.Adam(0.01), lambda: nn.SGD(0.05, momentum=0.9)])
def test_shapes_follow_the_sparsity(name, optimizer):
    x, y = blobs()
    model, widths = mlp(), Widths()
    pruner = sc.DynamicPruner(METHODS[name](), shrink=True)
    model.fit(
        x, y, epochs=20, optimizer=optimizer(), callbacks=[pruner, widths], random_state=0, progress=False
    )
    assert widths.sizes == sorted(widths.sizes, reverse=True)
    assert pruner.sparsity == pytest.approx(0.6, abs=40 / SIZE)
    assert widths.sizes[-1] == round((1 - pruner.sparsity) * SIZE)
    assert model.evaluate(x, y)["accuracy"] > 0.9
    assert model.predict(x).shape == (320, 3)


def test_shrinking_computes_what_masking_does():
    """A removed neuron's bias cannot be seen by what follows it, so both trainings are one."""
    x, y = blobs()
    models = {}
    for shrink in (False, True):
        models[shrink] = mlp()
        pruner = sc.DynamicPruner(METHODS["gradual"](), shrink=shrink)
        models[shrink].fit(
            x, y, epochs=10, optimizer=nn.SGD(0.05, momentum=0.9), callbacks=[pruner], random_state=0,
            progress=False,
        )  # fmt: skip
    small = sc.remove_dead_neurons(models[False])
    assert small.num_parameters() == models[True].num_parameters()
    np.testing.assert_allclose(models[True].predict(x), small.predict(x), rtol=1e-3, atol=1e-3)


def test_channels_leave_with_their_normalization():
    _, y = blobs(200)
    images = np.random.default_rng(0).normal(size=(200, 1, 8, 8)).astype(np.float32) + y[:, None, None, None]
    model = cnn()
    size = sum(model.parameters()[name].size for name in model.prunable())
    pruner = sc.DynamicPruner(sc.Gradual(0.7, every=2, granularity="neuron"), shrink=True)
    model.fit(images, y, epochs=8, callbacks=[pruner], random_state=0, progress=False)
    left = sum(model.parameters()[name].size for name in model.prunable())
    assert left / size == pytest.approx(0.3, abs=0.08)  # a channel is 8%
    assert model.layers[1].params["gamma"].shape == (model.layers[0].filters,)
    plan = sc.compile(model, batch=8, threads=1)
    np.testing.assert_allclose(plan(images[:8]), model.predict(images[:8]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_resuming_equals_the_uninterrupted_run(name, tmp_path):
    x, y = blobs()
    arguments = {"epochs": 8, "random_state": 0, "progress": False}
    whole, first, second = mlp(), mlp(), mlp(seed=5)
    straight, resumed = (sc.DynamicPruner(METHODS[name](), shrink=True) for _ in range(2))
    whole.fit(x, y, callbacks=[straight], **arguments)
    keep = Keep(4)
    first.fit(x, y, callbacks=[sc.DynamicPruner(METHODS[name](), shrink=True), keep], **arguments)
    assert keep.checkpoint.model.num_parameters() < second.num_parameters()
    sc.save(keep.checkpoint, tmp_path / "c.safetensors")
    checkpoint = sc.load(tmp_path / "c.safetensors")
    second.fit(x, y, callbacks=[resumed, nn.Callback()], resume=checkpoint, **arguments)
    assert same(state(second), state(whole))
    assert resumed.history == straight.history


def test_the_best_model_comes_back_with_its_neurons():
    x, y = blobs(600)
    held_out = (x[400:], y[400:])
    for callbacks in (
        [sc.DynamicPruner(sc.Gradual(0.97, every=5, granularity="neuron"), sc.MaxDrop(0.02), shrink=True)],
        [
            sc.DynamicPruner(sc.Gradual(0.97, every=5, granularity="neuron"), shrink=True),
            nn.EarlyStopping("val_accuracy", patience=50),
        ],
    ):
        model = mlp()
        history = model.fit(
            x[:400], y[:400], epochs=25, optimizer=nn.Adam(0.01), callbacks=callbacks,
            validation_data=held_out, random_state=0, progress=False,
        )  # fmt: skip
        best = max(history["val_accuracy"])
        assert model.evaluate(*held_out)["accuracy"] >= best - 0.02


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="shrink: only neurons leave the arrays; the method needs gran"):
        sc.DynamicPruner(sc.Gradual(0.5), shrink=True)
    model, wider = mlp(), nn.Sequential([nn.Dense(3)]).build((10,), 0)
    before = state(model)
    for other in (wider, mlp(3)):
        snapshot = other.snapshot()
        if other is not wider:
            snapshot["parameters"]["dense.bias"] = np.zeros(3, np.float32)
        with pytest.raises(ValueError, match="snapshot: it belongs to a model of another shape"):
            model.restore(snapshot, resize=True)
        assert same(state(model), before)


def test_a_checkpoint_of_a_wider_model_is_refused():
    x, y = blobs()
    keep = Keep(0)
    wide = nn.Sequential([nn.Dense(48, activation="relu"), nn.BatchNorm(), nn.Dense(16), nn.Dense(3)])
    wide.fit(x, y, callbacks=[keep], progress=False)
    with pytest.raises(ValueError, match="snapshot: it belongs to a model of another shape"):
        mlp().fit(x, y, epochs=2, resume=keep.checkpoint, progress=False)
