"""Sliding windows over images: padding, output sizes, and the memory layout that the core works on."""

from __future__ import annotations

from typing import Any

import numpy as np

from .layers import FloatArray, Layer, Shape, pair

PADDINGS = ("same", "valid")


class WindowLayer(Layer):
    """Base of the layers that slide a window over images of shape (channels, height, width).

    Images are (n, channels, height, width) for everybody, but channels-last in memory between these layers,
    so that the core reads a window's channels as one run: `channels_last` copies only what comes from
    elsewhere.

    Attributes
    ----------
    window : tuple of int
        Height and width of the window.
    strides : tuple of int
        Rows and columns from one window to the next.
    dilation : tuple of int
        Rows and columns from one element of the window to the next.
    padding : {"valid", "same"}
        No padding, or so much that the output has ceil(input / stride) elements, with an odd element more at
        the bottom and right (TensorFlow's SAME, ONNX's SAME_UPPER).
    pads : tuple of int
        Top, left, bottom, right; known after `build`.
    """

    def __init__(self, name: str, window: Any, strides: Any, padding: Any, dilation: Any = 1) -> None:
        super().__init__()
        self.window = pair(name, window)
        self.strides = self.window if strides is None else pair("strides", strides)
        self.dilation = pair("dilation", dilation)
        if padding not in PADDINGS:
            raise ValueError(f"padding: unknown name {padding!r}; choose from {', '.join(PADDINGS)}")
        self.padding = str(padding)
        self.pads = (0, 0, 0, 0)

    def _slide(self, input_shape: Shape) -> tuple[int, int]:
        """Set `pads` for samples of `input_shape` and return the output's height and width."""
        if len(input_shape) != 3:
            raise ValueError(
                f"{self.name}: expected images of shape (channels, height, width), got shape {input_shape}"
            )
        size = input_shape[1:]
        sides: list[tuple[int, int]] = []
        output: list[int] = []
        axes = zip(size, self.window, self.dilation, self.strides, strict=True)
        for length, elements, dilation, stride in axes:
            window = (elements - 1) * dilation + 1
            if self.padding == "same":
                steps = -(-length // stride)
                missing = max(0, (steps - 1) * stride + window - length)
                sides.append((missing // 2, missing - missing // 2))
            elif length < window:
                apart = "" if self.dilation == (1, 1) else f" with dilation {self.dilation}"
                raise ValueError(
                    f"{self.name}: a window of {self.window}{apart} does not fit into images of {size}"
                )
            else:
                steps = (length - window) // stride + 1
                sides.append((0, 0))
            output.append(steps)
        self.pads = (sides[0][0], sides[1][0], sides[0][1], sides[1][1])
        return output[0], output[1]


def channels_last(x: FloatArray) -> FloatArray:
    """(n, c, h, w) as contiguous (n, h, w, c): a view where the memory is laid out so already."""
    images: FloatArray = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    return images


def channels_first(x: FloatArray) -> FloatArray:
    """(n, h, w, c) seen as (n, c, h, w)."""
    images: FloatArray = x.transpose(0, 3, 1, 2)
    return images
