"""Paired timing of several implementations in one process.

Clocks drift, neighbours on the machine come and go: two programs timed one after the other compare the
weather. Here every round calls all candidates (A B C, B C A, C A B, …), so that whatever slows one round
slows all of them, and the ratio of a candidate to the baseline is taken within rounds. Reported are the
minimum (the machine undisturbed) and the median; ratios above 1 mean faster than the baseline.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

CACHE_LINE = 64
#: Worker threads of OpenMP, OpenBLAS and ONNX Runtime spin for a while after a call. They would steal
#: processors from the next candidate, so with several threads each sample waits for them to sleep.
SETTLE_SECONDS = 0.012


@dataclass(frozen=True)
class Timing:
    """One candidate's samples, in microseconds a call, in the order of the rounds."""

    name: str
    inner: int
    samples: list[float] = field(repr=False)

    @property
    def min(self) -> float:
        """The fastest sample."""
        return min(self.samples)

    @property
    def median(self) -> float:
        """The median sample."""
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Comparison:
    """What `compare` measured; `baseline` names the candidate that has ratio 1."""

    baseline: str
    timings: dict[str, Timing]

    def ratio(self, name: str) -> float:
        """How many times faster than the baseline, minimum against minimum."""
        return self.timings[self.baseline].min / self.timings[name].min

    def paired_ratio(self, name: str) -> float:
        """How many times faster than the baseline: the median over the rounds of the ratio within a round."""
        pairs = zip(self.timings[self.baseline].samples, self.timings[name].samples, strict=True)
        return statistics.median(base / other for base, other in pairs)

    def fastest(self, names: Sequence[str]) -> str:
        """The name with the least minimum."""
        return min(names, key=lambda name: self.timings[name].min)

    def rows(self) -> list[dict[str, object]]:
        """One JSON-able row a candidate."""
        return [
            {
                "name": name,
                "ratio": round(self.ratio(name), 4),
                "ratio_paired": round(self.paired_ratio(name), 4),
                "min_us": round(timing.min, 3),
                "median_us": round(timing.median, 3),
                "rounds": len(timing.samples),
                "inner": timing.inner,
            }
            for name, timing in self.timings.items()
        ]

    def table(self, title: str, work: Mapping[str, float] | None = None) -> str:
        """The table to print: ratios first; `work` gives floating-point operations a call, shown as GF/s."""
        width = max(len(name) for name in self.timings)
        lines = [title, f"  {'':{width}}  x min  x med     min us  median us" + ("     GF/s" if work else "")]
        for name, timing in self.timings.items():
            line = f"  {name:{width}} {self.ratio(name):6.2f} {self.paired_ratio(name):6.2f}"
            line += f" {timing.min:10.1f} {timing.median:10.1f}"
            if work and name in work:
                line += f" {work[name] / timing.min / 1e3:8.1f}"
            lines.append(line + ("  (baseline)" if name == self.baseline else ""))
        return "\n".join(lines)


def compare(
    candidates: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    rounds: int = 40,
    sample_ms: float = 2.0,
    threads: int = 1,
) -> Comparison:
    """Time the candidates in interleaved rounds.

    Parameters
    ----------
    candidates : mapping of str to callable
        What to time; called without arguments.
    baseline : str
        The candidate that the others are compared with.
    rounds : int
        Samples of each candidate.
    sample_ms : float
        A sample repeats the call until it takes at least this long, so that the clock's steps and the loop
        vanish in it.
    threads : int
        The threads that the candidates use: with several, each sample waits for the workers of the one
        before to sleep.
    """
    if baseline not in candidates:
        raise ValueError(f"baseline: {baseline!r} is not among {', '.join(candidates)}")
    inner = {name: _calibrate(call, sample_ms / 1e3) for name, call in candidates.items()}
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in range(rounds):
            shift = i % len(names)
            for name in names[shift:] + names[:shift]:
                if threads > 1:
                    time.sleep(SETTLE_SECONDS)
                # The candidate before left its own data in the caches and its own branches in the predictors.
                _seconds(candidates[name], max(1, inner[name] // 8))
                samples[name].append(_seconds(candidates[name], inner[name]) / inner[name] * 1e6)
    finally:
        if collecting:
            gc.enable()
    return Comparison(baseline, {name: Timing(name, inner[name], samples[name]) for name in names})


def _seconds(call: Callable[[], object], times: int) -> float:
    if timed := getattr(call, "seconds", None):  # a candidate in another process
        return float(timed(times))
    begin = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - begin


def _calibrate(call: Callable[[], object], wanted: float) -> int:
    """How many calls fill `wanted` seconds; the calls made here are the warm-up."""
    for _ in range(3):
        call()
    inner = 1
    while (taken := _seconds(call, inner)) < wanted:
        inner = max(inner + 1, min(10 * inner, int(inner * 1.2 * wanted / max(taken, 1e-9))))
    return inner


def aligned(array: ArrayLike) -> NDArray[np.float32]:
    """A C-contiguous float32 copy that starts on a cache line: nobody pays for where malloc put an array."""
    source = np.asarray(array, np.float32)
    buffer = np.empty(source.nbytes + CACHE_LINE, np.uint8)
    start = -buffer.ctypes.data % CACHE_LINE
    out: NDArray[np.float32] = buffer[start : start + source.nbytes].view(np.float32).reshape(source.shape)
    out[...] = source
    return out
