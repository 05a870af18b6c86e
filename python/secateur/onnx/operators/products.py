"""Products of matrices."""

from __future__ import annotations

import math

import numpy as np

from ... import _core
from .call import Array, Call, Operator


def product(a: Array, b: Array, threads: int | None) -> Array:
    """`numpy.matmul`; of float32 by the core, so that it keeps to the plan's threads."""
    if a.ndim < 2 or b.ndim < 2 or not a.dtype == b.dtype == np.float32 or a.shape[-1] != b.shape[-2]:
        y: Array = np.matmul(a, b)
        return y
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    (m, k), n = a.shape[-2:], b.shape[-1]
    if math.prod(b.shape[:-2]) == 1:  # all rows by one matrix
        rows, stack = math.prod(a.shape[:-1]), 1
    else:
        a, b = np.broadcast_to(a, (*lead, m, k)), np.broadcast_to(b, (*lead, k, n))
        rows, stack = m, math.prod(lead)
    y = _core.matmul_stack(a.reshape(stack, rows, k), b.reshape(stack, k, n), threads)
    return y.reshape(*lead, m, n)


def _matmul(call: Call, a: Array, b: Array) -> Array:
    return product(a, b, call.threads)


def _gemm(call: Call, a: Array, b: Array, c: Array | None = None) -> Array:
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"multiplies matrices, not shapes {a.shape} and {b.shape}")
    y = product(a.T if call.get("transA", 0) else a, b.T if call.get("transB", 0) else b, call.threads)
    factor = _factor(call, "alpha", y)
    if factor is not None:
        y *= factor
    if c is not None:
        factor = _factor(call, "beta", y)
        y += c if factor is None else c * factor
    return y


def _factor(call: Call, attribute: str, y: Array) -> Array | None:
    value = call.get(attribute, 1.0)
    if value == 1:
        return None
    if y.dtype.kind != "f":
        raise call.unsupported(f"of {y.dtype} with {attribute}={value}")
    return np.asarray(value, y.dtype)


def _einsum(call: Call, *inputs: Array) -> Array:
    result: Array = np.einsum(call.attributes["equation"], *inputs, optimize=len(inputs) > 2)
    return result


OPERATORS: dict[str, Operator] = {"Einsum": _einsum, "Gemm": _gemm, "MatMul": _matmul}
