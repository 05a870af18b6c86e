"""Windows that slide over the last axes of an array: where they lie, and what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..weights import label
from .call import Array, Call


@dataclass(frozen=True)
class Windows:
    """Where windows lie.

    Attributes
    ----------
    lengths : tuple of int
        Of the axes that they slide over.
    size, strides, dilations : tuple of int
    before, after : tuple of int
        Padding.
    excess : tuple of int
        By how much the last window reaches beyond the padding.
    outputs : tuple of int
        How many there are along each axis.
    """

    lengths: tuple[int, ...]
    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    excess: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """From a window's first element to its last."""
        return tuple((k - 1) * step + 1 for k, step in zip(self.size, self.dilations, strict=True))

    def pad(self, x: Array, value: float) -> Array:
        """An array with its border."""
        if not any((*self.before, *self.after, *self.excess)):
            return x
        widths = [
            (before, after + excess)
            for before, after, excess in zip(self.before, self.after, self.excess, strict=True)
        ]
        return np.pad(x, [(0, 0)] * (x.ndim - len(widths)) + widths, constant_values=value)

    def tap(self, padded: Array, at: tuple[int, ...]) -> Array:
        """What all windows show at one of their places; a view."""
        return tap(padded, at, self.outputs, self.strides, self.dilations)

    def inside(self, axis: int, at: int, beyond: bool = False) -> Array:
        """Along an axis, which windows show an element of the array at one of their places.

        Those that show padding count too if `beyond`.
        """
        first = np.arange(self.outputs[axis]) * self.strides[axis] - self.before[axis]
        place = first + at * self.dilations[axis]
        if beyond:
            return place < self.lengths[axis] + self.after[axis]
        return (place >= 0) & (place < self.lengths[axis])


def tap(
    x: Array, at: Sequence[int], outputs: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Array:
    """What windows show at one of their places; a view."""
    cut = [
        slice(place * dilation, place * dilation + (count - 1) * stride + 1, stride)
        for place, dilation, count, stride in zip(at, dilations, outputs, strides, strict=True)
    ]
    return x[tuple([slice(None)] * (x.ndim - len(cut)) + cut)]


def windows_of_node(node: ir.Node, lengths: tuple[int, ...], size: tuple[int, ...]) -> Windows:
    """The windows of a node of a graph; see `windows_of`."""
    attributes = {name: each.value for name, each in node.attributes.items()}
    return windows_of(Call(node.op_type, label(node), 0, attributes), lengths, size)


def windows_of(call: Call, lengths: tuple[int, ...], size: tuple[int, ...], ceil: bool = False) -> Windows:
    """The windows of a node.

    Parameters
    ----------
    call : Call
        With `auto_pad`, `pads`, `strides` and `dilations`.
    lengths, size : tuple of int
        Of the axes, and of a window along them.
    ceil : bool
        Whether the last windows may reach beyond the padding.
    """
    rank = len(lengths)
    strides = tuple(call.get("strides") or [1] * rank)
    dilations = tuple(call.get("dilations") or [1] * rank)
    pads = call.get("pads") or [0] * 2 * rank
    auto = call.get("auto_pad", "NOTSET")
    if not len(size) == len(strides) == len(dilations) == rank or len(pads) != 2 * rank:
        raise ValueError(f"has a window of {len(size)} axes, and slides over {rank}")
    if min((*size, *strides, *dilations), default=1) < 1:
        raise ValueError(f"has a window of {size}, strides {strides} and dilations {dilations}")
    if min(pads, default=0) < 0:
        raise call.unsupported(f"with pads={pads}")
    if auto == "VALID" and ceil:
        raise call.unsupported("with ceil_mode and auto_pad='VALID'")
    reach = [(k - 1) * step + 1 for k, step in zip(size, dilations, strict=True)]
    axes = []
    for axis, (length, stride, far) in enumerate(zip(lengths, strides, reach, strict=True)):
        before, after = (0, 0) if auto == "VALID" else (pads[axis], pads[rank + axis])
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            outputs = -(-length // stride)
            missing = max((outputs - 1) * stride + far - length, 0)
            less, more = missing // 2, missing - missing // 2
            before, after = (less, more) if auto == "SAME_UPPER" else (more, less)
        elif auto not in ("NOTSET", "VALID"):
            raise call.unsupported(f"with auto_pad={auto!r}")
        room = length + before + after - far
        if room < 0:
            raise ValueError(f"has a window of {far} for {length} elements and {before + after} of padding")
        outputs = (-(-room // stride) if ceil else room // stride) + 1
        if ceil and (outputs - 1) * stride >= length + before:
            outputs -= 1  # the last would begin in the padding
        axes.append((before, after, max((outputs - 1) * stride - room, 0), outputs))
    before, after, excess, outputs = (tuple(column) for column in zip(*axes, strict=True))
    return Windows(lengths, size, strides, dilations, before, after, excess, outputs)
