"""secateur prunes neural networks and makes them really faster and smaller on CPUs."""

from . import datasets, nn
from ._core import PackedMatrix, cpu_target, get_num_threads, set_num_threads
from .compiler import Plan, compile
from .errors import FormatError, MissingExtraError, SecateurError, UnsupportedOpError
from .packing import pack
from .storage import load, save

__all__ = [
    "FormatError",
    "MissingExtraError",
    "PackedMatrix",
    "Plan",
    "SecateurError",
    "UnsupportedOpError",
    "compile",
    "cpu_target",
    "datasets",
    "get_num_threads",
    "load",
    "nn",
    "pack",
    "save",
    "set_num_threads",
]
