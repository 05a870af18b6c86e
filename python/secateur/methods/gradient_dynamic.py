"""Pruning by weights and gradients at once, at a steady rate."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..criteria import Criterion
from ..masking import Masks
from ..models.view import ModelView
from .base import Method


class GradientDynamic(Method):
    """Every `every` batches the least important share of what is left goes, until the target is reached.

    A weight counts as much as S = |w| + λ·|∂L/∂w| says: a small weight that the loss pulls at stays, so that
    it can still grow. |∂L/∂w| is the mean over the batches since the last update, which is nearly free.

    Parameters
    ----------
    sparsity : float
        The target: the fraction of the prunable weights to remove.
    criterion : {"combined", "taylor", "gradient"} or another, or callable
        As for `importance`.
    lam : float, optional
        λ of the "combined" criterion; the default makes both terms equally large on average.
    every : int
        Batches between two updates.
    rate : float
        The share of the weights left that an update removes, in (0, 1].
    begin : int
        Batches before the first removal: random weights are no candidates.
    scope, granularity, include, exclude
        As for `prune`.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.GradientDynamic(0.9, every=50, rate=0.2).rate
    0.2
    """

    def __init__(
        self,
        sparsity: float,
        criterion: Criterion = "combined",
        every: int = 100,
        rate: float = 0.05,
        begin: int = 0,
        scope: str = "global",
        granularity: str = "weight",
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
        lam: float | None = None,
    ) -> None:
        super().__init__(sparsity, criterion, lam, every, scope, granularity, include, exclude)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(f"rate: expected a number in (0, 1], got {rate!r}")
        if isinstance(begin, bool) or not isinstance(begin, (int, np.integer)) or begin < 0:
            raise ValueError(f"begin: expected a number of batches of at least 0, got {begin!r}")
        self.rate, self.begin = float(rate), int(begin)

    def due(self, step: int) -> bool:
        return step > self.begin and (step - self.begin) % self.every == 0

    def update(self, model: ModelView, step: int, rng: np.random.Generator) -> Masks:
        left = 1 - self.reached(model)
        sparsity = min(self.target, 1 - left * (1 - self.rate))
        return self.select(model, sparsity, self.mean_gradients(model), rng)

    def finished(self, step: int, sparsity: float) -> bool:
        # Groups reach the target to within one of them; another update would find nothing to remove.
        return sparsity >= self.target - 1 / max(1, sum(self._sizes.values()))
