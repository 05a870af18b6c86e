"""ONNX nodes run on both sides: by the package, and by ONNX Runtime or onnx's reference evaluator."""

import numpy as np
import onnx
import onnxruntime
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from secateur.onnx.operators.call import Call
from secateur.onnx.operators.registry import OPERATORS

OPSET = 21
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 5]), min_size=1, max_size=4).map(tuple)
FULL_SHAPES = st.lists(st.sampled_from([1, 2, 3, 5, 7]), min_size=1, max_size=4).map(tuple)


def model(op, arrays, outputs, version, attributes):
    """A model of one node; inputs that are None are left out."""
    names = [f"i{at}" for at in range(len(arrays))]
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, arrays, strict=True)
        if array is not None
    ]
    read = [name if array is not None else "" for name, array in zip(names, arrays, strict=True)]
    written = [f"o{at}" for at in range(outputs)]
    node = helper.make_node(op, read, written, "n", **attributes)
    made = [helper.make_value_info(name, onnx.TypeProto()) for name in written]
    graph = helper.make_graph([node], "g", infos, made)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=10)
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    return onnx.shape_inference.infer_shapes(proto), feeds


def expected(op, arrays, outputs, version, attributes, reference):
    proto, feeds = model(op, arrays, outputs, version, attributes)
    if reference:
        return ReferenceEvaluator(proto).run(None, feeds)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    ).run(None, feeds)


def run(op, *arrays, outputs=1, version=OPSET, **attributes):
    found = OPERATORS[op](Call(op, "n", version, attributes, outputs), *arrays)
    return found[0] if outputs == 1 else found


def agree(op, *given, outputs=1, version=OPSET, reference=False, rtol=1e-5, atol=1e-6, **attributes):
    """Run a node on both sides and compare types, shapes and values."""
    arrays = [None if array is None else np.asarray(array) for array in given]
    kept = [None if array is None else array.copy() for array in arrays]
    found = OPERATORS[op](Call(op, "n", version, attributes, outputs), *arrays)
    for array, before in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(array, before, err_msg="an input was written to")
    wanted = expected(op, arrays, outputs, version, attributes, reference)
    for mine, other in zip(found, wanted, strict=False):
        assert mine.dtype == other.dtype and mine.shape == np.shape(other)
        np.testing.assert_allclose(mine, other, rtol=rtol, atol=atol)
    return found


def floats(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def integers(shape, dtype=np.int64, low=-9, high=9, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape, endpoint=True).astype(dtype)
