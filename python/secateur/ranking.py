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
    if isinstance(granularity, Weights) and scope not in masking.ADAPTED:
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
        found, _ = _core.topk_masks(scored, keep, kind, lam, alive=alive)
        chosen.update(zip(names, found, strict=True))
    return {name: chosen[name] for name in tensors}
