"""Recurrent layers over sequences (n, steps, features).

All of them are one class: the product of the input with ``weight``, for all steps at once; then the core's
recurrence, which multiplies the state by ``recurrent_weight`` step by step. Numbers lie in memory as
(features, steps, n), samples side by side: the layers' arrays are transposed views of that.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .. import _core
from .layers import NO_GRADIENT, BoolArray, FloatArray, Shape, glorot_uniform, positive
from .packable import PackableMatrices, PackedMatrix


def columns(x: FloatArray) -> FloatArray:
    """Samples (n, steps, features) as they lie in memory between recurrent layers: (features, steps, n)."""
    return np.ascontiguousarray(x.T)


class Recurrent(PackableMatrices):
    """Base of the recurrent layers.

    Parameters
    ----------
    units : int
        Hidden units; the width of the output.
    return_sequences : bool, default=False
        The state after every step, (n, steps, units), or only that after the last, (n, units).
    use_bias : bool, default=True

    Raises
    ------
    ValueError
        If the number of units is not positive.
    """

    prunable = ("weight", "recurrent_weight")
    gates: ClassVar[int] = 1
    """Rows of the weights for one unit."""

    def __init__(self, units: int, return_sequences: bool = False, use_bias: bool = True) -> None:
        super().__init__()
        self.units = positive("units", units)
        self.return_sequences = bool(return_sequences)
        self.use_bias = bool(use_bias)
        self._saved: tuple[FloatArray, FloatArray, FloatArray, FloatArray, BoolArray | None] | None = None
        self._ways: tuple[PackedMatrix | None, PackedMatrix | None] = (None, None)

    @property
    def cell(self) -> str:
        """What the core calls the units."""
        return self.kind

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if len(input_shape) != 2:
            raise ValueError(f"{self.name}: expected samples of (steps, features), got shape {input_shape}")
        steps, features = input_shape
        rows = self.gates * self.units
        self.params = {
            "weight": glorot_uniform(rng, (rows, features), features, self.units),
            "recurrent_weight": orthogonal(rng, self.gates, self.units),
        }
        if self.use_bias:
            self._add_bias()
        return (steps, self.units) if self.return_sequences else (self.units,)

    def _add_bias(self) -> None:
        self.params["bias"] = np.zeros(self.gates * self.units, np.float32)

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        n, steps, features = x.shape
        across = columns(x).reshape(features, -1)
        ways = self._matrix("weight"), self._matrix("recurrent_weight")
        z = self._multiply("weight", ways[0], across)
        skip = None if self.steps is None or self.steps.all() else np.ascontiguousarray(~self.steps.T)
        weight = self._params["recurrent_weight"] if ways[1] is None else ways[1].matrix
        gates, states, memory = _core.recurrent_forward(
            self.cell, z.reshape(-1, steps, n), weight, self._params.get("recurrent_bias"), skip
        )
        self._saved = (across, gates, states, memory, skip) if training else None
        self._ways = ways
        if not self.return_sequences:
            # Padding leaves the state as it was after the last step that counts.
            states = np.ascontiguousarray(states[:, -1])
        elif skip is not None:
            states = np.where(skip, np.float32(0), states)
        y: FloatArray = states.T
        return y

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        if self._saved is None:
            raise RuntimeError(f"{self.name}: backward needs a forward pass with training=True before it")
        across, gates, states, memory, skip = self._saved
        _, steps, n = states.shape
        weight = self._params["recurrent_weight"] if self._ways[1] is None else self._ways[1].across
        outer, last = (columns(dy), None) if self.return_sequences else (None, columns(dy))
        dz, dq = _core.recurrent_backward(self.cell, gates, states, memory, weight, skip, outer, last)
        before = np.zeros_like(states)
        before[:, 1:] = states[:, :-1]
        # The recurrence's own products differ where a gate is between them and the sum.
        du = dz if not len(dq) else np.concatenate([dz[: -len(dq)], dq])
        dz, du = dz.reshape(len(dz), -1), du.reshape(len(dz), -1)
        self._correlate("weight", self._ways[0], dz, across)
        self._correlate("recurrent_weight", self._ways[1], du, before.reshape(self.units, -1))
        if "bias" in self._params:
            self._grads["bias"] = dz.sum(axis=1)
        if "recurrent_bias" in self._params:
            self._grads["recurrent_bias"] = du.sum(axis=1)
        if not need_dx:
            return NO_GRADIENT
        dx: FloatArray = self._multiply_across("weight", self._ways[0], dz).reshape(-1, steps, n).T
        return dx

    def release(self) -> None:
        super().release()
        self._saved, self._ways = None, (None, None)

    def set_width(self, width: int) -> None:
        self.units = width // self.gates

    def macs(self) -> int:
        steps, features = self.input_shape
        return steps * self.gates * self.units * (features + self.units)

    def config(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "units": self.units,
            "return_sequences": self.return_sequences,
            "use_bias": self.use_bias,
        }


def orthogonal(rng: np.random.Generator, gates: int, units: int) -> FloatArray:
    """A random orthogonal matrix (units, units) for every gate (Saxe et al., 1312.6120), in one column."""
    q, r = np.linalg.qr(rng.standard_normal((gates * units, units)).reshape(gates, units, units))
    signs = np.sign(np.diagonal(r, axis1=1, axis2=2))
    matrices: FloatArray = (q * signs[:, None]).reshape(-1, units).astype(np.float32)
    return matrices


class SimpleRNN(Recurrent):
    """The state is ``activation(weight @ x + recurrent_weight @ state + bias)`` (Elman, 1990).

    Parameters
    ----------
    units : int
        Hidden units; the width of the output.
    activation : {"tanh", "relu"}, default="tanh"
    return_sequences : bool, default=False
        The state after every step, (n, steps, units), or only that after the last, (n, units).
    use_bias : bool, default=True

    Raises
    ------
    ValueError
        If an argument is not one of the above.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layer = nn.SimpleRNN(3)
    >>> layer.build((7, 2), np.random.default_rng(0))
    (3,)
    """

    kind = "simple_rnn"

    def __init__(
        self, units: int, activation: str = "tanh", return_sequences: bool = False, use_bias: bool = True
    ) -> None:
        super().__init__(units, return_sequences, use_bias)
        if activation not in ("tanh", "relu"):
            raise ValueError(f'activation: expected "tanh" or "relu", got {activation!r}')
        self.activation = activation

    @property
    def cell(self) -> str:
        return self.activation

    def config(self) -> dict[str, Any]:
        return {**super().config(), "activation": self.activation}


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber, 1997).

    The rows of the weights are those of the input, forget, cell and output gates, as in PyTorch:
    ``weight`` is (4 · units, features), ``recurrent_weight`` (4 · units, units), ``bias`` (4 · units,). The
    forget gates' bias is 1 at first (Jozefowicz et al., 2015).

    Parameters
    ----------
    units : int
        Hidden units; the width of the output.
    return_sequences : bool, default=False
        The state after every step, (n, steps, units), or only that after the last, (n, units).
    use_bias : bool, default=True

    Raises
    ------
    ValueError
        If the number of units is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layer = nn.LSTM(3, return_sequences=True)
    >>> layer.build((7, 2), np.random.default_rng(0))
    (7, 3)
    >>> layer.forward(np.ones((5, 7, 2), np.float32)).shape
    (5, 7, 3)
    """

    kind = "lstm"
    gates = 4

    def _add_bias(self) -> None:
        super()._add_bias()
        self.params["bias"][self.units : 2 * self.units] = 1


class GRU(Recurrent):
    """Gated recurrent units (Cho et al., 1406.1078), with the reset gate after the product.

    The rows of the weights are those of the reset, update and new gates, as in PyTorch: ``weight`` is
    (3 · units, features), ``recurrent_weight`` (3 · units, units). ``bias`` and ``recurrent_bias``, each
    (3 · units,), are added to the two products: the new gate is ``tanh(W x + b + r * (U h + b'))``.

    Parameters
    ----------
    units : int
        Hidden units; the width of the output.
    return_sequences : bool, default=False
        The state after every step, (n, steps, units), or only that after the last, (n, units).
    use_bias : bool, default=True

    Raises
    ------
    ValueError
        If the number of units is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layer = nn.GRU(3)
    >>> layer.build((7, 2), np.random.default_rng(0))
    (3,)
    >>> sorted(layer.params)
    ['bias', 'recurrent_bias', 'recurrent_weight', 'weight']
    """

    kind = "gru"
    gates = 3

    def _add_bias(self) -> None:
        super()._add_bias()
        self.params["recurrent_bias"] = np.zeros(self.gates * self.units, np.float32)
