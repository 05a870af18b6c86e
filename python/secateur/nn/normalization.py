"""Normalization over batches and over features."""

from __future__ import annotations

from typing import Any

import numpy as np

from .layers import NO_GRADIENT, FloatArray, Layer, Shape, above_zero, in_range


class BatchNorm(Layer):
    """Batch normalization (Ioffe & Szegedy, 1502.03167) over features (n, f) or channels (n, c, h, w).

    In training, every feature or channel is brought to mean 0 and variance 1 over the batch, then scaled by
    ``gamma`` and shifted by ``beta``; in inference the running averages of both take the batch's place.

    Parameters
    ----------
    momentum : float
        How much of the running averages a batch leaves as it is, in [0, 1).
    epsilon : float
        Added to the variance; positive.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layer = nn.BatchNorm()
    >>> layer.build((3,), np.random.default_rng(0))
    (3,)
    >>> y = layer.forward(np.random.default_rng(0).normal(5, 2, (64, 3)).astype(np.float32), training=True)
    >>> bool(abs(y.mean()) < 1e-6)
    True
    """

    kind = "batch_norm"

    def __init__(self, momentum: float = 0.99, epsilon: float = 1e-3) -> None:
        super().__init__()
        self.momentum = in_range("momentum", momentum, 0, 1)
        self.epsilon = above_zero("epsilon", epsilon)
        self._saved: tuple[FloatArray, FloatArray] | None = None

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if len(input_shape) not in (1, 3):
            raise ValueError(
                f"{self.name}: expected features or (channels, height, width), got shape {input_shape}"
            )
        n = input_shape[0]
        self.params = {"gamma": np.ones(n, np.float32), "beta": np.zeros(n, np.float32)}
        self.buffers = {"running_mean": np.zeros(n, np.float32), "running_var": np.ones(n, np.float32)}
        return input_shape

    def _spread(self, values: FloatArray, like: FloatArray) -> FloatArray:
        """One value per feature or channel, shaped to broadcast against `like`."""
        return values if like.ndim == 2 else values[:, None, None]

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        axes = (0, 2, 3)[: x.ndim - 1]
        if training:
            # Sums over a whole batch of images lose digits in float32.
            mean = x.mean(axis=axes, dtype=np.float64).astype(np.float32)
            centred = x - self._spread(mean, x)
            var = (centred * centred).mean(axis=axes, dtype=np.float64).astype(np.float32)
            for name, value in (("running_mean", mean), ("running_var", var)):
                running = self.buffers[name]
                running *= np.float32(self.momentum)
                running += np.float32(1 - self.momentum) * value
        else:
            var = self.buffers["running_var"]
            centred = x - self._spread(self.buffers["running_mean"], x)
        scale = np.float32(1) / np.sqrt(var + np.float32(self.epsilon))
        normal = np.multiply(centred, self._spread(scale, x), out=centred)
        self._saved = (normal, scale) if training else None
        y: FloatArray = normal * self._spread(self.params["gamma"], x) + self._spread(self.params["beta"], x)
        return y

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        if self._saved is None:
            raise RuntimeError(f"{self.name}: backward needs a forward pass with training=True before it")
        normal, scale = self._saved
        axes = (0, 2, 3)[: dy.ndim - 1]
        count = np.float32(dy.size // dy.shape[1])
        self.grads["beta"] = dy.sum(axis=axes, dtype=np.float64).astype(np.float32)
        self.grads["gamma"] = (dy * normal).sum(axis=axes, dtype=np.float64).astype(np.float32)
        factor = self._spread(self.params["gamma"] * scale, dy)
        mean = self._spread(self.grads["beta"] / count, dy)
        slope = self._spread(self.grads["gamma"] / count, dy)
        dx: FloatArray = factor * (dy - mean - normal * slope)
        return dx

    def release(self) -> None:
        super().release()
        self._saved = None

    def config(self) -> dict[str, Any]:
        return {"kind": self.kind, "momentum": self.momentum, "epsilon": self.epsilon}


class LayerNorm(Layer):
    """Layer normalization (Ba, Kiros & Hinton, 1607.06450) over the features of (n, f) or (n, steps, f).

    Every sample's features, those of every step by themselves, are brought to mean 0 and variance 1, then
    scaled by ``gamma`` and shifted by ``beta``.

    Parameters
    ----------
    epsilon : float, default=1e-5
        Added to the variance; positive.

    Raises
    ------
    ValueError
        If epsilon is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> layer = nn.LayerNorm()
    >>> layer.build((7, 4), np.random.default_rng(0))
    (7, 4)
    >>> y = layer.forward(np.random.default_rng(0).normal(5, 2, (3, 7, 4)).astype(np.float32))
    >>> bool(abs(y.mean(axis=-1)).max() < 1e-5)
    True
    """

    kind = "layer_norm"

    def __init__(self, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = above_zero("epsilon", epsilon)
        self._saved: tuple[FloatArray, FloatArray] | None = None

    def _build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if len(input_shape) not in (1, 2):
            raise ValueError(f"{self.name}: expected features or (steps, features), got shape {input_shape}")
        n = input_shape[-1]
        self.params = {"gamma": np.ones(n, np.float32), "beta": np.zeros(n, np.float32)}
        return input_shape

    def forward(self, x: FloatArray, training: bool = False) -> FloatArray:
        centred = x - x.mean(axis=-1, keepdims=True)
        var = (centred * centred).mean(axis=-1, keepdims=True)
        scale = np.float32(1) / np.sqrt(var + np.float32(self.epsilon))
        normal = np.multiply(centred, scale, out=centred)
        self._saved = (normal, scale) if training else None
        y: FloatArray = normal * self.params["gamma"] + self.params["beta"]
        return y

    def backward(self, dy: FloatArray, need_dx: bool = True) -> FloatArray:
        if self._saved is None:
            raise RuntimeError(f"{self.name}: backward needs a forward pass with training=True before it")
        normal, scale = self._saved
        axes = tuple(range(dy.ndim - 1))
        self.grads["beta"] = dy.sum(axis=axes, dtype=np.float64).astype(np.float32)
        self.grads["gamma"] = (dy * normal).sum(axis=axes, dtype=np.float64).astype(np.float32)
        if not need_dx:
            return NO_GRADIENT
        slope = dy * self.params["gamma"]
        mean = slope.mean(axis=-1, keepdims=True)
        along = (slope * normal).mean(axis=-1, keepdims=True)
        dx: FloatArray = scale * (slope - mean - normal * along)
        return dx

    def release(self) -> None:
        super().release()
        self._saved = None

    def config(self) -> dict[str, Any]:
        return {"kind": self.kind, "epsilon": self.epsilon}
