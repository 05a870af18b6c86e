"""The reference CNN and single convolutions in ONNX Runtime sessions, the way its users would run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float32]


def reference_cnn(parameters: Mapping[str, Array]) -> onnx.ModelProto:
    """Conv 3×3, ReLU, MaxPool 2 (twice), Flatten, Gemm, ReLU, Gemm; NCHW in, logits out, any batch, opset 17.

    Widths come from the weights, so pruned and wider versions of the network are built by the same function.
    """
    pool: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["x", "conv2d.weight", "conv2d.bias"], ["c1"], "conv2d"),
        helper.make_node("Relu", ["c1"], ["r1"], "relu"),
        helper.make_node("MaxPool", ["r1"], ["p1"], "max_pooling2d", **pool),
        helper.make_node("Conv", ["p1", "conv2d_1.weight", "conv2d_1.bias"], ["c2"], "conv2d_1"),
        helper.make_node("Relu", ["c2"], ["r2"], "relu_1"),
        helper.make_node("MaxPool", ["r2"], ["p2"], "max_pooling2d_1", **pool),
        helper.make_node("Flatten", ["p2"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "dense.weight", "dense.bias"], ["d1"], "dense", transB=1),
        helper.make_node("Relu", ["d1"], ["r3"], "relu_2"),
        helper.make_node("Gemm", ["r3", "dense_1.weight", "dense_1.bias"], ["y"], "dense_1", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "reference_cnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 28, 28])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in parameters.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def feed_forward(parameters: Mapping[str, Array], batch: int | str = "n") -> onnx.ModelProto:
    """Gemms with ReLU between, as torch exports linear layers; (n, features) in and out, opset 13."""
    nodes, edge = [], "x"
    layers = [name.removesuffix(".weight") for name in parameters if name.endswith(".weight")]
    for layer in layers:
        last = layer == layers[-1]
        result = "y" if last else f"{layer}.out"
        inputs = [edge, f"{layer}.weight", f"{layer}.bias"]
        nodes.append(helper.make_node("Gemm", inputs, [result], layer, transB=1))
        if not last:
            nodes.append(helper.make_node("Relu", [result], [f"{layer}.relu"], f"{layer}.act"))
            edge = f"{layer}.relu"
    features, outputs = parameters[f"{layers[0]}.weight"].shape[1], len(parameters[f"{layers[-1]}.bias"])
    graph = helper.make_graph(
        nodes,
        "feed_forward",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, outputs])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in parameters.items()],
    )
    # An opset and a file version that DeepSparse reads too.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def convolution(
    weight: Array,
    bias: Array,
    groups: int = 1,
    image: tuple[int | str, int | str, int | str] = ("n", "h", "w"),
    stride: int = 1,
) -> onnx.ModelProto:
    """One padded convolution with ReLU; stride 1 keeps the size; NCHW; `image` is batch, rows and columns."""
    pads = [size // 2 for size in weight.shape[2:]]
    places: dict[str, Any] = {"pads": [*pads, *pads]}
    if stride > 1:
        places = {"strides": [stride, stride], "auto_pad": "SAME_UPPER"}
    nodes = [
        helper.make_node("Conv", ["x", "weight", "bias"], ["c"], "conv", group=groups, **places),
        helper.make_node("Relu", ["c"], ["y"], "relu"),
    ]
    channels = {"x": weight.shape[1] * groups, "y": weight.shape[0]}
    made = [-(-size // stride) if isinstance(size, int) else f"{size} / {stride}" for size in image[1:]]
    sizes = {"x": image[1:], "y": made if stride > 1 else image[1:]}
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [image[0], count, *sizes[name]])
        for name, count in channels.items()
    )
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
    graph = helper.make_graph(nodes, "convolution", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def session(model: onnx.ModelProto, threads: int, profile: str | None = None) -> ort.InferenceSession:
    """A session with every optimization, `threads` threads inside an operator and one operator at a time."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def bound_call(runner: ort.InferenceSession, x: Array, outputs: int = 10) -> Any:
    """A call without copies or lookups: input and output bound once. The least that ONNX Runtime can take."""
    binding = runner.io_binding()
    binding.bind_cpu_input("x", x)
    out = ort.OrtValue.ortvalue_from_shape_and_type([len(x), outputs], np.float32, "cpu")
    binding.bind_ortvalue_output("y", out)
    return lambda: runner.run_with_iobinding(binding)


def openvino(model: onnx.ModelProto, x: Array, threads: int) -> Callable[[], Any] | None:
    """A call of the model on `x` in OpenVINO, float32 throughout; None where it is not installed."""
    try:
        import openvino as ov
    except ImportError:
        return None
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    core = ov.Core()
    graph = core.read_model(model.SerializeToString())
    graph.reshape(x.shape)
    request = core.compile_model(graph, "CPU", options).create_infer_request()
    return lambda: request.infer({0: x}, share_inputs=True, share_outputs=True)
