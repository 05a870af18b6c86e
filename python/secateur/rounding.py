"""Widths that the hardware likes, where measuring shows that it likes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from .measure import BATCHES, Run, latencies, runner
from .models.view import ModelView
from .neurons import Layout, Planner, Widths
from .shrink import keep_neurons

LANES = 16
"""float32 numbers in the widest vector register; also what matrix kernels tile by."""

LAYERS = 4
"""How many layers are tried, those with the most multiply-adds: the others take too little time to matter."""

GAIN = 0.97
"""A rounded width must be faster than this times the unrounded one, or noise would decide."""


Compare: TypeAlias = Callable[[Widths, Widths], float]
"""The time of a model with the first widths over that with the second."""


def stopwatch(view: ModelView, layout: Layout, planner: Planner) -> Compare:
    """What times the model at two sets of widths, in turns: the mean ratio over the batch sizes."""
    runs: dict[tuple[int, ...], Run] = {}

    def run(widths: Widths) -> Run:
        key = tuple(widths.values())
        if key not in runs:
            trial = view.clone()
            keep_neurons(trial, planner.kept(widths), layout.removable)
            runs[key] = runner(trial)
        return runs[key]

    def ratio(widths: Widths, other: Widths) -> float:
        found = latencies({"other": run(other), "mine": run(widths)}, view)
        return sum(1 / found[batch]["mine"].speedup for batch in BATCHES) / len(BATCHES)

    return ratio


def rounded(planner: Planner, target: int, compare: Compare) -> Widths:
    """The widths of `planner` for a target, moved to multiples of the lanes where that is measured faster.

    The layers with the most multiply-adds are tried one after another, at the multiple below and the one
    above; the other layers make up for it, so that the weights left stay within one neuron of the target.

    Parameters
    ----------
    planner : Planner
    target : int
        Weights to leave.
    compare : callable
        Times the model at two sets of widths.
    """
    layout = planner.layout
    best = planner.widths(target)
    fixed: Widths = {}
    heaviest = sorted(
        planner.order, key=lambda name: -layout.saving(name, layout.widths)[1] * layout.widths[name]
    )
    # The last layer stays free to meet the target.
    tried = [name for name in heaviest[:-1][:LAYERS] if best[name] < layout.widths[name]]
    for name in tried:
        below = best[name] // LANES * LANES
        for width in (below, below + LANES):
            if width == best[name] or not 0 < width <= layout.widths[name]:
                continue
            widths = planner.widths(target, {**fixed, name: width})
            if meets(layout, widths, target) and compare(widths, best) < GAIN:
                best = widths
        fixed[name] = best[name]
    return best


def meets(layout: Layout, widths: Mapping[str, int], target: int) -> bool:
    """Whether `widths` leave as many weights as the target, give or take one neuron."""
    group = max((layout.saving(name, widths)[0] for name in layout.removable), default=0)
    return abs(layout.totals(widths)[0] - target) <= group
