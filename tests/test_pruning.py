"""Static pruning: exact counts, what is held at zero, when it stops, and what is refused."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secateur as sc
from secateur import nn
from secateur.budgets import keep_count
from secateur.schedules import Schedule

CASES = int(os.environ.get("SECATEUR_CASES", 500))


def blobs(n=300, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return (rng.normal(size=(3, 10))[y] * 2 + rng.normal(size=(n, 10))).astype(np.float32), y


def mlp(seed=0, hidden=(24, 16)):
    layers = [nn.Dense(units, activation="relu") for units in hidden]
    return nn.Sequential([*layers, nn.Dense(3)]).build((10,), seed)


def cnn(seed=0):
    layers = [
        nn.Conv2D(6, 3, activation="relu"),
        nn.MaxPool2D(2),
        nn.Flatten(),
        nn.Dense(9, activation="relu"),
    ]
    return nn.Sequential([*layers, nn.Dense(3)]).build((2, 9, 9), seed)


def state(model):
    return {
        name: array.copy() for name, array in (model.parameters() | model.buffers() | model.masks).items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def counts(masks):
    return sum(mask.size for mask in masks.values()), sum(int(mask.sum()) for mask in masks.values())


quick = {"progress": False, "round_to": None}


# Counts


@settings(max_examples=max(20, CASES // 5), deadline=None)
@given(
    st.floats(0, 1),
    st.sampled_from(["l1", "l2", "random", "gradient", "taylor", "combined"]),
    st.sampled_from(["global", "erk", "lamp"]),
)
def test_single_weights_are_counted_exactly(sparsity, criterion, scope):
    model = cnn()
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(8, 2, 9, 9)), rng.integers(0, 3, 8))
    res = sc.prune(model, sparsity, criterion=criterion, scope=scope, data=data, **quick)
    n, kept = counts(res.masks)
    assert kept == keep_count(n, sparsity)
    assert res.sparsity == pytest.approx(sparsity, abs=1 / n)
    for name, mask in res.masks.items():
        assert not res.model.parameters()[name][~mask].any()
        assert np.array_equal(res.model.parameters()[name][mask], model.parameters()[name][mask])


@settings(max_examples=max(20, CASES // 10), deadline=None)
@given(st.floats(0, 1))
def test_layers_alone_are_counted_exactly(sparsity):
    for mask in sc.prune(mlp(), sparsity, scope="layer", **quick).masks.values():
        assert mask.sum() == keep_count(mask.size, sparsity)


def test_the_smallest_magnitudes_of_the_model_go():
    model = cnn()
    res = sc.prune(model, 0.7, **quick)
    everything = np.concatenate([np.abs(model.parameters()[name]).ravel() for name in sorted(res.masks)])
    order = np.argsort(-everything, kind="stable")
    expected = np.zeros(everything.size, bool)
    expected[order[: keep_count(everything.size, 0.7)]] = True
    found = np.concatenate([res.masks[name].ravel() for name in sorted(res.masks)])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("block", ["8x1", "16x1", "4x1", "4x4", "3x5"])
@pytest.mark.parametrize("scope", ["global", "layer", "erk", "lamp"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.8, 1.0])
def test_blocks_go_whole_and_meet_the_sparsity(block, scope, sparsity):
    rows, columns = map(int, block.split("x"))
    masks = sc.prune(cnn(), sparsity, granularity=block, scope=scope, criterion="l2", **quick).masks
    sets = [{name: mask} for name, mask in masks.items()] if scope in ("layer", "erk") else [masks]
    n, kept = counts(masks)
    assert abs(n - kept - sparsity * n) <= len(sets) * rows * columns / 2 + len(sets)
    for mask in masks.values():
        matrix = mask.reshape(len(mask), -1)
        for i in range(0, matrix.shape[0], rows):
            for j in range(0, matrix.shape[1], columns):
                part = matrix[i : i + rows, j : j + columns]
                assert part.all() or not part.any()


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:5", "4:4"])
@pytest.mark.parametrize("schedule", [None, Schedule("linear", 3)])
def test_patterns_keep_the_best_n_of_m(pattern, schedule):
    n, m = map(int, pattern.split(":"))
    model = cnn()
    res = sc.prune(model, granularity=pattern, schedule=schedule, **quick)
    for name, mask in res.masks.items():
        weights = np.abs(model.parameters()[name]).reshape(len(mask), -1)
        expected = np.zeros(weights.shape, bool)
        for j in range(0, weights.shape[1], m):
            part = np.argsort(-weights[:, j : j + m], axis=1, kind="stable")[:, :n]
            np.put_along_axis(expected[:, j : j + m], part, True, axis=1)
        assert np.array_equal(mask.reshape(expected.shape), expected)
    assert sc.prune(model, 1 - n / m, granularity=pattern, **quick).sparsity == res.sparsity


@pytest.mark.parametrize("scope", ["global", "layer", "erk", "lamp"])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.85])
@pytest.mark.parametrize("schedule", [None, "linear"])
def test_neurons_meet_the_sparsity_to_within_one(scope, sparsity, schedule):
    model = cnn()
    res = sc.prune(model, sparsity, granularity="neuron", scope=scope, schedule=schedule, **quick)
    n, kept = counts(res.masks)
    assert n == sum(model.parameters()[name].size for name in model.prunable())
    assert kept == sum(res.model.parameters()[name].size for name in res.model.prunable())
    largest = 18 + 9 * 9  # a convolution's channel and what reads it
    assert abs(n - kept - sparsity * n) <= largest
    assert res.model.layers[-1].units == 3
    x = np.random.default_rng(0).normal(size=(5, 2, 9, 9)).astype(np.float32)
    masked = model.copy()
    masked.set_masks(res.masks)
    np.testing.assert_allclose(res.model.predict(x), masked.predict(x), rtol=1e-5, atol=1e-6)
    assert res.model.masks == {}


def test_neurons_go_where_they_cost_most_time():
    model = nn.Sequential(
        [
            nn.Conv2D(16, 3, activation="relu"),
            nn.Conv2D(16, 3, activation="relu"),
            nn.MaxPool2D(4),
            nn.Flatten(),
            nn.Dense(64, activation="relu"),
            nn.Dense(10),
        ]
    ).build((1, 20, 20), 0)
    res = sc.prune(model, 0.5, granularity="neuron", **quick)
    assert res.model.macs() < 0.6 * model.macs()


def test_thresholds():
    model = mlp()
    res = sc.prune(model, threshold=0.2, **quick)
    for name, mask in res.masks.items():
        assert np.array_equal(mask, np.abs(model.parameters()[name]) >= np.float32(0.2))
    blocks = sc.prune(model, threshold=0.2, granularity="4x1", **quick).masks["dense_1.weight"]
    means = np.abs(model.parameters()["dense_1.weight"]).reshape(4, 4, 24).mean(axis=1)
    assert np.array_equal(blocks[::4], means >= 0.2)
    scores = np.abs(model.parameters()["dense.weight"]).mean(axis=1)
    small = sc.prune(model, threshold=0.25, granularity="neuron", include="dense", **quick).model
    assert small.layers[0].units == np.count_nonzero(scores >= 0.25)
    assert sc.prune(model, threshold=1e9, granularity="neuron", **quick).model.layers[0].units == 1


def test_a_callable_scores_weights_and_gradients():
    x, y = blobs()
    model = mlp()
    seen = []

    def smallest_last(weights, grads):
        seen.append(grads)
        return -np.abs(weights)

    res = sc.prune(model, 0.5, criterion=smallest_last, scope="layer", **quick)
    assert all(grads is None for grads in seen)
    for name, mask in res.masks.items():
        weights = np.abs(model.parameters()[name])
        assert weights[mask].max() <= weights[~mask].min()
    seen.clear()
    sc.prune(model, 0.5, criterion=smallest_last, data=(x, y), **quick)
    assert [grads.shape for grads in seen] == [model.parameters()[name].shape for name in model.prunable()]


def test_include_and_exclude():
    model = mlp()
    masks = sc.prune(model, 0.5, include="dense*", exclude=["dense_2"], **quick).masks
    assert masks["dense_2.weight"].all()
    n = masks["dense.weight"].size + masks["dense_1.weight"].size
    assert masks["dense.weight"].sum() + masks["dense_1.weight"].sum() == n // 2
    small = sc.prune(model, 0.3, granularity="neuron", exclude="dense", **quick).model
    assert small.layers[0].units == 24 and small.layers[1].units < 16


def test_what_was_removed_before_stays_removed():
    model = mlp()
    first = sc.prune(model, 0.5, criterion="random", random_state=0, **quick)
    second = sc.prune(first.model, 0.8, criterion="random", random_state=1, **quick)
    assert all(not (second.masks[name] & ~mask).any() for name, mask in first.masks.items())
    n, kept = counts(second.masks)
    assert kept == keep_count(n, 0.8)
    blocks = sc.prune(first.model, 0.8, granularity="4x1", **quick)
    assert all(not (blocks.masks[name] & ~mask).any() for name, mask in first.masks.items())
    assert counts(sc.prune(first.model, 0.2, **quick).masks) == counts(first.masks)


# The caller's arrays


@pytest.mark.parametrize("granularity", ["weight", "neuron", "8x1"])
def test_the_callers_model_and_data_stay_as_they_are(granularity):
    x, y = blobs()
    model = mlp()
    optimizer = nn.Adam()
    before, data = state(model), (x.copy(), y.copy())
    sc.prune(
        model, 0.5, granularity=granularity, criterion="taylor", data=(x, y), validate=(x, y),
        finetune={"x": x, "y": y, "epochs": 1, "optimizer": optimizer}, schedule="linear", **quick,
    )  # fmt: skip
    assert same(state(model), before)
    assert np.array_equal(x, data[0]) and np.array_equal(y, data[1])
    assert optimizer.iterations == 0


@pytest.mark.parametrize("granularity", ["weight", "neuron", "2:4"])
def test_in_place_is_the_same_in_the_callers_model(granularity):
    x, y = blobs()
    arguments = dict(
        granularity=granularity, finetune={"x": x, "y": y}, schedule="cubic", random_state=0, **quick
    )
    model = mlp()
    elsewhere = sc.prune(model, 0.5, **arguments)
    here = sc.prune(model, 0.5, inplace=True, **arguments)
    assert here.model is model
    assert same(state(model), state(elsewhere.model))
    assert same(here.masks, elsewhere.masks)
    model.fit(x, y, progress=False)


def test_tied_weights_are_pruned_once():
    model = nn.Sequential([nn.Dense(6, activation="relu"), nn.Dense(6, activation="relu"), nn.Dense(6)])
    model.build((6,), 0)
    model.layers[2].params["weight"] = model.layers[0].params["weight"]
    res = sc.prune(model, 0.5, finetune={"x": np.ones((4, 6)), "y": np.zeros(4, int)}, **quick)
    assert counts(res.masks) == (72, 36)
    first, last = res.model.layers[0], res.model.layers[2]
    assert first.params["weight"] is last.params["weight"]
    assert np.array_equal(first.masks["weight"], last.masks["weight"])
    assert not first.params["weight"][~first.masks["weight"]].any()
    with pytest.raises(sc.UnsupportedOpError, match="tied"):
        sc.prune(model, 0.5, granularity="neuron", **quick)


# The loop


def test_fine_tuning_holds_zeros_and_recovers():
    x, y = blobs(600)
    model = mlp()
    model.fit(x, y, epochs=5, optimizer=nn.Adam(0.01), random_state=0, progress=False)
    dense = model.evaluate(x, y)["accuracy"]
    for optimizer in (nn.Adam(0.01), nn.SGD(0.05, momentum=0.9)):
        fit = {"x": x, "y": y, "epochs": 3, "optimizer": optimizer}
        res = sc.prune(model, 0.8, schedule="cubic", finetune=fit, validate=(x, y), random_state=0, **quick)
        for name, mask in res.masks.items():
            assert not res.model.parameters()[name][~mask].any()
        assert res.history[0]["score"] == dense
        assert res.history[-1]["score"] > dense - 0.05
        assert [record["step"] for record in res.history] == list(range(6))
        found = [record["sparsity"] for record in res.history]
        assert found == sorted(found) and found[-1] == pytest.approx(0.8, abs=1e-3)
        assert all(record["latency_1"] > 0 and record["latency_32"] > 0 for record in res.history)


def test_fine_tuning_by_a_callable_gets_the_model_and_cannot_revive_weights():
    def everything_to_one(model):
        for array in model.parameters().values():
            array[...] = 1

    res = sc.prune(mlp(), 0.5, finetune=everything_to_one, **quick)
    for name, mask in res.masks.items():
        assert np.array_equal(res.model.parameters()[name], mask.astype(np.float32))


def test_same_seed_same_result():
    x, y = blobs()
    arguments = dict(finetune={"x": x, "y": y}, schedule="linear", random_state=3, **quick)
    runs = [sc.prune(mlp(), 0.5, criterion="random", **arguments).model for _ in range(2)]
    assert same(state(runs[0]), state(runs[1]))


def test_cycles_let_weights_come_back():
    x, y = blobs()
    model = mlp()
    once = sc.prune(model, 0.6, **quick).masks
    res = sc.prune(
        model, 0.6, schedule=Schedule("linear", 2, cycles=2), random_state=0,
        finetune={"x": x, "y": y, "epochs": 8, "optimizer": nn.Adam(0.03)}, **quick,
    )  # fmt: skip
    n, kept = counts(res.masks)
    assert kept == keep_count(n, 0.6)
    assert [round(record["sparsity"], 2) for record in res.history] == [0, 0.3, 0.6, 0, 0.3, 0.6]
    assert any((res.masks[name] & ~mask).any() for name, mask in once.items())


def scripted(*scores):
    values = iter(scores)
    return lambda model: next(values)


@pytest.mark.parametrize("granularity", ["weight", "neuron"])
def test_max_drop_goes_back_to_the_last_good_model(granularity):
    arguments = dict(granularity=granularity, schedule=Schedule("linear", 5), stop=sc.MaxDrop(0.02), **quick)
    res = sc.prune(mlp(), 0.5, validate=scripted(0.9, 0.91, 0.89, 0.87, 1.0, 1.0), **arguments)
    assert len(res.history) == 4
    assert res.sparsity == pytest.approx(res.history[2]["sparsity"])
    assert res.sparsity == pytest.approx(0.2, abs=0.06)
    kept = sum(np.count_nonzero(res.model.parameters()[name]) for name in res.model.prunable())
    assert kept == counts(res.masks)[1]
    model = mlp()
    untouched = sc.prune(model, 0.5, validate=scripted(0.9, 0.5), inplace=True, **arguments)
    assert untouched.sparsity == 0 and same(state(model), state(mlp()))


def test_no_improvement_keeps_the_best():
    arguments = dict(schedule=Schedule("linear", 5), stop=sc.NoImprovement(patience=2), **quick)
    res = sc.prune(mlp(), 0.5, validate=scripted(0.9, 0.8, 0.85, 0.84, 0.83, 1.0), **arguments)
    assert len(res.history) == 5
    assert res.sparsity == pytest.approx(0.2, abs=0.01)


def test_at_sparsity_ends_where_it_is():
    res = sc.prune(mlp(), threshold=0.5, schedule=Schedule("linear", 10), stop=sc.AtSparsity(0.3), **quick)
    found = [record["sparsity"] for record in res.history]
    assert found[-2] < 0.3 <= found[-1] == res.sparsity < 0.5


def test_the_result_reports_size_quality_and_time():
    x, y = blobs()
    for granularity in ("weight", "neuron"):
        res = sc.prune(mlp(), 0.5, granularity=granularity, validate=(x, y), **quick)
        text = res.summary()
        for word in (
            "dense.weight shape",
            "MACs",
            "score",
            "latency at batch 1",
            "latency at batch 32",
            "before",
        ):
            assert word in text
    assert res.history[-1]["weights"] < res.history[0]["weights"]


def test_the_summary_has_the_score_whatever_was_included():
    res = sc.prune(mlp(), 0.5, include="dense.weight", validate=blobs(), **quick)
    assert f"{res.history[-1]['score']:.4f}" in res.summary()


@pytest.mark.parametrize("name", ["data", "validate"])
def test_labels_outside_the_classes_are_told_by_their_argument(name):
    x, y = blobs()
    with pytest.raises(ValueError, match=f"^{name}: expected labels"):
        sc.prune(mlp(), 0.5, criterion="taylor", **{"data": (x, y), name: (x, y + 3)}, **quick)


def test_rounding_by_measurement_meets_the_target():
    model = nn.Sequential([nn.Dense(40, activation="relu"), nn.Dense(40, activation="relu"), nn.Dense(3)])
    model.build((10,), 0)
    res = sc.prune(model, 0.5, granularity="neuron", progress=False)
    n, kept = counts(res.masks)
    assert abs(n - kept - n / 2) <= 10 + 40 + 40
    sixteen = sc.prune(model, 0.5, granularity="neuron", round_to=16, progress=False).model
    assert all(layer.units in (16, 32, 40) for layer in sixteen.layers[:-1])


# Bad input


XY = (np.ones((4, 10)), np.zeros(4, int))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "sparsity: give either sparsity or threshold, got neither"),
        ({"sparsity": 0.5, "threshold": 0.1}, "threshold: give either sparsity or threshold, got both"),
        ({"sparsity": 1.5}, r"sparsity: expected a number in \[0, 1\], got 1.5"),
        ({"sparsity": float("nan")}, r"sparsity: expected a number in \[0, 1\], got nan"),
        ({"sparsity": "half"}, r"sparsity: expected a number in \[0, 1\], got 'half'"),
        ({"threshold": -1}, "threshold: expected a number of at least 0, got -1"),
        ({"sparsity": 0.5, "criterion": "l3"}, "criterion: unknown 'l3'; choose from l1, l2"),
        ({"sparsity": 0.5, "granularity": "row"}, "granularity: unknown 'row'; choose from weight, neuron"),
        ({"sparsity": 0.5, "granularity": "0x4"}, "granularity: unknown '0x4'; choose from"),
        ({"sparsity": 0.5, "granularity": "5:4"}, "granularity: unknown '5:4'; choose from"),
        ({"sparsity": 0.5, "granularity": 8}, "granularity: unknown 8; choose from"),
        ({"sparsity": 0.5, "scope": "all"}, "scope: unknown name 'all'; choose from erk, global"),
        ({"sparsity": 0.5, "schedule": "x"}, "schedule: unknown name 'x'; choose from"),
        ({"sparsity": 0.9, "granularity": "2:4"}, "sparsity: the pattern 2:4 has sparsity 0.5, got 0.9"),
        ({"threshold": 0.9, "granularity": "2:4"}, "threshold: an N:M pattern has"),
        ({"sparsity": 0.5, "criterion": "taylor"}, "data: criterion 'taylor' needs"),
        ({"sparsity": 0.5, "data": XY[0]}, "data: expected a pair"),
        (
            {"sparsity": 0.5, "data": (XY[0], XY[1][:3])},
            "data: expected as many labels as samples, got 4 and 3",
        ),
        ({"sparsity": 0.5, "validate": (XY[0], XY[1][:3])}, "validate: expected as many labels"),
        ({"sparsity": 0.5, "finetune": {"x": XY[0], "y": XY[1][:3]}}, "finetune: expected as many labels"),
        ({"sparsity": 0.5, "finetune": 3}, "finetune: expected a mapping of fit's arguments"),
        ({"sparsity": 0.5, "stop": "target"}, "stop: expected AtSparsity, MaxDrop or NoImprovement"),
        ({"sparsity": 0.5, "stop": sc.MaxDrop(0.1)}, "validate: the stop rule MaxDrop needs it"),
        ({"sparsity": 0.5, "include": "conv*"}, r"include: 'conv\*' matches none of dense.weight"),
        ({"sparsity": 0.5, "exclude": "*"}, "exclude: no weights are left to prune"),
        ({"sparsity": 0.5, "round_to": 0}, 'round_to: expected "auto", a positive integer or None, got 0'),
        ({"sparsity": 0.5, "lam": -1.0}, "lam: expected a number"),
        (
            {"sparsity": 0.5, "granularity": "neuron", "include": "dense_2"},
            "model: it has no layer that can lose",
        ),
        (
            {"sparsity": 1.0, "granularity": "neuron"},
            "sparsity: removing neurons of these layers reaches 0.9",
        ),
        (
            {"sparsity": 0.5, "granularity": "neuron", "schedule": "cyclic"},
            "schedule: removed neurons cannot",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, message):
    model = mlp()
    before = state(model)
    with pytest.raises(ValueError, match=message) as caught:
        sc.prune(model, **arguments)
    assert "\n" not in str(caught.value)
    assert same(state(model), before)


def test_nan_weights_are_refused_by_name():
    for granularity in ("weight", "neuron", "8x1", "2:4"):
        model = mlp()
        model.parameters()["dense_1.weight"][2, 3] = np.nan
        with pytest.raises(ValueError, match=r"dense_1\.weight"):
            sc.prune(model, 0.5, granularity=granularity, **quick)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sc.MaxDrop(-0.1), "drop: expected a number of at least 0"),
        (lambda: sc.NoImprovement(patience=0), "patience: expected a positive integer"),
        (lambda: sc.AtSparsity(2), "sparsity: expected a number"),
    ],
)
def test_wrong_stop_rules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
