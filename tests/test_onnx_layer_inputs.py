"""What the weights of ONNX graphs are multiplied by, and the biases behind them."""

import numpy as np
import pytest

import secateur as sc
from secateur.models.view import view
from test_onnx_models import build, node, normal


def whole(model, name, x):
    return np.concatenate(list(view(model).layer_inputs(name, [x])), axis=1)


def outputs(model, x):
    return next(iter(view(model).outputs([x])))


def plain_rnn(x, w, r, b, first, back, lengths):
    """The states before and after each step of a plain RNN, (steps, n, units), in float64."""
    steps, n, _ = x.shape
    before, after = np.zeros((steps, n, len(r))), np.zeros((steps, n, len(r)))
    for i in range(n):
        state, order = first[i].astype(np.float64), range(lengths[i])
        for t in reversed(order) if back else order:
            before[t, i] = state
            state = np.tanh(w @ x[t, i] + r @ state + b)
            after[t, i] = state
    return before, after


@pytest.mark.parametrize("way", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("given", ["nothing", "first", "lengths", "both"])
@pytest.mark.parametrize("named", [True, False])
def test_states_of_recurrent_layers(way, given, named):
    directions = 2 if way == "bidirectional" else 1
    n, steps = 3, 5
    arrays = {"w": normal(directions, 6, 4), "r": normal(directions, 6, 6), "b": normal(directions, 12)}
    first, lengths = np.zeros((directions, n, 6), np.float32), np.full(n, steps)
    inputs = ["x", "w", "r", "b", "", ""]
    if given in ("lengths", "both"):
        lengths, inputs[4] = np.array([5, 2, 4]), "lengths"
        arrays["lengths"] = lengths.astype(np.int32)
    if given in ("first", "both"):
        first, inputs[5] = normal(directions, n, 6), "first"
        arrays["first"] = first
    nodes = [
        node("RNN", inputs, ["all" if named else "", "last"], "rnn", hidden_size=6, direction=way),
        node("Identity", ["all" if named else "last"], ["y"]),
    ]
    model = build(nodes, arrays, (steps, n, 4), (steps, directions, n, 6) if named else (directions, n, 6))
    x = normal(steps, n, 4)
    counts = np.arange(steps)[:, None] < lengths
    for d in range(directions):
        end = "" if directions == 1 else (".forward", ".reverse")[d]
        b = arrays["b"][d, :6] + arrays["b"][d, 6:]
        before, _ = plain_rnn(
            x, arrays["w"][d], arrays["r"][d], b, first[d], d == 1 or way == "reverse", lengths
        )
        np.testing.assert_allclose(whole(model, f"r{end}", x)[0], before[counts], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(whole(model, f"w{end}", x)[0], x[counts])


def test_gates_with_states_of_their_own_are_refused():
    arrays = {"w": normal(1, 18, 4), "r": normal(1, 18, 6)}
    model = build(
        [node("GRU", ["x", "w", "r"], ["y"], "cell", hidden_size=6)], arrays, (5, 3, 4), (5, 1, 3, 6)
    )
    x = normal(5, 3, 4)
    assert whole(model, "w", x).shape == (1, 15, 4)
    with pytest.raises(sc.UnsupportedOpError, match=r"cell \(GRU\): its gates read different states"):
        sc.prune(model, 0.5, criterion="wanda", data=lambda: [x], progress=False)
    result = sc.prune(model, 0.5, criterion="wanda", data=lambda: [x], exclude="r", progress=False)
    assert result.masks["w"].mean() == 0.5


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"pads": [1, 0, 2, 1], "strides": [2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER"},
        {"dilations": [2, 1], "group": 2},
    ],
)
@pytest.mark.parametrize("axes", [1, 2])
def test_convolutions(how, axes):
    if axes == 1:
        how = {key: value[::2] if isinstance(value, list) else value for key, value in how.items()}
    size, window = (9, 8)[:axes], (3, 2)[:axes]
    filters = normal(4, 4 // how.get("group", 1), *window)
    model = build(
        [node("Conv", ["x", "w"], ["y"], **how)], {"w": filters}, ("N", 4, *size), ("N", 4, *[None] * axes)
    )
    x = normal(5, 4, *size)
    wanted = outputs(model, x)
    matrices = whole(model, "w", x)
    rows = filters.reshape(len(matrices), -1, matrices.shape[2])
    found = (rows @ matrices.swapaxes(1, 2)).reshape(4, 5, -1).swapaxes(0, 1)
    np.testing.assert_allclose(found, wanted.reshape(5, 4, -1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("nodes", "arrays", "has"),
    [
        ([node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0)], {"b": normal(1, 3)}, True),
        ([node("Gemm", ["x", "w", "b"], ["y"])], {"b": normal(3)}, True),
        ([node("Gemm", ["x", "w", "b"], ["y"])], {"b": normal(1)}, False),
        ([node("Gemm", ["x", "w"], ["y"])], {}, False),
        ([node("MatMul", ["x", "w"], ["a"]), node("Add", ["b", "a"], ["y"])], {"b": normal(3)}, True),
        ([node("MatMul", ["x", "w"], ["a"]), node("Add", ["a", "a"], ["y"])], {}, False),
        ([node("MatMul", ["x", "w"], ["y"])], {}, False),
    ],
)
def test_biases_take_a_shift(nodes, arrays, has):
    model = build(nodes, {"w": normal(5, 3), **arrays}, ("N", 5), ("N", 3))
    x, shift = normal(4, 5), np.array([1.0, -2.0, 0.5], np.float32)
    before, alpha = outputs(model, x), 0.5 if nodes[0].attribute else 1.0
    assert view(model).add_bias("w", shift) == has
    np.testing.assert_allclose(outputs(model, x), before + has * alpha * shift, rtol=1e-4, atol=1e-5)


def test_weights_of_several_layers_see_the_inputs_of_all():
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "w"], ["y"])]
    model = build(nodes, {"w": normal(5, 5)}, ("N", 5), ("N", 5))
    x = normal(4, 5)
    inner = np.maximum(x @ view(model).parameters()["w"].T, 0)
    np.testing.assert_allclose(whole(model, "w", x)[0], np.concatenate([x, inner]), rtol=1e-4, atol=1e-5)


def test_several_inputs():
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    model = build(nodes, {"w": normal(5, 3)}, ("N", 5), ("N", 3))
    for data in ({"x": normal(9, 5)}, normal(9, 5)):
        assert sc.prune(model, 0.5, criterion="obs", data=data, progress=False).masks["w"].sum() == 7
