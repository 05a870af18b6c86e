"""What the weights of an ONNX model are multiplied by, from stock ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import UnsupportedOpError
from ..models.patches import patches
from ..models.view import Batch, FloatArray
from .model import OnnxModel
from .operators.call import Call
from .operators.windows import windows_of
from .session import batch_size, dtype_of, session
from .weights import RECURRENT, Weight, array_of, attribute, is_constant, label

Arrays = dict[str, NDArray[Any]]


def layer_inputs(model: OnnxModel, weight: Weight, batches: Iterable[Batch]) -> Iterator[FloatArray]:
    """See `ModelView.layer_inputs`.

    The part of the model before the weight runs by itself, with what the weight meets for outputs.
    """
    taps: dict[str, ir.Value] = {}
    for node in weight.readers:
        for value in _wanted(node, weight):
            taps[value.name or ""] = value
    known = {name: array_of(value) for name, value in taps.items() if is_constant(value)}
    inputs = {info.name for info in model.inputs}
    names = [name for name in taps if name not in known and name not in inputs]
    running = session(_cut(model, names)) if names else None
    for batch in batches:
        for feeds in _feeds(model, batch):
            found = {**known, **feeds}
            if running is not None:
                needed = {each.name: feeds[each.name] for each in running.get_inputs()}
                found |= zip(names, running.run(names, needed), strict=True)
            for node in weight.readers:
                yield from _matrices(node, weight, [found[v.name or ""] for v in _wanted(node, weight)])


def _wanted(node: ir.Node, weight: Weight) -> list[ir.Value]:
    """The values that `_matrices` makes its matrices from."""
    first = node.inputs[0]
    assert first is not None
    if node.op_type not in RECURRENT:
        return [first]
    if attribute(node, "layout", 0):
        raise UnsupportedOpError(f"{label(node)}: the inputs of a layer with layout=1 are not known")
    # The lengths of the sequences, and, for the weights that read the state, all states and the first one.
    found = [first, *_optional(node, 4)]
    if weight.value is node.inputs[2]:
        if node.op_type == "GRU" and not attribute(node, "linear_before_reset", 0):
            raise UnsupportedOpError(
                f"{label(node)}: with linear_before_reset=0 its gates read different states; exclude {weight.name}"
            )
        found += [node.outputs[0], *_optional(node, 5)]
    return found


def _optional(node: ir.Node, index: int) -> list[ir.Value]:
    value = node.inputs[index] if len(node.inputs) > index else None
    return [] if value is None else [value]
