"""Pruning of single arrays by an absolute threshold: copies with zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arguments import array_of, as_number, is_half
from .applying import apply_mask
from .criteria import importance

__all__ = ["grad_prune", "l1_prune", "l2_prune"]


def l1_prune(weights: ArrayLike, threshold: float, *, neuron_axis: int | None = None) -> NDArray[Any]:
    """A copy in which small weights are zero.

    Parameters
    ----------
    weights : array-like of real numbers of any shape
    threshold : float ≥ 0
        A weight (or slice) is kept if and only if its score ≥ threshold, compared in the precision of the
        weights.
    neuron_axis : int, optional
        None: the score of a weight is |w|. An axis: the score of each slice along it is its mean |w|, and
        whole slices are zeroed (0 for the neurons of Dense (out, in) and the filters of Conv2D (out, in, kh,
        kw)).

    Returns
    -------
    pruned : ndarray of the shape and dtype of `weights`

    Raises
    ------
    ValueError
        For a NaN weight (naming it), a threshold that is negative or NaN, `neuron_axis` out of range.
    TypeError
        For weights that are not real numbers.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.l1_prune([[0.5, -0.01], [0.02, 0.0]], 0.02)
    array([[0.5 , 0.  ],
           [0.02, 0.  ]])
    >>> sc.l1_prune([[0.5, -0.01], [0.02, 0.0]], 0.02, neuron_axis=0)
    array([[ 0.5 , -0.01],
           [ 0.  ,  0.  ]])
    """
    return _prune(
        weights, importance(weights, criterion="l1", neuron_axis=neuron_axis), threshold, neuron_axis
    )


def l2_prune(weights: ArrayLike, threshold: float, *, neuron_axis: int | None = None) -> NDArray[Any]:
    """As :func:`l1_prune`; the score of a slice is its root mean square (of a single weight |w| again).

    Parameters
    ----------
    weights : array-like of real numbers of any shape
    threshold : float ≥ 0
        A weight (or slice) is kept if and only if its score ≥ threshold, compared in the precision of the
        weights.
    neuron_axis : int, optional
        The axis along which slices are scored; None: single weights.

    Returns
    -------
    pruned : ndarray of the shape and dtype of `weights`

    Raises
    ------
    ValueError, TypeError
        As :func:`l1_prune`.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.l2_prune([[3.0, 4.0], [1.0, 1.0]], 3.5, neuron_axis=0)
    array([[3., 4.],
           [0., 0.]])
    """
    return _prune(
        weights, importance(weights, criterion="l2", neuron_axis=neuron_axis), threshold, neuron_axis
    )


def grad_prune(
    weights: ArrayLike, grads: ArrayLike, threshold: float, *, neuron_axis: int | None = None
) -> NDArray[Any]:
    """A copy in which weights that the loss hardly depends on are zero.

    Parameters
    ----------
    weights : array-like of real numbers of any shape
    grads : array-like of the same shape
        ∂L/∂w.
    threshold : float ≥ 0
        A weight (or slice) is kept if and only if its score ≥ threshold, compared in the precision of the
        arrays.
    neuron_axis : int, optional
        None: the score of a weight is |g|. An axis: the score of each slice along it is its mean |g|, and
        whole slices are zeroed.

    Returns
    -------
    pruned : ndarray of the shape and dtype of `weights`

    Raises
    ------
    ValueError
        For a NaN (naming it), arrays of different shapes, a threshold that is negative or NaN, `neuron_axis`
        out of range.
    TypeError
        For arrays that are not of real numbers.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.grad_prune([1.0, 2.0, 3.0], [0.1, -0.3, 0.2], 0.2)
    array([0., 2., 3.])
    """
    scores = importance(weights, grads, criterion="gradient", neuron_axis=neuron_axis)
    return _prune(weights, scores, threshold, neuron_axis, grads)


def _prune(
    weights: ArrayLike,
    scores: NDArray[Any],
    threshold: float,
    neuron_axis: int | None,
    scored: ArrayLike | None = None,
) -> NDArray[Any]:
    array = array_of(weights, "weights")
    limit = as_number(threshold, "threshold", 0.0)
    # In the precision of what was scored: float32(0.01) is less than 0.01, and a weight of 0.01 is to stay.
    own = (array if scored is None else array_of(scored, "grads")).dtype
    with np.errstate(over="ignore"):
        if is_half(own):
            scores = scores.astype(own)
        kept = scores >= scores.dtype.type(limit)
    if neuron_axis is not None:
        shape = [1] * array.ndim
        shape[neuron_axis] = -1
        kept = np.broadcast_to(kept.reshape(shape), array.shape)
    return apply_mask(array, kept)
