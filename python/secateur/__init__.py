"""secateur prunes neural networks and makes them really faster and smaller on CPUs."""

from ._core import cpu_target, get_num_threads, set_num_threads
from .errors import FormatError, MissingExtraError, SecateurError, UnsupportedOpError

__all__ = [
    "FormatError",
    "MissingExtraError",
    "SecateurError",
    "UnsupportedOpError",
    "cpu_target",
    "get_num_threads",
    "set_num_threads",
]
