"""What changes the shape of arrays, tells it, or makes arrays of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .call import Array, Call, Operator, axes_of
from .casts import numbers_of


def _identity(call: Call, x: Array) -> Array:
    return x


def _reshape(call: Call, x: Array, shape: Array) -> Array:
    target: list[int] = shape.reshape(-1).tolist()
    copied = {at for at, dim in enumerate(target) if dim == 0 and not call.get("allowzero", 0)}
    if copied and max(copied) >= x.ndim:
        raise ValueError(f"keeps axis {max(copied)} of an input of shape {x.shape}")
    # What -1 stands for is told by the axes that are not kept, for these may be empty.
    given = math.prod(dim for at, dim in enumerate(target) if at not in copied and dim != -1)
    size = math.prod(dim for at, dim in enumerate(x.shape) if at not in copied)
    if target.count(-1) > 1 or (-1 in target and not given):
        raise ValueError(f"cannot tell the dimension -1 of the shape {target}")
    return x.reshape(
        [
            x.shape[at] if at in copied else size // given if dim == -1 else dim
            for at, dim in enumerate(target)
        ]
    )


def _flatten(call: Call, x: Array) -> Array:
    axis = call.get("axis", 1)
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"has no axis {axis} of {x.ndim}")
    axis += x.ndim if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    given = call.ints("axes", axes)
    return x.squeeze(None if given is None else axes_of(given, x.ndim))


def _unsqueeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    given = call.ints("axes", axes) or []
    return np.expand_dims(x, axes_of(given, x.ndim + len(given)))


def _transpose(call: Call, x: Array) -> Array:
    y: Array = x.transpose(call.get("perm"))
    return y


def _expand(call: Call, x: Array, shape: Array) -> Array:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _shape(call: Call, x: Array) -> Array:
    return np.array(x.shape[call.get("start", 0) : call.get("end")], np.int64)


def _size(call: Call, x: Array) -> Array:
    return np.array(x.size, np.int64)


def _depth_to_space(call: Call, x: Array) -> Array:
    n, c, h, w = x.shape
    block: int = call.attributes["blocksize"]
    if _by_columns(call):
        parts: Array = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    else:
        parts = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(call: Call, x: Array) -> Array:
    n, c, h, w = x.shape
    block: int = call.attributes["blocksize"]
    parts: Array = x.reshape(n, c, h // block, block, w // block, block)
    order = (0, 1, 3, 5, 2, 4) if _by_columns(call) else (0, 3, 5, 1, 2, 4)
    parts = parts.transpose(order)
    return parts.reshape(n, c * block**2, h // block, w // block)


def _by_columns(call: Call) -> bool:
    """Whether depth is outermost in the channels."""
    mode = call.get("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise call.unsupported(f"with mode={mode!r}")
    return bool(mode == "CRD")


def _constant(call: Call) -> Array:
    if "value" in call.attributes:
        value: Any = call.attributes["value"]
        return np.asarray(value)
    for name, dtype in (("value_float", np.float32), ("value_int", np.int64)):
        for attribute in (name, f"{name}s"):
            if attribute in call.attributes:
                return np.array(call.attributes[attribute], dtype)
    raise call.unsupported(f"with {', '.join(call.attributes)}")


def _constant_of_shape(call: Call, shape: Array) -> Array:
    value = np.asarray(call.get("value", np.zeros(1, np.float32)))
    return np.full(shape.tolist(), value.reshape(()), value.dtype)


def _eye_like(call: Call, x: Array) -> Array:
    rows, columns = x.shape
    number = call.get("dtype")
    dtype = x.dtype if number is None else numbers_of(call, number)
    return np.eye(rows, columns, int(call.get("k", 0))).astype(dtype)


def _range(call: Call, start: Array, limit: Array, delta: Array) -> Array:
    first, end, step = (array.reshape(()) for array in (start, limit, delta))
    if not step:
        raise ValueError("has a delta of 0")
    if first.dtype.kind in "iu":
        return np.arange(int(first), int(end), int(step), dtype=first.dtype)
    count = max(math.ceil((float(end) - float(first)) / float(step)), 0)
    wide = np.float64 if first.dtype == np.float64 else np.float32
    found: Array = first.astype(wide) + np.arange(count, dtype=wide) * step.astype(wide)
    return found.astype(first.dtype, copy=False)


OPERATORS: dict[str, Operator] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Identity": _identity,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "SpaceToDepth": _space_to_depth,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
