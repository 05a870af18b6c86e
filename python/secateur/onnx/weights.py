"""The prunable weights of an ONNX graph, and what belongs to a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

RECURRENT = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}
"""The recurrent operators, and which of our gates each of theirs is: ours are PyTorch's, input, forget, cell,
output; reset, update, new."""
DOMAINS = ("", "ai.onnx")
Length: TypeAlias = int | str | None
"""Of an axis: a number, the name of one that is free, or neither."""
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class Weight:
    """A prunable tensor: an initializer, or one direction of it.

    Attributes
    ----------
    name : str
        The initializer's; of a recurrent layer's two directions with ``.forward`` and ``.reverse`` behind.
    value : onnx_ir.Value
        The initializer.
    readers : tuple of onnx_ir.Node
        What uses it, in the graph's order: several where weights are tied.
    transposed : bool
        Whether the initializer has outputs along its last axis, and `read` turns it.
    direction : int or None
        Which part of the initializer it is; None: all.
    """

    name: str
    value: ir.Value
    readers: tuple[ir.Node, ...]
    transposed: bool
    direction: int | None

    def read(self, array: NDArray[Any]) -> NDArray[Any]:
        """The tensor, outputs first, as a view of the initializer's array."""
        part = array if self.direction is None else array[self.direction]
        return part.T if self.transposed else part

    def write(self, array: NDArray[Any], tensor: NDArray[Any]) -> NDArray[Any]:
        """The initializer's array with another tensor in its place, perhaps of another shape."""
        stored = tensor.T if self.transposed else tensor
        if self.direction is None:
            return np.array(stored, array.dtype, order="C")
        whole = np.zeros((len(array), *stored.shape), array.dtype)
        if whole.shape == array.shape:  # else the other direction is to come
            whole[...] = array
        whole[self.direction] = stored
        return whole

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        stored = tuple(int(dim) for dim in array_of(self.value).shape)
        part = stored if self.direction is None else stored[1:]
        return part[::-1] if self.transposed else part


def lengths_of(value: ir.Value | None) -> list[Length] | None:
    """The shape of a value; None if it is not known how many axes it has."""
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def is_open(length: Length) -> bool:
    """Whether nothing is known of a length: ONNX's inference makes up names for such."""
    return length is None or (isinstance(length, str) and length.startswith("unk__"))


def array_of(value: ir.Value) -> NDArray[Any]:
    """The array of an initializer; not to be written to."""
    assert value.const_value is not None
    array: NDArray[Any] = value.const_value.numpy()
    return array


def put_array(value: ir.Value, array: NDArray[Any]) -> None:
    """Give an initializer another array of the same type."""
    assert value.const_value is not None
    dtype = value.const_value.dtype
    value.const_value = ir.Tensor(np.ascontiguousarray(array), dtype=dtype, name=value.name)
    value.shape = ir.Shape(array.shape)


def initializer(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A value of a graph for a tensor; to be registered there."""
    shape = ir.Shape(tensor.shape.numpy())
    return ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)


def drop_constants(graph: ir.Graph) -> None:
    """Take out the initializers that nothing reads, and no caller can give."""
    for name, value in list(graph.initializers.items()):
        if is_constant(value) and not value.uses():
            del graph.initializers[name]


def drop_unread(graph: ir.Graph) -> None:
    """Take out the nodes of whose outputs nothing comes, and constants with them."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    drop_constants(graph)


def is_constant(value: ir.Value | None) -> bool:
    """Whether it is an initializer that no caller can replace."""
    return (
        value is not None
        and value.is_initializer()
        and value.const_value is not None
        and not value.is_graph_input()
        and not value.is_graph_output()
    )


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """The value of a node's attribute."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def opset_of(graph: ir.Graph) -> int:
    """The version of ONNX's own operators; 0 where a graph does not say."""
    return next((graph.opset_imports[domain] for domain in DOMAINS if domain in graph.opset_imports), 0)


def label(node: ir.Node) -> str:
    """How messages call a node."""
    return f"{node.name or node.outputs[0].name} ({node.op_type})"


def is_depthwise(node: ir.Node) -> bool:
    """Whether it is a convolution whose filters read one channel each."""
    weight = node.inputs[1]
    shape = None if weight is None else weight.shape
    return attribute(node, "group", 1) > 1 and shape is not None and shape[1] == 1


def find_weights(graph: ir.Graph) -> dict[str, Weight]:
    """The prunable tensors of a graph by name, in its order.

    They are the right operand of MatMul and Gemm, the filters of Conv along one or two axes unless depthwise,
    and the two matrices of LSTM, GRU and RNN, where they are constants of a floating-point type. Nothing is
    that anything else reads too, or two layers in different ways.
    """
    places: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
    for node in graph:
        for index in _weight_inputs(node):
            value = node.inputs[index]
            if value is not None and is_constant(value) and value.dtype in FLOATS:
                places.setdefault(value, []).append((node, index))
    found: dict[str, Weight] = {}
    for value, uses in places.items():
        forms = {_form(node) for node, _ in uses}
        if len(value.uses()) != len(uses) or len(forms) > 1 or 0 in array_of(value).shape:
            continue
        (form,) = forms
        readers = tuple(node for node, _ in uses)
        if form != "recurrent":
            transposed = form == "transposed"
            found[value.name or ""] = Weight(value.name or "", value, readers, transposed, None)
        elif len(array_of(value)) == 1:
            found[value.name or ""] = Weight(value.name or "", value, readers, False, 0)
        else:
            for direction, way in enumerate(("forward", "reverse")):
                name = f"{value.name}.{way}"
                found[name] = Weight(name, value, readers, False, direction)
    return found


def _weight_inputs(node: ir.Node) -> tuple[int, ...]:
    """Which inputs of a node are prunable, if they are constants."""
    if node.domain not in DOMAINS or len(node.inputs) < 2 or node.inputs[1] is None:
        return ()
    shape = node.inputs[1].shape
    rank = None if shape is None else len(shape)
    if node.op_type in ("MatMul", "Gemm") and rank == 2 and not is_constant(node.inputs[0]):
        return (1,)
    if node.op_type == "Conv" and rank in (3, 4) and not is_depthwise(node):
        return (1,)
    if node.op_type in RECURRENT and rank == 3 and len(node.inputs) > 2:
        return (1, 2)
    return ()


def _form(node: ir.Node) -> str:
    """How a node reads its weight."""
    if node.op_type in RECURRENT:
        return "recurrent"
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0)):
        return "transposed"
    return "straight"
