"""A recurrent layer in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .layers import NO_GRADIENT, Container, FloatArray, Layer, Shape
from .recurrent import Recurrent


class Bidirectional(Container):
    """A recurrent layer and its like that reads from the end; their outputs side by side (Schuster & Paliwal,
    1997).

    Parameters
    ----------
    layer : Recurrent
        `LSTM`, `GRU` or `SimpleRNN`; the other one is made after its configuration.

    Attributes
    ----------
    ahead, back : Recurrent
        Named ``"bidirectional.ahead"`` and ``"bidirectional.back"``.

    Raises
    ------
    ValueError
        If the layer is not recurrent.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layer = nn.Bidirectional(nn.LSTM(3, return_sequences=True))
    >>> layer.build((7, 2), np.random.default_rng(0))
    (7, 6)
    """

    kind = "bidirectional"

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        if not isinstance(layer, Recurrent):
            raise ValueError(f"layer: expected a recurrent layer, got {type(layer).__name__}")
        back = Layer.from_config(layer.config())
        assert isinstance(back, Recurrent)
        self.ahead, self.back = layer, back
        self.rename(self.kind)

    @classmethod
    def revive(cls, arguments: dict[str, Any]) -> Layer:
        layer, back = (Layer.from_config(arguments[key]) for key in ("ahead", "back"))
        if not isinstance(layer, Recurrent) or not isinstance(back, Recurrent):
            raise ValueError("layer: expected recurrent layers")
        made = cls(layer)
        # Pruning may have left them different widths.
        made.back = back
        made.rename(made.kind)
        return made

    def rename(self, name: str) -> None:
        super().rename(name)
        self.ahead.rename(f"{name}.ahead")
        self.back.rename(f"{name}.back")

    def leaves(self) -> Iterator[Layer]:
        yield self.ahead
        yield self.back

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        ahead, back = self.ahead.build(input_shape, rng), self.back.build(input_shape, rng)
        return (*ahead[:-1], ahead[-1] + back[-1])

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        self.ahead.steps = self.steps
        self.back.steps = None if self.steps is None else self.steps[:, ::-1]
        outputs = [self.ahead.forward(x, training), self._turned(self.back.forward(x[:, ::-1], training))]
        whole: FloatArray = np.concatenate([y.T for y in outputs]).T
        return whole

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        ahead, back = np.split(dy, [self.ahead.units], axis=-1)
        one = self.ahead.backward(ahead, need_dx)
        other = self.back.backward(self._turned(back), need_dx)
        return one + other[:, ::-1] if need_dx else NO_GRADIENT

    @staticmethod
    def _turned(y: FloatArray) -> FloatArray:
        """Sequences from the end; what has no time stays."""
        return y[:, ::-1] if y.ndim == 3 else y

    def config(self) -> dict[str, Any]:
        return {"kind": self.kind, "ahead": self.ahead.config(), "back": self.back.config()}

    def __repr__(self) -> str:
        return f"Bidirectional({self.ahead!r})"
