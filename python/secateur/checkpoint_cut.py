"""Where the global order of a checkpoint's weights is cut, and tensors with what lies behind the cut zeroed.

Tensors are memory maps that may be larger than the memory: everything works on pieces of them. bfloat16 comes
as its bits, uint16, since NumPy has no such dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .selection import apply_mask, nm_mask

PIECE = 1 << 20
"""Weights that are looked at together; a few arrays of that size fit the cache."""

_DIGIT = 16
"""Bits by which one pass over the weights narrows down the key of the cut."""

_INFINITY = {"float64": 0x7FF << 52, "float32": 0x7F8 << 20, "float16": 0x7C00, "uint16": 0x7F80}
"""The bits of infinity."""


@dataclass(frozen=True)
class Cut:
    """The last weight that is kept: its magnitude, its tensor, its flat index."""

    score: float
    name: str
    index: int


def find_cut(tensors: Mapping[str, NDArray[Any]], k: int) -> Cut | None:
    """The k-th weight of all tensors together, in the order of `secateur.selection`; None if k is 0.

    Raises
    ------
    ValueError
        For NaN, naming the first one.
    """
    refuse_nan(tensors)
    if k == 0:
        return None
    # Magnitudes are ordered as their bits are: these are determined digit by digit, the highest first.
    wide = np.float64 if any(array.dtype == np.float64 for array in tensors.values()) else np.float32
    found, left = 0, k
    for shift in range(8 * np.dtype(wide).itemsize - _DIGIT, -1, -_DIGIT):
        counts = np.zeros(1 << _DIGIT, np.int64)
        for _, _, keys in _all_keys(tensors, wide):
            digits = keys >> shift
            digits = digits[digits >> _DIGIT == found] & ((1 << _DIGIT) - 1)
            counts += np.bincount(digits.astype(np.intp), minlength=len(counts))
        at_least = np.cumsum(counts[::-1])[::-1]
        digit = int(np.flatnonzero(at_least >= left)[-1])
        left -= int(at_least[digit] - counts[digit])
        found = found << _DIGIT | digit
    for name in sorted(tensors, key=str.encode):
        for first, keys in _keys(tensors[name], wide):
            equal = np.flatnonzero(keys == found)
            if len(equal) >= left:
                score = np.array(found, keys.dtype).view(wide)
                return Cut(float(score), name, first + int(equal[left - 1]))
            left -= len(equal)
    raise ValueError(f"k: expected at most the number of weights, got {k}")


def refuse_nan(tensors: Mapping[str, NDArray[Any]]) -> None:
    """Raises the ValueError that names the first NaN, if there is one."""
    for name, array in tensors.items():
        # Without their sign, the bits of NaN are above those of infinity.
        bits = _flat(array).view(f"u{array.itemsize}")
        infinity, unsigned = _INFINITY[array.dtype.name], (1 << 8 * array.itemsize - 1) - 1
        for first in range(0, bits.size, PIECE):
            magnitudes = bits[first : first + PIECE] & unsigned
            if magnitudes.max() > infinity:
                at = np.unravel_index(first + int(np.argmax(magnitudes > infinity)), array.shape)
                raise ValueError(f"weights[{name!r}][{', '.join(str(int(i)) for i in at)}] is NaN")


def prune_weights(array: NDArray[Any], name: str, cut: Cut | None) -> Iterator[NDArray[Any]]:
    """The tensor in pieces, zero behind the cut."""
    if cut is None:
        for first in range(0, array.size, PIECE):
            yield np.zeros(min(PIECE, array.size - first), array.dtype)
        return
    with np.errstate(over="ignore"):
        exact = float(np.float32(cut.score)) == cut.score
    wide = np.float32 if exact and array.dtype != np.float64 else np.float64
    key = np.array(cut.score, wide).view(f"u{np.dtype(wide).itemsize}")
    for first, keys in _keys(array, wide):
        mask = keys > key
        # The equal ones that are still kept: all, some or none, as the order of the names says.
        kept = (
            len(keys)
            if name.encode() < cut.name.encode()
            else cut.index + 1 - first
            if name == cut.name
            else 0
        )
        if kept > 0:
            mask[:kept] |= keys[:kept] == key
        yield apply_mask(_flat(array)[first : first + len(keys)], mask)


def prune_pattern(array: NDArray[Any], n: int, m: int) -> Iterator[NDArray[Any]]:
    """The tensor in pieces, zero but for the n largest of every m along the last axis."""
    wide = np.float64 if array.dtype == np.float64 else np.float32
    rows = array.reshape(-1, array.shape[-1])
    # Several whole rows, or a part of one that ends with a group.
    down, across = max(1, PIECE // rows.shape[1]), max(m, PIECE - PIECE % m)
    for row in range(0, len(rows), down):
        for column in range(0, rows.shape[1], across):
            piece = rows[row : row + down, column : column + across]
            yield apply_mask(piece, nm_mask(_magnitudes(piece, wide), n, m))


def _all_keys(tensors: Mapping[str, NDArray[Any]], wide: type) -> Iterator[tuple[str, int, NDArray[Any]]]:
    for name, array in tensors.items():
        for first, keys in _keys(array, wide):
            yield name, first, keys


def _keys(array: NDArray[Any], wide: type) -> Iterator[tuple[int, NDArray[Any]]]:
    """The bits of the magnitudes, piece by piece, with the flat index of each piece's first weight."""
    flat = _flat(array)
    for first in range(0, flat.size, PIECE):
        magnitudes = _magnitudes(flat[first : first + PIECE], wide)
        yield first, magnitudes.view(f"u{magnitudes.itemsize}")


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(-1)


def _magnitudes(values: NDArray[Any], wide: type) -> NDArray[Any]:
    """|w|, exactly, in a dtype that holds every score."""
    if values.dtype == np.uint16:
        bits = (values & 0x7FFF).astype(np.uint32) << 16
        return bits.view(np.float32).astype(wide, copy=False)
    return np.abs(values.astype(wide, copy=False))
