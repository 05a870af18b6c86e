"""Normalizations and softmax."""

from __future__ import annotations

import math

import numpy as np

from ... import _core
from .call import Array, Call, Operator, axes_of, axis_of, number


def _softmax(call: Call, x: Array) -> Array:
    rows, axis = _rows(call, x)
    largest = _largest(rows, axis)
    # A row that is masked as a whole becomes NaN, which graphs look for; the core would not say so.
    if rows.dtype == np.float32 and axis == rows.ndim - 1 and np.isfinite(largest).all():
        return _core.softmax(rows, call.threads).reshape(x.shape)
    y: Array = np.exp(rows - largest)
    y /= y.sum(axis, keepdims=True)
    return y.reshape(x.shape)


def _log_softmax(call: Call, x: Array) -> Array:
    rows, axis = _rows(call, x)
    y = rows - _largest(rows, axis)
    y -= np.log(np.exp(y).sum(axis, keepdims=True))
    return y.reshape(x.shape)


def _hardmax(call: Call, x: Array) -> Array:
    rows, axis = _rows(call, x)
    y = np.zeros_like(rows)
    if rows.size:
        np.put_along_axis(y, rows.argmax(axis, keepdims=True), 1, axis)
    return y.reshape(x.shape)


def _rows(call: Call, x: Array) -> tuple[Array, int]:
    """What is normalized, and along which axis: before opset 13, all that is behind an axis is one."""
    if call.version >= 13:
        return x, axis_of(call.get("axis", -1), x.ndim)
    axis = axis_of(call.get("axis", 1), x.ndim)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])), 1


def _largest(x: Array, axis: int) -> Array:
    y: Array = np.max(x, axis, keepdims=True, initial=-np.inf)
    return y


def standardized(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """`x` less its mean, over its deviation; the mean and the reciprocal of the deviation."""
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    inverse = 1 / np.sqrt(np.square(centred).mean(axes, keepdims=True) + number(x, epsilon))
    centred *= inverse
    return centred, mean, inverse


def _channels(x: Array, vector: Array) -> Array:
    """A number for each channel, to be broadcast against `x`."""
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def _batch_normalization(call: Call, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    if call.get("training_mode", 0) or call.outputs > 1:
        raise call.unsupported("in training mode")
    if not call.get("spatial", 1):
        raise call.unsupported("with spatial=0")
    if x.ndim > 1:
        scale, bias, mean, var = (_channels(x, vector) for vector in (scale, bias, mean, var))
    factor = scale / np.sqrt(var + number(var, call.get("epsilon", 1e-5)))
    y: Array = (x - mean) * factor + bias
    if y.shape != x.shape:
        raise ValueError(f"has {factor.size} scales for inputs of shape {x.shape}")
    return y


def _instance_normalization(call: Call, x: Array, scale: Array, bias: Array) -> Array:
    y, _, _ = standardized(x, tuple(range(2, x.ndim)), call.get("epsilon", 1e-5))
    return y * _channels(x, scale) + _channels(x, bias)


def _group_normalization(call: Call, x: Array, scale: Array, bias: Array) -> Array:
    groups = call.attributes["num_groups"]
    parts = x.reshape(len(x), groups, x.shape[1] // groups, *x.shape[2:])
    y, _, _ = standardized(parts, tuple(range(2, parts.ndim)), call.get("epsilon", 1e-5))
    if call.version < 21:  # numbers for groups, not for channels
        return (y * _channels(parts, scale) + _channels(parts, bias)).reshape(x.shape)
    return y.reshape(x.shape) * _channels(x, scale) + _channels(x, bias)


def _mean_variance_normalization(call: Call, x: Array) -> Array:
    axes = axes_of(call.get("axes", [0, 2, 3]), x.ndim)
    centred = x - x.mean(axes, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(axes, keepdims=True))
    result: Array = centred / (deviation + number(x, 1e-9))
    return result


def _lp_normalization(call: Call, x: Array) -> Array:
    axis, p = axis_of(call.get("axis", -1), x.ndim), call.get("p", 2)
    if p not in (1, 2):
        raise call.unsupported(f"with p={p}")
    norm = np.abs(x).sum(axis, keepdims=True) if p == 1 else np.sqrt(np.square(x).sum(axis, keepdims=True))
    return x / np.where(norm == 0, number(x, 1), norm)


def _local_response_normalization(call: Call, x: Array) -> Array:
    size, channels = call.attributes["size"], x.shape[1]
    before = (size - 1) // 2
    squares = np.zeros((len(x), channels + size - 1, *x.shape[2:]), x.dtype)
    squares[:, before : before + channels] = np.square(x)
    total = squares[:, :channels].copy()
    for offset in range(1, size):
        total += squares[:, offset : offset + channels]
    total *= number(x, call.get("alpha", 1e-4) / size)
    total += number(x, call.get("bias", 1.0))
    y: Array = x / total ** number(x, call.get("beta", 0.75))
    return y


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": _batch_normalization,
    "GroupNormalization": _group_normalization,
    "Hardmax": _hardmax,
    "InstanceNormalization": _instance_normalization,
    "LRN": _local_response_normalization,
    "LogSoftmax": _log_softmax,
    "LpNormalization": _lp_normalization,
    "MeanVarianceNormalization": _mean_variance_normalization,
    "Softmax": _softmax,
}
