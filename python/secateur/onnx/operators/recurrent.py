"""LSTM, GRU and RNN over sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .call import Array, Call, Operator
from .cells import GRU, LSTM, RNN, Kind, State, Weights, activations_of
from .products import product

DIRECTIONS = {"forward": (1,), "reverse": (-1,), "bidirectional": (1, -1)}


def _run(
    call: Call,
    kind: Kind,
    x: Array,
    w: Array,
    r: Array,
    b: Array | None,
    lengths: Array | None,
    initial: Sequence[Array | None],
    p: Array | None = None,
) -> tuple[Array, ...]:
    """All outputs of a recurrent node, of those inputs that all kinds have."""
    ways = DIRECTIONS.get(call.get("direction", "forward"))
    if ways is None:
        raise call.unsupported(f"with direction={call.get('direction')!r}")
    batch_first = bool(call.get("layout", 0))
    if batch_first:
        x, initial = x.swapaxes(0, 1), [None if part is None else part.swapaxes(0, 1) for part in initial]
    steps, n, features = x.shape
    directions, hidden, rows = len(ways), r.shape[-1], kind.gates * r.shape[-1]
    _filled("W", w, (directions, rows, features), x.dtype)
    _filled("R", r, (directions, rows, hidden), x.dtype)
    b = _filled("B", b, (directions, 2 * rows), x.dtype)
    p = _filled("P", p, (directions, 3 * hidden), x.dtype)
    first = [_filled("initial states", part, (directions, n, hidden), x.dtype) for part in initial]
    lengths = np.full(n, steps) if lengths is None else _filled("sequence_lens", lengths, (n,), lengths.dtype)
    if n and not 0 <= lengths.min() <= lengths.max() <= steps:
        raise ValueError(f"has sequence_lens from {lengths.min()} to {lengths.max()}, of {steps}")
    y = np.zeros((steps, directions, n, hidden), x.dtype)
    last: list[State] = []
    for at, (way, functions) in enumerate(zip(ways, activations_of(call, kind, directions), strict=True)):
        weights = Weights(r[at].T, b[at, rows:], np.split(p[at], 3), functions)
        gates = product(x, w[at].T, call.threads) + b[at, :rows]
        state = tuple(part[at] for part in first)
        for t in range(steps)[::way]:
            # A sequence stays as it is before its first step, coming from behind, and after its last.
            goes_on = (t < lengths)[:, None]
            moved = kind.step(call, weights, gates[t], state)
            state = tuple(np.where(goes_on, new, old) for new, old in zip(moved, state, strict=True))
            np.copyto(y[t, at], moved[0], where=goes_on)
        # That of no steps is 0, as ONNX Runtime has it.
        last.append(tuple(np.where(lengths[:, None] > 0, part, 0) for part in state))
    ends = [np.stack(parts) for parts in zip(*last, strict=True)]
    if batch_first:
        return y.transpose(2, 0, 1, 3), *(end.swapaxes(0, 1) for end in ends)
    return y, *ends


def _filled(name: str, array: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An input, which must have the shape; zeros for none."""
    if array is None:
        return np.zeros(shape, dtype)
    if array.shape != shape:
        raise ValueError(f"has {name} of shape {array.shape}, not {shape}")
    return array


def _rnn(
    call: Call, x: Array, w: Array, r: Array, b: Array | None = None, lengths: Array | None = None,
    h: Array | None = None,
) -> tuple[Array, ...]:  # fmt: skip
    return _run(call, RNN, x, w, r, b, lengths, [h])


def _gru(
    call: Call, x: Array, w: Array, r: Array, b: Array | None = None, lengths: Array | None = None,
    h: Array | None = None,
) -> tuple[Array, ...]:  # fmt: skip
    return _run(call, GRU, x, w, r, b, lengths, [h])


def _lstm(
    call: Call, x: Array, w: Array, r: Array, b: Array | None = None, lengths: Array | None = None,
    h: Array | None = None, c: Array | None = None, p: Array | None = None,
) -> tuple[Array, ...]:  # fmt: skip
    return _run(call, LSTM, x, w, r, b, lengths, [h, c], p)


OPERATORS: dict[str, Operator] = {"GRU": _gru, "LSTM": _lstm, "RNN": _rnn}
