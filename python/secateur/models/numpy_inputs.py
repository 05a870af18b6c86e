"""What the weights of a `secateur.nn.Sequential` are multiplied by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import nn
from ..nn.recurrent import Recurrent
from .patches import patches
from .view import FloatArray


class _Reached(Exception):
    """A layer was about to run."""


def input_of(model: nn.Sequential, layer: nn.Layer, x: FloatArray) -> FloatArray:
    """What comes to a layer, wherever in the model it is; what lies behind it is not run."""
    found: list[FloatArray] = []

    def stop(x: FloatArray, training: bool = False) -> FloatArray:
        found.append(x)
        raise _Reached

    vars(layer)["forward"] = stop
    try:
        model.forward(x)
    except _Reached:
        pass
    finally:
        del vars(layer)["forward"]
    return found[0]


def matrices(layer: nn.Layer, key: str, x: FloatArray) -> Iterator[FloatArray]:
    """What a layer multiplies its parameter `key` by when it runs on `x`; see `ModelView.layer_inputs`.

    Steps of sequences that are padding do not count.
    """
    if isinstance(layer, nn.Conv2D):
        # Sequences (n, steps, features) are images of one column.
        images = x.swapaxes(1, 2)[..., None] if isinstance(layer, nn.Conv1D) else x
        geometry = layer.window, layer.strides, layer.dilation, layer.pads, layer.groups
        yield from patches(images, *geometry)
    elif isinstance(layer, Recurrent):
        seen = x if key == "weight" else _states_before(layer, x)
        yield seen.reshape(1, -1, seen.shape[-1]) if layer.steps is None else seen[layer.steps][None]
    else:
        yield x[None]


def _states_before(layer: Recurrent, x: FloatArray) -> FloatArray:
    """The state that every step begins with, (n, steps, units)."""
    sequences, layer.return_sequences = layer.return_sequences, True
    try:
        states = layer.forward(x)
    finally:
        layer.return_sequences = sequences
    return np.concatenate([np.zeros_like(states[:, :1]), states[:, :-1]], axis=1)
