"""Activations that a graph spells out: GELU in five nodes, SiLU and HardSwish in two.

A formula is p(x) + q(x) · f(r(x)) of a stage x, with polynomials p, q and r of degree 3 at most and one
function f.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import Polynomial

from .stages import Stage

DEGREE = 3
TOLERANCE = 1e-4
"""Of the coefficients: some exporters round them."""

CLIP6 = '{"clip": [0.0, 6.0]}'
X = Polynomial([0.0, 1.0])
NONE = Polynomial([0.0])


class Formula(NamedTuple):
    """p(x) + q(x) · f(r(x)).

    Attributes
    ----------
    of : Stage
        x.
    p, q, r : Polynomial
    f : str
        ``"erf"``, ``"tanh"``, ``"sigmoid"``, or what a description calls another activation, as JSON; empty
        where q is 0.
    """

    of: Stage
    p: Polynomial
    q: Polynomial = NONE
    f: str = ""
    r: Polynomial = NONE

    def line(self, factor: float, summand: float) -> Formula | None:
        """factor · this + summand."""
        return _checked(self.of, self.p * factor + summand, self.q * factor, self.f, self.r)

    def plus(self, other: Formula) -> Formula | None:
        """The sum, where at most one of both has a function, or both the same one."""
        if self.of != other.of or not self._goes_with(other):
            return None
        f = self if self.f else other
        return _checked(self.of, self.p + other.p, self.q + other.q, f.f, f.r)

    def times(self, other: Formula) -> Formula | None:
        """The product, where at most one of both has a function."""
        if self.of != other.of or (self.f and other.f):
            return None
        plain, f = (other, self) if self.f else (self, other)
        return _checked(self.of, plain.p * f.p, plain.p * f.q, f.f, f.r)

    def under(self, f: str) -> Formula | None:
        """A function of this."""
        return None if self.f else Formula(self.of, NONE, Polynomial([1.0]), f, self.p)

    def _goes_with(self, other: Formula) -> bool:
        return not self.f or not other.f or (self.f == other.f and _alike(self.r, other.r))

    def activation(self) -> Any:
        """The activation of x that this is; None if it is none."""
        for kind, (p, q, f, r) in ACTIVATIONS.items():
            if f == self.f and _alike(p, self.p) and _alike(q, self.q) and _alike(r, self.r):
                return kind
        return None


def _checked(of: Stage, p: Polynomial, q: Polynomial, f: str, r: Polynomial) -> Formula | None:
    finite = all(np.isfinite(part.coef).all() for part in (p, q))
    if not finite or max(p.trim().degree(), q.trim().degree()) > DEGREE:
        return None
    return Formula(of, p.trim(), q.trim(), f, r)


def _alike(one: Polynomial, other: Polynomial) -> bool:
    a, b = (np.resize(np.pad(part.coef, (0, DEGREE + 1)), DEGREE + 1) for part in (one, other))
    return bool(np.allclose(a, b, rtol=TOLERANCE, atol=1e-7))


class Spelled(NamedTuple):
    """A value that no node of a plan makes, but that is part of what one may."""

    formulas: tuple[Formula, ...]


_WAVE = math.sqrt(2 / math.pi)
ACTIVATIONS = {
    "gelu": (X / 2, X / 2, "erf", X * math.sqrt(0.5)),
    "gelu_tanh": (X / 2, X / 2, "tanh", _WAVE * X + _WAVE * 0.044715 * X**3),
    "silu": (NONE, X, "sigmoid", X),
    "hard_swish": (NONE, X / 6, CLIP6, X + 3),
}
"""p, q, f and r of each."""


def combined(ones: Iterable[Formula], others: Iterable[Formula], how: str) -> list[Formula]:
    """All sums (``"plus"``) or products (``"times"``) that are formulas of one stage."""
    pairs = [getattr(one, how)(other) for one in ones for other in others]
    return [pair for pair in pairs if pair is not None]
