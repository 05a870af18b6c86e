"""Max and average pooling."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .layers import FloatArray, Shape
from .window import WindowLayer, channels_first, channels_last


class _Pool2D(WindowLayer):
    def __init__(
        self,
        pool_size: int | tuple[int, int] = 2,
        strides: int | tuple[int, int] | None = None,
        padding: str = "valid",
    ) -> None:
        super().__init__("pool_size", pool_size, strides, padding)

    @property
    def pool_size(self) -> tuple[int, int]:
        """Height and width of the window."""
        return self.window

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        return (input_shape[0], *self._slide(input_shape))

    def _memory_shape(self, images: int) -> tuple[int, int, int, int]:
        channels, height, width = self.input_shape
        return images, height, width, channels

    def config(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "pool_size": list(self.window),
            "strides": list(self.strides),
            "padding": self.padding,
        }


class MaxPool2D(_Pool2D):
    """The maximum of every window of an image (n, channels, height, width).

    Parameters
    ----------
    pool_size : int or (int, int)
        Height and width of the window.
    strides : int, (int, int) or None
        Rows and columns from one window to the next; None: the window's own size.
    padding : {"valid", "same"}
        As for `Conv2D`; padding is never the maximum.

    Raises
    ------
    ValueError
        If an argument is not one of the above.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layer = nn.MaxPool2D(2)
    >>> layer.build((1, 2, 4), np.random.default_rng(0))
    (1, 1, 2)
    >>> layer.forward(np.arange(8, dtype=np.float32).reshape(1, 1, 2, 4))
    array([[[[5., 7.]]]], dtype=float32)
    """

    kind = "max_pool2d"

    def __init__(
        self,
        pool_size: int | tuple[int, int] = 2,
        strides: int | tuple[int, int] | None = None,
        padding: str = "valid",
    ) -> None:
        super().__init__(pool_size, strides, padding)
        self._places: NDArray[np.uint16] | None = None

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        y, places = _core.max_pool(channels_last(x), self.window, self.strides, self.pads)
        self._places = places if training else None
        return channels_first(y)

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        if self._places is None:
            raise RuntimeError(f"{self.name}: backward needs a forward pass with training=True before it")
        shape = self._memory_shape(len(dy))
        dx = _core.max_pool_backward(
            channels_last(dy), self._places, shape, self.window, self.strides, self.pads
        )
        return channels_first(dx)

    def release(self) -> None:
        super().release()
        self._places = None


class AveragePool2D(_Pool2D):
    """The average of every window of an image (n, channels, height, width).

    Parameters
    ----------
    pool_size : int or (int, int)
        Height and width of the window.
    strides : int, (int, int) or None
        Rows and columns from one window to the next; None: the window's own size.
    padding : {"valid", "same"}
        As for `Conv2D`; padding does not count in the average.

    Raises
    ------
    ValueError
        If an argument is not one of the above.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layer = nn.AveragePool2D(2)
    >>> layer.build((1, 2, 4), np.random.default_rng(0))
    (1, 1, 2)
    >>> layer.forward(np.arange(8, dtype=np.float32).reshape(1, 1, 2, 4))
    array([[[[2.5, 4.5]]]], dtype=float32)
    """

    kind = "average_pool2d"

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        return channels_first(_core.average_pool(channels_last(x), self.window, self.strides, self.pads))

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        shape = self._memory_shape(len(dy))
        dx = _core.average_pool_backward(channels_last(dy), shape, self.window, self.strides, self.pads)
        return channels_first(dx)
