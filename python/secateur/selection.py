"""Exact selection: scores to masks.

One order decides everywhere: the larger score first; of equal scores (−0 equals +0) the one whose tensor's
name comes first by bytes, then the one with the smaller flat index. Infinities and subnormals are scores like
others; a NaN is refused by name and index. Results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._arguments import array_of, as_axis, as_floats, as_integer, as_number
from .criteria import Criterion, check_criterion, importance, needs_grads

__all__ = ["apply_mask", "block_mask", "kth_largest", "nm_mask", "prune_mask", "topk_mask"]

_Mask: TypeAlias = NDArray[np.bool_]
_T = TypeVar("_T")
_Named: TypeAlias = "dict[str | None, _T]"

# The criteria whose scores the core makes while it looks at the weights: no array of scores is written.
_ON_THE_FLY = {
    "l1": "magnitude",
    "l2": "magnitude",
    "gradient": "gradient",
    "taylor": "taylor",
    "combined": "combined",
}


@overload
def topk_mask(
    scores: Mapping[str, ArrayLike], k: SupportsIndex | None = None, *, sparsity: float | None = None
) -> dict[str, _Mask]: ...
@overload
def topk_mask(
    scores: ArrayLike, k: SupportsIndex | None = None, *, sparsity: float | None = None
) -> _Mask: ...
def topk_mask(
    scores: ArrayLike | Mapping[str, ArrayLike],
    k: SupportsIndex | None = None,
    *,
    sparsity: float | None = None,
) -> _Mask | dict[str, _Mask]:
    """The mask of the k largest scores, exactly.

    Parameters
    ----------
    scores : array-like of any shape, or mapping of names to such
        A mapping is ranked as a whole. float32 and float64 are read as they are, other real dtypes converted
        exactly.
    k : int, optional
        How many to keep, 0 ≤ k ≤ n. Give either `k` or `sparsity`.
    sparsity : float in [0, 1], optional
        Keeps n − round_half_even(sparsity · n).

    Returns
    -------
    mask : ndarray of bool, or dict of such
        Of the shape (and names) of `scores`; exactly k are True.

    Raises
    ------
    ValueError
        For both or neither of `k` and `sparsity`, one out of range, and NaN scores (naming the element).
    TypeError
        For scores that are not real numbers.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.topk_mask([3.0, 1.0, 2.0, 2.0], 2)
    array([ True, False,  True, False])
    >>> sc.topk_mask({"a": [1.0, 5.0], "b": [3.0, 4.0]}, sparsity=0.5)
    {'a': array([False,  True]), 'b': array([False,  True])}
    """
    arrays = _floats(scores, "scores")
    count = _count(k, sparsity, arrays)
    masks = _core.topk_masks([(name, array, None) for name, array in arrays.items()], count, "given", 0.0)
    return _like(scores, dict(zip(arrays, masks, strict=True)))


@overload
def prune_mask(
    weights: Mapping[str, ArrayLike],
    grads: Mapping[str, ArrayLike] | None = None,
    *,
    k: SupportsIndex | None = None,
    sparsity: float | None = None,
    criterion: Criterion = "l1",
    lam: float = 0.0,
    random_state: int | np.random.Generator | None = None,
) -> dict[str, _Mask]: ...
@overload
def prune_mask(
    weights: ArrayLike,
    grads: ArrayLike | None = None,
    *,
    k: SupportsIndex | None = None,
    sparsity: float | None = None,
    criterion: Criterion = "l1",
    lam: float = 0.0,
    random_state: int | np.random.Generator | None = None,
) -> _Mask: ...
def prune_mask(
    weights: ArrayLike | Mapping[str, ArrayLike],
    grads: ArrayLike | Mapping[str, ArrayLike] | None = None,
    *,
    k: SupportsIndex | None = None,
    sparsity: float | None = None,
    criterion: Criterion = "l1",
    lam: float = 0.0,
    random_state: int | np.random.Generator | None = None,
) -> _Mask | dict[str, _Mask]:
    """The mask of the k most important weights, their scores made on the fly.

    The same as ``topk_mask(importance(weights, grads, ...), k)`` without the array of scores.

    Parameters
    ----------
    weights : array-like of any shape, or mapping of names to such
        A mapping is ranked as a whole.
    grads : array-like or mapping, optional
        ∂L/∂w, of the shapes (and at least the names) of `weights`, where the criterion or `lam` needs them.
    k, sparsity
        As in :func:`topk_mask`.
    criterion, lam, random_state
        As in :func:`importance`. In float32 the scores are made in float32.

    Returns
    -------
    mask : ndarray of bool, or dict of such
        Exactly k are True.

    Raises
    ------
    ValueError, TypeError
        As :func:`topk_mask` and :func:`importance`.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.prune_mask([[1.0, -3.0], [0.5, 2.0]], sparsity=0.5)
    array([[False,  True],
           [False,  True]])
    >>> sc.prune_mask([1.0, -3.0, 2.0], [9.0, 0.1, 0.2], k=1, criterion="taylor")
    array([ True, False, False])
    """
    check_criterion(criterion, lam)
    arrays = _floats(weights, "weights")
    slopes = _slopes(arrays, weights, grads)
    if slopes is None and needs_grads(criterion, lam):
        raise ValueError("grads: the criterion or lam needs the gradients of the weights")
    count = _count(k, sparsity, arrays)
    if isinstance(criterion, str) and criterion in _ON_THE_FLY:
        kind = "combined" if lam else _ON_THE_FLY[criterion]
        masks = _core.topk_masks(_operands(arrays, None if kind == "magnitude" else slopes), count, kind, lam)
    else:
        rng = np.random.default_rng(random_state)
        scores: _Named[NDArray[Any]] = {}
        for name, array in arrays.items():
            slope = None if slopes is None else slopes[name]
            try:
                scores[name] = importance(array, slope, criterion=criterion, lam=lam, random_state=rng)
            except ValueError as error:
                raise error if name is None else ValueError(f"weights[{name!r}]: {error}") from None
        masks = _core.topk_masks(_operands(scores, None), count, "given", 0.0)
    return _like(weights, dict(zip(arrays, masks, strict=True)))


def kth_largest(scores: ArrayLike | Mapping[str, ArrayLike], k: SupportsIndex) -> float:
    """The k-th largest score, exactly.

    Parameters
    ----------
    scores : array-like of any shape, or mapping of names to such
        A mapping is ranked as a whole.
    k : int
        1 ≤ k ≤ n; 1 is the largest.

    Returns
    -------
    score : float
        One of the scores; +0.0 where it is a zero of either sign.

    Raises
    ------
    ValueError
        For k out of range and NaN scores (naming the element).
    TypeError
        For scores that are not real numbers.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.kth_largest([3.0, 1.0, 2.0], 2)
    2.0
    """
    arrays = _floats(scores, "scores")
    n = sum(array.size for array in arrays.values())
    count = as_integer(k, "k")
    if not 1 <= count <= n:
        raise ValueError(f"k: expected 1 to {n} (the number of scores), got {count}")
    return _core.kth_largest(_operands(arrays, None), count)


@overload
def nm_mask(
    scores: Mapping[str, ArrayLike], n: SupportsIndex, m: SupportsIndex, axis: SupportsIndex = -1
) -> dict[str, _Mask]: ...
@overload
def nm_mask(scores: ArrayLike, n: SupportsIndex, m: SupportsIndex, axis: SupportsIndex = -1) -> _Mask: ...
def nm_mask(
    scores: ArrayLike | Mapping[str, ArrayLike],
    n: SupportsIndex,
    m: SupportsIndex,
    axis: SupportsIndex = -1,
) -> _Mask | dict[str, _Mask]:
    """The N:M mask: of every m scores in a row along an axis the n largest.

    Parameters
    ----------
    scores : array-like of at least one dimension, or mapping of names to such
        Signed: pass ``np.abs(w)`` for magnitudes. Each tensor of a mapping is masked by itself.
    n, m : int
        0 ≤ n ≤ m, m ≥ 1. Where the axis is no multiple of m, its last r < m scores keep min(n, r).
    axis : int, default=-1
        The axis along which groups lie.

    Returns
    -------
    mask : ndarray of bool, or dict of such

    Raises
    ------
    ValueError
        For n, m or axis out of range and NaN scores (naming the element).
    TypeError
        For scores that are not real numbers.

    References
    ----------
    Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.nm_mask([3.0, 1.0, 0.0, 2.0, 5.0, 5.0, 5.0], 2, 4)
    array([ True, False, False,  True,  True,  True, False])
    """
    arrays = _floats(scores, "scores")
    kept, of = as_integer(n, "n"), as_integer(m, "m")
    if of < 1:
        raise ValueError(f"m: expected at least 1, got {of}")
    if not 0 <= kept <= of:
        raise ValueError(f"n: expected 0 to {of} (m), got {kept}")
    axes = [as_axis(axis, array.ndim, "axis") for array in arrays.values()]
    # Groups larger than the whole axis are one tail, whatever their size.
    longest = max((array.shape[at] for array, at in zip(arrays.values(), axes, strict=True)), default=0)
    of = min(of, longest + 1)
    masks = _core.nm_masks(_operands(arrays, None), min(kept, of), of, axes)
    return _like(scores, dict(zip(arrays, masks, strict=True)))


@overload
def block_mask(
    scores: Mapping[str, ArrayLike], block: tuple[int, int] = (8, 1), *, sparsity: float
) -> dict[str, _Mask]: ...
@overload
def block_mask(scores: ArrayLike, block: tuple[int, int] = (8, 1), *, sparsity: float) -> _Mask: ...
def block_mask(
    scores: ArrayLike | Mapping[str, ArrayLike], block: tuple[int, int] = (8, 1), *, sparsity: float
) -> _Mask | dict[str, _Mask]:
    """The mask of the whole blocks with the largest sums of |score|.

    An array is seen as a matrix of its first axis by all others (as a filter (out, in, kh, kw) is
    multiplied), and cut into blocks; those at its lower and right edge may be smaller. Blocks go, lowest sum
    first and of equal sums the later, until the number of removed weights is as near to ``sparsity * n`` as
    whole blocks allow; of two equally near numbers of blocks the even one. Where no block is smaller, that
    removes exactly round_half_even(sparsity · blocks) of them.

    Parameters
    ----------
    scores : array-like of at least one dimension, or mapping of names to such
        A mapping is ranked as a whole.
    block : (int, int), default=(8, 1)
        Rows and columns of a block.
    sparsity : float in [0, 1]
        Fraction of the weights to remove.

    Returns
    -------
    mask : ndarray of bool, or dict of such
        Constant over each block.

    Raises
    ------
    ValueError
        For a sparsity or block out of range, arrays without dimensions, and NaN scores (naming the element).
    TypeError
        For scores that are not real numbers.

    Examples
    --------
    >>> import secateur as sc
    >>> sc.block_mask([[1.0, 5.0, 0.0], [2.0, 0.0, 1.0]], (2, 1), sparsity=1 / 3)
    array([[ True,  True, False],
           [ True,  True, False]])
    """
    arrays = _floats(scores, "scores")
    fraction = as_number(sparsity, "sparsity", 0.0, 1.0)
    try:
        down, across = (as_integer(length, "block") for length in block)
    except (TypeError, ValueError):
        raise ValueError(f"block: expected two positive integers, got {block!r}") from None
    if down < 1 or across < 1:
        raise ValueError(f"block: expected two positive integers, got {block!r}")
    # A block larger than any array is one that holds it.
    most = max((array.size for array in arrays.values()), default=0) + 1
    masks = _core.block_masks(_operands(arrays, None), (min(down, most), min(across, most)), fraction)
    return _like(scores, dict(zip(arrays, masks, strict=True)))


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
        _check_out(out, weights, kept)
    bits = f"u{weights.dtype.itemsize}"
    bytes_kept = np.require(kept, requirements=["C", "A"]).view(np.uint8)
    direct = out is not None and out.flags.c_contiguous and out.flags.aligned
    if out is not None and direct and _is_same(out, weights):
        _core.mask_into(out.view(bits), bytes_kept)
        return out
    result = out if out is not None and direct else np.empty(weights.shape, weights.dtype)
    _core.mask_into(result.view(bits), bytes_kept, np.require(weights, requirements=["C", "A"]).view(bits))
    if out is None:
        return result
    if result is not out:
        out[...] = result
    return out


def _check_out(out: NDArray[Any], weights: NDArray[Any], kept: NDArray[Any]) -> None:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected an array, got {type(out).__name__}")
    if out.dtype != weights.dtype:
        raise TypeError(f"out: expected dtype {weights.dtype}, got {out.dtype}")
    if out.shape != weights.shape:
        raise ValueError(f"out: expected shape {weights.shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out: is read-only")
    if _overlap(out, kept):
        raise ValueError("out: overlaps mask")
    if not _is_same(out, weights) and _overlap(out, weights):
        raise ValueError("out: overlaps w partly; give w itself or other memory")
    if out.size > 1 and any(step == 0 < size - 1 for step, size in zip(out.strides, out.shape, strict=True)):
        raise ValueError("out: several elements share their memory")


def _is_same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    address = a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    return bool(address and a.strides == b.strides)


def _overlap(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return np.may_share_memory(a, b) and np.shares_memory(a, b)


def _floats(values: ArrayLike | Mapping[str, ArrayLike], argument: str) -> _Named[NDArray[Any]]:
    """The arrays by name; a lone one has None for a name."""
    if not isinstance(values, Mapping):
        return {None: as_floats(values, argument)}
    for name in values:
        if not isinstance(name, str):
            raise TypeError(f"{argument}: expected names to be str, got {name!r}")
    return {name: as_floats(values[name], f"{argument}[{name!r}]") for name in values}


def _slopes(
    arrays: _Named[NDArray[Any]],
    weights: ArrayLike | Mapping[str, ArrayLike],
    grads: ArrayLike | Mapping[str, ArrayLike] | None,
) -> _Named[NDArray[Any]] | None:
    """The gradients of the weights, checked against them; both of a pair get the wider of the two dtypes."""
    if grads is None:
        return None
    if isinstance(grads, Mapping) != isinstance(weights, Mapping):
        kinds = ("a mapping", "an array") if isinstance(weights, Mapping) else ("an array", "a mapping")
        raise TypeError(f"grads: expected {kinds[0]} like the weights, got {kinds[1]}")
    if isinstance(grads, Mapping):
        missing = [name for name in arrays if name not in grads]
        if missing:
            raise ValueError(f"grads: missing {missing[0]!r}")
        slopes = _floats({name: grads[name] for name in arrays if name is not None}, "grads")
    else:
        slopes = _floats(grads, "grads")
    for name, slope in slopes.items():
        label = "grads" if name is None else f"grads[{name!r}]"
        if slope.shape != arrays[name].shape:
            raise ValueError(f"{label}: expected the weights' shape {arrays[name].shape}, got {slope.shape}")
        dtype = np.result_type(slope, arrays[name])
        slopes[name] = slope.astype(dtype, copy=False)
        arrays[name] = arrays[name].astype(dtype, copy=False)
    return slopes


def _operands(
    arrays: _Named[NDArray[Any]], slopes: _Named[NDArray[Any]] | None
) -> list[tuple[str | None, NDArray[Any], NDArray[Any] | None]]:
    return [(name, array, None if slopes is None else slopes[name]) for name, array in arrays.items()]


def _count(k: SupportsIndex | None, sparsity: float | None, arrays: _Named[NDArray[Any]]) -> int:
    """How many to keep."""
    n = sum(array.size for array in arrays.values())
    if (k is None) == (sparsity is None):
        raise ValueError(f"k, sparsity: give exactly one of them, got {'neither' if k is None else 'both'}")
    if sparsity is not None:
        return _core.kept(as_number(sparsity, "sparsity", 0.0, 1.0), n)
    assert k is not None
    count = as_integer(k, "k")
    if not 0 <= count <= n:
        raise ValueError(f"k: expected 0 to {n} (the number of weights), got {count}")
    return count


def _like(values: ArrayLike | Mapping[str, ArrayLike], masks: _Named[_Mask]) -> _Mask | dict[str, _Mask]:
    if isinstance(values, Mapping):
        return {name: mask for name, mask in masks.items() if name is not None}
    return masks[None]
