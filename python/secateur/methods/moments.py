"""Moments of a training, batch numbers or shares of it, and shares of other things."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_moment(name: str, value: Any) -> float | int:
    """`value` as a number of batches (an int) or a share of the training (a float), else a ValueError."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not value >= 0 or (isinstance(value, (float, np.floating)) and value > 1):
        raise ValueError(f"{name}: expected a number of batches or a share in [0.0, 1.0], got {value!r}")
    return int(value) if isinstance(value, (int, np.integer)) else float(value)


def check_share(name: str, value: Any) -> float:
    """`value` as a share in (0, 1], else a ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value <= 1:
        raise ValueError(f"{name}: expected a number in (0, 1], got {value!r}")
    return float(value)


def batches(moment: float | int, steps: int) -> int:
    """The batches before a moment of a training of `steps` batches.

    Examples
    --------
    >>> from secateur.methods.moments import batches
    >>> batches(0.25, 1000), batches(7, 1000)
    (250, 7)
    """
    return round(moment * steps) if isinstance(moment, float) else moment


def ordered(steps: int, **moments: float | int) -> list[int]:
    """The batches before each of the moments, which must follow each other and end within the training."""
    found = [batches(moment, steps) for moment in moments.values()]
    if sorted(found) != found or found[-1] > steps:
        names, numbers = " <= ".join(moments), " and ".join(map(str, found))
        raise ValueError(f"{list(moments)[-1]}: expected {names} <= {steps} batches, got {numbers}")
    return found
