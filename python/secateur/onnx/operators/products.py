"""Products of matrices."""

from __future__ import annotations

import numpy as np

from .call import Array, Call, Operator


def _matmul(call: Call, a: Array, b: Array) -> Array:
    y: Array = np.matmul(a, b)
    return y


def _gemm(call: Call, a: Array, b: Array, c: Array | None = None) -> Array:
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"multiplies matrices, not shapes {a.shape} and {b.shape}")
    y: Array = np.matmul(a.T if call.get("transA", 0) else a, b.T if call.get("transB", 0) else b)
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
