"""Dynamic pruning: within training, exact, resumable."""

import numpy as np
import pytest

import secateur as sc
from secateur import nn
from secateur.budgets import keep_count


def blobs(n=320, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return (rng.normal(size=(3, 10))[y] * 2 + rng.normal(size=(n, 10))).astype(np.float32), y


def mlp(seed=0):
    return nn.Sequential(
        [nn.Dense(24, activation="relu"), nn.BatchNorm(), nn.Dense(16, activation="relu"), nn.Dense(3)]
    ).build((10,), seed)


def state(model):
    return {
        name: array.copy() for name, array in (model.parameters() | model.buffers() | model.masks).items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


SIZE = 10 * 24 + 24 * 16 + 16 * 3


class Watch(nn.Callback):
    """Checks after every batch that nothing removed has come back."""

    rank = 1

    def on_train_begin(self, state):
        self.nonzero = []
        self.last = {}

    def on_batch_end(self, state):
        masks = state.model.masks
        for name, mask in masks.items():
            assert not state.model.parameters()[name][~mask].any()
            if name in self.last:
                assert not (mask & ~self.last[name]).any()
        self.last = masks
        self.nonzero.append(sum(int(mask.sum()) for mask in masks.values()) or SIZE)


METHODS = {
    "gradual": lambda: sc.Gradual(0.9, every=7),
    "linear": lambda: sc.Gradual(0.8, criterion="l2", every=5, begin=3, end=70, schedule="linear"),
    "taylor": lambda: sc.Gradual(0.8, criterion="taylor", every=5, scope="layer"),
    "own": lambda: sc.Gradual(0.8, criterion=lambda w, g: np.abs(w) + np.abs(g), every=5),
    "random": lambda: sc.Gradual(0.5, criterion="random", every=5, scope="erk"),
    "gradient": lambda: sc.GradientDynamic(0.8, every=3, rate=0.2),
    "gradient only": lambda: sc.GradientDynamic(0.8, criterion="gradient", every=3, rate=0.3, begin=20),
    "lamp": lambda: sc.GradientDynamic(0.8, every=3, rate=0.2, lam=0.5, scope="lamp"),
    "sparse": lambda: sc.SparseDynamic(0.8, begin=20, rate=0.05),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("optimizer", [nn.Adam(0.01), nn.SGD(0.05, momentum=0.9)], ids=["adam", "sgd"])
def test_the_target_is_reached_exactly_and_nothing_comes_back(name, optimizer):
    x, y = blobs()
    model, watch = mlp(), Watch()
    pruner = sc.DynamicPruner(METHODS[name]())
    model.fit(x, y, epochs=10, optimizer=optimizer, callbacks=[pruner, watch], random_state=0, progress=False)
    target = pruner.method.sparsity
    kept = sum(int(mask.sum()) for mask in model.masks.values())
    if pruner.method.scope == "layer":
        assert kept == sum(keep_count(mask.size, target) for mask in model.masks.values())
    else:
        assert kept == keep_count(SIZE, target)
    assert watch.nonzero == sorted(watch.nonzero, reverse=True)
    found = [record["sparsity"] for record in pruner.history]
    assert found == sorted(found) and pruner.sparsity == found[-1] == pytest.approx(target, abs=3 / SIZE)


@pytest.mark.parametrize("granularity", ["8x1", "4x4", "2:4"])
def test_groups_in_training(granularity):
    x, y = blobs()
    model, watch = mlp(), Watch()
    sparsity = 0.5
    pruner = sc.DynamicPruner(sc.Gradual(sparsity, every=5, granularity=granularity))
    model.fit(x, y, epochs=5, callbacks=[pruner, watch], random_state=0, progress=False)
    # Rows of 10 end in 2 that a pattern keeps.
    assert pruner.sparsity == pytest.approx(sparsity, abs=0.04)


@pytest.mark.parametrize("method", [sc.Gradual, sc.GradientDynamic, sc.SparseDynamic])
def test_neurons_in_training_then_smaller_arrays(method):
    x, y = blobs()
    model, watch = mlp(), Watch()
    rate = {"rate": 0.01} if method is sc.SparseDynamic else {}  # less than a neuron at once
    pruner = sc.DynamicPruner(method(0.6, every=1 if rate else 5, granularity="neuron", **rate))
    model.fit(x, y, epochs=20, callbacks=[pruner, watch], random_state=0, progress=False)
    assert pruner.sparsity == pytest.approx(0.6, abs=40 / SIZE)
    small = sc.remove_dead_neurons(model)
    np.testing.assert_allclose(small.predict(x), model.predict(x), rtol=1e-4, atol=1e-5)
    size = sum(small.parameters()[name].size for name in small.prunable())
    assert size == round((1 - pruner.sparsity) * SIZE)


@pytest.mark.parametrize("optimizer", [nn.Adam(0.01), nn.SGD(0.05, momentum=0.9)], ids=["adam", "sgd"])
def test_no_weight_revives_in_1000_steps(optimizer):
    x, y = blobs(64)
    model = mlp()
    sc.dynamic_pruning(model, 0.2)
    masks = model.masks
    model.fit(x, y, epochs=125, batch_size=8, optimizer=optimizer, random_state=0, progress=False)
    assert optimizer.iterations == 1000
    for name, mask in masks.items():
        assert not model.parameters()[name][~mask].any()
        assert model.parameters()[name][mask].all()


def test_dynamic_pruning_between_epochs():
    x, y = blobs()
    model = mlp()
    last = {}
    for _ in range(5):
        model.fit(x, y, random_state=0, progress=False)
        before = {name: np.abs(model.parameters()[name]) for name in model.prunable()}
        assert sc.dynamic_pruning(model, 0.1) is model
        for name, magnitudes in before.items():
            kept = (magnitudes >= np.float32(0.1)) & last.get(name, True)
            assert np.array_equal(model.masks[name], kept)
            assert np.array_equal(model.parameters()[name] != 0, kept)
        last = model.masks


def test_dynamic_pruning_refuses_before_any_change():
    model = mlp()
    before = state(model)
    for threshold in (-0.1, float("nan"), "x", None):
        with pytest.raises(ValueError, match="threshold: expected a number of at least 0"):
            sc.dynamic_pruning(model, threshold)
    assert same(state(model), before)
    model.parameters()["dense_2.weight"][0, 0] = np.nan
    with pytest.raises(ValueError, match=r"model: dense_2.weight has NaN"):
        sc.dynamic_pruning(model, 0.1)
    assert model.masks == {}
    with pytest.raises(TypeError, match=r"model: expected one of .*Sequential"):
        sc.dynamic_pruning([], 0.1)


class Keep(nn.Callback):
    rank = 1

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, state):
        if state.epoch == self.epoch:
            checkpoint = state.checkpoint()
            checkpoint.model = state.model.copy()
            self.checkpoint = checkpoint
            state.stop = True


@pytest.mark.parametrize("name", [name for name in METHODS if name != "own"])
@pytest.mark.parametrize(
    "stop", [None, lambda: sc.NoImprovement(patience=3, tolerance=0.05)], ids=["", "stop"]
)
def test_resuming_equals_the_uninterrupted_run(name, stop, tmp_path):
    x, y = blobs()
    arguments = {"epochs": 8, "random_state": 0, "progress": False, "validation_data": blobs(100, seed=1)}

    def pruner():
        return sc.DynamicPruner(METHODS[name](), stop=stop and stop())

    whole, first = mlp(), mlp()
    straight = pruner()
    whole.fit(x, y, callbacks=[straight], **arguments)
    keep = Keep(3)
    first.fit(x, y, callbacks=[pruner(), keep], **arguments)
    sc.save(keep.checkpoint, tmp_path / "c.safetensors")
    second, resumed = mlp(seed=5), pruner()
    second.fit(
        x, y, callbacks=[resumed, nn.Callback()], resume=sc.load(tmp_path / "c.safetensors"), **arguments
    )
    assert same(state(second), state(whole))
    assert resumed.history == straight.history


def test_max_drop_brings_the_last_good_model_back():
    x, y = blobs(600)
    held_out = (x[400:], y[400:])
    pruner = sc.DynamicPruner(
        sc.Gradual(1.0, every=5, begin=30, end=150, schedule="linear"), stop=sc.MaxDrop(0.05)
    )
    model = mlp()
    history = model.fit(
        x[:400], y[:400], epochs=20, optimizer=nn.Adam(0.01), callbacks=[pruner], validation_data=held_out,
        random_state=0, progress=False,
    )  # fmt: skip
    assert len(history) < 20
    good = max(history["val_accuracy"]) - 0.05
    assert model.evaluate(*held_out)["accuracy"] >= good > history["val_accuracy"][-1]
    assert history["sparsity"][-1] > 0.9


def test_at_sparsity_ends_pruning_and_training_goes_on():
    x, y = blobs()
    pruner = sc.DynamicPruner(sc.GradientDynamic(0.9, every=2, rate=0.1), stop=sc.AtSparsity(0.3))
    model = mlp()
    history = model.fit(x, y, epochs=12, callbacks=[pruner], random_state=0, progress=False)
    assert len(history) == 12
    assert 0.3 <= pruner.sparsity < 0.7 and history["sparsity"][-1] == pruner.sparsity
    assert history["sparsity"][0] == history["sparsity"][5]


def test_a_pruner_begins_anew_with_every_training():
    x, y = blobs()
    pruner = sc.DynamicPruner(sc.GradientDynamic(0.5, every=2, rate=0.3))
    models = [mlp(), mlp()]
    for model in models:
        model.fit(x, y, epochs=2, callbacks=[pruner], random_state=0, progress=False)
    assert same(state(models[0]), state(models[1]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sc.Gradual(1.2), r"sparsity: expected a number in \[0, 1\], got 1.2"),
        (lambda: sc.Gradual(0.5, criterion="l3"), "criterion: unknown 'l3'"),
        (lambda: sc.Gradual(0.5, every=0), "every: expected a positive integer, got 0"),
        (lambda: sc.Gradual(0.5, schedule="x"), "schedule: unknown name 'x'"),
        (lambda: sc.Gradual(0.5, begin=1.5), "begin: expected a number of batches or a share"),
        (lambda: sc.Gradual(0.5, end=-1), "end: expected a number of batches or a share"),
        (lambda: sc.Gradual(0.5, scope="x"), "scope: unknown name 'x'"),
        (lambda: sc.Gradual(0.5, granularity="x"), "granularity: unknown 'x'"),
        (lambda: sc.GradientDynamic(0.5, rate=0), r"rate: expected a number in \(0, 1\], got 0"),
        (lambda: sc.GradientDynamic(0.5, begin=-1), "begin: expected a number of batches"),
        (lambda: sc.DynamicPruner("gradual"), "method: expected a method such as Gradual"),
        (lambda: sc.DynamicPruner(sc.Gradual(0.5), stop=0.1), "stop: expected AtSparsity"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("method", "stop", "message"),
    [
        (lambda: sc.Gradual(0.5, end=10_000), None, "end: expected begin <= end <= 10 batches"),
        (lambda: sc.Gradual(0.5, include="conv*"), None, r"include: 'conv\*' matches none"),
        (
            lambda: sc.Gradual(0.9, granularity="2:4"),
            None,
            "sparsity: the pattern 2:4 has sparsity 0.5, got 0.9",
        ),
        (lambda: sc.Gradual(0.5), sc.MaxDrop(0.1), "stop: MaxDrop needs validation_data"),
    ],
)
def test_what_does_not_fit_the_training_is_refused_before_it(method, stop, message):
    x, y = blobs()
    model = mlp()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, callbacks=[sc.DynamicPruner(method(), stop=stop)], progress=False)
    assert same(state(model), before)
