"""The arguments of selection: arrays by name, and what the core takes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, SupportsIndex, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._arguments import as_floats, as_integer, as_number, is_half

Mask: TypeAlias = NDArray[np.bool_]
_T = TypeVar("_T")
# A lone array has None for a name.
Named: TypeAlias = "dict[str | None, _T]"
Operand: TypeAlias = "tuple[str | None, NDArray[Any], NDArray[Any] | None, str | None]"


def named(values: Any | Mapping[str, Any], take: Callable[[Any, str], _T], argument: str) -> Named[_T]:
    """What `take` makes of each value of an argument and its label, by name; a lone one has None for one."""
    if not isinstance(values, Mapping):
        return {None: take(values, argument)}
    for name in values:
        if not isinstance(name, str):
            raise TypeError(f"{argument}: expected names to be str, got {name!r}")
    return {name: take(value, f"{argument}[{name!r}]") for name, value in values.items()}


def floats(values: ArrayLike | Mapping[str, ArrayLike], argument: str) -> Named[NDArray[Any]]:
    """The arrays of an argument by name, in types that the core takes."""
    return named(values, lambda value, label: as_floats(value, label, halves=True), argument)


def slopes_of(
    arrays: Named[NDArray[Any]],
    weights: ArrayLike | Mapping[str, ArrayLike],
    grads: ArrayLike | Mapping[str, ArrayLike] | None,
) -> Named[NDArray[Any]] | None:
    """The gradients of the weights, checked against them; both of a pair get the wider of the two dtypes."""
    if grads is None:
        return None
    if isinstance(grads, Mapping) != isinstance(weights, Mapping):
        kinds = ("a mapping", "an array") if isinstance(weights, Mapping) else ("an array", "a mapping")
        raise TypeError(f"grads: expected {kinds[0]} like the weights, got {kinds[1]}")
    if isinstance(grads, Mapping):
        missing = [name for name in arrays if name not in grads]
        if missing:
            raise ValueError(f"grads: missing {missing[0]!r}")
        slopes = floats({name: grads[name] for name in arrays if name is not None}, "grads")
    else:
        slopes = floats(grads, "grads")
    for name, slope in slopes.items():
        label = "grads" if name is None else f"grads[{name!r}]"
        if slope.shape != arrays[name].shape:
            raise ValueError(f"{label}: expected the weights' shape {arrays[name].shape}, got {slope.shape}")
        dtype = np.result_type(slope, arrays[name])
        slopes[name] = slope.astype(dtype, copy=False)
        arrays[name] = arrays[name].astype(dtype, copy=False)
    return slopes


def operands(arrays: Named[NDArray[Any]], slopes: Named[NDArray[Any]] | None = None) -> list[Operand]:
    """What the core takes: name, array, gradients, and the kind of 16-bit numbers, taken as uint16."""
    return [operand(name, array, None if slopes is None else slopes[name]) for name, array in arrays.items()]


def operand(name: str | None, array: NDArray[Any], slope: NDArray[Any] | None = None) -> Operand:
    """One of the `operands`."""
    if not is_half(array.dtype):
        return name, array, slope, None
    kind = "f16" if array.dtype == np.float16 else "bf16"
    return name, array.view(np.uint16), None if slope is None else slope.view(np.uint16), kind


def size_of(arrays: Named[NDArray[Any]]) -> int:
    """The number of their elements."""
    return sum(array.size for array in arrays.values())


def count_of(k: SupportsIndex | None, sparsity: float | None, n: int) -> int:
    """How many of n to keep."""
    if (k is None) == (sparsity is None):
        raise ValueError(f"k, sparsity: give exactly one of them, got {'neither' if k is None else 'both'}")
    if sparsity is not None:
        return _core.kept(as_number(sparsity, "sparsity", 0.0, 1.0), n)
    assert k is not None
    count = as_integer(k, "k")
    if not 0 <= count <= n:
        raise ValueError(f"k: expected 0 to {n} (the number of weights), got {count}")
    return count


def like(values: Any, found: Named[Any]) -> Any:
    """The results by name, or the lone one, as the argument was."""
    if isinstance(values, Mapping):
        return {name: result for name, result in found.items() if name is not None}
    return found[None]
