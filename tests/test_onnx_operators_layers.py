"""ONNX operators on arrays: products, windows, sizes of images, and recurrent layers."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnx_nodes import SHAPES, agree, floats, integers, run

some = settings(max_examples=20)


SMALL = st.sampled_from([0, 1, 2, 3, 7])


@given(SMALL, SMALL, SMALL, SHAPES, st.data())
@some
def test_products(m, k, n, lead, data):
    other = tuple(data.draw(st.sampled_from([1, side])) for side in lead)
    agree("MatMul", floats((*lead, m, k)), floats((*other, k, n), seed=1))
    agree("MatMul", floats((k,)), floats((*other, k, n), seed=1))
    agree("MatMul", floats((*lead, m, k)), floats((k,), seed=1))
    a, b = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1))
    c = data.draw(st.sampled_from([None, (), (1,), (n,), (m, 1), (m, n)]))
    agree(
        "Gemm", floats((k, m) if a else (m, k)), floats((n, k) if b else (k, n), seed=1),
        None if c is None else floats(c, seed=2), transA=a, transB=b, alpha=0.5, beta=-2.0,
    )  # fmt: skip
    agree(
        "Einsum",
        floats((2, m, k)),
        floats((2, k, n), seed=1),
        equation="...ij, ...jk -> ki...",
        reference=True,
    )


@st.composite
def windows(draw, ranks=(1, 2, 3)):
    """Lengths, and the attributes of windows that fit into them."""
    rank = draw(st.sampled_from(ranks))
    several = lambda low, high: [draw(st.integers(low, high)) for _ in range(rank)]  # noqa: E731
    size, strides, dilations = several(1, 3), several(1, 3), several(1, 2)
    attributes = {"kernel_shape": size, "strides": strides, "dilations": dilations}
    kind = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if kind == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, side - 1)) for side in size * 2]
    else:
        attributes |= {"auto_pad": kind, "dilations": [1] * rank, "strides": list(map(min, strides, size))}
    return several(5, 9), attributes


@given(
    windows(),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.booleans(),
)
@some
def test_conv(window, n, groups, inputs, outputs, biased):
    lengths, attributes = window
    weight = floats((groups * outputs, inputs, *attributes["kernel_shape"]), seed=1)
    bias = floats(groups * outputs, seed=2) if biased else None
    agree("Conv", floats((n, groups * inputs, *lengths)), weight, bias, group=groups, atol=1e-5, **attributes)


def test_conv_in_slices(monkeypatch):
    monkeypatch.setattr("secateur.onnx.operators.convolution.MOST", 1)
    agree("Conv", floats((3, 2, 5, 5)), floats((4, 2, 3, 3)), atol=1e-5)


@given(windows(), st.sampled_from([1, 2]), st.integers(1, 2), st.integers(1, 2), st.data())
@some
def test_conv_transpose(window, groups, inputs, outputs, data):
    lengths, attributes = window
    if "pads" in attributes:
        more = [data.draw(st.integers(0, stride - 1)) for stride in attributes["strides"]]
        attributes["output_padding"] = more
    weight = floats((groups * inputs, outputs, *attributes["kernel_shape"]), seed=1)
    x, bias = floats((2, groups * inputs, *lengths)), floats(groups * outputs, seed=2)
    agree("ConvTranspose", x, weight, bias, group=groups, atol=1e-5, **attributes)


@given(windows(), st.booleans(), st.booleans())
@some
def test_pools(window, ceil, flag):
    lengths, attributes = window
    attributes["ceil_mode"] = int(ceil and attributes.get("auto_pad") != "VALID")
    x = floats((2, 3, *lengths))
    agree("MaxPool", x, outputs=2, storage_order=int(flag), **attributes)
    np.testing.assert_array_equal(
        run("MaxPool", x, **attributes), run("MaxPool", x, outputs=2, **attributes)[0]
    )
    agree("AveragePool", x, count_include_pad=int(flag), **attributes)
    agree("LpPool", x, p=3 if flag else 2, rtol=1e-4, **attributes)
    for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        agree(op, x)


def test_max_pool_of_the_least_numbers_tells_places_of_the_image():
    x = np.full((1, 1, 3, 3), -128, np.int8)
    largest, places = run("MaxPool", x, outputs=2, kernel_shape=[2, 2], pads=[1, 1, 1, 1], strides=[2, 2])
    assert (largest == -128).all() and places.ravel().tolist() == [0, 1, 3, 4]


TRANSFORMATIONS = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


@given(st.integers(1, 6), st.integers(1, 6), st.data(), st.sampled_from(TRANSFORMATIONS))
@settings(max_examples=60)
def test_resize(height, width, data, transformation):
    x = floats((1, 2, height, width))
    sizes = np.array([1, 2, data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))])
    scales = np.array(
        [1, 1, *(data.draw(st.sampled_from([0.5, 0.6, 1, 1.3, 2])) for _ in range(2))], np.float32
    )
    nearest = {"mode": "nearest", "nearest_mode": data.draw(st.sampled_from(ROUNDINGS))}
    for attributes in (nearest, {"mode": "linear"}):
        attributes["coordinate_transformation_mode"] = transformation
        agree("Resize", x, None, None, sizes, **attributes)
        if transformation != "align_corners":
            agree("Resize", x, None, scales, **attributes)


@given(st.integers(1, 6), st.sampled_from([0.4, 0.6, 1.3, 2]))
@some
def test_resize_from_the_middle(length, scale):
    scales = np.array([1, 1, 1, scale], np.float32)
    assume(length * scale >= 1)
    transformation = {"coordinate_transformation_mode": "half_pixel_symmetric"}
    agree("Resize", floats((1, 2, 3, length)), None, scales, mode="linear", **transformation)


@given(st.integers(2, 6), st.integers(2, 6), st.sampled_from(["nearest", "linear"]), st.data())
@some
def test_resize_in_old_opsets(height, width, mode, data):
    x, scale = floats((1, 2, height, width)), st.sampled_from([1, 1.5, 2, 3])
    scales = np.array([1, 1, data.draw(scale), data.draw(scale)], np.float32)
    agree("Upsample", x, scales, mode=mode, version=9)
    agree("Resize", x, scales, mode=mode, version=10)
    agree("Resize", x, 1 / scales, mode=mode, version=10)
    agree("Upsample", x, mode=mode, scales=scales.tolist(), version=7)


def test_resize_crops_and_keeps_ratios():
    x = floats((1, 2, 5, 7))
    roi, sizes = np.array([0, 0, -0.2, 0.1, 1, 1, 0.9, 0.8], np.float32), np.array([1, 2, 4, 9])
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    for mode in ("nearest", "linear"):
        agree("Resize", x, roi, None, sizes, mode=mode, **crop)
        for policy in ("not_larger", "not_smaller"):
            agree("Resize", x, None, None, sizes[2:], axes=[2, 3], keep_aspect_ratio_policy=policy, mode=mode)


RECURRENT = {"RNN": 1, "GRU": 3, "LSTM": 4}


@pytest.mark.parametrize("op", RECURRENT)
@given(
    st.sampled_from(["forward", "reverse", "bidirectional"]), st.integers(1, 5), st.integers(1, 3), st.data()
)
@settings(max_examples=25)
def test_recurrent(op, direction, steps, n, data):
    ways, gates, hidden = 2 if direction == "bidirectional" else 1, RECURRENT[op], 3
    lengths = data.draw(st.sampled_from([None, integers(n, np.int32, 0, steps)]))
    attributes = {"direction": direction, "hidden_size": hidden}
    if op == "GRU":
        attributes["linear_before_reset"] = data.draw(st.integers(0, 1))
    if op == "LSTM":
        attributes["input_forget"] = data.draw(st.integers(0, 1))
    if data.draw(st.booleans()):
        attributes["clip"] = 0.4
    if data.draw(st.booleans()):
        names = {
            "RNN": ["Elu"],
            "GRU": ["HardSigmoid", "LeakyRelu"],
            "LSTM": ["HardSigmoid", "Softsign", "Elu"],
        }[op]
        attributes |= {"activations": names * ways, "activation_alpha": [0.3, 0.1], "activation_beta": [0.4]}
    shapes = [
        (steps, n, 2),
        (ways, gates * hidden, 2),
        (ways, gates * hidden, hidden),
        (ways, 2 * gates * hidden),
    ]
    x, w, r, b = (floats(shape, seed=seed) for seed, shape in enumerate(shapes))
    states = [floats((ways, n, hidden), seed=9 + at) for at in range(2 if op == "LSTM" else 1)]
    states = states if data.draw(st.booleans()) else [None] * len(states)
    more = [floats((ways, 3 * hidden), seed=12)] if op == "LSTM" and data.draw(st.booleans()) else []
    outputs = 1 + len(states)
    agree(op, x, w, r, b, lengths, *states, *more, outputs=outputs, atol=1e-5, **attributes)


@pytest.mark.parametrize("op", RECURRENT)
def test_recurrent_with_the_batch_first(op):
    rows = 3 * RECURRENT[op]
    x, w, r = floats((2, 5, 4)), floats((2, rows, 4)), floats((2, rows, 3))
    initial = floats((2, 2, 3))
    first = run(op, x, w, r, None, None, initial, outputs=2, layout=1, direction="bidirectional")
    last = run(
        op, x.swapaxes(0, 1), w, r, None, None, initial.swapaxes(0, 1), outputs=2, direction="bidirectional"
    )
    np.testing.assert_array_equal(first[0], last[0].transpose(2, 0, 1, 3))
    np.testing.assert_array_equal(first[1], last[1].swapaxes(0, 1))
