"""Rare forms of graphs: what loading, compiling and pruning make of them, against ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import secateur as sc
from secateur import nn
from secateur.models.view import view

N = helper.make_node


def normal(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def write(path, nodes, inputs, outputs, arrays, opset=17, domain=""):
    def infos(shapes):
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
        ]

    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "net", infos(inputs), infos(outputs), weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=8)
    onnx.save(proto, path)
    return path


def run(path, feeds):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)


def pruned_equals_masked(path, feeds, sparsity=0.3):
    """Take neurons out, and compare with the same ones zeroed in the whole model; the result of pruning."""
    result = sc.prune(path, sparsity, granularity="neuron", round_to=None, progress=False)
    masked = sc.load(path)
    view(masked).set_masks(result.masks)
    for model, name in ((result.model, "narrow.onnx"), (masked, "masked.onnx")):
        sc.save(model, path.parent / name)
    found, wanted = (run(path.parent / name, feeds) for name in ("narrow.onnx", "masked.onnx"))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    return result


def compiled(path, feeds):
    """Compile, and compare with ONNX Runtime."""
    found = sc.compile(path, batch=2, threads=1)(feeds)
    np.testing.assert_allclose(found, run(path, feeds)[0], rtol=1e-4, atol=1e-5)


# Neurons


def test_states_that_another_layer_begins_with_stay(tmp_path):
    nodes = [
        N("GRU", ["x", "W", "R"], ["Y", "h"], hidden_size=8),
        N("Squeeze", ["Y", "one"], ["m"]),
        N("GRU", ["z", "W2", "R2", "", "", "h"], ["Y2", "h2"], hidden_size=8),
        N("Squeeze", ["Y2", "one"], ["m2"]),
        N("Concat", ["m", "m2"], ["e"], axis=2),
        N("Relu", ["e"], ["e2"]),
        N("MatMul", ["e2", "Wo"], ["o"]),
        N("MatMul", ["o", "Wp"], ["y"]),
    ]
    arrays = {"W": normal(1, 24, 3), "R": normal(1, 24, 8), "W2": normal(1, 24, 3), "R2": normal(1, 24, 8)}
    arrays |= {"one": np.array([1]), "Wo": normal(16, 12), "Wp": normal(12, 2)}
    shape = [5, "N", 3]
    path = write(tmp_path / "m.onnx", nodes, {"x": shape, "z": shape}, {"y": [5, "N", 2]}, arrays)
    feeds = {"x": normal(5, 2, 3), "z": normal(5, 2, 3)}
    result = pruned_equals_masked(path, feeds, 0.2)
    assert view(result.model).array("R").shape == (24, 8)


def test_outputs_without_a_name_are_passed_over(tmp_path):
    nodes = [
        N("LSTM", ["x", "W", "R"], ["Y", "", "c"], hidden_size=8),
        N("Squeeze", ["Y", "one"], ["s"]),
        N("ReduceMean", ["s"], ["sm"], axes=[0], keepdims=0),
        N("MatMul", ["sm", "Wo"], ["y1"]),
        N("Squeeze", ["c", "zero"], ["cc"]),
        N("MatMul", ["cc", "Wc"], ["y2"]),
        N("Add", ["y1", "y2"], ["y"]),
    ]
    arrays = {"W": normal(1, 32, 3), "R": normal(1, 32, 8), "Wo": normal(8, 2), "Wc": normal(8, 2)}
    arrays |= {"one": np.array([1]), "zero": np.array([0])}
    path = write(tmp_path / "m.onnx", nodes, {"x": ["T", "N", 3]}, {"y": ["N", 2]}, arrays)
    result = pruned_equals_masked(path, {"x": normal(4, 2, 3)})
    assert view(result.model).array("W").shape[0] < 32


@pytest.mark.parametrize(
    ("index", "removed"), [([0], True), (0, True), ([0, 2], True), ([1], False), (1, False), ([-2], False)]
)
def test_lengths_that_depend_on_what_is_removed_hold_it(tmp_path, index, removed):
    """x / sqrt(number of channels) is another number once some are gone; the batch is not."""
    nodes = [
        N("MatMul", ["x", "W1"], ["r"]),
        N("Unsqueeze", ["r", "last"], ["a"]),
        N("Shape", ["a"], ["lengths"]),
        N("Gather", ["lengths", "index"], ["some"]),
        N("Cast", ["some"], ["number"], to=TensorProto.FLOAT),
        N("ReduceProd", ["number"], ["count"], keepdims=0),
        N("Div", ["r", "count"], ["b"]),
        N("Relu", ["b"], ["c"]),
        N("MatMul", ["c", "W2"], ["y"]),
    ]
    arrays = {"W1": normal(3, 8), "W2": normal(8, 2), "index": np.array(index), "last": np.array([2])}
    path = write(tmp_path / "m.onnx", nodes, {"x": ["N", 3]}, {"y": ["N", 2]}, arrays)
    if removed:
        result = pruned_equals_masked(path, {"x": normal(2, 3)})
        assert view(result.model).array("W1").shape[0] < 8
    else:
        with pytest.raises((ValueError, sc.UnsupportedOpError), match="neurons"):
            sc.prune(path, 0.3, granularity="neuron", round_to=None, progress=False)


def test_zeros_as_many_as_channels_hold_them(tmp_path):
    nodes = [
        N("Conv", ["x", "W1"], ["a"], pads=[1] * 4),
        N("Shape", ["a"], ["lengths"]),
        N("ConstantOfShape", ["lengths"], ["zeros"]),
        N("Concat", ["a", "zeros"], ["b"], axis=1),
        N("Conv", ["b", "W2"], ["c"], pads=[1] * 4),
        N("Conv", ["c", "W3"], ["y"], pads=[1] * 4),
    ]
    arrays = {"W1": normal(8, 3, 3, 3), "W2": normal(8, 16, 3, 3), "W3": normal(2, 8, 3, 3)}
    path = write(tmp_path / "m.onnx", nodes, {"x": [2, 3, 6, 6]}, {"y": [2, 2, 6, 6]}, arrays)
    result = pruned_equals_masked(path, {"x": normal(2, 3, 6, 6)}, 0.2)
    assert view(result.model).array("W1").shape == (8, 3, 3, 3)


def test_upsample_of_old(tmp_path):
    nodes = [
        N("Conv", ["x", "W1", "b1"], ["a"], pads=[1] * 4),
        N("Upsample", ["a"], ["u"], scales=[1.0, 1.0, 2.0, 2.0]),
        N("Conv", ["u", "W2"], ["y"], pads=[1] * 4),
    ]
    arrays = {"W1": normal(8, 3, 3, 3), "b1": normal(8), "W2": normal(2, 8, 3, 3)}
    path = write(tmp_path / "m.onnx", nodes, {"x": ["N", 3, 4, 4]}, {"y": ["N", 2, 8, 8]}, arrays, opset=8)
    result = pruned_equals_masked(path, {"x": normal(2, 3, 4, 4)})
    assert len(view(result.model).array("W1")) < 8


def test_a_bias_of_no_axes(tmp_path):
    nodes = [
        N("Gemm", ["x", "W1", "b1"], ["a"]),
        N("Relu", ["a"], ["b"]),
        N("Gemm", ["b", "W2", "b2"], ["y"]),
    ]
    arrays = {"W1": normal(3, 8), "b1": normal(8), "W2": normal(8, 1), "b2": np.float32(0.5)}
    path = write(tmp_path / "m.onnx", nodes, {"x": ["N", 3]}, {"y": ["N", 1]}, arrays)
    pruned_equals_masked(path, {"x": normal(2, 3)})


@pytest.mark.parametrize("first", [nn.Conv1D(8, 3), nn.LSTM(8, return_sequences=True)])
def test_neurons_before_flattened_steps_that_are_normalized(first):
    model = nn.Sequential([first, nn.Flatten(), nn.BatchNorm(), nn.Dense(4)]).build((7, 3), 0)
    result = sc.prune(model, 0.5, granularity="neuron", round_to=None)
    masked = model.copy()
    masked.set_masks(result.masks)
    x = normal(5, 7, 3)
    np.testing.assert_allclose(result.model.predict(x), masked.predict(x), rtol=1e-4, atol=1e-5)


# Compiling and loading


@pytest.mark.parametrize("width", [5, 6])
def test_normalization_over_steps(tmp_path, width):
    nodes = [
        N("MatMul", ["x", "W"], ["a"]),
        N("BatchNormalization", ["a", "s", "b", "m", "v"], ["c"]),
        N("Relu", ["c"], ["d"]),
        N("MatMul", ["d", "W2"], ["y"]),
    ]
    arrays = {"W": normal(4, width), "W2": normal(width, 3), "s": normal(5), "b": normal(5) + 1}
    arrays |= {"m": normal(5) - 1, "v": np.abs(normal(5)) + 0.1}
    path = write(tmp_path / "m.onnx", nodes, {"x": ["N", 5, 4]}, {"y": ["N", 5, 3]}, arrays)
    compiled(path, {"x": normal(2, 5, 4)})


@pytest.mark.parametrize("attributes", [{}, {"axis": 2}, {"axis": 1}])
def test_softmax_of_old(tmp_path, attributes):
    nodes = [N("MatMul", ["x", "W"], ["a"]), N("Softmax", ["a"], ["y"], **attributes)]
    path = write(
        tmp_path / "m.onnx", nodes, {"x": ["N", 5, 4]}, {"y": ["N", 5, 6]}, {"W": normal(4, 6)}, opset=11
    )
    compiled(path, {"x": normal(2, 5, 4)})


@pytest.mark.parametrize("shape", [(8, 1), (1, 8), (1, 1), (8,), (1,)])
@pytest.mark.parametrize("gemm", [True, False])
def test_normalization_of_what_has_another_bias(tmp_path, shape, gemm):
    layer = (
        [N("Gemm", ["x", "W", "C"], ["a"])]
        if gemm
        else [N("MatMul", ["x", "W"], ["a0"]), N("Add", ["a0", "C"], ["a"])]
    )
    nodes = [*layer, N("BatchNormalization", ["a", "s", "b", "m", "v"], ["y"])]
    arrays = {"W": normal(4, 8), "C": normal(*shape), "s": normal(8), "b": normal(8) + 1}
    arrays |= {"m": normal(8) - 1, "v": np.abs(normal(8)) + 0.1}
    path = write(tmp_path / "m.onnx", nodes, {"x": [8, 4]}, {"y": [8, 8]}, arrays)
    sc.save(sc.load(path), tmp_path / "again.onnx")
    feeds = {"x": normal(8, 4)}
    np.testing.assert_allclose(
        run(tmp_path / "again.onnx", feeds)[0], run(path, feeds)[0], rtol=1e-4, atol=1e-5
    )
    compiled(path, feeds)


def test_statistics_that_the_model_returns_stay(tmp_path):
    nodes = [
        N("Conv", ["x", "W"], ["a"]),
        N("BatchNormalization", ["a", "s", "b", "m", "v"], ["y", "rm", "rv", "sm", "sv"]),
    ]
    arrays = {"W": normal(4, 3, 3, 3), "s": normal(4), "b": normal(4), "m": normal(4), "v": np.abs(normal(4))}
    outputs = {"y": ["N", 4, 3, 3], "rm": [4]}
    path = write(tmp_path / "m.onnx", nodes, {"x": ["N", 3, 5, 5]}, outputs, arrays, opset=9)
    sc.save(sc.load(path), tmp_path / "again.onnx")
    assert [output.name for output in onnx.load(tmp_path / "again.onnx").graph.output] == ["y", "rm"]


def test_operators_by_their_long_domain(tmp_path):
    nodes = [
        N("Split", ["x", "sizes"], ["u", "v"], axis=1, domain="ai.onnx"),
        N("Add", ["u", "v"], ["y"], domain="ai.onnx"),
    ]
    arrays = {"sizes": np.array([2, 2])}
    path = write(
        tmp_path / "m.onnx", nodes, {"x": [2, 4, 6]}, {"y": [2, 2, 6]}, arrays, opset=18, domain="ai.onnx"
    )
    sc.save(sc.load(path), tmp_path / "again.onnx")
    x = normal(2, 4, 6)
    np.testing.assert_array_equal(run(tmp_path / "again.onnx", {"x": x})[0], x[:, :2] + x[:, 2:])
    np.testing.assert_array_equal(sc.compile(path, batch=2)(x), x[:, :2] + x[:, 2:])


def test_two_layers_of_which_only_the_last_state_is_read(tmp_path):
    nodes = [
        N("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        N("LSTM", ["xt", "W1", "R1"], ["", "h1"], hidden_size=32),
        N("Transpose", ["z"], ["zt"], perm=[1, 0, 2]),
        N("LSTM", ["zt", "W2", "R2"], ["", "h2"], hidden_size=32),
        N("Add", ["h1", "h2"], ["h"]),
        N("Squeeze", ["h", "zero"], ["y"]),
    ]
    arrays = {"W1": normal(1, 128, 3), "R1": normal(1, 128, 32), "W2": normal(1, 128, 3)}
    arrays |= {"R2": normal(1, 128, 32), "zero": np.array([0])}
    shape = ["N", 4, 3]
    path = write(tmp_path / "m.onnx", nodes, {"x": shape, "z": shape}, {"y": ["N", 32]}, arrays)
    pruned = sc.prune(path, 0.95).model
    feeds = {"x": normal(2, 4, 3), "z": normal(2, 4, 3)}
    done = sc.compile_onnx(pruned, tmp_path / "sparse.onnx", batch=2, threads=1, rounds=1)
    assert "sparse.onnx" in repr(done) and len(repr(done)) < 300
    sc.save(pruned, tmp_path / "pruned.onnx")
    found = sc.ort.InferenceSession(tmp_path / "sparse.onnx").run(None, feeds)[0]
    np.testing.assert_allclose(found, run(tmp_path / "pruned.onnx", feeds)[0], rtol=1e-4, atol=1e-5)


# Hostile files


def test_metadata_without_an_end(tmp_path):
    path = write(tmp_path / "m.onnx", [N("Relu", ["x"], ["y"])], {"x": ["N"]}, {"y": ["N"]}, {})
    proto = onnx.load(path)
    for key in ("secateur.pruned", "secateur.provenance"):
        proto.metadata_props.add(key=key, value="[" * 200_000)
    onnx.save(proto, path)
    assert sc.load(path).provenance == []


def test_a_long_way_to_the_first_state(tmp_path):
    nodes = [N("Expand", [f"e{i}", "lengths"], [f"e{i + 1}"]) for i in range(1500)]
    nodes.append(N("RNN", ["x", "W", "R", "", "", "e1500"], ["y"], hidden_size=2))
    arrays = {"e0": np.zeros((1, 1, 1), np.float32), "lengths": np.array([1, 1, 2])}
    arrays |= {"W": normal(1, 2, 3), "R": normal(1, 2, 2)}
    path = write(tmp_path / "m.onnx", nodes, {"x": ["T", 1, 3]}, {"y": ["T", 1, 1, 2]}, arrays)
    assert len(sc.load(path).ir.graph) == 1


def test_constants_too_large_to_be_computed_are_not(tmp_path):
    nodes = [
        N("ConstantOfShape", ["s"], ["a"]),
        N("Slice", ["a", "zero", "one"], ["b"]),
        N("Add", ["x", "b"], ["y"]),
    ]
    arrays = {"s": np.array([2**50]), "zero": np.array([0]), "one": np.array([1])}
    path = write(tmp_path / "m.onnx", nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, arrays)
    sc.compile(path, batch=1)


def test_division_by_attributes_that_are_zero(tmp_path):
    nodes = [N("LpPool", ["x"], ["y"], kernel_shape=[2, 2], p=0)]
    path = write(tmp_path / "m.onnx", nodes, {"x": [1, 2, 4, 4]}, {"y": [1, 2, 3, 3]}, {})
    with pytest.raises((ValueError, sc.UnsupportedOpError), match="LpPool"):
        sc.compile(path, batch=1)(normal(1, 2, 4, 4))
