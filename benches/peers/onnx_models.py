"""ONNX models to prune and time: parts of transformers with random weights, and one that a package brings."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """A graph under construction; every call adds a node and returns the name of what it makes."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, NDArray[Any]] = {}

    def constant(self, array: Any) -> str:
        name = f"c{len(self.arrays)}"
        self.arrays[name] = np.asarray(array)
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        weight = self.rng.standard_normal((inputs, outputs), np.float32) / np.float32(np.sqrt(inputs))
        bias = self.rng.standard_normal(outputs, np.float32)
        return self.node("Add", self.node("MatMul", x, self.constant(weight)), self.constant(bias))

    def gelu(self, x: str) -> str:
        """As exporters spell it."""
        scaled = self.node("Div", x, self.constant(np.float32(np.sqrt(2))))
        plus_one = self.node("Add", self.node("Erf", scaled), self.constant(np.float32(1)))
        return self.node("Mul", self.node("Mul", x, plus_one), self.constant(np.float32(0.5)))

    def norm(self, x: str, width: int) -> str:
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        return self.node("LayerNormalization", x, self.constant(ones), self.constant(zeros), axis=-1)

    def attention(self, x: str, width: int, heads: int) -> str:
        each = width // heads
        shape = self.constant(np.array([0, 0, heads, each]))

        def head(perm: list[int]) -> str:
            return self.node(
                "Transpose", self.node("Reshape", self.linear(x, width, width), shape), perm=perm
            )

        query, key, value = head([0, 2, 1, 3]), head([0, 2, 3, 1]), head([0, 2, 1, 3])
        scores = self.node("Div", self.node("MatMul", query, key), self.constant(np.float32(np.sqrt(each))))
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), value)
        joined = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        whole = self.node("Reshape", joined, self.constant(np.array([0, 0, width])))
        return self.linear(whole, width, width)

    def model(self, output: str, shape: list[Any]) -> onnx.ModelProto:
        arrays = [numpy_helper.from_array(array, name) for name, array in self.arrays.items()]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", output)]
        graph = helper.make_graph(self.nodes, "net", ends[:1], ends[1:], arrays)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feed_forward(seed: int = 0, width: int = 768, inner: int = 3072) -> onnx.ModelProto:
    """A transformer's feed-forward block, of vectors."""
    build = Builder(seed)
    y = build.linear(build.gelu(build.linear("x", width, inner)), inner, width)
    return build.model(y, ["n", width])


def encoder(
    seed: int = 0, layers: int = 12, width: int = 768, heads: int = 12, steps: int = 128
) -> onnx.ModelProto:
    """An encoder of BERT's shape behind its embeddings."""
    build, x = Builder(seed), "x"
    for _ in range(layers):
        x = build.norm(build.node("Add", x, build.attention(x, width, heads)), width)
        inner = build.linear(build.gelu(build.linear(x, width, 4 * width)), 4 * width, width)
        x = build.norm(build.node("Add", x, inner), width)
    return build.model(x, ["n", steps, width])


def magika() -> Path | None:
    """The file of Magika's model of content types, if that package is installed."""
    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        return None
    return max((Path(spec.origin).parent / "models").rglob("*.onnx"), default=None)
