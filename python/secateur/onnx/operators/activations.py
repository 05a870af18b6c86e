"""Activations, and dropout of nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .call import Array, Call, Operator, number
from .erf import erf

Function = Callable[..., Array]
"""Of an array and its parameters."""


def sigmoid(x: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-x))
    return result


def relu(x: Array) -> Array:
    return np.maximum(x, number(x, 0))


def affine(x: Array, alpha: float, beta: float) -> Array:
    return x * number(x, alpha) + number(x, beta)


def scaled_tanh(x: Array, alpha: float, beta: float) -> Array:
    y: Array = number(x, alpha) * np.tanh(x * number(x, beta))
    return y


def leaky_relu(x: Array, alpha: float) -> Array:
    return np.where(x < 0, x * number(x, alpha), x)


def thresholded_relu(x: Array, alpha: float) -> Array:
    return np.where(x > alpha, x, number(x, 0))


def elu(x: Array, alpha: float) -> Array:
    return np.where(x < 0, number(x, alpha) * np.expm1(x), x)


def celu(x: Array, alpha: float) -> Array:
    return np.where(x < 0, number(x, alpha) * np.expm1(x / number(x, alpha)), x)


def selu(x: Array, alpha: float, gamma: float) -> Array:
    return number(x, gamma) * elu(x, alpha)


def hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    return np.clip(affine(x, alpha, beta), number(x, 0), number(x, 1))


def hard_swish(x: Array) -> Array:
    return x * hard_sigmoid(x, 1 / 6, 0.5)


def softsign(x: Array) -> Array:
    result: Array = x / (1 + np.abs(x))
    return result


def softplus(x: Array) -> Array:
    return np.logaddexp(x, number(x, 0))


def mish(x: Array) -> Array:
    return x * np.tanh(softplus(x))


def swish(x: Array, alpha: float) -> Array:
    return x * sigmoid(x * number(x, alpha))


def shrink(x: Array, bias: float, lambd: float) -> Array:
    return np.where(x < -lambd, x + number(x, bias), np.where(x > lambd, x - number(x, bias), number(x, 0)))


def _gelu(call: Call, x: Array) -> Array:
    kind = call.get("approximate", "none")
    if kind == "none":
        y = 1 + erf(x * number(x, np.sqrt(0.5)))
    elif kind == "tanh":
        y = 1 + np.tanh(number(x, np.sqrt(2 / np.pi)) * (x + number(x, 0.044715) * x * x * x))
    else:
        raise call.unsupported(f"with approximate={kind!r}")
    y *= x
    y *= number(x, 0.5)
    return y


def _prelu(call: Call, x: Array, slope: Array) -> Array:
    result = np.where(x < 0, x * slope, x)
    if result.shape != x.shape:
        raise ValueError(f"has a slope of shape {slope.shape} for inputs of shape {x.shape}")
    return result


def _clip(call: Call, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    for bound, limit, given in (("min", np.maximum, low), ("max", np.minimum, high)):
        value = call.get(bound) if given is None else given.reshape(())
        if value is not None:
            x = limit(x, np.asarray(value, x.dtype))
    return x


def _dropout(
    call: Call, x: Array, ratio: Array | None = None, training: Array | None = None
) -> tuple[Array, ...]:
    if training is not None and training.any():
        raise call.unsupported("in training mode")
    if call.outputs < 2:
        return (x,)
    return x, np.ones(x.shape, np.bool_ if call.version >= 10 else x.dtype)


def _with(function: Function, **defaults: Any) -> Operator:
    """A function of an array as an operator whose attributes are its parameters."""

    def operator(call: Call, x: Array) -> Array:
        return function(x, **{name: call.get(name, default) for name, default in defaults.items()})

    return operator


OPERATORS: dict[str, Operator] = {
    "Celu": _with(celu, alpha=1.0),
    "Clip": _clip,
    "Dropout": _dropout,
    "Elu": _with(elu, alpha=1.0),
    "Gelu": _gelu,
    "HardSigmoid": _with(hard_sigmoid, alpha=0.2, beta=0.5),
    "HardSwish": _with(hard_swish),
    "LeakyRelu": _with(leaky_relu, alpha=0.01),
    "Mish": _with(mish),
    "PRelu": _prelu,
    "Relu": _with(relu),
    "Selu": _with(selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Shrink": _with(shrink, bias=0.0, lambd=0.5),
    "Sigmoid": _with(sigmoid),
    "Softplus": _with(softplus),
    "Softsign": _with(softsign),
    "Swish": _with(swish, alpha=1.0),
    "Tanh": _with(np.tanh),
    "ThresholdedRelu": _with(thresholded_relu, alpha=1.0),
}
