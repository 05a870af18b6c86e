"""Folding of ONNX graphs: the same function with fewer nodes."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from secateur.onnx.files import read_model, write_model
from secateur.onnx.folding import fold

rng = np.random.default_rng(0)


def model_of(nodes, arrays, input_shape, opset=17, more_outputs=(), rank=None):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * (rank or len(input_shape)))
            for name in ("y", *more_outputs)
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


def norm(width):
    arrays = {
        "s": normal(width),
        "b": normal(width),
        "m": normal(width),
        "v": rng.random(width, np.float32) + 1,
    }
    return arrays, helper.make_node("BatchNormalization", ["h", *arrays], ["y"], epsilon=1e-3)


def check(path, proto, left):
    """Fold, compare in ONNX Runtime, and check which operators are left."""
    path.write_bytes(proto.SerializeToString())
    x = normal(*(dim.dim_value or 5 for dim in proto.graph.input[0].type.tensor_type.shape.dim))
    expected = run(path, x)
    model = fold(read_model(path))
    assert [node.op_type for node in model.graph] == left
    write_model(model, path)
    for got, wanted in zip(run(path, x), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    return model


def run(path, x):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})


LAYERS = {
    "conv": (["Conv"], {"w": normal(6, 2, 3, 3)}, {"group": 2}, ("N", 4, 8, 8)),
    "conv1d": (["Conv"], {"w": normal(6, 4, 3), "c": normal(6)}, {}, ("N", 4, 8)),
    "gemm": (["Gemm"], {"w": normal(4, 6), "c": normal(6)}, {"alpha": 0.5, "beta": 2.0}, ("N", 4)),
    "gemm of one number": (["Gemm"], {"w": normal(6, 4), "c": normal(1)}, {"transB": 1}, ("N", 4)),
    "gemm without": (["Gemm"], {"w": normal(4, 6)}, {}, ("N", 4)),
    "matmul": (["MatMul", "Add"], {"w": normal(4, 6)}, {}, ("N", 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_normalization_goes_into_the_layer_before(tmp_path, name):
    left, arrays, attributes, shape = LAYERS[name]
    own, node = norm(6)
    nodes = [helper.make_node(left[0], ["x", *arrays], ["h"], **attributes), node]
    model = check(tmp_path / "m.onnx", model_of(nodes, {**arrays, **own}, shape), left)
    assert len(model.graph.initializers) == 2 and "w" in model.graph.initializers


def test_through_an_addition(tmp_path):
    own, node = norm(6)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["c", "p"], ["h"]),
        node,
    ]
    check(
        tmp_path / "m.onnx",
        model_of(nodes, {"w": normal(4, 6), "c": normal(6), **own}, ("N", 4)),
        ["MatMul", "Add"],
    )


def test_what_must_stay(tmp_path):
    own, node = norm(6)
    path = tmp_path / "m.onnx"
    conv = helper.make_node("Conv", ["x", "w"], ["h"])
    arrays = {"w": normal(6, 6, 1, 1), **own}
    # Something else reads what the layer makes, the weights are tied, or the steps are normalized.
    relu = helper.make_node("Relu", ["h"], ["z"])
    left = ["Conv", "BatchNormalization", "Relu"]
    check(path, model_of([conv, node, relu], arrays, ("N", 6, 4, 4), more_outputs=["z"]), left)
    twice = helper.make_node("Conv", ["x", "w"], ["z"])
    left = ["Conv", "BatchNormalization", "Conv"]
    check(path, model_of([conv, node, twice], arrays, ("N", 6, 4, 4), more_outputs=["z"]), left)
    product = helper.make_node("MatMul", ["x", "w"], ["h"])
    left = ["MatMul", "BatchNormalization"]
    check(path, model_of([product, node], {"w": normal(6, 6), **own}, ("N", 6, 6)), left)


def test_what_passes_through_goes(tmp_path):
    nodes = [
        helper.make_node("Identity", ["w"], ["w2"]),
        helper.make_node("Transpose", ["w2"], ["w3"]),
        helper.make_node("Identity", ["x"], ["x2"]),
        helper.make_node("Dropout", ["x2"], ["x3"]),
        helper.make_node("MatMul", ["x3", "w3"], ["h"]),
        helper.make_node("Identity", ["h"], ["y"]),
    ]
    check(tmp_path / "m.onnx", model_of(nodes, {"w": normal(6, 4)}, ("N", 4)), ["MatMul", "Identity"])


@pytest.mark.parametrize("target", [[-1, 32], [0, -1], [5, 32], [5, -1]])
def test_reshapes_that_flatten(tmp_path, target):
    batch = "N" if target[0] < 1 else 5
    nodes = [helper.make_node("Reshape", ["x", "t"], ["y"])]
    check(
        tmp_path / "m.onnx", model_of(nodes, {"t": np.array(target)}, (batch, 2, 4, 4), rank=2), ["Flatten"]
    )
    check(
        tmp_path / "m.onnx", model_of(nodes, {"t": np.array([-1, 16])}, (batch, 2, 4, 4), rank=2), ["Reshape"]
    )


def test_a_reshape_to_one_batch_size_stays(tmp_path):
    nodes = [helper.make_node("Reshape", ["x", "t"], ["y"])]
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of(nodes, {"t": np.array([7, 32])}, ("N", 2, 4, 4), rank=2).SerializeToString())
    assert [node.op_type for node in fold(read_model(path)).graph] == ["Reshape"]
