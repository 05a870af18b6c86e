"""Losses: the mean over a batch and its gradient with respect to the model's outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._arguments import array_of
from .layers import FloatArray, Shape

if TYPE_CHECKING:
    from .sequential import Sequential

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

    def bind(self, model: Sequential) -> None:
        """Look at the model before its outputs come; a ValueError where the loss is not for such models."""

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

    def count(self, y: NDArray[Any]) -> int:
        """How many targets a batch's means are over."""
        return len(y)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments that say something, ready for JSON."""
        return {}


class SparseCategoricalCrossentropy(Loss):
    """Cross-entropy of logits (n, ..., classes) with integer labels (n, ...) from 0 to classes − 1.

    Parameters
    ----------
    ignore_index : int or None
        Labels of this value, negative, count for nothing: the padding of sequences.

    Raises
    ------
    ValueError
        If `ignore_index` is not negative.

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

    def __init__(self, ignore_index: int | None = None) -> None:
        whole = isinstance(ignore_index, (int, np.integer)) and not isinstance(ignore_index, bool)
        if ignore_index is not None and not (whole and ignore_index < 0):
            raise ValueError(f"ignore_index: expected a negative integer or None, got {ignore_index!r}")
        self.ignore_index = None if ignore_index is None else int(ignore_index)

    def config(self) -> dict[str, Any]:
        return {} if self.ignore_index is None else {"ignore_index": self.ignore_index}

    def check(self, y: ArrayLike, output_shape: Shape, name: str = "y") -> NDArray[np.intp]:
        if len(output_shape) not in (1, 2):
            raise ValueError(
                f"loss: {self.name} expects one logit per class, the model's output is {output_shape}"
            )
        labels = array_of(y, name)
        if labels.dtype.kind not in "iu":
            raise ValueError(f"{name}: expected integer labels, got dtype {labels.dtype}")
        *steps, classes = output_shape
        if labels.ndim == len(output_shape) + 1 and labels.shape[-1] == 1:
            labels = labels[..., 0]
        if labels.ndim == 0 or labels.shape[1:] != tuple(steps):
            one = "one label per sample" if not steps else f"a label for each of {steps[0]} steps"
            raise ValueError(f"{name}: expected {one}, got shape {labels.shape}")
        wrong = (labels < 0) | (labels >= classes)
        also = ""
        if self.ignore_index is not None:
            wrong &= labels != self.ignore_index
            also = f" or {self.ignore_index}"
        if wrong.any():
            first = tuple(map(int, np.argwhere(wrong)[0]))
            at = first[0] if not steps else first
            raise ValueError(
                f"{name}: expected labels from 0 to {classes - 1}{also}, got {labels[first]} at {at}"
            )
        return labels.astype(np.intp, copy=False)

    def counted(self, outputs: FloatArray, y: NDArray[Any]) -> tuple[FloatArray, NDArray[Any], Any]:
        """The logits and labels that count, one a row, and their places."""
        flat, labels = outputs.reshape(-1, outputs.shape[-1]), y.reshape(-1)
        if self.ignore_index is None:
            return flat, labels, slice(None)
        counts = np.flatnonzero(labels != self.ignore_index)
        return flat[counts], labels[counts], counts

    def gradient(self, outputs: FloatArray, y: NDArray[Any]) -> tuple[float, FloatArray]:
        logits, labels, places = self.counted(outputs, y)
        n = len(labels)
        if n == 0:
            return 0.0, np.zeros_like(outputs)
        shifted = logits - logits.max(axis=1, keepdims=True)
        exp = np.exp(shifted)
        total = exp.sum(axis=1, keepdims=True)
        rows = np.arange(n)
        value = float(np.mean(np.log(total[:, 0]) - shifted[rows, labels], dtype=np.float64))
        exp /= total * np.float32(n)
        exp[rows, labels] -= np.float32(1.0 / n)
        if isinstance(places, slice):
            return value, exp.reshape(outputs.shape)
        dy = np.zeros((y.size, outputs.shape[-1]), np.float32)
        dy[places] = exp
        return value, dy.reshape(outputs.shape)

    def accuracy(self, outputs: FloatArray, y: NDArray[Any]) -> float:
        logits, labels, _ = self.counted(outputs, y)
        return float(np.count_nonzero(logits.argmax(axis=1) == labels)) / max(1, len(labels))

    def count(self, y: NDArray[Any]) -> int:
        return y.size if self.ignore_index is None else int(np.count_nonzero(y != self.ignore_index))


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
        targets = array_of(y, name)
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


def loss_config(loss: Loss) -> str | dict[str, Any]:
    """A loss, ready for JSON: its name, or that and its arguments."""
    config = loss.config()
    return {"name": loss.name, **config} if config else loss.name


def loss_from_config(config: str | dict[str, Any]) -> Loss:
    """The inverse of `loss_config`; a ValueError for what is none."""
    if isinstance(config, str):
        return get_loss(config)
    arguments = dict(config)
    return type(get_loss(arguments.pop("name")))(**arguments)
