"""How much of every tensor is kept: uniform, Erdős–Rényi-kernel, LAMP, relative scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCOPES = ("erk", "global", "lamp", "layer", "output")


def check_scope(scope: Any, neurons: bool = False) -> str:
    """`scope` if it is one, for whole neurons perhaps, else a ValueError that lists the choices."""
    choices = [name for name in SCOPES if name != "output" or not neurons]
    if scope not in choices:
        raise ValueError(f"scope: unknown name {scope!r}; choose from {', '.join(choices)}")
    return str(scope)


def check_sparsity(value: Any, name: str = "sparsity") -> float:
    """`value` as a float in [0, 1], else a ValueError that names the argument."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], got {value!r}")
    return float(value)


def keep_count(n: int, sparsity: float) -> int:
    """How many of `n` weights stay: n - round_half_even(sparsity * n).

    Examples
    --------
    >>> from secateur.budgets import keep_count
    >>> [keep_count(5, s) for s in (0, 0.1, 0.3, 0.5, 1)]
    [5, 5, 3, 3, 0]
    """
    return n - round(sparsity * n)


def uniform(sizes: Mapping[str, int], sparsity: float) -> dict[str, int]:
    """The same sparsity in every tensor: the number of weights that each keeps.

    Examples
    --------
    >>> from secateur.budgets import uniform
    >>> uniform({"conv": 10, "dense": 100}, 0.8)
    {'conv': 2, 'dense': 20}
    """
    return {name: keep_count(size, sparsity) for name, size in sizes.items()}


def erk_densities(shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, float]:
    """The densities of the Erdős–Rényi-kernel rule for a total density, before rounding.

    A tensor's density is proportional to sum(shape) / prod(shape), and at most 1: what it would get above
    that goes to the others.

    References
    ----------
    Evci et al., Rigging the Lottery: Making All Tickets Winners. arXiv 1911.11134, appendix.
    """
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    raw = {name: sum(shape) / size if (size := sizes[name]) else 0.0 for name, shape in shapes.items()}
    budget = density * sum(sizes.values())
    whole: set[str] = set()
    while True:
        free = [name for name in shapes if name not in whole]
        rest = budget - sum(sizes[name] for name in whole)
        scale = sum(raw[name] * sizes[name] for name in free)
        factor = rest / scale if scale else 0.0
        full = {name for name in free if raw[name] * factor > 1}
        if not full:
            return {name: 1.0 if name in whole else raw[name] * factor for name in shapes}
        whole |= full


def erk(shapes: Mapping[str, Sequence[int]], sparsity: float) -> dict[str, int]:
    """The number of weights that each tensor keeps under the Erdős–Rényi-kernel rule.

    Small tensors and narrow convolutions stay denser than wide Dense layers; the total is exact.

    Parameters
    ----------
    shapes : mapping of name to shape
    sparsity : float
        Of all tensors together, in [0, 1].

    Returns
    -------
    dict of str to int

    References
    ----------
    Evci et al., Rigging the Lottery: Making All Tickets Winners. arXiv 1911.11134.

    Examples
    --------
    >>> from secateur.budgets import erk
    >>> erk({"conv": (32, 1, 3, 3), "dense": (64, 1600)}, 0.9)
    {'conv': 235, 'dense': 10034}
    """
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    total = keep_count(sum(sizes.values()), sparsity)
    exact = {name: d * sizes[name] for name, d in erk_densities(shapes, 1 - sparsity).items()}
    kept = {name: min(sizes[name], int(value)) for name, value in exact.items()}
    # Largest remainders first make the total exact.
    order = sorted(shapes, key=lambda name: (kept[name] - exact[name], name))
    missing = total - sum(kept.values())
    while missing:
        for name in order:
            step = (missing > 0) - (missing < 0)
            if step and 0 <= kept[name] + step <= sizes[name]:
                kept[name] += step
                missing -= step
    return kept


def output(scores: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """Scores by which the rows of a tensor, its outputs, keep the same number of weights, to within one.

    A score becomes its rank within its row, negative; of equal ranks the earlier row keeps its weight.
    Infinite scores (kept or removed beforehand) stay what they are.

    References
    ----------
    Sun et al., A Simple and Effective Pruning Approach for Large Language Models (Wanda). arXiv 2306.11695.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur.budgets import output
    >>> output({"w": np.array([[0.5, 3.0, 1.0], [9.0, 8.0, 7.0]])})["w"]
    array([[-2.,  0., -1.],
           [ 0., -1., -2.]])
    """
    result: dict[str, NDArray[np.float64]] = {}
    for name, values in scores.items():
        rows = np.asarray(values, np.float64).reshape(len(values), -1)
        order = np.argsort(-rows, axis=1, kind="stable")
        ranks = np.empty_like(rows)
        np.put_along_axis(ranks, order, 0.0 - np.arange(rows.shape[1])[None], axis=1)
        result[name] = np.where(np.isinf(rows), rows, ranks).reshape(np.shape(values))
    return result


def lamp(scores: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """Layer-adaptive scores that can be compared between tensors.

    A score becomes its square, divided by the sum of the squares of all scores of its tensor that are not
    smaller: what its removal would cost the tensor relative to what is still there. Infinite scores (kept or
    removed beforehand) stay what they are and count for nothing.

    References
    ----------
    Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning. arXiv 2010.07611.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur.budgets import lamp
    >>> lamp({"w": np.array([1.0, 2.0, 2.0])})["w"].round(3)
    array([0.111, 1.   , 0.5  ])
    """
    result: dict[str, NDArray[np.float64]] = {}
    for name, values in scores.items():
        flat = np.asarray(values, np.float64).ravel()
        finite = ~np.isinf(flat)
        squares = np.where(finite, flat, 0.0) ** 2
        # Of equal scores the earlier one is kept, so it counts as the larger.
        order = np.lexsort((np.arange(flat.size), -squares))
        adapted = np.empty_like(flat)
        sums = np.cumsum(squares[order])
        adapted[order] = np.divide(squares[order], sums, out=np.zeros_like(sums), where=sums > 0)
        result[name] = np.where(finite, adapted, flat).reshape(np.shape(values))
    return result


def relative(scores: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """Scores as shares of their tensor's: divided by the root of the sum of all its scores' squares.

    What changes an output compares between layers only relative to that output. Of Wanda's scores |w|·‖x‖ the
    sum of squares is the mean square of the layer's output, summed over its neurons, for inputs that do not
    move together. Infinite scores (kept or removed beforehand) stay what they are and count for nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur.budgets import relative
    >>> relative({"w": np.array([3.0, 4.0]), "v": np.array([30.0, 40.0])})["v"]
    array([0.6, 0.8])
    """
    result: dict[str, NDArray[np.float64]] = {}
    for name, values in scores.items():
        values = np.asarray(values, np.float64)
        size = np.sqrt(np.square(np.where(np.isfinite(values), values, 0.0)).sum())
        result[name] = values / size if size > 0 else values
    return result
