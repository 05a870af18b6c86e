"""What cuts arrays, joins and pads them."""

from __future__ import annotations

import numpy as np

from .call import Array, Call, Operator, axes_of, axis_of


def _concat(call: Call, *inputs: Array) -> Array:
    return np.concatenate(inputs, axis=call.attributes["axis"])


def _split(call: Call, x: Array, split: Array | None = None) -> tuple[Array, ...]:
    axis = axis_of(call.get("axis", 0), x.ndim)
    length = x.shape[axis]
    sizes = call.ints("split", split)
    if sizes is None:
        count = call.get("num_outputs", call.outputs)
        most = -(-length // count)
        sizes = [most] * (count - 1) + [length - most * (count - 1)]
        if call.version < 18 and length % count:
            raise ValueError(f"cannot cut {length} into {count} equal parts")
    if min(sizes, default=0) < 0 or sum(sizes) != length:
        raise ValueError(f"cannot cut {length} into parts of {sizes}")
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


def _slice(
    call: Call,
    x: Array,
    starts: Array | None = None,
    ends: Array | None = None,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Array:
    first, last = call.ints("starts", starts), call.ints("ends", ends)
    if first is None or last is None:
        raise ValueError("has no starts or no ends")
    chosen = call.ints("axes", axes) or list(range(len(first)))
    by = call.ints("steps", steps) or [1] * len(first)
    if not len(first) == len(last) == len(chosen) == len(by) or 0 in by:
        raise ValueError(f"has starts {first}, ends {last}, axes {chosen}, steps {by}")
    axes_of(chosen, x.ndim)
    cut = [slice(None)] * x.ndim
    for axis, start, end, step in zip(chosen, first, last, by, strict=True):
        cut[axis] = _range(x.shape[axis], start, end, step)
    return x[tuple(cut)]


def _range(length: int, start: int, end: int, step: int) -> slice:
    """As Python has it, but that what goes back from before the first begins at the first."""
    first, last, _ = slice(start if step > 0 else max(start, -length), end, step).indices(length)
    return slice(first, None if last < 0 else last, step)


def _pad(
    call: Call, x: Array, pads: Array | None = None, value: Array | None = None, axes: Array | None = None
) -> Array:
    mode = call.get("mode", "constant")
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise call.unsupported(f"with mode={mode!r}")
    given = call.ints("pads", pads) or []
    padded = call.ints("axes", axes) or list(range(x.ndim))
    if len(given) != 2 * len(padded):
        raise ValueError(f"has {len(given)} pads for {len(padded)} axes")
    widths = [(0, 0)] * x.ndim
    axes_of(padded, x.ndim)
    for axis, before, after in zip(padded, given, given[len(padded) :], strict=False):
        widths[axis] = before, after
    # Negative ones crop, before anything is repeated.
    cut = tuple(
        slice(max(-before, 0), length - max(-after, 0))
        for length, (before, after) in zip(x.shape, widths, strict=True)
    )
    wide = [(max(before, 0), max(after, 0)) for before, after in widths]
    if mode != "constant":
        return np.pad(x[cut], wide, mode)
    filler = call.get("value", 0) if value is None else value.reshape(())
    return np.pad(x[cut], wide, constant_values=np.asarray(filler, x.dtype))


def _tile(call: Call, x: Array, repeats: Array) -> Array:
    if len(repeats) != x.ndim:
        raise ValueError(f"has {len(repeats)} repeats for {x.ndim} axes")
    return np.tile(x, repeats.tolist())


def _trilu(call: Call, x: Array, k: Array | None = None) -> Array:
    diagonal = 0 if k is None else int(k.reshape(()))
    return np.triu(x, diagonal) if call.get("upper", 1) else np.tril(x, diagonal)


OPERATORS: dict[str, Operator] = {
    "Concat": _concat,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
    "Trilu": _trilu,
}
