"""How the channels of a value become those of another, operator by operator; see channels.py.

A rule takes the channels of a graph, a node, and the flows of its inputs (None: no channels are known). It
sends flows to the outputs, and says what constants have entries for them. It raises `Unfollowable` where it
does not know what becomes of its inputs' channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir

from .weights import RECURRENT, array_of, attribute, is_constant, is_depthwise, label, lengths_of, opset_of

if TYPE_CHECKING:
    from .channels import Channels, Flow

    Flows: TypeAlias = Sequence[Flow | None]
    Rule: TypeAlias = Callable[[Channels, ir.Node, Flows], None]


class Unfollowable(Exception):
    """An operator mixes or hides the channels that it gets."""


def _rank(value: ir.Value | None) -> int:
    if value is None or value.shape is None:
        raise Unfollowable
    return len(value.shape)


def _sizes(value: ir.Value | None) -> list[Any]:
    """The dimensions of a value: integers, or names."""
    lengths = lengths_of(value)
    if lengths is None:
        raise Unfollowable
    return lengths


def _only(flows: Flows) -> Flow:
    """The flow of the first input, the only one that has channels."""
    first = flows[0]
    if first is None or any(flow is not None for flow in flows[1:]):
        raise Unfollowable
    return first


def _integers(node: ir.Node, name: str, index: int) -> list[int] | None:
    """What an attribute, or in newer opsets an input, lists; None if it is not given."""
    found = attribute(node, name, None)
    if found is None and len(node.inputs) > index and node.inputs[index] is not None:
        value = node.inputs[index]
        if value is None or not is_constant(value):
            raise Unfollowable
        found = array_of(value).reshape(-1).tolist()
    return None if found is None else [int(number) for number in found]


def layer(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """Conv, Gemm and MatMul read channels along one axis of their weights and make others along another."""
    flow = flows[0]
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "Conv" and is_depthwise(node):
        if flow is None:
            return
        _depthwise(channels, node, flow)
        return
    rank = _rank(node.outputs[0])
    axis = 1 if node.op_type == "Conv" else rank - 1
    tensors = channels.tensors(weight)
    whole = bool(tensors) and attribute(node, "group", 1) == 1 and not attribute(node, "transA", 0)
    followed = whole and flow is not None and flow.axis == axis
    if followed and flow is not None:
        channels.part(tensors[0], 1, flow.numbers)
    for other in flows[1:] if followed else flows:
        if other is not None:
            channels.hold(other.numbers, f"{label(node)} cannot be followed")
    if not whole:
        return
    numbers = channels.new(tensors[0].shape[0])
    channels.part(tensors[0], 0, numbers)
    channels.send(node.outputs[0], axis, numbers)
    if bias is not None and not (is_constant(bias) and array_of(bias).size == 1 < len(numbers)):
        try:
            channels.own(bias, -1, numbers)
        except Unfollowable:
            channels.hold(numbers, f"{label(node)} adds what is no constant of its own")


def _depthwise(channels: Channels, node: ir.Node, flow: Flow) -> None:
    weight = node.inputs[1]
    filters = _sizes(weight)[0]
    if flow.axis != 1 or filters % len(flow.numbers):
        raise Unfollowable
    # The filters of a channel lie side by side.
    numbers = np.repeat(flow.numbers, filters // len(flow.numbers))
    channels.own(weight, 0, numbers)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        channels.own(node.inputs[2], 0, numbers)
    channels.send(node.outputs[0], 1, numbers)


def recurrent(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """LSTM, GRU and RNN: units of both directions go together, since they say once how many there are."""
    gates = len(RECURRENT[node.op_type])
    inputs, states = channels.tensors(node.inputs[1]), channels.tensors(node.inputs[2])
    whole = bool(inputs and states) and not attribute(node, "layout", 0)
    flow = flows[0]
    if flow is not None:
        if whole and flow.axis == 2:
            for weight in inputs:
                channels.part(weight, 1, flow.numbers)
        else:
            channels.hold(flow.numbers, f"{label(node)} cannot be followed")
    for other in flows[1:]:
        if other is not None:
            channels.hold(other.numbers, f"{label(node)} begins with them")
    if not whole:
        return
    units = channels.new(states[0].shape[1])
    gated = np.tile(units, gates)
    for weight in (*inputs, *states):
        channels.part(weight, 0, gated)
    for weight in states:
        channels.part(weight, 1, units)
    try:
        # Bias, lengths of the sequences, first states, peepholes.
        beside = {3: np.tile(gated, 2), 5: units, 6: units, 7: np.tile(units, 3)}
        for index, value in enumerate(node.inputs):
            if index in beside and value is not None:
                channels.own(value, -1, beside[index])
    except Unfollowable:
        channels.hold(units, f"{label(node)} begins with what is no constant of its own")
    for output in node.outputs:
        if output.name:
            channels.send(output, _rank(output) - 1, units)


def same(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """What handles every element by itself."""
    flow = _only(flows)
    channels.send(node.outputs[0], *flow)


def image(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """What handles every channel of an image by itself."""
    flow = _only(flows)
    if flow.axis != 1:
        raise Unfollowable
    channels.send(node.outputs[0], *flow)


def normalize(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """Batch and instance normalization have vectors with an entry for each channel."""
    image(channels, node, flows)
    for value in node.inputs[1:]:
        channels.own(value, 0, _only(flows).numbers)


def binary(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """What puts two values together element by element, as NumPy broadcasts them."""
    if len(node.inputs) != 2:
        raise Unfollowable
    rank = _rank(node.outputs[0])
    first: Flow | None = None
    for value, flow in zip(node.inputs, flows, strict=True):
        if flow is None or value is None:
            continue
        axis = flow.axis + rank - _rank(value)
        if first is None:
            first = flow._replace(axis=axis)
        elif axis != first.axis:
            raise Unfollowable
        else:
            channels.tie(first.numbers, flow.numbers)
    assert first is not None
    for value, flow in zip(node.inputs, flows, strict=True):
        if flow is not None:
            continue
        # Aligned at the end: this one's axis from there.
        from_end = first.axis - rank
        sizes = _sizes(value)
        if -from_end <= len(sizes) and sizes[from_end] != 1:
            channels.own(value, from_end, first.numbers)
    channels.send(node.outputs[0], *first)


def concatenate(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """Side by side along the channels; along another axis, what is at the same place is tied."""
    rank = _rank(node.outputs[0])
    along = attribute(node, "axis", 0) % rank
    axes = {flow.axis for flow in flows if flow is not None}
    if len(axes) != 1:
        raise Unfollowable
    (axis,) = axes
    numbers = []
    for value, flow in zip(node.inputs, flows, strict=True):
        if flow is not None:
            numbers.append(flow.numbers)
            continue
        size = _sizes(value)[along]
        if axis != along or not isinstance(size, int):
            raise Unfollowable
        numbers.append(channels.new(size))
        channels.hold(numbers[-1], f"{label(node)} puts them beside what cannot be followed")
    if axis != along:
        for other in numbers[1:]:
            channels.tie(numbers[0], other)
        channels.send(node.outputs[0], axis, numbers[0])
    else:
        channels.send(node.outputs[0], axis, np.concatenate(numbers))


def split(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """Parts along the channels stay equally wide: what is at the same place in each is tied."""
    flow = _only(flows)
    along = attribute(node, "axis", 0) % _rank(node.inputs[0])
    if along != flow.axis:
        for output in node.outputs:
            channels.send(output, *flow)
        return
    count = len(node.outputs)
    # Sizes that are given are not equal (see folding.py).
    if len(node.inputs) > 1 or "split" in node.attributes or len(flow.numbers) % count:
        raise Unfollowable
    parts = np.split(flow.numbers, count)
    for output, part in zip(node.outputs, parts, strict=True):
        channels.tie(parts[0], part)
        channels.send(output, flow.axis, part)


def flatten(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """All axes from one on become one."""
    flow = _only(flows)
    sizes = _sizes(node.inputs[0])
    start = attribute(node, "axis", 1) % (len(sizes) + 1)
    if flow.axis < start:
        raise Unfollowable
    channels.send(node.outputs[0], 1, _spread(flow, sizes, start, len(sizes)))


def _spread(flow: Flow, sizes: list[Any], start: int, stop: int) -> Any:
    """The numbers of the entries of the axes from `start` to before `stop`, seen as one."""
    block = sizes[start:stop]
    if not all(isinstance(size, int) for size in block):
        raise Unfollowable
    shape = [1] * len(block)
    shape[flow.axis - start] = -1
    return np.broadcast_to(flow.numbers.reshape(shape), block).reshape(-1)


def reshape(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """Where the channels stay an axis, or become part of one, that the shape does not give by number."""
    flow = _only(flows)
    before, after = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    target = _integers(node, "shape", 1) or []
    for axis, wanted in enumerate(target):
        if wanted > 0 or len(target) != len(after) or attribute(node, "allowzero", 0):
            continue
        for start in range(flow.axis + 1):
            for stop in range(flow.axis + 1, len(before) + 1):
                if wanted == 0 and (axis, start, stop) != (flow.axis, flow.axis, flow.axis + 1):
                    continue
                around = _count(before[:start]) == _count(after[:axis])
                if around and _count(before[stop:]) == _count(after[axis + 1 :]):
                    channels.send(node.outputs[0], axis, _spread(flow, before, start, stop))
                    return
    raise Unfollowable


def _count(sizes: list[Any]) -> tuple[int, list[str]]:
    """How many elements there are: a number, times what has names."""
    if None in sizes:
        raise Unfollowable
    return prod(s for s in sizes if isinstance(s, int)), sorted(s for s in sizes if isinstance(s, str))


def transpose(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """The axis of the channels moves."""
    flow = _only(flows)
    order = attribute(node, "perm", None) or tuple(range(_rank(node.inputs[0])))[::-1]
    channels.send(node.outputs[0], list(order).index(flow.axis), flow.numbers)


def squeeze(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """Other axes of size 1 go."""
    flow = _only(flows)
    axes = _integers(node, "axes", 1)
    if axes is None:
        raise Unfollowable
    gone = {axis % _rank(node.inputs[0]) for axis in axes}
    if flow.axis in gone:
        raise Unfollowable
    channels.send(node.outputs[0], flow.axis - sum(axis < flow.axis for axis in gone), flow.numbers)


def unsqueeze(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """Axes of size 1 come."""
    flow = _only(flows)
    axes = _integers(node, "axes", 1) or []
    rank = _rank(node.inputs[0]) + len(axes)
    new = {axis % rank for axis in axes}
    channels.send(node.outputs[0], [axis for axis in range(rank) if axis not in new][flow.axis], flow.numbers)


def reduce(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """Other axes become one number."""
    flow = _only(flows)
    axes = _integers(node, "axes", 1)
    if not axes:
        raise Unfollowable
    gone = {axis % _rank(node.inputs[0]) for axis in axes}
    if flow.axis in gone:
        raise Unfollowable
    shift = 0 if attribute(node, "keepdims", 1) else sum(axis < flow.axis for axis in gone)
    channels.send(node.outputs[0], flow.axis - shift, flow.numbers)


def resize(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """Images become larger or smaller, their channels as many as before."""
    flow = _only(flows)
    axes = attribute(node, "axes", None)
    if axes is None:
        scales = attribute(node, "scales", None)
        if scales is None:
            value = node.inputs[1 if node.op_type == "Upsample" or len(node.inputs) == 2 else 2]
            scales = array_of(value).tolist() if value is not None and is_constant(value) else []
        if len(scales) <= flow.axis or scales[flow.axis] != 1:
            raise Unfollowable
    elif flow.axis in {axis % _rank(node.inputs[0]) for axis in axes}:
        raise Unfollowable
    channels.send(node.outputs[0], *flow)


def pad(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """Borders along other axes."""
    flow = _only(flows)
    pads = _integers(node, "pads", 1)
    if pads is None or len(node.inputs) > 3:
        raise Unfollowable
    rank = len(pads) // 2
    if pads[flow.axis] or pads[flow.axis + rank]:
        raise Unfollowable
    channels.send(node.outputs[0], *flow)


def gather(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """Some entries along another axis."""
    flow = _only(flows)
    along = attribute(node, "axis", 0) % _rank(node.inputs[0])
    if along == flow.axis:
        raise Unfollowable
    shift = _rank(node.inputs[1]) - 1 if along < flow.axis else 0
    channels.send(node.outputs[0], flow.axis + shift, flow.numbers)


def cut(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """A range along other axes; all there is of the channels."""
    flow = _only(flows)
    rank = _rank(node.inputs[0])
    starts, ends = _integers(node, "starts", 1), _integers(node, "ends", 2)
    if starts is None or ends is None:
        raise Unfollowable
    axes = _integers(node, "axes", 3) or list(range(len(starts)))
    steps = _integers(node, "steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if axis % rank == flow.axis and (start != 0 or end < len(flow.numbers) or step != 1):
            raise Unfollowable
    channels.send(node.outputs[0], *flow)


def shape(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """How long the axes are: how many channels there are must matter to nobody."""
    flow = _only(flows)
    rank = _rank(node.inputs[0])
    axes = list(range(rank))[attribute(node, "start", 0) : attribute(node, "end", rank)]
    if flow.axis not in axes:
        return
    if node.outputs[0].is_graph_output():
        raise Unfollowable
    at = axes.index(flow.axis)
    for use in node.outputs[0].uses():
        given = [array_of(v) for v in use.node.inputs[1:] if v is not None and is_constant(v)]
        if use.idx != 0 or len(given) < len(use.node.inputs) - 1:
            raise Unfollowable
        if use.node.op_type == "Gather":
            taken: Any = given[0]
        elif use.node.op_type == "Slice" and len(given) > 1:
            start, end = (int(array.reshape(-1)[0]) for array in given[:2])
            step = int(given[3].reshape(-1)[0]) if len(given) > 3 else 1
            taken = slice(start, end, step)
        else:
            raise Unfollowable
        if np.any(np.arange(len(axes))[taken] == at):
            raise Unfollowable


def softmax(channels: Channels, node: ir.Node, flows: Flows) -> None:
    """Along another axis."""
    flow = _only(flows)
    rank = _rank(node.inputs[0])
    # Before opset 13 all axes from the one given on are one.
    old = node.graph is None or opset_of(node.graph) < 13
    if old or attribute(node, "axis", -1) % rank == flow.axis:
        raise Unfollowable
    channels.send(node.outputs[0], *flow)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), layer),
    **dict.fromkeys(RECURRENT, recurrent),
    **dict.fromkeys(
        ("Abs", "Cast", "Celu", "Clip", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"), same
    ),
    **dict.fromkeys(("HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu"), same),
    **dict.fromkeys(("Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"), same),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool"), image),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), normalize),
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum"), binary),
    **dict.fromkeys(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"), reduce),
    **dict.fromkeys(("Resize", "Upsample"), resize),
    **dict.fromkeys(("LogSoftmax", "Softmax"), softmax),
    "Concat": concatenate,
    "Flatten": flatten,
    "Gather": gather,
    "Pad": pad,
    "Reshape": reshape,
    "Shape": shape,
    "Slice": cut,
    "Split": split,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
"""By operator."""

SOURCES = ("Conv", "Gemm", "MatMul", *RECURRENT)
"""Operators whose outputs have channels although their inputs have none that are known."""
