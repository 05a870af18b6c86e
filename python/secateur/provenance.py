"""How a model came to be as sparse as it is: what its file says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, TypeAlias

Step: TypeAlias = dict[str, Any]

KEY = "provenance"
"""Key of the steps in a file's metadata; of ONNX files ``"secateur.provenance"``."""


def step(
    method: str,
    criterion: str | Callable[..., Any],
    granularity: object,
    scope: str,
    sparsity: float,
    **more: Any,
) -> Step:
    """Describe one pruning, ready for JSON.

    Parameters
    ----------
    method : str
        "prune", or the class of a dynamic method.
    criterion : str or callable
        A callable counts by its name.
    granularity : object
        As `str` has it.
    scope : str
    sparsity : float
        As reached.
    more
        What else the method has to say; JSON.

    Examples
    --------
    >>> from secateur import provenance
    >>> found = provenance.step("RigL", "l1", "8x1", "erk", 0.9)
    >>> found["method"], found["granularity"], found["sparsity"]
    ('RigL', '8x1', 0.9)
    """
    name = criterion if isinstance(criterion, str) else getattr(criterion, "__name__", "callable")
    return {
        "method": method,
        "criterion": name,
        "granularity": str(granularity),
        "scope": scope,
        "sparsity": float(sparsity),
        **more,
        "version": _version(),
    }


@cache
def _version() -> str:
    return version("secateur")


def added(steps: Sequence[Step], new: Step, goes_on: bool = False) -> list[Step]:
    """The steps with one more, which, if it goes on, replaces the latest that differs in sparsity only."""
    for i in reversed(range(len(steps) if goes_on else 0)):
        if steps[i] == {**new, "sparsity": steps[i].get("sparsity")}:
            return [*steps[:i], new, *steps[i + 1 :]]
    return [*steps, new]


def dumps(steps: Sequence[Step]) -> str:
    """The steps as the text that files have."""
    return json.dumps(list(steps))


def loads(text: str) -> list[Step]:
    """The steps that a file tells of; none where that makes no sense, since nothing depends on them."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) and all(map(_sound, found)) else []


def _sound(one: Any) -> bool:
    named = ("method", "criterion", "granularity", "scope", "version")
    return (
        isinstance(one, dict)
        and all(isinstance(one.get(key), str) for key in named)
        and isinstance(one.get("sparsity"), (int, float))
        and 0 <= one["sparsity"] <= 1
    )
