"""What LSTM, GRU and RNN do in one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from . import activations
from .call import Array, Call, number
from .products import product

Activation: TypeAlias = "Callable[[Array], Array]"
State: TypeAlias = "tuple[Array, ...]"
"""(n, hidden) each; the first is what is put out."""

ACTIVATIONS: dict[str, tuple[Callable[..., Array], tuple[float | None, ...]]] = {
    "affine": (activations.affine, (None, None)),
    "elu": (activations.elu, (1.0,)),
    "hardsigmoid": (activations.hard_sigmoid, (0.2, 0.5)),
    "leakyrelu": (activations.leaky_relu, (0.01,)),
    "relu": (activations.relu, ()),
    "scaledtanh": (activations.scaled_tanh, (None, None)),
    "sigmoid": (activations.sigmoid, ()),
    "softplus": (activations.softplus, ()),
    "softsign": (activations.softsign, ()),
    "tanh": (np.tanh, ()),
    "thresholdedrelu": (activations.thresholded_relu, (None,)),
}
"""By name in lower case, with the defaults of alpha and beta, if they have them.

None where these must be given: ONNX Runtime has others than the specification.
"""


class Weights(NamedTuple):
    """What one direction of a layer computes with, besides its inputs' part in the gates.

    Attributes
    ----------
    recurrent : ndarray of shape (hidden, gates * hidden)
    bias : ndarray of shape (gates * hidden,)
        Added to products with the state.
    peepholes : list of ndarray of shape (hidden,)
        Of the LSTM's gates i, o and f.
    activations : list of callable
        f, g and h of the specification.
    """

    recurrent: Array
    bias: Array
    peepholes: list[Array]
    activations: list[Activation]


class Kind(NamedTuple):
    """A recurrent operator.

    Attributes
    ----------
    gates : int
    activations : tuple of str
        Of a direction, by default.
    step : callable
        From the inputs' part in the gates, (n, gates * hidden), and a state to the next state.
    """

    gates: int
    activations: tuple[str, ...]
    step: Callable[[Call, Weights, Array, State], State]


def _rnn(call: Call, weights: Weights, gates: Array, state: State) -> State:
    (h,), (f,) = state, weights.activations
    return (f(gates + product(h, weights.recurrent, call.threads) + weights.bias),)


def _gru(call: Call, weights: Weights, gates: Array, state: State) -> State:
    (h,), (f, g), both = state, weights.activations, 2 * state[0].shape[1]
    first, last = weights.recurrent[:, :both], weights.recurrent[:, both:]
    known = product(h, first, call.threads) + weights.bias[:both]
    update, reset = np.split(f(gates[:, :both] + known), 2, axis=1)
    if call.get("linear_before_reset", 0):
        past = reset * (product(h, last, call.threads) + weights.bias[both:])
    else:
        past = product(reset * h, last, call.threads) + weights.bias[both:]
    return ((1 - update) * g(gates[:, both:] + past) + update * h,)


def _lstm(call: Call, weights: Weights, gates: Array, state: State) -> State:
    (h, c), (f, g, put) = state, weights.activations
    seen_i, seen_o, seen_f = weights.peepholes
    known = product(h, weights.recurrent, call.threads) + weights.bias
    i, o, forget, new = np.split(gates + known, 4, axis=1)
    i = f(i + seen_i * c)
    forget = 1 - i if call.get("input_forget", 0) else f(forget + seen_f * c)
    c = forget * c + i * g(new)
    return f(o + seen_o * c) * put(c), c


RNN = Kind(1, ("tanh",), _rnn)
GRU = Kind(3, ("sigmoid", "tanh"), _gru)
LSTM = Kind(4, ("sigmoid", "tanh", "tanh"), _lstm)


def activations_of(call: Call, kind: Kind, directions: int) -> list[list[Activation]]:
    """The activations of each direction of a node, clipping included."""
    default = kind.activations * directions
    names = [name.lower() for name in call.get("activations") or default]
    if len(names) != len(default):
        raise ValueError(f"has {len(names)} activations, not {len(default)}")
    alphas, betas = iter(call.get("activation_alpha") or ()), iter(call.get("activation_beta") or ())
    found: list[Activation] = []
    for name in names:
        if name not in ACTIVATIONS:
            raise call.unsupported(f"with the activation {name!r}")
        function, defaults = ACTIVATIONS[name]
        # Only those that have parameters take some of those given.
        given = [next(values, value) for values, value in zip((alphas, betas), defaults, strict=False)]
        if None in given:
            raise call.unsupported(f"with the activation {name!r} without its parameters")
        # What h of an LSTM is applied to is no gate, and ONNX Runtime does not clip it.
        limit = call.get("clip") if len(found) % len(kind.activations) < 2 else None
        found.append(_clipped(function, given, limit))
    return [found[at : at + len(kind.activations)] for at in range(0, len(found), len(kind.activations))]


def _clipped(function: Callable[..., Array], parameters: list[Any], limit: float | None) -> Activation:
    if limit is None:
        return lambda x: function(x, *parameters)
    return lambda x: function(np.clip(x, -number(x, limit), number(x, limit)), *parameters)
