"""How sparsity grows from step to step: one-shot, linear, cubic, cyclic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from .nn.layers import positive

Curve: TypeAlias = Callable[[float], float]
"""From progress in [0, 1] to the share of the final sparsity in [0, 1]; 1 at the end."""


def linear(progress: float) -> float:
    """In equal steps."""
    return progress


def cubic(progress: float) -> float:
    """Fast at first, when there is much to spare, then ever slower.

    References
    ----------
    Zhu & Gupta, To prune, or not to prune: exploring the efficacy of pruning for model compression.
    arXiv 1710.01878.

    Examples
    --------
    >>> from secateur.schedules import cubic
    >>> [cubic(t / 4) for t in range(5)]
    [0.0, 0.578125, 0.875, 0.984375, 1.0]
    """
    return 1 - (1 - progress) ** 3


CURVES: dict[str, Curve] = {"cubic": cubic, "linear": linear}


def check_curve(curve: Any) -> Curve:
    """The curve of that name, or the callable given; else a ValueError that lists the choices."""
    if callable(curve):
        return curve  # type: ignore[no-any-return]
    if not isinstance(curve, str) or curve not in CURVES:
        raise ValueError(f"schedule: unknown name {curve!r}; choose from {', '.join(CURVES)} or a callable")
    return CURVES[curve]


def share_at(curve: Curve, progress: float) -> float:
    """What the curve gives, if it is a share, else a ValueError."""
    found = float(curve(progress))
    if not 0 <= found <= 1:
        raise ValueError(f"schedule: expected shares in [0, 1], got {found!r} for progress {progress:g}")
    return found


@dataclass(frozen=True)
class Schedule:
    """Steps of static pruning, with fine-tuning after each.

    Parameters
    ----------
    curve : {"linear", "cubic"} or callable
        The share of the final sparsity by progress.
    steps : int
        How many.
    cycles : int
        How often to go through them. Every cycle begins anew from no sparsity, so that weights removed early
        may come back (Srinivas et al., Cyclical Pruning for Sparse Neural Networks, arXiv 2202.01290).

    Examples
    --------
    >>> from secateur.schedules import Schedule
    >>> [round(share, 3) for share in Schedule("cubic", steps=3).shares()]
    [0.704, 0.963, 1.0]
    >>> Schedule("linear", steps=2, cycles=2).shares()
    [0.5, 1.0, 0.0, 0.5, 1.0]
    """

    curve: str | Curve = "cubic"
    steps: int = 5
    cycles: int = 1

    def __post_init__(self) -> None:
        check_curve(self.curve)
        for name in ("steps", "cycles"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        self.shares()

    def shares(self) -> list[float]:
        """The share of the final sparsity at every step; a 0 in between frees all weights again."""
        curve = check_curve(self.curve)
        once = [share_at(curve, i / self.steps) for i in range(1, self.steps + 1)]
        return [*once, *([0.0, *once] * (self.cycles - 1))]


NAMED: dict[str, Schedule] = {
    "cubic": Schedule("cubic"),
    "cyclic": Schedule("cubic", cycles=3),
    "linear": Schedule("linear"),
    "one-shot": Schedule("linear", steps=1),
}


def check_schedule(schedule: Any) -> Schedule:
    """The `Schedule` meant by an object, a name or None (one-shot); else a ValueError listing choices."""
    if schedule is None:
        return NAMED["one-shot"]
    if isinstance(schedule, Schedule):
        return schedule
    if not isinstance(schedule, str) or schedule not in NAMED:
        raise ValueError(
            f"schedule: unknown name {schedule!r}; choose from {', '.join(NAMED)} or a Schedule object"
        )
    return NAMED[schedule]
