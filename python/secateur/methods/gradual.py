"""Gradual pruning: sparsity grows with training along a schedule."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..criteria import Criterion
from ..masking import Masks
from ..models.view import ModelView
from ..nn.callbacks import FitState
from ..schedules import Curve, check_curve, share_at
from .base import Method
from .moments import check_moment, ordered


class Gradual(Method):
    """Sparsity grows from 0 to the target between two moments of the training.

    Every `every` batches all weights that are left are scored, and as many of the lowest removed as the
    schedule wants; after `end` the model recovers.

    Parameters
    ----------
    sparsity : float
        The target: the fraction of the prunable weights to remove.
    criterion : {"l1", "l2", "gradient", "taylor", "combined", "random"} or callable
        As for `importance`; gradients are means of their absolute values over the batches since the last
        update.
    every : int
        Batches between two updates.
    begin, end : int or float
        The moment before the first removal and that of the last one: a number of batches, or a share of the
        whole training as a float.
    schedule : {"cubic", "linear"} or callable
        The share of the target reached by the progress between both, see `secateur.schedules`.
    scope, granularity, include, exclude, lam
        As for `prune`. Neurons are masked during training, with what reads them; `remove_dead_neurons` makes
        the trained model's arrays smaller.

    References
    ----------
    Zhu & Gupta, To prune, or not to prune: exploring the efficacy of pruning for model compression.
    arXiv 1710.01878.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.Gradual(0.9, criterion="l1", every=100).sparsity
    0.9
    """

    def __init__(
        self,
        sparsity: float,
        criterion: Criterion = "l1",
        every: int = 100,
        begin: int | float = 0.1,
        end: int | float = 0.7,
        schedule: str | Curve = "cubic",
        scope: str = "global",
        granularity: str = "weight",
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
        lam: float | None = None,
    ) -> None:
        super().__init__(sparsity, criterion, lam, every, scope, granularity, include, exclude)
        self.begin, self.end = check_moment("begin", begin), check_moment("end", end)
        self.curve = check_curve(schedule)
        self._first = self._last = 0

    def start(self, model: ModelView, state: FitState) -> None:
        super().start(model, state)
        self._first, last = ordered(state.steps, begin=self.begin, end=self.end)
        self._last = max(1, last)

    def due(self, step: int) -> bool:
        between = self._first < step <= self._last
        return step == self._last or (between and (step - self._first) % self.every == 0)

    def update(self, model: ModelView, step: int, rng: np.random.Generator) -> Masks:
        return self.select(model, self.wanted(step), self.mean_gradients(model), rng)

    def wanted(self, step: int) -> float:
        """The sparsity after batch number `step` (from 1)."""
        progress = (step - self._first) / max(1, self._last - self._first)
        share = share_at(self.curve, min(1.0, progress)) if step < self._last else 1.0
        return share * self.target

    def late(self, step: int) -> bool:
        return self.finished(step, self.target)

    def finished(self, step: int, sparsity: float) -> bool:
        return step >= self._last
