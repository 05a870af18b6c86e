"""Residual connections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .layers import (
    NO_GRADIENT,
    Container,
    FloatArray,
    Layer,
    Shape,
    backward_through,
    checked_layers,
    forward_through,
    name_layers,
)


class Residual(Container):
    """The sum of what some layers make of the input and the input itself (He et al., 1512.03385).

    Compiled, the sum is part of the layer before it where that has weights: it costs little more than to read
    one side of it.

    Parameters
    ----------
    layers : iterable of Layer
        At least one.
    shortcut : iterable of Layer, default=()
        Layers on the other side, where the shapes differ: a 1x1 convolution with the strides of `layers`.

    Attributes
    ----------
    layers, shortcut : list of Layer
        They are named after this layer: ``"residual.conv2d"``, ``"residual.shortcut.conv2d"``.

    Raises
    ------
    ValueError
        If there is no layer, something else than a layer, or one layer twice.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> def convolution(filters, size=3, strides=1, activation=None):
    ...     return nn.Conv2D(filters, size, strides=strides, padding="same", activation=activation)
    >>> same = nn.Residual([convolution(8, activation="relu"), convolution(8)])
    >>> half = nn.Residual([convolution(16, 3, 2, "relu"), convolution(16)], [convolution(16, 1, 2)])
    >>> layers = [convolution(8), same, nn.ReLU(), half, nn.ReLU(), nn.Flatten(), nn.Dense(10)]
    >>> model = nn.Sequential(layers).build((1, 8, 8), random_state=0)
    >>> model.predict(np.ones((2, 1, 8, 8))).shape
    (2, 10)
    >>> [name for name in model.prunable() if "shortcut" in name]
    ['residual_1.shortcut.conv2d.weight']
    """

    kind = "residual"

    def __init__(self, layers: Iterable[Layer], shortcut: Iterable[Layer] = ()) -> None:
        super().__init__()
        self.layers, self.shortcut = list(layers), list(shortcut)
        if not self.layers:
            raise ValueError("layers: expected at least one layer, got none")
        checked_layers((*self.layers, *self.shortcut))
        self.rename(self.kind)

    @classmethod
    def revive(cls, arguments: dict[str, Any]) -> Layer:
        sides = ([Layer.from_config(layer) for layer in arguments[side]] for side in ("layers", "shortcut"))
        return cls(*sides)

    def rename(self, name: str) -> None:
        super().rename(name)
        name_layers(self.layers, f"{name}.")
        name_layers(self.shortcut, f"{name}.shortcut.")

    def leaves(self) -> Iterator[Layer]:
        for layer in (*self.layers, *self.shortcut):
            yield from layer.leaves()

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        one = other = input_shape
        for layer in self.layers:
            one = layer.build(one, rng)
        for layer in self.shortcut:
            other = layer.build(other, rng)
        if one != other:
            raise ValueError(f"{self.name}: cannot add {other}, the shortcut's output, to the layers' {one}")
        return one

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        one, _ = forward_through(self.layers, x, training, self.steps)
        other, _ = forward_through(self.shortcut, x, training, self.steps)
        return one + other

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        one = backward_through(self.layers, dy, need_dx)
        other = backward_through(self.shortcut, dy, need_dx)
        return one + other if need_dx else NO_GRADIENT

    def config(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "layers": [layer.config() for layer in self.layers],
            "shortcut": [layer.config() for layer in self.shortcut],
        }

    def __repr__(self) -> str:
        return f"Residual({self.layers!r}, {self.shortcut!r})"
