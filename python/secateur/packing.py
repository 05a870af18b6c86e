"""Pruned weight matrices that multiply fast, and pruned filters that convolve fast."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from ._arguments import as_integer
from ._core import PackedConv2D, PackedMatrix

Padding: TypeAlias = int | tuple[int, int] | tuple[int, int, int, int] | Literal["same", "valid"]


def pack(
    weights: ArrayLike | Any,
    format: str = "auto",
    *,
    columns: int | None = None,
    block: tuple[int, int] = (8, 1),
    target: str | None = None,
    storage: str = "f32",
) -> PackedMatrix:
    """Pack a pruned weight matrix so that its zeros cost nothing.

    Parameters
    ----------
    weights : array-like of shape (m, k), or SciPy sparse matrix or array
        The weights; zeros are not stored. Converted to float32.
    format : {"auto", "bitmap", "block", "csr", "dense", "nm", "pattern", "stream", "window"}, default="auto"
        How to store them. "auto" decides by density, size and how full blocks are. For many columns,
        "pattern" stores single weights in pairs of rows that share columns, "csr" row by row. "bitmap",
        "nm", "stream" and "window" are for few columns: "window" is the fastest from cache, "stream" and,
        where more than a quarter of the weights is left, "bitmap" from memory. "nm" is faster than these
        and wants an N:M pattern: in every 4 columns of each row at most 1 or 2 nonzeros, or 4 in every 8
        (see `nm_mask`); rows that share theirs by 8 or 16 run as blocks.
    columns : int, optional
        The number of columns of the right-hand sides to pack for. By default the matrix is packed at first
        use, once for few columns and once for more; ``nbytes`` counts both.
    block : {(4, 1), (8, 1), (16, 1), (4, 4)}, default=(8, 1)
        Rows and columns of a block, for ``format="block"``. Any matrix packs exactly; full blocks pack
        without waste.
    target : {"scalar", "avx2", "avx512"}, optional
        CPU target of the kernels; by default the fastest of this CPU.
    storage : {"f32", "bf16", "f16"}, default="f32"
        How the weights lie in memory where columns are few; arithmetic is float32. "bf16" and "f16" take
        half the bytes and round each weight w, once and to nearest even, so that it moves by at most
        2**-8 |w| ("bf16") or 2**-11 |w| ("f16"; 2**-25 below 2**-14). The rounded weights are the matrix:
        every product, ``values`` and ``to_dense()`` are of these, and those that round to 0 are not stored.
        Not for ``format`` "csr" and "dense".

    Returns
    -------
    PackedMatrix
        Supports ``W @ X``, ``W.T @ dY`` and ``W.matmul(X, bias, activation, out)`` with ``X`` of shape
        (k, n) or (k,), ``to_dense()``, ``to_scipy()``, and tells ``shape``, ``nnz``, ``density``,
        ``nbytes``, ``storage``, ``format`` and ``kernel``. For training, ``W.sddmm(dY, X, out)`` is
        ``dY @ X.T`` on the nonzeros only, as an array of shape (nnz,) in row-major order: the gradient of
        ``W.values``, which ``W.update(values)`` replaces without packing anew.

    Raises
    ------
    ValueError
        Unknown format, block, target or storage, a format without that storage, a weight beyond the largest
        that can be stored (65504 for "f16"), weights that are not two-dimensional, or weights that fit no N:M
        pattern for ``format="nm"``.
    TypeError
        Weights that are not real numbers.
    FormatError
        A sparse matrix whose arrays contradict each other.

    References
    ----------
    Elsen et al. 2019, *Fast Sparse ConvNets*, arXiv:1911.09723; Wilkinson et al. 2023, *Register Tiling for
    Unstructured Sparsity in Neural Network Inference*, PLDI.

    Examples
    --------
    >>> import numpy as np, secateur as sc
    >>> weights = np.array([[0, 2, 0], [1, 0, 0]], dtype=np.float32)
    >>> packed = sc.pack(weights, "csr")
    >>> packed @ np.array([1, 10, 100], dtype=np.float32)
    array([20.,  1.], dtype=float32)
    >>> packed.nnz
    2
    >>> packed.sddmm(np.ones((2, 1)), np.array([[1.0], [10.0], [100.0]]))  # d sum(W @ x) / d W.values
    array([10.,  1.], dtype=float32)
    """
    if columns is not None and (not isinstance(columns, (int, np.integer)) or columns < 1):
        raise ValueError(f"columns: expected a positive integer or None, got {columns!r}")
    block = (int(block[0]), int(block[1]))
    if hasattr(weights, "tocsr"):
        csr = weights.tocsr()
        if not csr.has_canonical_format:
            csr = csr.copy()
            csr.sum_duplicates()
        indptr, indices = csr.indptr.astype(np.int64), csr.indices.astype(np.int64)
        return PackedMatrix.from_csr(
            csr.shape, indptr, indices, csr.data, format, columns, block, target, storage
        )
    return PackedMatrix.from_dense(weights, format, columns, block, target, storage)


def pack_conv2d(
    weight: ArrayLike,
    *,
    stride: int | tuple[int, int] = 1,
    padding: Padding = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    format: str = "auto",
    target: str | None = None,
) -> PackedConv2D:
    """Pack the pruned filters of a two-dimensional convolution, for inference and for training on their mask.

    The convolution is a cross-correlation, as in PyTorch and ONNX; images are (n, channels, height, width).

    Parameters
    ----------
    weight : array-like of shape (o, c / groups, kh, kw)
        The filters; zeros are not stored. Converted to float32.
    stride : int or (int, int), default=1
        Rows and columns from one window to the next.
    padding : int, (int, int), (int, int, int, int), "same" or "valid", default=0
        Zeros around the images: on all sides; above and below, and left and right; top, left, bottom,
        right. "same" is as much as makes ceil(input / stride) rows and columns of the output, an odd one
        more at the bottom and right; "valid" is 0.
    dilation : int or (int, int), default=1
        Rows and columns from one element of the window to the next.
    groups : int, default=1
        Channels and filters are cut into so many groups, and the filters of a group read its channels alone.
    format : {"auto", "block", "csr", "pattern"}, default="auto"
        How to store the filters, as in :func:`pack`: "block" in blocks of 8 filters, "pattern" single
        weights in pairs of filters that share taps, "csr" filter by filter. "auto" decides by density and
        how full blocks are.
    target : {"scalar", "avx2", "avx512"}, optional
        CPU target of the kernels; by default the fastest of this CPU.

    Returns
    -------
    PackedConv2D
        ``conv(x, bias, activation, out)`` is the convolution of ``x`` (n, c, h, w), with ``bias`` (o,) and
        ``activation`` one of "relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu", "hard_swish".
        ``conv.grad_input(dy, input_size, out)`` is the
        gradient of images of ``input_size`` (h, w), which strides leave open, from that of the result,
        ``dy`` (n, o, oh, ow). ``conv.sddmm(dy, x, out)`` is that of ``conv.values``, of shape (nnz,), in
        row-major order of the nonzeros of ``weight``; ``conv.update(values)`` replaces them without packing
        anew. It tells ``shape``, ``nnz``, ``density``, ``nbytes`` and ``kernel``; ``to_dense()`` is the
        array. Filters are packed at the first use of a size of images, once for each direction, for the last
        four sizes; ``nbytes`` counts all.

    Raises
    ------
    ValueError
        Unknown format, target or padding, a weight that is not four-dimensional, numbers that are not
        positive or groups that do not divide the filters; when called, images that the window does not fit
        into.
    TypeError
        Weights that are not real numbers, strides and the like that are not integers.

    References
    ----------
    Park et al. 2017, *Faster CNNs with Direct Sparse Convolutions and Guided Pruning*, arXiv:1608.01409;
    Nikdan et al. 2023, *SparseProp: Efficient Sparse Backpropagation for Faster Training of Neural Networks*,
    arXiv:2302.04852.

    Examples
    --------
    >>> import numpy as np, secateur as sc
    >>> conv = sc.pack_conv2d([[[[1, 0], [0, 2]]]], stride=2)
    >>> x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    >>> y = conv(x)
    >>> y[0, 0]
    array([[10., 16.],
           [34., 40.]], dtype=float32)
    >>> conv.grad_input(np.ones_like(y), (4, 4))[0, 0]
    array([[1., 0., 1., 0.],
           [0., 2., 0., 2.],
           [1., 0., 1., 0.],
           [0., 2., 0., 2.]], dtype=float32)
    >>> conv.sddmm(np.ones_like(y), x)  # d sum(y) / d conv.values
    array([20., 40.], dtype=float32)
    """
    pads: tuple[int, int, int, int] | None
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"padding: unknown name {padding!r}; choose from same, valid, or give numbers")
        pads = None if padding == "same" else (0, 0, 0, 0)
    else:
        sides = _integers("padding", padding, (1, 2, 4), least=0)
        pads = sides if len(sides) == 4 else (sides[0], sides[-1]) * 2
    steps = [
        (numbers[0], numbers[-1])
        for numbers in (_integers("stride", stride, (1, 2)), _integers("dilation", dilation, (1, 2)))
    ]
    (count,) = _integers("groups", groups, (1,))
    return PackedConv2D(weight, steps[0], pads, steps[1], count, format, target)


def _integers(name: str, value: Any, lengths: tuple[int, ...], least: int = 1) -> tuple[int, ...]:
    """An int, or a sequence of one of `lengths`, each `least` or more."""
    values = tuple(value) if isinstance(value, (tuple, list, np.ndarray)) and np.ndim(value) else (value,)
    numbers = tuple(as_integer(number, name) for number in values)
    if len(numbers) not in lengths or not all(least <= number < 2**31 for number in numbers):
        count = " or ".join(str(length) for length in lengths)
        raise ValueError(f"{name}: expected {count} integers of {least} or more, got {value!r}")
    return numbers
