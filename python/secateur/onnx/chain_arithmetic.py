"""ONNX operators that work element by element as nodes of a plan, and what they spell out together."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from .formulas import CLIP6, Formula, combined
from .regions import Made, Region, constant, per_channel
from .stages import Stage
from .weights import attribute, opset_of

LOWEST = float(np.finfo(np.float32).min)


def _add(region: Region, node: ir.Node) -> Made:
    return _arithmetic(region, node, lambda x, c: (1.0, c), lambda c, x: (1.0, c)) or _sum(region, node)


def _sub(region: Region, node: ir.Node) -> Made:
    return _arithmetic(region, node, lambda x, c: (1.0, -c), lambda c, x: (-1.0, c))


def _mul(region: Region, node: ir.Node) -> Made:
    made = _arithmetic(region, node, lambda x, c: (c, 0.0), lambda c, x: (c, 0.0))
    return made or region.made(node, None, _combined(region, node, "times"))


def _div(region: Region, node: ir.Node) -> Made:
    return _arithmetic(region, node, lambda x, c: (1.0 / c, 0.0), None)


def _pow(region: Region, node: ir.Node) -> Made:
    power, formulas = constant(node.inputs[1]), region.formulas(node.inputs[0])
    if power is None or power.size != 1 or power.ndim > _rank(node.inputs[0]) or power.item() not in (2, 3):
        return None
    powers = formulas
    for _ in range(int(power.item()) - 1):
        powers = combined(powers, formulas, "times")
    return region.made(node, None, powers)


Line: TypeAlias = "Callable[[Any, Any], tuple[Any, Any]]"


def _arithmetic(region: Region, node: ir.Node, after: Line, before: Line | None) -> Made:
    """A value and a constant on either side, by which it becomes factor · x + summand."""
    arrays = [constant(value) for value in node.inputs[:2]]
    at = 0 if arrays[0] is None else 1
    value, array, line = node.inputs[at], arrays[1 - at], before if at else after
    if arrays[at] is not None or value is None or array is None or line is None:
        return None
    array = array.astype(np.float64)
    with np.errstate(divide="ignore"):
        factor, summand = line(array, None) if at else line(None, array)
    formulas: list[Formula | None] = []
    if array.size == 1 and array.ndim <= _rank(value):
        number = float(np.squeeze(factor)), float(np.squeeze(summand))
        formulas = [formula.line(*number) for formula in region.formulas(value)]
    return region.made(node, _scaled(region, node, region.stage(value), factor, summand), formulas)


def _scaled(region: Region, node: ir.Node, x: Stage | None, factor: Any, summand: Any) -> Stage | None:
    """A stage times a factor plus a summand a channel."""
    if x is None:
        return None
    zeros = np.zeros(np.broadcast_shapes(np.shape(factor), np.shape(summand)))
    scale, shift = (per_channel(part + zeros, x) for part in (factor, summand))
    if scale is None or shift is None or not np.isfinite([scale, shift]).all():
        return None
    return region.add(node, "scale", [x], x.shape, scale=scale, shift=shift)


def _sum(region: Region, node: ir.Node) -> Made:
    one, other = (region.stage(value) for value in node.inputs)
    both = None
    if one and other and one != other and one[1:] == other[1:]:
        both = region.add(node, "add", [one, other], one.shape)
    return region.made(node, both, _combined(region, node, "plus"))


def _combined(region: Region, node: ir.Node, how: str) -> list[Formula]:
    one, other = (region.formulas(value) for value in node.inputs)
    return combined(one, other, how)


def _rank(value: ir.Value | None) -> int:
    return -1 if value is None or value.shape is None else len(value.shape)


def _activation(kind: Callable[[ir.Node], Any], plain: bool = True) -> Callable[[Region, ir.Node], Made]:
    """A function of each element; one that is not plain is only part of others."""

    def rule(region: Region, node: ir.Node) -> Made:
        found, x = kind(node), region.stage(node.inputs[0])
        if found is None:
            return None
        stage = region.add(node, "activation", [x], x.shape, kind=found) if x is not None and plain else None
        return region.made(
            node, stage, [_under(formula, found) for formula in region.formulas(node.inputs[0])]
        )

    return rule


def _under(formula: Formula, kind: Any) -> Formula | None:
    """A formula of which an activation is taken."""
    if isinstance(kind, str):
        return formula.under(kind)
    if "hard_sigmoid" in kind:  # is a sixth of a number that is clipped to 6
        factor, summand = kind["hard_sigmoid"]
        line = formula.line(6 * factor, 6 * summand)
        sixth = None if line is None else line.under(CLIP6)
        return None if sixth is None else sixth.line(1 / 6, 0.0)
    return formula.under(json.dumps(kind))


def _clip(node: ir.Node) -> Any:
    bounds = []
    for i, (key, default) in enumerate((("min", LOWEST), ("max", -LOWEST)), 1):
        value = node.inputs[i] if len(node.inputs) > i else None
        array = constant(value)
        if value is not None and (array is None or array.size != 1):
            return None
        bounds.append(float(attribute(node, key, default) if array is None else array.reshape(())))
    return {"clip": [min(max(bound, LOWEST), -LOWEST) for bound in bounds]}


def _hard_sigmoid(node: ir.Node) -> Any:
    return {"hard_sigmoid": [float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))]}


def _softmax(region: Region, node: ir.Node) -> Made:
    x = region.stage(node.inputs[0])
    # It was over all axes from the one named on.
    old = node.graph is not None and opset_of(node.graph) < 13
    axis = attribute(node, "axis", 1 if old else -1)
    if x is None or len(x.shape) == 3 or not x.is_axis(axis) or (old and x.axis != 1):
        return None
    return region.add(node, "softmax", [x], x.shape)


def _same(region: Region, node: ir.Node) -> Made:
    return region.known.get(node.inputs[0]) if node.inputs[0] is not None else None


RULES = {
    "Add": _add,
    "Clip": _activation(_clip),
    "Div": _div,
    "Dropout": _same,
    "Erf": _activation(lambda node: "erf", plain=False),
    "Gelu": _activation(
        lambda node: "gelu_tanh" if attribute(node, "approximate", "none") == "tanh" else "gelu"
    ),
    "HardSigmoid": _activation(_hard_sigmoid),
    "HardSwish": _activation(lambda node: "hard_swish"),
    "Identity": _same,
    "LeakyRelu": _activation(lambda node: {"leaky_relu": float(attribute(node, "alpha", 0.01))}),
    "Mul": _mul,
    "Pow": _pow,
    "Relu": _activation(lambda node: "relu"),
    "Sigmoid": _activation(lambda node: "sigmoid"),
    "Softmax": _softmax,
    "Sub": _sub,
    "Tanh": _activation(lambda node: "tanh"),
}
