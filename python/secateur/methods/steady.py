"""What the methods that remove at a steady rate share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..criteria import Criterion
from ..masking import Masks
from ..models.view import ModelView
from ..nn.layers import batch_count
from .base import Method
from .moments import check_share


class Steady(Method):
    """Every `every` batches the least important share of what is left goes, until the target is reached.

    Parameters
    ----------
    sparsity, criterion, lam, every, scope, granularity, include, exclude
        As for `Method`.
    rate : float
        The share of the weights left that an update removes, in (0, 1].
    begin : int
        Batches before the first removal: random weights are no candidates.
    """

    def __init__(
        self,
        sparsity: float,
        criterion: Criterion,
        lam: float | None,
        every: int,
        rate: float,
        begin: int,
        scope: str,
        granularity: str,
        include: str | Iterable[str] | None,
        exclude: str | Iterable[str] | None,
    ) -> None:
        super().__init__(sparsity, criterion, lam, every, scope, granularity, include, exclude)
        self.rate, self.begin = check_share("rate", rate), batch_count("begin", begin)
        # What should be left: what is left may be more, where a whole neuron is too much to remove as yet.
        self._left: float | None = None

    def reset(self) -> None:
        super().reset()
        self._left = None

    def due(self, step: int) -> bool:
        return step > self.begin and (step - self.begin) % self.every == 0

    def update(self, model: ModelView, step: int, rng: np.random.Generator) -> Masks:
        left = 1 - self.reached(model) if self._left is None else self._left
        self._left = max(1 - self.target, left * (1 - self.rate))
        return self.select(model, 1 - self._left, self.mean_gradients(model), rng)

    def finished(self, step: int, sparsity: float) -> bool:
        return self._left is not None and self._left <= 1 - self.target

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "left": self._left}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._left = state["left"]
