"""Sparse training with a constant number of weights: some are dropped, as many grow elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import masking
from .._arguments import own_stream
from ..granularity import Blocks, Pattern, Weights, matrix_shape
from ..models.view import BoolArray, ModelView
from ..nn.callbacks import FitState
from ..selection import topk_mask
from .base import Method
from .moments import batches, check_moment, check_share

Scores = Mapping[str, NDArray[Any]]


class Exchange(Method):
    """Base of `SET` and `RigL`: training begins with random masks of the target sparsity, which then move.

    Every `every` batches the smallest weights are dropped, and as many grow, from 0, among those that were
    not there: which, `growth` says. Earlier masks of the model are replaced.

    Parameters
    ----------
    sparsity : float
        The fraction of the prunable weights that is missing, from the first batch to the last.
    drop : float
        The share of the weights left that an update exchanges, in (0, 1].
    every : int
        Batches between two updates.
    end : int or float
        The moment of the last update: a number of batches, or a share of the training as a float.
    scope : {"erk", "layer", "global"}
        How sparse each tensor is: by the Erdős–Rényi-kernel rule, all equally, or whatever the exchange over
        all of them leads to. N:M patterns say that themselves.
    granularity, include, exclude
        As for `prune`; no neurons. Blocks are exchanged whole; within N:M a weight for one of its group.
    """

    def __init__(
        self,
        sparsity: float,
        drop: float = 0.3,
        every: int = 100,
        end: int | float = 0.75,
        scope: str = "erk",
        granularity: str = "weight",
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
    ) -> None:
        super().__init__(sparsity, "l1", None, every, scope, granularity, include, exclude)
        if scope in masking.ADAPTED:
            raise ValueError(
                f"scope: expected erk, layer or global: {scope} ranks trained weights, got {scope!r}"
            )
        self._unit = self._without_neurons()
        self.drop, self.end = check_share("drop", drop), check_moment("end", end)
        self._last = 0

    def start(self, model: ModelView, state: FitState) -> None:
        super().start(model, state)
        self._last = batches(self.end, state.steps)

    def initial(self, model: ModelView, state: FitState) -> masking.Masks:
        return masking.choose(self._lots(model, state.rng), {}, self._unit, self.scope, self.target)

    def due(self, step: int) -> bool:
        return step % self.every == 0 and step <= self._last

    def update(self, model: ModelView, step: int, rng: np.random.Generator) -> masking.Masks:
        tensors = model.parameters()
        magnitudes = {name: np.abs(tensors[name]) for name in self.names}
        shapes = {name: tensors[name].shape for name in self.names}
        sets = [names for names, _ in masking.shares(shapes, self.scope, self.target)]
        growth = self.growth(model, rng)
        return exchange(self._held(model), magnitudes, growth, self._unit, sets, self.share(step))

    def finished(self, step: int, sparsity: float) -> bool:
        return step + self.every > self._last

    def share(self, step: int) -> float:
        """The share of the weights left that the update after batch number `step` exchanges."""
        return self.drop

    def growth(self, model: ModelView, rng: np.random.Generator) -> Scores:
        """Scores of all weights: of those that are missing, the highest grow."""
        raise NotImplementedError

    def _lots(self, model: ModelView, rng: np.random.Generator) -> Scores:
        tensors, lots = model.parameters(), own_stream(rng)
        return {name: lots.random(tensors[name].shape) for name in self.names}


def exchange(
    held: Mapping[str, BoolArray],
    magnitudes: Scores,
    growth: Scores,
    granularity: Weights | Blocks | Pattern,
    sets: Sequence[Sequence[str]],
    share: float,
) -> masking.Masks:
    """The masks after dropping the smallest `share` of what is held, and growing as much of what was not.

    Parameters
    ----------
    held : mapping of name to array of bool
        The masks before.
    magnitudes, growth : mapping of name to array
        Scores of all weights: the lowest of the held are dropped, the highest of the others grow. Blocks have
        the mean of theirs.
    granularity : Weights, Blocks or Pattern
        What is exchanged: a weight, a block, or a weight for another one of its group of M.
    sets : sequence of sequences of names
        The tensors that share their number of weights.
    share : float
        In [0, 1]. As far as there is something to grow.

    Returns
    -------
    dict of str to ndarray of bool
        With as many weights (blocks) as before in every set of tensors.
    """
    if isinstance(granularity, Pattern):
        return _within_groups(held, magnitudes, growth, granularity, sets, share)
    shapes = {name: mask.shape for name, mask in held.items()}
    if isinstance(granularity, Blocks):
        held = {name: granularity.sums(mask) > 0 for name, mask in held.items()}
        magnitudes, growth = (
            {name: granularity.means(values) for name, values in scores.items()}
            for scores in (magnitudes, growth)
        )
    new: masking.Masks = {}
    for names in sets:
        count = sum(int(np.count_nonzero(held[name])) for name in names)
        free = sum(held[name].size for name in names) - count
        moved = min(round(share * count), free)
        kept = topk_mask({n: np.where(held[n], magnitudes[n], -np.inf) for n in names}, count - moved)
        grown = topk_mask({n: np.where(held[n], -np.inf, growth[n]) for n in names}, moved)
        new.update({name: kept[name] | grown[name] for name in names})
    if isinstance(granularity, Blocks):
        return {name: granularity.spread(mask, shapes[name]) for name, mask in new.items()}
    return new


def _within_groups(
    held: Mapping[str, BoolArray],
    magnitudes: Scores,
    growth: Scores,
    pattern: Pattern,
    sets: Sequence[Sequence[str]],
    share: float,
) -> masking.Masks:
    """`exchange` where every group of M keeps its number: one weight of a group at most, for another."""
    new: masking.Masks = {}
    for names in sets:
        weakest: dict[str, NDArray[np.intp]] = {}
        strongest: dict[str, NDArray[np.intp]] = {}
        loss: dict[str, NDArray[Any]] = {}
        for name in names:
            inside, other = _groups(held[name], pattern, False), ~_groups(held[name], pattern, True)
            kept = np.where(inside, _groups(magnitudes[name], pattern, 0), np.inf)
            grown = np.where(other, _groups(growth[name], pattern, 0), -np.inf)
            weakest[name], strongest[name] = kept.argmin(axis=-1), grown.argmax(axis=-1)
            # Of a group that is full or empty nothing can go.
            open_ = inside.any(axis=-1) & other.any(axis=-1)
            loss[name] = np.where(open_, -kept.min(axis=-1), -np.inf)
        able = sum(int(np.count_nonzero(np.isfinite(values))) for values in loss.values())
        count = sum(int(np.count_nonzero(held[name])) for name in names)
        chosen = topk_mask(loss, min(round(share * count), able))
        for name in names:
            groups = _groups(held[name], pattern, False).copy()
            row, group = np.nonzero(chosen[name])
            groups[row, group, weakest[name][row, group]] = False
            groups[row, group, strongest[name][row, group]] = True
            rows, columns = matrix_shape(held[name].shape)
            new[name] = groups.reshape(rows, -1)[:, :columns].reshape(held[name].shape)
    return new


def _groups(values: NDArray[Any], pattern: Pattern, fill: Any) -> NDArray[Any]:
    """A tensor by rows, groups of M along them, and places in the group; the last group filled up."""
    rows, columns = matrix_shape(values.shape)
    padding = ((0, 0), (0, -columns % pattern.m))
    padded = np.pad(values.reshape(rows, columns), padding, constant_values=fill)
    return padded.reshape(rows, -1, pattern.m)
