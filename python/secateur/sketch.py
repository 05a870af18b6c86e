"""Exact selection over weights that no machine sees whole: summaries that are merged, in a few rounds."""

from __future__ import annotations

import math
import sys
from functools import partial
from typing import SupportsIndex

from numpy.typing import ArrayLike

from ._arguments import as_integer
from ._operands import count_of
from ._rounds import Narrowing, Part, Round, Sampling
from .criteria import Criterion, check_criterion
from .cutting import Cut, refuse_random
from .selection import scored_operands

__all__ = ["Sketch"]


class Sketch:
    """A summary of some of the weights, from which, merged with those of all others, their cut is found.

    Exactly the cut of `topk_cut` over everything, whoever summarised which part, in any order. Every round
    each weight is added to one sketch, and all sketches are merged into one; it either tells the cut, or what
    the sketches of the next round have to find out. A sketch does not grow with the weights: it holds at most
    3 MB, and two numbers for each tensor that has weights whose scores are in question.

    The first round looks at a sample. One or two more, which read all weights, most often suffice; where more
    than 65,536 weights have the very score of the cut (of 16-bit weights, say), two more read one tensor.

    Parameters
    ----------
    k : int, optional
        How many weights to keep.
    sparsity : float in [0, 1], optional
        Instead of `k`: the share to remove; n − round_half_even(sparsity · n) of n weights are kept.
    criterion, lam
        How scores are made, as in `importance`; no criterion that draws at random. A callable sees the
        weights as they are added.

    Raises
    ------
    ValueError
        If not exactly one of `k` and `sparsity` is given, or another argument is wrong.

    Examples
    --------
    >>> import secateur as sc
    >>> shards = [("a", 0, [1.0, -3.0]), ("a", 2, [0.5, 2.0]), ("b", 0, [4.0])]
    >>> def summary(question, shard):  # on the machine that has the shard
    ...     name, start, weights = shard
    ...     sketch = question.empty()
    ...     sketch.add(weights, name=name, start=start)
    ...     return sketch
    >>> sketch = sc.Sketch(k=3)
    >>> while True:
    ...     for part in [summary(sketch, shard) for shard in shards]:
    ...         sketch.merge(part)
    ...     if cut := sketch.finish():
    ...         break
    ...     sketch = sketch.refine()
    >>> cut.score, cut.name, cut.index
    (2.0, 'a', 3)
    >>> cut.mask([0.5, 2.0], name="a", start=2)
    array([False,  True])
    """

    def __init__(
        self,
        *,
        k: SupportsIndex | None = None,
        sparsity: float | None = None,
        criterion: Criterion = "l1",
        lam: float = 0.0,
    ) -> None:
        check_criterion(criterion, lam)
        refuse_random(criterion)
        # How many weights there are is not known yet.
        count_of(k, sparsity, sys.maxsize)
        self._target = k, sparsity
        self._rule = criterion, lam
        self._n = 0
        self._round: Round = Sampling()

    def add(
        self, weights: ArrayLike, grads: ArrayLike | None = None, *, name: str = "", start: int = 0
    ) -> None:
        """Take a part of a tensor into the summary.

        Parameters
        ----------
        weights, grads : array-like
            As in `prune_mask`. Arrays may be memory maps: they are not copied.
        name : str
            The tensor's.
        start : int
            The flat index of the part's first weight.

        Raises
        ------
        ValueError, TypeError
            As `prune_mask`; a NaN is named by its tensor, part and place there.
        """
        if not isinstance(name, str):
            raise TypeError(f"name: expected a str, got {name!r}")
        if (first := as_integer(start, "start")) < 0:
            raise ValueError(f"start: expected at least 0, got {first}")
        one = (weights, grads) if not name else ({name: weights}, None if grads is None else {name: grads})
        criterion, lam = self._rule
        try:
            _, scored, kind = scored_operands(one[0], one[1], criterion, lam)
            if scored[0][1].size:
                self._round.add(Part(scored[0], kind, lam, name, first))
        except ValueError as error:
            where = f", in the part from flat index {first}" if first else ""
            raise ValueError(f"{error}{where}") from None

    def merge(self, other: Sketch) -> None:
        """Take what another sketch of the same round has seen into this one.

        Raises
        ------
        ValueError
            If it belongs to another round or selection.
        """
        if not isinstance(other, Sketch):
            raise TypeError(f"other: expected a Sketch, got {type(other).__name__}")
        if self._question() != other._question():
            raise ValueError("other: it belongs to another round, or to another selection")
        self._round.merge(other._round)  # type: ignore[arg-type]

    def finish(self) -> Cut | None:
        """The cut; None where another round is needed.

        Raises
        ------
        ValueError
            If `k` is larger than the number of weights, or this round saw others than the first.
        """
        k = self._count()
        if k == 0 and isinstance(self._round, Narrowing):
            return Cut(math.inf, "", -1, *self._rule)
        last = self._round.last(k)
        return None if last is None else Cut(*last, *self._rule)

    def refine(self) -> Sketch:
        """An empty sketch for the next round.

        Raises
        ------
        ValueError
            As :meth:`finish`.
        """
        count = self._count()
        following = self.empty()
        following._n = self._seen()
        following._round = self._round.next(count)
        return following

    def empty(self) -> Sketch:
        """A sketch of the same round that has seen nothing."""
        other = Sketch(
            k=self._target[0], sparsity=self._target[1], criterion=self._rule[0], lam=self._rule[1]
        )
        other._n = self._n
        other._round = type(self._round)(*self._round.question)  # type: ignore[arg-type]
        return other

    def _question(self) -> tuple[object, ...]:
        """What has to be the same in sketches that are merged."""
        criterion, lam = self._rule
        return self._target, _identity(criterion), lam, self._n, type(self._round), self._round.question

    def _seen(self) -> int:
        """How many weights the first round saw."""
        return self._round.n if isinstance(self._round, Sampling) else self._n

    def _count(self) -> int:
        """How many weights are kept."""
        return count_of(*self._target, self._seen())


def _identity(criterion: Criterion) -> object:
    """What a criterion is known by: one that has been to another process is another object."""
    code = getattr(criterion, "__code__", None)
    if code is not None:
        return code, getattr(criterion, "__defaults__", None)
    if isinstance(criterion, partial):
        return _identity(criterion.func), repr((criterion.args, criterion.keywords))
    return criterion
