"""What an operator is called with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import UnsupportedOpError

Array: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True)
class Call:
    """A node, but for its inputs.

    Attributes
    ----------
    op, name : str
        For messages: the operator, and the node's name or that of its first output.
    version : int
        Of the opset.
    attributes : mapping
        Python values; tensors as arrays.
    outputs : int
        How many are wanted.
    threads : int or None
        As for `secateur.compile`.
    """

    op: str
    name: str
    version: int
    attributes: Mapping[str, Any]
    outputs: int = 1
    threads: int | None = None

    def get(self, attribute: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(attribute, default)

    def unsupported(self, why: str) -> UnsupportedOpError:
        """The error that this node cannot run here."""
        return UnsupportedOpError(f"{self.name}: {self.op} {why}")

    def ints(self, attribute: str, array: Array | None) -> list[int] | None:
        """Integers that older opsets have as an attribute, newer ones as an input; None without either."""
        given = self.get(attribute) if array is None else array.reshape(-1).tolist()
        return None if given is None else [int(value) for value in given]


Operator: TypeAlias = "Callable[..., Array | tuple[Array, ...]]"
"""Called with the `Call` and the inputs, None for those left out; returns the output, or several.

What does not fit is a ValueError without the node's name, which the registry adds. Inputs are never written
to; outputs may be views of them.
"""


def number(like: Array, value: float) -> Array:
    """A number in the type of an array."""
    return np.asarray(value, like.dtype)


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"has no axis {axis} of {rank}")
    return axis % rank


def axes_of(axes: Iterable[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front, in order.

    Raises
    ------
    ValueError
        If there is one not, or twice.
    """
    found = [axis_of(axis, rank) for axis in axes]
    if len(set(found)) != len(found):
        raise ValueError(f"has an axis twice in {found}")
    return tuple(sorted(found))
