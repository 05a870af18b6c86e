"""Training on what is left of a layer: its nonzeros packed, and what the optimizer remembers of them.

A pruned layer of a training can run in two ways. Masked: dense products, an optimizer step over all weights.
Packed: a sparse product forward, another one for the input's gradient, the weights' gradient on the nonzeros
alone, and an optimizer step over these. `Packer` measures, layer by layer, at which density the second way
becomes the faster one, and switches.

::

    masks change ──> prepare ──> layer.packed = {key: PackedWeight(nonzeros)}, slots of the optimizer alike
    forward, backward, step      on the nonzeros; the layer's arrays fall behind
    layer.params, layer.grads    whoever asks gets them up to date, and may change them
    settle                       arrays and slots are whole again
"""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .layers import BoolArray, FloatArray
from .optimizers import Optimizer
from .packable import REMOVED, Packable, PackedWeight
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
WORTH = 100
"""What trying a layer, which takes the time of a dozen batches of it, must be able to save: batches to come,
times the share of the weights that is gone."""
APART = 50
"""Packing takes the time of a few batches of a layer: "auto" does it so many batches apart at least, and
before the end."""


class Packer:
    """Decides how the pruned layers of a training run, and keeps the optimizer's slots with them.

    Parameters
    ----------
    model : Sequential
    optimizer : Optimizer
    packed : "auto", float or None
        "auto": by measuring, where there are enough batches to come. A number: packed at that density and
        below, at once. None: never.
    """

    def __init__(
        self, model: Sequential, optimizer: Optimizer, packed: str | float | None, batch_size: int
    ) -> None:
        self.model, self.optimizer, self.packed, self.batch_size = model, optimizer, packed, batch_size
        self.limits: dict[str, float] = {}
        """By layer: the density up to which it runs packed; where it never did, minus the one tried last."""
        self._masks: dict[str, dict[str, BoolArray]] = {}
        self._waiting: set[str] = set()
        """Layers to pack when it is time."""
        self._batches, self._left = 0, math.inf
        self._packed_at: dict[str, int] = {}
        self._looks: Counter[str] = Counter()
        """Batches of which somebody wanted to see the gradients, by layer."""
        self._macs = self._packed_macs = 0
        layers = [layer for layer in model.leaves() if isinstance(layer, Packable)]
        uses = Counter(id(layer._params[key]) for layer in layers for key in layer.prunable)
        pack = packed is not None and batch_size > FEW
        self._layers = [
            layer
            for layer in layers
            # Weights that several layers share stay whole.
            if pack
            and all(uses[id(layer._params[key])] == 1 for key in layer.prunable)
            and layer.macs() * layer.times >= LEAST
        ]

    def prepare(self, anew: bool = False, left: float = math.inf) -> None:
        """Pack and unpack as the masks want, before a batch; at most `left` more will come.

        `anew` packs layers of which weights were removed: what follows then depends on the masks alone, not
        on how they came about, and a resumed training equals one that was not interrupted.
        """
        self._batches, self._left = self._batches + 1, left
        for layer in self._layers:
            masks = {key: layer.masks[key] for key in layer.prunable if key in layer.masks}
            dirty = anew and any(packed.alive is not None for packed in layer.packed.values())
            known = _same(self._masks.get(layer.name), masks)
            if known and not dirty and layer.name not in self._waiting:
                continue
            timely = self._timely(layer)
            if known and not timely:
                continue
            self._masks[layer.name] = masks
            self._waiting.discard(layer.name)
            may = layer.packed and not (anew and timely) and layer.packed.keys() == masks.keys()
            most = REMOVED if timely else 1.0
            if may and all(packed.shrink(masks[key], most) for key, packed in layer.packed.items()):
                if any(packed.removed > REMOVED for packed in layer.packed.values()):
                    self._waiting.add(layer.name)
                continue
            self._unpack(layer)
            if masks and timely:
                self._pack(layer, masks)
            elif masks:
                self._waiting.add(layer.name)

    def _timely(self, layer: Packable) -> bool:
        """Whether packing a layer now may pay."""
        apart = self._batches - self._packed_at.get(layer.name, -APART)
        return self.packed != "auto" or min(apart, self._left) >= APART

    def _pack(self, layer: Packable, masks: dict[str, BoolArray]) -> None:
        left = [np.count_nonzero(mask) for mask in masks.values()]
        density = sum(left) / sum(mask.size for mask in masks.values())
        limit = (
            self.packed if isinstance(self.packed, float) else self.limits.get(layer.name, -HIGHEST / FALL)
        )
        if not all(left) or density > max(limit, -limit * FALL):
            return
        if limit < 0 and self._left * (1 - density) < WORTH:
            return
        self._packed_at[layer.name] = self._batches
        packed = {key: layer.pack(key, mask) for key, mask in masks.items()}
        if limit < 0:
            slow, fast, whole = measure(layer, packed, self.batch_size, self.optimizer)
            gain = slow / (fast + whole * min(1.0, self._looks[layer.name] / self._batches))
            # The time of a packed layer is nearly all for its nonzeros.
            self.limits[layer.name] = float(min(HIGHEST, density * gain) if gain > 1 else -density)
            if gain <= 1:
                return
        for memory, name, weight in self._slots(layer, packed):
            memory[name] = weight.compress(memory[name])
        layer.packed = packed

    def _unpack(self, layer: Packable) -> None:
        packed, layer.packed = layer.packed, {}
        for key, weight in packed.items():
            weight.lend(layer._params[key])
        for memory, name, weight in self._slots(layer, packed):
            memory[name] = weight.expand(memory[name])

    def _slots(
        self, layer: Packable, packed: dict[str, PackedWeight]
    ) -> Iterator[tuple[dict[str, FloatArray], str, PackedWeight]]:
        """Where the optimizer remembers something of packed weights."""
        for key, weight in packed.items():
            for memory in self.optimizer.slots.values():
                if f"{layer.name}.{key}" in memory:
                    yield memory, f"{layer.name}.{key}", weight

    def step(self, samples: int) -> None:
        """One step of the optimizer: on the nonzeros of what is packed, on whole arrays elsewhere."""
        params: dict[str, FloatArray] = {}
        grads: dict[str, FloatArray] = {}
        masks: dict[str, BoolArray] = {}
        packed_weights = []
        for layer in self.model.leaves():
            parts: dict[str, PackedWeight] = {}
            if isinstance(layer, Packable):
                own, slopes, parts = layer._params, layer._grads, layer.packed
                self._looks[layer.name] += layer.looked
                layer.looked = False
            else:
                own, slopes = layer.params, layer.grads
            for key, array in own.items():
                name = f"{layer.name}.{key}"
                packed = parts.get(key)
                if packed is not None:
                    packed.ready(array)
                    params[name], grads[name] = packed.values, packed.gradient
                    if packed.alive is not None:
                        masks[name] = packed.alive
                    packed_weights.append(packed)
                    continue
                params[name], grads[name] = array, slopes[key]
                if key in layer.masks:
                    masks[name] = layer.masks[key]
            macs = layer.macs() * layer.times * samples
            self._macs += macs
            self._packed_macs += macs if parts else 0
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


def _same(known: dict[str, BoolArray] | None, masks: dict[str, BoolArray]) -> bool:
    """Whether masks are the very objects that are known."""
    return (
        known is not None
        and known.keys() == masks.keys()
        and all(known[key] is mask for key, mask in masks.items())
    )


def measure(
    layer: Packable, packed: dict[str, PackedWeight], samples: int, optimizer: Optimizer
) -> tuple[float, float, float]:
    """Seconds of a training step of a layer, masked and packed, and of the whole gradients of a packed one,
    which only some ask for; each the least of a few times."""
    rng = np.random.default_rng(0)
    samples *= layer.times
    layer.steps = None  # of the batch before, perhaps a smaller one
    x = rng.standard_normal((samples, *layer.input_shape), np.float32)
    dy = rng.standard_normal((samples, *layer.output_shape), np.float32)
    if x.ndim == 4:
        # In memory as between layers that are not packed.
        x, dy = channels_first(channels_last(x)), channels_first(channels_last(dy))
    weights = {key: layer._params[key] for key in packed}
    masks = {key: weight.mask for key, weight in packed.items()}
    whole, part = _alone(optimizer), _alone(optimizer)
    copied = {key: weight.copy() for key, weight in weights.items()}
    for key, weight in packed.items():
        weight.ready(weights[key])
    values = {key: weight.values.copy() for key, weight in packed.items()}

    def dense() -> None:
        layer.forward(x, training=True)
        layer.backward(dy)
        whole.step(copied, {key: layer._grads[key] for key in copied}, masks)

    def sparse() -> None:
        for weight in packed.values():
            weight.stepped()
        layer.forward(x, training=True)
        layer.backward(dy)
        part.step(values, {key: weight.gradient for key, weight in packed.items()})

    def gradients() -> None:
        for compute in layer._whole_gradients.values():
            compute()

    slow = _least(dense)
    layer.packed = packed
    try:
        fast = _least(sparse)
        more = _least(gradients)
        for key, weight in packed.items():
            weight.lend(weights[key])
    finally:
        layer.packed = {}
        layer.release()
    return slow, fast, more


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
