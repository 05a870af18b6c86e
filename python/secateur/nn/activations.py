"""Activation functions, as arguments of layers and as layers of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from .layers import FloatArray, Layer

ACTIVATIONS = ("relu", "sigmoid", "softmax", "tanh")


def check_activation(name: Any) -> str | None:
    """`name` if it is an activation or None ("linear" means None), else a ValueError listing the choices."""
    if name is None or name == "linear":
        return None
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: unknown name {name!r}; choose from {', '.join(ACTIVATIONS)} or None")
    return str(name)


def activate(name: str | None, z: FloatArray, out: FloatArray | None = None) -> FloatArray:
    """The activation of `z`: elementwise, but for softmax, which is over features or channels."""
    y: FloatArray
    if name is None:
        y = z
    elif name == "relu":
        y = np.maximum(z, np.float32(0), out=out)
    elif name == "tanh":
        y = np.tanh(z, out=out)
    elif name == "sigmoid":
        # 1 / (1 + exp(-z)) by way of tanh, which cannot overflow.
        y = np.tanh(np.multiply(z, np.float32(0.5), out=out), out=out)
        y *= np.float32(0.5)
        y += np.float32(0.5)
    else:
        axis = _features(z)
        y = np.exp(np.subtract(z, z.max(axis=axis, keepdims=True), out=out), out=out)
        y /= y.sum(axis=axis, keepdims=True)
    return y


def activation_gradient(name: str | None, y: FloatArray, dy: FloatArray) -> FloatArray:
    """The gradient before the activation, from its output `y` and the gradient `dy` of that output."""
    dz: FloatArray
    if name is None:
        dz = dy
    elif name == "relu":
        dz = dy * (y > 0)
    elif name == "tanh":
        dz = dy * (np.float32(1) - y * y)
    elif name == "sigmoid":
        dz = dy * y * (np.float32(1) - y)
    else:
        product = dy * y
        dz = product - y * product.sum(axis=_features(y), keepdims=True)
    return dz


def _features(z: FloatArray) -> int:
    """The axis of features (n, features), (n, steps, features), or of channels (n, channels, ...)."""
    return 2 if z.ndim == 3 else 1


class _Activation(Layer):
    """Base of the activation layers: `kind` is the activation's name."""

    def __init__(self) -> None:
        super().__init__()
        self._y: FloatArray | None = None

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        y = activate(self.kind, x)
        self._y = y if training else None
        return y

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        if self._y is None:
            raise RuntimeError(f"{self.name}: backward needs a forward pass with training=True before it")
        return activation_gradient(self.kind, self._y, dy)

    def release(self) -> None:
        super().release()
        self._y = None


class ReLU(_Activation):
    """max(x, 0).

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> nn.ReLU().forward(np.array([[-1.0, 2.0]], np.float32))
    array([[0., 2.]], dtype=float32)
    """

    kind = "relu"


class Tanh(_Activation):
    """The hyperbolic tangent."""

    kind = "tanh"


class Sigmoid(_Activation):
    """1 / (1 + exp(-x))."""

    kind = "sigmoid"


class Softmax(_Activation):
    """exp(x) divided by its sum over the features (of each step by itself), or the channels of an image."""

    kind = "softmax"
