"""How long models take for a batch, measured side by side."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from .models.view import FloatArray, ModelView

BATCHES = (1, 32)
"""The batch sizes that count: a single request and a small batch."""

Run: TypeAlias = Callable[[FloatArray], Any]


def runner(view: ModelView, batches: Sequence[int] = BATCHES) -> Run:
    """What runs the model as it would be deployed: its plan."""
    # The compiler is a later stage; this one knows it only once something is measured.
    run: Run = importlib.import_module("secateur.compiler").compile(view.model, batch=batches)
    return run


def latencies(
    runs: Sequence[Run], view: ModelView, batches: Sequence[int] = BATCHES, seconds: float = 0.02
) -> list[dict[int, float]]:
    """The median time of a call, in seconds, by batch size, for each of `runs`.

    Calls take turns, so that whatever else the machine does slows all of them down alike.

    Parameters
    ----------
    runs : sequence of callable
        Of models with the same inputs.
    view : ModelView
        Of one of them, for the inputs.
    batches : sequence of int
    seconds : float
        How long to measure each for each batch size; at least 5 calls.
    """
    result: list[dict[int, float]] = [{} for _ in runs]
    for batch in batches:
        x = view.inputs(batch)
        for run in runs:
            run(x)
        times: list[list[float]] = [[] for _ in runs]
        while len(times[0]) < 5 or sum(map(sum, times)) < seconds * len(runs):
            for run, taken in zip(runs, times, strict=True):
                start = time.perf_counter()
                run(x)
                taken.append(time.perf_counter() - start)
        for found, taken in zip(result, times, strict=True):
            found[batch] = statistics.median(taken)
    return result
