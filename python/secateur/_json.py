"""JSON for whoever reads it: it has no NaN and no infinities."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(value: Any, indent: int | None = None) -> str:
    """The value as JSON, null where a number is not finite.

    Examples
    --------
    >>> from secateur._json import dumps
    >>> dumps({"loss": float("nan"), "epochs": [0, 1]})
    '{"loss": null, "epochs": [0, 1]}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value
