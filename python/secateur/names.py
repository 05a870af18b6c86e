"""Layers and tensors by name or pattern."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

_LISTED = 20
"""Names in a message at most: checkpoints have thousands."""


def select_names(names: Iterable[str], include: Any = None, exclude: Any = None) -> list[str]:
    """The tensors that `include` names (None: all) and `exclude` does not.

    Parameters
    ----------
    names : iterable of str
        "layer.weight".
    include, exclude : str, iterable of str or None
        Names of tensors or layers, or patterns of such with ``*`` and ``?``.

    Raises
    ------
    ValueError
        If one matches nothing, or nothing is left.

    Examples
    --------
    >>> from secateur.names import select_names
    >>> select_names(["conv2d.weight", "conv2d_1.weight", "dense.weight"], "conv*", exclude="conv2d_1")
    ['conv2d.weight']
    """
    names = list(names)
    kept = names if include is None else sorted(_matching(names, "include", include), key=names.index)
    dropped = set() if exclude is None else _matching(names, "exclude", exclude)
    left = [name for name in kept if name not in dropped]
    if not left:
        raise ValueError("exclude: no weights are left to prune")
    return left


def _matching(names: list[str], argument: str, patterns: Any) -> set[str]:
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    found: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ValueError(f"{argument}: expected names, got {pattern!r}")
        matches = {
            name
            for name in names
            if fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)
        }
        if not matches:
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            raise ValueError(f"{argument}: {pattern!r} matches none of {', '.join(names[:_LISTED])}{more}")
        found |= matches
    if not patterns:
        raise ValueError(f"{argument}: expected at least one name")
    return found
