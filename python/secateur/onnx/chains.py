"""The parts of a graph that a plan can run: from one value to another, with weights between them.

::

    x ── Conv ── Relu ── Conv ── Add ── Relu ── y          one chain, from x to y: nothing else leaves it
     └────────────────────────────┘

All that can be computed from a value x by nodes that plans know is a *region*. In it, a chain ends wherever
nothing on the way from x is read by the rest of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ..description import INPUT, Description
from .chain_rules import RULES
from .regions import Region
from .stages import Stage
from .weights import DOMAINS, FLOATS, is_constant


@dataclass(frozen=True, eq=False)
class Chain:
    """Nodes that a plan can run in their place.

    Attributes
    ----------
    nodes : tuple of onnx_ir.Node
        In the graph's order.
    input, output : onnx_ir.Value
        What is read besides constants, and the only value that anything else reads.
    start, end : Stage
        What they are to the plan.
    description : list of dict
        The network, see `secateur.description.describe`.
    """

    nodes: tuple[ir.Node, ...]
    input: ir.Value
    output: ir.Value
    start: Stage
    end: Stage
    description: Description

    @property
    def lead(self) -> int:
        """How many axes of both are the batch: 1, or more for vectors, as of every token of a sentence."""
        return self.start.lead

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample: (channels, height, width), (steps, features), or (features,)."""
        return self.start.shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of its result."""
        return self.end.shape

    @property
    def name(self) -> str:
        return self.output.name or ""


def find_chains(graph: ir.Graph) -> list[Chain]:
    """The chains of a graph, each as long as can be, that share no nodes; in the order of their inputs.

    Parameters
    ----------
    graph : onnx_ir.Graph
        In topological order, with the shapes of its values; see `secateur.onnx.folding.fold`.
    """
    order = {node: at for at, node in enumerate(graph)}
    taken: set[ir.Node] = set()
    found = []
    for value in _values(graph):
        while True:
            ways = (_longest(value, stage, order, taken) for stage in _stages(value))
            # Of as many nodes the later, of vectors, which have any number of steps.
            chain = max(
                (way for way in ways if way), key=lambda way: (len(way.nodes), way.lead), default=None
            )
            if chain is None:
                break
            taken.update(chain.nodes)
            found.append(chain)
    return found


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """What chains may begin with, in the graph's order."""
    yield from (value for value in graph.inputs if not is_constant(value))
    for node in graph:
        yield from node.outputs


def _stages(value: ir.Value) -> Iterator[Stage]:
    """What a value may be to a plan: a batch of images, sequences or vectors."""
    shape = value.shape
    if shape is None or value.dtype not in FLOATS[:1]:
        return
    sample = [dim for dim in shape[1:] if isinstance(dim, int) and dim > 0]
    if len(shape) == 4 and len(sample) == 3:
        yield Stage(INPUT, tuple(sample), 1)
    if len(shape) == 3 and len(sample) == 2:
        yield Stage(INPUT, tuple(sample), 1)
        yield Stage(INPUT, (sample[0], 1, sample[1]), 1, (1,))
    if len(shape) >= 2 and isinstance(shape[-1], int) and shape[-1] > 0:
        yield Stage(INPUT, (shape[-1],), len(shape) - 1)


def _longest(start: ir.Value, stage: Stage, order: dict[ir.Node, int], taken: set[ir.Node]) -> Chain | None:
    """The chain from a value that has most nodes."""
    region = Region(start, stage)
    nodes = _grow(region, order, taken)
    for node in sorted(nodes, key=order.__getitem__, reverse=True):
        for output in node.outputs:
            end = region.known.get(output)
            if not isinstance(end, Stage):
                continue
            way = _way(output, start, nodes)
            leaves = (value for inner in way for value in inner.outputs if value is not output)
            whole = all(
                not value.is_graph_output() and all(use.node in way for use in value.uses())
                for value in leaves
            )
            description = region.description(end)
            if whole and any(part["op"] in ("dense", "conv2d") for part in description):
                inside = tuple(sorted(way, key=order.__getitem__))
                return Chain(inside, start, output, stage, end, description)
    return None


def _grow(region: Region, order: dict[ir.Node, int], taken: set[ir.Node]) -> set[ir.Node]:
    """All nodes that the region can hold; it learns what they make."""
    nodes: set[ir.Node] = set()
    waiting = {use.node for use in region.start.uses()}
    while waiting:
        node = min(waiting, key=lambda node: order.get(node, -1))
        waiting.remove(node)
        if node in nodes or node in taken or node not in order or node.domain not in DOMAINS:
            continue
        read = [value for value in node.inputs if value and not is_constant(value)]
        rule = RULES.get(node.op_type)
        if rule is None or not all(value in region.known for value in read):
            continue  # it comes back with the last of its inputs
        made = rule(region, node)
        if made is None:
            continue
        for value, result in zip(node.outputs, made if isinstance(made, list) else [made], strict=False):
            if result is not None:
                region.known[value] = result
        nodes.add(node)
        waiting |= {use.node for value in node.outputs for use in value.uses()}
    return nodes


def _way(end: ir.Value, start: ir.Value, nodes: set[ir.Node]) -> set[ir.Node]:
    """The nodes of a region that lead to a value."""
    way: set[ir.Node] = set()
    waiting = [end]
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if value is start or node is None or node in way or node not in nodes:
            continue
        way.add(node)
        waiting += [value for value in node.inputs if value is not None]
    return way
