"""Intel MKL's sgemm and sgemv through ctypes, as a C program calls them: no wrapper's checks are timed."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_ROW_MAJOR, _NO_TRANS, _TRANS = 101, 111, 112
Array = NDArray[np.float32]


def path() -> str | None:
    """The runtime library of the `mkl` package, or None where it is not installed."""
    try:
        files = importlib.metadata.files("mkl") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name.startswith("libmkl_rt.")), None)


def library() -> ctypes.CDLL | None:
    """The runtime library, loaded, or None where it is not installed."""
    found = path()
    return ctypes.CDLL(found) if found else None


def sgemm(lib: ctypes.CDLL, w: Array, x: Array, out: Array) -> Callable[[], object]:
    """A call that computes ``out = w @ x``; all three C-contiguous."""
    if not all(a.flags.c_contiguous and a.dtype == np.float32 for a in (w, x, out)):
        raise ValueError("sgemm: expected C-contiguous float32 arrays")
    (m, k), n = w.shape, x.shape[1]
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    # These pointers keep their arrays.
    pw, px, po = (a.ctypes.data_as(ctypes.c_void_p) for a in (w, x, out))
    call = lib.cblas_sgemm
    call.restype = None

    def run() -> None:
        call(_ROW_MAJOR, _NO_TRANS, _NO_TRANS, m, n, k, one, pw, k, px, n, zero, po, n)

    return run


def backward(lib: ctypes.CDLL, w: Array, x: Array, dy: Array, dx: Array, dw: Array) -> Callable[[], object]:
    """A call that computes ``dx = w.T @ dy`` and ``dw = dy @ x.T``; all C-contiguous."""
    if not all(a.flags.c_contiguous and a.dtype == np.float32 for a in (w, x, dy, dx, dw)):
        raise ValueError("backward: expected C-contiguous float32 arrays")
    (m, k), n = w.shape, x.shape[1]
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    pw, px, pdy, pdx, pdw = (ctypes.c_void_p(a.ctypes.data) for a in (w, x, dy, dx, dw))
    call = lib.cblas_sgemm
    call.restype = None

    def run() -> None:
        call(_ROW_MAJOR, _TRANS, _NO_TRANS, k, n, m, one, pw, k, pdy, n, zero, pdx, n)
        call(_ROW_MAJOR, _NO_TRANS, _TRANS, m, k, n, one, pdy, n, px, n, zero, pdw, k)

    return run


def sgemv(lib: ctypes.CDLL, w: Array, x: Array, out: Array) -> Callable[[], object]:
    """A call that computes ``out = w @ x`` for a vector; all three C-contiguous."""
    if not all(a.flags.c_contiguous and a.dtype == np.float32 for a in (w, x, out)):
        raise ValueError("sgemv: expected C-contiguous float32 arrays")
    m, k = w.shape
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    # These pointers keep their arrays.
    pw, px, po = (a.ctypes.data_as(ctypes.c_void_p) for a in (w, x, out))
    call = lib.cblas_sgemv
    call.restype = None

    def run() -> None:
        call(_ROW_MAJOR, _NO_TRANS, m, k, one, pw, k, px, 1, zero, po, 1)

    return run


def sparse_dot() -> Callable[..., object] | None:
    """MKL's product of a SciPy matrix and an array, or None where sparse_dot_mkl is not installed."""
    os.environ.setdefault("MKL_RT", path() or "")
    try:
        import sparse_dot_mkl
    except ImportError:
        return None
    found: Callable[..., object] = sparse_dot_mkl.dot_product_mkl
    return found
