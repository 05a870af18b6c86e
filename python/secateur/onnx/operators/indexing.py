"""What takes elements by their place, puts them there, or tells it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .call import Array, Call, Operator, axis_of

SCATTERED = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _gather(call: Call, x: Array, indices: Array) -> Array:
    return np.take(x, indices, call.get("axis", 0))


def _gather_elements(call: Call, x: Array, indices: Array) -> Array:
    return x[_along(x, indices, call.get("axis", 0))]


def _along(x: Array, indices: Array, axis: int) -> tuple[Array, ...]:
    """Where indices along one axis lead, which say nothing of what is behind them along the others."""
    if indices.ndim != x.ndim:
        raise ValueError(f"has indices of shape {indices.shape} into one of {x.shape}")
    axis = axis_of(axis, x.ndim)
    places: list[Array] = list(np.ogrid[tuple(map(slice, indices.shape))])
    places[axis] = indices
    return tuple(places)


def _gather_nd(call: Call, x: Array, indices: Array) -> Array:
    lead = call.get("batch_dims", 0)
    if x.shape[:lead] != indices.shape[:lead] or lead + indices.shape[-1] > x.ndim:
        raise ValueError(
            f"has indices of shape {indices.shape} into one of {x.shape}, {lead} axes of batches"
        )
    batches = [np.expand_dims(place, tuple(range(lead, indices.ndim - 1))) for place in _grid(x.shape[:lead])]
    places = (*batches, *np.moveaxis(indices, -1, 0))
    return np.asarray(x[places])


def _grid(shape: tuple[int, ...]) -> list[Array]:
    return list(np.ogrid[tuple(map(slice, shape))]) if shape else []


def _scatter_elements(call: Call, x: Array, indices: Array, updates: Array) -> Array:
    return _put(call, x, _along(x, indices, call.get("axis", 0)), updates)


def _scatter_nd(call: Call, x: Array, indices: Array, updates: Array) -> Array:
    return _put(call, x, tuple(np.moveaxis(indices, -1, 0)), updates)


def _put(call: Call, x: Array, places: tuple[Array, ...], updates: Array) -> Array:
    result: Array = x.copy()
    kind = call.get("reduction", "none")
    if updates.shape != result[places].shape:
        raise ValueError(f"has updates of shape {updates.shape} for {result[places].shape} places")
    if kind == "none":
        result[places] = updates
    elif kind in SCATTERED:
        SCATTERED[kind].at(result, places, updates)
    else:
        raise call.unsupported(f"with reduction={kind!r}")
    return result


def _one_hot(call: Call, indices: Array, depth: Array, values: Array) -> Array:
    count = int(depth.reshape(()))
    axis = axis_of(call.get("axis", -1), indices.ndim + 1)
    places = np.expand_dims(indices.astype(np.int64), axis)
    classes = np.arange(count).reshape([-1 if at == axis else 1 for at in range(indices.ndim + 1)])
    y: Array = np.take(values, (places == classes) | (places + count == classes))
    return y


def _non_zero(call: Call, x: Array) -> Array:
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64)


def _compress(call: Call, x: Array, condition: Array) -> Array:
    return np.compress(condition, x, call.get("axis"))


def _where(call: Call, condition: Array, x: Array, y: Array) -> Array:
    return np.where(condition, x, y)


def _arg(find: Callable[..., Array]) -> Operator:
    """The place of an extreme as an operator."""

    def operator(call: Call, x: Array) -> Array:
        axis = axis_of(call.get("axis", 0), x.ndim)
        if call.get("select_last_index", 0):
            found = x.shape[axis] - 1 - find(np.flip(x, axis), axis)
        else:
            found = find(x, axis)
        return np.expand_dims(found, axis) if call.get("keepdims", 1) else np.asarray(found)

    return operator


def _top_k(call: Call, x: Array, k: Array) -> tuple[Array, Array]:
    axis, count = axis_of(call.get("axis", -1), x.ndim), int(k.reshape(()))
    length = x.shape[axis]
    if not 0 <= count <= length:
        raise ValueError(f"takes {count} of {length}")
    if call.get("largest", 1):
        # From behind, so that of equal ones the first comes first.
        order = length - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    order = np.take(order, np.arange(count), axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int64, copy=False)


OPERATORS: dict[str, Operator] = {
    "ArgMax": _arg(np.argmax),
    "ArgMin": _arg(np.argmin),
    "Compress": _compress,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TopK": _top_k,
    "Where": _where,
}
