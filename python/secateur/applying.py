"""Weights and a mask to weights with zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._arguments import array_of, check_out, is_same

__all__ = ["apply_mask"]


def apply_mask(w: ArrayLike, mask: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Weights with zeros where the mask is False.

    Parameters
    ----------
    w : array-like of any shape and real dtype
    mask : array-like of bool of the same shape
    out : ndarray, optional
        Where to write: of the shape and dtype of `w`, of any layout. `w` itself is allowed, an array that
        overlaps `w` or `mask` otherwise is not. Default: a new array.

    Returns
    -------
    out : ndarray of the dtype of `w`
        A removed weight is +0.0, even where it was −0.0, infinite or NaN; a kept one is copied bit by bit.

    Raises
    ------
    ValueError
        For a mask or `out` of another shape, and an `out` that is read-only or overlaps an input partly.
    TypeError
        For weights that are not real numbers of at most 8 bytes, a mask that is not of bool, an `out` of
        another dtype.

    Examples
    --------
    >>> import numpy as np
    >>> import secateur as sc
    >>> w = np.array([1.0, 2.0, 3.0], np.float32)
    >>> sc.apply_mask(w, [True, False, True])
    array([1., 0., 3.], dtype=float32)
    >>> sc.apply_mask(w, w > 2, out=w) is w
    True
    """
    weights, kept = array_of(w, "w"), array_of(mask, "mask")
    if weights.dtype.kind in "OSUMmc" or weights.dtype.itemsize not in (1, 2, 4, 8):
        raise TypeError(f"w: expected real numbers of at most 8 bytes, got dtype {weights.dtype}")
    if kept.dtype != np.bool_:
        raise TypeError(f"mask: expected an array of bool, got dtype {kept.dtype}")
    if kept.shape != weights.shape:
        raise ValueError(f"mask: expected the weights' shape {weights.shape}, got {kept.shape}")
    if out is not None:
        check_out(out, weights, "w", mask=kept)
    bits = f"u{weights.dtype.itemsize}"
    bytes_kept = np.require(kept, requirements=["C", "A"]).view(np.uint8)
    direct = out is not None and out.flags.c_contiguous and out.flags.aligned
    if out is not None and direct and is_same(out, weights):
        _core.mask_into(out.view(bits), bytes_kept)
        return out
    result = out if out is not None and direct else np.empty(weights.shape, weights.dtype)
    _core.mask_into(result.view(bits), bytes_kept, np.require(weights, requirements=["C", "A"]).view(bits))
    if out is None:
        return result
    if result is not out:
        out[...] = result
    return out
