"""Layers that can be trained on their nonzeros, and what they hold meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from .. import _core
from .layers import BoolArray, FloatArray, Layer, Shape

REMOVED = 0.2
"""The share of a packed layer's weights that may go before it is packed anew."""


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

    def shrink(self, mask: BoolArray) -> bool:
        """Take a later mask that only removed a few weights: their places stay. Whether it is one."""
        alive = mask.reshape(-1)[self.positions]
        left = np.count_nonzero(alive)
        if left < np.count_nonzero(mask) or left < (1 - REMOVED) * len(alive):
            return False
        self.mask, self.alive = mask, None if left == len(alive) else alive
        return True

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
    """Base of the layers with a ``"weight"`` that training may pack.

    While it does, the layer's own arrays fall behind; whoever asks for parameters or gradients gets them
    whole.

    Attributes
    ----------
    packed : PackedWeight or None
        Set by `Packer`; None where the layer runs on whole arrays.
    """

    packed: PackedWeight | None = None
    _whole_gradient: Callable[[], FloatArray] | None = None

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
        if self._whole_gradient is not None:
            # Packed, only the nonzeros' gradient was computed.
            self._grads["weight"] = self._whole_gradient()
            self._whole_gradient = None
        return self._grads

    @grads.setter
    def grads(self, arrays: dict[str, FloatArray]) -> None:
        self._grads = arrays

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        self.packed = None
        return super().build(input_shape, rng)

    def pack(self, mask: BoolArray) -> PackedWeight:
        """The nonzeros of a mask."""
        raise NotImplementedError

    def _current(self) -> PackedWeight | None:
        """What is packed, ready to compute, unless it belongs to another mask than the layer's own.

        Between a new mask and the next batch of training it does.
        """
        packed = self.packed
        if packed is None or packed.mask is not self.masks.get("weight"):
            return None
        packed.ready(self._params["weight"])
        return packed

    def release(self) -> None:
        super().release()
        self._whole_gradient = None

    def arrays(self) -> tuple[FloatArray, ...]:
        return tuple(self._params.values())

    def packed_bytes(self) -> int:
        return 0 if self.packed is None else self.packed.nbytes
