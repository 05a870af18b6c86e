"""What is known of the values that nodes make from one value, as a plan sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..description import INPUT, Description
from .weights import array_of, is_constant


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
    """

    name: str
    shape: tuple[int, ...]
    lead: int

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
        return axis % (self.lead + len(self.shape)) == self.axis


class Form(NamedTuple):
    """`factor` times a function of a stage, of which more is to come: GELU is spelled out in five nodes.

    Attributes
    ----------
    factor : float
    kind : str
        ``"x"``, ``"erf(x)"``, ``"1 + erf(x)"`` or ``"x * (1 + erf(x))"``.
    of : Stage
    """

    factor: float
    kind: str
    of: Stage


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


Known: TypeAlias = "Stage | Form | Turned"
Made: TypeAlias = "Known | list[Known | None] | None"


class Region:
    """What is known of the values that nodes make from one value, and the plan's nodes for them.

    Attributes
    ----------
    start : onnx_ir.Value
    known : dict of onnx_ir.Value to Stage, Form or Turned
    lasts : dict of Stage to callable
        Of the states of a recurrent layer, what makes its last one alone.
    """

    def __init__(self, start: ir.Value, stage: Stage) -> None:
        self.start = start
        self.known: dict[ir.Value, Known] = {start: stage}
        self.lasts: dict[Stage, Callable[[ir.Node, bool], Stage]] = {}
        self._nodes: dict[str, dict[str, Any]] = {}
        # Stages that are an activation of another one, which a product with it may be one too.
        self._activations: dict[Stage, tuple[Any, Stage]] = {}

    def stage(self, value: ir.Value | None) -> Stage | None:
        """The stage that holds a value; none if a part of a formula does."""
        found = None if value is None else self.known.get(value)
        return found if isinstance(found, Stage) else None

    def add(
        self, node: ir.Node, op: str, inputs: list[Stage], shape: tuple[int, ...], **attributes: Any
    ) -> Stage:
        """A node of the plan."""
        base = node.outputs[0].name or node.name or op
        name = next(
            name
            for i in range(len(self._nodes) + 2)
            if (name := _numbered(base, i)) not in (INPUT, *self._nodes)
        )
        self._nodes[name] = {"op": op, "name": name, "inputs": [stage.name for stage in inputs], **attributes}
        return Stage(name, shape, inputs[0].lead)

    def activation(self, node: ir.Node, x: Stage, kind: Any) -> Stage:
        """An activation of a stage."""
        made = self.add(node, "activation", [x], x.shape, kind=kind)
        self._activations[made] = kind, x
        return made

    def activated(self, stage: Stage) -> tuple[Any, Stage] | None:
        """Of which stage another is what activation."""
        return self._activations.get(stage)

    def last_of(self, node: ir.Node, states: Stage) -> Stage | None:
        """The last state of a recurrent layer that runs ahead."""
        make = self.lasts.get(states)
        return None if make is None else make(node, False)

    def description(self, end: Stage) -> Description:
        """The nodes that lead to a stage."""
        needed, waiting = set(), [end.name]
        while waiting:
            name = waiting.pop()
            if name not in needed and name != INPUT:
                needed.add(name)
                waiting += self._nodes[name]["inputs"]
        return [node for name, node in self._nodes.items() if name in needed]


def _numbered(name: str, number: int) -> str:
    return f"{name}.{number}" if number else name


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of a constant."""
    return array_of(value) if value is not None and is_constant(value) else None


def floats(array: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, np.float32)


def per_channel(array: NDArray[Any], stage: Stage) -> NDArray[np.float32] | None:
    """A constant that is broadcast against a stage as one number a channel; None if it is more."""
    rank = stage.lead + len(stage.shape)
    if array.ndim > rank or array.dtype.kind != "f":
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(length != 1 for axis, length in enumerate(shape) if axis != stage.axis):
        return None
    if shape[stage.axis] not in (1, stage.channels):
        return None
    return floats(np.broadcast_to(array.reshape(-1), (stage.channels,)))
