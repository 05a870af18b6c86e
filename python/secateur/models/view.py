"""The protocol through which the pruning loops see a model, and the registry of its adapters."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..lookup import registered, resolve

FloatArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]
Data: TypeAlias = tuple[ArrayLike, ArrayLike]
Batch: TypeAlias = "NDArray[Any] | Mapping[str, NDArray[Any]]"
Snapshot: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Consumer:
    """An array with a part for every output neuron (or channel) of a tensor.

    Along `axis` there are `tile` like stretches; in each of them neuron j owns the entries ``j * repeat`` to
    ``(j + 1) * repeat``. A bias and a normalization's vectors have axis 0, the next layer's weights axis 1.
    `repeat` is above 1 where an image's channels were flattened to features, `tile` for the gates of a
    recurrent layer and where the steps of a sequence were flattened. Where other neurons have entries too,
    beside a concatenation, `entries` gives those of each neuron, one a row; `tile` is how many they are then.
    """

    name: str
    axis: int
    repeat: int = 1
    tile: int = 1
    entries: NDArray[np.intp] | None = field(default=None, compare=False, repr=False)

    def places(self, neurons: NDArray[np.intp], width: int) -> NDArray[np.intp]:
        """The entries along the axis of some of `width` neurons, stretch by stretch."""
        if self.entries is not None:
            entries: NDArray[np.intp] = self.entries[neurons].T.ravel()
            return entries
        starts = np.arange(self.tile)[:, None, None] * (width * self.repeat)
        within = neurons[None, :, None] * self.repeat + np.arange(self.repeat)
        return (starts + within).ravel()

    def by_neuron(self, array: NDArray[Any], width: int) -> NDArray[Any]:
        """What of an array belongs to each of `width` neurons, one a row."""
        if self.entries is not None:
            along: NDArray[Any] = np.take(np.moveaxis(array, self.axis, 0), self.entries, axis=0)
            return along.reshape(width, -1)
        parts = np.moveaxis(array, self.axis, 0).reshape(self.tile, width, -1)
        rows: NDArray[Any] = parts.swapaxes(0, 1).reshape(width, -1)
        return rows


class ModelView(Protocol):
    """A model as named prunable tensors, whatever framework it comes from.

    Tensors have their output neurons along axis 0 and what feeds them along axis 1: Dense (out, in), Conv2D
    (out, in, kernel height, kernel width), recurrent layers (gates · out, in). Weights that several layers
    share are listed once.
    """

    @property
    def model(self) -> Any:
        """The model itself."""

    def parameters(self) -> dict[str, FloatArray]:
        """The live prunable tensors by name, in the model's order."""

    def gradients(self, data: Data | None = None) -> dict[str, FloatArray]:
        """The prunable tensors' gradients: of the mean loss over `data`, or of the latest training batch.

        Nothing else of the model changes.
        """

    def array(self, name: str) -> FloatArray:
        """Any live array of the model that `parameters` or `consumers` names."""

    def replace(self, arrays: Mapping[str, FloatArray]) -> None:
        """Put new arrays, perhaps of other widths, in the place of those named, all at once.

        Masks whose tensors change their shapes are dropped. ValueError if the new shapes do not fit together;
        the model is unchanged then.
        """

    def neurons(self, name: str) -> list[Consumer]:
        """The prunable tensors of which the neurons of the tensor consist, itself first along axis 0.

        With the weights of a recurrent layer that read its input, they are also those which read its state,
        along both axes. Empty for a tensor that belongs to another one's neurons, as these do.
        """

    def consumers(self, name: str) -> list[Consumer]:
        """What holds a part for each output neuron of the tensor: its bias, normalizations, next weights.

        Without a prunable tensor among them the neurons are the model's outputs, which always stay.
        UnsupportedOpError, naming the layer, if one on the way mixes or hides the neurons.
        """

    def positions(self, name: str) -> int:
        """How often each weight of the tensor is used for one sample: 1, or a convolution's output pixels."""

    def layer_inputs(self, name: str, batches: Iterable[Batch]) -> Iterator[FloatArray]:
        """What the tensor is multiplied by when the model, as it is now, runs on `batches`.

        Matrices of shape (groups, n, k): rows are samples, their steps or pixels; columns are the weights of
        an output, in the order in which they lie in memory. Convolutions in groups have several, for as many
        equal stretches of the tensor. Where several layers share the tensor, the inputs of all.

        ValueError, naming ``data``, if the samples do not fit the model. UnsupportedOpError, naming the
        layer, if there are no such matrices.
        """

    def add_bias(self, name: str, shift: FloatArray) -> bool:
        """Add a number for each output to what the tensor gives, by way of the bias behind it.

        False, with nothing changed, if there is none.
        """

    def masks(self) -> dict[str, BoolArray]:
        """The masks of the prunable tensors that have one; where False, weights are and stay 0."""

    def set_masks(self, masks: Mapping[str, BoolArray]) -> None:
        """Put `masks` in the place of the former ones of the tensors named, and set the weights.

        The model may keep the arrays themselves: they must not be changed after.
        """

    def record(self, step: Mapping[str, Any], goes_on: bool = False) -> None:
        """Remember how the model was pruned, for its file to say; see `secateur.provenance`.

        With `goes_on` instead of an earlier step that was the same but for its sparsity.
        """

    def clone(self) -> ModelView:
        """A view of a deep copy."""

    def snapshot(self) -> Snapshot:
        """Copies of all arrays and masks, and what was recorded, for `restore`."""

    def restore(self, snapshot: Snapshot) -> None:
        """Put a snapshot of the same shapes back."""

    def fit(self, **arguments: Any) -> None:
        """Train on from where the model is, with the framework's own arguments; masked weights stay 0.

        Without an optimizer among them, one with small steps is taken.
        """

    def score(self, data: Data) -> float:
        """How good the model is on `data`, more is better: its accuracy, or minus the loss."""

    def outputs(self, batches: Iterable[Batch]) -> Iterator[NDArray[Any]]:
        """What the model gives for samples, part by part; of several outputs the first.

        ValueError, naming ``data``, if the samples do not fit the model.
        """

    def inputs(self, batch: int) -> Any:
        """`batch` samples of noise, to measure with: an array, or what the model takes instead."""


ADAPTERS: dict[str, str] = {
    "secateur.nn.sequential.Sequential": "secateur.models.numpy:SequentialView",
    "secateur.onnx.model.OnnxModel": "secateur.models.onnx:OnnxView",
}
"""Adapters, as "module:class", by the full name of the model's type: nothing is imported before use."""


def register(model_type: str, adapter: str) -> None:
    """Let `view` accept models of one more type.

    Parameters
    ----------
    model_type : str
        The full name of the model's class, ``"package.module.Class"``; subclasses are included.
    adapter : str
        Where its `ModelView` is, ``"package.module:Class"``; it is called with the model.
    """
    ADAPTERS[model_type] = adapter


def view(model: Any) -> ModelView:
    """The `ModelView` of a model, or of the ONNX model in a file.

    Raises
    ------
    TypeError
        If no adapter is registered for the model's type.
    ValueError, UnsupportedOpError
        If the model is empty or not built, or has a layer that cannot be pruned; from the adapter.

    Examples
    --------
    >>> import secateur as sc
    >>> from secateur.models.view import view
    >>> model = sc.nn.Sequential([sc.nn.Dense(4, activation="relu"), sc.nn.Dense(2)]).build((3,))
    >>> {name: tensor.shape for name, tensor in view(model).parameters().items()}
    {'dense.weight': (4, 3), 'dense_1.weight': (2, 4)}
    >>> [(consumer.name, consumer.axis) for consumer in view(model).consumers("dense.weight")]
    [('dense.bias', 0), ('dense_1.weight', 1)]
    """
    if isinstance(model, (str, os.PathLike)) and os.fspath(model).endswith(".onnx"):
        model = resolve("secateur.onnx.model:OnnxModel").load(model)
    adapter = registered(ADAPTERS, model)
    if adapter is not None:
        found: ModelView = adapter(model)
        return found
    known = ", ".join(sorted(name.rpartition(".")[2] for name in ADAPTERS))
    raise TypeError(f"model: expected one of {known}, got {type(model).__name__}")
