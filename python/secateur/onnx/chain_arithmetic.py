"""ONNX operators that work element by element as nodes of a plan, and what they spell out together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from .regions import Form, Made, Region, Stage, constant, per_channel
from .weights import attribute

LOWEST = float(np.finfo(np.float32).min)


def _add(region: Region, node: ir.Node) -> Made:
    return _arithmetic(region, node, lambda x, c: (1.0, c), lambda c, x: (1.0, c))


def _sub(region: Region, node: ir.Node) -> Made:
    return _arithmetic(region, node, lambda x, c: (1.0, -c), lambda c, x: (-1.0, c))


def _mul(region: Region, node: ir.Node) -> Made:
    return _arithmetic(region, node, lambda x, c: (c, 0.0), lambda c, x: (c, 0.0))


def _div(region: Region, node: ir.Node) -> Made:
    return _arithmetic(region, node, lambda x, c: (1.0 / c, 0.0), None)


Line: TypeAlias = "Callable[[Any, Any], tuple[Any, Any]]"


def _arithmetic(region: Region, node: ir.Node, after: Line, before: Line | None) -> Made:
    """Two stages, or one and a constant on either side, by which it becomes factor · x + summand."""
    values = [value for value in node.inputs if value is not None]
    arrays = [constant(value) for value in values]
    found = [region.known.get(value) for value, array in zip(values, arrays, strict=True) if array is None]
    sides = [side for side in found if isinstance(side, (Stage, Form))]
    if len(sides) < len(found):
        return None
    if len(sides) == 2:
        return _two(region, node, *sides)
    at = 0 if arrays[1] is not None else 1
    array, line = arrays[1 - at], after if at == 0 else before
    if array is None or line is None:
        return None
    (x,) = sides
    with np.errstate(divide="ignore"):
        factor, summand = (
            line(None, array.astype(np.float64)) if at == 0 else line(array.astype(np.float64), None)
        )
    if array.size == 1 and array.ndim <= len(values[at].shape or ()):
        made = _formula(region, node, x, float(np.squeeze(factor)), float(np.squeeze(summand)))
        if made is not None:
            return made
    if not isinstance(x, Stage):
        return None
    scale, shift = (per_channel(np.float64(part) + np.zeros(array.shape), x) for part in (factor, summand))
    if scale is None or shift is None or not np.isfinite([scale, shift]).all():
        return None
    return region.add(node, "scale", [x], x.shape, scale=scale, shift=shift)


def _formula(region: Region, node: ir.Node, x: Stage | Form, factor: float, summand: float) -> Made:
    """A number times or plus what may become GELU; None if it cannot."""
    if isinstance(x, Form) and x.kind == "erf(x)" and factor * x.factor == 1.0 and summand == 1.0:
        return Form(1.0, "1 + erf(x)", x.of)
    if summand != 0.0:
        return None
    if isinstance(x, Form):
        return _gelu_of(region, node, Form(x.factor * factor, x.kind, x.of))
    # Only what leads to an error function, or is multiplied with it, is kept for later.
    later = {use.node.op_type for use in node.outputs[0].uses()}
    if later == {"Erf"} or (later == {"Mul"} and math.isclose(factor, 0.5) and _has_erf(region, node)):
        return Form(factor, "x", x)
    return None


def _has_erf(region: Region, node: ir.Node) -> bool:
    """Whether what is multiplied with a node's output is 1 + erf, of whatever."""
    for use in node.outputs[0].uses():
        for value in use.node.inputs:
            maker = None if value is None else value.producer()
            if maker is not None and maker.op_type == "Add":
                makers = [other.producer() for other in maker.inputs if other is not None]
                if any(other is not None and other.op_type == "Erf" for other in makers):
                    return True
    return False


def _gelu_of(region: Region, node: ir.Node, form: Form) -> Made:
    if form.kind == "x * (1 + erf(x))" and math.isclose(form.factor, 0.5, rel_tol=1e-6):
        return region.activation(node, form.of, "gelu")
    return form


def _two(region: Region, node: ir.Node, *sides: Stage | Form) -> Made:
    """The sum of two stages, or a product that is an activation."""
    if len(sides) != 2:
        return None
    if node.op_type == "Mul":
        return _product(region, node, *sides) or _product(region, node, *sides[::-1])
    one, other = sides
    if node.op_type != "Add" or not isinstance(one, Stage) or not isinstance(other, Stage):
        return None
    if one.shape != other.shape or one.lead != other.lead or one == other:
        return None
    return region.add(node, "add", [one, other], one.shape)


def _product(region: Region, node: ir.Node, one: Stage | Form, other: Stage | Form) -> Made:
    factor, of = (1.0, one) if isinstance(one, Stage) else (one.factor, one.of)
    if isinstance(one, Form) and one.kind != "x":
        return None
    if isinstance(other, Form):
        if other.kind != "1 + erf(x)" or other.of != of:
            return None
        return _gelu_of(region, node, Form(factor * other.factor, "x * (1 + erf(x))", of))
    if isinstance(one, Form):
        return None
    kind, source = region.activated(other) or (None, None)
    if source != one:
        return None
    if kind == "sigmoid":
        return region.activation(node, one, "silu")
    if isinstance(kind, dict) and np.allclose(kind.get("hard_sigmoid", (0, 0)), (1 / 6, 0.5), rtol=1e-5):
        return region.activation(node, one, "hard_swish")
    return None


def _erf(region: Region, node: ir.Node) -> Made:
    x = region.known.get(node.inputs[0]) if node.inputs[0] is not None else None
    if isinstance(x, Form) and x.kind == "x" and math.isclose(x.factor, math.sqrt(0.5), rel_tol=1e-5):
        return Form(1.0, "erf(x)", x.of)
    return None


def _activation(kind: Callable[[ir.Node], Any]) -> Callable[[Region, ir.Node], Made]:
    def rule(region: Region, node: ir.Node) -> Made:
        x = region.stage(node.inputs[0])
        found = None if x is None else kind(node)
        return None if x is None or found is None else region.activation(node, x, found)

    return rule


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
    old = (node.version or 13) < 13
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
    "Erf": _erf,
    "Gelu": _activation(
        lambda node: "gelu_tanh" if attribute(node, "approximate", "none") == "tanh" else "gelu"
    ),
    "HardSigmoid": _activation(_hard_sigmoid),
    "HardSwish": _activation(lambda node: "hard_swish"),
    "Identity": _same,
    "LeakyRelu": _activation(lambda node: {"leaky_relu": float(attribute(node, "alpha", 0.01))}),
    "Mul": _mul,
    "Relu": _activation(lambda node: "relu"),
    "Sigmoid": _activation(lambda node: "sigmoid"),
    "Softmax": _softmax,
    "Sub": _sub,
    "Tanh": _activation(lambda node: "tanh"),
}
