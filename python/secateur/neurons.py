"""Which neurons go: widths from a budget, with everything that a neuron takes along.

Removing neuron j of a layer removes row j of its weights and what reads it in the next layers: after that,
the neurons left on both sides are smaller and cost less. So the plan removes one after another and counts on
the way, until the number of weights left is as near to the target as whole neurons can bring it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import budgets
from .errors import UnsupportedOpError
from .models.view import Consumer, ModelView

Widths = dict[str, int]


@dataclass
class Layout:
    """The prunable tensors of a model and how their sizes follow from the layers' widths.

    A tensor holds `unit` weights times the lengths of its sides: its own neurons, and those that it reads.
    Each is used `positions` times for a sample.

    Attributes
    ----------
    widths : dict of str to int
        The output neurons of every prunable tensor that has some of its own.
    unit, positions : dict of str to int
        By prunable tensor.
    removable : dict of str to list of Consumer
        The tensors whose neurons may go, and all that belongs to these, the tensor itself first.
    sides : dict of str to list of (int, dict of str to int)
        For each axis of a tensor along which neurons have entries: how many are nobody's, and, by the tensor
        whose neurons they are, how many each neuron has. Several tensors where what is read was concatenated.
    """

    widths: Widths
    unit: dict[str, int]
    positions: dict[str, int]
    removable: dict[str, list[Consumer]]
    sides: dict[str, list[tuple[int, dict[str, int]]]]

    @classmethod
    def of(cls, view: ModelView, names: Collection[str] | None = None) -> Layout:
        """The layout of a model as it is now, where the neurons of `names` (None: of all) may go.

        Raises
        ------
        UnsupportedOpError
            Naming the layer among them whose neurons cannot be removed one by one.
        """
        tensors = view.parameters()

        def readers(name: str) -> list[Consumer]:
            try:
                return view.consumers(name)
            except UnsupportedOpError:
                if names is None or name in names:
                    raise
                return []

        own = {name: found for name in tensors if (found := view.neurons(name))}
        widths = {name: len(tensors[name]) // found[0].tile for name, found in own.items()}
        belongs, removable = dict(own), {}
        for name in own:
            found = readers(name)
            if any(consumer.name in tensors for consumer in found):
                belongs[name] = removable[name] = [*own[name], *found]
        lengths: dict[str, dict[int, dict[str, int]]] = {name: {} for name in tensors}
        for name, consumers in belongs.items():
            for consumer in consumers:
                if consumer.name in tensors:
                    entries = lengths[consumer.name].setdefault(consumer.axis, {})
                    entries[name] = entries.get(name, 0) + len(consumer.places(np.arange(1), widths[name]))
        unit = {name: tensor.size for name, tensor in tensors.items()}
        sides: dict[str, list[tuple[int, dict[str, int]]]] = {name: [] for name in tensors}
        for name, axes in lengths.items():
            for axis, owners in axes.items():
                length = tensors[name].shape[axis]
                rest = length - sum(each * widths[owner] for owner, each in owners.items())
                common = math.gcd(rest, *owners.values())
                unit[name] = unit[name] // length * common
                sides[name].append((rest // common, {owner: e // common for owner, e in owners.items()}))
        return cls(widths, unit, {name: view.positions(name) for name in tensors}, removable, sides)

    def weights(self, name: str, widths: Mapping[str, int]) -> int:
        """The weights of one tensor."""
        lengths = (
            rest + sum(each * widths[owner] for owner, each in owners.items())
            for rest, owners in self.sides[name]
        )
        return self.unit[name] * math.prod(lengths)

    def totals(self, widths: Mapping[str, int]) -> tuple[int, int]:
        """Weights and multiply-adds of all tensors."""
        sizes = {name: self.weights(name, widths) for name in self.unit}
        return sum(sizes.values()), sum(self.positions[name] * size for name, size in sizes.items())

    def saving(self, name: str, widths: Mapping[str, int], count: int = 1) -> tuple[int, int]:
        """Weights and multiply-adds that `count` neurons of the tensor take along."""
        fewer = {**widths, name: widths[name] - count}
        sizes = {
            tensor: self.weights(tensor, widths) - self.weights(tensor, fewer)
            for tensor, sides in self.sides.items()
            if any(name in owners for _, owners in sides)
        }
        return sum(sizes.values()), sum(self.positions[tensor] * size for tensor, size in sizes.items())

    def least(self, names: Collection[str]) -> int:
        """The weights left with one neuron in each of the layers `names`."""
        return self.totals({name: 1 if name in names else width for name, width in self.widths.items()})[0]


class Planner:
    """Widths for a target, given how important the neurons are.

    Layers compete by what their least important neuron is worth for what it costs. Worth is its share of the
    importance that its layer still has, so a layer resists the more the narrower it gets. Cost is the mean of
    its share of the model's weights and of its share of the multiply-adds: without the latter, convolutions,
    few weights but nearly all of the time, would stay whole, and the pruned model would be no faster.

    Parameters
    ----------
    layout : Layout
    scores : mapping of name to array (neurons,)
        The importance of every neuron, not negative, of the layers that may lose some.
    scope : {"erk", "global", "lamp", "layer"}
        "global": as above. "layer": the same share of every layer's neurons. "erk": shares by the
        Erdős–Rényi-kernel rule. "lamp": the smallest LAMP score first, whatever it costs.
    step : int
        Widths become multiples of it where they change.
    """

    def __init__(
        self, layout: Layout, scores: Mapping[str, NDArray[Any]], scope: str = "global", step: int = 1
    ) -> None:
        self.layout, self.scope, self.step = layout, scope, step
        for name, values in scores.items():
            if np.isnan(values).any():
                raise ValueError(f"scores['{name}']: NaN at neuron {int(np.argmax(np.isnan(values)))}")
        self.order = {name: np.argsort(-values, kind="stable") for name, values in scores.items()}
        self._scores = {name: np.maximum(scores[name][order], 0.0) for name, order in self.order.items()}
        powered = {name: s**2 if scope == "lamp" else s for name, s in self._scores.items()}
        # importance[name][w]: what the w best neurons of a layer are worth together.
        self._importance = {name: np.concatenate([[0.0], np.cumsum(s)]) for name, s in powered.items()}
        self._all = layout.totals(layout.widths)
        self._density: dict[str, float] = {}

    def _chunk(self, width: int) -> int:
        """How many neurons go at once: down to the next multiple of the step, but one stays."""
        return min(width % self.step or self.step, width - 1)

    def _priority(self, name: str, widths: Mapping[str, int]) -> float:
        """The layer with the smallest gives the next neurons."""
        width = widths[name]
        if self.scope in ("layer", "erk"):
            return -width / self.layout.widths[name] / max(1e-12, self._density.get(name, 1.0))
        left = self._importance[name][width]
        worth = (left - self._importance[name][width - self._chunk(width)]) / left if left > 0 else 0.0
        if self.scope == "lamp":
            return float(worth)
        weights, macs = self.layout.saving(name, widths)
        cost = weights / max(1, self._all[0]) + macs / max(1, self._all[1])
        return float(worth / (cost * self._chunk(width)))

    def widths(self, target: int, fixed: Mapping[str, int] | None = None) -> Widths:
        """The widths that leave about `target` weights: the nearest number on the way there.

        Parameters
        ----------
        target : int
        fixed : mapping of name to int, optional
            Widths decided beforehand.
        """
        fixed = fixed or {}
        widths = {**self.layout.widths, **fixed}
        left = self.layout.totals(widths)[0]
        if self.scope == "erk":
            tensors = {name: (self.layout.widths[name], self.layout.unit[name]) for name in self.order}
            self._density = budgets.erk_densities(tensors, min(1.0, target / max(1, self._all[0])))
        while left > target:
            open_layers = [name for name in self.order if name not in fixed and widths[name] > 1]
            if not open_layers:
                break
            name = min(open_layers, key=lambda name: self._priority(name, widths))
            chunk = self._chunk(widths[name])
            after = left - self.layout.saving(name, widths, chunk)[0]
            if target - after > left - target:
                break
            widths[name] -= chunk
            left = after
        return widths

    def above(self, threshold: float) -> Widths:
        """The widths without the neurons that score less than `threshold`; one of every layer stays."""
        kept = {name: max(1, int(np.count_nonzero(s >= threshold))) for name, s in self._scores.items()}
        return {**self.layout.widths, **kept}

    def kept(self, widths: Mapping[str, int]) -> dict[str, NDArray[np.intp]]:
        """The neurons that stay, ascending, of every layer that loses some."""
        return {
            name: np.sort(order[: widths[name]])
            for name, order in self.order.items()
            if widths[name] < self.layout.widths[name]
        }


def masks_of(
    view: ModelView, kept: Mapping[str, NDArray[np.intp]], removable: Mapping[str, list[Consumer]]
) -> dict[str, NDArray[np.bool_]]:
    """Masks of the prunable tensors that take away all neurons but `kept`, with all that reads them."""
    tensors = view.parameters()
    masks = {name: mask.copy() for name, mask in view.masks().items()}
    for name, neurons in kept.items():
        width = len(tensors[name]) // removable[name][0].tile
        gone = np.setdiff1d(np.arange(width), neurons)
        for consumer in removable[name]:
            if consumer.name in tensors:
                mask = masks.setdefault(consumer.name, np.ones(tensors[consumer.name].shape, bool))
                np.moveaxis(mask, consumer.axis, 0)[consumer.places(gone, width)] = False
    return masks


def alive(view: ModelView, name: str) -> NDArray[np.bool_]:
    """Which neurons of a tensor its mask has left some weight."""
    mask, own = view.masks()[name], view.neurons(name)[0]
    left: NDArray[np.bool_] = np.any(own.by_neuron(mask, len(mask) // own.tile), axis=1)
    return left
