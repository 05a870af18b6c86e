"""Gradient-based dynamic pruning: by weights and gradients at once."""

from __future__ import annotations

from collections.abc import Iterable

from ..criteria import Criterion
from .steady import Steady


class GradientDynamic(Steady):
    """Gradient-based dynamic pruning: every `every` batches the least important share of what is left goes.

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

    Raises
    ------
    ValueError
        If an argument is not one of the above.

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
        super().__init__(sparsity, criterion, lam, every, rate, begin, scope, granularity, include, exclude)
