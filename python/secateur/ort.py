"""ONNX Runtime, with the custom op ``secateur::Plan`` that rewritten models hold.

The op lives in this package's own extension module, which the ``onnxruntime`` of the package index loads.
"""

from __future__ import annotations

import importlib
import os
import re
from typing import Any

from . import _core
from .errors import MissingExtraError, UnsupportedOpError

DOMAIN = "secateur"
"""Of the op."""
OLDEST = (1, 17)
"""The first ONNX Runtime in which custom ops can infer shapes and return errors."""

__all__ = ["InferenceSession", "library_path", "register"]


def register(session_options: Any) -> None:
    """Make ``secateur::Plan`` known to sessions with these options; a second time changes nothing.

    Parameters
    ----------
    session_options : onnxruntime.SessionOptions

    Raises
    ------
    MissingExtraError
        If onnxruntime is not installed.
    UnsupportedOpError
        If it is older than 1.17.
    TypeError
        If these are no session options.

    Examples
    --------
    >>> import onnxruntime
    >>> import secateur as sc
    >>> options = onnxruntime.SessionOptions()
    >>> sc.ort.register(options)
    """
    runtime = _with_custom_ops()
    if not isinstance(session_options, runtime.SessionOptions):
        kind = type(session_options).__name__
        raise TypeError(f"session_options: expected onnxruntime.SessionOptions, got {kind}")
    session_options.register_custom_ops_library(library_path())


def InferenceSession(
    path_or_bytes: str | os.PathLike[str] | bytes, sess_options: Any = None, **kwargs: Any
) -> Any:
    """ONNX Runtime's ``InferenceSession`` of a model that may hold ``secateur::Plan``.

    Plans are read and packed for this CPU as the session is made, and run on the session's own threads. Other
    batch sizes than those that they were compiled for may pack some weights anew at their first run.

    Parameters
    ----------
    path_or_bytes : path-like or bytes
        The model.
    sess_options : onnxruntime.SessionOptions, optional
        They are registered with.
    **kwargs
        What else ONNX Runtime's own takes, ``providers`` for instance.

    Returns
    -------
    onnxruntime.InferenceSession

    Raises
    ------
    MissingExtraError, UnsupportedOpError, TypeError
        As for :func:`register`.
    """
    runtime = _with_custom_ops()
    options = runtime.SessionOptions() if sess_options is None else sess_options
    register(options)
    model = path_or_bytes if isinstance(path_or_bytes, bytes) else os.fspath(path_or_bytes)
    return runtime.InferenceSession(model, options, **kwargs)


def library_path() -> str:
    """The library to pass to ``register_custom_ops_library``: this package's extension module.

    It loads into processes that run Python. Programs without it load ``libsecateur_ort.so``, which
    ``cargo build --release -p secateur-ort`` makes.

    Returns
    -------
    str
    """
    return os.path.abspath(_core.__file__)


def onnxruntime(extra: str = "ort") -> Any:
    """The module.

    Parameters
    ----------
    extra : str
        The extra that a user who does not have it is told to install.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError(
            f'running ONNX models needs onnxruntime; install it with pip install "secateur[{extra}]"'
        ) from error


def _with_custom_ops() -> Any:
    """The module, where it is new enough."""
    found = onnxruntime()
    version = tuple(int(number) for number in re.findall(r"\d+", found.__version__)[:2])
    if version < OLDEST:
        raise UnsupportedOpError(
            f"secateur::Plan needs ONNX Runtime {'.'.join(map(str, OLDEST))} or newer, "
            f"this is {found.__version__}"
        )
    return found
