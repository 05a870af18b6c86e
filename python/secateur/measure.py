"""How long models take, compared fairly: interleaved rounds, medians, ratios within rounds."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from numpy.typing import NDArray

from .models.view import ModelView

BATCHES = (1, 32)
"""The batch sizes that count: a single request and a small batch."""

ROUNDS = 31
QUICK = 9
"""Rounds where many models are timed on the way, and a rough figure will do."""
SAMPLE = 2e-3
"""Seconds that a sample takes at least: long against the clock and the scheduler."""

Run: TypeAlias = Callable[[NDArray[Any]], Any]


class Latency(NamedTuple):
    """How long a call takes.

    Attributes
    ----------
    us : float
        Median over the rounds, microseconds.
    speedup : float
        Median, over the rounds, of the first candidate's time over this one's.
    """

    us: float
    speedup: float


def runner(view: ModelView) -> Run:
    """What runs the model as it would be deployed: its plan for `BATCHES`, or what its view names."""
    own = getattr(view, "runner", None)
    if own is not None:
        foreign: Run = own()
        return foreign
    # The compiler is a later stage; this one knows it only once something is measured.
    run: Run = importlib.import_module("secateur.compiler").compile(view.model, batch=BATCHES)
    return run


def latencies(runs: Mapping[str, Run], view: ModelView) -> dict[int, dict[str, Latency]]:
    """A quick `compare`, for each of `BATCHES`, of what runs models with the inputs of `view`."""
    return {batch: compare(runs, view.inputs(batch), rounds=QUICK) for batch in BATCHES}


def compare(candidates: Mapping[str, Run], x: NDArray[Any], *, rounds: int = ROUNDS) -> dict[str, Latency]:
    """Time several plans on the same batch, the first being what the others are compared with.

    Every round takes one sample of each, in an order that moves on from round to round. So what the machine
    does beside meets all of them, and the ratios, taken within rounds, cancel it.

    Parameters
    ----------
    candidates : mapping of str to callable
        Plans, or anything else that takes a batch.
    x : ndarray
        The batch.
    rounds : int
        At least 1.

    Returns
    -------
    dict of str to Latency

    Examples
    --------
    >>> import numpy as np
    >>> from secateur.measure import compare
    >>> found = compare({"sum": np.sum, "sort": np.sort}, np.ones(10_000), rounds=5)
    >>> found["sum"].speedup, found["sort"].us > 0
    (1.0, True)
    """
    names = list(candidates)
    repeats = {name: _repeats(candidates[name], x) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(_sample(candidates[name], x, repeats[name]))
    base = times[names[0]]
    return {
        name: Latency(
            statistics.median(own) * 1e6,
            statistics.median(other / one for other, one in zip(base, own, strict=True)),
        )
        for name, own in times.items()
    }


def _sample(run: Run, x: NDArray[Any], repeats: int) -> float:
    """Seconds a call, over `repeats` calls, after one to warm the caches that the others have used."""
    run(x)
    start = time.perf_counter()
    for _ in range(repeats):
        run(x)
    return (time.perf_counter() - start) / repeats


def _repeats(run: Run, x: NDArray[Any]) -> int:
    return max(1, round(SAMPLE / max(1e-9, min(_sample(run, x, 3) for _ in range(3)))))
