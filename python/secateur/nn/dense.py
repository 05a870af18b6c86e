"""The fully connected layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .activations import activate, activation_gradient, check_activation
from .layers import NO_GRADIENT, FloatArray, Layer, Shape, glorot_uniform, positive

if TYPE_CHECKING:
    from .packed import PackedWeight


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
        # Whoever asks for parameters or gradients gets them whole, also while the layer is trained packed.
        self._params: dict[str, FloatArray] = {}
        self._grads: dict[str, FloatArray] = {}
        self.packed: PackedWeight | None = None
        super().__init__()
        self.units = positive("units", units)
        self.activation = check_activation(activation)
        self.use_bias = bool(use_bias)
        self._saved: tuple[FloatArray, FloatArray] | None = None
        self._dz: FloatArray | None = None
        self._way: PackedWeight | None = None

    @property
    def params(self) -> dict[str, FloatArray]:
        if self.packed is not None:
            self.packed.lend(self._params["weight"])
        return self._params

    @params.setter
    def params(self, arrays: dict[str, FloatArray]) -> None:
        self._params = arrays

    @property
    def grads(self) -> dict[str, FloatArray]:
        if self._dz is not None and self._saved is not None:
            # Packed, only the nonzeros' gradient was computed.
            self._grads["weight"] = _core.matmul(self._dz, self._saved[0], transpose_b=True)
            self._dz = None
        return self._grads

    @grads.setter
    def grads(self, arrays: dict[str, FloatArray]) -> None:
        self._grads = arrays

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
        packed = self.packed
        # Between a new mask and the next batch of training the nonzeros are those of the old one.
        if packed is not None and packed.mask is self.masks.get("weight"):
            return self._forward_packed(packed, x, training)
        weight, bias = self.params["weight"], self.params.get("bias")
        if _in_columns(x):
            z = _core.matmul(x.T, weight, bias, transpose_a=True, transpose_b=True)
        else:
            x = np.ascontiguousarray(x)
            z = _core.matmul(x, weight, bias, transpose_b=True)
        y = activate(self.activation, z, out=z)
        self._saved, self._way = (x, y) if training else None, None
        return y

    def _forward_packed(self, packed: PackedWeight, x: FloatArray, training: bool) -> FloatArray:
        """As `forward`, with samples in columns: so they come from a packed layer and go to the next one."""
        packed.ready(self._params["weight"])
        across = np.ascontiguousarray(x.T)
        y: FloatArray = packed.forward(across, self._params.get("bias"), self.activation == "relu").T
        if self.activation != "relu":
            y = activate(self.activation, y, out=y)
        self._saved, self._way = (across, y) if training else None, packed
        return y

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        if self._saved is None:
            raise RuntimeError(f"{self.name}: backward needs a forward pass with training=True before it")
        x, y = self._saved
        dz = activation_gradient(self.activation, y, dy)
        if self._way is not None:
            return self._backward_packed(self._way, np.ascontiguousarray(dz.T), x, need_dx)
        dz, self._dz = np.ascontiguousarray(dz), None
        columns, weight = _in_columns(x), self.params["weight"]
        self.grads["weight"] = _core.matmul(dz, x.T if columns else x, transpose_a=True, transpose_b=columns)
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
        self, packed: PackedWeight, dz: FloatArray, across: FloatArray, need_dx: bool
    ) -> FloatArray:
        dx = packed.backward(dz, across, need_dx)
        self._dz = dz
        if self.use_bias:
            self._grads["bias"] = dz.sum(axis=1)
        return NO_GRADIENT if dx is None else dx.T

    def release(self) -> None:
        super().release()
        self._saved = self._dz = self._way = None

    def set_width(self, width: int) -> None:
        self.units = width

    def arrays(self) -> tuple[FloatArray, ...]:
        return tuple(self._params.values())

    def packed_bytes(self) -> int:
        return 0 if self.packed is None else self.packed.nbytes

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
