"""Which weights, blocks or patterns of a model stay: scores, then masks, or single weights without scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from . import masking
from .applying import apply_mask
from .granularity import Blocks, Pattern, Weights
from .models.view import BoolArray, FloatArray, ModelView
from .scoring import Gradients, Scorer
from .selection import ON_THE_FLY, prune_mask


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
    known = isinstance(scorer.criterion, str) and scorer.criterion in ON_THE_FLY
    if known and isinstance(granularity, Weights) and scope != "lamp":
        tensors = view.parameters()
        chosen = _on_the_fly(
            {name: tensors[name] for name in names}, gradients, masks, scope, sparsity, scorer
        )
        if chosen is not None:
            return chosen
    scores = scorer.scores(view, names, gradients, rng)
    return masking.choose(scores, masks, granularity, scope, sparsity, scorer.rms)


def _on_the_fly(
    tensors: Mapping[str, FloatArray],
    gradients: Gradients | None,
    masks: Mapping[str, BoolArray],
    scope: str,
    sparsity: float,
    scorer: Scorer,
) -> masking.Masks | None:
    """The masks of single weights without arrays of scores, or None where they might be others.

    What is removed competes here, as zeros. If none of it is among the k best, these are the k best of what
    is left too: putting the removed last moves nothing else. Only a tie at 0 can bring one among them.
    """
    lam = scorer.balanced(tensors, gradients)
    if gradients is not None:
        # Zeroed gradients would hide a NaN, and not every criterion looks at them.
        if any(np.isnan(gradients[name]).any() for name in tensors):
            return None
        gradients = {
            name: apply_mask(gradients[name], masks[name]) if name in masks else gradients[name]
            for name in tensors
        }
    chosen: masking.Masks = {}
    for names, keep in masking.shares({name: tensor.shape for name, tensor in tensors.items()}, scope, sparsity):
        weights = {name: tensors[name] for name in names}
        try:
            found = prune_mask(weights, gradients, k=keep, criterion=scorer.criterion, lam=lam)
        except ValueError:  # a NaN, which the scores' errors name by tensor
            return None
        for name in names:
            found[name] &= masks.get(name, True)
        if sum(np.count_nonzero(mask) for mask in found.values()) < keep:
            return None
        chosen |= found
    return {name: chosen[name] for name in tensors}
