"""Layers that can be trained on their nonzeros, and what they hold meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from .. import _core
from .layers import BoolArray, FloatArray, Layer, Shape

REMOVED = 0.2
"""The share of a packed layer's weights that may go before it is to be packed anew."""


class Kernels(Protocol):
    """Packed weights that compute."""

    @property
    def nbytes(self) -> int:
        """Memory of all that is packed."""

    def update(self, values: FloatArray) -> None:
        """Replace the values of the nonzeros, in C order; the structure stays."""


class PackedWeight:
    """The nonzeros of one layer's weights.

    Parameters
    ----------
    mask : ndarray of bool
        Of the weights' shape. A subclass makes `kernels` of it, with a place for every True.

    Attributes
    ----------
    mask : ndarray of bool
        The layer's mask that this belongs to; the object itself tells whether the layer has another one now.
    values : ndarray of float32 (nnz,)
        The weights, in C order; what the optimizer changes.
    gradient : ndarray of float32 (nnz,)
        Theirs, after `Layer.backward`.
    alive : ndarray of bool (nnz,) or None
        Where some have been removed since.
    """

    kernels: Kernels

    def __init__(self, mask: BoolArray) -> None:
        self.mask = mask
        self.positions = np.flatnonzero(mask)
        self.values: FloatArray = np.zeros(len(self.positions), np.float32)
        self.gradient: FloatArray = np.zeros(0, np.float32)
        self.alive: BoolArray | None = None
        self._lent = True
        self._stale = self._ahead = False

    @property
    def nbytes(self) -> int:
        """Memory of the nonzeros, as often as they are packed, and of their places."""
        alive = 0 if self.alive is None else self.alive.nbytes
        return self.kernels.nbytes + self.positions.nbytes + self.values.nbytes + alive

    def lend(self, weight: FloatArray) -> None:
        """Bring the layer's array up to date: somebody is going to look at it, and perhaps to change it."""
        if self._ahead:
            weight.reshape(-1)[self.positions] = self.values
            self._ahead = False
        self._lent = True

    def ready(self, weight: FloatArray) -> None:
        """Take over what others did to the layer's array, and what the optimizer did to the values."""
        if self._lent:
            self.values = self.compress(weight)
            self._lent, self._stale = False, True
        if self._stale:
            self.kernels.update(self.values)
            self._stale = False

    def stepped(self) -> None:
        """The optimizer has changed the values."""
        self._stale = self._ahead = True

    def shrink(self, mask: BoolArray, most: float = REMOVED) -> bool:
        """Take a later mask that only removed weights, a few: their places stay. Whether it is one."""
        alive = mask.reshape(-1)[self.positions]
        left = np.count_nonzero(alive)
        if left < np.count_nonzero(mask) or left < (1 - most) * len(alive):
            return False
        self.mask, self.alive = mask, None if left == len(alive) else alive
        return True

    @property
    def removed(self) -> float:
        """The share of the places whose weights have been removed."""
        return 0.0 if self.alive is None else 1 - float(np.count_nonzero(self.alive)) / len(self.alive)

    def compress(self, array: FloatArray) -> FloatArray:
        """The entries of an array of the weights' shape that belong to the nonzeros."""
        return array.reshape(-1)[self.positions]

    def expand(self, values: FloatArray) -> FloatArray:
        """The inverse, 0 elsewhere."""
        array = np.zeros(self.mask.shape, np.float32)
        array.reshape(-1)[self.positions] = values
        return array


class PackedMatrix(PackedWeight):
    """Those of a Dense layer; operands hold the samples in columns."""

    def __init__(self, mask: BoolArray) -> None:
        super().__init__(mask)
        starts = np.concatenate([[0], np.cumsum(np.count_nonzero(mask, axis=1))])
        places = self.positions % mask.shape[1]
        # Every place gets a value, also that of a weight which is 0 as yet. Packed is what is asked to
        # multiply, with the order of the values, because they have been replaced before.
        ones = np.ones(len(places), np.float32)
        self.kernels = self.matrix = _core.PackedMatrix.from_csr(
            mask.shape, starts, places, ones, "auto", None, (8, 1), None, "f32"
        )
        self.matrix.update(ones)
        self.across = self.matrix.T


class PackedFilters(PackedWeight):
    """Those of a convolution."""

    def __init__(
        self,
        mask: BoolArray,
        strides: tuple[int, int],
        pads: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> None:
        super().__init__(mask)
        ones = mask.astype(np.float32)
        self.kernels = self.filters = _core.PackedConv2D(ones, strides, pads, dilation, groups, "auto", None)


class Packable(Layer):
    """Base of the layers whose `prunable` weights training may pack.

    While it does, the layer's own arrays fall behind; whoever asks for parameters or gradients gets them
    whole.

    Attributes
    ----------
    packed : dict of str to PackedWeight
        Set by `Packer`; of the weights that are not in it the layer uses the whole arrays.
    looked : bool
        Whether somebody wanted to see the gradients; `Packer` looks, and takes it back.
    """

    def __init__(self, *arguments: Any) -> None:
        self.packed: dict[str, PackedWeight] = {}
        self.looked = False
        self._whole_gradients: dict[str, Callable[[], FloatArray]] = {}
        super().__init__(*arguments)

    @property
    def params(self) -> dict[str, FloatArray]:
        for key, packed in self.packed.items():
            packed.lend(self._params[key])
        return self._params

    @params.setter
    def params(self, arrays: dict[str, FloatArray]) -> None:
        self._params = arrays

    @property
    def grads(self) -> dict[str, FloatArray]:
        self.looked = True
        # Packed, only the nonzeros' gradient was computed.
        self._grads |= {key: whole() for key, whole in self._whole_gradients.items()}
        self._whole_gradients = {}
        return self._grads

    @grads.setter
    def grads(self, arrays: dict[str, FloatArray]) -> None:
        self._grads = arrays

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        self.packed = {}
        return super().build(input_shape, rng)

    def pack(self, key: str, mask: BoolArray) -> PackedWeight:
        """The nonzeros of a mask of the weights `key`."""
        raise NotImplementedError

    def _current(self, key: str) -> PackedWeight | None:
        """What is packed of the weights `key`, ready to compute, unless it belongs to another mask than the
        layer's own.

        Between a new mask and the next batch of training it does.
        """
        packed = self.packed.get(key)
        if packed is None or packed.mask is not self.masks.get(key):
            return None
        packed.ready(self._params[key])
        return packed

    def release(self) -> None:
        super().release()
        self._whole_gradients = {}

    def arrays(self) -> tuple[FloatArray, ...]:
        return tuple(self._params.values())

    def packed_bytes(self) -> int:
        return sum(packed.nbytes for packed in self.packed.values())


class PackableMatrices(Packable):
    """Base of the packable layers whose weights are matrices, multiplied by samples in columns."""

    def pack(self, key: str, mask: BoolArray) -> PackedWeight:
        return PackedMatrix(mask)

    def _matrix(self, key: str) -> PackedMatrix | None:
        """As `_current`."""
        packed = self._current(key)
        assert packed is None or isinstance(packed, PackedMatrix)
        return packed

    def _multiply(
        self, key: str, packed: PackedMatrix | None, x: FloatArray, activation: str | None = None
    ) -> FloatArray:
        """The weights times `x` of shape (columns of the weights, n), plus the bias.

        An activation is applied by packed weights alone.
        """
        bias = self._params.get("bias")
        if packed is not None:
            return packed.matrix.matmul(x, bias, activation)
        y = _core.matmul(self._params[key], x)
        if bias is not None:
            y += bias[:, None]
        return y

    def _multiply_across(self, key: str, packed: PackedMatrix | None, dy: FloatArray) -> FloatArray:
        """The transposed weights times `dy` of shape (rows of the weights, n)."""
        if packed is not None:
            return packed.across.matmul(dy)
        return _core.matmul(self._params[key], dy, transpose_a=True)

    def _correlate(self, key: str, packed: PackedMatrix | None, dy: FloatArray, x: FloatArray) -> None:
        """Note the gradient of the weights, ``dy @ x.T``; of packed ones that of the nonzeros, and the rest
        when somebody asks."""

        def whole() -> FloatArray:
            return _core.matmul(dy, x, transpose_b=True)

        if packed is not None:
            packed.gradient = packed.matrix.sddmm(dy, x)
            self._whole_gradients[key] = whole
        else:
            self._whole_gradients.pop(key, None)
            self._grads[key] = whole()
