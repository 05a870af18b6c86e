"""Images, or any arrays, in other sizes: axis after axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .call import Array, Call, Operator, axis_of, number

TIE = np.float32(1e-6)
"""How far from the middle between two elements a place still is in it, as in ONNX Runtime."""

ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5) - TIE),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5) + TIE),
    "floor": np.floor,
    "ceil": np.ceil,
}


class Axis(NamedTuple):
    """How an axis is to change.

    Attributes
    ----------
    number, before, after : int
        Which it is, its length, and that of the result.
    scale : float
        Not quite the ratio of both, where it was given.
    roi : tuple of float
        The part of it that is shown, from 0 to 1.
    """

    number: int
    before: int
    after: int
    scale: float
    roi: tuple[float, float]


def _resize(
    call: Call,
    x: Array,
    roi: Array | None = None,
    scales: Array | None = None,
    sizes: Array | None = None,
) -> Array:
    if call.version < 11:
        return _resize_10(call, x, roi)
    transformation = call.get("coordinate_transformation_mode", "half_pixel")
    if call.get("antialias", 0):
        raise call.unsupported("with antialias=1")
    crop = roi if transformation == "tf_crop_and_resize" else None
    axes = _axes(call, x, crop, scales, sizes)
    return _interpolated(call, x, axes, transformation, call.get("nearest_mode", "round_prefer_floor"))


def _resize_10(call: Call, x: Array, scales: Array | None) -> Array:
    """Before opset 11, when it had no more to say."""
    return _interpolated(call, x, _axes(call, x, None, scales, None), "asymmetric", "simple")


def _upsample(call: Call, x: Array, scales: Array | None = None) -> Array:
    given = np.asarray(call.get("scales"), np.float32) if scales is None else scales
    return _interpolated(call, x, _axes(call, x, None, given, None), "asymmetric", "simple")


def _axes(call: Call, x: Array, roi: Array | None, scales: Array | None, sizes: Array | None) -> list[Axis]:
    """The axes that are resized."""
    chosen = call.get("axes")
    numbers = list(range(x.ndim)) if chosen is None else [axis_of(axis, x.ndim) for axis in chosen]
    before = [x.shape[number] for number in numbers]
    for given, times in ((scales, 1), (sizes, 1), (roi, 2)):
        if given is not None and given.size not in (0, times * len(numbers)):
            raise ValueError(f"has {given.size} scales, sizes or ends for {len(numbers)} axes")
    policy = call.get("keep_aspect_ratio_policy", "stretch")
    if scales is not None and scales.size:
        factors = [float(scale) for scale in scales]
        if roi is not None:
            raise call.unsupported("with scales and coordinate_transformation_mode='tf_crop_and_resize'")
        # In single precision, as whoever inferred the shape has it.
        after = [int(np.floor(np.float32(n) * np.float32(f))) for n, f in zip(before, factors, strict=True)]
    elif sizes is None or not sizes.size:
        raise ValueError("has neither scales nor sizes")
    else:
        after = [int(size) for size in sizes]
        factors = [new / old if old else 1.0 for new, old in zip(after, before, strict=True)]
        if policy != "stretch":
            if policy not in ("not_larger", "not_smaller"):
                raise call.unsupported(f"with keep_aspect_ratio_policy={policy!r}")
            factors = [min(factors) if policy == "not_larger" else max(factors)] * len(factors)
            after = [math.floor(f * n + 0.5) for n, f in zip(before, factors, strict=True)]
    if min(factors, default=1.0) <= 0 or min(after, default=0) < 0:
        raise ValueError(f"makes lengths of {after} of {before}")
    shown = [(0.0, 1.0)] * len(numbers) if roi is None else list(zip(roi, roi[len(numbers) :], strict=False))
    return [Axis(number, *rest) for number, *rest in zip(numbers, before, after, factors, shown, strict=True)]


def _interpolated(call: Call, x: Array, axes: list[Axis], transformation: str, rounding: str) -> Array:
    mode = call.get("mode", "nearest")
    if mode not in ("nearest", "linear"):
        raise call.unsupported(f"with mode={mode!r}")
    if mode == "linear" and x.dtype.kind != "f":
        raise call.unsupported(f"with mode='linear' of {x.dtype}")
    if rounding not in (*ROUNDINGS, "simple"):
        raise call.unsupported(f"with nearest_mode={rounding!r}")
    outside = np.zeros((), np.bool_)
    if all(axis.before == axis.after and axis.roi == (0.0, 1.0) for axis in axes):
        return x  # whatever the scales: as in ONNX Runtime
    for axis in axes:
        if axis.before == axis.after and axis.scale == 1 and axis.roi == (0.0, 1.0):
            continue
        if axis.after and not axis.before:
            raise ValueError(f"makes {axis.after} elements of none")
        places = _places(call, axis, transformation)
        if transformation == "tf_crop_and_resize":
            beyond = (places < 0) | (places > axis.before - 1)
            outside = outside | beyond.reshape(-1, *[1] * (x.ndim - 1 - axis.number))
        if mode == "nearest":
            # How it was simple is not specified; this is how ONNX Runtime has it.
            kind = rounding if rounding != "simple" else "ceil" if axis.scale < 1 else "floor"
            x = np.take(x, _clipped(ROUNDINGS[kind](places), axis), axis.number)
        else:
            x = _between(x, places, axis)
    return np.where(outside, number(x, call.get("extrapolation_value", 0.0)), x) if outside.any() else x


def _places(call: Call, axis: Axis, transformation: str) -> Array:
    """Where in the input each element of the output lies, in single precision as in ONNX Runtime."""
    at, half = np.arange(axis.after, dtype=np.float32), np.float32(0.5)
    scale, length, last = np.float32(axis.scale), np.float32(axis.before), np.float32(axis.before - 1)
    places: Array
    if transformation == "asymmetric":
        places = at / scale
    elif transformation == "tf_half_pixel_for_nn":
        places = (at + half) / scale
    elif transformation == "pytorch_half_pixel" and axis.after == 1:
        places = np.zeros_like(at)
    elif transformation in ("half_pixel", "pytorch_half_pixel"):
        places = (at + half) / scale - half
    elif transformation == "half_pixel_symmetric":
        margin = half * length * (1 - np.float32(axis.after) / (scale * length))
        places = margin + (at + half) / scale - half
    elif transformation == "align_corners":
        if not math.isclose(axis.before * axis.scale, axis.after, rel_tol=1e-5):
            # The specification ends at the last element there is, its tests at the last but a fraction.
            raise call.unsupported("with align_corners and a scale that makes no whole number of elements")
        places = at * last / np.float32(max(axis.after - 1, 1))
    elif transformation == "tf_crop_and_resize":
        start, end = map(np.float32, axis.roi)
        if axis.after == 1:
            places = half * (start + end) * last + at
        else:
            places = start * last + at * (end - start) * last / np.float32(axis.after - 1)
    else:
        raise call.unsupported(f"with coordinate_transformation_mode={transformation!r}")
    return places


def _clipped(places: Array, axis: Axis) -> Array:
    return np.clip(places, 0, axis.before - 1).astype(np.intp)


def _between(x: Array, places: Array, axis: Axis) -> Array:
    """Linear interpolation along an axis."""
    first = np.floor(places)
    far = (places - first).astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1 - axis.number))
    low, high = (np.take(x, _clipped(places, axis), axis.number) for places in (first, first + 1))
    y: Array = low + (high - low) * far
    return y


OPERATORS: dict[str, Operator] = {"Resize": _resize, "Upsample": _upsample}
