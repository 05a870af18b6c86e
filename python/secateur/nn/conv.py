"""The two-dimensional convolution."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from .activations import activate, activation_gradient, check_activation
from .layers import NO_GRADIENT, BoolArray, FloatArray, Shape, glorot_uniform, positive
from .packable import Packable, PackedFilters
from .window import WindowLayer, channels_first, channels_last


class Conv2D(Packable, WindowLayer):
    """Convolution (cross-correlation) of images (n, channels, height, width).

    Weights have the shape (filters, channels / groups, kernel height, kernel width), as in PyTorch and ONNX.

    Parameters
    ----------
    filters : int
        Output channels.
    kernel_size : int or (int, int)
        Height and width of the window.
    strides : int or (int, int)
        Rows and columns from one window to the next.
    padding : {"valid", "same"}
        No padding, or zeros so that the output has ceil(input / stride) rows and columns, an odd one more at
        the bottom and right.
    activation : {"relu", "sigmoid", "softmax", "tanh"} or None
    use_bias : bool
        Whether a bias per filter, at first 0, is added.
    dilation : int or (int, int)
        Rows and columns from one element of the window to the next: a window of k elements spreads over
        (k - 1) * dilation + 1.
    groups : int
        Channels and filters are cut into so many groups, and the filters of a group read its channels alone.
        As many groups as channels is a depthwise convolution.

    Raises
    ------
    ValueError
        If an argument is not one of the above; when the layer is built, if the channels cannot be cut into
        `groups` or the window does not fit into the images.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layer = nn.Conv2D(8, 3, padding="same", activation="relu")
    >>> layer.build((1, 28, 28), np.random.default_rng(0))
    (8, 28, 28)
    >>> layer.params["weight"].shape
    (8, 1, 3, 3)
    >>> depthwise = nn.Conv2D(8, 3, padding="same", groups=8, dilation=2)
    >>> depthwise.build((8, 28, 28), np.random.default_rng(0))
    (8, 28, 28)
    >>> depthwise.params["weight"].shape
    (8, 1, 3, 3)
    """

    kind = "conv2d"
    prunable = ("weight",)

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: str = "valid",
        activation: str | None = None,
        use_bias: bool = True,
        *,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
    ) -> None:
        super().__init__("kernel_size", kernel_size, 1 if strides is None else strides, padding, dilation)
        self.filters = positive("filters", filters)
        self.groups = positive("groups", groups)
        if self.filters % self.groups:
            raise ValueError(f"groups: expected a divisor of the {self.filters} filters, got {groups!r}")
        self.activation = check_activation(activation)
        self.use_bias = bool(use_bias)
        self._saved: tuple[FloatArray, FloatArray] | None = None
        self._way: PackedFilters | None = None

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Height and width of the window."""
        return self.window

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        size = self._slide(input_shape)
        if input_shape[0] % self.groups:
            raise ValueError(
                f"{self.name}: {input_shape[0]} channels cannot be cut into {self.groups} groups"
            )
        channels, taps = input_shape[0] // self.groups, self.window[0] * self.window[1]
        shape = self._weight_shape(channels)
        filters = self.filters // self.groups
        self.params = {"weight": glorot_uniform(rng, shape, channels * taps, filters * taps)}
        if self.use_bias:
            self.params["bias"] = np.zeros(self.filters, np.float32)
        return (self.filters, *size)

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        packed, relu = self._current("weight"), self.activation == "relu"
        if packed is not None:
            assert isinstance(packed, PackedFilters)
            images = np.ascontiguousarray(x)
            y: FloatArray = packed.filters(images, self._params.get("bias"), "relu" if relu else None)
        else:
            images = channels_last(x)
            bias = self.params.get("bias")
            y = channels_first(_core.conv2d(images, self._images_weight(), bias, *self._geometry(), relu))
        if not relu:
            y = activate(self.activation, y, out=y)
        self._saved, self._way = (images, y) if training else None, packed
        return y

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        if self._saved is None:
            raise RuntimeError(f"{self.name}: backward needs a forward pass with training=True before it")
        images, y = self._saved
        self._whole_gradients = {}
        if self._way is not None:
            dz = np.ascontiguousarray(activation_gradient(self.activation, y, dy))
            return self._backward_packed(self._way, dz, images, need_dx)
        relu_output = channels_last(y) if self.activation == "relu" else None
        if relu_output is None:
            dy = activation_gradient(self.activation, y, dy)
        dx, dw, db = _core.conv2d_backward(
            images, self._images_weight(), channels_last(dy), relu_output, *self._geometry(), need_dx
        )
        self._grads["weight"] = dw.reshape(self._params["weight"].shape)
        if self.use_bias:
            self._grads["bias"] = db
        return NO_GRADIENT if dx is None else channels_first(dx)

    def _backward_packed(
        self, packed: PackedFilters, dz: FloatArray, images: FloatArray, need_dx: bool
    ) -> FloatArray:
        packed.gradient = packed.filters.sddmm(dz, images)

        def whole() -> FloatArray:
            x, weight = channels_last(images), self._images_weight()
            dw = _core.conv2d_backward(x, weight, channels_last(dz), None, *self._geometry(), False)[1]
            return dw.reshape(self._params["weight"].shape)

        self._whole_gradients["weight"] = whole
        if self.use_bias:
            self._grads["bias"] = dz.sum(axis=(0, 2, 3))
        return packed.filters.grad_input(dz, images.shape[2:]) if need_dx else NO_GRADIENT

    def pack(self, key: str, mask: BoolArray) -> PackedFilters:
        filters = mask.reshape(*mask.shape[:2], *self.window)
        packed = PackedFilters(filters, self.strides, self.pads, self.dilation, self.groups)
        packed.mask = mask
        return packed

    def _weight_shape(self, channels: int) -> Shape:
        return (self.filters, channels, *self.window)

    def _images_weight(self) -> FloatArray:
        """The weights with both axes of the window, of a layer that shows only one of them."""
        weight = self._params["weight"]
        return weight.reshape(*weight.shape[:2], *self.window)

    def _geometry(self) -> tuple[tuple[int, int], tuple[int, int], int, tuple[int, int, int, int]]:
        return self.strides, self.dilation, self.groups, self.pads

    def release(self) -> None:
        super().release()
        self._saved = self._way = None

    def set_width(self, width: int) -> None:
        self.filters = width

    def macs(self) -> int:
        return int(np.prod(self.output_shape)) * int(self._params["weight"][0].size)

    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "kind": self.kind,
            "filters": self.filters,
            "kernel_size": list(self.window),
            "strides": list(self.strides),
            "padding": self.padding,
            "activation": self.activation,
            "use_bias": self.use_bias,
        }
        # Only where they say something: files of plain layers stay readable for older versions.
        if self.dilation != (1, 1):
            config["dilation"] = list(self.dilation)
        if self.groups != 1:
            config["groups"] = self.groups
        return config
