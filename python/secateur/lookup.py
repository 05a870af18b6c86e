"""What registries name by "module:attribute", so that nothing is imported before it is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def resolve(name: str) -> Any:
    """What ``"module:attribute"`` names.

    Examples
    --------
    >>> from secateur.lookup import resolve
    >>> resolve("math:pi") > 3
    True
    """
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def registered(registry: Mapping[str, str], model: object) -> Any:
    """What a registry has for a model's type, by its full name, or for what that is derived from; or None."""
    for cls in type(model).__mro__:
        name = registry.get(f"{cls.__module__}.{cls.__qualname__}")
        if name is not None:
            return resolve(name)
    return None
