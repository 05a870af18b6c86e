"""Recurrent and text layers against plain float64 loops, and their gradients against differences of these."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
import secateur as sc
from secateur import nn
from secateur.models.view import view
from test_nn_layers import CASES, built, check_layer, close

RNG = np.random.default_rng(0)
RECURRENT = {
    "tanh": lambda units, **more: nn.SimpleRNN(units, **more),
    "relu": lambda units, **more: nn.SimpleRNN(units, activation="relu", **more),
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}


@pytest.mark.parametrize("cell", RECURRENT)
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("use_bias", [True, False])
def test_recurrent_gradients(cell, return_sequences, use_bias):
    layer = RECURRENT[cell](3, return_sequences=return_sequences, use_bias=use_bias)

    def forward(x, params):
        return reference.recurrent(cell, x, params, return_sequences)

    check_layer(layer, (4, 5), forward, n=3)


@pytest.mark.parametrize("cell", RECURRENT)
@pytest.mark.parametrize("return_sequences", [True, False])
def test_recurrent_gradients_with_padding(cell, return_sequences):
    layer = RECURRENT[cell](3, return_sequences=return_sequences)
    steps = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]], bool)

    def forward(x, params):
        return reference.recurrent(cell, x, params, return_sequences, steps)

    check_layer(layer, (4, 2), forward, n=4, steps=steps)


@settings(max_examples=CASES // 5, deadline=None)
@given(
    cell=st.sampled_from(list(RECURRENT)),
    n=st.sampled_from([1, 2, 3, 15, 16, 17, 33, 64]),
    steps=st.integers(1, 5),
    features=st.sampled_from([1, 3, 16, 31]),
    units=st.sampled_from([1, 2, 7, 16, 33, 65]),
    density=st.sampled_from([1.0, 0.3, 0.05]),
    seed=st.integers(0, 2**32 - 1),
)
def test_recurrent_layers_masked_and_packed(cell, n, steps, features, units, density, seed):
    rng = np.random.default_rng(seed)
    layer, rng = built(RECURRENT[cell](units, return_sequences=bool(seed % 2)), (steps, features), seed)
    for array in layer.params.values():
        array *= 0.5
    x, dy = rng.normal(size=(n, steps, features)).astype(np.float32), None
    layer.steps = None if seed % 3 else rng.random((n, steps)) < 0.7
    for key in layer.prunable:
        mask = rng.random(layer.params[key].shape) < density
        mask.flat[0] = True
        layer.set_mask(key, mask)
    params = {key: array.astype(np.float64) for key, array in layer.params.items()}
    y = layer.forward(x, training=True)
    close(y, reference.recurrent(cell, x.astype(np.float64), params, layer.return_sequences, layer.steps))
    dy = rng.normal(size=y.shape).astype(np.float32)
    dx = layer.backward(dy)
    whole = {key: gradient.copy() for key, gradient in layer.grads.items()}
    layer.packed = {key: layer.pack(key, layer.masks[key]) for key in layer.prunable}
    close(layer.forward(x, training=True), y)
    close(layer.backward(dy), dx)
    for key, packed in layer.packed.items():
        close(packed.gradient, packed.compress(whole[key]))
    for key, gradient in layer.grads.items():
        close(gradient, whole[key])


def test_recurrences_do_not_depend_on_the_threads():
    layer, rng = built(nn.LSTM(130, return_sequences=True), (6, 9))
    for array in layer.params.values():
        array *= 0.1
    x, dy = (rng.normal(size=(33, 6, size)).astype(np.float32) for size in (9, 130))
    found = []
    before = sc.get_num_threads()
    try:
        for threads in (1, 2, 3, 8):
            sc.set_num_threads(threads)
            y = layer.forward(x, training=True)
            found.append([y, layer.backward(dy), *layer.grads.values()])
    finally:
        sc.set_num_threads(before)
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("return_sequences", [True, False])
def test_bidirectional_gradients(return_sequences):
    layer = nn.Bidirectional(nn.GRU(3, return_sequences=return_sequences))
    layer, rng = built(layer, (4, 2))
    for leaf in layer.leaves():
        for array in leaf.params.values():
            array[...] = rng.normal(0.1, 0.7, array.shape)
    x = rng.normal(size=(3, 4, 2)).astype(np.float32)
    steps = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], bool)

    def forward(x):
        sides = []
        for leaf, turn in ((layer.ahead, False), (layer.back, True)):
            params = {key: array.astype(np.float64) for key, array in leaf.params.items()}
            flip = (lambda a: a[:, ::-1]) if turn else (lambda a: a)
            y = reference.recurrent("gru", flip(x), params, return_sequences, flip(steps))
            sides.append(flip(y) if return_sequences else y)
        return np.concatenate(sides, axis=-1)

    layer.steps = steps
    y = layer.forward(x, training=True)
    close(y, forward(x.astype(np.float64)))
    weights = rng.normal(size=y.shape).astype(np.float32)
    dx = layer.backward(weights)
    close(dx, reference.numeric_gradient(lambda v: float((forward(v) * weights).sum()), x), 3e-4)


@pytest.mark.parametrize("shape", [(5,), (4, 5)])
def test_layer_norm_gradients(shape):
    def forward(x, params):
        centred = x - x.mean(axis=-1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return normal * params["gamma"] + params["beta"]

    check_layer(nn.LayerNorm(), shape, forward, n=3)


def test_embedding_gradients_of_ids_that_repeat():
    layer, rng = built(nn.Embedding(6, 3), (4,))
    x = np.array([[1, 1, 2, 5], [0, 5, 1, 1]], np.float32)
    np.testing.assert_array_equal(layer.forward(x, training=True), layer.params["weight"][x.astype(int)])
    dy = rng.normal(size=(2, 4, 3)).astype(np.float32)
    layer.backward(dy)
    wanted = np.zeros((6, 3))
    np.add.at(wanted, x.astype(int), dy)
    close(layer.grads["weight"], wanted)


@pytest.mark.parametrize("wrong", [-1.0, 6.0, 0.5, np.nan])
def test_ids_without_a_vector_are_named(wrong):
    layer, _ = built(nn.Embedding(6, 3), (2,))
    with pytest.raises(ValueError, match=f"x: embedding: expected ids from 0 to 5, got {wrong:g}"):
        layer.forward(np.array([[1, wrong]], np.float32))


def test_time_distributed_layers_see_every_step():
    layers = [nn.Dense(4, activation="tanh"), nn.Dense(3)]
    model = nn.Sequential([nn.TimeDistributed(layers)]).build((5, 2), random_state=0)
    x = np.random.default_rng(1).normal(size=(3, 5, 2)).astype(np.float32)
    alone = nn.Sequential([nn.Dense(4, activation="tanh"), nn.Dense(3)]).build((2,), random_state=0)
    alone.set_weights(model.get_weights())
    wanted = alone.predict(x.reshape(15, 2)).reshape(3, 5, 3)
    np.testing.assert_allclose(model.predict(x), wanted, rtol=0, atol=1e-6)
    assert model.macs() == 5 * alone.macs()
    assert next(iter(model.parameters())) == "time_distributed.dense.weight"
    # Gradients of all steps add up.
    y = np.random.default_rng(2).normal(size=(3, 5, 3))
    model.compute_gradients(x, y, "mse")
    alone.compute_gradients(x.reshape(15, 2), y.reshape(15, 3), "mse")
    for one, other in zip(model.gradients().values(), alone.gradients().values(), strict=True):
        close(one, other)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("size", "strides", "dilation"), [(1, 1, 1), (3, 1, 1), (2, 2, 1), (3, 1, 2)])
@pytest.mark.parametrize("activation", [None, "relu", "softmax"])
def test_conv1d_gradients(padding, size, strides, dilation, activation):
    layer = nn.Conv1D(3, size, strides, padding, activation, dilation=dilation)

    def forward(x, params):
        image, weight = x.swapaxes(1, 2)[..., None], params["weight"][..., None]
        z = reference.conv2d(image, weight, params["bias"], layer.strides, layer.pads, layer.dilation)
        return reference.ACTIVATIONS[activation](z)[..., 0].swapaxes(1, 2)

    check_layer(layer, (7, 4), forward, n=3)
    assert layer.params["weight"].shape == (3, 4, size)
    assert layer.macs() == layer.output_shape[0] * 3 * 4 * size
    again = nn.Layer.from_config(layer.config())
    assert again.build((7, 4), np.random.default_rng(0)) == layer.output_shape


def test_conv1d_packed():
    layer, rng = built(nn.Conv1D(9, 3, padding="same", activation="relu"), (7, 4))
    layer.set_mask("weight", rng.random((9, 4, 3)) < 0.4)
    x, dy = rng.normal(size=(20, 7, 4)).astype(np.float32), rng.normal(size=(20, 7, 9)).astype(np.float32)
    found = []
    for packed in ({}, {"weight": layer.pack("weight", layer.masks["weight"])}):
        layer.packed = packed
        found.append([layer.forward(x, training=True), layer.backward(dy), layer.grads["weight"].copy()])
    for one, other in zip(*found, strict=True):
        close(other, one)
    mask = layer.masks["weight"]
    close(layer.packed["weight"].gradient, found[0][2][mask])


def test_global_max_pool_gradients():
    check_layer(nn.GlobalMaxPool1D(), (5, 3), lambda x, params: x.max(axis=1), n=3, distinct=True)


def test_slices_and_concatenations():
    one, two = nn.Dense(3), nn.Dense(2, activation="tanh")
    layer = nn.Concatenate([nn.Slice(0, 3), one], two, nn.Slice(2, 4))
    layer, rng = built(layer, (4,))
    for leaf in layer.leaves():
        for array in leaf.params.values():
            array[...] = rng.normal(size=array.shape)
    x, weights = rng.normal(size=(5, 4)).astype(np.float32), rng.normal(size=(5, 7)).astype(np.float32)
    w, b, v, c = (array.astype(np.float64) for array in (*one.params.values(), *two.params.values()))

    def forward(x):
        return np.concatenate([x[:, :3] @ w.T + b, np.tanh(x @ v.T + c), x[:, 2:4]], axis=1)

    close(layer.forward(x, training=True), forward(x.astype(np.float64)))
    dx = layer.backward(weights)
    close(dx, reference.numeric_gradient(lambda v: float((forward(v) * weights).sum()), x), 3e-4)
    close(one.grads["bias"], weights[:, :3].sum(axis=0))
    assert [leaf.name for leaf in layer.leaves()] == [
        "concatenate.0.slice", "concatenate.0.dense", "concatenate.1.dense", "concatenate.2.slice",
    ]  # fmt: skip
    again = nn.Layer.from_config(layer.config())
    assert again.build((4,), rng) == (7,) and again.config() == layer.config()


def test_words_and_their_letters_know_the_padding():
    words = [nn.Slice(0), nn.Embedding(9, 4, mask_zero=True)]
    letters = nn.TimeDistributed([nn.Embedding(7, 3), nn.Conv1D(5, 2), nn.GlobalMaxPool1D()])
    layers = [nn.Concatenate(words, [nn.Slice(1, 4), letters]), nn.LSTM(6, return_sequences=True)]
    model = nn.Sequential(layers).build((5, 4), random_state=0)
    x = np.random.default_rng(0).integers(1, 7, (3, 5, 4))
    x[1, 3:] = 0
    y = model.predict(x)
    assert not y[1, 3:].any() and y[1, :3].all() and y[0].all()
    assert model.output_shape == (5, 6)


def tagger():
    return nn.Sequential(
        [
            nn.Embedding(20, 8, mask_zero=True),
            nn.Bidirectional(nn.LSTM(12, return_sequences=True)),
            nn.Dropout(0.1),
            nn.TimeDistributed(nn.Dense(3)),
        ]
    )


def sentences(rng, n=200, longest=9):
    """Tag 1 behind an even word, tag 2 before one; else 0."""
    x = rng.integers(1, 20, (n, longest))
    for row, length in zip(x, rng.integers(1, longest + 1, n), strict=True):
        row[length:] = 0
    even = (x % 2 == 0) & (x > 0)
    y = np.where(np.roll(even, -1, axis=1), 2, 0)
    y[:, 1:] = np.where(even[:, :-1], 1, y[:, 1:])
    return x, np.where(x > 0, y, -1)


def test_padding_changes_nothing():
    model = tagger().build((9,), random_state=0)
    x, _ = sentences(np.random.default_rng(0), 20)
    whole = model.predict(x)
    longer = tagger().build((14,), random_state=1)
    longer.set_weights(model.get_weights())
    padded = longer.predict(np.pad(x, ((0, 0), (0, 5))))
    counts = x > 0
    np.testing.assert_allclose(padded[:, :9][counts], whole[counts], rtol=0, atol=1e-6)


def test_a_tagger_learns_pruned_and_packed(tmp_path):
    x, y = sentences(np.random.default_rng(0), 400)
    loss = nn.SparseCategoricalCrossentropy(ignore_index=-1)
    model = tagger()
    pruner = sc.DynamicPruner(sc.Gradual(0.7, every=10))
    arguments = {"loss": loss, "optimizer": nn.Adam(0.01), "random_state": 0, "progress": False}
    model.fit(x, y, epochs=12, batch_size=32, callbacks=[pruner], packed=0.9, **arguments)
    vx, vy = sentences(np.random.default_rng(1), 100)
    assert model.evaluate(vx, vy, loss=loss)["accuracy"] > 0.9
    masked = sum(mask.sum() for mask in model.masks.values())
    assert abs(masked / sum(mask.size for mask in model.masks.values()) - 0.3) < 0.01
    sc.save(model, tmp_path / "tagger.safetensors")
    again = sc.load(tmp_path / "tagger.safetensors")
    np.testing.assert_array_equal(again.predict(vx), model.predict(vx))
    assert again.evaluate(vx, vy) == model.evaluate(vx, vy)


def test_what_ignored_labels_do():
    loss = nn.SparseCategoricalCrossentropy(ignore_index=-1)
    outputs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    labels = np.array([0, -1, 2, -1])
    value, gradient = loss.gradient(outputs, labels)
    kept, part = nn.SparseCategoricalCrossentropy().gradient(outputs[::2], labels[::2])
    assert value == pytest.approx(kept)
    np.testing.assert_allclose(gradient[::2], part, rtol=1e-6)
    assert not gradient[1::2].any()
    assert loss.gradient(outputs, np.full(4, -1)) == (0.0, pytest.approx(0 * outputs))
    with pytest.raises(ValueError, match="y: expected labels from 0 to 2 or -1, got -2 at 1"):
        loss.check(np.array([0, -2]), (3,))


def crf_by_enumeration(logits, transitions, y, counts):
    """Minus the log-likelihood, over all sequences; and the best one of each sample."""
    total, best = 0.0, []
    for row, labels, valid in zip(logits, y, counts, strict=True):
        row, labels = row[valid], labels[valid]
        scores = {}
        for tags in itertools.product(range(row.shape[1]), repeat=len(row)):
            pairs = itertools.pairwise(tags)
            scores[tags] = sum(r[t] for r, t in zip(row, tags, strict=True)) + sum(
                transitions[p] for p in pairs
            )
        total += np.log(sum(np.exp(s) for s in scores.values())) - scores[tuple(labels)]
        best.append(max(scores, key=scores.get))
    return total / counts.sum(), best


def test_a_crf_is_what_enumeration_says():
    rng = np.random.default_rng(0)
    crf = nn.CRF()
    crf.build((5, 3), rng)
    model = nn.Sequential([crf])
    crf.params["transitions"][...] = rng.normal(size=(3, 3))
    logits = rng.normal(size=(5, 5, 3)).astype(np.float32)
    y = rng.integers(0, 3, (5, 5))
    counts = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [0, 0, 0, 1, 1], [0] * 5], bool)
    y[~counts] = -1
    loss = nn.CRFLoss(ignore_index=-1)
    loss.bind(model)
    value, dy = loss.gradient(logits, y)
    transitions = crf.params["transitions"].astype(np.float64)
    wanted, best = crf_by_enumeration(logits.astype(np.float64), transitions, y, counts)
    assert value == pytest.approx(wanted)
    close(
        dy,
        reference.numeric_gradient(lambda v: crf_by_enumeration(v, transitions, y, counts)[0], logits),
        1e-5,
    )
    numeric = reference.numeric_gradient(
        lambda v: crf_by_enumeration(logits.astype(np.float64), v, y, counts)[0], transitions
    )
    close(crf.backward(dy), dy)
    close(crf.grads["transitions"], numeric, 1e-5)
    found = crf.decode(logits, counts)
    assert [tuple(row[valid]) for row, valid in zip(found, counts, strict=True)] == best
    assert not found[~counts].any()
    right = sum(int((row[valid] == tags).sum()) for row, valid, tags in zip(y, counts, best, strict=True))
    assert loss.accuracy(logits, y) == pytest.approx(right / counts.sum())


def test_a_tagger_with_a_crf_is_pruned_saved_and_compiled(tmp_path):
    x, y = sentences(np.random.default_rng(0), 300)
    model = nn.Sequential([*tagger().layers, nn.CRF()])
    pruner = sc.DynamicPruner(sc.Gradual(0.6, every=10))
    model.fit(
        x, y, epochs=12, loss=nn.CRFLoss(ignore_index=-1), optimizer=nn.Adam(0.01), callbacks=[pruner],
        random_state=0, progress=False,
    )  # fmt: skip
    assert model.evaluate(x, y)["accuracy"] > 0.9
    sc.save(model, tmp_path / "m.safetensors")
    again = sc.load(tmp_path / "m.safetensors")
    assert again.evaluate(x, y) == model.evaluate(x, y)
    np.testing.assert_allclose(sc.compile(model)(x), model.predict(x), rtol=0, atol=1e-4)
    with pytest.raises(
        ValueError, match="loss: crf is for models that end in a CRF, not in time_distributed"
    ):
        tagger().fit(x, y, loss=nn.CRFLoss(), progress=False)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: nn.CRF().build((4,), RNG), "crf: expected samples of"),
    (lambda: nn.LSTM(0), "units: expected a positive integer"),
    (lambda: nn.SimpleRNN(3, activation="sigmoid"), 'activation: expected "tanh" or "relu"'),
    (lambda: nn.GRU(3).build((4,), RNG), r"gru: expected samples of \(steps, features\)"),
    (lambda: nn.Bidirectional(nn.Dense(3)), "layer: expected a recurrent layer, got Dense"),
    (lambda: nn.Embedding(1 << 25, 3), "input_dim: expected at most 16777216"),
    (lambda: nn.TimeDistributed([]), "layers: expected at least one layer"),
    (lambda: nn.TimeDistributed(nn.Dense(2)).build((4,), RNG), "time_distributed: expected samples"),
    (lambda: nn.LayerNorm(0), "epsilon: expected a positive number"),
    (lambda: nn.Conv1D(3, 2).build((4,), RNG), "conv1d: expected samples of"),
    (lambda: nn.GlobalMaxPool1D().build((4,), RNG), "global_max_pool1d: expected samples of"),
    (lambda: nn.Slice(2, 2), "start, stop: expected 0 <= start < stop"),
    (lambda: nn.Slice(2, 5).build((4,), RNG), r"slice: samples of \(4,\) have no features up to 5"),
    (lambda: nn.Concatenate(), "branches: expected at least one"),
    (lambda: nn.Concatenate(nn.LSTM(3), nn.Slice(0, 2)).build((4, 2), RNG), "cannot be side by side"),
])  # fmt: skip
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("last", [nn.Softmax(), nn.TimeDistributed(nn.Softmax())])
def test_softmax_of_sequences_is_over_the_features_of_each_step(tmp_path, last):
    model = nn.Sequential([nn.LSTM(4, return_sequences=True), last]).build((5, 3), random_state=0)
    x = np.random.default_rng(0).normal(size=(2, 5, 3))
    y = model.predict(x)
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(sc.compile(model, batch=2)(x), y, atol=1e-6)
    sc.export_onnx(model, tmp_path / "m.onnx")
    np.testing.assert_allclose(sc.compile(tmp_path / "m.onnx", batch=2)(x), y, atol=1e-6)
    layer, z = nn.Softmax(), np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    dy = np.random.default_rng(2).normal(size=z.shape).astype(np.float32)
    layer.forward(z, training=True)
    step = 1e-3 * np.random.default_rng(3).normal(size=z.shape).astype(np.float32)
    change = ((nn.Softmax().forward(z + step) - nn.Softmax().forward(z - step)) * dy).sum() / 2
    assert (layer.backward(dy) * step).sum() == pytest.approx(change, rel=1e-2)


def test_gradients_over_padded_data_are_those_of_the_mean_loss():
    """Batches with little but padding in them count for less."""
    rng = np.random.default_rng(0)
    x = rng.integers(1, 9, (512, 6))
    lengths = np.where(np.arange(512) < 256, 6, 1)[:, None]
    y = np.where(np.arange(6) < lengths, rng.integers(0, 3, (512, 6)), -1)
    model = nn.Sequential(
        [nn.Embedding(9, 4), nn.LSTM(3, return_sequences=True), nn.TimeDistributed(nn.Dense(3))]
    ).build((6,), random_state=0)
    model.loss = nn.SparseCategoricalCrossentropy(-1)
    found = view(model).gradients((x, y))
    model.compute_gradients(x, y)
    for name, gradient in view(model).gradients().items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-3, atol=1e-6)
