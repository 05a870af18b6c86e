"""Losses: the mean over a batch and its gradient with respect to the model's outputs."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .layers import FloatArray, Shape

LOSSES: dict[str, type[Loss]] = {}
"""Every loss class by its `name`."""


class Loss:
    """Base of the losses. A subclass with a `name` can be asked for by it, and saved with a model."""

    name: ClassVar[str]
    has_accuracy: ClassVar[bool] = False
    """Whether `accuracy` means anything."""

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            LOSSES[cls.name] = cls

    def check(self, y: ArrayLike, output_shape: Shape, name: str = "y") -> NDArray[Any]:
        """The targets `y` as an array that the other methods take.

        Raises
        ------
        ValueError
            Naming the argument, if they do not fit a model whose samples' outputs have shape `output_shape`.
        """
        raise NotImplementedError

    def value(self, outputs: FloatArray, y: NDArray[Any]) -> float:
        """The mean loss of a batch."""
        return self.gradient(outputs, y)[0]

    def gradient(self, outputs: FloatArray, y: NDArray[Any]) -> tuple[float, FloatArray]:
        """The mean loss of a batch and its gradient, of the outputs' shape."""
        raise NotImplementedError

    def accuracy(self, outputs: FloatArray, y: NDArray[Any]) -> float:
        """The share of a batch that the outputs classify right."""
        raise NotImplementedError


class SparseCategoricalCrossentropy(Loss):
    """Cross-entropy of logits (n, classes) with integer labels (n,) from 0 to classes − 1.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> loss = nn.SparseCategoricalCrossentropy()
    >>> round(loss.value(np.zeros((1, 4), np.float32), np.array([2])), 4)
    1.3863
    """

    name = "sparse_categorical_crossentropy"
    has_accuracy = True

    def check(self, y: ArrayLike, output_shape: Shape, name: str = "y") -> NDArray[np.intp]:
        if len(output_shape) != 1:
            raise ValueError(
                f"loss: {self.name} expects one logit per class, the model's output is {output_shape}"
            )
        labels = np.asarray(y)
        if labels.dtype.kind not in "iu":
            raise ValueError(f"{name}: expected integer labels, got dtype {labels.dtype}")
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 1:
            raise ValueError(f"{name}: expected one label per sample, got shape {labels.shape}")
        classes = output_shape[0]
        wrong = (labels < 0) | (labels >= classes)
        if wrong.any():
            first = int(np.argmax(wrong))
            raise ValueError(
                f"{name}: expected labels from 0 to {classes - 1}, got {labels[first]} at {first}"
            )
        return labels.astype(np.intp, copy=False)

    def gradient(self, outputs: FloatArray, y: NDArray[Any]) -> tuple[float, FloatArray]:
        n = len(outputs)
        shifted = outputs - outputs.max(axis=1, keepdims=True)
        exp = np.exp(shifted)
        total = exp.sum(axis=1, keepdims=True)
        rows = np.arange(n)
        value = float(np.mean(np.log(total[:, 0]) - shifted[rows, y], dtype=np.float64))
        exp /= total * np.float32(n)
        exp[rows, y] -= np.float32(1.0 / n)
        return value, exp

    def accuracy(self, outputs: FloatArray, y: NDArray[Any]) -> float:
        return float(np.count_nonzero(outputs.argmax(axis=1) == y)) / len(outputs)


class MeanSquaredError(Loss):
    """The mean of (output − target)² over all outputs of a batch.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur import nn
    >>> nn.MeanSquaredError().value(np.array([[1.0, 3.0]], np.float32), np.array([[1.0, 1.0]], np.float32))
    2.0
    """

    name = "mse"

    def check(self, y: ArrayLike, output_shape: Shape, name: str = "y") -> FloatArray:
        targets = np.asarray(y)
        if targets.dtype.kind not in "fiub":
            raise ValueError(f"{name}: expected numbers, got dtype {targets.dtype}")
        if targets.ndim == 1 and output_shape == (1,):
            targets = targets[:, None]
        if targets.shape[1:] != output_shape or targets.ndim == 0:
            raise ValueError(f"{name}: expected shape (n, {str(output_shape)[1:]}, got {targets.shape}")
        return np.ascontiguousarray(targets, np.float32)

    def gradient(self, outputs: FloatArray, y: NDArray[Any]) -> tuple[float, FloatArray]:
        difference = outputs - y
        value = float(np.mean(difference * difference, dtype=np.float64))
        return value, difference * np.float32(2.0 / max(difference.size, 1))


def get_loss(loss: str | Loss) -> Loss:
    """The loss of that name, or `loss` itself; a ValueError lists the choices.

    Examples
    --------
    >>> from secateur.nn.losses import get_loss
    >>> get_loss("mse").name
    'mse'
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(f"loss: unknown loss {loss!r}; choose from {', '.join(LOSSES)} or a Loss object")
    return LOSSES[loss]()
