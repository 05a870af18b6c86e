"""All operators by name, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import (
    activations,
    arithmetic,
    casts,
    convolution,
    indexing,
    layer_normalization,
    normalization,
    parts,
    pooling,
    products,
    recurrent,
    reductions,
    resizing,
    shapes,
)
from .call import Array, Call, Operator
from .casts import NUMBERS, is_float

NEWEST_OPSET = 28
"""The last version that the operators follow; the first is that to which older models are converted."""

COMPUTING = (
    activations, arithmetic, convolution, normalization, pooling, products, recurrent, reductions, resizing
)  # fmt: skip
MOVING = casts, indexing, layer_normalization, parts, shapes
"""Modules whose operators care for types themselves."""


def _computing(operator: Operator) -> Operator:
    """An operator whose floats are of its first one's type; those of 16 bits are wider while it computes."""

    def widened(call: Call, *inputs: Array | None) -> Array | tuple[Array, ...]:
        dtype = next((x.dtype for x in inputs if x is not None and is_float(x.dtype)), None)
        wide = [_wide(x) for x in inputs]
        results = operator(call, *wide)
        if isinstance(results, tuple):
            return tuple(_narrowed(result, dtype) for result in results)
        return _narrowed(results, dtype)

    return widened


def _wide(x: Array | None) -> Array | None:
    return x.astype(np.float32) if x is not None and is_float(x.dtype) and x.dtype.itemsize == 2 else x


def _narrowed(result: Array, dtype: np.dtype[Any] | None) -> Array:
    return result if dtype is None or result.dtype.kind != "f" else result.astype(dtype, copy=False)


def _checked(operator: Operator) -> Operator:
    """An operator that gives arrays, always as a tuple, or raises an error that names the node."""

    def run(call: Call, *inputs: Array | None) -> tuple[Array, ...]:
        for x in inputs:
            if x is not None and x.dtype not in NUMBERS:
                raise call.unsupported(f"of {'strings' if x.dtype.kind == 'O' else x.dtype}")
        try:
            with np.errstate(all="ignore"):
                results = operator(call, *inputs)
        except TypeError as error:
            kinds = ", ".join("none" if x is None else str(x.dtype) for x in inputs)
            raise call.unsupported(f"of {kinds}") from error
        except (ArithmeticError, IndexError, ValueError) as error:
            raise ValueError(f"{call.name}: {call.op} {error}") from error
        return tuple(map(np.asarray, results)) if isinstance(results, tuple) else (np.asarray(results),)

    return run


OPERATORS: Mapping[str, Operator] = {
    name: _checked(operator)
    for group in (
        *(
            {name: _computing(operator) for name, operator in module.OPERATORS.items()}
            for module in COMPUTING
        ),
        *(module.OPERATORS for module in MOVING),
    )
    for name, operator in group.items()
}
"""What runs here, by ONNX's name."""
