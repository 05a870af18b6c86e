"""What callers give to an ONNX model: checked once, in one way, and cut to the batches that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .model import Info

Feeds = dict[str, NDArray[Any]]


def checked(infos: list[Info], given: Any, argument: str, *, any_batch: bool = False) -> Feeds:
    """The arrays for the inputs, by name and of their types.

    Parameters
    ----------
    infos : list of Info
        The inputs.
    given : array-like, or mapping of str to array-like
        For several inputs by name.
    argument : str
        What it is called in errors.
    any_batch : bool
        Whether as many samples as there happen to be may come for a model of one batch size; see `parts`.

    Raises
    ------
    ValueError
        Inputs that are missing, unknown, of another shape, or of different numbers of samples where these are
        cut into batches.
    TypeError
        What is no array of real numbers.
    """
    names = [info.name for info in infos]
    arrays = given if isinstance(given, Mapping) else dict.fromkeys(names[:1], given)
    missing = [name for name in names if name not in arrays]
    unknown = [str(name) for name in arrays if name not in names]
    if missing or unknown:
        wrong = f"misses {missing[0]!r}" if missing else f"has {unknown[0]!r}"
        raise ValueError(
            f"{argument}: it {wrong}; the model takes {', '.join(names)}, by name if there are several"
        )
    size = batch_size(infos) if any_batch else None
    feeds: Feeds = {}
    for info in infos:
        dtype = dtype_of(info)
        try:
            array = np.asarray(arrays[info.name])
        except ValueError as error:
            raise ValueError(f"{argument}: {error}, for {info.name}") from None
        if array.dtype.kind not in "fiub" and array.dtype != dtype and dtype.kind != "O":
            raise TypeError(f"{argument}: expected real numbers for {info.name}, got dtype {array.dtype}")
        # Of any number of samples batches of the one size are made.
        one = array.shape if size is None or not info.shape or not array.ndim else (size, *array.shape[1:])
        if not info.allows(one):
            dims = ["?" if dim is None else str(dim) for dim in info.shape or ()]
            wanted = ", ".join(["n", *dims[1:]] if size is not None and info.shape else dims)
            raise ValueError(f"{argument}: expected shape ({wanted}) for {info.name}, got {array.shape}")
        feeds[info.name] = array.astype(dtype, copy=False)
    counts = [] if size is None else sorted({len(array) for array in feeds.values() if array.ndim})
    if len(counts) > 1 or 0 in counts:
        raise ValueError(
            f"{argument}: expected as many samples for each input, and one at least, got {counts}"
        )
    return feeds


def parts(infos: list[Info], feeds: Feeds) -> tuple[int | None, Iterator[Feeds]]:
    """Samples as batches that the model takes, and how many there are, if a batch was filled up.

    A model without a free dimension takes batches of one size alone: the last one is filled up with samples
    again.
    """
    size = batch_size(infos)
    count = max((len(array) for array in feeds.values() if array.ndim), default=size)
    if size is None or count is None or size == count:
        return None, iter([feeds])
    places = (np.arange(start, start + size) % count for start in range(0, count, size))
    return count, ({name: a[at] if a.ndim else a for name, a in feeds.items()} for at in places)


def batch_size(infos: list[Info]) -> int | None:
    """The one batch size that a model takes, if it has no free dimension."""
    sizes = {info.shape[0] for info in infos if info.shape}
    free = any(not isinstance(dim, int) for info in infos for dim in info.shape or ())
    (size,) = sizes if len(sizes) == 1 and not free else (None,)
    return size if isinstance(size, int) else None


def dtype_of(info: Info) -> Any:
    """The NumPy type of an input or output."""
    return ir.DataType[info.dtype].numpy()
