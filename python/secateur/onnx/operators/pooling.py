"""Extremes, means and norms of windows, place by place of all windows at once."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from .call import Array, Call, Operator, number
from .reductions import least
from .windows import Windows, windows_of


def _windows(call: Call, x: Array) -> Windows:
    size = tuple(call.attributes["kernel_shape"])
    windows = windows_of(call, x.shape[2:], size, bool(call.get("ceil_mode", 0)))
    for axis, far in enumerate(windows.reach):
        wide = max(windows.before[axis], windows.after[axis])
        if wide >= far:
            raise ValueError(f"has windows that show nothing but padding: {far} in {wide}")
        shown = (windows.outputs[axis] - 1) * windows.strides[axis] + far
        if call.get("auto_pad", "NOTSET").startswith("SAME") and shown < windows.lengths[axis] - 1:
            # The padding would be negative; ONNX Runtime takes that literally here, and not in convolutions.
            raise call.unsupported("with auto_pad and strides by which windows leave elements out")
    return windows


def _max_pool(call: Call, x: Array) -> tuple[Array, ...]:
    windows = _windows(call, x)
    padded = windows.pad(x, least(x.dtype))
    places = list(itertools.product(*map(range, windows.size)))
    if call.outputs < 2:
        return (functools.reduce(np.maximum, (windows.tap(padded, at) for at in places)),)
    numbers = windows.pad(_numbers(call, x), -1)
    largest, indices = (windows.tap(array, places[0]) for array in (padded, numbers))
    for at in places[1:]:
        shown, told = windows.tap(padded, at), windows.tap(numbers, at)
        better = (told >= 0) & ((shown > largest) | (indices < 0))
        largest, indices = np.where(better, shown, largest), np.where(better, told, indices)
    return largest, indices


def _numbers(call: Call, x: Array) -> Array:
    """The number of each element, by rows or by columns."""
    lengths = x.shape[2:]
    order = range(len(lengths)) if call.get("storage_order", 0) else range(len(lengths))[::-1]
    within, step = np.zeros(lengths, np.int64), 1
    for axis in order:
        within += (np.arange(lengths[axis]) * step).reshape(-1, *[1] * (len(lengths) - 1 - axis))
        step *= lengths[axis]
    channels = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * len(lengths))
    return channels * step + within


def _average_pool(call: Call, x: Array) -> Array:
    windows = _windows(call, x)
    beyond = bool(call.get("count_include_pad", 0))
    counts = np.ones((), x.dtype)
    for axis, size in enumerate(windows.size):
        along = sum(windows.inside(axis, at, beyond).astype(x.dtype) for at in range(size))
        counts = counts[..., None] * along
    return _total(windows, x) / counts


def _lp_pool(call: Call, x: Array) -> Array:
    p = call.get("p", 2)
    return _total(_windows(call, x), np.abs(x) ** number(x, p)) ** number(x, 1 / p)


def _total(windows: Windows, x: Array) -> Array:
    """The sum of what each window shows."""
    padded = windows.pad(x, 0)
    total = np.zeros((*x.shape[:2], *windows.outputs), x.dtype)
    for at in itertools.product(*map(range, windows.size)):
        total += windows.tap(padded, at)
    return total


def _pixels(x: Array) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _global_average_pool(call: Call, x: Array) -> Array:
    y: Array = x.mean(_pixels(x), keepdims=True)
    return y


def _global_max_pool(call: Call, x: Array) -> Array:
    y: Array = x.max(_pixels(x), keepdims=True)
    return y


def _global_lp_pool(call: Call, x: Array) -> Array:
    p = call.get("p", 2)
    total = np.sum(np.abs(x) ** number(x, p), _pixels(x), keepdims=True)
    y: Array = total ** number(x, 1 / p)
    return y


OPERATORS: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "GlobalLpPool": _global_lp_pool,
    "GlobalMaxPool": _global_max_pool,
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
}
