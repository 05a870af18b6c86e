"""Models and single convolutions in ONNX Runtime sessions, the way its users would run them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from secateur.description import INPUT, describe

Array = NDArray[np.float32]


def network(model: Any, batch: int | str = "n") -> onnx.ModelProto:
    """A `secateur.nn.Sequential` as torch would export it: NCHW or features in, one output, opset 13.

    The opset and the file version are ones that DeepSparse reads too.
    """
    input_shape, description = describe(model)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    edges = {INPUT: "x"}
    last = INPUT

    def constant(name: str, array: Array) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    for node in description:
        op, name = node["op"], node["name"]
        inputs = [edges[source] for source in node.get("inputs", [last])]
        if op in ("dense", "conv2d"):
            inputs.append(constant(f"{name}.weight", node["weight"]))
            if node["bias"] is not None:
                inputs.append(constant(f"{name}.bias", node["bias"]))
        if op == "dense":
            edge = add("Gemm", inputs, name, transB=1)
        elif op == "conv2d":
            places = {"strides": node["strides"], "dilations": node["dilation"], "pads": node["pads"]}
            edge = add("Conv", inputs, name, group=node["groups"], **places)
        elif op == "pool":
            kind = "MaxPool" if node["kind"] == "max" else "AveragePool"
            edge = add(
                kind, inputs, name, kernel_shape=node["size"], strides=node["strides"], pads=node["pads"]
            )
        elif op == "scale":
            ones = np.ones_like(node["scale"])
            arrays = {"scale": node["scale"], "shift": node["shift"], "mean": 0 * ones, "variance": ones}
            inputs += [constant(f"{name}.{key}", array) for key, array in arrays.items()]
            edge = add("BatchNormalization", inputs, name, epsilon=0.0)
        elif op == "activation":
            edge = add(node["kind"].capitalize(), inputs, name)
        else:
            edge = add(op.capitalize(), inputs, name)  # Add, Flatten, Softmax
        if node.get("activation") is not None:
            edge = add(node["activation"].capitalize(), [edge], f"{name}.activation")
        edges[name], last = edge, name
    nodes[-1].output[0] = "y"
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])
        for name, shape in (("x", input_shape), ("y", model.output_shape))
    )
    graph = helper.make_graph(nodes, "network", [x], [y], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(made)
    return made


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
