"""Exact selection: scores to masks.

One order decides everywhere: the larger score first; of equal scores (−0 equals +0) the one whose tensor's
name comes first by bytes, then the one with the smaller flat index. Infinities and subnormals are scores like
others; a NaN is refused by name and index. Results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, SupportsIndex, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._arguments import array_of, as_integer, as_number, check_out, is_same
from ._operands import Mask, Named, Operand, count_of, floats, like, named, operands, size_of, slopes_of
from .applying import apply_mask
from .criteria import Criterion, check_criterion, importance, needs_grads

__all__ = ["kth_largest", "prune_mask", "topk_mask", "topk_prune"]

Bits: TypeAlias = NDArray[np.uint8]

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
    scores: Mapping[str, ArrayLike],
    k: SupportsIndex | None = None,
    *,
    sparsity: float | None = None,
    near: float | None = None,
    bits: Literal[False] = False,
) -> dict[str, Mask]: ...
@overload
def topk_mask(
    scores: ArrayLike,
    k: SupportsIndex | None = None,
    *,
    sparsity: float | None = None,
    near: float | None = None,
    bits: Literal[False] = False,
) -> Mask: ...
@overload
def topk_mask(
    scores: ArrayLike | Mapping[str, ArrayLike],
    k: SupportsIndex | None = None,
    *,
    sparsity: float | None = None,
    near: float | None = None,
    bits: Literal[True],
) -> Bits | dict[str, Bits]: ...
def topk_mask(
    scores: ArrayLike | Mapping[str, ArrayLike],
    k: SupportsIndex | None = None,
    *,
    sparsity: float | None = None,
    near: float | None = None,
    bits: bool = False,
) -> Mask | Bits | dict[str, Mask] | dict[str, Bits]:
    """The mask of the k largest scores, exactly.

    A sample tells about where the threshold lies; one pass over the scores then counts, writes the mask and
    gathers the few scores that are close, among which the threshold is found exactly.

    Parameters
    ----------
    scores : array-like of any shape, or mapping of names to such
        A mapping is ranked as a whole. float32, float64, float16 and bfloat16 (of ml_dtypes) are read as they
        are, side by side too; other real dtypes are converted exactly.
    k : int, optional
        How many to keep, 0 ≤ k ≤ n. Give either `k` or `sparsity`.
    sparsity : float in [0, 1], optional
        Keeps n − round_half_even(sparsity · n).
    near : float, optional
        A guess of the k-th largest score, such as the one of a training step ago: saves the sample. The
        result is the same for any.
    bits : bool, default=False
        Whether the mask is one bit a weight, not one byte.

    Returns
    -------
    mask : ndarray of bool, or dict of such
        Of the shape (and names) of `scores`; exactly k are True. With `bits` of uint8 and length ⌈n / 8⌉, as
        of ``np.packbits(mask, bitorder="little")``.

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
    >>> sc.topk_mask([3.0, 1.0, 2.0, 2.0], 2, bits=True)
    array([5], dtype=uint8)
    >>> sc.topk_mask({"a": [1.0, 5.0], "b": [3.0, 4.0]}, sparsity=0.5)
    {'a': array([False,  True]), 'b': array([False,  True])}
    """
    arrays = floats(scores, "scores")
    count = count_of(k, sparsity, size_of(arrays))
    masks = _masks(operands(arrays), count, "given", 0.0, near, bits)
    found: Mask | Bits | dict[str, Mask] | dict[str, Bits] = like(
        scores, dict(zip(arrays, masks, strict=True))
    )
    return found


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
    near: float | None = None,
    bits: Literal[False] = False,
) -> dict[str, Mask]: ...
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
    near: float | None = None,
    bits: Literal[False] = False,
) -> Mask: ...
@overload
def prune_mask(
    weights: ArrayLike | Mapping[str, ArrayLike],
    grads: ArrayLike | Mapping[str, ArrayLike] | None = None,
    *,
    k: SupportsIndex | None = None,
    sparsity: float | None = None,
    criterion: Criterion = "l1",
    lam: float = 0.0,
    random_state: int | np.random.Generator | None = None,
    near: float | None = None,
    bits: Literal[True],
) -> Bits | dict[str, Bits]: ...
def prune_mask(
    weights: ArrayLike | Mapping[str, ArrayLike],
    grads: ArrayLike | Mapping[str, ArrayLike] | None = None,
    *,
    k: SupportsIndex | None = None,
    sparsity: float | None = None,
    criterion: Criterion = "l1",
    lam: float = 0.0,
    random_state: int | np.random.Generator | None = None,
    near: float | None = None,
    bits: bool = False,
) -> Mask | Bits | dict[str, Mask] | dict[str, Bits]:
    """The mask of the k most important weights, their scores made on the fly.

    The same as ``topk_mask(importance(weights, grads, ...), k)`` without the array of scores.

    Parameters
    ----------
    weights : array-like of any shape, or mapping of names to such
        A mapping is ranked as a whole.
    grads : array-like or mapping, optional
        ∂L/∂w, of the shapes (and at least the names) of `weights`, where the criterion or `lam` needs them.
    k, sparsity, near, bits
        As in :func:`topk_mask`.
    criterion, lam, random_state
        As in :func:`importance`. In float32 and of 16-bit weights the scores are made in float32.

    Returns
    -------
    mask : ndarray of bool, or dict of such
        Exactly k are True. With `bits` as in :func:`topk_mask`.

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
    arrays, scored, kind = scored_operands(weights, grads, criterion, lam, random_state)
    count = count_of(k, sparsity, size_of(arrays))
    masks = _masks(scored, count, kind, lam, near, bits)
    found: Mask | Bits | dict[str, Mask] | dict[str, Bits] = like(
        weights, dict(zip(arrays, masks, strict=True))
    )
    return found


def topk_prune(
    weights: ArrayLike | Mapping[str, ArrayLike],
    grads: ArrayLike | Mapping[str, ArrayLike] | None = None,
    *,
    k: SupportsIndex | None = None,
    sparsity: float | None = None,
    criterion: Criterion = "l1",
    lam: float = 0.0,
    random_state: int | np.random.Generator | None = None,
    near: float | None = None,
    out: NDArray[Any] | Mapping[str, NDArray[Any]] | None = None,
) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """Weights with zeros for all but the k most important.

    ``apply_mask(weights, prune_mask(weights, ...))`` in one call, whose mask is of bits.

    Parameters
    ----------
    weights, grads, k, sparsity, criterion, lam, random_state, near
        As in :func:`prune_mask`.
    out : ndarray or mapping of such, optional
        Where to write, as in :func:`apply_mask`: `weights` itself is allowed. Nothing is written where the
        call raises.

    Returns
    -------
    pruned : ndarray of the dtype of `weights`, or dict of such

    Raises
    ------
    ValueError, TypeError
        As :func:`prune_mask` and :func:`apply_mask`.

    Examples
    --------
    >>> import numpy as np
    >>> import secateur as sc
    >>> w = np.array([1.0, -3.0, 0.5, 2.0], np.float32)
    >>> sc.topk_prune(w, sparsity=0.5)
    array([ 0., -3.,  0.,  2.], dtype=float32)
    >>> sc.topk_prune(w, k=1, out=w) is w
    True
    """
    originals = named(weights, array_of, "weights")
    outs: Named[NDArray[Any]] = {}
    if out is not None:
        if isinstance(out, Mapping) != isinstance(weights, Mapping):
            raise TypeError("out: expected a mapping where the weights are one, else an array")
        outs = named(out, lambda value, _: value, "out")
        for name, original in originals.items():
            if name not in outs:
                raise ValueError(f"out: missing {name!r}")
            check_out(outs[name], original, "weights", **_others(name, originals, outs))
    arrays, scored, kind = scored_operands(weights, grads, criterion, lam, random_state)
    count = count_of(k, sparsity, size_of(arrays))
    masks = _masks(scored, count, kind, lam, near, bits=True)
    pruned: NDArray[Any] | dict[str, NDArray[Any]] = like(
        weights,
        {
            name: _apply_bits(originals[name], mask, outs.get(name))
            for name, mask in zip(originals, masks, strict=True)
        },
    )
    return pruned


def _others(
    name: str | None, originals: Named[NDArray[Any]], outs: Named[NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """What `outs[name]` must not overlap, because it is read or written after it; nothing is, in place."""
    if outs[name] is originals[name]:
        return {}
    return {f"weights[{other!r}]": array for other, array in originals.items() if other != name} | {
        f"out[{other!r}]": outs[other]
        for other in originals
        if other != name and isinstance(outs.get(other), np.ndarray)
    }


def _apply_bits(weights: NDArray[Any], bits: Bits, out: NDArray[Any] | None) -> NDArray[Any]:
    target = np.array(weights, order="C") if out is None else out
    if not (target.flags.c_contiguous and target.flags.aligned and target.dtype.itemsize in (2, 4, 8)):
        mask = np.unpackbits(bits, count=weights.size, bitorder="little").astype(bool).reshape(weights.shape)
        return apply_mask(weights, mask, out=target)
    if not is_same(target, weights):
        target[...] = weights
    _core.bits_into(target.view(f"u{target.dtype.itemsize}"), bits)
    return target


def on_the_fly(criterion: Criterion, lam: float) -> str | None:
    """The core's word for a criterion whose scores it makes while it selects, or None."""
    kind = _ON_THE_FLY.get(criterion) if isinstance(criterion, str) else None
    return "combined" if kind is not None and lam else kind


def scored_operands(
    weights: ArrayLike | Mapping[str, ArrayLike],
    grads: ArrayLike | Mapping[str, ArrayLike] | None,
    criterion: Criterion,
    lam: float,
    random_state: int | np.random.Generator | None = None,
) -> tuple[Named[NDArray[Any]], list[Operand], str]:
    """The weights by name, what the core takes to score them, and how it does it.

    Where only Python knows how, it takes scores.
    """
    check_criterion(criterion, lam)
    arrays = floats(weights, "weights")
    slopes = slopes_of(arrays, weights, grads)
    if slopes is None and needs_grads(criterion, lam):
        raise ValueError("grads: the criterion or lam needs the gradients of the weights")
    kind = on_the_fly(criterion, lam)
    if kind is not None:
        return arrays, operands(arrays, None if kind == "magnitude" else slopes), kind
    rng = np.random.default_rng(random_state)
    scores: Named[NDArray[Any]] = {}
    for name, array in arrays.items():
        slope = None if slopes is None else slopes[name]
        try:
            scores[name] = importance(array, slope, criterion=criterion, lam=lam, random_state=rng)
        except ValueError as error:
            raise error if name is None else ValueError(f"weights[{name!r}]: {error}") from None
    return arrays, operands(scores), "given"


def _masks(
    scored: list[Operand], count: int, kind: str, lam: float, near: float | None, bits: bool
) -> list[Any]:
    make: Any = _core.topk_bits if bits else _core.topk_masks
    masks: list[Any] = make(scored, count, kind, lam, None if near is None else as_number(near, "near"))[0]
    return masks


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
    arrays = floats(scores, "scores")
    n = sum(array.size for array in arrays.values())
    count = as_integer(k, "k")
    if not 1 <= count <= n:
        raise ValueError(f"k: expected 1 to {n} (the number of scores), got {count}")
    return _core.kth_largest(operands(arrays), count)
