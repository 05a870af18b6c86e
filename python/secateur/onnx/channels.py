"""Which neurons of an ONNX graph belong together, and where the entries lie that belong to them.

Every output of a layer with weights gets a number. The numbers travel along the graph, one for each entry of
the axis that counts channels (channel_rules.py knows how)::

    Conv ── 0 1 2 ──┐
                    Add ── 0=3 1=4 2=5 ── Flatten ── 0 0 1 1 2 2 ── Gemm, columns 0 0 1 1 2 2
    Conv ── 3 4 5 ──┘

An addition ties numbers to each other, a concatenation puts them side by side, and constants on the way have
entries for them. Numbers that reach the model's outputs, or an operator that mixes or hides what it gets, are
held: those neurons stay. What is tied goes together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .channel_rules import RULES, SOURCES, Unfollowable
from .weights import DOMAINS, Weight, array_of, is_constant, label

Numbers: TypeAlias = NDArray[np.intp]


class Flow(NamedTuple):
    """The axis of a value that counts channels, and the number of each entry along it."""

    axis: int
    numbers: Numbers


@dataclass(frozen=True)
class Group:
    """Neurons that can be removed one by one.

    Attributes
    ----------
    tensors : list of str
        The prunable tensors that make them, each of which has entries for all of them along axis 0.
    places : dict of (str, int) to ndarray of int, shape (neurons, entries)
        By array and axis, the entries of each neuron.
    """

    tensors: list[str]
    places: dict[tuple[str, int], Numbers]


class Channels:
    """The channels of a graph.

    Parameters
    ----------
    graph : onnx_ir.Graph
        With shapes.
    weights : dict of str to Weight
        As `find_weights` gives them.

    Attributes
    ----------
    groups : list of Group
        The neurons that can be removed.
    held : dict of str to str
        For the prunable tensors whose neurons cannot: what hides or mixes them.
    """

    def __init__(self, graph: ir.Graph, weights: dict[str, Weight]) -> None:
        self.weights = weights
        self._readers: dict[ir.Value, list[Weight]] = {}
        for weight in weights.values():
            self._readers.setdefault(weight.value, []).append(weight)
        self._flows: dict[ir.Value, Flow] = {}
        self._parents: list[int] = []
        self._held: dict[int, str] = {}
        self._parts: dict[tuple[str, int], Numbers] = {}
        for node in graph:
            self._follow(node)
        for value, flow in self._flows.items():
            if value.is_graph_output():
                self.hold(flow.numbers, "they are the model's outputs")
            if any(use.node.graph is not graph for use in value.uses()):
                self.hold(flow.numbers, "a nested graph reads them")
        self.groups, self.held = self._collect()

    def _follow(self, node: ir.Node) -> None:
        rule = RULES.get(node.op_type) if node.domain in DOMAINS else None
        flows = [None if value is None else self._flows.get(value) for value in node.inputs]
        found = [flow for flow in flows if flow is not None]
        if not found and node.op_type not in SOURCES:
            return
        try:
            if rule is None:
                raise Unfollowable
            rule(self, node, flows)
            # Places of maxima, masks: what they count is not known.
            if any(output.uses() and output not in self._flows for output in node.outputs[1:]):
                raise Unfollowable
        except Unfollowable:
            for flow in found:
                self.hold(flow.numbers, f"{label(node)} cannot be followed")

    # What rules do

    def new(self, count: int) -> Numbers:
        """Numbers that nothing has yet."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def tie(self, one: Numbers, other: Numbers) -> None:
        """Let neurons be removed together."""
        if len(one) != len(other):
            raise Unfollowable
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            a, b = sorted((self._root(a), self._root(b)))
            self._parents[b] = a

    def hold(self, numbers: Numbers, why: str) -> None:
        """Let neurons stay."""
        for number in numbers.tolist():
            self._held.setdefault(number, why)

    def send(self, value: ir.Value, axis: int, numbers: Numbers) -> None:
        """Let a value have channels along an axis."""
        self._flows[value] = Flow(axis, numbers)

    def own(self, value: ir.Value | None, axis: int, numbers: Numbers) -> None:
        """Let a constant have entries for neurons along an axis; nothing else may read it."""
        if value is None or not is_constant(value) or len(value.uses()) != 1:
            raise Unfollowable
        shape = array_of(value).shape
        if not shape or shape[axis] != len(numbers):
            raise Unfollowable
        self._parts[value.name or "", axis % len(shape)] = numbers

    def tensors(self, value: ir.Value | None) -> list[Weight]:
        """The prunable tensors of an initializer that one node reads, one a direction."""
        found = [] if value is None else self._readers.get(value, [])
        return found if all(len(weight.readers) == 1 for weight in found) else []

    def part(self, weight: Weight, axis: int, numbers: Numbers) -> None:
        """Let a prunable tensor have entries for neurons along an axis."""
        if weight.shape[axis] != len(numbers):
            raise Unfollowable
        self._parts[weight.name, axis] = numbers

    # What comes of it

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def _collect(self) -> tuple[list[Group], dict[str, str]]:
        roots = {key: np.array([self._root(n) for n in part.tolist()]) for key, part in self._parts.items()}
        why = {self._root(number): reason for number, reason in self._held.items()}
        made = {name: roots[name, 0] for name in self.weights if (name, 0) in roots}
        groups: list[Group] = []
        held = {name: "its layer cannot be followed" for name in self.weights if name not in made}
        for names in _connected(made):
            neurons = list(dict.fromkeys(made[names[0]].tolist()))
            reason = next((why[n] for name in names for n in made[name].tolist() if n in why), None)
            places = {
                key: _entries(part, neurons) for key, part in roots.items() if np.isin(part, neurons).any()
            }
            if reason is None and any(found is None for found in places.values()):
                reason = "they are tied to others unevenly"
            if reason is not None:
                held |= dict.fromkeys(names, reason)
            else:
                groups.append(
                    Group(names, {key: found for key, found in places.items() if found is not None})
                )
        return groups, held


def _connected(made: dict[str, Numbers]) -> Iterable[list[str]]:
    """Tensors in lists whose neurons are tied to each other's."""
    left = dict(made)
    while left:
        names = [next(iter(left))]
        numbers = set(left.pop(names[0]).tolist())
        grown = True
        while grown:
            more = [name for name, own in left.items() if not numbers.isdisjoint(own.tolist())]
            for name in more:
                numbers |= set(left.pop(name).tolist())
            names += more
            grown = bool(more)
        yield sorted(names, key=list(made).index)


def _entries(part: Numbers, neurons: list[int]) -> Numbers | None:
    """The entries of each neuron, one a row; None if some have more than others."""
    order = np.argsort(part, kind="stable")
    firsts = np.searchsorted(part[order], neurons, side="left")
    counts = np.searchsorted(part[order], neurons, side="right") - firsts
    if len(set(counts.tolist())) > 1:
        return None
    places: Numbers = order[firsts[:, None] + np.arange(counts[0])]
    return places
