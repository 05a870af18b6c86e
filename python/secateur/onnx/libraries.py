"""The optional libraries of ONNX, imported when first needed."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import MissingExtraError


def onnxruntime() -> Any:
    """The module onnxruntime.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError(
            'running ONNX models needs onnxruntime; install it with pip install "secateur[onnx]"'
        ) from error
