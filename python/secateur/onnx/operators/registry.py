"""All operators, by name."""

from .call import Operator

OPERATORS: dict[str, Operator] = {}
