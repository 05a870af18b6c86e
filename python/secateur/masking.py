"""Scores and a budget to masks, for every granularity but neurons (see neurons.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import budgets
from .granularity import Blocks, Pattern, Weights, matrix_shape
from .groups import nm_mask
from .models.view import BoolArray
from .selection import topk_mask

Scores = Mapping[str, NDArray[Any]]
Masks = dict[str, BoolArray]

ADAPTED = {"lamp": budgets.lamp, "output": budgets.output}
"""The scopes in which scores are compared in another form than their own."""


def sparsity(masks: Mapping[str, BoolArray], sizes: Mapping[str, int]) -> float:
    """The share of the weights of the tensors in `sizes` that `masks` removes."""
    removed = sum(masks[name].size - int(np.count_nonzero(masks[name])) for name in sizes if name in masks)
    return removed / max(1, sum(sizes.values()))


def choose(
    scores: Scores,
    masks: Mapping[str, BoolArray],
    granularity: Weights | Blocks | Pattern,
    scope: str,
    sparsity: float,
    rms: bool = False,
) -> Masks:
    """The masks after pruning to `sparsity`.

    Parameters
    ----------
    scores : mapping of name to array
        The importance of every weight.
    masks : mapping of name to array of bool
        What is already removed stays so, and counts.
    granularity : Weights, Blocks or Pattern
    scope : {"erk", "global", "lamp", "layer", "output"}
    sparsity : float
        In [0, 1]. Weights: exact. Blocks: met as nearly as whole blocks can.
    rms : bool
        Whether a block's score is the root mean square of its weights' scores, or their mean.

    Returns
    -------
    dict of str to ndarray of bool
        One for every tensor of `scores`, False where removed.
    """
    if isinstance(granularity, Blocks):
        return _choose_blocks(scores, masks, granularity, scope, sparsity, rms)
    alive = {name: _bury(values, masks.get(name)) for name, values in scores.items()}
    shapes = {name: values.shape for name, values in scores.items()}
    pattern = granularity if isinstance(granularity, Pattern) else None
    if pattern is not None:
        alive = _protect(alive, pattern)
    if scope in ADAPTED:
        alive = ADAPTED[scope](alive)
    chosen = {}
    for names, keep in shares(shapes, scope, sparsity, pattern):
        chosen.update(topk_mask({name: alive[name] for name in names}, keep))
    return {name: chosen[name] & masks[name] if name in masks else chosen[name] for name in scores}


def below(
    scores: Scores,
    masks: Mapping[str, BoolArray],
    granularity: Weights | Blocks,
    threshold: float,
    rms: bool = False,
) -> Masks:
    """The masks after removing what scores less than `threshold`: a weight, or a block (see `choose`)."""
    chosen: Masks = {}
    for name, values in scores.items():
        if isinstance(granularity, Blocks):
            kept = granularity.spread(_block_scores(granularity, values, rms) >= threshold, values.shape)
        else:
            # In the scores' own precision: float32(0.01) is less than 0.01, and such a weight is to stay.
            kept = np.asarray(values >= values.dtype.type(threshold))
        chosen[name] = kept & masks[name] if name in masks else kept
    return chosen


def target_of_pattern(
    pattern: Pattern, shapes: Mapping[str, tuple[int, ...]], sparsity: float | None
) -> float:
    """The sparsity that an N:M pattern gives to tensors of these shapes, tails included.

    Raises
    ------
    ValueError
        If `sparsity` is another one.
    """
    kept = total = 0
    for shape in shapes.values():
        kept += pattern.count(shape)
        total += math.prod(shape)
    own, nominal = 1 - kept / max(1, total), 1 - pattern.n / pattern.m
    if sparsity is not None and min(abs(sparsity - own), abs(sparsity - nominal)) > 1e-9:
        raise ValueError(
            f"sparsity: the pattern {pattern.n}:{pattern.m} has sparsity {nominal:g}, got {sparsity:g}"
        )
    return own


def shares(
    shapes: Mapping[str, tuple[int, ...]], scope: str, sparsity: float, pattern: Pattern | None = None
) -> list[tuple[Sequence[str], int]]:
    """The sets of tensors whose weights compete with each other, and how many weights each set keeps.

    An N:M pattern says itself how sparse a tensor is: each goes the same part of its way.
    """
    if scope in ("global", "lamp"):
        return [(list(shapes), budgets.keep_count(sum(map(math.prod, shapes.values())), sparsity))]
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if pattern is not None:
        spare = {name: sizes[name] - pattern.count(shape) for name, shape in shapes.items()}
        part = min(1.0, sparsity * sum(sizes.values()) / max(1, sum(spare.values())))
        return [([name], sizes[name] - round(part * spare[name])) for name in sizes]
    keep = budgets.erk(shapes, sparsity) if scope == "erk" else budgets.uniform(sizes, sparsity)
    return [([name], count) for name, count in keep.items()]


def _bury(values: NDArray[Any], mask: BoolArray | None) -> NDArray[Any]:
    """Scores in which what is removed comes last."""
    return values if mask is None else np.where(mask, values, -np.inf)


def _protect(scores: Scores, pattern: Pattern) -> dict[str, NDArray[Any]]:
    """Scores in which the N best of every M come first, so that only the others are candidates.

    Where a group has fewer than N left, those that are removed count too: they keep the place.
    """
    protected = {}
    for name, values in scores.items():
        kept = nm_mask(values.reshape(matrix_shape(values.shape)), pattern.n, pattern.m)
        protected[name] = np.where(kept.reshape(values.shape), np.inf, values)
    return protected


def _choose_blocks(
    scores: Scores, masks: Mapping[str, BoolArray], blocks: Blocks, scope: str, sparsity: float, rms: bool
) -> Masks:
    sizes = {name: blocks.sizes(values.shape) for name, values in scores.items()}
    means: dict[str, NDArray[Any]] = {}
    for name, values in scores.items():
        means[name] = _block_scores(blocks, values, rms)
        if name in masks:
            means[name][blocks.sums(masks[name]) == 0] = -np.inf
    if scope in ADAPTED:
        means = ADAPTED[scope](means)
    chosen: Masks = {}
    for names, keep in shares({name: values.shape for name, values in scores.items()}, scope, sparsity):
        chosen.update(_keep_groups({name: means[name] for name in names}, sizes, keep))
    spread = {name: blocks.spread(chosen[name], values.shape) for name, values in scores.items()}
    return {name: mask & masks[name] if name in masks else mask for name, mask in spread.items()}


def _block_scores(blocks: Blocks, values: NDArray[Any], rms: bool) -> NDArray[np.float64]:
    return np.sqrt(blocks.means(np.square(values, dtype=np.float64))) if rms else blocks.means(values)


def _keep_groups(scores: Scores, sizes: Mapping[str, NDArray[np.int64]], keep: int) -> Masks:
    """Whole groups, the best first, as many as bring the number of kept weights nearest to `keep`.

    The order is that of `topk_mask`: of equal scores the tensor whose name comes first by bytes, then the
    smaller index.
    """
    names = sorted(scores, key=str.encode)
    flat = np.concatenate([scores[name].ravel() for name in names])
    counts = np.concatenate(
        [
            [0],
            np.cumsum(
                np.concatenate([sizes[name].ravel() for name in names])[
                    order := np.argsort(-flat, kind="stable")
                ]
            ),
        ]
    )
    kept = np.zeros(flat.size, bool)
    kept[order[: int(np.argmin(np.abs(counts - keep)))]] = True
    parts = np.split(kept, np.cumsum([scores[name].size for name in names])[:-1])
    return {name: part.reshape(scores[name].shape) for name, part in zip(names, parts, strict=True)}
