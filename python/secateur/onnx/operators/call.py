"""What an operator is called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

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


Operator: TypeAlias = "Callable[..., Array | tuple[Array, ...]]"
"""Called with the `Call` and the inputs, None for those left out; returns the output, or several."""
