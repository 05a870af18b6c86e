"""Recurrent layers as nodes of a plan, and what ONNX does to the axes around them.

ONNX has steps before samples, and an axis for the directions; plans have samples, steps, features. Between a
layer and the Transpose or Squeeze behind it, values are `Turned`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..description import ONE_PIXEL
from .regions import Made, Region, constant, floats
from .stages import Stage, Turned
from .weights import RECURRENT, attribute

ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}


def turned(of: tuple[Stage, ...], axes: str) -> Stage | Turned:
    """Stages in an order of axes, or the one stage itself where that is its own."""
    return of[0] if len(of) == 1 and axes in ("ntf", "nf") else Turned(of, axes)


def _axes_of(value: Stage | Turned) -> tuple[tuple[Stage, ...], str]:
    if isinstance(value, Turned):
        return value
    return (value,), "ntf" if len(value.shape) == 2 else "nf"


def _sequences(region: Region, value: ir.Value | None) -> tuple[tuple[Stage, ...], str] | None:
    """What a value holds of a sequence, and its axes."""
    found = None if value is None else region.known.get(value)
    if isinstance(found, Turned) or (isinstance(found, Stage) and found.lead == 1 and len(found.shape) < 3):
        return _axes_of(found)
    return None


def _transpose(region: Region, node: ir.Node) -> Made:
    found = _sequences(region, node.inputs[0])
    if found is None:
        return None
    of, axes = found
    order = attribute(node, "perm", None) or list(range(len(axes)))[::-1]
    return turned(of, "".join(axes[axis] for axis in order))


def squeeze(region: Region, node: ir.Node) -> Made:
    """Takes the axis of the directions away."""
    found = _sequences(region, node.inputs[0])
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes", None)
    if found is None or axes is None or len(axes) != 1:
        return None
    of, order = found
    axis = int(axes[0]) % len(order)
    return turned(of, order.replace("d", "")) if order[axis] == "d" and len(of) == 1 else None


def reshape(region: Region, node: ir.Node) -> Made:
    """Puts the directions side by side: their axis is next to that of the features."""
    found, target = _sequences(region, node.inputs[0]), constant(node.inputs[1])
    if found is None or target is None or found[1] not in ("tndf", "ntdf") or target.shape != (3,):
        return None
    of, axes = found
    steps, width = of[0].shape[0], sum(stage.shape[-1] for stage in of)
    at = axes.index("t")
    keeps = int(target[at]) in (steps, -1) or (int(target[at]) == 0 and not attribute(node, "allowzero", 0))
    if (
        not keeps
        or int(target[2]) not in (width, -1)
        or list(target).count(-1) > 1
        or int(target[1 - at]) not in (0, -1)
    ):
        return None
    return turned((_side_by_side(region, node, of),), axes.replace("d", ""))


def flatten(region: Region, node: ir.Node) -> Made:
    """Puts the last states of the directions side by side."""
    found = _sequences(region, node.inputs[0])
    if found is None or found[1] != "ndf" or attribute(node, "axis", 1) not in (1, -2):
        return None
    return _side_by_side(region, node, found[0])


def _side_by_side(region: Region, node: ir.Node, of: tuple[Stage, ...]) -> Stage:
    whole = of[0]
    for stage in of[1:]:
        shape = (*whole.shape[:-1], whole.shape[-1] + stage.shape[-1])
        whole = region.add(node, "concat", [whole, stage], shape)
    return whole


def _gather(region: Region, node: ir.Node) -> Made:
    """One direction's state, or the last step of a layer that runs ahead."""
    found, index = _sequences(region, node.inputs[0]), constant(node.inputs[1])
    if found is None or index is None or index.shape != ():
        return None
    of, axes = found
    axis = attribute(node, "axis", 0) % len(axes)
    if axes[axis] == "d" and -len(of) <= index < len(of):
        return turned((of[int(index)],), axes.replace("d", ""))
    if axes[axis] == "t" and len(of) == 1 and int(index) in (-1, of[0].shape[0] - 1):
        last = region.last_of(node, of[0])
        return None if last is None else turned((last,), axes.replace("t", ""))
    return None


def _recurrent(region: Region, node: ir.Node) -> Made:
    found = _sequences(region, node.inputs[0])
    arrays = _arrays(node)
    if found is None or arrays is None or len(found[0]) != 1 or not _plain(node):
        return None
    batch_first = bool(attribute(node, "layout", 0))
    if found[1] != ("ntf" if batch_first else "tnf"):
        return None
    x = found[0][0]
    cell = node.op_type.lower()
    if node.op_type == "RNN":
        cell = attribute(node, "activations", ["Tanh"])[0].lower()
    kinds = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    ways = kinds.get(attribute(node, "direction", "forward"), [])
    if len(arrays) != len(ways) or arrays[0][0].shape[1] != x.shape[1]:
        return None
    used = [bool(output.uses()) or output.is_graph_output() for output in node.outputs]
    if any(used[2:]):
        return None  # the memory of an LSTM
    layers = [_layer(region, node, x, cell, own, reverse) for own, reverse in zip(arrays, ways, strict=True)]
    made: list[Any] = [None] * len(node.outputs)
    if used[0]:
        axes = "ntdf" if batch_first else "tdnf"
        made[0] = turned(tuple(layer(node, True) for layer in layers), axes)
    if len(used) > 1 and used[1]:
        made[1] = turned(tuple(layer(node, False) for layer in layers), "ndf" if batch_first else "dnf")
    return made


def _layer(region: Region, node: ir.Node, x: Stage, cell: str, arrays: Any, reverse: bool) -> Any:
    """One direction of a layer: a function that makes all its states, or the last one."""
    weight, state, bias, state_bias = arrays
    products = region.add(
        node, "conv2d", [x], (x.shape[0], len(weight)), activation=None,
        weight=weight[:, :, None, None], bias=bias, **ONE_PIXEL,
    )  # fmt: skip

    def make(node: ir.Node, sequences: bool) -> Stage:
        units = state.shape[1]
        shape = (x.shape[0], units) if sequences else (units,)
        made = region.add(
            node, "recurrent", [products], shape, cell=cell, sequences=sequences, reverse=reverse,
            weight=state, bias=state_bias,
        )  # fmt: skip
        if sequences and not reverse:
            region.lasts[made] = make
        return made

    return make


def _arrays(node: ir.Node) -> list[tuple[NDArray[np.float32], ...]] | None:
    """W, R and both biases of each direction, with our order of gates; None if they are no constants."""
    weight, state = constant(node.inputs[1]), constant(node.inputs[2])
    given = node.inputs[3] if len(node.inputs) > 3 else None
    bias = constant(given)
    if weight is None or state is None or (given is not None and bias is None):
        return None
    if weight.ndim != 3 or state.ndim != 3 or not weight.size or not state.size:
        return None
    gates = np.argsort(RECURRENT[node.op_type])
    units = state.shape[2]
    if bias is None:
        bias = np.zeros((len(weight), 2 * len(gates) * units), np.float32)

    def ordered(rows: NDArray[Any]) -> NDArray[np.float32]:
        return floats(rows.reshape(len(gates), units, -1)[gates].reshape(rows.shape))

    return [
        (ordered(weight[i]), ordered(state[i]), *(ordered(half) for half in np.split(bias[i], 2)))
        for i in range(len(weight))
    ]


def _plain(node: ir.Node) -> bool:
    """Whether a layer is what its name says, without first states, lengths, peepholes or clipping."""
    if any(value is not None for value in node.inputs[4:]):
        return False
    others = ("clip", "input_forget", "activation_alpha", "activation_beta")
    if any(attribute(node, key, None) for key in others):
        return False
    if node.op_type == "GRU" and not attribute(node, "linear_before_reset", 0):
        return False
    named = [name.lower() for name in attribute(node, "activations", None) or []]
    if node.op_type == "RNN":
        return len(set(named)) <= 1 and set(named) <= {"tanh", "relu"}
    wanted = ACTIVATIONS[node.op_type]
    return not named or named == wanted * (len(named) // len(wanted))


RULES = {"GRU": _recurrent, "Gather": _gather, "LSTM": _recurrent, "RNN": _recurrent, "Transpose": _transpose}
