"""The last weight that a selection keeps, with which each tensor's mask is told without the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import SupportsIndex

from numpy.typing import ArrayLike

from . import _core
from ._arguments import as_number
from ._operands import Mask, count_of, size_of
from .criteria import Criterion
from .selection import scored_operands

__all__ = ["Cut", "topk_cut"]


@dataclass(frozen=True)
class Cut:
    """The last weight that a selection keeps, in the order that `topk_mask` states.

    Attributes
    ----------
    score : float
        Its score; +inf where nothing is kept.
    name : str
        The tensor it is in; "" for a lone array.
    index : int
        Its flat index there; −1 where nothing is kept.
    criterion, lam
        How scores are made, as in `importance`.
    """

    score: float
    name: str = ""
    index: int = -1
    criterion: Criterion = "l1"
    lam: float = 0.0

    def mask(
        self, weights: ArrayLike, grads: ArrayLike | None = None, *, name: str = "", start: int = 0
    ) -> Mask:
        """The mask of one tensor, or of a part of it.

        Parameters
        ----------
        weights, grads : array-like
            As in `prune_mask`; a part is one of the flattened tensor.
        name : str
            The tensor's.
        start : int
            The flat index of the part's first weight.

        Returns
        -------
        mask : ndarray of bool, of the shape of `weights`

        Raises
        ------
        ValueError, TypeError
            As `prune_mask`.
        """
        _, scored, kind = scored_operands(weights, grads, self.criterion, self.lam)
        end = self.end(name, start, scored[0][1].size)
        return _core.cut_mask(scored[0], kind, self.lam, self.score, end)

    def end(self, name: str, start: int, size: int) -> int:
        """How many of a part's first weights are kept where they score as much as the last kept one.

        Parameters
        ----------
        name, start
            As in :meth:`mask`.
        size : int
            The number of weights of the part.
        """
        key, own = name.encode(), self.name.encode()
        if key != own:
            return size if key < own else 0
        return min(max(self.index + 1 - start, 0), size)


def topk_cut(
    weights: ArrayLike | Mapping[str, ArrayLike],
    grads: ArrayLike | Mapping[str, ArrayLike] | None = None,
    *,
    k: SupportsIndex | None = None,
    sparsity: float | None = None,
    criterion: Criterion = "l1",
    lam: float = 0.0,
    near: float | None = None,
) -> Cut:
    """The last of the k most important weights: a selection without its masks.

    For weights that do not fit in memory, or lie on several machines: `Cut.mask` then gives the mask of any
    tensor, or of a part of it, and all of them together are those of `prune_mask`.

    Parameters
    ----------
    weights, grads, k, sparsity, criterion, lam, near
        As in `prune_mask`; no criterion that draws at random. Arrays may be memory maps: they are read once.

    Returns
    -------
    Cut

    Raises
    ------
    ValueError, TypeError
        As `prune_mask`.

    Examples
    --------
    >>> import secateur as sc
    >>> weights = {"a": [1.0, -3.0], "b": [0.5, 2.0]}
    >>> cut = sc.topk_cut(weights, k=2)
    >>> cut.score, cut.name, cut.index
    (2.0, 'b', 1)
    >>> cut.mask(weights["a"], name="a")
    array([False,  True])
    """
    refuse_random(criterion)
    arrays, scored, kind = scored_operands(weights, grads, criterion, lam)
    count = count_of(k, sparsity, size_of(arrays))
    guess = None if near is None else as_number(near, "near")
    if count == 0:
        # What would be refused is refused here too.
        _core.topk_bits(scored, 0, kind, lam, guess)
        return Cut(math.inf, criterion=criterion, lam=lam)
    score, at, index = _core.topk_cut(scored, count, kind, lam, guess)
    return Cut(score, scored[at][0] or "", index, criterion, lam)


def refuse_random(criterion: Criterion) -> None:
    """Raises the ValueError for a criterion that would score a weight anew at every look."""
    if criterion == "random":
        raise ValueError("criterion: 'random' draws other scores for every mask; choose another")
