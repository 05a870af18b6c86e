"""ONNX operators as the nodes of a plan, one rule each.

A rule gets a region and a node whose inputs this knows, and says what the node makes: a `Stage` that a node
of the plan holds, a `Spelled` that is part of a known formula, a list of them for several outputs, or None
where plans cannot do it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..description import ONE_PIXEL
from ..errors import UnsupportedOpError
from . import chain_arithmetic, chain_sequences
from .operators.windows import windows_of_node
from .regions import Made, Region, constant, floats, per_channel
from .stages import Stage
from .weights import attribute

# Weights


def _conv(region: Region, node: ir.Node) -> Made:
    x, weight = region.stage(node.inputs[0]), constant(node.inputs[1])
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    missing = len(node.inputs) > 2 and node.inputs[2] is not None and bias is None
    if x is None or len(x.shape) != 3 or weight is None or weight.ndim != x.rank or missing:
        return None
    windows = _windows(node, x, weight.shape[2:])
    groups = attribute(node, "group", 1)
    if windows is None or weight.shape[1] * groups != x.shape[0]:
        return None
    window, sides = windows
    weight = floats(weight).reshape(*weight.shape[:2], *window["size"])
    return region.add(
        node, "conv2d", [x], (len(weight), *sides), activation=None, groups=groups, weight=weight,
        bias=None if bias is None else floats(bias), **window,
    )  # fmt: skip


def _windows(node: ir.Node, x: Stage, size: Sequence[int]) -> tuple[dict[str, Any], list[int]] | None:
    """The attributes of windows, as plans have them, and how many there are along either side.

    None where there are none, or not such ones: the operator says why when it runs.
    """
    if x.hidden not in ((), (1,)) or len(size) != 2 - len(x.hidden):
        return None
    try:
        found = windows_of_node(node, x.shown[1:], tuple(size))
    except (UnsupportedOpError, ValueError):
        return None

    def sides(along: Sequence[int], row: int) -> list[int]:
        """Rows and columns; a line is one row."""
        return [*[row] * len(x.hidden), *along]

    window = {
        "size": sides(found.size, 1),
        "strides": sides(found.strides, 1),
        "dilation": sides(found.dilations, 1),
        "pads": [*sides(found.before, 0), *sides(found.after, 0)],
    }
    return window, sides(found.outputs, 1)


def _gemm(region: Region, node: ir.Node) -> Made:
    x, weight = region.stage(node.inputs[0]), constant(node.inputs[1])
    if x is None or len(x.shape) != 1 or x.lead != 1 or weight is None or attribute(node, "transA", 0):
        return None
    weight = weight if attribute(node, "transB", 0) else weight.T
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        added = constant(node.inputs[2])
        bias = None if added is None else per_channel(added, Stage("", (len(weight),), 1))
        if bias is None:
            return None
        bias = bias * np.float32(attribute(node, "beta", 1.0))
    return _dense(region, node, x, weight * np.float32(attribute(node, "alpha", 1.0)), bias)


def _matmul(region: Region, node: ir.Node) -> Made:
    x, weight = region.stage(node.inputs[0]), constant(node.inputs[1])
    if x is None or len(x.shape) == 3 or weight is None or weight.ndim != 2:
        return None
    return _dense(region, node, x, weight.T, None)


def _dense(region: Region, node: ir.Node, x: Stage, weight: NDArray[Any], bias: Any) -> Made:
    if weight.ndim != 2 or weight.shape[1] != x.channels or not weight.size:
        return None
    shape = x.wide(len(weight))
    if len(x.shape) == 2:  # for every step by itself
        pixel = floats(weight)[:, :, None, None]
        return region.add(node, "conv2d", [x], shape, activation=None, weight=pixel, bias=bias, **ONE_PIXEL)
    return region.add(node, "dense", [x], weight.shape[:1], activation=None, weight=floats(weight), bias=bias)


def _batch_norm(region: Region, node: ir.Node) -> Made:
    x = region.stage(node.inputs[0])
    found = [constant(value) for value in node.inputs[1:5]]
    if x is None or x.lead != 1 or x.axis != 1 or attribute(node, "training_mode", 0):
        return None
    arrays = [np.asarray(array, np.float64) for array in found if array is not None]
    if len(arrays) != 4 or any(array.shape != (x.channels,) for array in arrays):
        return None
    gamma, beta, mean, var = arrays
    scale = gamma / np.sqrt(var + attribute(node, "epsilon", 1e-5))
    return region.add(node, "scale", [x], x.shape, scale=floats(scale), shift=floats(beta - mean * scale))


def _layer_norm(region: Region, node: ir.Node) -> Made:
    x, scale = region.stage(node.inputs[0]), constant(node.inputs[1])
    if x is None or len(x.shape) == 3 or scale is None or any(extra.uses() for extra in node.outputs[1:]):
        return None
    given = len(node.inputs) > 2 and node.inputs[2] is not None
    shift = constant(node.inputs[2]) if given else np.zeros_like(scale)
    if shift is None or not x.is_axis(attribute(node, "axis", -1)):
        return None
    if {scale.shape, shift.shape} != {(x.channels,)}:
        return None
    epsilon = attribute(node, "epsilon", 1e-5)
    return region.add(
        node, "layer_norm", [x], x.shape, scale=floats(scale), shift=floats(shift), epsilon=epsilon
    )


# Pixels and channels


def _pool(kind: str) -> Callable[[Region, ir.Node], Made]:
    def rule(region: Region, node: ir.Node) -> Made:
        x = region.stage(node.inputs[0])
        size = attribute(node, "kernel_shape", [])
        if x is None or len(x.shape) != 3 or any(extra.uses() for extra in node.outputs[1:]):
            return None
        windows = _windows(node, x, size)
        if windows is None or attribute(node, "ceil_mode", 0):
            return None
        window, sides = windows
        if window.pop("dilation") != [1, 1]:
            return None
        # What SAME is then, ONNX and its runtimes do not agree on.
        same = attribute(node, "auto_pad", "NOTSET").startswith("SAME")
        if same and any(k < step for k, step in zip(window["size"], window["strides"], strict=True)):
            return None
        pads = window["pads"]
        if any(pad >= side for pad, side in zip(pads, window["size"] * 2, strict=True)):
            return None
        if kind == "average" and any(pads) and attribute(node, "count_include_pad", 0):
            return None
        return region.add(node, "pool", [x], (x.shape[0], *sides), kind=kind, **window)

    return rule


def _global_pool(kind: str) -> Callable[[Region, ir.Node], Made]:
    def rule(region: Region, node: ir.Node) -> Made:
        x = region.stage(node.inputs[0])
        return None if x is None or len(x.shape) != 3 else _over_pixels(region, node, x, kind)

    return rule


def _over_pixels(region: Region, node: ir.Node, x: Stage, kind: str) -> Stage:
    size = list(x.shape[1:])
    return region.add(node, "pool", [x], (x.shape[0], 1, 1), kind=kind, size=size, strides=size, pads=[0] * 4)


def _reduce_mean(region: Region, node: ir.Node) -> Made:
    x = region.stage(node.inputs[0])
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes", None)
    if x is None or len(x.shape) != 3 or axes is None:
        return None
    if {int(axis) % x.rank for axis in axes} != set(range(2, x.rank)):
        return None
    pooled = _over_pixels(region, node, x, "average")
    return pooled if attribute(node, "keepdims", 1) else region.add(node, "flatten", [pooled], x.shape[:1])


def _flatten(region: Region, node: ir.Node) -> Made:
    x = region.stage(node.inputs[0])
    if x is None or x.lead != 1 or attribute(node, "axis", 1) not in (1, 1 - x.rank):
        return chain_sequences.flatten(region, node)
    return x if len(x.shape) == 1 else region.add(node, "flatten", [x], (math.prod(x.shape),))


def _reshape(region: Region, node: ir.Node) -> Made:
    """Only where it keeps the samples apart and makes a vector of each."""
    x, target = region.stage(node.inputs[0]), constant(node.inputs[1])
    if x is None or len(x.shape) == 1 or target is None or target.shape != (2,):
        return chain_sequences.reshape(region, node)
    features = math.prod(x.shape)
    first = (
        node.inputs[0].shape[0] if node.inputs[0] is not None and node.inputs[0].shape is not None else None
    )
    samples = 0 if not attribute(node, "allowzero", 0) else None
    keeps = target[0] in (samples, first) and target[1] in (features, -1)
    if not keeps and (target[0], target[1]) != (-1, features):
        return None
    return region.add(node, "flatten", [x], (features,))


def _squeeze(region: Region, node: ir.Node) -> Made:
    """Hides rows or columns of which there is one; without both, a vector is left."""
    x = region.stage(node.inputs[0])
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes", None)
    if x is None or len(x.shape) != 3 or axes is None:
        return chain_sequences.squeeze(region, node)
    seen = [axis for axis in range(3) if axis not in x.hidden]
    places = {int(axis) % x.rank - x.lead for axis in axes}
    if min(places) < 1 or any(x.shape[seen[place]] != 1 for place in places):
        return None
    hidden = tuple(sorted({*x.hidden, *(seen[place] for place in places)}))
    return region.add(node, "flatten", [x], x.shape[:1]) if len(hidden) == 2 else x._replace(hidden=hidden)


def _unsqueeze(region: Region, node: ir.Node) -> Made:
    """Shows what was hidden."""
    x = region.stage(node.inputs[0])
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes", None)
    if x is None or not x.hidden or axes is None or len(axes) != 1:
        return None
    return x._replace(hidden=()) if int(axes[0]) % (x.rank + 1) - x.lead == x.hidden[0] else None


def _concat(region: Region, node: ir.Node) -> Made:
    sides = [region.stage(value) for value in node.inputs]
    last = sides[0]
    if last is None or len(sides) < 2 or not last.is_axis(attribute(node, "axis", 1)):
        return None
    for side in sides[1:]:
        if side is None or (side.lead, side.hidden, side.wide(0)) != (last.lead, last.hidden, last.wide(0)):
            return None
        last = region.add(node, "concat", [last, side], last.wide(last.channels + side.channels))
    return last


def _split(region: Region, node: ir.Node) -> Made:
    x = region.stage(node.inputs[0])
    if x is None or not x.is_axis(attribute(node, "axis", 0)):
        return None
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "split", None)
    if given is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        return None
    parts, channels = len(node.outputs), x.channels
    each = -(-channels // parts)
    counts = (
        [min(each, channels - i * each) for i in range(parts)] if given is None else [int(n) for n in given]
    )
    if min(counts) <= 0 or sum(counts) != channels:
        return None
    starts = np.cumsum([0, *counts]).tolist()
    return [_channels(region, node, x, start, count) for start, count in zip(starts, counts, strict=False)]


def _slice(region: Region, node: ir.Node) -> Made:
    x = region.stage(node.inputs[0])
    given = [constant(value) for value in node.inputs[1:]]
    if x is None or len(given) < 3 or any(array is None or array.size != 1 for array in given):
        return None
    start, stop, axis, *step = (int(array.reshape(())) for array in given if array is not None)
    if not x.is_axis(axis) or step not in ([], [1]):
        return None
    first, end, _ = slice(start, stop).indices(x.channels)
    return _channels(region, node, x, first, end - first) if end > first else None


def _channels(region: Region, node: ir.Node, x: Stage, first: int, count: int) -> Stage:
    return region.add(node, "slice", [x], x.wide(count), first=first, count=count)


Rule: TypeAlias = "Callable[[Region, ir.Node], Made]"

RULES: dict[str, Rule] = {
    **chain_arithmetic.RULES,
    **chain_sequences.RULES,
    "AveragePool": _pool("average"),
    "BatchNormalization": _batch_norm,
    "Concat": _concat,
    "Conv": _conv,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool("average"),
    "GlobalMaxPool": _global_pool("max"),
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _pool("max"),
    "ReduceMean": _reduce_mean,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
"""By operator, of the default domain."""
