"""What is known of the values that nodes make from one value, as a plan sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..description import INPUT, Description
from .formulas import Formula, Spelled, X
from .stages import Stage, Turned
from .weights import array_of, is_constant

Known: TypeAlias = "Stage | Spelled | Turned"
Made: TypeAlias = "Known | list[Known | None] | None"


class Region:
    """What is known of the values that nodes make from one value, and the plan's nodes for them.

    Attributes
    ----------
    start : onnx_ir.Value
    known : dict of onnx_ir.Value to Stage, Spelled or Turned
    lasts : dict of Stage to callable
        Of the states of a recurrent layer, what makes its last one alone.
    """

    def __init__(self, start: ir.Value, stage: Stage) -> None:
        self.start = start
        self.known: dict[ir.Value, Known] = {start: stage}
        self.lasts: dict[Stage, Callable[[ir.Node, bool], Stage]] = {}
        self._nodes: dict[str, dict[str, Any]] = {}
        self._formulas: dict[Stage, list[Formula]] = {}

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
        return Stage(name, shape, inputs[0].lead, inputs[0].hidden if len(shape) == 3 else ())

    def formulas(self, value: ir.Value | None) -> list[Formula]:
        """What is known of how a value is made, elements by themselves, of some stage."""
        found = None if value is None else self.known.get(value)
        if isinstance(found, Stage):
            return [Formula(found, X), *self._formulas.get(found, [])]
        return list(found.formulas) if isinstance(found, Spelled) else []

    def made(
        self, node: ir.Node, stage: Stage | None, formulas: Iterable[Formula | None]
    ) -> Stage | Spelled | None:
        """What a node makes: a stage if there is one, which may be known by formulas too, or an activation of
        another stage, if it turns out to be that; else what has only been spelled out."""
        known = [formula for formula in formulas if formula is not None]
        for formula in known:
            kind = formula.activation()
            if kind is not None:
                return self.add(node, "activation", [formula.of], formula.of.shape, kind=kind)
        if stage is None:
            return Spelled(tuple(known)) if known else None
        self._formulas[stage] = known
        return stage

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
    rank = stage.rank
    if array.ndim > rank or array.dtype.kind != "f":
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(length != 1 for axis, length in enumerate(shape) if axis != stage.axis):
        return None
    if shape[stage.axis] not in (1, stage.channels):
        return None
    return floats(np.broadcast_to(array.reshape(-1), (stage.channels,)))
