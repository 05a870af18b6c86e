"""A calibration set: samples that show what the layers of a model are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import tee
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .models.view import Batch, FloatArray, ModelView

BATCH = 64
"""Samples that a model is run on at a time: what is between its layers stays small."""

Doubles: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """What is to know of the inputs of one layer, x, and of those it had before pruning, x₀.

    The filters of a convolution in groups have a matrix for each group; other layers are one group.

    Attributes
    ----------
    gram : ndarray of float64, shape (groups, k, k)
        The mean of x·xᵀ: the layer's Hessian, if the error of its output is what counts.
    cross : ndarray of float64, shape (groups, k, k)
        The mean of x₀·xᵀ.
    mean, mean_before : ndarray of float64, shape (groups, k)
    """

    gram: Doubles
    cross: Doubles
    mean: Doubles
    mean_before: Doubles

    def centred(self) -> Moments:
        """Those of deviations from the means: where a bias takes care of these."""
        gram = self.gram - self.mean[:, :, None] * self.mean[:, None, :]
        cross = self.cross - self.mean_before[:, :, None] * self.mean[:, None, :]
        return Moments(gram, cross, np.zeros_like(self.mean), np.zeros_like(self.mean))


class Calibration:
    """Samples, as often as they are needed, in small batches.

    Memory: a batch, and what is summed over all of them for one layer.

    Parameters
    ----------
    data : array-like, mapping, (x, y) or callable
        Samples along the first axis; of a model with several inputs a mapping of arrays by name. Of a pair,
        labels are ignored. A callable returns an iterable of batches, the same ones whenever it is called,
        which are run as they are.

    Raises
    ------
    ValueError
        Naming ``data``: no samples, no numbers, NaN or infinity.

    Examples
    --------
    >>> import numpy as np
    >>> import secateur as sc
    >>> from secateur.calibration import Calibration
    >>> from secateur.models.view import view
    >>> model = sc.nn.Sequential([sc.nn.Dense(2)]).build((3,), 0)
    >>> Calibration(np.array([[3.0, 0, 1], [4, 0, -1]])).norms(view(model), "dense.weight").round(3)
    array([[3.536, 0.   , 1.   ],
           [3.536, 0.   , 1.   ]])
    """

    def __init__(self, data: Any) -> None:
        self._batches: Callable[[], Iterable[Any]]
        if callable(data):
            self._batches = data
        else:
            whole = _checked(data)
            self._batches = partial(_slices, whole)

    def __iter__(self) -> Iterator[Batch]:
        empty = True
        for batch in self._batches():
            yield _checked(batch)
            empty = False
        if empty:
            raise ValueError("data: expected at least one batch, the callable gave none")

    def norms(self, view: ModelView, name: str) -> Doubles:
        """For every weight of a tensor the root mean square of what it is multiplied by, in its shape."""
        (squares,) = _averages(
            (x.shape[1], [np.square(x, dtype=np.float64).sum(1)]) for x in view.layer_inputs(name, self)
        )
        values, shape = np.sqrt(squares), view.parameters()[name].shape
        groups, columns = values.shape
        return np.broadcast_to(values[:, None], (groups, shape[0] // groups, columns)).reshape(shape)

    def moments(self, view: ModelView, before: ModelView, name: str) -> Moments:
        """The moments of the inputs of a tensor in a model, and in what that was before."""
        # One pass over the data for both, which are given each batch one after the other.
        batches, again = tee(self)
        pairs = zip(view.layer_inputs(name, batches), before.layer_inputs(name, again), strict=True)
        return Moments(*_averages((x.shape[1], _products(x, old)) for x, old in pairs))


def _products(x: FloatArray, old: FloatArray) -> list[NDArray[Any]]:
    """The sums over the rows that `Moments` are made of: within a batch, those of products are float32."""
    means = [each.sum(1, np.float64) for each in (x, old)]
    return [x.swapaxes(1, 2) @ x, old.swapaxes(1, 2) @ x, *means]


def _averages(parts: Iterable[tuple[int, list[NDArray[Any]]]]) -> list[Doubles]:
    """What sums over parts of so many rows come to for one row of all."""
    totals: list[Doubles] = []
    rows = 0
    for count, sums in parts:
        rows += count
        if not totals:
            totals = [part.astype(np.float64) for part in sums]
            continue
        for total, part in zip(totals, sums, strict=True):
            total += part
    return [total / max(1, rows) for total in totals]


def _checked(data: Any) -> Batch:
    """Samples of one input or of several, if they are any."""
    if isinstance(data, tuple):
        if len(data) != 2:
            raise ValueError(f"data: expected samples or a pair (x, y), got {len(data)} parts")
        data = data[0]
    if not isinstance(data, Mapping):
        return _array(data)
    arrays = {str(name): _array(array) for name, array in data.items()}
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) != 1:
        raise ValueError(f"data: expected as many samples for each input, got {sorted(lengths)}")
    return arrays


def _array(values: Any) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"data: {error}") from None
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise ValueError(f"data: expected real numbers, got dtype {array.dtype}")
    if array.ndim == 0 or len(array) == 0:
        raise ValueError(f"data: expected at least one sample, got shape {array.shape}")
    finite = np.isfinite(array)
    if not finite.all():
        index = ", ".join(str(int(i)) for i in np.unravel_index(int(np.argmin(finite)), array.shape))
        raise ValueError(
            f"data: expected finite numbers, got {array.flat[int(np.argmin(finite))]} at [{index}]"
        )
    return array


def _slices(batch: Batch) -> Iterator[Batch]:
    count = len(next(iter(batch.values()))) if isinstance(batch, Mapping) else len(batch)
    for start in range(0, count, BATCH):
        part = slice(start, start + BATCH)
        yield {n: a[part] for n, a in batch.items()} if isinstance(batch, Mapping) else batch[part]
