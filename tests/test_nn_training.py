"""Training: optimizers, masks, callbacks, resuming, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from secateur import nn


def blobs(n=240, features=8, classes=3, seed=0):
    """Samples around one centre per class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    x = rng.normal(size=(classes, features))[y] * 2 + rng.normal(size=(n, features))
    return x.astype(np.float32), y


def mlp():
    return nn.Sequential([nn.Dense(16, activation="relu"), nn.BatchNorm(), nn.Dense(3)])


def weights(model):
    return {name: array.copy() for name, array in (model.parameters() | model.buffers()).items()}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


# Learning


def test_digits_are_learnt():
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x, y = digits.images[order, None] / 16, digits.target[order]
    model = nn.Sequential(
        [
            nn.Conv2D(16, 3, padding="same", activation="relu"),
            nn.MaxPool2D(2),
            nn.Conv2D(32, 3, activation="relu"),
            nn.Flatten(),
            nn.Dense(10),
        ]
    )
    history = model.fit(x[:1400], y[:1400], epochs=8, validation_data=(x[1400:], y[1400:]), random_state=0)
    assert history["val_accuracy"][-1] > 0.95
    assert history["accuracy"][-1] > 0.9
    assert model.evaluate(x[1400:], y[1400:])["accuracy"] == history["val_accuracy"][-1]
    assert np.mean(model.predict(x[1400:]).argmax(1) == y[1400:]) == history["val_accuracy"][-1]


def test_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    y = x @ [1.0, -2.0, 3.0, 0.5] + 1
    model = nn.Sequential([nn.Dense(1)])
    history = model.fit(x, y, epochs=40, loss="mse", optimizer=nn.SGD(0.05, momentum=0.9), random_state=0)
    assert history["loss"][-1] < 1e-6
    assert list(history.history) == ["loss"]
    assert model.evaluate(x, y) == {"loss": pytest.approx(0, abs=1e-6)}


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.float16, np.int32])
def test_any_real_dtype(dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (50, 6)).astype(dtype)
    y = rng.integers(0, 3, 50).astype(np.uint8)
    model, twin = nn.Sequential([nn.Dense(3)]), nn.Sequential([nn.Dense(3)])
    model.fit(x, y, random_state=0)
    twin.fit(x.astype(np.float32), y, random_state=0)
    assert same(weights(model), weights(twin))


def test_a_batch_size_that_does_not_divide_and_layout_of_input_do_not_matter():
    model = nn.Sequential([nn.Conv2D(4, 3), nn.Flatten(), nn.Dense(3)]).build((2, 6, 5), random_state=0)
    x = np.random.default_rng(0).normal(size=(23, 2, 6, 5)).astype(np.float32)
    wanted = model.predict(x)
    for other in (np.asfortranarray(x), x[::-1].copy()[::-1], x.astype(">f4"), x.astype(np.float64)):
        np.testing.assert_allclose(model.predict(other, batch_size=7), wanted, rtol=1e-5, atol=1e-6)


def test_random_state():
    x, y = blobs()
    runs = []
    for seed in (0, 0, 1):
        model = mlp()
        model.fit(x, y, epochs=2, random_state=seed)
        runs.append(weights(model))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


# Optimizers and masks


def reference_step(optimizer, state, w, g):
    """One float64 step from the papers."""
    if isinstance(optimizer, nn.SGD):
        state["v"] = optimizer.momentum * state.get("v", 0.0) + g
        step = g + optimizer.momentum * state["v"] if optimizer.nesterov else state["v"]
        return w - optimizer.learning_rate * step
    t = state["t"] = state.get("t", 0) + 1
    state["m"] = optimizer.beta1 * state.get("m", 0.0) + (1 - optimizer.beta1) * g
    state["v"] = optimizer.beta2 * state.get("v", 0.0) + (1 - optimizer.beta2) * g * g
    m, v = state["m"] / (1 - optimizer.beta1**t), state["v"] / (1 - optimizer.beta2**t)
    return w - optimizer.learning_rate * m / (np.sqrt(v) + optimizer.epsilon)


OPTIMIZERS = [
    lambda: nn.Adam(0.05, 0.8, 0.95, 1e-6),
    lambda: nn.SGD(0.05),
    lambda: nn.SGD(0.05, momentum=0.9),
    lambda: nn.SGD(0.05, momentum=0.9, nesterov=True),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("size", [1, 17, 40_000])
def test_optimizers_follow_their_papers(make, size):
    optimizer, rng = make(), np.random.default_rng(0)
    w = rng.normal(size=size).astype(np.float32)
    wanted, state = w.astype(np.float64), {}
    for _ in range(20):
        g = rng.normal(size=size).astype(np.float32)
        optimizer.step({"w": w}, {"w": g})
        wanted = reference_step(optimizer, state, wanted, g.astype(np.float64))
    np.testing.assert_allclose(w, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_no_weight_is_revived_in_1000_steps(make):
    x, y = blobs()
    model = mlp().build((8,), random_state=0)
    optimizer = make()
    # Momentum gathers on all weights first.
    model.fit(x, y, epochs=2, optimizer=optimizer, random_state=0)
    rng = np.random.default_rng(1)
    masks = {name: rng.random(model.parameters()[name].shape) < 0.3 for name in model.prunable()}
    masks["dense.bias"] = np.arange(16) % 2 == 0
    model.set_masks(masks)
    before = weights(model)

    class Watch(nn.Callback):
        steps = 0

        def on_batch_end(self, state):
            self.steps += 1
            for name, mask in masks.items():
                assert not state.model.parameters()[name][~mask].any()

    watch = Watch()
    model.fit(
        x, y, epochs=1000 // 8 + 1, batch_size=30, optimizer=optimizer, callbacks=[watch], random_state=1
    )
    assert watch.steps >= 1000
    for name, mask in masks.items():
        assert not np.array_equal(model.parameters()[name][mask], before[name][mask])
    assert model.num_parameters(nonzero=True) < model.num_parameters()


def test_masks():
    model = mlp().build((8,), random_state=0)
    mask = np.zeros((16, 8), bool)
    mask[0] = True
    model.set_masks({"dense.weight": mask})
    assert np.array_equal(model.masks["dense.weight"], mask)
    assert np.count_nonzero(model.parameters()["dense.weight"]) == 8
    mask[...] = False  # the model keeps its own copy
    assert model.masks["dense.weight"].sum() == 8
    model.layers[0].set_weights([np.ones((16, 8)), np.ones(16)])
    assert np.count_nonzero(model.parameters()["dense.weight"]) == 8
    twin = model.copy()
    assert twin.masks.keys() == {"dense.weight"}
    twin.set_masks({})
    assert not twin.masks
    assert model.masks
    for wrong in (
        {"dense.weight": np.ones((8, 16), bool)},
        {"dense.weight": np.ones((16, 8))},
        {"nothing.weight": np.ones((16, 8), bool)},
    ):
        with pytest.raises(ValueError, match="masks: "):
            model.set_masks(wrong)
    assert model.masks["dense.weight"].sum() == 8


def test_an_optimizer_refuses_a_parameter_of_another_shape():
    optimizer = nn.Adam()
    optimizer.step({"w": np.ones(3, np.float32)}, {"w": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match="use a new optimizer"):
        optimizer.step({"w": np.ones(2, np.float32)}, {"w": np.ones(2, np.float32)})


def test_a_mask_of_another_shape_is_refused_by_the_core():
    w = {"w": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match="mask: "):
        nn.Adam().step(w, {"w": np.ones(3, np.float32)}, {"w": np.ones(2, bool)})


# Model


def test_compute_gradients_changes_nothing_else():
    x, y = blobs()
    model = mlp().build((8,), random_state=0)
    before = weights(model)
    value = model.compute_gradients(x, y)
    assert value > 0
    assert same(weights(model), before)
    assert model.gradients().keys() == model.parameters().keys()
    step = {name: array - 1e-2 * model.gradients()[name] for name, array in model.parameters().items()}
    for name, array in model.parameters().items():
        array[...] = step[name]
    assert model.compute_gradients(x, y) < value


def test_config_round_trip():
    model = nn.Sequential(
        [
            nn.Conv2D(4, (3, 2), strides=(2, 1), padding="same", activation="tanh", use_bias=False),
            nn.BatchNorm(0.9, 1e-4),
            nn.ReLU(),
            nn.MaxPool2D((2, 1), strides=1, padding="same"),
            nn.AveragePool2D(2),
            nn.Tanh(),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Dense(5, activation="sigmoid", use_bias=False),
            nn.Dense(3),
            nn.Softmax(),
        ]
    ).build((2, 9, 8), random_state=0)
    config = json.loads(json.dumps(model.config()))
    twin = nn.Sequential.from_config(config)
    assert twin.config() == config
    assert repr(twin) == repr(model)
    twin.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(size=(3, 2, 9, 8))
    assert np.array_equal(twin.predict(x), model.predict(x))
    assert np.array_equal(model.copy().predict(x), model.predict(x))
    assert [layer.name for layer in twin.layers][-3:] == ["dense", "dense_1", "softmax"]
    assert nn.Sequential.from_config(mlp().config()).input_shape is None


def test_copies_are_deep():
    x, y = blobs()
    model = mlp().build((8,), random_state=0)
    before = weights(model)
    model.copy().fit(x, y, random_state=0)
    assert same(weights(model), before)


def test_summary():
    text = mlp().build((8,), random_state=0).summary()
    assert "dense_1" in text
    assert text.splitlines()[-1].split()[1] == str(8 * 16 + 16 + 2 * 16 + 16 * 3 + 3)


def test_layer_weights():
    layer = nn.Dense(2)
    layer.build((3,), np.random.default_rng(0))
    kernel, bias = layer.get_weights()
    kernel[...] = 7
    assert not (layer.params["weight"] == 7).any()
    layer.set_weights([kernel, bias])
    assert (layer.params["weight"] == 7).all()
    with pytest.raises(ValueError, match="weights: dense has 2 arrays, got 1"):
        layer.set_weights([kernel])
    with pytest.raises(ValueError, match=r"weights: dense\.weight has shape \(2, 3\), got shape \(3, 2\)"):
        layer.set_weights([kernel.T, bias])


# Callbacks


class Recorder(nn.Callback):
    def __init__(self):
        self.calls = []

    def on_train_begin(self, state):
        self.calls.append("begin")

    def on_batch_end(self, state):
        assert state.model.gradients().keys() == state.model.parameters().keys()
        assert len(state.x_batch) == len(state.y_batch)
        assert {"loss", "accuracy"} <= state.logs.keys()
        self.calls.append(state.batch)

    def on_epoch_end(self, state):
        assert len(state.history) == state.epoch + 1
        self.calls.append(f"epoch {state.epoch}")

    def on_train_end(self, state):
        self.calls.append("end")


def test_callbacks_are_called_in_order():
    x, y = blobs(70)
    recorder = Recorder()
    mlp().fit(x, y, epochs=2, callbacks=[recorder], random_state=0)
    assert recorder.calls == ["begin", 0, 1, 2, "epoch 0", 3, 4, 5, "epoch 1", "end"]


def test_stop_ends_training_after_the_batch():
    class Stop(Recorder):
        def on_batch_end(self, state):
            super().on_batch_end(state)
            state.stop = state.batch == 1

    x, y = blobs(100)
    stop = Stop()
    history = mlp().fit(x, y, epochs=5, callbacks=[stop], random_state=0)
    assert stop.calls == ["begin", 0, 1, "epoch 0", "end"]
    assert len(history) == 1


def test_early_stopping_restores_the_best_weights():
    x, y = blobs()
    rng = np.random.default_rng(5)
    validation = blobs(60, seed=0)[0], rng.integers(0, 3, 60)  # nothing to learn: it gets worse
    stopping = nn.EarlyStopping("val_loss", patience=2)
    model = mlp()
    history = model.fit(x, y, epochs=50, validation_data=validation, callbacks=[stopping], random_state=0)
    assert len(history) < 50
    best = int(np.argmin(history["val_loss"]))
    assert (stopping.best, stopping.best_epoch) == (history["val_loss"][best], best)
    assert len(history) == best + 1 + 2
    assert model.evaluate(*validation)["loss"] == history["val_loss"][best]


def test_ctrl_c_ends_the_callbacks_and_goes_on():
    class Interrupt(Recorder):
        def on_batch_end(self, state):
            super().on_batch_end(state)
            if state.batch == 4:
                raise KeyboardInterrupt

    x, y = blobs(90)
    interrupt, after = Interrupt(), Recorder()
    with pytest.raises(KeyboardInterrupt):
        mlp().fit(x, y, epochs=5, callbacks=[interrupt, after], random_state=0)
    assert interrupt.calls == ["begin", 0, 1, 2, "epoch 0", 3, 4, "end"]
    assert after.calls == ["begin", 0, 1, 2, "epoch 0", 3, "end"]


class Grab(nn.Callback):
    """Keeps the checkpoint of one epoch."""

    rank = 1

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, state):
        if state.epoch == self.epoch:
            checkpoint = state.checkpoint()
            checkpoint.model = checkpoint.model.copy()
            self.checkpoint = checkpoint


@pytest.mark.parametrize("optimizer", ["adam", nn.SGD(0.05, momentum=0.9)])
def test_a_resumed_run_equals_an_uninterrupted_one(optimizer):
    x, y = blobs()
    fit = {"epochs": 5, "validation_data": blobs(60, seed=0), "random_state": 3}

    def masked():
        model = mlp().build((8,), random_state=0)
        model.set_masks({"dense.weight": np.random.default_rng(0).random((16, 8)) < 0.5})
        return model

    grab, stopping = Grab(1), nn.EarlyStopping(patience=9)
    model = masked()
    wanted = model.fit(x, y, optimizer=optimizer, callbacks=[stopping, grab], **fit)
    for resumed in (mlp(), mlp().build((8,), random_state=9), grab.checkpoint.model):
        again = nn.EarlyStopping(patience=9)
        history = resumed.fit(
            x, y, callbacks=[again, nn.Callback()], resume=grab.checkpoint, **(fit | {"random_state": 7})
        )
        assert history.epochs == wanted.epochs
        assert same(weights(resumed), weights(model))
        assert (again.best, again.wait) == (stopping.best, stopping.wait)


def test_resume_refuses_what_does_not_fit():
    x, y = blobs()
    grab = Grab(0)
    stopping = nn.EarlyStopping("loss")
    mlp().fit(x, y, callbacks=[stopping, grab], random_state=0)
    with pytest.raises(ValueError, match="optimizer: the state belongs to 'adam', this is 'sgd'"):
        mlp().fit(x, y, optimizer="sgd", callbacks=[stopping], resume=grab.checkpoint)
    with pytest.raises(ValueError, match=r"callbacks: the checkpoint holds the state of EarlyStopping"):
        mlp().fit(x, y, resume=grab.checkpoint)
    with pytest.raises(ValueError, match="resume: expected a TrainingCheckpoint, got str"):
        mlp().fit(x, y, resume="last.safetensors")


# Bad input


def fit_error(match, *, model=None, **changes):
    """`fit` with `changes` raises one line and leaves the model as it was."""
    x, y = blobs(40)
    model = model or mlp().build((8,), random_state=0)
    before = weights(model)
    with pytest.raises(ValueError, match=match) as error:
        model.fit(**({"x": x, "y": y, "random_state": 0} | changes))
    assert "\n" not in str(error.value)
    assert same(weights(model), before)


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        (r"^y: expected 40 labels", {"y": np.zeros(39, int)}),
        (r"^y: expected labels from 0 to 2, got 3 at 5", {"y": np.eye(40, dtype=int)[5] * 3}),
        (r"^y: expected labels from 0 to 2, got -1 at 0", {"y": -np.eye(40, dtype=int)[0]}),
        (r"^y: expected integer labels, got dtype float64", {"y": np.zeros(40)}),
        (r"^y: expected one label per sample", {"y": np.zeros((40, 3), int)}),
        (r"^x: expected shape \(n, 8\), got \(40, 9\)", {"x": np.zeros((40, 9))}),
        (r"^x: expected shape \(n, 8\), got \(40, 1, 8\)", {"x": np.zeros((40, 1, 8))}),
        (r"^x: expected at least one sample", {"x": np.zeros((0, 8)), "y": np.zeros(0, int)}),
        (r"^x: expected real numbers, got dtype object", {"x": np.full((40, 8), None)}),
        (r"^x: expected real numbers, got dtype complex128", {"x": np.zeros((40, 8), complex)}),
        (r"^x: expected samples along the first axis", {"x": np.zeros(40)}),
        (r"^epochs: expected a positive integer, got 0", {"epochs": 0}),
        (r"^epochs: expected a positive integer, got 1.5", {"epochs": 1.5}),
        (r"^batch_size: expected a positive integer, got -1", {"batch_size": -1}),
        (r"^loss: unknown loss 'hinge'; choose from sparse_categorical_crossentropy, mse", {"loss": "hinge"}),
        (r"^optimizer: unknown optimizer 'lion'; choose from adam, sgd", {"optimizer": "lion"}),
        (r"^callbacks: expected Callback objects, got str", {"callbacks": ["stop"]}),
        (r"^callbacks: expected several Callback obj", {"callbacks": nn.EarlyStopping("loss")}),
        (r"^x: .*inhomogeneous", {"x": [[1.0, 2.0], [3.0]]}),
        (r"^y: .*inhomogeneous", {"y": [[1], [2, 3]]}),
        (r"^validation_data: expected a pair", {"validation_data": np.zeros(3)}),
        (r"^validation_data: expected shape", {"validation_data": (np.zeros((4, 7)), np.zeros(4, int))}),
        (r"^validation_data: expected 4 labels", {"validation_data": (np.zeros((4, 8)), np.zeros(3, int))}),
        (r"^monitor: 'val_loss' is not among loss, accuracy; pass", {"callbacks": [nn.EarlyStopping()]}),
    ],
)  # fmt: skip
def test_fit_refuses(match, changes):
    fit_error(match, **changes)


def test_an_unbuilt_model_stays_unbuilt_after_a_refusal():
    model = mlp()
    with pytest.raises(ValueError, match=r"^y: "):
        model.fit(np.zeros((4, 8)), np.full(4, 3))
    assert not model.built
    for method in (model.num_parameters, model.macs, model.summary):
        with pytest.raises(ValueError, match=r"^model: it is not built yet"):
            method()
    with pytest.raises(ValueError, match=r"^model: it is not built yet"):
        model.predict(np.zeros((4, 8)))


def test_callbacks_may_be_none():
    x, y = blobs(40)
    assert len(mlp().fit(x, y, callbacks=None, random_state=0).epochs) == 1


def test_softmax_before_crossentropy_is_refused():
    for layers in ([nn.Dense(3, activation="softmax")], [nn.Dense(3), nn.Softmax()]):
        fit_error("^loss: .* takes logits", model=nn.Sequential(layers).build((8,), random_state=0))
    tagger = nn.Sequential([nn.TimeDistributed(nn.Dense(3, activation="softmax"))]).build((4, 8), 0)
    x, y = np.zeros((5, 4, 8)), np.zeros((5, 4), int)
    fit_error("^loss: .* takes logits, but time_distributed.dense ends", model=tagger, x=x, y=y)


@pytest.mark.parametrize(
    ("match", "make"),
    [
        (r"^layers: expected at least one layer, got none", lambda: nn.Sequential([])),
        (r"^layers: expected Layer objects, got str at 0", lambda: nn.Sequential(["dense"])),
        (r"^layers: the same dense object twice", lambda: nn.Sequential([nn.Dense(1)] * 2)),
        (r"^activation: unknown name 'gelu'; choose from relu,", lambda: nn.Dense(3, activation="gelu")),
        (r"^activation: unknown name 3", lambda: nn.Conv2D(3, 3, activation=3)),
        (r"^units: expected a positive integer, got 0", lambda: nn.Dense(0)),
        (r"^filters: expected a positive integer, got True", lambda: nn.Conv2D(True, 3)),
        (r"^kernel_size: expected one or two", lambda: nn.Conv2D(3, (1, 2, 3))),
        (r"^strides: expected a positive integer, got 0", lambda: nn.Conv2D(3, 3, strides=0)),
        (r"^padding: unknown name 'full'; choose from same, valid", lambda: nn.MaxPool2D(2, padding="full")),
        (r"^momentum: expected a number in \[0, 1\), got 1", lambda: nn.BatchNorm(1.0)),
        (r"^epsilon: expected a positive number, got 0", lambda: nn.BatchNorm(epsilon=0)),
        (r"^learning_rate: expected a number in \[0, inf\), got -1", lambda: nn.Adam(-1)),
        (r"^learning_rate: expected a number in \[0, inf\), got nan", lambda: nn.Adam(float("nan"))),
        (r"^momentum: expected a number in \[0, 1\), got 1", lambda: nn.SGD(0.1, momentum=1)),
        (r"^patience: expected a positive integer", lambda: nn.EarlyStopping(patience=0)),
        (r"^min_delta: expected a number in \[0, inf\), got 'a'", lambda: nn.EarlyStopping(min_delta="a")),
        (r"^momentum: expected a number in \[0, 1\), got 'a'", lambda: nn.BatchNorm("a")),
        (r"^epsilon: expected a positive number, got 'a'", lambda: nn.LayerNorm("a")),
        (r"^start, stop: expected 0 <= start < stop, got 2 and 2", lambda: nn.Slice(2, 2)),
        (r"^kind: unknown layer 'capsule'; choose from", lambda: nn.Layer.from_config({"kind": "capsule"})),
        (r"^dense: expected flat samples, got shape \(1, 4, 4\); put", lambda: mlp().build((1, 4, 4))),
        (r"^conv2d: expected images of shape", lambda: nn.Sequential([nn.Conv2D(3, 3)]).build((28, 28))),
        (r"^max_pool2d: a window of \(2, 2\)", lambda: nn.Sequential([nn.MaxPool2D()]).build((1, 1, 4))),
        (r"^input_shape: expected a positive integer", lambda: mlp().build((0,))),
    ],
)  # fmt: skip
def test_constructors_refuse(match, make):
    with pytest.raises(ValueError, match=match) as error:
        make()
    assert "\n" not in str(error.value)
