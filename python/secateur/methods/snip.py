"""Single-shot network pruning: before the training, by what the loss would lose."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..masking import Masks
from ..models.view import ModelView
from ..nn.callbacks import FitState
from ..nn.layers import positive
from .base import Method


class SNIP(Method):
    """Single-shot network pruning: connections are judged once, at the first weights, by |w·∂L/∂w|.

    The gradients are those of the mean loss over samples drawn from the training data. Nothing is removed
    after that. What is missing from the model already stays so.

    Parameters
    ----------
    sparsity : float
        The fraction of the prunable weights to remove.
    samples : int
        How many samples of the training data to take gradients from, as far as there are.
    scope, granularity, include, exclude
        As for `prune`.

    Raises
    ------
    ValueError
        If an argument is not one of the above.

    References
    ----------
    Lee et al., SNIP: Single-shot Network Pruning based on Connection Sensitivity. ICLR 2019, arXiv
    1810.02340.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.SNIP(0.95).samples
    1024
    """

    def __init__(
        self,
        sparsity: float,
        samples: int = 1024,
        scope: str = "global",
        granularity: str = "weight",
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
    ) -> None:
        super().__init__(sparsity, "taylor", None, 1, scope, granularity, include, exclude)
        self.samples = positive("samples", samples)

    def initial(self, model: ModelView, state: FitState) -> Masks:
        count = min(self.samples, len(state.x))
        chosen = np.sort(state.rng.choice(len(state.x), count, replace=False))
        gradients = model.gradients((state.x[chosen], state.y[chosen]))
        return self.select(model, self.target, gradients, state.rng)

    def due(self, step: int) -> bool:
        return False

    def finished(self, step: int, sparsity: float) -> bool:
        return True
