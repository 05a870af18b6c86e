"""Shapes that a graph computes, which ONNX's own inference leaves open.

Exporters write a Reshape to ``(x.shape[0], -1, 64)`` as a Shape, Gathers and a Concat. Their integers are
followed here, lengths that are free by their names.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from .weights import DOMAINS, Length, attribute, is_open, lengths_of

Integers: TypeAlias = NDArray[np.object_]
"""A tensor of lengths, of no axis or one."""
Known: TypeAlias = dict[ir.Value, Integers]

MOST = 64
"""Elements of a tensor that may be a shape."""
GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def complete_shapes(model: ir.Model) -> None:
    """Put in the shapes that Reshape, Expand and ConstantOfShape are computed to have, and what follows.

    Only what ONNX's inference, which has run, left open is changed.

    Parameters
    ----------
    model : onnx_ir.Model
        Its main graph in topological order, with the shapes that were inferred.
    """
    known: Known = {}
    completed: set[ir.Value] = set()
    for node in model.graph:
        if node.domain not in DOMAINS:
            continue
        if len(node.outputs) == 1 and (node.op_type == "Shape" or node.op_type in INTEGERS):
            integers = _followed(node, known)
            if integers is not None:
                known[node.outputs[0]] = integers
        if node.op_type in SHAPED:
            found = [SHAPED[node.op_type](node, known)]
        elif completed.intersection(value for value in node.inputs if value is not None):
            found = _inferred(node, model.opset_imports)
        else:
            continue
        for output, shape in zip(node.outputs, found, strict=False):
            before, after = lengths_of(output), _completed(output, shape)
            if after is not None and after != before:
                output.shape = ir.Shape(after)
                completed.add(output)


def _inferred(node: ir.Node, opsets: Mapping[str, int]) -> list[list[Length] | None]:
    """The shapes that ONNX infers for what a node gives, from what is known of its inputs by now."""
    if any(isinstance(attr, ir.Attr) and attr.type in GRAPHS for attr in node.attributes.values()):
        return []
    inputs = [value for value in node.inputs if value is not None]
    if any(value.type is None for value in inputs):
        return []
    tensors = {value.name or "": _constant(value) for value in inputs}
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
        types = onnx.shape_inference.infer_node_outputs(
            schema,
            ir.serde.serialize_node(node),
            {value.name or "": ir.serde.serialize_value(value).type for value in inputs},
            {
                name: ir.serde.serialize_tensor(tensor)
                for name, tensor in tensors.items()
                if tensor is not None
            },
            opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        )
    except Exception:  # whatever the library raises: nothing is known then, as before
        return []
    made = [types[value.name].tensor_type if value.name in types else None for value in node.outputs]
    return [
        [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim]
        if tensor is not None and tensor.HasField("shape")
        else None
        for tensor in made
    ]


def _completed(value: ir.Value, shape: list[Length] | None) -> list[Length] | None:
    """A value's shape, with what it is found to be where that was open; None: unknown."""
    before = lengths_of(value)
    if shape is None or any(isinstance(length, int) and length < 0 for length in shape):
        return before
    if before is None:
        return shape
    if len(before) != len(shape):
        return before  # whether a shape that the file gives fits is for ONNX's inference to say
    return [old if is_open(new) or not is_open(old) else new for old, new in zip(before, shape, strict=True)]


def _integers(value: ir.Value | None, known: Known) -> Integers | None:
    """What is known of a tensor of integers; None: nothing, or it is no such tensor."""
    if value is None or value in known:
        return None if value is None else known[value]
    tensor = _constant(value)
    if tensor is None or len(tensor.shape) > 1 or not tensor.dtype.is_integer():
        return None
    return tensor.numpy().astype(object)


def _constant(value: ir.Value) -> ir.TensorProtocol | None:
    """A small tensor that is constant, an initializer or not yet one."""
    tensor = None if value.is_graph_input() else ir.convenience.get_const_tensor(value)
    return tensor if tensor is not None and tensor.size <= MOST else None


def _followed(node: ir.Node, known: Known) -> Integers | None:
    """What a node makes of lengths, if that is known."""
    if node.op_type == "Shape":
        lengths = lengths_of(node.inputs[0])
        ends = slice(attribute(node, "start", 0), attribute(node, "end", None))
        return None if lengths is None else np.array(lengths[ends], object)
    inputs = [_integers(value, known) for value in node.inputs]
    if not inputs or any(
        found is None and value is not None for found, value in zip(inputs, node.inputs, strict=True)
    ):
        return None
    try:
        found = np.asarray(INTEGERS[node.op_type](node, *inputs), object)
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError):
        return None  # no shape is made like this
    small = found.ndim <= 1 and found.size <= MOST
    return found if small and all(map(_fits, found.reshape(-1))) else None


def _fits(length: Length) -> bool:
    return not isinstance(length, int) or -(2**63) <= length < 2**63


def _cast(node: ir.Node, x: Integers) -> Integers:
    if attribute(node, "to", 0) not in (ir.DataType.INT32, ir.DataType.INT64):
        raise TypeError
    if any(isinstance(length, int) and abs(length) >= 2**31 for length in x.reshape(-1)):
        raise ValueError
    return x


def _gather(node: ir.Node, x: Integers, places: Integers) -> Integers:
    numbers = np.array([operator.index(place) for place in places.reshape(-1)], np.int64)
    return np.take(x, numbers.reshape(places.shape), attribute(node, "axis", 0))


def _slice(node: ir.Node, x: Integers, *given: Integers | None) -> Integers:
    names = enumerate(("starts", "ends", "axes", "steps"))
    starts, ends, _, steps = (_given(node, given, index, name) for index, name in names)
    (start,), (end,), (step,) = starts, ends, [1] if steps is None else steps
    if operator.index(step) < 0:
        raise ValueError  # ends are cut off in another way than here, and nobody turns shapes around
    return x[operator.index(start) : operator.index(end) : step]


def _squeeze(node: ir.Node, x: Integers, *given: Integers | None) -> Integers:
    return x.reshape(())


def _unsqueeze(node: ir.Node, x: Integers, *given: Integers | None) -> Integers:
    return np.expand_dims(x, tuple(_given(node, given, 0, "axes")))


def _given(node: ir.Node, inputs: tuple[Integers | None, ...], index: int, name: str) -> Any:
    """An argument that was an attribute before it was an input."""
    if index < len(inputs):
        found = inputs[index]
        return None if found is None else found.tolist()
    return attribute(node, name, None)


def _concat(node: ir.Node, *parts: Integers) -> Integers:
    return np.concatenate(parts)


def _elementwise(combine: Callable[[Length, Length], Length]) -> Callable[..., Integers]:
    function = np.frompyfunc(combine, 2, 1)

    def combined(node: ir.Node, a: Integers, b: Integers) -> Integers:
        return np.asarray(function(a, b), object)

    return combined


def _reshape(node: ir.Node, x: Integers, target: Integers) -> Integers:
    reshaped: Integers = x.reshape(target.tolist())
    return reshaped


def _add(a: Length, b: Length) -> Length:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return b if a == 0 else a if b == 0 else None


def _subtract(a: Length, b: Length) -> Length:
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    return a if b == 0 else None


def _multiply(a: Length, b: Length) -> Length:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return b if a == 1 else a if b == 1 else None


def _divide(a: Length, b: Length) -> Length:
    if isinstance(a, int) and isinstance(b, int):
        return a // b if a >= 0 and b > 0 else None
    return a if b == 1 else None


def _remainder(a: Length, b: Length) -> Length:
    return a % b if isinstance(a, int) and isinstance(b, int) and a >= 0 and b > 0 else None


INTEGERS: dict[str, Callable[..., Integers]] = {
    "Add": _elementwise(_add),
    "Cast": _cast,
    "Concat": _concat,
    "Div": _elementwise(_divide),
    "Gather": _gather,
    "Identity": lambda node, x: x,
    "Mod": _elementwise(_remainder),
    "Mul": _elementwise(_multiply),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _elementwise(_subtract),
    "Unsqueeze": _unsqueeze,
}
"""What nodes do to lengths."""


def _reshaped(node: ir.Node, known: Known) -> list[Length] | None:
    target = _integers(node.inputs[1], known) if len(node.inputs) > 1 else None
    if target is None or target.ndim != 1:
        return None
    source = lengths_of(node.inputs[0])
    lengths: list[Length] = target.tolist()
    if not attribute(node, "allowzero", 0):
        for axis, length in enumerate(lengths):
            if length == 0:
                lengths[axis] = source[axis] if source is not None and axis < len(source) else None
    if -1 in lengths:
        at = lengths.index(-1)
        lengths[at] = None if source is None else _quotient(source, lengths[:at] + lengths[at + 1 :])
    return lengths


def _quotient(lengths: list[Length], others: list[Length]) -> Length:
    """The product of some lengths over that of others, if it is a number or one of these names."""
    if None in lengths or None in others:
        return None
    names, less = (Counter(each for each in part if isinstance(each, str)) for part in (lengths, others))
    product, divisor = (
        math.prod(each for each in part if isinstance(each, int)) for part in (lengths, others)
    )
    left = list((names - less).elements())
    if less - names or divisor <= 0 or product % divisor:
        return None
    if not left:
        return product // divisor
    return left[0] if len(left) == 1 and product == divisor else None


def _expanded(node: ir.Node, known: Known) -> list[Length] | None:
    target, source = _integers(node.inputs[1], known), lengths_of(node.inputs[0])
    if target is None or source is None or target.ndim != 1:
        return None
    rank = max(len(source), target.size)
    pairs = zip(
        [1] * (rank - len(source)) + source, [1] * (rank - target.size) + target.tolist(), strict=True
    )
    return [_wider(a, b) for a, b in pairs]


def _wider(a: Length, b: Length) -> Length:
    """What two lengths are broadcast to."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    # One of them is 1, or they are equal: a number above 1 is the result either way.
    return next((length for length in (a, b) if isinstance(length, int) and length > 1), None)


def _filled(node: ir.Node, known: Known) -> list[Length] | None:
    shape = _integers(node.inputs[0], known)
    return None if shape is None or shape.ndim != 1 else shape.tolist()


SHAPED: dict[str, Callable[[ir.Node, Known], list[Length] | None]] = {
    "ConstantOfShape": _filled,
    "Expand": _expanded,
    "Reshape": _reshaped,
}
"""The shape of what a node gives, which one of its inputs says."""
