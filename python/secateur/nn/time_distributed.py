"""The same layers for every step of a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .layers import (
    Container,
    FloatArray,
    Layer,
    Shape,
    backward_through,
    checked_layers,
    forward_through,
    name_layers,
)


class TimeDistributed(Container):
    """Layers that are run for every step of a sequence by itself: (n, steps, ...) to (n, steps, ...).

    Parameters
    ----------
    layers : Layer or iterable of Layer

    Attributes
    ----------
    layers : list of Layer
        They are named after this layer: ``"time_distributed.dense"``.

    Raises
    ------
    ValueError
        If there is no layer, something else than a layer, or one layer twice.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> model = nn.Sequential([nn.LSTM(8, return_sequences=True), nn.TimeDistributed(nn.Dense(3))])
    >>> model = model.build((7, 2), random_state=0)
    >>> model.predict(np.ones((5, 7, 2))).shape
    (5, 7, 3)
    """

    kind = "time_distributed"

    def __init__(self, layers: Layer | Iterable[Layer]) -> None:
        super().__init__()
        self.layers = [layers] if isinstance(layers, Layer) else list(layers)
        if not self.layers:
            raise ValueError("layers: expected at least one layer, got none")
        checked_layers(self.layers)
        self.rename(self.kind)

    @classmethod
    def revive(cls, arguments: dict[str, Any]) -> Layer:
        return cls([Layer.from_config(layer) for layer in arguments["layers"]])

    def rename(self, name: str) -> None:
        super().rename(name)
        name_layers(self.layers, f"{name}.")

    def leaves(self) -> Iterator[Layer]:
        for layer in self.layers:
            yield from layer.leaves()

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if len(input_shape) < 2:
            raise ValueError(f"{self.name}: expected samples of (steps, ...), got shape {input_shape}")
        steps, *rest = input_shape
        inner = tuple(rest)
        for layer in self.layers:
            inner = layer.build(inner, rng)
        for leaf in self.leaves():
            leaf.times *= steps
        return (steps, *inner)

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        return self._split(forward_through(self.layers, self._joined(x), training)[0])

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        dx = backward_through(self.layers, self._joined(dy), need_dx)
        return self._split(dx) if need_dx else dx

    @staticmethod
    def _joined(x: FloatArray) -> FloatArray:
        """Steps of samples as samples, in an order that needs no copy between recurrent and Dense layers."""
        joined: FloatArray = x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
        return joined

    def _split(self, y: FloatArray) -> FloatArray:
        """The inverse."""
        split: FloatArray = y.reshape(self.input_shape[0], -1, *y.shape[1:]).swapaxes(0, 1)
        return split

    def config(self) -> dict[str, Any]:
        return {"kind": self.kind, "layers": [layer.config() for layer in self.layers]}

    def __repr__(self) -> str:
        return f"TimeDistributed({self.layers!r})"
