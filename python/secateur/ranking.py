"""Which weights, blocks or patterns of a model stay: scores, then masks, or single weights without scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from . import _core, masking
from ._operands import operand
from .granularity import Blocks, Pattern, Weights
from .models.view import BoolArray, FloatArray, ModelView
from .scoring import Gradients, Scorer
from .selection import on_the_fly


def choose(
    view: ModelView,
    names: Sequence[str],
    gradients: Gradients | None,
    granularity: Weights | Blocks | Pattern,
    scope: str,
    sparsity: float,
    scorer: Scorer,
    rng: np.random.Generator,
) -> masking.Masks:
    """The masks that bring the tensors `names` to `sparsity`; see `masking.choose`.

    Raises
    ------
    ValueError
        For NaN among the weights or gradients, naming the tensor.
    """
    masks = view.masks()
    if isinstance(granularity, Weights) and scope != "lamp":
        tensors = view.parameters()
        competing = {name: tensors[name] for name in names}
        try:
            chosen = _without_scores(competing, gradients, masks, scope, sparsity, scorer)
        except ValueError:
            # A NaN, which the scores' errors name by tensor, or a layout that the core refuses.
            chosen = None
        if chosen is not None:
            return chosen
    scores = scorer.scores(view, names, gradients, rng)
    return masking.choose(scores, masks, granularity, scope, sparsity, scorer.rms)


def _without_scores(
    tensors: Mapping[str, FloatArray],
    gradients: Gradients | None,
    masks: Mapping[str, BoolArray],
    scope: str,
    sparsity: float,
    scorer: Scorer,
) -> masking.Masks | None:
    """The masks of single weights without arrays of scores, or None where they might be others.

    What is removed competes here, with a score of 0. If none of it is among the k best, these are the k best
    of what is left too: putting the removed last moves nothing else. One is among them only where scores of 0
    tie, or where more than is left is to stay.
    """
    lam = scorer.balanced(tensors, gradients)
    kind = on_the_fly(scorer.criterion, lam)
    # What the core does not look at, or sees zeroed, may be NaN too.
    unseen = [*(gradients or {}).values(), *(tensors.values() if kind == "gradient" else ())]
    if kind is None or any(np.isnan(array).any() for array in unseen):
        return None
    slopes: Mapping[str, FloatArray] = {}
    if kind != "magnitude" and gradients is not None:
        slopes = {name: _zeroed(gradients[name], masks.get(name)) for name in tensors}
    chosen: masking.Masks = {}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    for names, keep in masking.shares(shapes, scope, sparsity):
        scored = [operand(name, tensors[name], slopes.get(name)) for name in names]
        found, _ = _core.topk_masks(scored, keep, kind, lam)
        for name, mask in zip(names, found, strict=True):
            chosen[name] = np.logical_and(mask, masks[name], out=mask) if name in masks else mask
        if sum(np.count_nonzero(chosen[name]) for name in names) < keep:
            return None
    return {name: chosen[name] for name in tensors}


def _zeroed(gradient: FloatArray, mask: BoolArray | None) -> FloatArray:
    """The gradient, 0 where the weight is removed: by whatever criterion, it scores 0 then."""
    if mask is None:
        return gradient
    out = np.empty_like(gradient)
    _core.mask_into(out.view(np.uint32), mask.view(np.uint8), gradient.view(np.uint32))
    return out
