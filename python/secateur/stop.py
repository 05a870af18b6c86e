"""When pruning ends, and which of the models seen on the way is the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .budgets import check_sparsity
from .nn.layers import positive


class StopRule:
    """Base of the stop rules.

    `step` is told about every model in turn, sparser and sparser. It says whether to end; `accepted` says
    whether this latest model would be a good result. Where `restores` is set, the result is the last accepted
    model, else the latest.
    """

    needs_score = True
    restores = True

    def start(self, baseline: float | None) -> None:
        """Begin with a model that scored `baseline` before pruning (None: unknown)."""
        self.accepted = True

    def step(self, sparsity: float, score: float | None) -> bool:
        """Whether to end, after a model of `sparsity` that scored `score` (more is better)."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, as `state_dict` made it."""
        vars(self).update(state)

    def __repr__(self) -> str:
        return type(self).__name__


def _not_negative(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not value >= 0:
        raise ValueError(f"{name}: expected a number of at least 0, got {value!r}")
    return float(value)


class AtSparsity(StopRule):
    """End as soon as a sparsity is reached.

    Parameters
    ----------
    sparsity : float
        In [0, 1].

    Examples
    --------
    >>> from secateur.stop import AtSparsity
    >>> rule = AtSparsity(0.5)
    >>> rule.step(0.4, None), rule.step(0.51, None)
    (False, True)
    """

    needs_score = False
    restores = False

    def __init__(self, sparsity: float) -> None:
        self.sparsity = check_sparsity(sparsity)

    def step(self, sparsity: float, score: float | None) -> bool:
        return sparsity >= self.sparsity


class MaxDrop(StopRule):
    """End when the validation falls too far below the model before pruning; the last good model is kept.

    Parameters
    ----------
    drop : float
        The largest loss of score to accept, e.g. 0.01 for one point of accuracy. Where the score before
        pruning is not known (dynamic pruning), the best so far takes its place.

    Examples
    --------
    >>> from secateur.stop import MaxDrop
    >>> rule = MaxDrop(0.01)
    >>> rule.start(0.91)
    >>> rule.step(0.5, 0.905), rule.step(0.9, 0.89)
    (False, True)
    """

    def __init__(self, drop: float) -> None:
        self.drop = _not_negative("drop", drop)
        self.start(None)

    def start(self, baseline: float | None) -> None:
        super().start(baseline)
        self.baseline = baseline
        self.best = baseline

    def step(self, sparsity: float, score: float | None) -> bool:
        assert score is not None
        self.best = score if self.best is None else max(self.best, score)
        against = self.best if self.baseline is None else self.baseline
        self.accepted = score >= against - self.drop
        return not self.accepted


class NoImprovement(StopRule):
    """End when the validation no longer improves; the best model is kept.

    A sparser model that scores as well as the best so far counts as an improvement.

    Parameters
    ----------
    patience : int
        After how many models without improvement.
    tolerance : float
        How much below the best score still counts as equally good.

    Examples
    --------
    >>> from secateur.stop import NoImprovement
    >>> rule = NoImprovement(patience=2)
    >>> rule.start(None)
    >>> [rule.step(s, score) for s, score in [(0.3, 0.9), (0.5, 0.9), (0.7, 0.88), (0.9, 0.86)]]
    [False, False, False, True]
    """

    def __init__(self, patience: int = 1, tolerance: float = 0.0) -> None:
        self.patience = positive("patience", patience)
        self.tolerance = _not_negative("tolerance", tolerance)
        self.start(None)

    def start(self, baseline: float | None) -> None:
        super().start(baseline)
        self.best: float | None = None
        self.wait = 0

    def step(self, sparsity: float, score: float | None) -> bool:
        assert score is not None
        self.accepted = self.best is None or score >= self.best - self.tolerance
        self.best = score if self.best is None else max(self.best, score)
        self.wait = 0 if self.accepted else self.wait + 1
        return self.wait >= self.patience


def check_stop(stop: Any) -> StopRule | None:
    """`stop` if it is a rule or None, else a ValueError."""
    if stop is None or isinstance(stop, StopRule):
        return stop
    raise ValueError(f"stop: expected AtSparsity, MaxDrop or NoImprovement, got {stop!r}")
