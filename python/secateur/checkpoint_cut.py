"""Where the global order of a checkpoint's weights is cut, and tensors with what lies behind the cut zeroed.

Tensors may be larger than the memory: they are read for the cut through memory maps, and then again in pieces
that are pruned. bfloat16 comes as its bits, uint16, since NumPy has no such dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._operands import Operand, operand
from .applying import apply_mask
from .checkpoint_copy import Piece
from .cutting import Cut
from .granularity import Pattern
from .groups import nm_masks
from .shards import FLOATS, TensorInfo

PIECE = 1 << 20
"""Bytes that are pruned together: few enough that they and their mask stay in the cache."""


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


def pieces_of(info: TensorInfo, rule: Cut | Pattern | None) -> Iterator[Piece]:
    """A tensor in pieces that a rule prunes: a cut, N:M along the last axis, or None, which keeps nothing."""
    columns, m = (info.shape[-1], rule.m) if isinstance(rule, Pattern) else (info.size, 1)
    bytes_ = (info.end - info.begin) // info.size

    def change(first: int, piece: NDArray[np.uint8]) -> None:
        weights = piece.view(FLOATS[info.dtype])
        if isinstance(rule, Pattern):
            prune_pattern(weights.reshape(-1, min(columns, weights.size)), rule)
        else:
            prune_weights(weights, info.name, first, rule)

    for part in spans(info.size // columns, columns, m, PIECE // bytes_):
        begin, end = info.begin + part.start * bytes_, info.begin + part.stop * bytes_
        yield Piece(begin, end, partial(change, part.start))


def spans(rows: int, columns: int, m: int, most: int) -> Iterator[range]:
    """Flat ranges of about `most`: several whole rows, or a part of one that ends with a group of `m`."""
    down, across = max(1, most // columns), max(m, most - most % m)
    for row in range(0, rows, down):
        below = min(row + down, rows)
        for column in range(0, columns, across):
            yield range(row * columns + column, (below - 1) * columns + min(column + across, columns))


def prune_weights(part: NDArray[Any], name: str, first: int, cut: Cut | None) -> None:
    """Zero what lies behind the cut; the part of the tensor begins at flat index `first`."""
    if cut is None:
        part[...] = 0
    else:
        end = cut.end(name, first, part.size)
        apply_mask(part, _core.cut_mask(_operand(name, part), "magnitude", 0.0, cut.score, end), part)


def prune_pattern(rows: NDArray[Any], pattern: Pattern) -> None:
    """Zero all but the n largest of every m along the rows."""
    # Of bfloat16 the bits without the sign are those of the magnitude.
    magnitudes: NDArray[Any] = rows & 0x7FFF if rows.dtype == np.uint16 else np.abs(rows)
    apply_mask(rows, nm_masks([_operand("", magnitudes)], pattern.n, pattern.m, [1])[0], rows)


def _operand(name: str, array: NDArray[Any]) -> Operand:
    # A file may hold tensors at odd addresses; only these are copied.
    aligned = np.require(array, requirements=["C", "A"])
    return (name, aligned, None, "bf16") if aligned.dtype == np.uint16 else operand(name, aligned)
