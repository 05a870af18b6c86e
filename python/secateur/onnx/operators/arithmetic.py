"""Arithmetic, comparisons and logic, element by element."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .call import Array, Call, Operator, number
from .erf import erf


def _elementwise(function: Callable[..., Any]) -> Operator:
    """A function of arrays as an operator without attributes."""

    def operator(call: Call, *inputs: Array) -> Array:
        if call.attributes:
            raise call.unsupported(f"with the attribute {min(call.attributes)!r}")
        result: Array = function(*inputs)
        return result

    return operator


def _variadic(function: Callable[..., Any]) -> Operator:
    return _elementwise(lambda *inputs: functools.reduce(function, inputs))


def _check_divisor(b: Array) -> None:
    if b.dtype.kind in "iu" and not b.all():
        raise ValueError("divides integers by zero")


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    _check_divisor(b)
    quotient: Array = (a - np.fmod(a, b)) // b  # towards zero
    return quotient


def _mod(call: Call, a: Array, b: Array) -> Array:
    _check_divisor(b)
    if call.get("fmod", 0):
        return np.fmod(a, b)
    if a.dtype.kind == "f" and call.version < 28:
        raise ValueError("takes floats only with fmod=1")
    return np.mod(a, b)


def _pow(x: Array, y: Array) -> Array:
    if x.dtype.kind == "f":
        y = y.astype(x.dtype, copy=False)
    elif y.dtype.kind == "f" or (y < 0).any():
        return np.power(x.astype(np.float64), y).astype(x.dtype)
    z: Array = np.power(x, y)
    return z.astype(x.dtype, copy=False)


def _mean(*inputs: Array) -> Array:
    total: Array = functools.reduce(np.add, inputs)
    return total / number(total, len(inputs))


def _is_inf(call: Call, x: Array) -> Array:
    found = np.isinf(x)
    if not call.get("detect_negative", 1):
        found = found & (x > 0)
    if not call.get("detect_positive", 1):
        found = found & (x < 0)
    return found


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Acos": np.arccos,
    "Acosh": np.arccosh,
    "Add": np.add,
    "And": np.logical_and,
    "Asin": np.arcsin,
    "Asinh": np.arcsinh,
    "Atan": np.arctan,
    "Atanh": np.arctanh,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseNot": np.bitwise_not,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
    "Ceil": np.ceil,
    "Cos": np.cos,
    "Cosh": np.cosh,
    "Div": _divide,
    "Equal": np.equal,
    "Erf": erf,
    "Exp": np.exp,
    "Floor": np.floor,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "IsNaN": np.isnan,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Log": np.log,
    "Mean": _mean,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "Pow": _pow,
    "Reciprocal": np.reciprocal,
    "Round": np.rint,
    "Sign": np.sign,
    "Sin": np.sin,
    "Sinh": np.sinh,
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Tan": np.tan,
    "Xor": np.logical_xor,
}

OPERATORS: dict[str, Operator] = {
    **{name: _elementwise(function) for name, function in FUNCTIONS.items()},
    "IsInf": _is_inf,
    "Max": _variadic(np.maximum),
    "Min": _variadic(np.minimum),
    "Mod": _mod,
    "Sum": _variadic(np.add),
}
