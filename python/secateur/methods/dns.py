"""Dynamic Network Surgery: what was cut goes on learning, and is spliced back where that was a mistake."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .. import masking
from ..budgets import check_sparsity
from ..models.view import FloatArray, ModelView
from ..nn.callbacks import FitState
from ..nn.optimizers import Optimizer
from ..schedules import Curve
from .gradual import Gradual
from .moments import batches, check_moment


class DNS(Gradual):
    """Dynamic Network Surgery: the sparsity grows, and weights that were cut too early come back.

    Aside from the model, in which they are 0, the weights that were cut keep their values and are trained
    like the others, by the gradients of the sparse network and a copy of the optimizer. Every `every` batches
    the largest of all of them make the network. One outside has to be larger by `margin` than one inside to
    take its place, so that those near the threshold do not flutter. Masks that the model had are lifted as
    the schedule says.

    Parameters
    ----------
    sparsity : float
        The target: the fraction of the prunable weights to remove.
    every : int
        Batches between two updates.
    begin, end : int or float
        The moment before the first removal, and that at which the target is reached: a number of batches, or
        a share of the training as a float.
    until : int or float
        The moment of the last exchange of weights at the target.
    margin : float
        In [0, 1]. The paper's two thresholds, 0.9 t and 1.1 t, are 0.22 apart.
    schedule : {"cubic", "linear"} or callable
        The share of the target reached by the progress from begin to end, see `secateur.schedules`.
    scope, granularity, include, exclude
        As for `prune`; no neurons.

    Raises
    ------
    ValueError
        If an argument is not one of the above.

    References
    ----------
    Guo et al., Dynamic Network Surgery for Efficient DNNs. NIPS 2016, arXiv 1608.04493. There the thresholds
    are set by hand, layer by layer; here they follow from the sparsity.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.DNS(0.98, every=50).margin
    0.2
    """

    def __init__(
        self,
        sparsity: float,
        every: int = 100,
        begin: int | float = 0.1,
        end: int | float = 0.6,
        until: int | float = 0.8,
        margin: float = 0.2,
        schedule: str | Curve = "cubic",
        scope: str = "global",
        granularity: str = "weight",
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
    ) -> None:
        super().__init__(sparsity, "l1", every, begin, end, schedule, scope, granularity, include, exclude)
        self._unit = self._without_neurons()
        self.until, self.margin = check_moment("until", until), check_sparsity(margin, "margin")
        self._until = 0
        self._optimizer: Optimizer | None = None
        self._twin: Optimizer | None = None
        self._weights: dict[str, FloatArray] = {}
        self._saved: Mapping[str, Any] | None = None

    def start(self, model: ModelView, state: FitState) -> None:
        super().start(model, state)
        self._until = max(self._last, batches(self.until, state.steps))
        self._optimizer = state.optimizer
        self._twin = copy.deepcopy(state.optimizer)
        tensors = model.parameters()
        self._weights = {name: tensors[name].copy() for name in self.names}
        if self._saved is not None:
            self._twin.load_state_dict(self._saved["twin"])
            self._weights = {name: np.array(self._saved["weights"][name]) for name in self.names}
            self._saved = None

    def due(self, step: int) -> bool:
        later = self._last < step <= self._until and (step - self._last) % self.every == 0
        return later or super().due(step)

    def observe(self, model: ModelView) -> None:
        """One step of the weights outside, with the gradients that the network's weights took."""
        assert self._optimizer is not None and self._twin is not None
        gradients, tensors, held = model.gradients(), model.parameters(), self._held(model)
        self._twin.learning_rate = self._optimizer.learning_rate
        self._twin.step(self._weights, {name: gradients[name] for name in self.names})
        for name, weights in self._weights.items():
            np.copyto(weights, tensors[name], where=held[name])

    def update(self, model: ModelView, step: int, rng: np.random.Generator) -> masking.Masks:
        self.observe(model)
        tensors, held = model.parameters(), self._held(model)
        scores = {
            name: np.abs(weights) * np.where(held[name], np.float32(1 + self.margin), np.float32(1))
            for name, weights in self._weights.items()
        }
        masks = masking.choose(scores, {}, self._unit, self.scope, self.wanted(step))
        for name, mask in masks.items():
            np.copyto(tensors[name], self._weights[name], where=mask & ~held[name])
        return masks

    def finished(self, step: int, sparsity: float) -> bool:
        return step + self.every > self._until and step >= self._last

    def state_dict(self) -> dict[str, Any]:
        assert self._twin is not None
        weights = {name: array.copy() for name, array in self._weights.items()}
        return {**super().state_dict(), "weights": weights, "twin": self._twin.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._saved = {"weights": state["weights"], "twin": state["twin"]}
