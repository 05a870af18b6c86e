"""Sums, means, extremes and norms over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from .call import Array, Call, Operator, axes_of, axis_of, number

Axes: TypeAlias = "tuple[int, ...]"


def _sum(x: Array, axes: Axes) -> Array:
    return np.sum(x, axes, dtype=x.dtype, keepdims=True)


def _prod(x: Array, axes: Axes) -> Array:
    y: Array = np.prod(x, axes, dtype=x.dtype, keepdims=True)
    return y


def _max(x: Array, axes: Axes) -> Array:
    y: Array = np.max(x, axes, keepdims=True, initial=least(x.dtype))
    return y


def _min(x: Array, axes: Axes) -> Array:
    y: Array = np.min(x, axes, keepdims=True, initial=most(x.dtype))
    return y


def least(dtype: np.dtype[Any]) -> float:
    """What is not larger than anything."""
    return -np.inf if dtype.kind == "f" else False if dtype.kind == "b" else np.iinfo(dtype).min


def most(dtype: np.dtype[Any]) -> float:
    """What is not smaller than anything."""
    return np.inf if dtype.kind == "f" else True if dtype.kind == "b" else np.iinfo(dtype).max


def _mean(x: Array, axes: Axes) -> Array:
    y: Array = np.mean(x, axes, keepdims=True)
    return y


def _l1(x: Array, axes: Axes) -> Array:
    return _sum(np.abs(x), axes)


def _l2(x: Array, axes: Axes) -> Array:
    return np.sqrt(_sum(np.square(x), axes))


def _sum_square(x: Array, axes: Axes) -> Array:
    return _sum(np.square(x), axes)


def _log_sum(x: Array, axes: Axes) -> Array:
    return np.log(_sum(x, axes))


def _log_sum_exp(x: Array, axes: Axes) -> Array:
    largest = _max(x, axes)
    largest = np.where(np.isfinite(largest), largest, number(x, 0))
    return np.log(_sum(np.exp(x - largest), axes)) + largest


def _reduction(function: Callable[[Array, Axes], Array]) -> Operator:
    """A reduction that keeps axes as an operator."""

    def operator(call: Call, x: Array, axes: Array | None = None) -> Array:
        given = call.ints("axes", axes) or ([] if call.get("noop_with_empty_axes", 0) else range(x.ndim))
        reduced = axes_of(given, x.ndim)
        result = np.asarray(function(x, reduced)).astype(x.dtype, copy=False)
        return result if call.get("keepdims", 1) else result.squeeze(reduced)

    return operator


def _scan(function: np.ufunc) -> Operator:
    """Sums or products up to each element as an operator."""

    def operator(call: Call, x: Array, axis: Array) -> Array:
        along = axis_of(int(axis.reshape(())), x.ndim)
        way = -1 if call.get("reverse", 0) else 1
        total = function.accumulate(np.moveaxis(x, along, 0)[::way], dtype=x.dtype)
        if call.get("exclusive", 0):
            total = np.concatenate([np.full_like(total[:1], function.identity), total[:-1]])
        return np.moveaxis(total[::way], 0, along)

    return operator


OPERATORS: dict[str, Operator] = {
    "CumProd": _scan(np.multiply),
    "CumSum": _scan(np.add),
    "ReduceL1": _reduction(_l1),
    "ReduceL2": _reduction(_l2),
    "ReduceLogSum": _reduction(_log_sum),
    "ReduceLogSumExp": _reduction(_log_sum_exp),
    "ReduceMax": _reduction(_max),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(_min),
    "ReduceProd": _reduction(_prod),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(_sum_square),
}
