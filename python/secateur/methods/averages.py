"""Gradients averaged over batches: those of a single batch are mostly noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..models.view import FloatArray


class GradientMean:
    """The mean of |gradient| since the last update.

    The sign is dropped before the mean, as every criterion drops it after.
    """

    def __init__(self) -> None:
        self._sums: dict[str, FloatArray] = {}
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, gradients: Mapping[str, FloatArray]) -> None:
        """One more batch."""
        self._count += 1
        for name, gradient in gradients.items():
            if name in self._sums:
                self._sums[name] += np.abs(gradient)
            else:
                self._sums[name] = np.abs(gradient)

    def take(self) -> dict[str, FloatArray]:
        """The means, which begin anew."""
        means, count = self._sums, self._count
        if count > 1:
            for total in means.values():
                total *= np.float32(1 / count)
        self.reset()
        return means

    def reset(self) -> None:
        """Forget everything."""
        self._sums, self._count = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """Copies of the sums, and their number."""
        return {"sums": {name: total.copy() for name, total in self._sums.items()}, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._sums = {name: np.array(total, np.float32) for name, total in state["sums"].items()}
        self._count = int(state["count"])
