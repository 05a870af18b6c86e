"""The learning rate over a training, and learning from a teacher."""

import math

import numpy as np
import pytest

import secateur as sc
from secateur import nn
from test_methods import Keep, blobs, mlp, same, state


class Rates(nn.Callback):
    """The learning rate of every step: that which the step before left."""

    rank = 1

    def __init__(self):
        self.rates = []

    def on_epoch_begin(self, state):
        self.next = state.optimizer.learning_rate

    def on_batch_end(self, state):
        self.rates.append(self.next)
        self.next = state.optimizer.learning_rate


def test_the_rate_follows_the_curve_and_comes_back():
    x, y = blobs()
    curves = {
        "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
        "linear": lambda t: 1 - t,
        "own": lambda t: 1 if t < 0.5 else 0.1,
    }
    for name, curve in curves.items():
        adam, rates = nn.Adam(0.02), Rates()
        schedule = nn.LearningRate(curve if name == "own" else name, warmup=4)
        mlp().fit(x, y, epochs=3, optimizer=adam, callbacks=[rates, schedule], random_state=0, progress=False)
        warm = [min(1, (i + 1) / 5) for i in range(30)]
        assert rates.rates == pytest.approx([0.02 * curve(i / 30) * warm[i] for i in range(30)])
        assert adam.learning_rate == 0.02


def test_a_scheduled_training_resumes_as_if_it_had_not_stopped(tmp_path):
    x, y = blobs()
    fit = {"epochs": 6, "random_state": 0, "progress": False}
    whole, second = mlp(), mlp(seed=3)
    whole.fit(x, y, callbacks=[nn.LearningRate(warmup=15)], optimizer=nn.Adam(0.01), **fit)
    keep = Keep(2)
    mlp().fit(x, y, callbacks=[nn.LearningRate(warmup=15), keep], optimizer=nn.Adam(0.01), **fit)
    sc.save(keep.checkpoint, tmp_path / "c.safetensors")
    checkpoint = sc.load(tmp_path / "c.safetensors")
    second.fit(x, y, callbacks=[nn.LearningRate(warmup=15), nn.Callback()], resume=checkpoint, **fit)
    assert same(state(second), state(whole))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.LearningRate("step"), "schedule: unknown name 'step'; choose from cosine, linear"),
        (lambda: nn.LearningRate(warmup=-1), "warmup: expected a number of batches of at least 0, got -1"),
        (lambda: nn.LearningRate(warmup=0.1), "warmup: expected a number of batches"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_curve_that_is_none_is_refused():
    x, y = blobs()
    for curve in (lambda t: -1, lambda t: math.nan):
        with pytest.raises(ValueError, match="schedule: expected numbers of at least 0"):
            mlp().fit(x, y, callbacks=[nn.LearningRate(curve)], progress=False)


# Distillation


def reference(outputs, logits, y, temperature, alpha):
    """Loss and gradient in float64, the gradient by differences of the loss."""

    def loss(z):
        def softmax(v):
            e = np.exp(v - v.max(axis=1, keepdims=True))
            return e / e.sum(axis=1, keepdims=True)

        hard = -np.log(softmax(z)[np.arange(len(y)), y]).mean()
        p, q = softmax(logits.astype(float) / temperature), softmax(z / temperature)
        return (1 - alpha) * hard + alpha * temperature**2 * (p * np.log(p / q)).sum(axis=1).mean()

    z = outputs.astype(float)
    gradient = np.zeros_like(z)
    for i in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[i] = 1e-5
        gradient[i] = (loss(z + step) - loss(z - step)) / 2e-5
    return loss(z), gradient


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_distilled_loss_and_its_gradient(temperature, alpha):
    from secateur.nn.distillation import Distillation

    rng = np.random.default_rng(0)
    x = np.zeros((9, 2), np.float32)
    logits, outputs = rng.normal(size=(2, 9, 5)).astype(np.float32) * 3
    y, part = rng.integers(0, 5, 4), np.array([7, 0, 3, 8])
    distilled = Distillation(logits, x, (5,), nn.SparseCategoricalCrossentropy(), temperature, alpha)
    value, dy = distilled.gradient(outputs[part], y, part)
    expected, gradient = reference(outputs[part], logits[part], y, temperature, alpha)
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(dy, gradient, atol=1e-6)


def test_a_student_learns_what_the_labels_do_not_say():
    x, y = blobs(600)
    teacher = mlp()
    teacher.fit(x, y, epochs=20, random_state=0, progress=False)
    noise = np.random.default_rng(9).integers(0, 3, len(y))
    students = {}
    for name, how in {
        "alone": {},
        "taught": {"teacher": teacher, "alpha": 1.0},
        "by logits": {"teacher": teacher.predict(x), "alpha": 1.0},
    }.items():
        students[name] = mlp(seed=1)
        students[name].fit(x, noise, epochs=20, random_state=0, progress=False, **how)
    scores = {name: student.evaluate(x, y)["accuracy"] for name, student in students.items()}
    assert scores["taught"] > 0.9 > scores["alone"]
    assert same(state(students["taught"]), state(students["by logits"]))


def test_pruning_fine_tunes_with_a_teacher():
    x, y = blobs(600)
    dense = mlp()
    dense.fit(x, y, epochs=10, random_state=0, progress=False)
    tune = {"x": x, "y": y, "epochs": 5, "teacher": dense, "temperature": 3.0, "alpha": 0.9}
    result = sc.prune(dense, 0.8, finetune=tune, random_state=0, progress=False)
    assert result.model.evaluate(x, y)["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": np.zeros((320, 4))}, r"teacher: expected outputs of shape \(320, 3\), got \(320, 4\)"),
        ({"teacher": np.zeros((5, 3))}, r"teacher: expected outputs of shape \(320, 3\), got \(5, 3\)"),
        ({"teacher": "dense"}, "teacher: expected a model that takes x, or logits"),
        (
            {"teacher": mlp().build((9,))},
            "teacher: expected a model that takes x, or logits: x: expected shape",
        ),
        ({"teacher": np.full((320, 3), np.nan)}, "teacher: its outputs are not finite"),
        ({"teacher": np.zeros((320, 3)), "temperature": 0}, "temperature: expected a number above 0, got 0"),
        ({"teacher": np.zeros((320, 3)), "temperature": "x"}, "temperature: expected a number, got 'x'"),
        ({"teacher": np.zeros((320, 3)), "alpha": 1.5}, r"alpha: expected a number in \[0, 1\], got 1.5"),
        ({"teacher": np.zeros((320, 3)), "loss": "mse"}, "teacher: the loss must be cross-entropy, got mse"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_change(changes, message):
    x, y = blobs()
    y = np.eye(3)[y] if "loss" in changes else y
    model = mlp()
    before = state(model)
    with pytest.raises(ValueError, match=message) as error:
        model.fit(x, y, progress=False, **changes)
    assert "\n" not in str(error.value)
    assert same(state(model), before)


# Dropout


def with_dropout(seed=0, rate=0.4):
    layers = [
        nn.Dense(24, activation="relu"),
        nn.Dropout(rate),
        nn.Dense(16, activation="relu"),
        nn.Dropout(rate),
    ]
    return nn.Sequential([*layers, nn.Dense(3)]).build((10,), seed)


def test_dropout_leaves_out_its_share_and_keeps_the_mean():
    for rate in (0.0, 0.1, 0.5, 0.9):
        layer = nn.Dropout(rate)
        layer.build((400,), np.random.default_rng(0))
        x = np.random.default_rng(1).normal(size=(300, 400)).astype(np.float32) + 3
        first, second = layer.forward(x, training=True), layer.forward(x, training=True)
        kept = second != 0
        assert kept.mean() == pytest.approx(1 - rate, abs=0.005)
        np.testing.assert_allclose(second[kept], x[kept] / np.float32(1 - rate), rtol=1e-6)
        assert rate == 0 or ((first != 0) != kept).any()
        dy = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
        np.testing.assert_allclose(layer.backward(dy), dy * kept / np.float32(1 - rate), rtol=1e-6)
        assert layer.forward(x) is x
        np.testing.assert_array_equal(layer.forward(x.T.copy().T, training=True) == 0, layer._kept == 0)


def test_training_with_dropout_resumes_as_if_it_had_not_stopped(tmp_path):
    x, y = blobs()
    fit = {"epochs": 6, "random_state": 0, "progress": False}
    whole, second, keep = with_dropout(), with_dropout(3), Keep(2)
    whole.fit(x, y, **fit)
    with_dropout().fit(x, y, callbacks=[keep], **fit)
    sc.save(keep.checkpoint, tmp_path / "c.safetensors")
    second.fit(x, y, callbacks=[nn.Callback()], resume=sc.load(tmp_path / "c.safetensors"), **fit)
    assert same(state(second), state(whole))
    assert whole.evaluate(x, y)["accuracy"] > 0.9
    # Looking at gradients draws nothing from the training.
    before = state(whole)
    assert whole.compute_gradients(x, y) != pytest.approx(whole.evaluate(x, y)["loss"], rel=1e-3)
    assert same(state(whole), before)


def test_plans_files_and_neurons_see_through_dropout(tmp_path):
    x, _ = blobs()
    model = with_dropout()
    plan = sc.compile(model, batch=8, threads=1)
    assert [node["op"] for node in plan.description] == ["dense"] * 3
    np.testing.assert_allclose(plan(x[:8]), model.predict(x[:8]), rtol=1e-4, atol=1e-5)
    sc.save(model, tmp_path / "m.safetensors")
    assert same(state(sc.load(tmp_path / "m.safetensors")), state(model))
    small = sc.prune(model, 0.5, granularity="neuron", round_to=None).model
    assert small.layers[0].units < 24
    # A side of a residual that does nothing else.
    net = nn.Sequential([nn.Dense(4), nn.Residual([nn.Dense(4)], [nn.Dropout(0.5)])]).build((3,), 0)
    inputs = x[:5, :3].copy()
    np.testing.assert_allclose(sc.compile(net, threads=1)(inputs), net.predict(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [-0.1, 1.0, "x", True])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=r"rate: expected a number in \[0, 1\)"):
        nn.Dropout(rate)


def test_a_rate_is_asked_for_batches_that_come():
    x = np.random.default_rng(0).normal(size=(64, 4))
    rates = []
    table = nn.LearningRate(lambda progress: rates.append(progress) or [1, 0.1, 0.01][int(progress * 3)])
    nn.Sequential([nn.Dense(2)]).fit(
        x, (x[:, 0] > 0).astype(int), epochs=3, callbacks=[table], random_state=0, progress=False
    )
    assert max(rates) < 1 and len(set(rates)) == 6
