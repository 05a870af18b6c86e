"""The simplest dynamic pruning: small weights go, whenever it is called."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from .. import masking, provenance
from ..granularity import Weights
from ..models.view import view

Model = TypeVar("Model")


def dynamic_pruning(model: Model, threshold: float) -> Model:
    """Remove the weights below a threshold; to be called between epochs of training.

    Parameters
    ----------
    model : model with a `ModelView`, e.g. secateur.nn.Sequential
        Changed in place: prunable weights with |w| < threshold become 0, and stay so in later training.
    threshold : float
        At least 0.

    Returns
    -------
    model
        The same object.

    Raises
    ------
    ValueError
        If the threshold is negative or no number, or a weight is NaN; nothing has been changed then.

    Examples
    --------
    >>> import secateur as sc
    >>> model = sc.nn.Sequential([sc.nn.Dense(4), sc.nn.Dense(2)]).build((3,), random_state=0)
    >>> _ = sc.dynamic_pruning(model, 0.5)
    >>> model.num_parameters(nonzero=True), model.num_parameters()
    (11, 26)
    """
    number = isinstance(threshold, (int, float, np.integer, np.floating)) and not isinstance(threshold, bool)
    if not number or not threshold >= 0:
        raise ValueError(f"threshold: expected a number of at least 0, got {threshold!r}")
    model_view: Any = view(model)
    scores = {}
    for name, tensor in model_view.parameters().items():
        scores[name] = np.abs(tensor)
        if np.isnan(scores[name]).any():
            raise ValueError(f"model: {name} has NaN")
    model_view.set_masks(masking.below(scores, model_view.masks(), Weights(), threshold))
    reached = masking.sparsity(model_view.masks(), {name: score.size for name, score in scores.items()})
    model_view.record(
        provenance.step("dynamic_pruning", "l1", Weights(), "global", reached, threshold=float(threshold)),
        goes_on=True,
    )
    return model
