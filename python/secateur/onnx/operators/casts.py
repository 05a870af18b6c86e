"""Types of values, and what changes them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from .call import Array, Call, Operator

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
NUMBERS = frozenset(
    map(np.dtype, ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", BFLOAT16))
)
"""The types that are computed with."""


def is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype == BFLOAT16


def numbers_of(call: Call, number: int) -> np.dtype[Any]:
    """NumPy's type for the number of one of ONNX's."""
    try:
        dtype = np.dtype(ir.DataType(number).numpy())
    except (TypeError, ValueError):
        raise call.unsupported(f"to the type {number}") from None
    if dtype not in NUMBERS:
        raise call.unsupported(f"to {ir.DataType(number).name}")
    return dtype


def _cast(call: Call, x: Array) -> Array:
    return x.astype(numbers_of(call, call.attributes["to"]), copy=False)


def _cast_like(call: Call, x: Array, like: Array) -> Array:
    return x.astype(like.dtype, copy=False)


OPERATORS: dict[str, Operator] = {"Cast": _cast, "CastLike": _cast_like}
