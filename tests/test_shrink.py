"""Smaller arrays compute what the masked ones do."""

import numpy as np
import pytest

import secateur as sc
from secateur import nn
from secateur.models.view import view
from secateur.neurons import Layout, Planner, masks_of
from secateur.rounding import meets, rounded
from secateur.shrink import keep_neurons

MODELS = {
    "reference": (
        lambda: [
            nn.Conv2D(6, 3, activation="relu"),
            nn.MaxPool2D(2),
            nn.Conv2D(8, 3, activation="relu"),
            nn.MaxPool2D(2),
            nn.Flatten(),
            nn.Dense(12, activation="relu"),
            nn.Dense(4),
        ],
        (1, 16, 18),
    ),
    "normalized": (
        lambda: [
            nn.Conv2D(6, 3, padding="same", use_bias=False),
            nn.BatchNorm(),
            nn.ReLU(),
            nn.AveragePool2D(2),
            nn.Conv2D(5, (3, 2), strides=2, activation="sigmoid"),
            nn.Flatten(),
            nn.BatchNorm(),
            nn.Dense(7),
            nn.BatchNorm(),
            nn.Tanh(),
            nn.Dense(4),
        ],
        (3, 11, 12),
    ),
    "dense": (lambda: [nn.Dense(9, activation="tanh"), nn.Dense(9), nn.ReLU(), nn.Dense(3)], (5,)),
}


def build(name, seed=0):
    layers, shape = MODELS[name]
    model = nn.Sequential(layers()).build(shape, seed)
    rng = np.random.default_rng(seed)
    for array in (model.parameters() | model.buffers()).values():
        # Biases, means and so on away from their first values; variances positive.
        array += rng.uniform(0.0, 0.5, array.shape).astype(np.float32)
    return model, rng.normal(size=(7, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(5))
def test_shrunk_equals_masked(name, seed):
    model, x = build(name, seed)
    layout = Layout.of(view(model))
    rng = np.random.default_rng(seed)
    kept = {
        tensor: np.sort(rng.permutation(layout.widths[tensor])[: rng.integers(1, layout.widths[tensor] + 1)])
        for tensor in layout.removable
    }
    masked, small = model.copy(), model.copy()
    masked.set_masks(masks_of(view(model), kept, layout.removable))
    keep_neurons(view(small), kept, layout.removable)
    np.testing.assert_allclose(small.predict(x), masked.predict(x), rtol=1e-5, atol=1e-5)
    assert {tensor: len(small.parameters()[tensor]) for tensor in kept} == {
        t: len(k) for t, k in kept.items()
    }
    assert small.config()["layers"] == [layer.config() for layer in small.layers]
    assert np.array_equal(small.copy().predict(x), small.predict(x))


@pytest.mark.parametrize("name", MODELS)
def test_dead_neurons_go_and_nothing_changes(name):
    model, x = build(name)
    original = view(model)
    layout = Layout.of(original)
    kept = {tensor: np.arange(1, layout.widths[tensor], 2) for tensor in layout.removable}
    original.set_masks(masks_of(original, kept, layout.removable))
    small = sc.remove_dead_neurons(model)
    np.testing.assert_allclose(small.predict(x), model.predict(x), rtol=1e-5, atol=1e-5)
    for tensor, neurons in kept.items():
        assert len(small.parameters()[tensor]) == len(neurons)
    assert len(model.parameters()[next(iter(kept))]) == layout.widths[next(iter(kept))]
    assert sc.remove_dead_neurons(model, inplace=True) is model
    assert model.num_parameters() == small.num_parameters()


def test_a_neuron_read_by_dead_ones_only_is_dead():
    model = nn.Sequential([nn.Dense(3), nn.Dense(3), nn.Dense(2)]).build((2,), 0)
    # Neuron 1 of the second layer is unread; neuron 2 of the first is read by it alone.
    model.parameters()["dense_2.weight"][:, 1] = 0
    model.parameters()["dense_1.weight"][[0, 2], 2] = 0
    small = sc.remove_dead_neurons(model)
    assert [layer.units for layer in small.layers] == [2, 2, 2]


@pytest.mark.parametrize(("groups", "named"), [((1, 6), "conv2d_1"), ((2, 1), "conv2d")])
def test_neurons_of_grouped_convolutions_stay_and_weights_go(groups, named):
    layers = [nn.Conv2D(6, 3, groups=groups[0]), nn.Conv2D(6, 3, groups=groups[1]), nn.Flatten(), nn.Dense(3)]
    model = nn.Sequential(layers).build((2, 8, 8), random_state=0)
    before = model.get_weights()
    with pytest.raises(sc.UnsupportedOpError, match=f"^{named}: neurons of a convolution in"):
        sc.prune(model, 0.5, granularity="neuron")
    with pytest.raises(sc.UnsupportedOpError, match=f"^{named}: neurons of a convolution in"):
        sc.remove_dead_neurons(model)
    assert all(map(np.array_equal, before, model.get_weights()))
    for scope in ("global", "layer", "erk"):
        result = sc.prune(model, 0.5, scope=scope)
        weights = [result.model.parameters()[name] for name in result.model.prunable()]
        assert sum(map(np.count_nonzero, weights)) == round(0.5 * sum(w.size for w in weights))


def test_one_neuron_stays_when_all_are_dead():
    model = nn.Sequential([nn.Dense(3), nn.Dense(2)]).build((2,), 0)
    model.parameters()["dense_1.weight"][...] = 0
    assert [layer.units for layer in sc.remove_dead_neurons(model).layers] == [1, 2]


def test_masks_shrink_with_their_tensors():
    model, _ = build("dense")
    rng = np.random.default_rng(0)
    masks = {name: rng.random(model.parameters()[name].shape) < 0.7 for name in model.prunable()}
    model.set_masks(masks)
    layout = Layout.of(view(model))
    keep_neurons(view(model), {"dense.weight": np.array([1, 4])}, layout.removable)
    assert np.array_equal(model.masks["dense.weight"], masks["dense.weight"][[1, 4]])
    assert np.array_equal(model.masks["dense_1.weight"], masks["dense_1.weight"][:, [1, 4]])


def planner_of(model, seed=0, **arguments):
    layout = Layout.of(view(model))
    rng = np.random.default_rng(seed)
    scores = {name: rng.random(layout.widths[name]) for name in layout.removable}
    return Planner(layout, scores, **arguments)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scope", ["global", "layer", "erk", "lamp"])
def test_widths_meet_the_target_to_within_one_neuron(name, scope):
    model, _ = build(name)
    planner = planner_of(model, scope=scope)
    layout = planner.layout
    total, least = layout.totals(layout.widths)[0], layout.least(list(layout.removable))
    for target in range(total, least - 1, -7):
        widths = planner.widths(target)
        assert meets(layout, widths, target)
        assert all(1 <= widths[name] <= layout.widths[name] for name in widths)
        # The number is that of the real arrays.
        small = view(model.copy())
        keep_neurons(small, planner.kept(widths), layout.removable)
        assert sum(tensor.size for tensor in small.parameters().values()) == layout.totals(widths)[0]
        assert Layout.of(small).totals(widths) == layout.totals(widths)


def test_multiply_adds_are_those_of_the_model():
    for name in MODELS:
        model, _ = build(name)
        layout = Layout.of(view(model))
        assert layout.totals(layout.widths)[1] == model.macs()


def test_steps_make_multiples():
    model = nn.Sequential([nn.Dense(64), nn.Dense(48), nn.Dense(10)]).build((30,), 0)
    planner = planner_of(model, step=16)
    total = planner.layout.totals(planner.layout.widths)[0]
    widths = planner.widths(total // 2)
    assert all(width % 16 == 0 for name, width in widths.items() if name != "dense_2.weight")


def test_rounding_takes_what_the_clock_prefers_and_still_meets_the_target():
    model = nn.Sequential(
        [nn.Conv2D(40, 3), nn.Conv2D(40, 3), nn.Flatten(), nn.Dense(40), nn.Dense(10)]
    ).build((1, 8, 8), 0)
    planner = planner_of(model)
    layout = planner.layout
    target = layout.totals(layout.widths)[0] // 2
    time = {"conv2d.weight": 1.0, "conv2d_1.weight": 10.0, "dense.weight": 1.0}
    plain = planner.widths(target)

    def likes_lanes(widths):
        return sum(cost * (2 if widths[name] % 16 else 1) for name, cost in time.items())

    found = rounded(planner, target, lambda a, b: likes_lanes(a) / likes_lanes(b))
    assert likes_lanes(found) < likes_lanes(plain)
    assert meets(layout, found, target)
    assert rounded(planner, target, lambda a, b: 1.0) == plain
