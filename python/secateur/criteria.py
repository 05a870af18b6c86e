"""Importance of weights: how much a network loses when one of them, or a whole neuron, goes.

Every criterion is one small function from an :class:`Inputs` to scores; the larger a score, the more the
weight matters. Adding a criterion is adding a function to ``CRITERIA``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arguments import as_axis, as_floats, as_number, own_stream, refuse_nan

__all__ = ["CRITERIA", "Criterion", "Inputs", "check_criterion", "importance", "needs_grads"]

Criterion: TypeAlias = "str | Callable[[NDArray[Any], NDArray[Any] | None], ArrayLike]"


@dataclass(frozen=True)
class Inputs:
    """What criteria look at.

    With ``axis`` None a score belongs to one weight, and ``mean`` and ``rms`` change nothing but the sign.
    Else it belongs to a slice along ``axis``, and they reduce over the slice in float64.
    """

    weights: NDArray[Any]
    grads: NDArray[Any]
    norms: NDArray[Any]
    lam: float
    axis: int | None
    rng: np.random.Generator

    def mean(self, values: NDArray[Any]) -> NDArray[Any]:
        """The values themselves, or their mean over each slice (0 where a slice is empty)."""
        if self.axis is None:
            return values
        others = tuple(i for i in range(values.ndim) if i != self.axis)
        count = values.size // max(values.shape[self.axis], 1)
        return np.asarray(values.sum(axis=others, dtype=np.float64) / max(count, 1))

    def rms(self, values: NDArray[Any]) -> NDArray[Any]:
        """The absolute values, or the root of the mean square of each slice."""
        if self.axis is None:
            return np.asarray(np.abs(values))
        # Scaled by the largest, so that no square overflows or vanishes.
        largest = float(np.abs(values).max(initial=0.0))
        if largest == 0.0 or not np.isfinite(largest):
            return self.mean(np.abs(values))
        return np.asarray(largest * np.sqrt(self.mean(np.square(values.astype(np.float64) / largest))))

    def penalty(self) -> NDArray[Any] | float:
        """λ·|∂L/∂w|, the term that magnitudes take on where λ is not 0."""
        return self.lam * self.mean(np.abs(self.grads)) if self.lam else 0.0


def l1(x: Inputs) -> NDArray[Any]:
    """|w| + λ·|∂L/∂w|."""
    return np.asarray(x.mean(np.abs(x.weights)) + x.penalty())


def l2(x: Inputs) -> NDArray[Any]:
    """√(mean w²) + λ·|∂L/∂w|: of a single weight the same as l1."""
    return np.asarray(x.rms(x.weights) + x.penalty())


def gradient(x: Inputs) -> NDArray[Any]:
    """|∂L/∂w|."""
    return x.mean(np.abs(x.grads))


def taylor(x: Inputs) -> NDArray[Any]:
    """|w·∂L/∂w|, the first-order change of the loss; of a slice that of losing it whole, per weight."""
    return np.asarray(np.abs(x.mean(x.weights * x.grads)))


def random(x: Inputs) -> NDArray[Any]:
    """Uniform in [0, 1): the baseline that every criterion has to beat."""
    shape = x.weights.shape if x.axis is None else x.weights.shape[x.axis]
    return own_stream(x.rng).random(shape)


def wanda(x: Inputs) -> NDArray[Any]:
    """|w|·‖x‖, x being what the weight is multiplied by."""
    return x.mean(np.abs(x.weights) * x.norms)


#: The criteria by name.
CRITERIA: dict[str, Callable[[Inputs], NDArray[Any]]] = {
    "l1": l1,
    "l2": l2,
    "gradient": gradient,
    "taylor": taylor,
    "combined": l1,
    "random": random,
    "wanda": wanda,
    # What the smallest of these were worth, `prune` lets the others take over.
    "obs": wanda,
}

_TAKE_GRADS = frozenset({"gradient", "taylor", "combined"})
_TAKE_NORMS = frozenset({"wanda", "obs"})
_TAKE_LAM = frozenset({"l1", "l2", "combined"})


def check_criterion(criterion: Criterion, lam: float = 0.0) -> None:
    """Raises ValueError for an unknown criterion, or for a λ that it would ignore."""
    as_number(lam, "lam", 0.0)
    if not callable(criterion) and (not isinstance(criterion, str) or criterion not in CRITERIA):
        raise ValueError(f"criterion: unknown {criterion!r}; choose from {', '.join(CRITERIA)}")
    if lam and criterion not in _TAKE_LAM:
        name = criterion if isinstance(criterion, str) else "a callable"
        raise ValueError(f"lam: not used by criterion {name}; choose from {', '.join(sorted(_TAKE_LAM))}")


def needs_grads(criterion: Criterion, lam: float = 0.0) -> bool:
    """Whether a criterion of the registry cannot do without gradients."""
    return criterion in _TAKE_GRADS or bool(lam)


def needs_norms(criterion: Criterion) -> bool:
    """Whether a criterion of the registry asks what the weights are multiplied by."""
    return isinstance(criterion, str) and criterion in _TAKE_NORMS


def importance(
    weights: ArrayLike,
    grads: ArrayLike | None = None,
    *,
    norms: ArrayLike | None = None,
    criterion: Criterion = "l1",
    lam: float = 0.0,
    neuron_axis: int | None = None,
    random_state: int | np.random.Generator | None = None,
) -> NDArray[Any]:
    """Importance scores of weights, or of whole neurons.

    The default is S = |w| + λ·|∂L/∂w|, which for λ = 0 is the magnitude.

    Parameters
    ----------
    weights : array-like of shape (...)
        Real numbers. Scores are float64 where the weights or gradients are (or are integers of 32 bits and
        more), else float32.
    grads : array-like of the shape of `weights`, optional
        ∂L/∂w; needed by "gradient", "taylor" and "combined", and wherever `lam` is not 0.
    norms : array-like of a shape that broadcasts to that of `weights`, optional
        ‖x‖ of what each weight is multiplied by, (in,) for a matrix (out, in); needed by "wanda" and "obs".
    criterion : {"l1", "l2", "gradient", "taylor", "combined", "random", "wanda", "obs"} or callable
        Of single weights: "l1" and "l2" are |w| + λ·|g|, "gradient" |g|, "taylor" |w·g| [1]_, "combined" |w|
        + λ·|g|, "random" uniform in [0, 1), "wanda" and "obs" |w|·‖x‖ [3]_. Of slices: mean |w|, root mean
        square of w, mean |g|, |mean w·g| [2]_, mean |w| + λ·mean |g|, mean |w|·‖x‖. A callable takes the
        weights and the gradients (or None) and returns scores of the weights' shape, which slices average.
    lam : float, default=0.0
        λ ≥ 0, for "l1", "l2" and "combined".
    neuron_axis : int, optional
        The axis that counts neurons (0 for Dense weights (out, in) and filters (out, in, kh, kw)): one score
        a slice along it. None: one score a weight.
    random_state : int, Generator or None
        Seed of "random".

    Returns
    -------
    scores : ndarray
        Of the weights' shape, or of shape (weights.shape[neuron_axis],).

    Raises
    ------
    ValueError
        For an unknown criterion (listing the choices), a NaN (naming the element), missing gradients or
        norms, or such of another shape, `lam` below 0 or not used by the criterion, `neuron_axis` out of
        range.
    TypeError
        For arrays that are not of real numbers.

    References
    ----------
    .. [1] Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR
       2017.
    .. [2] Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019.
    .. [3] Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.importance([[1.0, -2.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 4.0]], lam=0.5)
    array([[1. , 2. ],
           [0.5, 2. ]])
    >>> sc.importance([[1.0, -2.0], [0.5, 0.0]], neuron_axis=0)
    array([1.5 , 0.25])
    """
    check_criterion(criterion, lam)
    w = as_floats(weights, "weights")
    g = None if grads is None else as_floats(grads, "grads")
    if g is None and needs_grads(criterion, lam):
        what = f"criterion {criterion!r}" if criterion in _TAKE_GRADS else "lam"
        raise ValueError(f"grads: {what} needs the gradients of the weights")
    if g is not None and g.shape != w.shape:
        raise ValueError(f"grads: expected the weights' shape {w.shape}, got {g.shape}")
    if norms is None and needs_norms(criterion):
        raise ValueError(f"norms: criterion {criterion!r} needs those of what the weights are multiplied by")
    x = np.zeros(0) if norms is None else as_floats(norms, "norms")
    axis = None if neuron_axis is None else as_axis(neuron_axis, w.ndim, "neuron_axis")
    refuse_nan(w, "weights")
    if g is not None:
        refuse_nan(g, "grads")
    if norms is not None:
        refuse_nan(x, "norms")
        x = _spread(x, w)
    dtype = w.dtype if g is None else np.result_type(w, g)
    w = w.astype(dtype, copy=False)
    g = g if g is None else g.astype(dtype, copy=False)
    # Overflow to inf is a score like any other; inf · 0 is refused below, by name.
    with np.errstate(over="ignore", invalid="ignore"):
        rng = np.random.default_rng(random_state)
        if isinstance(criterion, str):
            inputs = Inputs(w, np.zeros(0) if g is None else g, x, float(lam), axis, rng)
            scores = CRITERIA[criterion](inputs)
        else:
            scores = as_floats(criterion(w, g), "criterion")
            if scores.shape != w.shape:
                raise ValueError(f"criterion: expected scores of shape {w.shape}, got {scores.shape}")
            scores = Inputs(w, np.zeros(0), x, 0.0, axis, rng).mean(scores)
        scores = np.asarray(scores, dtype)
    refuse_nan(scores, "the score of weights")
    return scores


def _spread(norms: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    try:
        return np.broadcast_to(norms, weights.shape)
    except ValueError:
        raise ValueError(
            f"norms: expected what broadcasts to the weights' shape {weights.shape}, got {norms.shape}"
        ) from None
