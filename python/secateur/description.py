"""Models as plain data, from which plans are built and as which they are saved: one dict a node."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UnsupportedOpError

Description = list[dict[str, Any]]
"""A network: one dict a node, with its arrays."""

WITHIN_STEPS = (
    *("relu", "tanh", "sigmoid", "softmax", "layer_norm", "dropout"),
    *("embedding", "conv1d", "global_max_pool1d"),
)
"""What can be run for every step by itself, Dense layers aside."""

ONE_PIXEL: dict[str, Any] = {"size": [1, 1], "strides": [1, 1], "pads": [0] * 4}
"""The window of a convolution that is a product with every step by itself."""

INPUT = "input"
"""What the network's input is called among a node's ``inputs``."""


def describe(model: Any) -> tuple[tuple[int, ...], Description]:
    """A built model as plain data.

    Returns
    -------
    input_shape : tuple of int
    description : list of dict
        For each node ``op``, ``name``, its attributes and its arrays (copies); ``inputs``, the names of the
        nodes that it reads, unless that is the one before.

    Raises
    ------
    UnsupportedOpError
        A layer that plans cannot run.
    ValueError
        A model that is not built, or whose weights are not finite.
    """
    layers = getattr(model, "layers", None)
    if layers is None:
        raise UnsupportedOpError(
            f"model: cannot compile a {type(model).__name__}; expected a secateur.nn.Sequential"
        )
    if getattr(model, "input_shape", None) is None:
        raise ValueError("model: not built yet; call build(input_shape) or fit first")
    chain = _Chain([], INPUT)
    chain.extend(layers)
    for node in chain.nodes:
        for key, value in node.items():
            if isinstance(value, np.ndarray) and not np.isfinite(value).all():
                raise ValueError(f"model: {node['name']}'s {key} holds NaN or infinity")
    return tuple(model.input_shape), chain.nodes


class _Chain:
    """The nodes of a chain of layers, as they are found.

    Parameters
    ----------
    nodes : list of dict
        Of the whole network so far.
    last : str
        The node that the next layer reads.
    ids : str or None
        The node of which zeros say what is padding.
    """

    def __init__(self, nodes: Description, last: str, ids: str | None = None) -> None:
        self.nodes, self.last, self.ids = nodes, last, ids
        self.inside = False
        """Whether a layer is run for every step by itself: what it has for steps is a row of an image."""

    def add(self, op: str, name: str, inputs: list[str] | None = None, **attributes: Any) -> None:
        node = {"op": op, "name": name, **attributes}
        inputs = inputs or [self.last]
        if inputs != [self.nodes[-1]["name"] if self.nodes else INPUT]:
            node["inputs"] = inputs
        self.nodes.append(node)
        self.last = name

    def side(self) -> _Chain:
        """Another chain that reads what this one read last."""
        return _Chain(self.nodes, self.last, self.ids)

    def extend(self, layers: Iterable[Any]) -> None:
        layers = list(layers)
        for layer, after in zip_longest(layers, layers[1:]):
            if layer.kind == "slice" and layer.stop is None and getattr(after, "kind", "") != "embedding":
                raise UnsupportedOpError(f"{layer.name}: plans take a single feature for embeddings alone")
            convert = getattr(self, f"_{layer.kind}", None)
            if convert is None:
                raise UnsupportedOpError(
                    f"{layer.name}: plans cannot run a layer of type {type(layer).__name__}"
                )
            known = self.ids
            convert(layer)
            # Other steps are not those that were padding.
            if self.ids == known and not layer.keeps_steps and not self.inside:
                self.ids = None

    def _weighted(self, layer: Any, op: str, **attributes: Any) -> None:
        """A layer with weights; softmax is a node of its own, since it is not elementwise."""
        softmax = layer.activation == "softmax"
        weight = attributes.pop("weight", layer.params["weight"])
        attributes |= {"weight": np.array(weight, np.float32), "bias": _bias(layer)}
        self.add(op, layer.name, activation=None if softmax else layer.activation, **attributes)
        if softmax:
            self.add("softmax", f"{layer.name}.softmax")

    def _dense(self, layer: Any) -> None:
        self._weighted(layer, "dense")

    def _conv2d(self, layer: Any) -> None:
        self._weighted(layer, "conv2d", **_window(layer), dilation=list(layer.dilation), groups=layer.groups)

    def _max_pool2d(self, layer: Any) -> None:
        self.add("pool", layer.name, kind="max", **_window(layer))

    def _average_pool2d(self, layer: Any) -> None:
        self.add("pool", layer.name, kind="average", **_window(layer))

    def _batch_norm(self, layer: Any) -> None:
        mean, var = layer.buffers["running_mean"], layer.buffers["running_var"]
        scale = layer.params["gamma"] / np.sqrt(var + layer.epsilon)
        shift = layer.params["beta"] - mean * scale
        self.add("scale", layer.name, scale=np.float32(scale), shift=np.float32(shift))

    def _layer_norm(self, layer: Any) -> None:
        scale, shift = (np.array(layer.params[key], np.float32) for key in ("gamma", "beta"))
        self.add("layer_norm", layer.name, scale=scale, shift=shift, epsilon=layer.epsilon)

    def _dropout(self, layer: Any) -> None:
        pass

    _crf = _dropout

    def _flatten(self, layer: Any) -> None:
        self.add("flatten", layer.name)

    def _softmax(self, layer: Any) -> None:
        self.add("softmax", layer.name)

    def _relu(self, layer: Any) -> None:
        self.add("activation", layer.name, kind=layer.kind)

    _tanh = _sigmoid = _relu

    def _residual(self, layer: Any) -> None:
        one, other = self.side(), self.side()
        one.extend(layer.layers)
        other.extend(layer.shortcut)
        self.add("add", layer.name, [one.last, other.last])

    # Sequences: images of one column, whose rows are the steps

    def _embedding(self, layer: Any) -> None:
        ids = self.last == INPUT or (self.nodes[-1]["name"] == self.last and self.nodes[-1]["op"] == "slice")
        if not ids:
            raise UnsupportedOpError(f"{layer.name}: plans look up the ids of the model's input alone")
        if layer.mask_zero and not self.inside:
            self.ids = self.last
        self.add("embedding", layer.name, weight=np.array(layer.params["weight"], np.float32))

    def _slice(self, layer: Any) -> None:
        _refuse_images(layer)
        count = 1 if layer.stop is None else layer.stop - layer.start
        self.add("slice", layer.name, first=layer.start, count=count)

    def _concatenate(self, layer: Any) -> None:
        _refuse_images(layer)
        sides = []
        for branch in layer.branches:
            side = self.side()
            side.extend(branch)
            sides.append(side)
        self.ids = next((side.ids for side in sides if side.ids is not None), None)
        self.last = sides[0].last
        for i, side in enumerate(sides[1:], 1):
            name = layer.name if i == len(sides) - 1 else f"{layer.name}.{i}"
            self.add("concat", name, [self.last, side.last])

    def _conv1d(self, layer: Any) -> None:
        """A column of an image; within a step, a row of one."""
        window = _window(layer)
        if self.inside:
            window = {key: _turned(value) for key, value in window.items()}
        weight = layer.params["weight"][..., None, :] if self.inside else layer.params["weight"][..., None]
        dilation = layer.dilation[::-1] if self.inside else layer.dilation
        self._weighted(layer, "conv2d", **window, weight=weight, dilation=list(dilation), groups=1)

    def _global_max_pool1d(self, layer: Any) -> None:
        size = [1, layer.input_shape[0]] if self.inside else [layer.input_shape[0], 1]
        self.add("pool", layer.name, kind="max", size=size, strides=size, pads=[0] * 4)

    def _time_distributed(self, layer: Any) -> None:
        for inner in layer.layers:
            if inner.kind == "dense":
                self._weighted(inner, "conv2d", weight=_pixel(inner.params["weight"]), **ONE_PIXEL)
            elif inner.kind in WITHIN_STEPS:
                self.inside = True
                self.extend([inner])
                self.inside = False
            else:
                kind = type(inner).__name__
                raise UnsupportedOpError(f"{inner.name}: plans cannot run a {kind} for every step")

    def _recurrent(self, layer: Any, reverse: bool = False) -> None:
        products: dict[str, Any] = {
            "weight": _pixel(layer.params["weight"]),
            "bias": _bias(layer),
            **ONE_PIXEL,
        }
        self.add("conv2d", f"{layer.name}.input", activation=None, **products)
        self.add(
            "recurrent",
            layer.name,
            [self.last] if self.ids is None else [self.last, self.ids],
            cell=layer.cell,
            sequences=layer.return_sequences,
            reverse=reverse,
            weight=np.array(layer.params["recurrent_weight"], np.float32),
            bias=_bias(layer, "recurrent_bias"),
        )

    _lstm = _gru = _simple_rnn = _recurrent

    def _bidirectional(self, layer: Any) -> None:
        one, other = self.side(), self.side()
        one._recurrent(layer.ahead)
        other._recurrent(layer.back, reverse=True)
        self.add("concat", layer.name, [one.last, other.last])


def _bias(layer: Any, key: str = "bias") -> Any:
    bias = layer.params.get(key)
    return None if bias is None else np.array(bias, np.float32)


def _pixel(weight: Any) -> Any:
    """Weights that are multiplied with every step by itself, as filters of one pixel."""
    return np.array(weight, np.float32)[:, :, None, None]


def _window(layer: Any) -> dict[str, Any]:
    return {"size": list(layer.window), "strides": list(layer.strides), "pads": list(layer.pads)}


def _turned(sides: list[int]) -> list[int]:
    """Heights and widths, or top, left, bottom and right, with rows and columns exchanged."""
    return sides[::-1] if len(sides) == 2 else [sides[i] for i in (1, 0, 3, 2)]


def parts(description: Description) -> tuple[Description, dict[str, NDArray[Any]]]:
    """A network's nodes as what JSON can say, and their arrays by "NODE.ARRAY"."""
    nodes, arrays = [], {}
    for node in description:
        own = {key: value for key, value in node.items() if isinstance(value, np.ndarray)}
        nodes.append({key: value for key, value in node.items() if key not in own})
        arrays.update({f"{node['name']}.{key}": array for key, array in own.items()})
    return nodes, arrays


def _refuse_images(layer: Any) -> None:
    """Features of images are their columns, which plans neither cut nor put together."""
    if 3 in (len(layer.input_shape), len(layer.output_shape)):
        raise UnsupportedOpError(
            f"{layer.name}: plans have {type(layer).__name__} for features, not for images"
        )
