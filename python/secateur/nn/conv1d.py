"""Convolution and pooling over the steps of a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .conv import Conv2D
from .layers import NO_GRADIENT, FloatArray, Layer, Shape, positive


class Conv1D(Conv2D):
    """Convolution of sequences (n, steps, features) with filters (filters, features, kernel size).

    It is a `Conv2D` of images that are one column wide, which is how the core runs it.

    Parameters
    ----------
    filters : int
        Features of the output.
    kernel_size, strides : int
        Steps that a filter covers, and from one window to the next.
    padding, activation, use_bias, dilation
        As for `Conv2D`.

    Raises
    ------
    ValueError
        If an argument is not one of the above.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layer = nn.Conv1D(6, 3, padding="same", activation="relu")
    >>> layer.build((7, 2), np.random.default_rng(0))
    (7, 6)
    >>> layer.params["weight"].shape
    (6, 2, 3)
    """

    kind = "conv1d"

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        padding: str = "valid",
        activation: str | None = None,
        use_bias: bool = True,
        *,
        dilation: int = 1,
    ) -> None:
        sizes = {"kernel_size": kernel_size, "strides": strides, "dilation": dilation}
        size, stride, apart = (positive(name, value) for name, value in sizes.items())
        super().__init__(filters, (size, 1), (stride, 1), padding, activation, use_bias, dilation=(apart, 1))

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if len(input_shape) != 2:
            raise ValueError(f"{self.name}: expected samples of (steps, features), got shape {input_shape}")
        steps, features = input_shape
        filters, after, _ = super()._build((features, steps, 1), rng)
        return (after, filters)

    def _weight_shape(self, channels: int) -> Shape:
        return (self.filters, channels, self.window[0])

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        return _sequence(super().forward(_image(x), training))

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        dx = super().backward(_image(dy), need_dx)
        return _sequence(dx) if need_dx else dx

    def config(self) -> dict[str, Any]:
        config = super().config()
        for key in ("kernel_size", "strides", "dilation"):
            if key in config:
                config[key] = config[key][0]
        return config


def _image(x: FloatArray) -> FloatArray:
    """Sequences as images of one column, (n, features, steps, 1); channels are still last in memory."""
    image: FloatArray = x.swapaxes(1, 2)[..., None]
    return image


def _sequence(y: FloatArray) -> FloatArray:
    """The inverse."""
    sequence: FloatArray = y[..., 0].swapaxes(1, 2)
    return sequence


class GlobalMaxPool1D(Layer):
    """The maximum of every feature over all steps: (n, steps, features) to (n, features).

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> nn.GlobalMaxPool1D().build((7, 2), np.random.default_rng(0))
    (2,)
    """

    kind = "global_max_pool1d"

    def __init__(self) -> None:
        super().__init__()
        self._places: NDArray[np.intp] | None = None

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if len(input_shape) != 2:
            raise ValueError(f"{self.name}: expected samples of (steps, features), got shape {input_shape}")
        return input_shape[1:]

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        if not training:
            self._places = None
            most: FloatArray = x.max(axis=1)
            return most
        self._places = x.argmax(axis=1)[:, None]
        y: FloatArray = np.take_along_axis(x, self._places, axis=1)[:, 0]
        return y

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        if self._places is None:
            raise RuntimeError(f"{self.name}: backward needs a forward pass with training=True before it")
        if not need_dx:
            return NO_GRADIENT
        dx = np.zeros((len(dy), *self.input_shape), np.float32)
        np.put_along_axis(dx, self._places, dy[:, None], axis=1)
        return dx

    def release(self) -> None:
        super().release()
        self._places = None
