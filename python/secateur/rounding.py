"""Widths that the hardware likes, where measuring shows that it likes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .measure import latencies
from .models.view import ModelView
from .neurons import Layout, Planner, Widths
from .shrink import keep_neurons

LANES = 16
"""float32 numbers in the widest vector register; also what matrix kernels tile by."""

LAYERS = 4
"""How many layers are tried, those with the most multiply-adds: the others take too little time to matter."""

GAIN = 0.97
"""A rounded width must be faster than this times the unrounded one, or noise would decide."""


def timer(view: ModelView, layout: Layout, planner: Planner) -> Callable[[Widths], float]:
    """What times the model at given widths: the mean over the batch sizes, relative to its first answer."""
    first: dict[int, float] = {}

    def seconds(widths: Widths) -> float:
        trial = view.clone()
        keep_neurons(trial, planner.kept(widths), layout.removable)
        times = latencies(trial)
        first.update({batch: time for batch, time in times.items() if batch not in first})
        return sum(time / first[batch] for batch, time in times.items()) / len(times)

    return seconds


def rounded(planner: Planner, target: int, seconds: Callable[[Widths], float]) -> Widths:
    """The widths of `planner` for a target, moved to multiples of the lanes where that is measured faster.

    The layers with the most multiply-adds are tried one after another, at the multiple below and the one
    above; the other layers make up for it, so that the weights left stay within one neuron of the target.

    Parameters
    ----------
    planner : Planner
    target : int
        Weights to leave.
    seconds : callable
        Times the model at given widths.
    """
    layout = planner.layout
    best = planner.widths(target)
    fixed: Widths = {}
    heaviest = sorted(
        planner.order, key=lambda name: -layout.saving(name, layout.widths)[1] * layout.widths[name]
    )
    # The last layer stays free to meet the target.
    tried = [name for name in heaviest[:-1][:LAYERS] if best[name] < layout.widths[name]]
    fastest = seconds(best) if tried else 0.0
    for name in tried:
        below = best[name] // LANES * LANES
        for width in (below, below + LANES):
            if width == best[name] or not 0 < width <= layout.widths[name]:
                continue
            widths = planner.widths(target, {**fixed, name: width})
            if not meets(layout, widths, target):
                continue
            time = seconds(widths)
            if time < GAIN * fastest:
                best, fastest = widths, time
        fixed[name] = best[name]
    return best


def meets(layout: Layout, widths: Mapping[str, int], target: int) -> bool:
    """Whether `widths` leave as many weights as the target, give or take one neuron."""
    group = max((layout.saving(name, widths)[0] for name in layout.removable), default=0)
    return abs(layout.totals(widths)[0] - target) <= group
