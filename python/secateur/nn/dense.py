"""The fully connected layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from .activations import activate, activation_gradient, check_activation
from .layers import NO_GRADIENT, FloatArray, Shape, glorot_uniform, positive
from .packable import PackableMatrices, PackedMatrix


class Dense(PackableMatrices):
    """``activation(x @ weight.T + bias)`` with weights of shape (units, features).

    Parameters
    ----------
    units : int
        Output features.
    activation : {"relu", "sigmoid", "softmax", "tanh"} or None
    use_bias : bool
        Whether a bias, at first 0, is added.

    Raises
    ------
    ValueError
        If an argument is not one of the above.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layer = nn.Dense(3, activation="relu")
    >>> layer.build((4,), np.random.default_rng(0))
    (3,)
    >>> layer.forward(np.ones((2, 4), np.float32)).shape
    (2, 3)
    """

    kind = "dense"
    prunable = ("weight",)

    def __init__(self, units: int, activation: str | None = None, use_bias: bool = True) -> None:
        super().__init__()
        self.units = positive("units", units)
        self.activation = check_activation(activation)
        self.use_bias = bool(use_bias)
        self._saved: tuple[FloatArray, FloatArray] | None = None
        self._way: PackedMatrix | None = None
        # Whether samples came in rows, as from an image: so their gradient goes back.
        self._rows = True

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if len(input_shape) != 1:
            instead = (
                "put Flatten() before it" if len(input_shape) != 2 else "TimeDistributed is for every step"
            )
            raise ValueError(f"{self.name}: expected flat samples, got shape {input_shape}; {instead}")
        features = input_shape[0]
        self.params = {"weight": glorot_uniform(rng, (self.units, features), features, self.units)}
        if self.use_bias:
            self.params["bias"] = np.zeros(self.units, np.float32)
        return (self.units,)

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        # Samples lie in columns, from one Dense layer to the next: weights are then read row by row.
        across = np.ascontiguousarray(x.T)
        packed, relu = self._matrix("weight"), self.activation == "relu"
        y: FloatArray = self._multiply("weight", packed, across, "relu" if relu else None).T
        if packed is None or not relu:
            y = activate(self.activation, y, out=y)
        self._saved, self._way, self._rows = (across, y) if training else None, packed, x.flags.c_contiguous
        return y

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        if self._saved is None:
            raise RuntimeError(f"{self.name}: backward needs a forward pass with training=True before it")
        across, y = self._saved
        dz = np.ascontiguousarray(activation_gradient(self.activation, y, dy).T)
        self._correlate("weight", self._way, dz, across)
        if self.use_bias:
            self._grads["bias"] = dz.sum(axis=1)
        if not need_dx:
            return NO_GRADIENT
        if self._way is None and self._rows:
            return _core.matmul(dz, self._params["weight"], transpose_a=True)
        dx: FloatArray = self._multiply_across("weight", self._way, dz).T
        return dx

    def release(self) -> None:
        super().release()
        self._saved = self._way = None

    def set_width(self, width: int) -> None:
        self.units = width

    def macs(self) -> int:
        return self.units * self.input_shape[0]

    def config(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "units": self.units,
            "activation": self.activation,
            "use_bias": self.use_bias,
        }
