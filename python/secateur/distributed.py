"""Selection over Dask arrays: every part stays on the machine that has it, only summaries travel.

Works with whatever scheduler Dask uses: threads, or the workers of the current ``dask.distributed.Client``.
If a worker dies, Dask has its tasks done elsewhere: a task needs the part and a question of a few numbers,
and Dask makes a lost part again where it knows how (not of data that was scattered from a client).

Parts are the chunks of the arrays, which should be cut along the first axis alone; those of others are joined
first, which moves them. A chunk is read about three times: keep what is slow to make in the workers' memory,
by ``array.persist()``. Needs the extra ``secateur[dask]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from ._operands import named
from .applying import apply_mask
from .criteria import Criterion
from .cutting import Cut
from .errors import MissingExtraError
from .sketch import Sketch

__all__ = ["prune_mask", "topk_cut", "topk_prune"]

_TOGETHER = 8
"""Sketches that are merged by one task."""


class _Chunk(NamedTuple):
    """Some whole rows of a tensor, as a delayed array, and of its gradients."""

    name: str
    start: int
    shape: tuple[int, ...]
    weights: Any
    grads: Any | None


def topk_cut(
    weights: Any | Mapping[str, Any],
    grads: Any | Mapping[str, Any] | None = None,
    *,
    k: SupportsIndex | None = None,
    sparsity: float | None = None,
    criterion: Criterion = "l1",
    lam: float = 0.0,
) -> Cut:
    """The last of the k most important weights: exactly what `secateur.topk_cut` finds on one machine.

    Parameters
    ----------
    weights : dask.array.Array, or mapping of names to such
        A mapping is ranked as a whole.
    grads : dask.array.Array or mapping, optional
        ∂L/∂w, of the same shapes, where the criterion or `lam` needs them.
    k, sparsity, criterion, lam
        As in `secateur.prune_mask`; no criterion that draws at random. A callable sees chunk by chunk.

    Returns
    -------
    Cut

    Raises
    ------
    ValueError, TypeError
        As `secateur.prune_mask`; a NaN is named by its tensor, chunk and place there. For arrays of unknown
        size.
    MissingExtraError
        Without Dask.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from secateur import distributed
    >>> weights = {"a": da.from_array(np.arange(6.0), chunks=2), "b": da.from_array(np.array([9.0, 2.5]))}
    >>> cut = distributed.topk_cut(weights, k=3)
    >>> cut.score, cut.name, cut.index
    (4.0, 'a', 4)
    """
    sketch = Sketch(k=k, sparsity=sparsity, criterion=criterion, lam=lam)
    chunks = [chunk for parts in _chunks(weights, grads).values() for chunk in parts]
    while True:
        sketch = _summary(sketch, chunks)
        if cut := sketch.finish():
            return cut
        sketch = sketch.refine()


def prune_mask(
    weights: Any | Mapping[str, Any],
    grads: Any | Mapping[str, Any] | None = None,
    *,
    k: SupportsIndex | None = None,
    sparsity: float | None = None,
    criterion: Criterion = "l1",
    lam: float = 0.0,
) -> Any | dict[str, Any]:
    """The mask of the k most important weights, exactly that of `secateur.prune_mask`.

    Parameters
    ----------
    weights, grads, k, sparsity, criterion, lam
        As in :func:`topk_cut`. The cut is computed at once, the masks when they are asked for.

    Returns
    -------
    mask : dask.array.Array of bool, or dict of such
        Exactly k are True.

    Raises
    ------
    ValueError, TypeError, MissingExtraError
        As :func:`topk_cut`.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from secateur import distributed
    >>> w = da.from_array(np.array([1.0, -3.0, 0.5, 2.0], np.float32), chunks=2)
    >>> distributed.prune_mask(w, sparsity=0.5).compute()
    array([False,  True, False,  True])
    """
    cut = topk_cut(weights, grads, k=k, sparsity=sparsity, criterion=criterion, lam=lam)
    return _each_chunk(_mask, cut, weights, grads)


def topk_prune(
    weights: Any | Mapping[str, Any],
    grads: Any | Mapping[str, Any] | None = None,
    *,
    k: SupportsIndex | None = None,
    sparsity: float | None = None,
    criterion: Criterion = "l1",
    lam: float = 0.0,
) -> Any | dict[str, Any]:
    """Weights with zeros for all but the k most important, exactly those of `secateur.topk_prune`.

    Parameters
    ----------
    weights, grads, k, sparsity, criterion, lam
        As in :func:`topk_cut`. The cut is computed at once, the weights when they are asked for.

    Returns
    -------
    pruned : dask.array.Array of the dtype of `weights`, or dict of such

    Raises
    ------
    ValueError, TypeError, MissingExtraError
        As :func:`topk_cut`.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from secateur import distributed
    >>> w = da.from_array(np.array([1.0, -3.0, 0.5, 2.0], np.float32), chunks=2)
    >>> distributed.topk_prune(w, sparsity=0.5).compute()
    array([ 0., -3.,  0.,  2.], dtype=float32)
    """
    cut = topk_cut(weights, grads, k=k, sparsity=sparsity, criterion=criterion, lam=lam)
    return _each_chunk(_prune, cut, weights, grads)


def _summary(question: Sketch, chunks: list[_Chunk]) -> Sketch:
    """What all chunks together answer to a round's question."""
    dask = _dask()
    look, merge = dask.delayed(_look), dask.delayed(_merged)
    parts = [look(question, chunk.name, chunk.start, chunk.weights, chunk.grads) for chunk in chunks]
    while len(parts) > 1:
        parts = [merge(parts[first : first + _TOGETHER]) for first in range(0, len(parts), _TOGETHER)]
    summary: Sketch = dask.compute(*parts)[0] if parts else question
    return summary


def _look(
    question: Sketch, name: str, start: int, weights: NDArray[Any], grads: NDArray[Any] | None
) -> Sketch:
    sketch = question.empty()
    sketch.add(weights, grads, name=name, start=start)
    return sketch


def _merged(sketches: list[Sketch]) -> Sketch:
    merged = sketches[0].empty()
    for sketch in sketches:
        merged.merge(sketch)
    return merged


def _mask(cut: Cut, chunk: _Chunk) -> Any:
    return _dask().delayed(cut.mask)(chunk.weights, chunk.grads, name=chunk.name, start=chunk.start)


def _prune(cut: Cut, chunk: _Chunk) -> Any:
    return _dask().delayed(apply_mask)(chunk.weights, _mask(cut, chunk))


def _each_chunk(change: Any, cut: Cut, weights: Any, grads: Any) -> Any:
    """The arrays of what `change` makes of their chunks."""
    import dask.array as da

    arrays = weights if isinstance(weights, Mapping) else {"": weights}
    changed = {}
    for name, chunks in _chunks(weights, grads).items():
        dtype = np.dtype(bool) if change is _mask else arrays[name].dtype
        parts = [da.from_delayed(change(cut, chunk), chunk.shape, dtype) for chunk in chunks]
        # An array without axes is a chunk of its own.
        changed[name] = parts[0] if arrays[name].ndim == 0 else da.concatenate(parts)
    return changed if isinstance(weights, Mapping) else changed[""]


def _chunks(weights: Any, grads: Any) -> dict[str, list[_Chunk]]:
    """The chunks of every array, each some rows of it."""
    _dask()
    arrays = named(weights, _array, "weights")
    slopes = {} if grads is None else named(grads, _array, "grads")
    found = {}
    for name, array in arrays.items():
        parts = array.to_delayed().ravel()
        slope = None
        if grads is not None:
            label = "grads" if name is None else f"grads[{name!r}]"
            if name not in slopes:
                raise ValueError(f"{label}: missing")
            if slopes[name].shape != array.shape:
                raise ValueError(
                    f"{label}: expected the weights' shape {array.shape}, got {slopes[name].shape}"
                )
            slope = slopes[name].rechunk(array.chunks).to_delayed().ravel()
        heights = array.chunks[0] if array.ndim else (1,)
        width = math.prod(array.shape[1:])
        starts = np.concatenate([[0], np.cumsum(heights, dtype=np.int64)]) * width
        found[name or ""] = [
            _Chunk(
                name or "",
                int(start),
                (height, *array.shape[1:]) if array.ndim else (),
                part,
                None if slope is None else slope[at],
            )
            for at, (start, height, part) in enumerate(zip(starts, heights, parts, strict=False))
        ]
    return found


def _array(value: Any, label: str) -> Any:
    """A Dask array whose chunks are whole rows."""
    import dask.array as da

    if not isinstance(value, da.Array):
        raise TypeError(f"{label}: expected a dask.array.Array, got {type(value).__name__}")
    if any(math.isnan(size) for size in value.shape):
        raise ValueError(f"{label}: its size is unknown; call compute_chunk_sizes() first")
    return value.rechunk(dict.fromkeys(range(1, value.ndim), -1))


def _dask() -> Any:
    try:
        import dask
        import dask.array
    except ImportError:
        raise MissingExtraError("distributed selection needs Dask: pip install secateur[dask]") from None
    return dask
