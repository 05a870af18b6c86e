"""Sparse dynamic pruning: by magnitude, a little after every batch."""

from __future__ import annotations

from collections.abc import Iterable

from ..criteria import Criterion
from .steady import Steady


class SparseDynamic(Steady):
    """Sparse dynamic pruning: after every batch a small share of what is left goes, by magnitude.

    The network is never cut by more than a thousandth at once, and learns around it in the next batch.

    Parameters
    ----------
    sparsity : float
        The target: the fraction of the prunable weights to remove.
    criterion : {"l1", "l2"} or another, or callable
        As for `importance`. Of single weights both are |w|; of blocks and neurons the mean, and the root mean
        square.
    every : int
        Batches between two updates.
    rate : float
        The share of the weights left that an update removes, in (0, 1]: the target is reached after about
        ``every * log(1 / (1 - sparsity)) / rate`` batches.
    begin : int
        Batches before the first removal: random weights are no candidates.
    scope, granularity, include, exclude
        As for `prune`.
    lam : float, optional
        λ of S = |w| + λ·|∂L/∂w|; 0 if not given.

    Raises
    ------
    ValueError
        If an argument is not one of the above.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.SparseDynamic(0.9, begin=500).every
    1
    """

    def __init__(
        self,
        sparsity: float,
        criterion: Criterion = "l1",
        every: int = 1,
        rate: float = 0.001,
        begin: int = 0,
        scope: str = "global",
        granularity: str = "weight",
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
        lam: float | None = None,
    ) -> None:
        super().__init__(sparsity, criterion, lam, every, rate, begin, scope, granularity, include, exclude)
