"""Dropout: a part of the features is left out of every step of training."""

from __future__ import annotations

from typing import Any

import numpy as np

from .layers import FloatArray, Layer, Shape, in_range


class Dropout(Layer):
    """In training every element is 0 with probability `rate`, the others grow by ``1 / (1 - rate)``.

    Elsewhere it does nothing, and plans leave it out. Which elements go is drawn by a counter (Philox) from
    the layer's seed and the number of its training steps, both of which are among its buffers: so a resumed
    training draws what an uninterrupted one does, however many threads there are.

    Parameters
    ----------
    rate : float
        In [0, 1).

    Raises
    ------
    ValueError
        If it is none.

    References
    ----------
    Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting. JMLR 15 (2014).

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layer = nn.Dropout(0.5)
    >>> layer.build((4,), np.random.default_rng(0))
    (4,)
    >>> y = layer.forward(np.ones((2, 4), np.float32), training=True)
    >>> set(y.ravel().tolist()) <= {0.0, 2.0}
    True
    >>> layer.forward(np.ones((1, 4), np.float32))
    array([[1., 1., 1., 1.]], dtype=float32)
    """

    kind = "dropout"

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = in_range("rate", rate, 0.0, 1.0)
        self._kept: FloatArray | None = None

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        # Integers that float32 holds exactly.
        self.buffers = {
            "seed": np.array([rng.integers(1 << 24)], np.float32),
            "steps": np.zeros(1, np.float32),
        }
        return input_shape

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        self._kept = None
        if not training or self.rate == 0:
            return x
        key = [int(self.buffers["seed"][0]), int(self.buffers["steps"][0])]
        draws = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))
        self.buffers["steps"] += np.float32(1)
        # In the memory order of x: Dense layers leave samples in columns.
        kept = np.empty_like(x)
        kept[...] = draws.random(x.shape, np.float32) >= self.rate
        kept *= np.float32(1 / (1 - self.rate))
        self._kept = kept
        return x * kept

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        return dy if self._kept is None else dy * self._kept

    def release(self) -> None:
        super().release()
        self._kept = None

    def config(self) -> dict[str, Any]:
        return {"kind": self.kind, "rate": self.rate}
