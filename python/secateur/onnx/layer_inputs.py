"""What the weights of an ONNX model are multiplied by, from stock ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import UnsupportedOpError
from ..models.patches import patches
from ..models.view import Batch, FloatArray
from .feeds import checked, parts
from .model import OnnxModel
from .operators.windows import windows_of_node
from .session import session
from .weights import RECURRENT, Weight, array_of, attribute, drop_unread, find_weights, is_constant, label

Array = NDArray[Any]


def layer_inputs(model: OnnxModel, name: str, batches: Iterable[Batch]) -> Iterator[FloatArray]:
    """See `ModelView.layer_inputs`.

    Only the part of the model that leads to the weight runs, with what the weight meets for outputs.
    """
    infos, part = model.inputs, model.copy()
    weight = find_weights(part.ir.graph)[name]
    wanted = [_wanted(node, weight) for node in weight.readers]
    makers = [_maker(node, weight) for node in weight.readers]
    values = {value.name or "": value for found in wanted for value in found if value is not None}
    names = [["" if value is None else value.name or "" for value in found] for found in wanted]
    constants = {key: array_of(value) for key, value in values.items() if is_constant(value)}
    made = [key for key, value in values.items() if value.producer() is not None]
    running = None
    if made:
        _end_at(part.ir.graph, [values[key] for key in made])
        running = session(part)
    for batch in batches:
        for feeds in parts(infos, checked(infos, batch, "data", any_batch=True))[1]:
            arrays = {**constants, **feeds}
            if running is not None:
                needed = {each.name: feeds[each.name] for each in running.get_inputs()}
                arrays |= zip(made, running.run(made, needed), strict=True)
            for make, keys in zip(makers, names, strict=True):
                yield from make(*(arrays.get(key) for key in keys))


def _end_at(graph: ir.Graph, values: list[ir.Value]) -> None:
    """Make these the outputs, and take out what they do not need."""
    graph.outputs[:] = values
    drop_unread(graph)
    graph.inputs[:] = [value for value in graph.inputs if value.uses()]


def _wanted(node: ir.Node, weight: Weight) -> list[ir.Value | None]:
    """The values that tell what a weight is multiplied by in a node; see `_maker`."""
    if node.op_type not in RECURRENT:
        return [node.inputs[0]]
    optional = [node.inputs[i] if len(node.inputs) > i else None for i in (4, 5)]
    if weight.value is node.inputs[1]:
        return [node.inputs[0], optional[0]]
    states = node.outputs[0]
    if not states.name:
        states.name, states.type = f"{node.outputs[-1].name}.states", weight.value.type
        states.shape = ir.Shape([None] * 4)
    return [states, *optional]


def _maker(node: ir.Node, weight: Weight) -> Callable[..., Iterator[FloatArray]]:
    """What makes the matrices of a node from the arrays of `_wanted`."""
    if node.op_type == "Conv":
        return partial(_convolved, node, tuple(int(n) for n in array_of(weight.value).shape))
    if node.op_type not in RECURRENT:
        return partial(_multiplied, bool(attribute(node, "transA", 0)))
    if attribute(node, "layout", 0):
        raise UnsupportedOpError(f"{label(node)}: what it is given with layout=1 is not known; exclude it")
    if weight.value is node.inputs[1]:
        return _stepped
    if node.op_type == "GRU" and not attribute(node, "linear_before_reset", 0):
        raise UnsupportedOpError(
            f"{label(node)}: its gates read different states (linear_before_reset=0); exclude {weight.name}"
        )
    direction = weight.direction or 0
    back = direction == 1 or attribute(node, "direction", "forward") == "reverse"
    return partial(_states_before, direction, back)


def _multiplied(turned: bool, x: Array) -> Iterator[FloatArray]:
    rows = x.T if turned else x.reshape(-1, x.shape[-1])
    yield rows.astype(np.float32, copy=False)[None]


def _convolved(node: ir.Node, filters: tuple[int, ...], x: Array) -> Iterator[FloatArray]:
    windows = windows_of_node(node, x.shape[2:], filters[2:])
    # One axis is an image of one column.
    images = x.reshape(*x.shape, *([1] * (4 - x.ndim)))
    geometry = windows.size, windows.strides, windows.dilations
    size, strides, dilations = ((*sides, 1)[:2] for sides in geometry)
    before, after = ((*sides, 0)[:2] for sides in (windows.before, windows.after))
    yield from patches(images, size, strides, dilations, (*before, *after), attribute(node, "group", 1))


def _stepped(x: Array, lengths: Array | None) -> Iterator[FloatArray]:
    """Steps (steps, n, features), of sequences of these lengths, one a row."""
    rows = x.reshape(-1, x.shape[-1]) if lengths is None else x[np.arange(len(x))[:, None] < lengths]
    yield rows.astype(np.float32, copy=False)[None]


def _states_before(
    direction: int, back: bool, states: Array, lengths: Array | None, first: Array | None
) -> Iterator[FloatArray]:
    """The states that the steps begin with, from those they end with, (steps, directions, n, units)."""
    after = states[:, direction]
    before = np.zeros_like(after)
    if back:
        before[:-1] = after[1:]
    else:
        before[1:] = after[:-1]
    if first is not None:
        last = len(after) - 1 if lengths is None else lengths - 1
        before[last if back else 0, np.arange(after.shape[1])] = first[direction]
    yield from _stepped(before, lengths)
