"""What values are to a plan."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    """What a node of the plan makes of each sample.

    Attributes
    ----------
    name : str
        The node's.
    shape : tuple of int
        (channels, height, width), (steps, features), or (features,).
    lead : int
        How many axes of the value are the batch.
    hidden : tuple of int
        The axes of the shape, of length 1, that the value does not have: a line of pixels is an image of one
        row.
    """

    name: str
    shape: tuple[int, ...]
    lead: int
    hidden: tuple[int, ...] = ()

    @property
    def shown(self) -> tuple[int, ...]:
        """The axes of the value behind those of the batch."""
        return tuple(length for axis, length in enumerate(self.shape) if axis not in self.hidden)

    @property
    def rank(self) -> int:
        """How many axes the value has."""
        return self.lead + len(self.shape) - len(self.hidden)

    @property
    def axis(self) -> int:
        """The axis of the value that is its channels or features."""
        return self.lead + (len(self.shape) == 2)

    @property
    def channels(self) -> int:
        """How many there are."""
        return self.shape[self.axis - self.lead]

    def wide(self, channels: int) -> tuple[int, ...]:
        """The shape with another number of them."""
        at = self.axis - self.lead
        return (*self.shape[:at], channels, *self.shape[at + 1 :])

    def is_axis(self, axis: int) -> bool:
        """Whether an operator's axis, negative if it counts from the end, is that of the channels."""
        return axis % self.rank == self.axis


class Turned(NamedTuple):
    """Sequences, or their last states, of a recurrent layer's directions, with axes in another order.

    Attributes
    ----------
    of : tuple of Stage
        One a direction.
    axes : str
        Samples ``"n"``, steps ``"t"``, directions ``"d"``, features ``"f"``.
    """

    of: tuple[Stage, ...]
    axes: str
