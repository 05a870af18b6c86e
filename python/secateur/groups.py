"""Masks of groups: N:M patterns and whole blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import SupportsIndex, overload

from numpy.typing import ArrayLike

from . import _core
from ._arguments import as_axis, as_integer, as_number
from ._operands import Mask, Operand, floats, like, operands

__all__ = ["block_mask", "nm_mask"]


@overload
def nm_mask(
    scores: Mapping[str, ArrayLike], n: SupportsIndex, m: SupportsIndex, axis: SupportsIndex = -1
) -> dict[str, Mask]: ...
@overload
def nm_mask(scores: ArrayLike, n: SupportsIndex, m: SupportsIndex, axis: SupportsIndex = -1) -> Mask: ...
def nm_mask(
    scores: ArrayLike | Mapping[str, ArrayLike],
    n: SupportsIndex,
    m: SupportsIndex,
    axis: SupportsIndex = -1,
) -> Mask | dict[str, Mask]:
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
    arrays = floats(scores, "scores")
    kept, of = as_integer(n, "n"), as_integer(m, "m")
    if of < 1:
        raise ValueError(f"m: expected at least 1, got {of}")
    if not 0 <= kept <= of:
        raise ValueError(f"n: expected 0 to {of} (m), got {kept}")
    axes = [as_axis(axis, array.ndim, "axis") for array in arrays.values()]
    masks = nm_masks(operands(arrays), kept, of, axes)
    found: Mask | dict[str, Mask] = like(scores, dict(zip(arrays, masks, strict=True)))
    return found


def nm_masks(arrays: list[Operand], n: int, m: int, axes: list[int]) -> list[Mask]:
    """N:M masks of what the core takes. Groups larger than any axis are one tail, whatever their size."""
    longest = max((array.shape[axis] for (_, array, _, _), axis in zip(arrays, axes, strict=True)), default=0)
    of = min(m, longest + 1)
    return _core.nm_masks(arrays, min(n, of), of, axes)


@overload
def block_mask(
    scores: Mapping[str, ArrayLike], block: tuple[int, int] = (8, 1), *, sparsity: float
) -> dict[str, Mask]: ...
@overload
def block_mask(scores: ArrayLike, block: tuple[int, int] = (8, 1), *, sparsity: float) -> Mask: ...
def block_mask(
    scores: ArrayLike | Mapping[str, ArrayLike], block: tuple[int, int] = (8, 1), *, sparsity: float
) -> Mask | dict[str, Mask]:
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
    arrays = floats(scores, "scores")
    fraction = as_number(sparsity, "sparsity", 0.0, 1.0)
    try:
        down, across = (as_integer(length, "block") for length in block)
    except (TypeError, ValueError):
        raise ValueError(f"block: expected two positive integers, got {block!r}") from None
    if down < 1 or across < 1:
        raise ValueError(f"block: expected two positive integers, got {block!r}")
    # A block larger than any array is one that holds it.
    most = max((array.size for array in arrays.values()), default=0) + 1
    masks = _core.block_masks(operands(arrays), (min(down, most), min(across, most)), fraction)
    found: Mask | dict[str, Mask] = like(scores, dict(zip(arrays, masks, strict=True)))
    return found
