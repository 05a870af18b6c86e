"""Which weights, blocks or patterns of a model stay: scores, then masks, or single weights without scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from . import _core, budgets, masking
from ._operands import operand
from .granularity import Blocks, Pattern, Weights
from .models.view import BoolArray, FloatArray, ModelView
from .scoring import Gradients, Scorer
from .selection import on_the_fly

OFF = 3.0
"""How many times as far off as the last guess of a threshold the next one may be."""
LEAST, WIDEST = 0.002, 0.04
"""A guess may be this share off at least. One that may be farther off than the other is not worth a look."""

Cut: TypeAlias = "tuple[int, float]"
"""How many weights were kept, and the last kept score."""


class Thresholds:
    """What the last kept scores of earlier updates tell of the next one; it changes nothing but the time.

    From update to update a threshold moves by little, and evenly with the number of weights that are kept:
    the next one is on the line through the last two, within some times what the line before was off by.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], list[Cut]] = {}

    def near(self, names: Sequence[str], keep: int) -> tuple[float | None, float]:
        """A guess of the score at which tensors are cut next, to keep so many, and how far off it may be."""
        seen = self._seen.get(tuple(names), [])
        if len(seen) < 3:
            return None, 0.0
        first, second, third = seen
        guess, off = _on_line(second, third, keep), abs(_on_line(first, second, third[0]) - third[1])
        within = max(OFF * off, LEAST * abs(guess))
        return (guess, within) if within < WIDEST * abs(guess) else (None, 0.0)

    def note(self, names: Sequence[str], keep: int, score: float | None) -> None:
        """Remember where tensors were cut, if anything was left."""
        if score is None or not math.isfinite(score):
            self._seen.pop(tuple(names), None)
        else:
            self._seen[tuple(names)] = [*self._seen.get(tuple(names), []), (keep, score)][-3:]


def _on_line(one: Cut, other: Cut, keep: int) -> float:
    """The score at `keep` on the line through two cuts; if both keep as many, as far from the second as that
    is from the first."""
    steps = (keep - other[0]) / (other[0] - one[0]) if other[0] != one[0] else 1.0
    return other[1] + (other[1] - one[1]) * steps


def choose(
    view: ModelView,
    names: Sequence[str],
    gradients: Gradients | None,
    granularity: Weights | Blocks | Pattern,
    scope: str,
    sparsity: float,
    scorer: Scorer,
    rng: np.random.Generator,
    thresholds: Thresholds | None = None,
) -> masking.Masks:
    """The masks that bring the tensors `names` to `sparsity`; see `masking.choose`.

    Raises
    ------
    ValueError
        For NaN among the weights or gradients, naming the tensor.
    """
    masks = view.masks()
    if isinstance(granularity, Weights) and scope not in masking.ADAPTED:
        tensors = view.parameters()
        competing = {name: tensors[name] for name in names}
        try:
            chosen = _without_scores(
                competing, gradients, masks, scope, sparsity, scorer, thresholds or Thresholds()
            )
        except ValueError:
            # A NaN, which the scores' errors name by tensor, or a layout that the core refuses.
            chosen = None
        if chosen is not None:
            return chosen
    scores = scorer.scores(view, names, gradients, rng)
    if scope == "global" and scorer.needs_norms:
        # How large they are is the layer's matter: its inputs decide.
        scores = budgets.relative(scores)
    return masking.choose(scores, masks, granularity, scope, sparsity, scorer.rms)


def _without_scores(
    tensors: Mapping[str, FloatArray],
    gradients: Gradients | None,
    masks: Mapping[str, BoolArray],
    scope: str,
    sparsity: float,
    scorer: Scorer,
    thresholds: Thresholds,
) -> masking.Masks | None:
    """The masks of single weights without arrays of scores, or None where the core cannot tell them."""
    lam = scorer.balanced(tensors, gradients)
    kind = on_the_fly(scorer.criterion, lam)
    slopes: Gradients = {} if kind == "magnitude" or gradients is None else gradients
    # What the core does not look at may be NaN too.
    unseen = {"gradient": tensors, "magnitude": gradients}.get(kind or "") or {}
    if kind is None or any(array.size and np.isnan(array.min()) for array in unseen.values()):
        return None
    chosen: masking.Masks = {}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    for names, keep in masking.shares(shapes, scope, sparsity):
        scored = [operand(name, tensors[name], slopes.get(name)) for name in names]
        alive = [masks[name].view(np.uint8) if name in masks else None for name in names]
        near, within = thresholds.near(names, keep)
        found, score = _core.topk_masks(scored, keep, kind, lam, near, alive, within)
        thresholds.note(names, keep, score)
        chosen.update(zip(names, found, strict=True))
    return {name: chosen[name] for name in tensors}
