"""Layers and losses against float64 NumPy, and their gradients against finite differences of that."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
import secateur as sc
from secateur import nn

CASES = int(os.environ.get("SECATEUR_CASES", "500"))
NAMED = ["relu", "sigmoid", "softmax", "tanh", None]


def close(got, wanted, tolerance=2e-5):
    """Equal to within float32 sums: relative to the largest value."""
    assert got.shape == wanted.shape
    assert got.dtype == np.float32
    scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale)


def built(layer, shape, seed=0):
    """The layer with parameters that are nowhere 0, and the generator for more."""
    rng = np.random.default_rng(seed)
    layer.build(shape, rng)
    for array in layer.params.values():
        array[...] = rng.normal(0.3, 0.7, array.shape)
    return layer, rng


def check_layer(layer, shape, reference_forward, n=2, seed=0, distinct=False, steps=None):
    """Forward, and every gradient against finite differences of `reference_forward(x, params)`."""
    layer, rng = built(layer, shape, seed)
    layer.steps = steps
    x = rng.normal(size=(n, *shape)).astype(np.float32)
    if distinct:  # no two values close enough for a step to swap a maximum
        x = rng.permutation(x.size).reshape(x.shape).astype(np.float32) / x.size
    params = {name: array.astype(np.float64) for name, array in layer.params.items()}
    y = layer.forward(x, training=True)
    wanted = reference_forward(x.astype(np.float64), params)
    close(y, wanted)
    weights = rng.normal(size=y.shape).astype(np.float32)
    dx = layer.backward(weights)

    def total(x, params):
        return float((reference_forward(x, params) * weights).sum())

    close(dx, reference.numeric_gradient(lambda v: total(v, params), x), 3e-4)
    assert layer.grads.keys() == layer.params.keys()
    for name, array in params.items():
        numeric = reference.numeric_gradient(lambda v, name=name: total(x, {**params, name: v}), array)
        close(layer.grads[name], numeric, 3e-4)


@pytest.mark.parametrize("activation", NAMED)
@pytest.mark.parametrize("use_bias", [True, False])
def test_dense_gradients(activation, use_bias):
    def forward(x, params):
        return reference.ACTIVATIONS[activation](x @ params["weight"].T + params.get("bias", 0))

    check_layer(nn.Dense(5, activation, use_bias), (7,), forward, n=3)


@pytest.mark.parametrize("activation", NAMED)
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("kernel", "strides"), [(3, 1), ((2, 3), (2, 1)), (1, 2), (2, 3)])
def test_conv2d_gradients(activation, padding, kernel, strides):
    layer = nn.Conv2D(3, kernel, strides, padding, activation)

    def forward(x, params):
        z = reference.conv2d(x, params["weight"], params["bias"], layer.strides, layer.pads)
        return reference.ACTIVATIONS[activation](z)

    check_layer(layer, (2, 5, 4), forward)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("strides", "dilation"), [(1, 1), (1, 2), ((2, 3), (3, 1)), (2, 2), (3, 2)])
@pytest.mark.parametrize(("channels", "filters", "groups"), [(2, 3, 1), (4, 6, 2), (3, 3, 3), (3, 6, 3)])
def test_dilated_and_grouped_conv2d_gradients(
    activation, padding, strides, dilation, channels, filters, groups
):
    layer = nn.Conv2D(filters, (3, 2), strides, padding, activation, dilation=dilation, groups=groups)

    def forward(x, params):
        geometry = (layer.strides, layer.pads, layer.dilation, groups)
        z = reference.conv2d(x, params["weight"], params["bias"], *geometry)
        return reference.ACTIVATIONS[activation](z)

    check_layer(layer, (channels, 8, 5), forward)
    assert layer.params["weight"].shape == (filters, channels // groups, 3, 2)
    if padding == "same":
        assert layer.pads == reference.same_pads((8, 5), (3, 2), layer.strides, layer.dilation)
    assert layer.macs() == int(np.prod(layer.output_shape)) * (channels // groups) * 6


@pytest.mark.parametrize(("arguments", "message"), [
    ({"dilation": 0}, "dilation: expected a positive integer"),
    ({"dilation": (1, 2, 3)}, "dilation: expected one or two positive integers"),
    ({"groups": 0}, "groups: expected a positive integer"),
    ({"groups": 1.5}, "groups: expected a positive integer"),
    ({"groups": 4}, "groups: expected a divisor of the 6 filters, got 4"),
])  # fmt: skip
def test_bad_dilation_and_groups_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        nn.Conv2D(6, 3, **arguments)


def test_what_dilation_and_groups_do_not_fit_is_named():
    with pytest.raises(ValueError, match="conv2d: 4 channels cannot be cut into 3 groups"):
        nn.Conv2D(6, 3, groups=3).build((4, 8, 8), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"conv2d: a window of \(3, 3\) with dilation \(4, 4\) does not fit"):
        nn.Conv2D(6, 3, dilation=4).build((4, 8, 8), np.random.default_rng(0))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("size", "strides"), [(2, None), ((2, 3), 1), (3, 2), (1, 2)])
def test_pooling_gradients(padding, size, strides):
    largest, average = nn.MaxPool2D(size, strides, padding), nn.AveragePool2D(size, strides, padding)
    check_layer(
        largest,
        (2, 5, 4),
        lambda x, _: reference.max_pool(x, largest.window, largest.strides, largest.pads),
        distinct=True,
    )
    check_layer(
        average,
        (2, 5, 4),
        lambda x, _: reference.average_pool(x, average.window, average.strides, average.pads),
    )


@pytest.mark.parametrize("shape", [(4,), (3, 2, 5)])
def test_batch_norm_gradients(shape):
    layer = nn.BatchNorm(epsilon=1e-2)
    check_layer(layer, shape, lambda x, p: reference.batch_norm(x, p["gamma"], p["beta"], layer.epsilon), n=4)


def test_batch_norm_runs_on_its_averages():
    layer, rng = built(nn.BatchNorm(momentum=0.5), (3,))
    x = rng.normal(2.0, 3.0, (64, 3)).astype(np.float32)
    for _ in range(30):
        layer.forward(x, training=True)
    close(layer.buffers["running_mean"], x.mean(axis=0), 1e-5)
    close(layer.buffers["running_var"], x.var(axis=0), 1e-5)
    close(layer.forward(x), layer.forward(x, training=True), 1e-5)


@pytest.mark.parametrize(("layer", "name"), [
    (nn.ReLU, "relu"), (nn.Tanh, "tanh"), (nn.Sigmoid, "sigmoid"), (nn.Softmax, "softmax"),
])  # fmt: skip
@pytest.mark.parametrize("shape", [(6,), (3, 2, 2)])
def test_activation_layers(layer, name, shape):
    check_layer(layer(), shape, lambda x, _: reference.ACTIVATIONS[name](x))


def test_activations_survive_large_inputs():
    x = np.array([[-1e4, 1e4, 0.0]], np.float32)
    assert nn.Sigmoid().forward(x).tolist() == [[0.0, 1.0, 0.5]]
    assert nn.Softmax().forward(x).tolist() == [[0.0, 1.0, 0.0]]


def test_flatten_is_in_c_order():
    layer, _ = built(nn.Flatten(), (3, 4, 5))
    x = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert np.array_equal(layer.forward(channels_last), x.reshape(2, 60))
    assert np.array_equal(layer.backward(x.reshape(2, 60)), x)


def test_loss_gradients():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (5, 4)).astype(np.float32), rng.integers(0, 4, 5)
    loss = nn.SparseCategoricalCrossentropy()
    value, gradient = loss.gradient(logits, labels)
    assert value == pytest.approx(reference.cross_entropy(logits.astype(np.float64), labels), rel=1e-6)
    close(gradient, reference.numeric_gradient(lambda v: reference.cross_entropy(v, labels), logits), 1e-6)
    assert loss.accuracy(logits, labels) == np.mean(logits.argmax(1) == labels)
    huge = np.array([[1e4, -1e4]], np.float32)
    assert loss.gradient(huge, np.array([0]))[0] == 0.0

    targets = rng.normal(size=(5, 4)).astype(np.float32)
    value, gradient = nn.MeanSquaredError().gradient(logits, targets)
    assert value == pytest.approx(reference.mean_squared_error(logits.astype(np.float64), targets), rel=1e-6)
    close(
        gradient, reference.numeric_gradient(lambda v: reference.mean_squared_error(v, targets), logits), 1e-6
    )


def integers(rng, shape):
    """Small integers, whose sums are exact in float32."""
    return rng.integers(-3, 4, shape).astype(np.float32)


@settings(max_examples=CASES, deadline=None)
@given(
    n=st.integers(1, 5),
    channels=st.integers(1, 35),
    filters=st.integers(1, 50),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.sampled_from(["valid", "same"]),
    seed=st.integers(0, 99),
)
def test_convolution_is_exact_on_integers(n, channels, filters, size, kernel, strides, padding, seed):
    layer = nn.Conv2D(filters, kernel, strides, padding)
    if padding == "valid" and (size[0] < kernel[0] or size[1] < kernel[1]):
        with pytest.raises(ValueError, match="does not fit"):
            layer.build((channels, *size), np.random.default_rng(0))
        return
    layer, rng = built(layer, (channels, *size), seed)
    for array in layer.params.values():
        array[...] = integers(rng, array.shape)
    weight, bias = layer.params["weight"], layer.params["bias"]
    x = integers(rng, (n, channels, *size))
    if padding == "same":
        assert layer.pads == reference.same_pads(size, kernel, strides)
    y = layer.forward(x, training=True)
    assert np.array_equal(y, reference.conv2d(x, weight, bias, strides, layer.pads))
    dy = integers(rng, y.shape)
    dx = layer.backward(dy)
    views = reference.windows(x, kernel, strides, layer.pads)
    assert np.array_equal(layer.grads["weight"], np.einsum("nohw,nchwij->ocij", dy, views))
    assert np.array_equal(layer.grads["bias"], dy.sum(axis=(0, 2, 3)))
    # The adjoint: <conv(v), dy> = <v, dx> for any v, and the convolution is exact.
    v = integers(rng, x.shape)
    image = reference.conv2d(v, weight, None, strides, layer.pads)
    assert (image * dy).sum() == (v.astype(np.float64) * dx).sum()


@settings(max_examples=CASES, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 35), st.integers(1, 11), st.integers(1, 11)),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.sampled_from(["valid", "same"]),
    seed=st.integers(0, 99),
)
def test_pooling_matches(shape, size, strides, padding, seed):
    if padding == "valid" and (shape[2] < size[0] or shape[3] < size[1]):
        return
    x = integers(np.random.default_rng(seed), shape)
    for kind, wanted in ((nn.MaxPool2D, reference.max_pool), (nn.AveragePool2D, reference.average_pool)):
        layer, _ = built(kind(size, strides, padding), shape[1:], seed)
        y = layer.forward(x, training=True)
        close(y, wanted(x, size, strides, layer.pads), 1e-6)
        dx = layer.backward(np.ones_like(y))
        assert dx.sum() == pytest.approx(y.size, rel=1e-5)


@settings(max_examples=CASES, deadline=None)
@given(
    m=st.sampled_from([0, 1, 2, 3, 5, 9, 31, 33, 64, 65]),
    k=st.sampled_from([0, 1, 2, 3, 5, 9, 31, 33, 64, 65]),
    n=st.sampled_from([0, 1, 2, 3, 5, 9, 31, 33, 64, 65, 513]),
    transposed=st.tuples(st.booleans(), st.booleans()),
    with_bias=st.booleans(),
)
def test_matmul(m, k, n, transposed, with_bias):
    from secateur import _core

    rng = np.random.default_rng(m * 1000 + k * 10 + n)
    a, b = integers(rng, (m, k)), integers(rng, (k, n))
    bias = integers(rng, n) if with_bias else None
    left = np.ascontiguousarray(a.T) if transposed[0] else a
    right = np.ascontiguousarray(b.T) if transposed[1] else b
    got = _core.matmul(left, right, bias, transpose_a=transposed[0], transpose_b=transposed[1])
    assert np.array_equal(got, a @ b + (0 if bias is None else bias))


@pytest.fixture
def threads():
    """Restores the number of threads."""
    before = sc.get_num_threads()
    yield sc.set_num_threads
    sc.set_num_threads(before)


def test_same_bits_for_any_thread_count(threads):
    def run():
        model = reference_cnn()
        rng = np.random.default_rng(1)
        x, y = rng.normal(size=(67, 1, 28, 28)), rng.integers(0, 10, 67)
        model.fit(x, y, epochs=2, batch_size=32, random_state=0)
        return [array.tobytes() for array in model.get_weights()]

    threads(1)
    wanted = run()
    for count in (2, 3, 8):
        threads(count)
        for _ in range(20):
            assert run() == wanted


def test_eight_threads_at_once():
    """The GIL is released around the core: nobody waits for ever, and nobody gets another's numbers."""
    model = nn.Sequential([nn.Conv2D(16, 3), nn.MaxPool2D(2), nn.Flatten(), nn.Dense(5)]).build(
        (2, 12, 12), 0
    )
    x = np.random.default_rng(0).normal(size=(8, 4, 2, 12, 12)).astype(np.float32)
    wanted = [model.predict(batch) for batch in x]

    def work(i):
        return all(np.array_equal(model.predict(x[i]), wanted[i]) for _ in range(1000))

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(work, i) for i in range(8)]
        assert all(future.result(timeout=60) for future in running)


def reference_cnn():
    return nn.Sequential(
        [
            nn.Conv2D(32, 3, activation="relu"),
            nn.MaxPool2D(2),
            nn.Conv2D(64, 3, activation="relu"),
            nn.MaxPool2D(2),
            nn.Flatten(),
            nn.Dense(64, activation="relu"),
            nn.Dense(10),
        ]
    )


def test_the_reference_cnn_has_its_size():
    model = reference_cnn().build((1, 28, 28), random_state=0)
    assert model.num_parameters() == 121_930
    assert model.macs() == 194_688 + 2_230_272 + 102_400 + 640
