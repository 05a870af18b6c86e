"""What an ONNX graph adds to the products of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from .weights import FLOATS, RECURRENT, Weight, array_of, attribute, is_constant, put_array


@dataclass(frozen=True)
class Bias:
    """The numbers, one for each output, that are added behind one reader of a weight.

    Attributes
    ----------
    value : onnx_ir.Value
        The initializer.
    part : slice or tuple
        Which of its numbers they are.
    factor : float
        By how much more they have to change than what they are added to.
    """

    value: ir.Value
    part: Any
    factor: float

    def add(self, shift: NDArray[Any]) -> None:
        """Add numbers to the products."""
        array = array_of(self.value).copy()
        array[self.part] += (self.factor * shift).astype(array.dtype)
        put_array(self.value, array)


def biases_of(weight: Weight) -> list[Bias]:
    """The bias of every reader of a weight; none, where one has no bias that is its own."""
    found = [_bias(node, weight) for node in weight.readers]
    biases = [bias for bias in found if bias is not None and _own(bias.value)]
    return biases if len(biases) == len(found) else []


def _own(value: ir.Value) -> bool:
    return is_constant(value) and value.dtype in FLOATS and len(value.uses()) == 1


def _bias(node: ir.Node, weight: Weight) -> Bias | None:
    outputs = weight.shape[0]
    if node.op_type == "MatMul":
        uses = list(node.outputs[0].uses())
        if len(uses) != 1 or node.outputs[0].is_graph_output() or uses[0].node.op_type != "Add":
            return None
        return _vector(uses[0].node.inputs[1 - uses[0].idx], outputs, 1.0)
    if node.op_type in RECURRENT:
        value = node.inputs[3] if len(node.inputs) > 3 else None
        start = outputs if weight.value is node.inputs[2] else 0
        part = weight.direction or 0, slice(start, start + outputs)
        return None if value is None else Bias(value, part, 1.0)
    value = node.inputs[2] if len(node.inputs) > 2 else None
    factor = 1.0
    if node.op_type == "Gemm":
        beta = attribute(node, "beta", 1.0)
        factor = attribute(node, "alpha", 1.0) / beta if beta else 0.0
    return _vector(value, outputs, factor) if factor else None


def _vector(value: ir.Value | None, outputs: int, factor: float) -> Bias | None:
    """A constant of a number for each output along its last axis, and no other axis that matters."""
    if value is None or not is_constant(value):
        return None
    shape = array_of(value).shape
    if not shape or shape[-1] != outputs or array_of(value).size != outputs:
        return None
    return Bias(value, ..., factor)
