"""Checks of arguments that several stages share. Messages name the argument and what is wrong with it."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "array_of",
    "as_axis",
    "as_floats",
    "as_integer",
    "as_number",
    "check_out",
    "is_half",
    "is_same",
    "refuse_nan",
]

# Integers beyond this are not all float64 values, so converting them could make unequal scores equal.
_EXACT = 2**53


def as_floats(value: ArrayLike, argument: str, halves: bool = False) -> NDArray[Any]:
    """The argument as a C-contiguous native array of float32 or float64, itself where it is one.

    float16, bfloat16 (of ml_dtypes), booleans and integers of up to 16 bits become float32, wider integers
    float64: always exactly. With `halves`, float16 and bfloat16 stay what they are.

    Raises
    ------
    TypeError
        For complex numbers, objects, text, dates and floats wider than float64.
    ValueError
        For integers beyond 2**53, which no float64 holds exactly, and for ragged lists.
    """
    array = array_of(value, argument)
    dtype = array.dtype
    if dtype.kind in "OSUMmc":
        raise TypeError(f"{argument}: expected real numbers, got dtype {dtype}")
    target: Any
    if halves and is_half(dtype):
        target = dtype.newbyteorder("=") if dtype == np.float16 else dtype
    elif np.can_cast(dtype, np.float32):
        target = np.float32
    elif np.can_cast(dtype, np.float64):
        target = np.float64
    else:
        raise TypeError(f"{argument}: expected float32, float64 or a dtype that fits them, got {dtype}")
    if dtype.kind in "iu" and dtype.itemsize == 8 and array.size:
        largest = max(abs(int(array.max())), abs(int(array.min())))
        if largest > _EXACT:
            raise ValueError(f"{argument}: integers beyond 2**53 cannot be ranked exactly, got {largest}")
    # `require` also copies misaligned and byte-swapped arrays.
    converted: NDArray[Any] = np.require(array, target, ["C", "A"])
    return converted


def is_half(dtype: np.dtype[Any]) -> bool:
    """Whether it is float16, or the bfloat16 of ml_dtypes."""
    # Looking up a name takes long.
    return dtype.itemsize == 2 and (dtype == np.float16 or dtype.name == "bfloat16")


def array_of(value: ArrayLike, argument: str) -> NDArray[Any]:
    """The argument as an array of any dtype."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from None


def as_integer(value: SupportsIndex, argument: str) -> int:
    """The argument as an int."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{argument}: expected an integer, got {type(value).__name__}") from None


def as_number(value: float, argument: str, low: float = -math.inf, high: float = math.inf) -> float:
    """The argument as a float in [low, high]."""
    if not isinstance(value, (Real, np.number)) or isinstance(value, (np.complexfloating, bool)):
        raise TypeError(f"{argument}: expected a number, got {type(value).__name__}")
    number = float(value)
    if not low <= number <= high:
        bounds = f"in [{low:g}, {high:g}]" if high < math.inf else f">= {low:g}" if low > -math.inf else ""
        raise ValueError(f"{argument}: expected a number {bounds}".rstrip() + f", got {number:g}")
    return number


def as_axis(axis: SupportsIndex, ndim: int, argument: str) -> int:
    """The argument as an axis of an array of `ndim` dimensions, counted from the front."""
    given = as_integer(axis, argument)
    if not -ndim <= given < ndim:
        raise ValueError(f"{argument}: {given} is out of range for an array of {ndim} dimensions")
    return given % ndim


def refuse_nan(array: NDArray[Any], argument: str) -> None:
    """Raises the ValueError that names the first NaN of the array, if there is one."""
    nan = np.isnan(array)
    if nan.any():
        index = np.unravel_index(int(np.argmax(nan)), array.shape)
        where = f"[{', '.join(str(int(i)) for i in index)}]" if index else ""
        raise ValueError(f"{argument}{where} is NaN")


def check_out(out: NDArray[Any], source: NDArray[Any], argument: str, **others: NDArray[Any]) -> None:
    """Refuse an `out` that is not like `source`, the array of `argument`, or not safe to write.

    `source` itself is allowed; what overlaps it otherwise, or one of the `others` (by argument), is not.
    """
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected an array, got {type(out).__name__}")
    if out.dtype != source.dtype:
        raise TypeError(f"out: expected dtype {source.dtype}, got {out.dtype}")
    if out.shape != source.shape:
        raise ValueError(f"out: expected shape {source.shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out: is read-only")
    for name, other in others.items():
        if _overlap(out, other):
            raise ValueError(f"out: overlaps {name}")
    if not is_same(out, source) and _overlap(out, source):
        raise ValueError(f"out: overlaps {argument} partly; give {argument} itself or other memory")
    if out.size > 1 and any(step == 0 < size - 1 for step, size in zip(out.strides, out.shape, strict=True)):
        raise ValueError("out: several elements share their memory")


def is_same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays of one shape and dtype are views of the same elements."""
    address = a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    return bool(address and a.strides == b.strides)


def _overlap(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return np.may_share_memory(a, b) and np.shares_memory(a, b)


def own_stream(rng: np.random.Generator) -> np.random.Generator:
    """A generator for lots about weights, seeded by a number of `rng`.

    The numbers of `rng` itself would not do: a model that was built with the same seed has drawn its weights
    from the same numbers in the same order, and the highest lots would fall on the largest weights.
    """
    return np.random.default_rng(rng.integers(1 << 63))
