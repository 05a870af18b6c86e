"""Where the global order of a checkpoint's weights is cut, and tensors with what lies behind the cut zeroed.

Tensors are memory maps that may be larger than the memory: they are read once for the cut, and masked in
pieces. bfloat16 comes as its bits, uint16, since NumPy has no such dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._operands import Mask, Operand, operand
from .applying import apply_mask
from .cutting import Cut
from .groups import nm_masks

PIECE = 1 << 20
"""Weights that are looked at together; a few arrays of that size fit the cache."""


def find_cut(tensors: Mapping[str, NDArray[Any]], k: int) -> Cut | None:
    """The k-th weight of all tensors together, in the order of `secateur.selection`; None if k is 0.

    Raises
    ------
    ValueError
        For NaN, naming the first one.
    """
    if k == 0:
        refuse_nan(tensors)
        return None
    operands = [_operand(name, array) for name, array in tensors.items()]
    score, at, index = _core.topk_cut(operands, k, "magnitude", 0.0)
    return Cut(score, list(tensors)[at], index)


def refuse_nan(tensors: Mapping[str, NDArray[Any]]) -> None:
    """Raises the ValueError that names the first NaN, if there is one."""
    # The search for any cut reads every weight.
    find_cut(tensors, 1)


def prune_weights(array: NDArray[Any], name: str, cut: Cut | None) -> Iterator[NDArray[Any]]:
    """The tensor in pieces, zero behind the cut."""
    flat = array.reshape(-1)
    for first in range(0, flat.size, PIECE):
        piece = flat[first : first + PIECE]
        if cut is None:
            yield np.zeros_like(piece)
            continue
        end = cut.end(name, first, piece.size)
        yield apply_mask(piece, _core.cut_mask(_operand(name, piece), "magnitude", 0.0, cut.score, end))


def prune_pattern(array: NDArray[Any], n: int, m: int) -> Iterator[NDArray[Any]]:
    """The tensor in pieces, zero but for the n largest of every m along the last axis."""
    rows = array.reshape(-1, array.shape[-1])
    # Several whole rows, or a part of one that ends with a group.
    down, across = max(1, PIECE // rows.shape[1]), max(m, PIECE - PIECE % m)
    for row in range(0, len(rows), down):
        for column in range(0, rows.shape[1], across):
            piece = rows[row : row + down, column : column + across]
            yield apply_mask(piece, _pattern_mask(piece, n, m))


def _operand(name: str, array: NDArray[Any]) -> Operand:
    # A file may hold tensors at odd addresses; only these are copied.
    aligned = np.require(array, requirements=["C", "A"])
    return (name, aligned, None, "bf16") if aligned.dtype == np.uint16 else operand(name, aligned)


def _pattern_mask(piece: NDArray[Any], n: int, m: int) -> Mask:
    # Of bfloat16 the bits without the sign are those of the magnitude.
    magnitudes: NDArray[Any] = piece & 0x7FFF if piece.dtype == np.uint16 else np.abs(piece)
    return nm_masks([_operand("", magnitudes)], n, m, [1])[0]
