"""Several layers over one input, and parts of an input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .._arguments import as_integer
from .layers import (
    NO_GRADIENT,
    BoolArray,
    Container,
    FloatArray,
    Layer,
    Shape,
    backward_through,
    checked_layers,
    forward_through,
    name_layers,
)


class Concatenate(Container):
    """Chains of layers that read the same input; their outputs side by side along the last axis.

    Parameters
    ----------
    *branches : Layer or iterable of Layer
        At least one chain, each of at least one layer.

    Attributes
    ----------
    branches : list of list of Layer
        They are named after this layer and their number: ``"concatenate.0.embedding"``.

    Raises
    ------
    ValueError
        If there is no layer, something else than a layer, or one layer twice; on `build`, if the outputs
        differ in more than their last axis.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> words = [nn.Slice(0), nn.Embedding(100, 8, mask_zero=True)]
    >>> letters = nn.TimeDistributed([nn.Embedding(30, 4), nn.Conv1D(6, 3), nn.GlobalMaxPool1D()])
    >>> layer = nn.Concatenate(words, [nn.Slice(1, 11), letters])
    >>> layer.build((5, 11), np.random.default_rng(0))
    (5, 14)
    """

    kind = "concatenate"

    def __init__(self, *branches: Layer | Iterable[Layer]) -> None:
        super().__init__()
        self.branches = [[branch] if isinstance(branch, Layer) else list(branch) for branch in branches]
        if not self.branches or not all(self.branches):
            raise ValueError("branches: expected at least one, of at least one layer each")
        checked_layers([layer for branch in self.branches for layer in branch])
        self._counts: BoolArray | None = None
        self.rename(self.kind)

    @classmethod
    def revive(cls, arguments: dict[str, Any]) -> Layer:
        return cls(*([Layer.from_config(layer) for layer in branch] for branch in arguments["branches"]))

    def rename(self, name: str) -> None:
        super().rename(name)
        for i, branch in enumerate(self.branches):
            name_layers(branch, f"{name}.{i}.")

    def leaves(self) -> Iterator[Layer]:
        for branch in self.branches:
            for layer in branch:
                yield from layer.leaves()

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        shapes = []
        for branch in self.branches:
            shape = input_shape
            for layer in branch:
                shape = layer.build(shape, rng)
            shapes.append(shape)
        if any(shape[:-1] != shapes[0][:-1] for shape in shapes):
            raise ValueError(f"{self.name}: outputs of {', '.join(map(str, shapes))} cannot be side by side")
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))

    def steps_after(self, x: FloatArray) -> BoolArray | None:
        return self._counts

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        outputs, counts = [], []
        for branch in self.branches:
            y, steps = forward_through(branch, x, training, self.steps)
            outputs.append(y.T)
            counts.append(steps)
        # What one of them knows to be padding is padding.
        self._counts = next((steps for steps in counts if steps is not None), None)
        whole: FloatArray = np.concatenate(outputs).T
        return whole

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        ends = np.cumsum([branch[-1].output_shape[-1] for branch in self.branches])
        parts = zip(self.branches, np.split(dy, ends[:-1], axis=-1), strict=True)
        slopes = [backward_through(branch, part, need_dx) for branch, part in parts]
        return sum(slopes[1:], slopes[0]) if need_dx else NO_GRADIENT

    def release(self) -> None:
        super().release()
        self._counts = None

    def config(self) -> dict[str, Any]:
        branches = [[layer.config() for layer in branch] for branch in self.branches]
        return {"kind": self.kind, "branches": branches}

    def __repr__(self) -> str:
        return f"Concatenate({', '.join(map(repr, self.branches))})"


class Slice(Layer):
    """One feature, or a range of them: the last axis of the samples.

    Parameters
    ----------
    start : int
        The first one, from 0; alone, the only one, and the axis is gone.
    stop : int, optional
        The one behind the last.

    Raises
    ------
    ValueError
        If the range is empty; on `build`, if the samples do not have all of it.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> nn.Slice(1, 3).build((5, 4), np.random.default_rng(0)), nn.Slice(0).build((5, 4), None)
    ((5, 2), (5,))
    """

    kind = "slice"

    def __init__(self, start: int, stop: int | None = None) -> None:
        super().__init__()
        self.start = as_integer(start, "start")
        self.stop = None if stop is None else as_integer(stop, "stop")
        if not 0 <= self.start < (self.start + 1 if self.stop is None else self.stop):
            raise ValueError(f"start, stop: expected 0 <= start < stop, got {start!r} and {stop!r}")

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        end = self.start + 1 if self.stop is None else self.stop
        if end > input_shape[-1]:
            raise ValueError(f"{self.name}: samples of {input_shape} have no features up to {end}")
        rest = () if self.stop is None else (end - self.start,)
        return (*input_shape[:-1], *rest)

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        return x[..., self.start] if self.stop is None else x[..., self.start : self.stop]

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        if not need_dx:
            return NO_GRADIENT
        dx = np.zeros((len(dy), *self.input_shape), np.float32)
        self.forward(dx)[...] = dy
        return dx

    def config(self) -> dict[str, Any]:
        return {"kind": self.kind, "start": self.start, "stop": self.stop}
