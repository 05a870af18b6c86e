"""One model on its way to a target: what has been removed so far, and the next step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from . import masking, ranking
from .granularity import Blocks, Pattern, Weights
from .models.view import ModelView
from .neurons import Layout, Planner, masks_of
from .rounding import rounded, stopwatch
from .scoring import Gradients, Scorer
from .shrink import keep_neurons


class Removal(Protocol):
    """What the static loop needs of a granularity."""

    view: ModelView

    @property
    def sparsity(self) -> float:
        """The fraction of the prunable weights removed so far."""

    def step(self, share: float, gradients: Gradients | None, rng: np.random.Generator) -> None:
        """Go to `share` of the target."""

    def copy(self) -> Removal:
        """The state as it is now, with a model of its own."""

    def masks(self, original: ModelView) -> masking.Masks:
        """The masks that remove the same from the original model."""

    def commit(self, original: ModelView) -> None:
        """Make the original model what this one is."""


class WeightRemoval:
    """Single weights, blocks or N:M patterns become zero.

    Parameters
    ----------
    view : ModelView
        Changed by `step`.
    names : sequence of str
        The tensors to prune.
    granularity, scope, scorer
        What to remove.
    sparsity, threshold : float or None
        The target: one of both, or for patterns none.

    Raises
    ------
    ValueError
        If the sparsity is not that of the pattern.
    """

    def __init__(
        self,
        view: ModelView,
        names: Sequence[str],
        granularity: Weights | Blocks | Pattern,
        scope: str,
        scorer: Scorer,
        sparsity: float | None,
        threshold: float | None,
    ) -> None:
        self.view, self.names, self.granularity = view, names, granularity
        self.scope, self.scorer, self.threshold = scope, scorer, threshold
        tensors = view.parameters()
        self._sizes = {name: tensors[name].size for name in names}
        if isinstance(granularity, Pattern):
            shapes = {name: tensors[name].shape for name in names}
            sparsity = masking.target_of_pattern(granularity, shapes, sparsity)
        self.target = sparsity
        self._initial = {name: mask.copy() for name, mask in view.masks().items()}
        self._share = 0.0

    @property
    def sparsity(self) -> float:
        return masking.sparsity(self.view.masks(), self._sizes)

    def step(self, share: float, gradients: Gradients | None, rng: np.random.Generator) -> None:
        self.view.set_masks(self.chosen(share, gradients, rng))

    def chosen(self, share: float, gradients: Gradients | None, rng: np.random.Generator) -> masking.Masks:
        """The masks of the tensors at `share` of the target."""
        tensors = self.view.parameters()
        if share < self._share:
            free = {name: np.ones(tensors[name].shape, bool) for name in self.names}
            self.view.set_masks(free | self._initial)
        self._share = share
        if self.threshold is not None:
            assert not isinstance(self.granularity, Pattern)
            scores = self.scorer.scores(self.view, self.names, gradients, rng)
            lowest = share * self.threshold
            return masking.below(scores, self.view.masks(), self.granularity, lowest, self.scorer.rms)
        assert self.target is not None
        sparsity = share * self.target
        return ranking.choose(
            self.view, self.names, gradients, self.granularity, self.scope, sparsity, self.scorer, rng
        )

    def copy(self) -> WeightRemoval:
        other = copy.copy(self)
        other.view = self.view.clone()
        return other

    def masks(self, original: ModelView) -> masking.Masks:
        masks = self.view.masks()
        return {
            name: masks[name].copy() if name in masks else np.ones(tensor.shape, bool)
            for name, tensor in original.parameters().items()
        }

    def commit(self, original: ModelView) -> None:
        original.restore(self.view.snapshot())


class NeuronRemoval:
    """Neurons and channels are taken out, and the arrays become smaller.

    Parameters
    ----------
    view : ModelView
        Changed by `step`.
    names : sequence of str
        The layers that may lose neurons.
    scope, scorer
        What to remove.
    sparsity, threshold : float or None
        The target: one of both.
    round_to : {"auto"}, int or None
        How to round widths; see `prune`.

    Raises
    ------
    ValueError
        If no neuron can be removed, or not as many as the target asks for.
    """

    def __init__(
        self,
        view: ModelView,
        names: Sequence[str],
        scope: str,
        scorer: Scorer,
        sparsity: float | None,
        threshold: float | None,
        round_to: int | str | None,
    ) -> None:
        self.view, self.scope, self.scorer = view, scope, scorer
        self.threshold, self.round_to = threshold, round_to
        self._original = Layout.of(view, names)
        self.names = [name for name in names if name in self._original.removable]
        if not self.names:
            raise ValueError(
                "model: it has no layer that can lose neurons; the output layer keeps all of them"
            )
        self._total = self._original.totals(self._original.widths)[0]
        self.target = sparsity
        if sparsity is not None:
            goal, least = (1 - sparsity) * self._total, self._original.least(self.names)
            ones = {name: 1 if name in self.names else n for name, n in self._original.widths.items()}
            group = max(self._original.saving(name, ones)[0] for name in self.names)
            if least - goal > group:
                most = 1 - least / self._total
                raise ValueError(
                    f"sparsity: removing neurons of these layers reaches {most:.4f} at most, got {sparsity!r}"
                )
        self._kept = {name: np.arange(width) for name, width in self._original.widths.items()}

    @property
    def sparsity(self) -> float:
        widths = {name: len(kept) for name, kept in self._kept.items()}
        return 1 - self._original.totals(widths)[0] / self._total

    def step(self, share: float, gradients: Gradients | None, rng: np.random.Generator) -> None:
        layout = Layout.of(self.view, self.names)
        scores = self.scorer.neuron_scores(self.view, self.names, gradients, rng)
        step = self.round_to if isinstance(self.round_to, int) else 1
        planner = Planner(layout, scores, self.scope, step)
        if self.threshold is not None:
            widths = planner.above(share * self.threshold)
        else:
            assert self.target is not None
            goal = round((1 - share * self.target) * self._total)
            # Rounding can only take away, so it waits for the last step.
            if self.round_to == "auto" and share == 1:
                widths = rounded(planner, goal, stopwatch(self.view, layout, planner))
            else:
                widths = planner.widths(goal)
        kept = planner.kept(widths)
        keep_neurons(self.view, kept, layout.removable)
        for name, neurons in kept.items():
            self._kept[name] = self._kept[name][neurons]

    def copy(self) -> NeuronRemoval:
        other = copy.copy(self)
        other.view = self.view.clone()
        other._kept = dict(self._kept)
        return other

    def _removed(self) -> dict[str, NDArray[np.intp]]:
        return {name: kept for name, kept in self._kept.items() if len(kept) < self._original.widths[name]}

    def masks(self, original: ModelView) -> masking.Masks:
        masks = masks_of(original, self._removed(), self._original.removable)
        return {
            name: masks[name] if name in masks else np.ones(tensor.shape, bool)
            for name, tensor in original.parameters().items()
        }

    def commit(self, original: ModelView) -> None:
        keep_neurons(original, self._removed(), self._original.removable)
        original.restore(self.view.snapshot())
