"""A graph as a list of steps: chains that plans run, and operators on arrays around them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import UnsupportedOpError
from .chains import Chain
from .files import OLDEST_OPSET
from .operators.call import Array, Call, Operator
from .operators.registry import NEWEST_OPSET, OPERATORS
from .weights import DOMAINS, array_of, initializer, is_constant, label, lengths_of, opset_of

LARGEST = 1 << 26
"""Bytes of what is computed beforehand: more would only make a plan large that was small."""

Values: TypeAlias = "dict[str, Array | None]"


@dataclass
class Step:
    """One step of a run.

    Attributes
    ----------
    name, op : str
        For reports.
    run : callable
        Called with the arrays read; returns those written.
    reads, writes : tuple of str
        Names of values; an empty one is none.
    chain : Chain or None
        What a plan runs here.
    frees : tuple of str
        What no later step reads.
    """

    name: str
    op: str
    run: Callable[..., tuple[Array, ...]]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    chain: Chain | None = None
    frees: tuple[str, ...] = ()


def fold_constants(graph: ir.Graph, threads: int | None) -> None:
    """Compute what depends on constants alone, in place of its nodes."""
    for node in list(graph):
        inputs = [value for value in node.inputs if value is not None]
        known = all(is_constant(value) for value in inputs) and (inputs or node.op_type == "Constant")
        if not known or node.domain not in DOMAINS or node.op_type not in OPERATORS:
            continue
        if any(output.is_graph_output() for output in node.outputs):
            continue
        if sum(map(_least, node.outputs)) > LARGEST:
            continue
        arrays = [None if value is None else array_of(value) for value in node.inputs]
        results = operate(node, graph, threads)(*arrays)
        if sum(result.nbytes for result in results) > LARGEST:
            continue
        for output, result in zip(node.outputs, results, strict=False):
            if not output.uses():
                continue  # perhaps it has no name
            tensor = ir.Tensor(np.asarray(result, order="C"), name=output.name)
            made = initializer(output.name or "", tensor)
            output.replace_all_uses_with(made)
            output.name = f"{output.name}.node"
            graph.register_initializer(made)
        graph.remove(node, safe=True)


def _least(value: ir.Value) -> int:
    """How many elements, and so bytes, a value will have at least."""
    return math.prod(length for length in lengths_of(value) or [] if isinstance(length, int))


def operate(node: ir.Node, graph: ir.Graph, threads: int | None) -> Callable[..., tuple[Array, ...]]:
    """A node as a function of arrays.

    Raises
    ------
    UnsupportedOpError
        Naming node and operator, if it is none that runs here.
    """
    operator: Operator | None = OPERATORS.get(node.op_type) if node.domain in DOMAINS else None
    if operator is None:
        full = f"{node.domain}.{node.op_type}" if node.domain not in DOMAINS else node.op_type
        raise UnsupportedOpError(f"{node.name or node.outputs[0].name}: plans cannot run the operator {full}")
    version = opset_of(graph)
    since = onnx.defs.get_schema(node.op_type, version).since_version
    if version < OLDEST_OPSET or since > NEWEST_OPSET:
        known = f"from opset {OLDEST_OPSET} to {NEWEST_OPSET}"
        raise UnsupportedOpError(f"{label(node)}: plans know the operator as it was {known}")
    attributes = {name: _plain(node, attribute) for name, attribute in node.attributes.items()}
    call = Call(
        node.op_type, node.name or node.outputs[0].name or "", version, attributes, len(node.outputs), threads
    )

    def run(*arrays: Array | None) -> tuple[Array, ...]:
        results = operator(call, *arrays)
        return results if isinstance(results, tuple) else (results,)

    return run


def _plain(node: ir.Node, attribute: ir.Attr) -> Any:
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        raise UnsupportedOpError(f"{label(node)}: plans cannot run graphs within nodes")
    value = attribute.value
    if attribute.type == ir.AttributeType.TENSOR:
        return value.numpy()
    return list(value) if isinstance(value, tuple) else value


def steps_of(
    graph: ir.Graph, chains: Mapping[Chain, Callable[[Array], Array]], threads: int | None
) -> list[Step]:
    """The steps of a graph, in an order in which they can run.

    Parameters
    ----------
    graph : onnx_ir.Graph
        In topological order.
    chains : mapping of Chain to callable
        What runs each of them, from the array of its input to that of its output.
    threads : int or None
    """
    ends = {chain.output: chain for chain in chains}
    inside = {node for chain in chains for node in chain.nodes}
    steps = []
    for node in graph:
        # All that a chain reads is there before its last node.
        steps += [_chain_step(ends[output], chains) for output in node.outputs if output in ends]
        if node not in inside:
            name = node.name or node.outputs[0].name or ""
            steps.append(
                Step(
                    name,
                    node.op_type,
                    operate(node, graph, threads),
                    _names(node.inputs),
                    _names(node.outputs),
                )
            )
    kept = {output.name for output in graph.outputs}
    needed = []
    for step in reversed(steps):
        if kept.isdisjoint(step.writes):
            continue  # what only a chain's nodes read, which the plan has
        step.frees = tuple({name for name in (*step.reads, *step.writes) if name and name not in kept})
        kept.update(step.frees)
        needed.append(step)
    return needed[::-1]


def _chain_step(chain: Chain, chains: Mapping[Chain, Callable[[Array], Array]]) -> Step:
    run = chains[chain]
    reads, writes = _names([chain.input]), _names([chain.output])
    return Step(chain.name, "Plan", lambda array: (run(array),), reads, writes, chain)


def _names(values: Iterable[ir.Value | None]) -> tuple[str, ...]:
    return tuple("" if value is None else value.name or "" for value in values)


def run_steps(steps: Iterable[Step], values: Values, constants: Mapping[str, NDArray[Any]]) -> None:
    """Run the steps on the values there are, which become those of the graph's outputs."""
    for step in steps:
        arrays = [
            None if not name else values[name] if name in values else constants[name] for name in step.reads
        ]
        results = step.run(*arrays)
        values.update({name: array for name, array in zip(step.writes, results, strict=False) if name})
        for name in step.frees:
            values.pop(name, None)
