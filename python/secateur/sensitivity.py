"""How much each layer's pruning costs, one layer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import tee
from typing import Any

import numpy as np

from .budgets import check_sparsity
from .calibration import Calibration
from .criteria import Criterion, needs_grads, needs_norms
from .granularity import Neurons, parse_granularity
from .models.view import ModelView, view
from .names import select_names
from .pruning import Samples, Validate, prune

__all__ = ["sensitivity"]


def sensitivity(
    model: Any,
    data: Samples | None = None,
    sparsities: Sequence[float | None] = (0.5, 0.7, 0.9),
    *,
    criterion: Criterion = "l1",
    granularity: str = "weight",
    scope: str = "layer",
    validate: Validate | None = None,
    include: Any = None,
    exclude: Any = None,
    random_state: int | None = None,
) -> list[dict[str, Any]]:
    """Prune every layer alone, at several sparsities, and see what that does to the model.

    What costs much should keep more: see `include`, `exclude` and `scope` of `prune`.

    Parameters
    ----------
    model : Sequential, OnnxModel or path-like
        Built, usually trained; not changed.
    data : array-like, mapping, (x, y) or callable, optional
        As for `prune`. Without `validate`, the model's outputs are compared on these samples.
    sparsities : sequence of (float or None)
        In [0, 1], each of every layer by itself. N:M patterns have their own: give ``(None,)``.
    criterion, granularity, scope, include, exclude, random_state
        As for `prune`; no neurons.
    validate : (x, y) or callable, optional
        As for `prune`: what is compared instead is the score.

    Returns
    -------
    list of dict
        One for each tensor and sparsity, in the model's order: ``"tensor"``, ``"sparsity"``, and ``"drop"``,
        the score before minus that after, or ``"error"``, |y - y₀|² / |y₀|² over all outputs of `data`.

    Raises
    ------
    ValueError, TypeError, UnsupportedOpError
        As `prune`; and if neither `data` nor `validate` is given.

    Examples
    --------
    >>> import numpy as np
    >>> import secateur as sc
    >>> layers = [sc.nn.Dense(16, activation="relu"), sc.nn.Dense(2)]
    >>> model = sc.nn.Sequential(layers).build((8,), random_state=0)
    >>> rows = sc.sensitivity(model, np.random.default_rng(0).normal(size=(100, 8)), (0.5, 0.75))
    >>> [(row["tensor"], row["sparsity"]) for row in rows]
    [('dense.weight', 0.5), ('dense.weight', 0.75), ('dense_1.weight', 0.5), ('dense_1.weight', 0.75)]
    >>> bool(rows[0]["error"] < rows[1]["error"])
    True
    """
    if data is None and validate is None:
        raise ValueError("data: give samples to compare outputs on, or validate")
    whole = view(model)
    calibration = None if validate is not None else Calibration(data)
    wanted = [None if each is None else check_sparsity(each, "sparsities") for each in sparsities]
    if not wanted:
        raise ValueError("sparsities: expected at least one")
    if isinstance(parse_granularity(granularity), Neurons):
        raise ValueError("granularity: a neuron belongs to several layers; choose weights, blocks or N:M")
    seen = data if callable(criterion) or needs_norms(criterion) or needs_grads(criterion) else None
    before = _score(whole, validate) if validate is not None else 0.0
    rows = []
    for name in select_names(whole.parameters(), include, exclude):
        for sparsity in wanted:
            result = prune(
                whole.model, sparsity, criterion=criterion, granularity=granularity, scope=scope, data=seen,
                include=name, random_state=random_state, progress=False,
            )  # fmt: skip
            pruned = view(result.model)
            row = {"tensor": name, "sparsity": 1 - float(np.mean(result.masks[name]))}
            if validate is not None:
                row["drop"] = before - _score(pruned, validate)
            elif calibration is not None:
                row["error"] = _error(pruned, whole, calibration)
            rows.append(row)
    return rows


def _score(model: ModelView, validate: Validate) -> float:
    return float(validate(model.model)) if callable(validate) else model.score(validate)


def _error(pruned: ModelView, whole: ModelView, calibration: Calibration) -> float:
    """|y - y₀|² / |y₀|² over all samples."""
    different = total = 0.0
    batches, again = tee(calibration)
    for after, before in zip(pruned.outputs(batches), whole.outputs(again), strict=True):
        different += float(np.sum(np.square(after.astype(np.float64) - before)))
        total += float(np.sum(np.square(before, dtype=np.float64)))
    return different / total if total else 0.0
