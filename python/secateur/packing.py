"""Pruned weight matrices that multiply fast."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ._core import PackedMatrix


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
