"""ONNX Runtime, with the custom op ``secateur::Plan`` that rewritten models hold.

In Python the op lives in this package's own extension module, which the ``onnxruntime`` of the package index
loads.
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
    session_options.register_custom_ops_library(os.path.abspath(_core.__file__))


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
    """The library with ``secateur::Plan`` for programs in C, C++ or another language.

    They pass it to ``RegisterCustomOpsLibrary_V2``; it needs no Python. (:func:`register` uses this package's
    extension module, which loads only into Python.) It comes in a package of its own, ``secateur-ort``.

    Returns
    -------
    str

    Raises
    ------
    MissingExtraError
        If secateur-ort is not installed.
    """
    try:
        secateur_ort = importlib.import_module("secateur_ort")
    except ImportError as error:
        raise MissingExtraError(
            "the library for other programs is in secateur-ort; install it with pip install secateur-ort"
        ) from error
    return str(secateur_ort.LIBRARY)


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
