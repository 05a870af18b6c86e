"""Training on the nonzeros: the same training as with masks, but for rounding."""

import numpy as np
import pytest

import secateur as sc
from secateur import nn
from secateur.nn import packed as packing
from secateur.nn.packable import PackedMatrix
from test_methods import Keep, blobs, same, state
from test_methods_growth import METHODS, OPTIMIZERS


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch):
    monkeypatch.setattr(packing, "LEAST", 1)


def mlp(seed=0, activation="relu"):
    return nn.Sequential(
        [
            nn.Dense(40, activation=activation),
            nn.BatchNorm(),
            nn.Dense(24, activation=activation, use_bias=False),
            nn.Dense(3),
        ]
    ).build((10,), seed)


def pruned(sparsity=0.7, seed=0, activation="relu"):
    model = mlp(seed, activation)
    sc.prune(model, sparsity, scope="layer", inplace=True)
    return model


def close(a, b, tolerance=2e-3):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "softmax", None])
@pytest.mark.parametrize("batch", [9, 16, 33])
def test_a_layer_forward_and_backward(activation, batch):
    rng = np.random.default_rng(0)
    for features, units in [(1, 1), (5, 3), (31, 17), (64, 33)]:
        layers = [nn.Dense(units, activation=activation) for _ in range(2)]
        x = rng.normal(size=(batch, features)).astype(np.float32)
        dy = rng.normal(size=(batch, units)).astype(np.float32)
        mask = rng.random((units, features)) < 0.4
        found = []
        for layer in layers:
            layer.build((features,), np.random.default_rng(1))
            layer.set_mask("weight", mask)
            if layer is layers[1]:
                layer.packed = {"weight": layer.pack("weight", layer.masks["weight"])}
            y = layer.forward(x, training=True)
            dx = layer.backward(dy)
            found.append((y, dx, layer.grads["weight"], layer.grads["bias"]))
        for dense, packed in zip(*found, strict=True):
            np.testing.assert_allclose(packed, dense, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            layers[1].packed["weight"].gradient, found[0][2][mask], rtol=1e-4, atol=1e-5
        )
        assert layers[1].backward(dy, need_dx=False).size == 0


@pytest.mark.parametrize("activation", ["relu", "tanh", None])
@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((1, 5, 7), {"filters": 3, "kernel_size": 3}),
        ((4, 9, 8), {"filters": 6, "kernel_size": 3, "padding": "same", "strides": 2}),
        ((6, 7, 7), {"filters": 4, "kernel_size": (1, 3), "dilation": 2, "use_bias": False}),
        ((6, 6, 5), {"filters": 9, "kernel_size": 2, "groups": 3}),
    ],
)
def test_a_convolution_forward_and_backward(activation, shape, arguments):
    rng = np.random.default_rng(0)
    layers = [nn.Conv2D(activation=activation, **arguments) for _ in range(2)]
    x = rng.normal(size=(12, *shape)).astype(np.float32)
    found = []
    for layer in layers:
        layer.build(shape, np.random.default_rng(1))
        mask = np.random.default_rng(2).random(layer.params["weight"].shape) < 0.4
        dy = np.random.default_rng(3).normal(size=(12, *layer.output_shape)).astype(np.float32)
        layer.set_mask("weight", mask)
        if layer is layers[1]:
            layer.packed = {"weight": layer.pack("weight", layer.masks["weight"])}
        y = layer.forward(x, training=True)
        dx = layer.backward(dy)
        found.append((y, dx, *(layer.grads[key] for key in layer.params)))
    for dense, packed in zip(*found, strict=True):
        np.testing.assert_allclose(packed, dense, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layers[1].packed["weight"].gradient, found[0][2][mask], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_pruned_convolutional_network_learns_the_same(optimizer):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 96)
    x = (rng.normal(size=(96, 1, 10, 10)) + y[:, None, None, None]).astype(np.float32)
    found = {}
    for packed in (None, 1.0):
        model = nn.Sequential(
            [
                nn.Conv2D(8, 3, activation="relu"), nn.MaxPool2D(2),
                nn.Conv2D(12, 3, padding="same", use_bias=False), nn.BatchNorm(), nn.ReLU(),
                nn.Flatten(), nn.Dense(20, activation="relu"), nn.Dense(3),
            ]
        ).build((1, 10, 10), 0)  # fmt: skip
        sc.prune(model, 0.6, scope="layer", inplace=True)
        history = model.fit(
            x, y, epochs=3, optimizer=OPTIMIZERS[optimizer](), random_state=0, packed=packed, progress=False
        )
        assert history["packed"] == [0.0 if packed is None else 1.0] * 3
        found[packed] = {**state(model), "loss": np.array(history["loss"])}
    close(found[None], found[1.0])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_pruned_network_learns_the_same(optimizer, activation):
    x, y = blobs()
    found = {}
    for packed in (None, 1.0):
        model, solver = pruned(activation=activation), OPTIMIZERS[optimizer]()
        masks = model.masks
        history = model.fit(
            x,
            y,
            epochs=3,
            optimizer=solver,
            random_state=0,
            packed=packed,
            validation_data=(x, y),
            progress=False,
        )
        assert history["packed"] == [0.0 if packed is None else 1.0] * 3
        found[packed] = {**state(model), "loss": np.array(history["loss"] + history["val_loss"])}
        for kind, slot in solver.slots.items():
            for name, array in slot.items():
                found[packed][f"{kind} of {name}"] = array
                if name in masks:
                    assert array.shape == masks[name].shape and not array[~masks[name]].any()
        for name, mask in masks.items():
            assert not model.parameters()[name][~mask].any()
    close(found[None], found[1.0])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_prunes_the_same(name):
    """Gradients differ by rounding, so a few weights near a threshold may change sides; most do not."""
    x, y = blobs()
    masks = {}
    for packed in (None, 1.0):
        model = mlp()
        pruner = sc.DynamicPruner(METHODS[name]())
        model.fit(x, y, epochs=8, random_state=0, callbacks=[pruner], packed=packed, progress=False)
        masks[packed] = model.masks, pruner.history
        for tensor, mask in model.masks.items():
            assert not model.parameters()[tensor][~mask].any()
    assert [r["batch"] for r in masks[None][1]] == [r["batch"] for r in masks[1.0][1]]
    assert [r["sparsity"] for r in masks[None][1]] == pytest.approx(
        [r["sparsity"] for r in masks[1.0][1]], abs=0.03
    )
    agree = [(a == masks[1.0][0][n]).mean() for n, a in masks[None][0].items()]
    assert np.mean(agree) > (0.75 if "set" in name else 0.9)


@pytest.mark.parametrize("name", METHODS)
def test_resuming_equals_the_uninterrupted_run(name, tmp_path):
    x, y = blobs()
    arguments = {"epochs": 6, "random_state": 0, "progress": False, "packed": 1.0}
    whole, first, second = mlp(), mlp(), mlp(seed=5)
    whole.fit(x, y, callbacks=[sc.DynamicPruner(METHODS[name]())], **arguments)
    keep = Keep(2)
    first.fit(x, y, callbacks=[sc.DynamicPruner(METHODS[name]()), keep], **arguments)
    sc.save(keep.checkpoint, tmp_path / "c.safetensors")
    second.fit(
        x, y, callbacks=[sc.DynamicPruner(METHODS[name]()), nn.Callback()],
        resume=sc.load(tmp_path / "c.safetensors"), **arguments,
    )  # fmt: skip
    assert same(state(second), state(whole))


def test_the_result_does_not_depend_on_threads():
    x, y = blobs()
    results = []
    before = sc.get_num_threads()
    try:
        for threads in (1, 2, 3):
            sc.set_num_threads(threads)
            model = pruned()
            model.fit(x, y, epochs=2, random_state=0, packed=1.0, progress=False)
            results.append(state(model))
    finally:
        sc.set_num_threads(before)
    assert same(results[0], results[1]) and same(results[0], results[2])


class Meddler(nn.Callback):
    """Looks at weights and gradients after every batch, and changes weights."""

    def __init__(self):
        self.seen = []

    def on_batch_end(self, state):
        weights, grads = state.model.parameters(), state.model.gradients()
        self.seen.append({n: weights[n].copy() for n in weights} | {f"d {n}": grads[n].copy() for n in grads})
        if state.batch % 3 == 1:
            weights["dense.weight"] *= np.float32(0.9)


def test_callbacks_see_and_change_whole_arrays():
    x, y = blobs()
    meddlers = {}
    for packed in (None, 1.0):
        meddlers[packed] = Meddler()
        pruned().fit(
            x, y, epochs=1, optimizer=nn.SGD(0.05), random_state=0, callbacks=[meddlers[packed]],
            packed=packed, progress=False,
        )  # fmt: skip
    for a, b in zip(meddlers[None].seen, meddlers[1.0].seen, strict=True):
        close(a, b)


def test_the_best_weights_come_back_whole():
    x, y = blobs()
    model, stopping = pruned(), nn.EarlyStopping("val_loss", patience=2)
    history = model.fit(
        x, y, epochs=30, optimizer=nn.Adam(0.05), random_state=0, callbacks=[stopping], packed=1.0,
        validation_data=blobs(100, seed=0), progress=False,
    )  # fmt: skip
    assert all(not layer.packed for layer in model.layers if isinstance(layer, nn.Dense))
    assert model.evaluate(*blobs(100, seed=0))["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-5)


def test_removed_weights_keep_their_places_until_a_fifth_is_gone():
    rng = np.random.default_rng(0)
    mask = rng.random((30, 20)) < 0.5
    packed = PackedMatrix(mask)
    places = np.flatnonzero(mask)
    less = mask.copy()
    less.flat[places[::10]] = False
    assert packed.shrink(less) and packed.mask is less
    assert np.array_equal(packed.alive, less.flat[places])
    for other in (np.ones_like(mask), mask & (rng.random(mask.shape) < 0.7)):
        assert not packed.shrink(other)
    moved = less.copy()
    moved.flat[np.flatnonzero(~mask)[0]] = True
    assert not packed.shrink(moved)


def test_layers_are_packed_where_that_was_measured_to_pay(monkeypatch):
    x, y = blobs()
    calls = []

    def measure(layer, packed, samples, optimizer):
        density = packed["weight"].mask.mean()
        calls.append((layer.name, round(float(density), 2)))
        return {"dense": 2.0, "dense_1": 0.15 / density, "dense_2": 0.5}[layer.name], 1.0, 1.0

    monkeypatch.setattr(packing, "measure", measure)
    monkeypatch.setattr(packing, "WORTH", 0)
    monkeypatch.setattr(packing, "APART", 0)
    model = mlp()
    pruner = sc.DynamicPruner(sc.Gradual(0.95, every=5, begin=0, end=100, schedule="linear", scope="layer"))
    history = model.fit(x, y, epochs=12, callbacks=[pruner], random_state=0, progress=False)
    by_layer = {name: [d for n, d in calls if n == name] for name in ("dense", "dense_1", "dense_2")}
    # The first time that it pays settles it; where it did not, it is tried again when much has gone.
    assert len(by_layer["dense"]) == 1
    assert by_layer["dense_1"][-1] <= 0.15 < by_layer["dense_1"][-2]
    assert all(b <= 0.72 * a for a, b in zip(by_layer["dense_2"], by_layer["dense_2"][1:], strict=False))
    share = history["packed"]
    macs = {layer.name: layer.macs() for layer in model.layers if isinstance(layer, nn.Dense)}
    assert share[0] == 0 and share[-1] == pytest.approx(
        (macs["dense"] + macs["dense_1"]) / sum(macs.values())
    )
    assert share == sorted(share)


def counted(monkeypatch, times=(2.0, 1.0, 0.0)):
    """Batches before which layers were tried and packed; every layer is worth it by these times."""
    tried, packed, batches = [], [], []
    pack, prepare = packing.Packer._pack, packing.Packer.prepare

    def counting(self, *arguments, **keywords):
        batches.append(None)
        prepare(self, *arguments, **keywords)

    def noting(self, layer, masks):
        pack(self, layer, masks)
        if layer.packed:
            packed.append((layer.name, len(batches)))

    def measure(layer, *rest):
        tried.append((layer.name, len(batches)))
        return times

    monkeypatch.setattr(packing.Packer, "prepare", counting)
    monkeypatch.setattr(packing.Packer, "_pack", noting)
    monkeypatch.setattr(packing, "measure", measure)
    monkeypatch.setattr(packing, "LEAST", 0)
    return tried, packed


def test_a_few_batches_are_not_worth_trying(monkeypatch):
    x, y = blobs(320)
    tried, _ = counted(monkeypatch)
    history = pruned(0.9).fit(x, y, epochs=8, batch_size=32, random_state=0, progress=False)
    assert not tried and history["packed"] == [0.0] * 8  # 80 batches
    history = pruned(0.9).fit(x, y, epochs=12, batch_size=32, random_state=0, progress=False)
    assert len(tried) == 3 and history["packed"] == [1.0] * 12


def test_masks_that_grow_at_every_batch_are_packed_now_and_then(monkeypatch):
    x, y = blobs(320)
    _, packed = counted(monkeypatch)
    pruner = sc.DynamicPruner(sc.SET(0.8, drop=0.3, every=1, scope="layer"))
    mlp().fit(x, y, epochs=30, batch_size=32, callbacks=[pruner], random_state=0, progress=False)
    for name in ("dense", "dense_1", "dense_2"):
        at = [batch for layer, batch in packed if layer == name]
        assert 1 < len(at) < 300 / packing.APART + 1
        assert np.diff(at).min() >= packing.APART and at[-1] <= 300 - packing.APART


def test_removals_at_every_batch_keep_their_places_until_it_is_time(monkeypatch):
    x, y = blobs(320)
    _, packed = counted(monkeypatch)
    found = []
    for how in ("auto", None):
        model = mlp()
        pruner = sc.DynamicPruner(sc.Gradual(0.95, every=1, begin=0, end=200, scope="layer"))
        model.fit(
            x, y, epochs=30, batch_size=32, callbacks=[pruner], random_state=0, packed=how, progress=False
        )
        found.append(model.parameters())
    close(*found)
    at = [batch for layer, batch in packed if layer == "dense"]
    assert len(at) > 2 and np.diff(at).min() >= packing.APART


@pytest.mark.parametrize("often", [True, False])
def test_who_asks_for_gradients_pays_for_them(monkeypatch, often):
    # Packed a step takes half the time, but the whole gradients at every batch as much again and more.
    x, y = blobs(320)
    _, packed = counted(monkeypatch, (2.0, 1.0, 1.5))
    criterion = "gradient" if often else "l1"
    pruner = sc.DynamicPruner(sc.Gradual(0.9, criterion=criterion, every=1, begin=0, end=100, scope="layer"))
    mlp().fit(x, y, epochs=30, batch_size=32, callbacks=[pruner], random_state=0, progress=False)
    assert bool(packed) != often


def test_measuring_leaves_everything_as_it_was():
    model = pruned()
    layer, adam = model.layers[0], nn.Adam(0.01)
    before = state(model)
    times = packing.measure(layer, {"weight": layer.pack("weight", layer.masks["weight"])}, 32, adam)
    assert min(times) > 0
    assert same(state(model), before) and adam.iterations == 0 and adam.slots == {"m": {}, "v": {}}


def test_what_is_never_packed():
    x, y = blobs()
    for change in ({"batch_size": 8}, {"packed": 0.1}, {"packed": None}):
        history = pruned().fit(x, y, **({"packed": 1.0, "random_state": 0, "progress": False} | change))
        assert history["packed"] == [0.0]
    assert "packed" not in mlp().fit(x, y, packed=1.0, random_state=0, progress=False).history
    # Weights that two layers share, and a layer without any.
    tied = nn.Sequential([nn.Dense(10, use_bias=False), nn.Dense(10, use_bias=False)]).build((10,), 0)
    tied.layers[1].params["weight"] = tied.layers[0].params["weight"]
    mask = np.random.default_rng(0).random((10, 10)) < 0.3
    tied.set_masks({"dense.weight": mask, "dense_1.weight": mask})
    history = tied.fit(x, y, packed=1.0, random_state=0, progress=False)
    assert history["packed"] == [0.0]
    empty = mlp()
    empty.set_masks({"dense_1.weight": np.zeros((24, 40), bool)})
    assert empty.fit(x, y, packed=1.0, random_state=0, progress=False)["packed"] == [0.0]


@pytest.mark.parametrize("packed", ["always", -0.1, 1.5, True, float("nan")])
def test_wrong_arguments_are_refused(packed):
    x, y = blobs()
    with pytest.raises(ValueError, match='packed: expected "auto", a density in'):
        mlp().fit(x, y, packed=packed, progress=False)


def test_memory_counts_what_is_there():
    x, y = blobs()
    seen = []

    class Look(nn.Callback):
        def on_batch_end(self, state):
            seen.append(state.model.memory(32, state.optimizer))

    for packed in (None, 1.0):
        pruned(0.9).fit(x, y, random_state=0, packed=packed, callbacks=[Look()], progress=False)
    masked, packed = seen[9], seen[19]
    model = mlp()
    size, weights = model.num_parameters(), 10 * 40 + 40 * 24 + 24 * 3
    buffers = sum(array.size for array in model.buffers().values())
    assert masked["weights"] == 4 * (size + buffers) + weights
    assert masked["state"] == 8 * size and packed["state"] == 8 * (size - weights + round(0.1 * weights))
    assert packed["weights"] > masked["weights"]
    assert masked["activations"] == packed["activations"] == 4 * 32 * (10 + 40 + 40 + 24 + 3)
    with pytest.raises(ValueError, match="batch_size: expected a positive integer"):
        model.memory(0)


@pytest.mark.parametrize("layer", [nn.Dense(9), nn.Conv2D(4, 3)])
def test_a_gradient_that_nobody_asked_for_is_not_the_next_one(layer):
    """From packed to whole arrays between two batches, as where a dense phase begins."""
    rng = np.random.default_rng(0)
    shape = (12,) if isinstance(layer, nn.Dense) else (2, 6, 6)
    layer.build(shape, rng)
    layer.set_mask("weight", rng.random(layer.params["weight"].shape) < 0.4)
    layer.packed = {"weight": layer.pack("weight", layer.masks["weight"])}
    steps = []
    for _ in range(2):
        x = rng.normal(size=(10, *shape)).astype(np.float32)
        layer.forward(x, training=True)
        layer.backward(np.ones((10, *layer.output_shape), np.float32))
        layer.packed = {}
        steps.append(x)
    found = layer.grads["weight"].copy()
    layer.forward(steps[1], training=True)
    layer.backward(np.ones((10, *layer.output_shape), np.float32))
    np.testing.assert_array_equal(found, layer.grads["weight"])


def test_masks_that_change_on_recurrent_layers_behind_padding():
    """What was padded in the batch before, or in the validation's, says nothing of the next one."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 30, (70, 12)), rng.integers(0, 3, 70)
    x[:, 8:] = 0
    layers = [nn.Embedding(30, 32, mask_zero=True), nn.LSTM(32), nn.Dense(3)]
    pruner = sc.DynamicPruner(sc.Gradual(0.9, every=1, begin=0, end=9))
    history = nn.Sequential(layers).fit(
        x, y, epochs=4, callbacks=[pruner], validation_data=(x[:40], y[:40]), random_state=0, progress=False
    )
    assert len(history.epochs) == 4 and pruner.sparsity == pytest.approx(0.9, abs=0.01)
