"""Normalizations of the last axes, which say in which type they are to be computed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ... import _core
from .call import Array, Call, Operator, axis_of, number
from .normalization import standardized


def _layer_normalization(call: Call, x: Array, scale: Array, bias: Array | None = None) -> tuple[Array, ...]:
    wide, axes = _wide(call, x)
    epsilon = call.get("epsilon", 1e-5)
    shift = np.zeros_like(scale) if bias is None else bias
    vectors = axes == (x.ndim - 1,) and scale.shape == shift.shape == x.shape[-1:]
    if vectors and x.dtype == np.float32 and call.outputs == 1:
        return (_core.layer_norm(x, scale, shift, epsilon, call.threads),)
    y, mean, inverse = standardized(wide, axes, epsilon)
    y = y.astype(x.dtype, copy=False) * scale + shift
    return y, mean.astype(np.float32), inverse.astype(np.float32)


def _rms_normalization(call: Call, x: Array, scale: Array) -> Array:
    wide, axes = _wide(call, x)
    mean = np.square(wide).mean(axes, keepdims=True)
    y: Array = wide / np.sqrt(mean + number(wide, call.get("epsilon", 1e-5)))
    return y.astype(scale.dtype, copy=False) * scale


def _wide(call: Call, x: Array) -> tuple[Array, tuple[int, ...]]:
    """What is normalized, in no narrower a type than the one asked for, and the axes."""
    if call.get("stash_type", 1) != ir.DataType.FLOAT:
        raise call.unsupported(f"with stash_type={call.get('stash_type')}")
    wide = x if x.dtype == np.float64 else x.astype(np.float32, copy=False)
    return wide, tuple(range(axis_of(call.get("axis", -1), x.ndim), x.ndim))


OPERATORS: dict[str, Operator] = {
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
}
