"""Vectors for words."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layers import NO_GRADIENT, BoolArray, FloatArray, Layer, Shape, positive

LARGEST = 1 << 24
"""Float32, in which a model takes its samples, tells all integers below it apart."""


class Embedding(Layer):
    """A vector for every id: row i of ``weight``, (input_dim, output_dim), at first normal numbers.

    Its weights are not counted as prunable: looking a row up costs the same however many zeros it has.

    Parameters
    ----------
    input_dim : int
        Ids are from 0 to this, at most 2²⁴.
    output_dim : int
        Numbers of a vector.
    mask_zero : bool, default=False
        Id 0 is padding: recurrent layers leave their state as it is there, and output 0.

    Raises
    ------
    ValueError
        If a number is not positive or too large; on use, if an id has no vector.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layer = nn.Embedding(100, 8)
    >>> layer.build((5,), np.random.default_rng(0))
    (5, 8)
    >>> layer.forward(np.array([[1, 2, 3, 4, 0]])).shape
    (1, 5, 8)
    """

    kind = "embedding"

    def __init__(self, input_dim: int, output_dim: int, mask_zero: bool = False) -> None:
        super().__init__()
        self.input_dim = positive("input_dim", input_dim)
        if self.input_dim > LARGEST:
            raise ValueError(f"input_dim: expected at most {LARGEST}, got {input_dim}")
        self.output_dim = positive("output_dim", output_dim)
        self.mask_zero = bool(mask_zero)
        self._ids: NDArray[np.intp] | None = None

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        weight = rng.standard_normal((self.input_dim, self.output_dim))
        self.params = {"weight": weight.astype(np.float32)}
        return (*input_shape, self.output_dim)

    def steps_after(self, x: FloatArray) -> BoolArray | None:
        return x != 0 if self.mask_zero and x.ndim == 2 else super().steps_after(x)

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        wrong = ~((x >= 0) & (x < self.input_dim) & (x == np.floor(x)))
        if wrong.any():
            expected = f"expected ids from 0 to {self.input_dim - 1}"
            raise ValueError(f"x: {self.name}: {expected}, got {x[wrong][0]:g}")
        ids = x.astype(np.intp)
        self._ids = ids if training else None
        return self.params["weight"][ids]

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        if self._ids is None:
            raise RuntimeError(f"{self.name}: backward needs a forward pass with training=True before it")
        ids = self._ids.reshape(-1)
        order = np.argsort(ids, kind="stable")
        found, first = np.unique(ids[order], return_index=True)
        gradient = np.zeros_like(self.params["weight"])
        gradient[found] = np.add.reduceat(dy.reshape(len(ids), -1)[order], first, axis=0)
        self.grads["weight"] = gradient
        return np.zeros(self._ids.shape, np.float32) if need_dx else NO_GRADIENT

    def release(self) -> None:
        super().release()
        self._ids = None

    def config(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "mask_zero": self.mask_zero,
        }
