"""Learning from a teacher's outputs beside the labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .layers import FloatArray, Shape
from .losses import Loss, SparseCategoricalCrossentropy


class Distillation:
    """``(1 - alpha) * loss + alpha * temperature**2 * KL(teacher || student)``, both softened.

    Parameters
    ----------
    teacher : model or array-like of shape (n, classes)
        What has ``predict(x)`` and returns logits, or the logits themselves.
    x : ndarray (n, ...)
        All samples; the teacher is asked once.
    output_shape : tuple of int
        The student's.
    loss : Loss
        Must be the cross-entropy.
    temperature : float
        Above 0: both sides' logits are divided by it.
    alpha : float
        In [0, 1]: how much the teacher counts.

    Raises
    ------
    ValueError
        Naming the argument that is wrong.

    References
    ----------
    Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network. arXiv 1503.02531.
    """

    def __init__(
        self, teacher: Any, x: FloatArray, output_shape: Shape, loss: Loss, temperature: Any, alpha: Any
    ) -> None:
        self.temperature = _number("temperature", temperature)
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected a number above 0, got {temperature!r}")
        self.alpha = _number("alpha", alpha)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha: expected a number in [0, 1], got {alpha!r}")
        if not isinstance(loss, SparseCategoricalCrossentropy):
            raise ValueError(f"teacher: the loss must be cross-entropy, got {loss.name}")
        self.loss = loss
        logits = self._logits(teacher, x)
        if logits.shape != (len(x), *output_shape):
            wanted = (len(x), *output_shape)
            raise ValueError(f"teacher: expected outputs of shape {wanted}, got {logits.shape}")
        if not np.isfinite(logits).all():
            raise ValueError("teacher: its outputs are not finite")
        self.logits = logits

    @staticmethod
    def _logits(teacher: Any, x: FloatArray) -> FloatArray:
        predict = getattr(teacher, "predict", None)
        try:
            answers: ArrayLike = predict(x) if callable(predict) else teacher
            return np.asarray(answers, np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"teacher: expected a model that takes x, or logits: {error}") from None

    def gradient(self, outputs: FloatArray, y: NDArray[Any], part: Any) -> tuple[float, FloatArray]:
        """The mean loss of a batch, which holds the samples `part`, and its gradient."""
        hard, dy = self.loss.gradient(outputs, y)
        if self.alpha == 0:
            return hard, dy
        logits, _, places = self.loss.counted(outputs, y)
        known, _, _ = self.loss.counted(self.logits[part], y)
        student = _log_softmax(logits / np.float32(self.temperature))
        teacher = _log_softmax(known / np.float32(self.temperature))
        shares = np.exp(teacher)
        n = max(1, len(logits))
        soft = float((shares * (teacher - student)).sum(dtype=np.float64)) / n * self.temperature**2
        dy *= np.float32(1 - self.alpha)
        pull = np.float32(self.alpha * self.temperature / n) * (np.exp(student) - shares)
        dy.reshape(-1, dy.shape[-1])[places] += pull
        return (1 - self.alpha) * hard + self.alpha * soft, dy


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
        raise ValueError(f"{name}: expected a number, got {value!r}")
    return float(value)


def _log_softmax(logits: FloatArray) -> FloatArray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised: FloatArray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised
