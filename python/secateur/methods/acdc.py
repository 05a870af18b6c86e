"""Alternating compressed and decompressed training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..criteria import Criterion
from ..masking import Masks
from ..models.view import ModelView
from ..nn.callbacks import FitState
from ..nn.layers import positive
from .base import Method
from .moments import check_moment, ordered


class ACDC(Method):
    """Alternating compressed and decompressed training: sparse and dense phases take turns.

    ::

        dense    ───────┐     ┌─────┐     ┌─────┐
        sparse          └─────┘     └─────┘     └──────────────
                      begin                    end

    A phase that begins sparse cuts all weights to the target at once; one that begins dense lets all of them
    grow again, from 0. Masks that the model had are lifted with the others.

    Parameters
    ----------
    sparsity : float
        Of the sparse phases: the fraction of the prunable weights to remove.
    cycles : int
        How many sparse phases there are, the last one included, which begins at `end` and does not end.
    begin, end : int or float
        The moments of the first and of the last cut: a number of batches, or a share of the training as a
        float. The phases in between are equally long. With one cycle, `end` alone counts.
    criterion : {"l1", "l2", "gradient", "taylor", "combined", "random"} or callable
        As for `importance`; gradients are means of their absolute values over the batches of the phase.
    scope, granularity, include, exclude, lam
        As for `prune`; no neurons.

    Raises
    ------
    ValueError
        If an argument is not one of the above; at the start of training, if it is too short for the phases.

    References
    ----------
    Peste et al., AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks. NeurIPS 2021,
    arXiv 2106.12379.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.ACDC(0.9, cycles=4).cycles
    4
    """

    def __init__(
        self,
        sparsity: float,
        cycles: int = 5,
        begin: int | float = 0.1,
        end: int | float = 0.75,
        criterion: Criterion = "l1",
        scope: str = "global",
        granularity: str = "weight",
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
        lam: float | None = None,
    ) -> None:
        super().__init__(sparsity, criterion, lam, 1, scope, granularity, include, exclude)
        self._without_neurons()
        self.cycles = positive("cycles", cycles)
        self.begin, self.end = check_moment("begin", begin), check_moment("end", end)
        self._turns: list[int] = []

    def start(self, model: ModelView, state: FitState) -> None:
        super().start(model, state)
        first, last = ordered(state.steps, begin=self.begin, end=self.end)
        phases = 2 * self.cycles - 2
        turns = [first + round((last - first) * i / phases) for i in range(phases)]
        self._turns = [max(1, step) for step in (*turns, last)]
        if len(set(self._turns)) < len(self._turns):
            raise ValueError(
                f"cycles: {last - first} batches between begin and end are too few for {self.cycles}"
            )

    def initial(self, model: ModelView, state: FitState) -> Masks | None:
        return self._all(model) if any(name in model.masks() for name in self.names) else None

    def due(self, step: int) -> bool:
        return step in self._turns

    def update(self, model: ModelView, step: int, rng: np.random.Generator) -> Masks:
        gradients = self.mean_gradients(model)
        dense = self._turns.index(step) % 2
        return self._all(model) if dense else self.select(model, self.target, gradients, rng)

    def late(self, step: int) -> bool:
        return self.finished(step, self.target)

    def finished(self, step: int, sparsity: float) -> bool:
        return step >= self._turns[-1]

    def _all(self, model: ModelView) -> Masks:
        tensors = model.parameters()
        return {name: np.ones(tensors[name].shape, bool) for name in self.names}
