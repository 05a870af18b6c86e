"""Importance of a model's weights and neurons, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from .calibration import Calibration
from .criteria import Criterion, check_criterion, importance, needs_grads, needs_norms
from .models.view import FloatArray, ModelView

Gradients = Mapping[str, FloatArray]


@dataclass(frozen=True)
class Scorer:
    """A criterion with its parameters.

    Parameters
    ----------
    criterion : str or callable
        As for `secateur.importance`.
    lam : float or None
        λ of S = |w| + λ·|∂L/∂w|. None: 0, but for "combined" the value that makes both terms of equal size on
        average over all tensors.
    calibration : Calibration or None
        Samples, for criteria that ask what the weights are multiplied by.
    """

    criterion: Criterion = "l1"
    lam: float | None = None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        check_criterion(self.criterion, self.lam or 0.0)
        if self.needs_norms and self.calibration is None:
            raise ValueError(
                f"criterion: {self.criterion!r} takes calibration data, which is for prune alone"
            )

    @property
    def needs_grads(self) -> bool:
        """Whether scores cannot be had without gradients."""
        return needs_grads(self.criterion, self.lam or 0.0)

    @property
    def needs_norms(self) -> bool:
        """Whether scores cannot be had without the norms of what weights are multiplied by."""
        return needs_norms(self.criterion)

    @property
    def rms(self) -> bool:
        """Whether a group's score is the root mean square of its weights', not their mean."""
        return self.criterion == "l2"

    def scores(
        self,
        view: ModelView,
        names: Iterable[str],
        gradients: Gradients | None,
        rng: np.random.Generator,
    ) -> dict[str, NDArray[Any]]:
        """The scores of the weights of the tensors `names`.

        Raises
        ------
        ValueError
            For NaN among the weights or gradients, naming the tensor.
        """
        every = view.parameters()
        tensors = {name: every[name] for name in names}
        lam = self.balanced(tensors, gradients)
        scores = {}
        for name, tensor in tensors.items():
            gradient = None if gradients is None else gradients[name]
            scores[name] = self._of_tensor(name, tensor, gradient, self._norms(view, name), lam, None, rng)
        return scores

    def neuron_scores(
        self,
        view: ModelView,
        names: Iterable[str],
        gradients: Gradients | None,
        rng: np.random.Generator,
    ) -> dict[str, NDArray[Any]]:
        """The scores of the neurons of the tensors `names`, from all weights that a neuron has.

        Raises
        ------
        ValueError
            As `scores`.
        """
        every = view.parameters()
        own = {name: [part for part in view.neurons(name) if part.axis == 0] for name in names}
        parts = [part.name for found in own.values() for part in found]
        lam = self.balanced({name: every[name] for name in parts}, gradients)

        def rows(name: str, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
            width = len(every[name]) // own[name][0].tile
            return np.concatenate([part.by_neuron(arrays[part.name], width) for part in own[name]], axis=1)

        norms = {part: found for part in parts if (found := self._norms(view, part)) is not None}
        scores = {}
        for name in own:
            gradient = None if gradients is None else rows(name, gradients)
            met = rows(name, norms) if norms else None
            scores[name] = self._of_tensor(name, rows(name, every), gradient, met, lam, 0, rng)
        return scores

    def _norms(self, view: ModelView, name: str) -> NDArray[Any] | None:
        """For every weight the root mean square of what it is multiplied by, where the criterion asks."""
        if self.calibration is None or not self.needs_norms:
            return None
        return self.calibration.norms(view, name)

    def balanced(self, tensors: Mapping[str, FloatArray], gradients: Gradients | None) -> float:
        """λ for these tensors, all of them together."""
        if self.criterion != "combined" or self.lam is not None or gradients is None:
            return self.lam or 0.0
        weights, slopes = _absolute_sum(tensors, tensors), _absolute_sum(gradients, tensors)
        return weights / slopes if slopes > 0 and np.isfinite(weights / slopes) else 0.0

    def _of_tensor(
        self,
        name: str,
        tensor: NDArray[Any],
        gradient: NDArray[Any] | None,
        norms: NDArray[Any] | None,
        lam: float,
        neuron_axis: int | None,
        rng: np.random.Generator,
    ) -> NDArray[Any]:
        try:
            return importance(
                tensor,
                gradient,
                norms=norms,
                criterion=self.criterion,
                lam=lam,
                neuron_axis=neuron_axis,
                random_state=rng,
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def _absolute_sum(arrays: Mapping[str, FloatArray], names: Iterable[str]) -> float:
    return _core.absolute_sum([np.ascontiguousarray(arrays[name]) for name in names])
