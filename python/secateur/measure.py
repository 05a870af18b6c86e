"""How long a model takes for a batch, measured."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from .models.view import FloatArray, ModelView

BATCHES = (1, 32)
"""The batch sizes that count: a single request and a small batch."""


def runner(view: ModelView, batches: Sequence[int] = BATCHES) -> Callable[[FloatArray], Any]:
    """What runs the model as it would be deployed: its plan."""
    # The compiler is a later stage; this one knows it only once something is measured.
    run: Callable[[FloatArray], Any] = importlib.import_module("secateur.compiler").compile(
        view.model, batch=batches
    )
    return run


def latencies(view: ModelView, batches: Sequence[int] = BATCHES, seconds: float = 0.02) -> dict[int, float]:
    """The median time of a call, in seconds, by batch size.

    Parameters
    ----------
    view : ModelView
    batches : sequence of int
    seconds : float
        How long to measure each, at least 5 calls.
    """
    run = runner(view, batches)
    result = {}
    for batch in batches:
        x = view.inputs(batch)
        run(x)
        times: list[float] = []
        while len(times) < 5 or sum(times) < seconds:
            start = time.perf_counter()
            run(x)
            times.append(time.perf_counter() - start)
        result[batch] = statistics.median(times)
    return result
