"""The fully connected layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from .activations import activate, activation_gradient, check_activation
from .layers import NO_GRADIENT, FloatArray, Layer, Shape, glorot_uniform, positive


class Dense(Layer):
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

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if len(input_shape) != 1:
            raise ValueError(
                f"{self.name}: expected flat samples, got shape {input_shape}; put Flatten() before it"
            )
        features = input_shape[0]
        self.params = {"weight": glorot_uniform(rng, (self.units, features), features, self.units)}
        if self.use_bias:
            self.params["bias"] = np.zeros(self.units, np.float32)
        return (self.units,)

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        x = np.ascontiguousarray(x)
        z = _core.matmul(x, self.params["weight"], self.params.get("bias"), transpose_b=True)
        y = activate(self.activation, z, out=z)
        self._saved = (x, y) if training else None
        return y

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        if self._saved is None:
            raise RuntimeError(f"{self.name}: backward needs a forward pass with training=True before it")
        x, y = self._saved
        dz = np.ascontiguousarray(activation_gradient(self.activation, y, dy))
        self.grads["weight"] = _core.matmul(dz, x, transpose_a=True)
        if self.use_bias:
            self.grads["bias"] = dz.sum(axis=0)
        return _core.matmul(dz, self.params["weight"]) if need_dx else NO_GRADIENT

    def release(self) -> None:
        super().release()
        self._saved = None

    def macs(self) -> int:
        return self.units * self.input_shape[0]

    def config(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "units": self.units,
            "activation": self.activation,
            "use_bias": self.use_bias,
        }
