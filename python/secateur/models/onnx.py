"""`secateur.OnnxModel` as a `ModelView`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import provenance
from ..errors import UnsupportedOpError
from ..onnx.biases import biases_of
from ..onnx.channels import Channels, Group
from ..onnx.files import infer_shapes, one_line
from ..onnx.layer_inputs import layer_inputs
from ..onnx.model import OnnxModel
from ..onnx.session import FREE, noise, runner
from ..onnx.weights import (
    RECURRENT,
    Weight,
    array_of,
    attribute,
    find_weights,
    is_constant,
    is_depthwise,
    put_array,
)
from .view import Batch, BoolArray, Consumer, Data, FloatArray, ModelView, Snapshot

SCORED = 256
"""Samples at a time for the score."""


class OnnxView:
    """A `secateur.OnnxModel` seen by the pruning loops; see `ModelView`.

    Tensors have the names of their initializers, the two directions of a recurrent layer ``.forward`` and
    ``.reverse`` behind. The right operands of MatMul and of Gemm without transB are turned, so that outputs
    come first in all. Arrays are views of the model's, not to be written to, and float32 copies where it has
    another type; what changes them puts others in their place.

    Raises
    ------
    ValueError
        If the model has no prunable weights.
    """

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self._seen: ir.Model | None = None
        self._found: dict[str, Weight] = {}
        self._channels: Channels | None = None
        if not self._weights:
            raise ValueError("model: it has no weights to prune")

    @property
    def _weights(self) -> dict[str, Weight]:
        """The prunable tensors of the graph, which fine-tuning may have exchanged."""
        if self._seen is not self.model.ir:
            self._seen, self._channels = self.model.ir, None
            self._found = find_weights(self.model.ir.graph)
        return self._found

    def _tensor(self, name: str) -> Weight:
        if name not in self._weights:
            raise ValueError(f"name: the model has no prunable tensor {name!r}")
        return self._weights[name]

    def parameters(self) -> dict[str, FloatArray]:
        return {name: self.array(name).astype(np.float32, copy=False) for name in self._weights}

    def gradients(self, data: Data | None = None) -> dict[str, FloatArray]:
        raise UnsupportedOpError("data: ONNX models cannot be trained here, and have no gradients")

    def array(self, name: str) -> NDArray[Any]:
        """Any array, in the type that the model has it in: what is taken of it and put back is exact."""
        if name in self._weights:
            weight = self._weights[name]
            return weight.read(array_of(weight.value))
        value = self.model.ir.graph.initializers.get(name)
        if value is None or value.const_value is None:
            raise ValueError(f"name: the model has no array {name!r}")
        return array_of(value)

    def replace(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        for name in arrays:
            self.array(name)
        narrower = self.model.ir.clone()
        weights = find_weights(narrower.graph)
        depthwise = {node: value for node in narrower.graph if (value := _separate_filters(node))}
        each = {
            node: len(array_of(value)) // attribute(node, "group", 1) for node, value in depthwise.items()
        }
        for name, array in arrays.items():
            value = weights[name].value if name in weights else narrower.graph.initializers[name]
            old = array_of(value)
            put_array(value, weights[name].write(old, array) if name in weights else array.astype(old.dtype))
        for node, value in depthwise.items():
            node.attributes["group"] = ir.AttrInt64("group", len(array_of(value)) // each[node])
        for weight in filter(_reads_state, weights.values()):
            node = weight.readers[0]
            node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", weight.shape[1])
        try:
            infer_shapes(narrower, known=False)
        except Exception as error:  # onnx has several, one for each of its parts
            raise ValueError(f"arrays: {one_line(error)}") from None
        masks = self.model.masks
        self.model.ir = narrower
        self.model.masks = {
            name: mask
            for name, mask in masks.items()
            if name in self._weights and self._weights[name].shape == mask.shape
        }

    def _groups(self) -> dict[str, Group]:
        """The groups of neurons by the first of the tensors that make them."""
        weights = self._weights
        if self._channels is None:
            self._channels = Channels(self.model.ir.graph, weights)
        return {group.tensors[0]: group for group in self._channels.groups}

    def neurons(self, name: str) -> list[Consumer]:
        self._tensor(name)
        groups = self._groups()
        if name in groups:
            return self._consumers(name, own=True)
        if any(name in group.tensors for group in groups.values()):
            return []
        return [Consumer(name, 0)]

    def consumers(self, name: str) -> list[Consumer]:
        """What follows the neurons; nothing where these cannot be removed, so that they stay.

        UnsupportedOpError, naming node and operator, if the model has none that can.
        """
        self._tensor(name)
        if name in self._groups():
            return self._consumers(name, own=False)
        assert self._channels is not None
        if not self._channels.groups:
            raise UnsupportedOpError(f"{name}: neurons cannot be removed: {self._channels.held[name]}")
        return []

    def _consumers(self, name: str, own: bool) -> list[Consumer]:
        group = self._groups()[name]
        found = []
        for (array, axis), places in group.places.items():
            mine = array in group.tensors and (axis == 0 or _reads_state(self._weights[array]))
            if mine == own:
                found.append(Consumer(array, axis, 1, places.shape[1], places))
        return sorted(found, key=lambda consumer: (consumer.name, consumer.axis) != (name, 0))

    def positions(self, name: str) -> int:
        weight = self._tensor(name)
        return sum(_positions(node) for node in weight.readers)

    def layer_inputs(self, name: str, batches: Iterable[Batch]) -> Iterator[FloatArray]:
        self._tensor(name)
        return layer_inputs(self.model, name, batches)

    def add_bias(self, name: str, shift: FloatArray) -> bool:
        biases = biases_of(self._tensor(name))
        for bias in biases:
            bias.add(shift)
        return bool(biases)

    def masks(self) -> dict[str, BoolArray]:
        return dict(self.model.masks)

    def set_masks(self, masks: Mapping[str, BoolArray]) -> None:
        for name, mask in masks.items():
            weight = self._tensor(name)
            if mask.shape != weight.shape or mask.dtype != np.bool_:
                raise ValueError(f"masks: expected bool of shape {weight.shape} for {name}, got {mask.shape}")
        for name, mask in masks.items():
            weight = self._weights[name]
            array = array_of(weight.value)
            tensor = weight.read(array)
            put_array(weight.value, weight.write(array, np.where(mask, tensor, tensor.dtype.type(0))))
        self.model.masks = {**self.model.masks, **masks}

    def record(self, step: Mapping[str, Any], goes_on: bool = False) -> None:
        self.model.provenance = provenance.added(self.model.provenance, dict(step), goes_on)

    def clone(self) -> OnnxView:
        return OnnxView(self.model.copy())

    def snapshot(self) -> Snapshot:
        # Arrays are never written to, so that they need no copies.
        weights = self._weights.values()
        values = [weight.value for weight in weights]
        values += [bias.value for weight in weights for bias in biases_of(weight)]
        arrays = {value.name or "": array_of(value) for value in values}
        model = self.model
        return {"arrays": arrays, "masks": dict(model.masks), "provenance": list(model.provenance)}

    def restore(self, snapshot: Snapshot) -> None:
        for name, array in snapshot["arrays"].items():
            put_array(self.model.ir.graph.initializers[name], array)
        self.model.masks = dict(snapshot["masks"])
        self.model.provenance = list(snapshot["provenance"])

    def fit(self, **arguments: Any) -> None:
        raise UnsupportedOpError(
            "finetune: ONNX models cannot be trained here; give a callable that trains and puts back"
        )

    def score(self, data: Data) -> float:
        """The accuracy of the first output's largest entry; of numbers, minus the mean squared error."""
        x, y = np.asarray(data[0]), np.asarray(data[1])
        run = runner(self.model)
        found = np.concatenate([run(x[start : start + SCORED])[0] for start in range(0, len(x), SCORED)])
        if y.dtype.kind in "iub" and found.ndim == y.ndim + 1:
            for axis in (found.ndim - 1, 1):
                best = found.argmax(axis)
                if best.shape == y.shape:
                    return float(np.mean(best == y))
        if found.shape != y.shape:
            raise ValueError(f"validate: the model gives shape {found.shape}, the labels have {y.shape}")
        return -float(np.mean(np.square(found.astype(np.float64) - y)))

    def outputs(self, batches: Iterable[Batch]) -> Iterator[NDArray[Any]]:
        run = runner(self.model, argument="data")
        return (run(batch)[0] for batch in batches)

    def inputs(self, batch: int) -> Any:
        return noise(self.model, batch)

    def runner(self) -> Any:
        """What runs the model as it would be deployed: ONNX Runtime."""
        return runner(self.model)


def _reads_state(weight: Weight) -> bool:
    """Whether it is a recurrent layer's for its own state."""
    node = weight.readers[0]
    return node.op_type in RECURRENT and weight.value is node.inputs[2]


def _separate_filters(node: ir.Node) -> ir.Value | None:
    """The constant filters of a depthwise convolution; None of other nodes."""
    if node.op_type != "Conv" or not is_depthwise(node) or not is_constant(node.inputs[1]):
        return None
    return node.inputs[1]


def _positions(node: ir.Node) -> int:
    """How often a node uses each of its weights for one sample; dimensions without a size count as `FREE`."""
    value = node.inputs[0] if node.op_type in RECURRENT else node.outputs[0]
    if value is None or value.shape is None:
        return 1
    sizes = [dim if isinstance(dim, int) else FREE for dim in value.shape]
    if node.op_type in RECURRENT:  # (steps, samples, features)
        return sizes[0]
    # A convolution gives (samples, channels, ...), the others (samples, ..., features).
    return prod(sizes[2:] if node.op_type == "Conv" else sizes[1:-1])


if TYPE_CHECKING:
    _: type[ModelView] = OnnxView
