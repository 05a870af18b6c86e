"""The fully connected layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from .activations import activate, activation_gradient, check_activation
from .layers import NO_GRADIENT, BoolArray, FloatArray, Shape, glorot_uniform, positive
from .packable import Packable, PackedMatrix


class Dense(Packable):
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

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if len(input_shape) != 1:
            raise ValueError(
                f"{self.name}: expected flat samples, got shape {input_shape}; put Flatten() before it"
            )
        features = input_shape[0]
        self.packed = None
        self.params = {"weight": glorot_uniform(rng, (self.units, features), features, self.units)}
        if self.use_bias:
            self.params["bias"] = np.zeros(self.units, np.float32)
        return (self.units,)

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        packed = self._current()
        if packed is not None:
            assert isinstance(packed, PackedMatrix)
            # Samples in columns: so they come from a packed layer, and go to the next one.
            x = np.ascontiguousarray(x.T).T
            relu = "relu" if self.activation == "relu" else None
            y: FloatArray = packed.matrix.matmul(x.T, self._params.get("bias"), relu).T
            if self.activation != "relu":
                y = activate(self.activation, y, out=y)
        else:
            weight, bias = self.params["weight"], self.params.get("bias")
            if _in_columns(x):
                y = _core.matmul(x.T, weight, bias, transpose_a=True, transpose_b=True)
            else:
                x = np.ascontiguousarray(x)
                y = _core.matmul(x, weight, bias, transpose_b=True)
            y = activate(self.activation, y, out=y)
        self._saved, self._way = (x, y) if training else None, packed
        return y

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        if self._saved is None:
            raise RuntimeError(f"{self.name}: backward needs a forward pass with training=True before it")
        x, y = self._saved
        dz = activation_gradient(self.activation, y, dy)
        if self._way is not None:
            return self._backward_packed(self._way, np.ascontiguousarray(dz.T), x.T, need_dx)
        dz = np.ascontiguousarray(dz)
        columns, weight = _in_columns(x), self.params["weight"]
        operand = x.T if columns else x
        self.grads["weight"] = _core.matmul(dz, operand, transpose_a=True, transpose_b=columns)
        if self.use_bias:
            self.grads["bias"] = dz.sum(axis=0)
        if not need_dx:
            return NO_GRADIENT
        # As the layer before has it.
        return (
            _core.matmul(weight, dz, transpose_a=True, transpose_b=True).T
            if columns
            else _core.matmul(dz, weight)
        )

    def _backward_packed(
        self, packed: PackedMatrix, dz: FloatArray, across: FloatArray, need_dx: bool
    ) -> FloatArray:
        packed.gradient = packed.matrix.sddmm(dz, across)
        self._whole_gradient = lambda: _core.matmul(dz, across, transpose_b=True)
        if self.use_bias:
            self._grads["bias"] = dz.sum(axis=1)
        return packed.across.matmul(dz).T if need_dx else NO_GRADIENT

    def pack(self, mask: BoolArray) -> PackedMatrix:
        return PackedMatrix(mask)

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


def _in_columns(x: FloatArray) -> bool:
    """Whether samples lie in columns, as packed layers leave them."""
    return x.flags.f_contiguous and not x.flags.c_contiguous
