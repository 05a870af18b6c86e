"""What a sketch asks of every part of the weights, round by round, and how the answers are put together.

::

    Sampling ──► Narrowing ──► … ──► Narrowing to one score ──► Placing ──► …
    about where    how many scores are      how many weights       at which index,
    is the cut?    above, and in each       have it, by tensor     in steps of a range
                   step of a range?

A round is answered from the weights and its own numbers alone, so that an answer that was lost can be had
again from any copy of the weights. The size of answers does not depend on how many weights there are.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._operands import Operand

ROOM = 1 << 16
"""Scores that are told one by one where no more than so many are in question; also the steps of a range."""
_SAMPLE = 1 << 18
"""Scores of a sample, of which no more than about `ROOM` come from one part."""
_RUN = 16
"""Weights of a sample that lie side by side: a cache line of float32."""
_PIECE = 1 << 20
"""Weights that are looked at together for their indices."""
_DEVIATIONS = 4.0
"""Half the width of what a sample leaves in question, in standard deviations of a rank in it."""

_T = TypeVar("_T")

Last: TypeAlias = "tuple[float, str, int]"
"""Score, tensor and flat index of the last weight that is kept."""


class Part(NamedTuple):
    """Some of a tensor's weights, one after the other."""

    operand: Operand
    kind: str
    lam: float
    name: str
    start: int

    @property
    def size(self) -> int:
        return int(self.operand[1].size)

    @property
    def long(self) -> bool:
        """Whether scores are float64."""
        return self.operand[1].dtype == np.float64

    def piece(self, first: int, last: int) -> Part:
        """The weights from `first` to before `last`."""
        name, array, grads, half = self.operand
        cut = [None if x is None else x.reshape(-1)[first:last] for x in (array, grads)]
        assert cut[0] is not None
        return self._replace(operand=(name, cut[0], cut[1], half), start=self.start + first)


@dataclass
class _Steps:
    """How many of some integers lie in each of at most `ROOM` steps of a range."""

    low: int
    high: int
    counts: NDArray[np.uint64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(((self.high - self.low) >> self.shift) + 1, np.uint64)

    @property
    def shift(self) -> int:
        """The logarithm of a step's width."""
        return max(0, (self.high - self.low).bit_length() - (ROOM.bit_length() - 1))

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def holding(self, rank: int, *, falling: bool) -> tuple[int, int]:
        """The ends of the step that holds the integer of this rank."""
        order = self.counts[::-1] if falling else self.counts
        step = int(np.searchsorted(np.cumsum(order), np.uint64(rank)))
        step = len(order) - 1 - step if falling else step
        low = self.low + (step << self.shift)
        return low, min(self.high, low + (1 << self.shift) - 1)


@dataclass
class Sampling:
    """A sample of the scores, one in 2^level, thinned out as it grows."""

    n: int = 0
    long: bool = False
    level: int = 0
    scores: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @property
    def question(self) -> tuple[object, ...]:
        return ()

    def add(self, part: Part) -> None:
        size = part.size
        # Any sample will do; the same part gives the same one.
        rng = np.random.default_rng([zlib.crc32(part.name.encode()), part.start])
        level = max(self.level, size.bit_length() - ROOM.bit_length() + 1)
        share = size / (_RUN << level)
        many = int(share + rng.random()) if level else math.ceil(share)
        # One of each stretch of the part, or all of it.
        first = (np.arange(many) + (rng.random(many) if level else 0)) * (
            size / max(1, many) if level else _RUN
        )
        at = np.clip(first.astype(np.int64), 0, max(0, size - _RUN) if level else size)
        scores = _core.scores_at(part.operand, part.kind, part.lam, at, _RUN)
        self.merge(Sampling(size, part.long, level, scores))

    def merge(self, other: Sampling) -> None:
        self.n += other.n
        self.long |= other.long
        level = max(self.level, other.level)
        both = [_thinned(of.scores, level - of.level) for of in (self, other)]
        while sum(len(scores) for scores in both) > _SAMPLE:
            level += 1
            both = [_thinned(scores, 1) for scores in both]
        self.level, self.scores = level, np.concatenate(both)

    def last(self, k: int) -> Last | None:
        return None

    def next(self, k: int) -> Narrowing:
        smallest, largest = _ends(self.long)
        if k == 0:
            return Narrowing(largest, largest, self.long, self.n)
        scores = np.sort(self.scores)[::-1]
        size, share = len(scores), k / self.n
        margin = 0.0 if size == self.n else _DEVIATIONS * np.sqrt(size * share * (1 - share)) + 16

        def at(rank: float, beyond: int) -> int:
            inside = 1 <= rank <= size
            return _core.key_of(float(scores[int(rank) - 1]), self.long) if inside else beyond

        middle = k if size == self.n else share * size
        return Narrowing(at(middle + margin, smallest), at(middle - margin, largest), self.long, self.n)


@dataclass
class Narrowing:
    """How many scores are above a range of keys, and in each step of it; which, where they are few."""

    low: int
    high: int
    long: bool
    expected: int
    n: int = 0
    above: int = 0
    inside: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    found: list[tuple[str, NDArray[np.uint64], NDArray[np.uint64]]] | None = field(default_factory=list)

    def __post_init__(self) -> None:
        self.steps = _Steps(self.low, self.high)

    @property
    def question(self) -> tuple[object, ...]:
        return self.low, self.high, self.long, self.expected

    def add(self, part: Part) -> None:
        if part.long and not self.long:
            raise ValueError("weights: expected those of the first round, which had no float64 among them")
        # Telling them one by one costs time, and is in vain where there are too many already.
        room = ROOM - self.steps.total if self.found is not None else 0
        above, counts, keys, at = _core.tally(
            part.operand, part.kind, part.lam, self.long, self.low, self.high, self.steps.shift, room
        )
        answer = Narrowing(self.low, self.high, self.long, self.expected, part.size, above)
        answer.steps.counts = counts
        if inside := int(counts.sum()):
            answer.inside = {part.name: inside}
            answer.ends = {part.name: part.start + part.size}
            answer.found = [(part.name, keys, at + np.uint64(part.start))] if len(keys) else None
        self.merge(answer)

    def merge(self, other: Narrowing) -> None:
        self.n += other.n
        self.above += other.above
        self.steps.counts = self.steps.counts + other.steps.counts
        for name, inside in other.inside.items():
            self.inside[name] = self.inside.get(name, 0) + inside
            self.ends[name] = max(self.ends.get(name, 0), other.ends[name])
        self.found = _joined(self.found, other.found, self.steps.total)

    def last(self, k: int) -> Last | None:
        rank = self._rank(k)
        if self.found is None or not 1 <= rank <= self.steps.total:
            return None
        names = sorted(self.inside, key=str.encode)
        place = {name: at for at, name in enumerate(names)}
        tensor = np.concatenate([np.full(len(keys), place[name]) for name, keys, _ in self.found])
        keys = np.concatenate([keys for _, keys, _ in self.found])
        at = np.concatenate([at for _, _, at in self.found])
        # By falling key, which is what ~ is for, then tensor, then index.
        one = np.lexsort((at, tensor, ~keys))[rank - 1]
        return _core.score_of(int(keys[one]), self.long), names[tensor[one]], int(at[one])

    def next(self, k: int) -> Narrowing | Placing:
        rank = self._rank(k)
        smallest, largest = _ends(self.long)
        if rank < 1:
            return self._with(min(self.high + 1, largest), largest)
        if rank > self.steps.total:
            return self._with(smallest, max(self.low - 1, smallest))
        if self.low < self.high:
            return self._with(*self.steps.holding(rank, falling=True))
        for name in sorted(self.inside, key=str.encode):
            if rank <= self.inside[name]:
                break
            rank -= self.inside[name]
        return Placing(self.low, self.long, name, rank, 0, self.ends[name] - 1)

    def _rank(self, k: int) -> int:
        """The last kept score's rank among those in the range."""
        if self.n != self.expected:
            raise ValueError(f"weights: expected the {self.expected} of the first round, got {self.n}")
        return k - self.above

    def _with(self, low: int, high: int) -> Narrowing:
        return Narrowing(low, high, self.long, self.expected)


@dataclass
class Placing:
    """Where in a range of one tensor's indices the weights of one score lie."""

    key: int
    long: bool
    name: str
    rank: int
    first: int
    end: int
    found: list[NDArray[np.uint64]] | None = field(default_factory=list)

    def __post_init__(self) -> None:
        self.steps = _Steps(self.first, self.end)

    @property
    def question(self) -> tuple[object, ...]:
        return self.key, self.long, self.name, self.rank, self.first, self.end

    def add(self, part: Part) -> None:
        if part.name != self.name:
            return
        begin, end = max(self.first - part.start, 0), min(self.end + 1 - part.start, part.size)
        for first in range(begin, end, _PIECE):
            piece = part.piece(first, min(end, first + _PIECE))
            _, _, _, at = _core.tally(
                piece.operand, piece.kind, piece.lam, self.long, self.key, self.key, 0, piece.size
            )
            at += np.uint64(piece.start)
            steps = (at - np.uint64(self.first)) >> np.uint64(self.steps.shift)
            self._count(at, np.bincount(steps.astype(np.intp)))

    def _count(self, at: NDArray[np.uint64], counts: NDArray[np.intp]) -> None:
        self.steps.counts[: len(counts)] += counts.astype(np.uint64)
        self.found = _joined(self.found, [at], self.steps.total)

    def merge(self, other: Placing) -> None:
        self.steps.counts = self.steps.counts + other.steps.counts
        self.found = _joined(self.found, other.found, self.steps.total)

    def last(self, k: int) -> Last | None:
        if self.found is None:
            return None
        self._check()
        at = np.sort(np.concatenate(self.found))[self.rank - 1]
        return _core.score_of(self.key, self.long), self.name, int(at)

    def next(self, k: int) -> Placing:
        self._check()
        first, end = self.steps.holding(self.rank, falling=False)
        before = int(self.steps.counts[: (first - self.first) >> self.steps.shift].sum())
        return Placing(self.key, self.long, self.name, self.rank - before, first, end)

    def _check(self) -> None:
        if self.steps.total < self.rank:
            raise ValueError(f"weights: expected those of {self.name!r} of the first round, got others")


Round: TypeAlias = "Sampling | Narrowing | Placing"


def _ends(long: bool) -> tuple[int, int]:
    """Keys below and above that of any score."""
    return 1, 2 ** (64 if long else 32) - 2


def _joined(one: list[_T] | None, other: list[_T] | None, total: int) -> list[_T] | None:
    """What two answers tell one by one; None where one has given up, or both together are too many."""
    return None if one is None or other is None or total > ROOM else [*one, *other]


def _thinned(scores: NDArray[np.float64], levels: int) -> NDArray[np.float64]:
    """One in 2^levels of a sample."""
    if levels == 0:
        return scores
    rng = np.random.default_rng([len(scores), levels])
    return scores[rng.random(len(scores)) < 0.5**levels]
