"""What models cost and do, side by side: the rows of the main table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiler import compile
from ..measure import BATCHES, compare
from ..nn import Sequential

Layers = dict[str, dict[str, float]]


def kept_parameters(model: Sequential) -> int:
    """The parameters that pruning left: all but the masked ones."""
    return model.num_parameters() - sum(int(np.count_nonzero(~mask)) for mask in model.masks.values())


def nonzero_macs(model: Sequential) -> int:
    """The multiply-adds of one sample whose weight is not 0."""
    total = 0
    for layer in model.leaves():
        weights = [layer.params[key] for key in layer.prunable]
        nonzero = sum(int(np.count_nonzero(weight)) for weight in weights)
        # All weights of a layer are used equally often.
        total += layer.macs() * layer.times * nonzero // max(1, sum(weight.size for weight in weights))
    return total


def model_rows(
    models: Mapping[str, tuple[Sequential, Path]],
    x: NDArray[np.float32],
    test: tuple[NDArray[Any], NDArray[Any]] | None = None,
    threads: int | None = 1,
) -> tuple[list[dict[str, Any]], Layers]:
    """Compile models, time their plans against the first one's, and describe each.

    Parameters
    ----------
    models : mapping of str to (Sequential, path)
        The path is that of the model's file, which exists.
    x : ndarray of shape (n, *input_shape)
        What the plans are timed on, repeated if it has fewer samples than a batch.
    test : (x, y) or None
        Where the accuracy is taken.
    threads : int or None
        Threads of the plans.

    Returns
    -------
    rows : list of dict
        ``name``, ``parameters``, ``kept`` (not pruned), ``macs``, ``nonzero_macs`` (of one sample),
        ``accuracy`` (None without `test`), ``bytes``; ``us_1``, ``us_32``: median latency by batch size;
        ``speedup_1``, ``speedup_32``: of the first model's latency to this one's.
    layers : dict
        By model, the microseconds of each layer with weights at the largest batch, relayouts included.
    """
    plans = {name: compile(model, batch=BATCHES, threads=threads) for name, (model, _) in models.items()}
    x = np.resize(x, (max(BATCHES), *x.shape[1:]))
    times = {batch: compare(plans, x[:batch]) for batch in BATCHES}
    rows, layers = [], {}
    for name, (model, path) in models.items():
        row = {
            "name": name,
            "parameters": model.num_parameters(),
            "kept": kept_parameters(model),
            "macs": model.macs(),
            "nonzero_macs": nonzero_macs(model),
            "accuracy": None if test is None else model.evaluate(*test).get("accuracy"),
            "bytes": path.stat().st_size,
        }
        for batch in BATCHES:
            row |= {f"us_{batch}": times[batch][name].us, f"speedup_{batch}": times[batch][name].speedup}
        rows.append(row)
        report = plans[name].report(max(BATCHES), seconds=0.02)
        layers[name] = {step["name"]: step["us_chosen"] for step in report if step["us_chosen"] is not None}
    return rows, layers
