"""The error function, which NumPy has not."""

from __future__ import annotations

import numpy as np

from .call import Array, number

# Numerators and denominators, highest power first, of rational approximations of erf(x) / x in x², for
# small x, and of exp(x²) erfc(x) in x, for larger ones.
_SMALL = (
    (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
     3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)  # fmt: skip
_LARGE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
     1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
     3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
)  # fmt: skip
_BORDER = 0.46875
_ONE = 6.0
"""From here on erf(x) is 1, in double precision."""


def erf(x: Array) -> Array:
    """The error function, in the type of `x`: to a few units in the last place of it.

    References
    ----------
    W. J. Cody, Rational Chebyshev approximations for the error function. Math. Comp. 23 (1969).
    """
    z = np.minimum(np.abs(x), number(x, _ONE))
    square = z * z
    near = x * _ratio(_SMALL, np.minimum(square, number(x, _BORDER**2)))
    far = np.copysign(1 - np.exp(-square) * _ratio(_LARGE, z), x)
    return np.where(z <= _BORDER, near, far)


def _ratio(coefficients: tuple[tuple[float, ...], ...], x: Array) -> Array:
    above, below = (np.full_like(x, part[0]) for part in coefficients)
    for sum_, part in zip((above, below), coefficients, strict=True):
        for coefficient in part[1:]:
            sum_ *= x
            sum_ += number(x, coefficient)
    above /= below
    return above
