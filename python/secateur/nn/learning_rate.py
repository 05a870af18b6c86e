"""The learning rate over a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from .callbacks import Callback, FitState
from .layers import batch_count

RATES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
}
"""The share of the optimizer's learning rate by the progress of the training, from 0 to 1."""


class LearningRate(Callback):
    """Let the learning rate follow a curve, batch by batch, from what the optimizer has to 0.

    When training ends, the optimizer has its own learning rate again.

    Parameters
    ----------
    schedule : {"cosine", "linear"} or callable
        The share of the optimizer's learning rate by progress in [0, 1): "cosine" is half a wave (Loshchilov
        & Hutter, SGDR, arXiv 1608.03983). A callable returns numbers of at least 0.
    warmup : int
        Over so many first batches the rate also grows, in equal steps, from 0.

    Raises
    ------
    ValueError
        If an argument is not one of the above.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> x = np.random.default_rng(0).normal(size=(64, 4))
    >>> model = nn.Sequential([nn.Dense(2)])
    >>> adam = nn.Adam(0.01)
    >>> rate = nn.LearningRate("cosine")
    >>> y = (x[:, 0] > 0).astype(int)
    >>> _ = model.fit(x, y, epochs=4, optimizer=adam, callbacks=[rate], random_state=0)
    >>> adam.learning_rate
    0.01
    """

    def __init__(self, schedule: str | Callable[[float], float] = "cosine", warmup: int = 0) -> None:
        if not callable(schedule) and (not isinstance(schedule, str) or schedule not in RATES):
            choices = ", ".join(RATES)
            raise ValueError(f"schedule: unknown name {schedule!r}; choose from {choices} or a callable")
        self.curve = schedule if callable(schedule) else RATES[schedule]
        self.warmup = batch_count("warmup", warmup)
        self.base: float | None = None

    def on_train_begin(self, state: FitState) -> None:
        if not state.continues(self):
            self.base = None

    def on_epoch_begin(self, state: FitState) -> None:
        self._set(state)

    def on_batch_end(self, state: FitState) -> None:
        self._set(state)

    def _set(self, state: FitState) -> None:
        """The rate of the next batch."""
        if self.base is None:
            self.base = state.optimizer.learning_rate
        step = state.batch + 1
        if step >= state.steps:
            return
        share = float(self.curve(step / state.steps))
        if not 0 <= share < math.inf:
            raise ValueError(f"schedule: expected numbers of at least 0, got {share!r} for batch {step}")
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        state.optimizer.learning_rate = self.base * share * warm

    def on_train_end(self, state: FitState) -> None:
        if self.base is not None:
            state.optimizer.learning_rate = self.base

    def state_dict(self) -> dict[str, Any]:
        return {"base": self.base}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.base = state["base"]
