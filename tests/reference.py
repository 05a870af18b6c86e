"""Dense NumPy in float64: the arithmetic that the package must match, written for reading."""

from __future__ import annotations

import numpy as np


def windows(x, size, strides, pads, fill=0.0, dilation=(1, 1)):
    """The windows of images (n, c, h, w) as float64 (n, c, oh, ow, kh, kw); pads as in `same_pads`."""
    extent = [(length - 1) * step + 1 for length, step in zip(size, dilation, strict=True)]
    top, left, bottom, right = pads
    padded = np.pad(
        np.asarray(x, np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill
    )
    view = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(2, 3))
    return view[:, :, :: strides[0], :: strides[1], :: dilation[0], :: dilation[1]]


def same_pads(size, window, strides, dilation=(1, 1)):
    """SAME padding of images of `size`: top, left, bottom, right; an odd element at the bottom and right."""
    sides = []
    for length, kernel, stride, step in zip(size, window, strides, dilation, strict=True):
        missing = max(0, (-(-length // stride) - 1) * stride + (kernel - 1) * step + 1 - length)
        sides.append((missing // 2, missing - missing // 2))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def conv2d(x, weight, bias, strides, pads, dilation=(1, 1), groups=1):
    """Cross-correlation of (n, c, h, w) with (o, c / groups, kh, kw)."""
    views = windows(x, weight.shape[2:], strides, pads, dilation=dilation)
    parts = zip(
        np.split(views, groups, axis=1), np.split(np.asarray(weight, np.float64), groups), strict=True
    )
    y = np.concatenate([np.einsum("nchwij,ocij->nohw", view, w) for view, w in parts], axis=1)
    return y if bias is None else y + np.asarray(bias, np.float64)[:, None, None]


def winograd_bound(x, weight, bias, pads):
    """How far F(4x4, 3x3) in float32 may lie from `conv2d`: the bound of rust/core/src/ops/winograd.rs."""
    points = np.array([0, 1, -1, 2, -2])
    output = np.c_[points ** np.arange(4)[:, None], [0, 0, 0, 1]]
    filters = np.array([[6, 0, 0], [4, 4, 4], [4, 4, 4], [1, 2, 4], [1, 2, 4], [0, 0, 24]]) / 24
    inputs = np.array(
        [
            [4, 0, 5, 0, 1, 0],
            [0, 4, 4, 1, 1, 0],
            [0, 4, 4, 1, 1, 0],
            [0, 2, 1, 2, 1, 0],
            [0, 2, 1, 2, 1, 0],
            [0, 4, 0, 5, 0, 1],
        ]
    )
    top, left, bottom, right = pads
    h, w = (x.shape[2] + top + bottom - 2, x.shape[3] + left + right - 2)
    wide = (top, left, bottom + -h % 4, right + -w % 4)
    patches = abs(windows(x, (6, 6), (4, 4), wide))
    products = np.einsum(
        "pi,ncyxij,qj,pk,ockl,ql->noyxpq",
        *(inputs, patches, inputs, filters, abs(np.asarray(weight, np.float64)), filters),
        optimize=True,
    )
    sums = np.einsum("ap,noyxpq,bq->noyaxb", abs(output), products, abs(output), optimize=True)
    size = sums.reshape(*sums.shape[:2], 4 * sums.shape[2], -1)[:, :, :h, :w] + abs(bias)[:, None, None]
    count = (weight.shape[1] + 12) * 2.0**-24
    return count / (1 - count) * size


def conv2d_gradients(x, weight, dy, strides, pads, dilation=(1, 1), groups=1):
    """The gradients of x and of the weight, from that of `conv2d`, each with the sum of its terms' sizes."""
    views = windows(x, weight.shape[2:], strides, pads, dilation=dilation)
    (top, left, bottom, right), (h, w) = pads, x.shape[2:]
    results = []
    for sign in (lambda a: a, np.abs):
        dy64, w64 = sign(np.asarray(dy, np.float64)), sign(np.asarray(weight, np.float64))
        dx = np.zeros((*x.shape[:2], h + top + bottom, w + left + right))
        taps = [(i, j) for i in range(weight.shape[2]) for j in range(weight.shape[3])]
        for i, j in taps:
            rows = slice(i * dilation[0], i * dilation[0] + (dy.shape[2] - 1) * strides[0] + 1, strides[0])
            columns = slice(j * dilation[1], j * dilation[1] + (dy.shape[3] - 1) * strides[1] + 1, strides[1])
            parts = zip(np.split(dy64, groups, axis=1), np.split(w64[:, :, i, j], groups), strict=True)
            dx[:, :, rows, columns] += np.concatenate(
                [np.einsum("nohw,oc->nchw", part, w) for part, w in parts], axis=1
            )
        parts = zip(np.split(sign(views), groups, axis=1), np.split(dy64, groups, axis=1), strict=True)
        dw = np.concatenate([np.einsum("nchwij,nohw->ocij", view, part) for view, part in parts])
        results += [dx[:, :, top : top + h, left : left + w], dw]
    return results


def max_pool(x, size, strides, pads):
    """The maximum of every window."""
    return windows(x, size, strides, pads, -np.inf).max(axis=(4, 5))


def average_pool(x, size, strides, pads):
    """The average of every window, padding not counted."""
    return np.nanmean(windows(x, size, strides, pads, np.nan), axis=(4, 5))


def softmax(x):
    """Softmax over axis 1."""
    exp = np.exp(x - x.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


ACTIVATIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softmax": softmax,
}


def batch_norm(x, gamma, beta, epsilon):
    """Normalised over the batch, per feature or channel, with the batch's own mean and variance."""
    axes = (0, 2, 3)[: x.ndim - 1]

    def spread(values):
        return values if x.ndim == 2 else values[:, None, None]

    mean, var = x.mean(axis=axes), x.var(axis=axes)
    normal = (x - spread(mean)) / np.sqrt(spread(var) + epsilon)
    return normal * spread(np.asarray(gamma, np.float64)) + spread(np.asarray(beta, np.float64))


def cross_entropy(logits, labels):
    """The mean of −log softmax(logits)[label]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(axis=1))
    return np.mean(log_total - shifted[np.arange(len(labels)), labels])


def mean_squared_error(outputs, targets):
    """The mean over all outputs."""
    return np.mean((outputs - targets) ** 2)


def numeric_gradient(function, array, step=1e-6):
    """The gradient of a float64 function of an array, by central differences."""
    array = np.array(array, np.float64)
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        high = function(array)
        array[index] = kept - step
        low = function(array)
        array[index] = kept
        gradient[index] = (high - low) / (2 * step)
    return gradient


def recurrent(cell, x, params, return_sequences, counts=None):
    """A recurrent layer by its definition, step by step; x (n, steps, features)."""

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    n, steps, _ = x.shape
    w, u = params["weight"], params["recurrent_weight"]
    units = u.shape[1]
    h, c, outputs = np.zeros((n, units)), np.zeros((n, units)), np.zeros((n, steps, units))
    for t in range(steps):
        zx = x[:, t] @ w.T + params.get("bias", 0)
        zu = h @ u.T + params.get("recurrent_bias", 0)
        after = c
        if cell == "lstm":
            i, f, g, o = np.split(zx + zu, 4, axis=1)
            after = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            new = sigmoid(o) * np.tanh(after)
        elif cell == "gru":
            (xr, xz, xn), (ur, uz, un) = np.split(zx, 3, axis=1), np.split(zu, 3, axis=1)
            z = sigmoid(xz + uz)
            new = (1 - z) * np.tanh(xn + sigmoid(xr + ur) * un) + z * h
        else:
            new = np.maximum(zx + zu, 0) if cell == "relu" else np.tanh(zx + zu)
        valid = np.ones((n, 1), bool) if counts is None else counts[:, t, None]
        h, c = np.where(valid, new, h), np.where(valid, after, c)
        outputs[:, t] = np.where(valid, h, 0)
    return outputs if return_sequences else h
