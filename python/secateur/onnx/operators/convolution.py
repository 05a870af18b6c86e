"""Convolutions, by a product for each group."""

from __future__ import annotations

import itertools
import math

import numpy as np

from .call import Array, Call, Operator
from .products import product
from .windows import Windows, tap, windows_of

MOST = 1 << 26
"""Bytes that are copied out of windows at once."""


def _conv(call: Call, x: Array, weight: Array, bias: Array | None = None) -> Array:
    groups = call.get("group", 1)
    filters, channels, *size = weight.shape
    if x.ndim != weight.ndim or channels * groups != x.shape[1] or filters % groups:
        raise ValueError(f"has filters of shape {weight.shape} for {x.shape}, in {groups} groups")
    _check_size(call, size)
    windows = windows_of(call, x.shape[2:], tuple(size))
    matrix = weight.reshape(groups, filters // groups, channels * math.prod(size))
    places, pixels = matrix.shape[2], math.prod(windows.outputs)
    y = np.empty((len(x), filters, *windows.outputs), x.dtype)
    step = max(MOST // max(groups * places * pixels * x.itemsize, 1), 1)
    for start in range(0, len(x), step):
        part = x[start : start + step]
        columns = _columns(part, windows).reshape(len(part), groups, places, pixels)
        y[start : start + step] = product(matrix, columns, call.threads).reshape(len(part), *y.shape[1:])
    if bias is not None:
        y += bias.reshape(-1, *[1] * len(size))
    return y


def _columns(x: Array, windows: Windows) -> Array:
    """What the windows show, (n, channels, places, outputs)."""
    rank = len(windows.size)
    padded = windows.pad(x, 0)
    if math.prod(windows.size) == 1:
        return windows.tap(padded, (0,) * rank)
    axes = tuple(range(2, x.ndim))
    shown = np.lib.stride_tricks.sliding_window_view(padded, windows.reach, axes)
    # Of all windows, those that lie at the strides, and of them the places at the dilations.
    steps = [slice(None)] * 2 + [slice(None, None, step) for step in (*windows.strides, *windows.dilations)]
    y: Array = shown[tuple(steps)].transpose(0, 1, *range(x.ndim, x.ndim + rank), *axes)
    return y


def _check_size(call: Call, size: list[int]) -> None:
    said = call.get("kernel_shape")
    if said is not None and list(said) != list(size):
        raise ValueError(f"has filters of {list(size)} pixels and kernel_shape={list(said)}")


def _conv_transpose(call: Call, x: Array, weight: Array, bias: Array | None = None) -> Array:
    groups = call.get("group", 1)
    channels, filters, *size = weight.shape
    if x.ndim != weight.ndim or channels != x.shape[1] or channels % groups:
        raise ValueError(f"has filters of shape {weight.shape} for {x.shape}, in {groups} groups")
    _check_size(call, size)
    lengths, rank, n = x.shape[2:], len(size), len(x)
    strides = call.get("strides") or [1] * rank
    dilations = call.get("dilations") or [1] * rank
    matrix = weight.reshape(groups, channels // groups, filters * math.prod(size)).transpose(0, 2, 1)
    columns = product(matrix, x.reshape(n, groups, channels // groups, math.prod(lengths)), call.threads)
    columns = columns.reshape(n, groups * filters, math.prod(size), *lengths)
    begins, outputs = _borders(call, lengths, size, strides, dilations)
    # The whole of what the filters write, of which the padding is then cut off.
    whole = [
        max((length - 1) * stride + (k - 1) * dilation + 1, begin + output)
        for length, stride, k, dilation, begin, output in zip(
            lengths, strides, size, dilations, begins, outputs, strict=True
        )
    ]
    y = np.zeros((n, groups * filters, *whole), x.dtype)
    for place, at in enumerate(itertools.product(*map(range, size))):
        written = tap(y, at, lengths, strides, dilations)
        written += columns[:, :, place]
    y = tap(y, begins, outputs, [1] * rank, [1] * rank)
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _borders(
    call: Call, lengths: tuple[int, ...], size: list[int], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """Of what the filters of a transposed convolution write, where the output begins, and its lengths."""
    rank = len(lengths)
    auto, pads = call.get("auto_pad", "NOTSET"), call.get("pads") or [0] * 2 * rank
    more, shape = call.get("output_padding") or [0] * rank, call.get("output_shape")
    full = [
        (length - 1) * stride + (k - 1) * dilation + 1 + extra
        for length, stride, k, dilation, extra in zip(lengths, strides, size, dilations, more, strict=True)
    ]
    if auto in ("SAME_UPPER", "SAME_LOWER") and shape is None:
        shape = [length * stride for length, stride in zip(lengths, strides, strict=True)]
        if any(length > whole for length, whole in zip(shape, full, strict=True)):
            # The specification adds zeros behind, ONNX Runtime does not.
            raise call.unsupported(f"with auto_pad={auto!r} and windows smaller than the strides")
    if shape is None:
        shape = [whole - pads[axis] - pads[rank + axis] for axis, whole in enumerate(full)]
        if min(shape) < 0:
            raise ValueError(f"has pads={list(pads)} for {full} elements")
        return pads[:rank], shape
    missing = [max(whole - length, 0) for whole, length in zip(full, shape[-rank:], strict=True)]
    begins = [total // 2 if auto == "SAME_UPPER" else total - total // 2 for total in missing]
    return begins, list(shape[-rank:])


OPERATORS: dict[str, Operator] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
