"""The patches of images that a convolution multiplies its filters with, as matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .view import FloatArray

LIMIT = 1 << 22
"""Numbers of a matrix at most, unless one row of pixels makes more: 16 MB."""


def patches(
    images: FloatArray,
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    pads: Sequence[int],
    groups: int,
) -> Iterator[FloatArray]:
    """What every filter meets, part by part.

    Parameters
    ----------
    images : ndarray of shape (n, channels, height, width)
    window, strides, dilation : (int, int)
    pads : (top, left, bottom, right)
        Zeros around the images.
    groups : int

    Yields
    ------
    ndarray of float32, shape (groups, pixels, channels / groups · kernel height · kernel width)
        Columns are ordered as filters (out, in, kernel height, kernel width) lie in memory.

    Examples
    --------
    >>> import numpy as np
    >>> from secateur.models.patches import patches
    >>> image = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    >>> next(patches(image, (2, 2), (1, 1), (1, 1), (0, 0, 0, 0), 1))
    array([[[0., 1., 3., 4.],
            [1., 2., 4., 5.]]], dtype=float32)
    """
    top, left, bottom, right = pads
    padded = np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach = tuple((size - 1) * apart + 1 for size, apart in zip(window, dilation, strict=True))
    every = np.lib.stride_tricks.sliding_window_view(padded, reach, (2, 3))
    seen = every[:, :, :: strides[0], :: strides[1], :: dilation[0], :: dilation[1]]
    n, channels, rows, columns = seen.shape[:4]
    row = columns * channels * window[0] * window[1]
    some_rows = max(1, min(rows, LIMIT // row))
    some = max(1, LIMIT // (row * some_rows))
    for first in range(0, n, some):
        for start in range(0, rows, some_rows):
            part = seen[first : first + some, :, start : start + some_rows]
            count, _, height, width = part.shape[:4]
            grouped = part.reshape(count, groups, channels // groups, height, width, *window)
            ordered = grouped.transpose(1, 0, 3, 4, 2, 5, 6)
            yield np.ascontiguousarray(ordered, np.float32).reshape(groups, count * height * width, -1)
