"""Training on what is left of a layer: its nonzeros packed, and what the optimizer remembers of them.

A pruned layer of a training can run in two ways. Masked: dense products, an optimizer step over all weights.
Packed: a sparse product forward, another one for the input's gradient, the weights' gradient on the nonzeros
alone, and an optimizer step over these. `Packer` measures, layer by layer, at which density the second way
becomes the faster one, and switches.

::

    masks change ──> prepare ──> layer.packed = PackedWeight(nonzeros, slots of the optimizer)
    forward, backward, step      on the nonzeros; the layer's arrays fall behind
    layer.params, layer.grads    whoever asks gets them up to date, and may change them
    settle                       arrays and slots are whole again
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .layers import BoolArray, FloatArray
from .optimizers import Optimizer
from .packable import Packable, PackedWeight
from .window import channels_first, channels_last

if TYPE_CHECKING:
    from .sequential import Sequential

LEAST = 1 << 15
"""Layers of fewer multiply-adds a sample are not worth packing, whatever their density."""
FEW = 8
"""Up to so many samples are multiplied one by one, by kernels whose weights cannot be replaced."""
HIGHEST = 0.5
"""Denser layers are not tried."""
FALL = 0.7
"""A layer that was slower packed is tried again at this share of the density."""


class Packer:
    """Decides how the pruned layers of a training run, and keeps the optimizer's slots with them.

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
        layers = [layer for layer in model.leaves() if isinstance(layer, Packable)]
        weights = [layer._params["weight"] for layer in layers]
        # Weights that several layers share stay whole.
        owned = [sum(weight is other for other in weights) == 1 for weight in weights]
        pack = packed is not None and batch_size > FEW
        self._layers = [
            layer
            for layer, alone in zip(layers, owned, strict=True)
            if pack and alone and layer.macs() >= LEAST
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

    def _pack(self, layer: Packable, mask: BoolArray) -> None:
        density = np.count_nonzero(mask) / mask.size
        limit = (
            self.packed if isinstance(self.packed, float) else self.limits.get(layer.name, -HIGHEST / FALL)
        )
        if 0 < density <= limit:
            self._install(layer, layer.pack(mask))
        elif 0 < density <= -limit * FALL:
            packed = layer.pack(mask)
            gain = measure(layer, packed, self.batch_size, self.optimizer)
            # The time of a packed layer is nearly all for its nonzeros.
            self.limits[layer.name] = float(min(HIGHEST, density * gain) if gain > 1 else -density)
            if gain > 1:
                self._install(layer, packed)

    def _install(self, layer: Packable, packed: PackedWeight) -> None:
        name = f"{layer.name}.weight"
        for memory in self.optimizer.slots.values():
            if name in memory:
                memory[name] = packed.compress(memory[name])
        layer.packed = packed

    def _unpack(self, layer: Packable) -> None:
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
            packed = layer.packed if isinstance(layer, Packable) else None
            own = layer._params if isinstance(layer, Packable) else layer.params
            slopes = layer._grads if isinstance(layer, Packable) else layer.grads
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


def measure(layer: Packable, packed: PackedWeight, samples: int, optimizer: Optimizer) -> float:
    """How much faster a training step of a layer is packed than masked, by the least of a few times."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, *layer.input_shape), np.float32)
    dy = rng.standard_normal((samples, *layer.output_shape), np.float32)
    if x.ndim == 4:
        # In memory as between layers that are not packed.
        x, dy = channels_first(channels_last(x)), channels_first(channels_last(dy))
    weight = layer._params["weight"]
    whole, part, copied = _alone(optimizer), _alone(optimizer), weight.copy()
    packed.ready(weight)
    values = packed.values.copy()

    def dense() -> None:
        layer.forward(x, training=True)
        layer.backward(dy)
        whole.step({"w": copied}, {"w": layer.grads["weight"]}, {"w": packed.mask})

    def sparse() -> None:
        packed.stepped()
        layer.forward(x, training=True)
        layer.backward(dy)
        part.step({"w": values}, {"w": packed.gradient})

    slow = _least(dense)
    layer.packed = packed
    try:
        fast = _least(sparse)
        packed.lend(weight)
    finally:
        layer.packed = None
        layer.release()
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
