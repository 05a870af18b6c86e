"""ONNX operators on arrays: element by element, over axes, and what moves elements."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secateur as sc
from onnx_nodes import FULL_SHAPES, SHAPES, agree, floats, integers, run

some = settings(max_examples=20)


UNARY = [
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh", "Elu",
    "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log",
    "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu",
]  # fmt: skip


@pytest.mark.parametrize("op", UNARY)
@given(SHAPES, st.sampled_from([0.1, 1.0, 10.0]))
@settings(max_examples=8)
def test_functions_of_one_array(op, shape, scale):
    agree(op, floats(shape) * np.float32(scale))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@given(SHAPES)
@settings(max_examples=8)
def test_gelu(approximate, shape):
    agree("Gelu", floats(shape) * 3, approximate=approximate)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_erf_is_exact_to_a_few_units(dtype):
    x = np.concatenate([np.linspace(-7, 7, 10001), np.logspace(-30, 0, 100)]).astype(dtype)
    exact = np.array([math.erf(value) for value in x.tolist()])
    assert np.all(np.abs(run("Erf", x) - exact) <= 4 * np.finfo(dtype).eps * np.abs(exact))


BINARY = [
    "Add",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Pow",
    "Sub",
]


@pytest.mark.parametrize("op", BINARY)
@given(SHAPES, st.data(), st.sampled_from([np.float32, np.float64, np.int32, np.int64]))
@settings(max_examples=15)
def test_functions_of_two_arrays_broadcast(op, shape, data, dtype):
    other = tuple(data.draw(st.sampled_from([1, side])) for side in shape)[
        data.draw(st.integers(0, len(shape))) :
    ]
    whole = np.dtype(dtype).kind == "i"
    a, b = (
        (integers(shape, dtype), integers(other, dtype, seed=1))
        if whole
        else (floats(shape, dtype), floats(other, dtype, 1))
    )
    if op in ("Div", "Mod"):
        b = np.where(b == 0, dtype(3), b)
    if op == "Pow":
        a, b = np.abs(a), np.abs(b) // 2
    agree(op, a, b, **({"fmod": 1} if op == "Mod" and not whole else {}))


def test_integers_divide_towards_zero_and_never_by_it():
    assert run("Div", np.array([-7, 7, -7]), np.array([2, -2, -2])).tolist() == [-3, -3, 3]
    for op in ("Div", "Mod"):
        with pytest.raises(ValueError, match=f"n: {op} divides integers by zero"):
            run(op, np.array([1]), np.array([0]))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_are_computed_with_in_single_precision(dtype):
    x = floats((40, 50)).astype(dtype)
    for op, exact in (("ReduceSum", np.sum), ("ReduceL2", np.linalg.norm)):
        y = run(op, x, keepdims=0)
        assert y.dtype == dtype and y == exact(x.astype(np.float64)).astype(dtype)


@pytest.mark.parametrize(
    "kind", ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
)
@given(FULL_SHAPES, st.data(), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=15)
def test_reductions(kind, shape, data, keepdims, noop, old):
    axes = data.draw(
        st.lists(st.integers(-len(shape), len(shape) - 1), unique_by=lambda axis: axis % len(shape))
    )
    x = np.abs(floats(shape)) + 0.1
    if old and kind != "Sum":
        agree(f"Reduce{kind}", x, version=13, keepdims=int(keepdims), **({"axes": axes} if axes else {}))
    else:
        agree(
            f"Reduce{kind}",
            x,
            np.array(axes, np.int64),
            keepdims=int(keepdims),
            noop_with_empty_axes=int(noop),
        )


def test_reductions_of_nothing():
    x = np.zeros((2, 0), np.float32)
    for op, value in (("Max", -np.inf), ("Min", np.inf), ("Sum", 0), ("Prod", 1), ("LogSumExp", -np.inf)):
        assert run(f"Reduce{op}", x, np.array([1]), keepdims=0).tolist() == [value] * 2
    assert run("ReduceMax", x.astype(np.int8), np.array([1]), keepdims=0).tolist() == [-128] * 2


@given(FULL_SHAPES, st.data(), st.booleans(), st.booleans())
@some
def test_places_of_extremes(shape, data, last, keepdims):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = integers(shape, np.float32, -2, 2)  # with ties
    for op in ("ArgMax", "ArgMin"):
        agree(op, x, axis=axis, keepdims=int(keepdims), select_last_index=int(last))
    count = np.array([data.draw(st.integers(0, shape[axis]))])
    agree("TopK", x, count, outputs=2, axis=axis, largest=int(last))


@given(SHAPES, st.data(), st.booleans(), st.booleans())
@some
def test_sums_up_to_each(shape, data, exclusive, reverse):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    agree("CumSum", floats(shape), np.array(axis), exclusive=int(exclusive), reverse=int(reverse))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@given(SHAPES, st.data(), st.sampled_from([11, 13]))
@settings(max_examples=20)
def test_softmax(op, shape, data, version):
    agree(op, floats(shape) * 5, axis=data.draw(st.integers(-len(shape), len(shape) - 1)), version=version)


@given(FULL_SHAPES, st.data(), st.sampled_from([1, 3]))
@some
def test_layer_normalization(shape, data, outputs):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    scale, bias = (floats(shape[axis:], seed=seed) for seed in (1, 2))
    agree("LayerNormalization", floats(shape), scale, bias, axis=axis, outputs=outputs, rtol=1e-3, atol=1e-4)


@given(st.sampled_from([0, 1, 3]), st.sampled_from([1, 2, 6]), FULL_SHAPES)
@some
def test_normalizations_of_channels(n, channels, sides):
    x, (scale, bias, mean) = (
        floats((n, channels, *sides)),
        (floats(channels, seed=seed) for seed in (1, 2, 3)),
    )
    close = {"rtol": 1e-3, "atol": 1e-4}
    agree("BatchNormalization", x, scale, bias, mean, np.abs(mean) + 1, **close)
    agree("InstanceNormalization", x, scale, bias, **close)
    agree("LpNormalization", x, axis=1)
    if n:
        agree("GroupNormalization", x, scale, bias, num_groups=channels // 2 or 1, **close)
    if len(sides) == 2:
        agree("LRN", x, size=3, alpha=0.3, beta=0.6, bias=1.2)


@given(SHAPES, st.data())
@some
def test_shapes(shape, data):
    x, rank = floats(shape), len(shape)
    agree("Transpose", x, perm=data.draw(st.permutations(range(rank))))
    agree("Flatten", x, axis=data.draw(st.integers(-rank, rank)))
    agree("Shape", x, start=data.draw(st.integers(-5, 5)), end=data.draw(st.integers(-5, 5)))
    agree("Size", x)
    twice = data.draw(st.permutations(range(-rank - 2, 0)))[:2]
    y = run("Unsqueeze", x, np.array(twice))
    agree("Unsqueeze", x, np.array(twice))
    agree("Squeeze", y, np.array(twice))
    agree("Squeeze", y)
    agree("Expand", x, np.array([data.draw(st.sampled_from([1, side])) for side in shape]))
    agree("Tile", x, np.array([data.draw(st.integers(0, 3)) for _ in shape]))


@given(FULL_SHAPES, st.data())
@some
def test_reshape(shape, data):
    target = data.draw(st.permutations(shape))
    target[data.draw(st.integers(0, len(shape) - 1))] = -1
    agree("Reshape", floats(shape), np.array(target))


def test_reshape_of_nothing_keeps_what_it_is_told():
    x = np.zeros((0, 3, 4), np.float32)
    assert run("Reshape", x, np.array([0, -1])).shape == (0, 12)
    assert run("Reshape", x, np.array([-1, 12])).shape == (0, 12)
    assert run("Reshape", x, np.array([5, 0]), allowzero=1).shape == (5, 0)
    with pytest.raises(ValueError, match="cannot tell the dimension -1"):
        run("Reshape", x, np.array([0, -1]), allowzero=1)


@given(SHAPES, st.data())
@some
def test_parts(shape, data):
    x, axis = floats(shape), data.draw(st.integers(-len(shape), len(shape) - 1))
    length = shape[axis]
    first, second = sorted(data.draw(st.tuples(st.integers(0, length), st.integers(0, length))))
    sizes = [first, second - first, length - second]
    parts = agree("Split", x, np.array(sizes), axis=axis, outputs=3)
    agree("Split", x, axis=axis, split=sizes, outputs=3, version=11)
    agree("Concat", *parts, axis=axis)
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    far = st.sampled_from([-(2**62), 2**62, *range(-7, 8)])
    starts, ends = ([data.draw(far) for _ in axes] for _ in range(2))
    steps = [data.draw(st.sampled_from([-2, -1, 1, 2])) for _ in axes]
    agree("Slice", x, *map(np.array, (starts, ends, axes, steps)))
    agree("Slice", x, starts=starts, ends=ends, axes=axes, version=9)


@given(FULL_SHAPES, st.data(), st.sampled_from(["constant", "edge", "reflect", "wrap"]))
@some
def test_pad(shape, data, mode):
    low = -1 if mode == "constant" and min(shape) > 2 else 0
    pads = [data.draw(st.integers(low, side - 1 if mode != "constant" else 3)) for side in shape * 2]
    agree("Pad", floats(shape), np.array(pads), mode=mode)


@given(FULL_SHAPES, FULL_SHAPES, st.data())
@some
def test_indices(shape, places, data):
    x, axis = floats(shape), data.draw(st.integers(-len(shape), len(shape) - 1))
    length = shape[axis]
    agree("Gather", x, integers(places[:2], low=-length, high=length - 1), axis=axis)
    agree("GatherElements", x, integers(shape, low=-length, high=length - 1), axis=axis)
    order = np.argsort(floats(shape, seed=1), axis=axis)
    kind = data.draw(st.sampled_from(["none", "add", "mul", "max", "min"]))
    agree("ScatterElements", x, order, floats(shape, seed=2), axis=axis, reduction=kind)
    lead = data.draw(st.integers(0, len(shape) - 1))
    depth = data.draw(st.integers(1, len(shape) - lead))
    tuples = [
        integers((*shape[:lead], *places[:1]), low=-side, high=side - 1)
        for side in shape[lead : lead + depth]
    ]
    agree("GatherND", x, np.stack(tuples, -1), batch_dims=lead)
    place = np.array([[side - 1 for side in shape[:depth]]])
    agree("ScatterND", x, place, floats((1, *shape[depth:]), seed=3), reduction=kind)
    hot = np.array([2, 7], np.float32)
    agree(
        "OneHot",
        integers(places),
        np.array(5),
        hot,
        axis=data.draw(st.integers(-len(places) - 1, len(places))),
    )


def test_indices_out_of_range_are_errors():
    x = np.zeros((2, 3), np.float32)
    for op, indices in (("Gather", [3]), ("GatherElements", [[-3]]), ("GatherND", [[0, 3]])):
        with pytest.raises(ValueError, match=f"n: {op} .*out of bounds"):
            run(op, x, np.array(indices))


@given(st.data())
@some
def test_range(data):
    numbers = st.integers(-9, 9)
    start, limit, delta = data.draw(numbers), data.draw(numbers), data.draw(numbers.filter(bool))
    for dtype, scale in ((np.int64, 1), (np.float32, 0.3)):
        agree("Range", *(np.array(value * scale, dtype) for value in (start, limit, delta)))


@pytest.mark.parametrize(
    ("op", "arrays", "attributes", "match"),
    [
        ("Add", [floats(2), floats(2)], {"axis": 1}, "with the attribute 'axis'"),
        ("Add", [np.array(["a"], object)] * 2, {}, "of strings"),
        ("BatchNormalization", [floats((2, 3)), *[floats(3)] * 4], {"training_mode": 1}, "in training mode"),
        ("Cast", [floats(2)], {"to": 8}, "to STRING"),
        ("Cast", [floats(2)], {"to": 77}, "to the type 77"),
        ("Dropout", [floats(2), np.array(0.5), np.array(True)], {}, "in training mode"),
        ("Gelu", [floats(2)], {"approximate": "other"}, "with approximate='other'"),
        ("Gemm", [integers((2, 2))] * 2, {"alpha": 0.5}, "of int64 with alpha=0.5"),
        ("LSTM", [floats((1, 1, 2)), floats((1, 12, 2)), floats((1, 12, 3))], {"activations": ["Affine"] * 3},
         "the activation 'affine' without its parameters"),
        ("Neg", [np.ones(2, np.bool_)], {}, "of bool"),
        ("Resize", [floats((2, 2)), None, np.ones(2, np.float32)], {"mode": "cubic"}, "with mode='cubic'"),
        ("MaxPool", [floats((1, 1, 9))], {"kernel_shape": [1], "strides": [3], "auto_pad": "SAME_UPPER"},
         "leave elements out"),
        ("Resize", [floats(5), None, np.array([0.5], np.float32)],
         {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, "no whole number"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(op, arrays, attributes, match):
    with pytest.raises(sc.UnsupportedOpError, match=f"^n: {op} .*{match}"):
        run(op, *arrays, **attributes)


@pytest.mark.parametrize(
    ("op", "arrays", "attributes"),
    [
        ("Concat", [floats((2, 3)), floats((3, 2))], {"axis": 0}),
        ("Conv", [floats((1, 3, 5)), floats((2, 2, 3))], {}),
        ("Conv", [floats((1, 2, 2)), floats((2, 2, 3))], {}),
        ("Expand", [floats((2, 3)), np.array([2, 2])], {}),
        ("Flatten", [floats((2, 3))], {"axis": 3}),
        ("LSTM", [floats((1, 1, 2)), floats((1, 12, 3)), floats((1, 12, 3))], {}),
        ("MatMul", [floats((2, 3)), floats((2, 3))], {}),
        ("MaxPool", [floats((1, 1, 5))], {"kernel_shape": [2], "pads": [2, 2]}),
        ("PRelu", [floats((2, 3)), floats((2, 2, 3))], {}),
        ("Reshape", [floats((2, 3)), np.array([4, -1])], {}),
        ("Split", [floats(5), np.array([2, 2])], {}),
        ("Squeeze", [floats((2, 3)), np.array([0])], {}),
        ("TopK", [floats(3), np.array([4])], {}),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_node(op, arrays, attributes):
    with pytest.raises(ValueError, match=f"^n: {op} [^\n]+$"):
        run(op, *arrays, **attributes)
