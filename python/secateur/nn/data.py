"""Checks of what users pass, before any work."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._arguments import array_of
from .layers import FloatArray, Shape


def samples(x: ArrayLike, shape: Shape | None = None, name: str = "x") -> FloatArray:
    """`x` as C-contiguous float32 samples of `shape` (any where None), copied only if it is not that already.

    Raises
    ------
    ValueError
        Naming the argument, if it has no numbers, no samples, or samples of another shape.
    """
    array = array_of(x, name)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if array.ndim < 2:
        raise ValueError(
            f"{name}: expected samples along the first axis and at least one more, got {array.shape}"
        )
    if len(array) == 0:
        raise ValueError(f"{name}: expected at least one sample")
    if shape is not None and array.shape[1:] != shape:
        wanted = ", ".join(map(str, ("n", *shape)))
        raise ValueError(f"{name}: expected shape ({wanted}), got {array.shape}")
    return np.ascontiguousarray(array, np.float32)


def same_length(x: Any, y: Any, names: tuple[str, str] = ("x", "y")) -> None:
    """A ValueError where there are more samples than labels, or the other way round."""
    if len(x) != len(y):
        raise ValueError(
            f"{names[1]}: expected {len(x)} labels, one for each sample of {names[0]}, got {len(y)}"
        )
