"""Training on what is left of a layer: its nonzeros packed, and what the optimizer remembers of them.

A pruned layer of a training can run in two ways. Masked: dense products, an optimizer step over all weights.
Packed: a sparse product forward, another one for the input's gradient, the weights' gradient on the nonzeros
alone, and an optimizer step over these. `Packer` measures, layer by layer, at which density the second way
becomes the faster one, and switches.

::

    masks change ──> prepare ──> Dense.packed = PackedWeight(nonzeros, slots of the optimizer)
    forward, backward, step      on the nonzeros; the layer's arrays fall behind
    Dense.params, Dense.grads    whoever asks gets them up to date, and may change them
    settle                       arrays and slots are whole again
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .dense import Dense
from .layers import BoolArray, FloatArray
from .optimizers import Optimizer

if TYPE_CHECKING:
    from .sequential import Sequential

LEAST = 1 << 15
"""Smaller layers are not worth packing, whatever their density."""
FEW = 8
"""Up to so many samples are multiplied one by one, by kernels whose weights cannot be replaced."""
HIGHEST = 0.5
"""Denser layers are not tried."""
FALL = 0.7
"""A layer that was slower packed is tried again at this share of the density."""
REMOVED = 0.2
"""The share of a packed layer's weights that may go before it is packed anew."""


class PackedWeight:
    """The nonzeros of one layer's weights.

    Parameters
    ----------
    mask : ndarray of bool (out, in)
    columns : int
        Samples of a batch.

    Attributes
    ----------
    mask : ndarray of bool
        The layer's mask that this belongs to; the object itself tells whether the layer has another one now.
    values : ndarray of float32 (nnz,)
        The weights, row by row; what the optimizer changes.
    gradient : ndarray of float32 (nnz,)
        Theirs, after `backward`.
    alive : ndarray of bool (nnz,) or None
        Where some have been removed since.
    """

    def __init__(self, mask: BoolArray, columns: int) -> None:
        self.mask = mask
        self.positions = np.flatnonzero(mask)
        starts = np.concatenate([[0], np.cumsum(np.count_nonzero(mask, axis=1))])
        places = self.positions % mask.shape[1]
        # Every place gets a value, also that of a weight which is 0 as yet.
        ones = np.ones(len(places), np.float32)
        self._matrix = _core.PackedMatrix.from_csr(
            mask.shape, starts, places, ones, "auto", columns, (8, 1), None, "f32"
        )
        self._across = self._matrix.T
        self.values: FloatArray = ones
        self.gradient: FloatArray = np.zeros(0, np.float32)
        self.alive: BoolArray | None = None
        self._lent = True
        self._stale = self._ahead = False

    @property
    def nbytes(self) -> int:
        """Memory of the nonzeros, packed both ways, and of their places."""
        alive = 0 if self.alive is None else self.alive.nbytes
        return self._matrix.nbytes + self.positions.nbytes + self.values.nbytes + alive

    def lend(self, weight: FloatArray) -> None:
        """Bring the layer's array up to date: somebody is going to look at it, and perhaps to change it."""
        if self._ahead:
            weight.reshape(-1)[self.positions] = self.values
            self._ahead = False
        self._lent = True

    def ready(self, weight: FloatArray) -> None:
        """Take over what others did to the layer's array, and what the optimizer did to the values."""
        if self._lent:
            self.values = weight.reshape(-1)[self.positions]
            self._lent, self._stale = False, True
        if self._stale:
            self._matrix.update(self.values)
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

    def forward(self, across: FloatArray, bias: FloatArray | None, relu: bool) -> FloatArray:
        """``W @ across + bias`` of shape (out, n), from samples in columns (in, n)."""
        return self._matrix.matmul(across, bias, "relu" if relu else None)

    def backward(self, dz: FloatArray, across: FloatArray, need_dx: bool) -> FloatArray | None:
        """Fill `gradient` from that of the outputs (out, n), and return that of the inputs (in, n)."""
        self.gradient = self._matrix.sddmm(dz, across)
        return self._across.matmul(dz) if need_dx else None

    def compress(self, array: FloatArray) -> FloatArray:
        """The entries of an array of the weights' shape that belong to the nonzeros."""
        return array.reshape(-1)[self.positions]

    def expand(self, values: FloatArray) -> FloatArray:
        """The inverse, 0 elsewhere."""
        array = np.zeros(self.mask.shape, np.float32)
        array.reshape(-1)[self.positions] = values
        return array


class Packer:
    """Decides how the pruned Dense layers of a training run, and keeps the optimizer's slots with them.

    Parameters
    ----------
    model : Sequential
    optimizer : Optimizer
    packed : "auto", float or None
        "auto": by measuring. A number: packed at that density and below. None: never.
    """

    def __init__(
        self, model: Sequential, optimizer: Optimizer, packed: str | float | None, batch_size: int
    ) -> None:
        self.model, self.optimizer, self.packed, self.batch_size = model, optimizer, packed, batch_size
        self.limits: dict[str, float] = {}
        """By layer: the density up to which it runs packed; where it never did, minus the one tried last."""
        self._masks: dict[str, BoolArray | None] = {}
        self._macs = self._packed_macs = 0
        weights = [layer._params["weight"] for layer in model.leaves() if isinstance(layer, Dense)]
        tied = [sum(weight is other for other in weights) > 1 for weight in weights]
        dense = [layer for layer in model.leaves() if isinstance(layer, Dense)]
        self._layers = [
            layer
            for layer, shared in zip(dense, tied, strict=True)
            if packed is not None
            and batch_size > FEW
            and layer._params["weight"].size >= LEAST
            and not shared
        ]

    def prepare(self, anew: bool = False) -> None:
        """Pack and unpack as the masks want, before a batch.

        `anew` packs layers of which weights were removed: what follows then depends on the masks alone, not
        on how they came about, and a resumed training equals one that was not interrupted.
        """
        for layer in self._layers:
            mask, packed = layer.masks.get("weight"), layer.packed
            dirty = anew and packed is not None and packed.alive is not None
            if layer.name in self._masks and self._masks[layer.name] is mask and not dirty:
                continue
            self._masks[layer.name] = mask
            if packed is not None and mask is not None and not anew and packed.shrink(mask):
                continue
            self._unpack(layer)
            if mask is not None:
                self._pack(layer, mask)

    def _pack(self, layer: Dense, mask: BoolArray) -> None:
        density = np.count_nonzero(mask) / mask.size
        limit = (
            self.packed if isinstance(self.packed, float) else self.limits.get(layer.name, -HIGHEST / FALL)
        )
        if 0 < density <= limit:
            self._install(layer, PackedWeight(mask, self.batch_size))
        elif 0 < density <= -limit * FALL:
            packed = PackedWeight(mask, self.batch_size)
            gain = measure(layer, packed, self.batch_size, self.optimizer)
            # The time of a packed layer is nearly all for its nonzeros.
            self.limits[layer.name] = min(HIGHEST, density * gain) if gain > 1 else -density
            if gain > 1:
                self._install(layer, packed)

    def _install(self, layer: Dense, packed: PackedWeight) -> None:
        name = f"{layer.name}.weight"
        for memory in self.optimizer.slots.values():
            if name in memory:
                memory[name] = packed.compress(memory[name])
        layer.packed = packed

    def _unpack(self, layer: Dense) -> None:
        packed = layer.packed
        if packed is None:
            return
        packed.lend(layer._params["weight"])
        layer.packed = None
        name = f"{layer.name}.weight"
        for memory in self.optimizer.slots.values():
            if name in memory:
                memory[name] = packed.expand(memory[name])

    def step(self, samples: int) -> None:
        """One step of the optimizer: on the nonzeros of what is packed, on whole arrays elsewhere."""
        params: dict[str, FloatArray] = {}
        grads: dict[str, FloatArray] = {}
        masks: dict[str, BoolArray] = {}
        packed_weights = []
        for layer in self.model.leaves():
            packed = layer.packed if isinstance(layer, Dense) else None
            own = layer._params if isinstance(layer, Dense) else layer.params
            slopes = layer._grads if isinstance(layer, Dense) else layer.grads
            for key, array in own.items():
                name = f"{layer.name}.{key}"
                if key == "weight" and packed is not None:
                    packed.ready(array)
                    params[name], grads[name] = packed.values, packed.gradient
                    if packed.alive is not None:
                        masks[name] = packed.alive
                    packed_weights.append(packed)
                    continue
                params[name], grads[name] = array, slopes[key]
                if key in layer.masks:
                    masks[name] = layer.masks[key]
            macs = layer.macs() * samples
            self._macs += macs
            self._packed_macs += macs if packed is not None else 0
        self.optimizer.step(params, grads, masks)
        for packed in packed_weights:
            packed.stepped()

    def share(self) -> float:
        """The share of the multiply-adds, as of dense layers, that ran packed since the last call."""
        share = self._packed_macs / max(1, self._macs)
        self._macs = self._packed_macs = 0
        return share

    def settle(self) -> None:
        """Arrays and slots whole again; the next batch packs anew."""
        for layer in self._layers:
            self._unpack(layer)
        self._masks = {}


def measure(layer: Dense, packed: PackedWeight, samples: int, optimizer: Optimizer) -> float:
    """How much faster a training step of a layer is packed than masked, by the least of a few times."""
    rng = np.random.default_rng(0)
    weight, mask = layer._params["weight"], packed.mask
    out, into = weight.shape
    x, dy = rng.standard_normal((samples, into), np.float32), rng.standard_normal((samples, out), np.float32)
    across, dz = np.ascontiguousarray(x.T), np.ascontiguousarray(dy.T)
    whole, part = _alone(optimizer), _alone(optimizer)
    copied = weight.copy()
    packed.ready(weight)
    values = packed.values.copy()

    def dense() -> None:
        _core.matmul(x, weight, transpose_b=True)
        _core.matmul(dy, weight)
        whole.step({"w": copied}, {"w": _core.matmul(dy, x, transpose_a=True)}, {"w": mask})

    def sparse() -> None:
        packed.stepped()
        packed.ready(weight)
        packed.forward(across, None, False)
        packed.backward(dz, across, True)
        part.step({"w": values}, {"w": packed.gradient})

    slow, fast = _least(dense), _least(sparse)
    packed.lend(weight)
    return slow / fast


def _alone(optimizer: Optimizer) -> Optimizer:
    """An optimizer of the same kind that remembers nothing."""
    other = copy.copy(optimizer)
    other.slots = {slot: {} for slot in optimizer.slot_names}
    return other


def _least(call: Callable[[], None], times: int = 4) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def check_packed(packed: Any) -> str | float | None:
    """`packed` as `Packer` takes it, else a ValueError."""
    if packed is None or (isinstance(packed, str) and packed == "auto"):
        return packed
    number = isinstance(packed, (int, float, np.integer, np.floating)) and not isinstance(packed, bool)
    if not number or not 0 <= packed <= 1:
        raise ValueError(f'packed: expected "auto", a density in [0, 1] or None, got {packed!r}')
    return float(packed)
