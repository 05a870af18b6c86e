"""ONNX Runtime as it comes, running models that are in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._core import get_num_threads
from ..ort import DOMAIN, onnxruntime, register
from .feeds import checked, dtype_of, parts
from .files import write_model
from .model import OnnxModel
from .weights import array_of, is_constant

FREE = 64
"""What a dimension has that is not given and no batch: the steps of a sequence, say."""

Batch: TypeAlias = "NDArray[Any] | Mapping[str, NDArray[Any]]"


def session(model: OnnxModel, threads: int | None = None, **options: Any) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    Parameters
    ----------
    model : OnnxModel
    threads : int, optional
        By default those of `secateur.set_num_threads`.
    **options
        Attributes of `onnxruntime.SessionOptions` to set.

    Raises
    ------
    MissingExtraError
        Without onnxruntime.
    FormatError
        If the model contradicts itself.
    """
    ort = onnxruntime("onnx")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads or get_num_threads()
    settings.log_severity_level = 3
    for name, value in options.items():
        setattr(settings, name, value)
    if DOMAIN in model.ir.opset_imports:
        register(settings)
    # By a file, which serves models of more than 2 GB too.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_model(model.ir, path)
        return ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def runner(model: OnnxModel, threads: int | None = None, argument: str = "x") -> Callable[[Batch], list[Any]]:
    """What runs a model on a batch, or on a mapping of batches by input, and gives all its outputs.

    A model without a free dimension takes batches of one size alone: it runs as often as needed, the last
    time with samples repeated. Errors call the batch `argument`.

    Raises
    ------
    MissingExtraError
        Without onnxruntime.
    ValueError, TypeError
        When run, from `checked`.
    """
    running, infos = session(model, threads), model.inputs

    def run(batch: Batch) -> list[Any]:
        count, batches = parts(infos, checked(infos, batch, argument, any_batch=True))
        found = [running.run(None, feeds) for feeds in batches]
        if count is None:
            outputs: list[Any] = found[0]
            return outputs
        return [np.concatenate(each)[:count] for each in zip(*found, strict=True)]

    return run


def noise(model: OnnxModel, batch: int) -> Batch:
    """Samples to measure with: an array, or for several inputs a mapping.

    Floats are normal, ids that are looked up in a table uniform, other integers ones. The first free
    dimension is the batch, if there is none the first; others are `FREE`.
    """
    rng = np.random.default_rng(0)
    arrays = {}
    for info in model.inputs:
        dims = list(info.shape or ())
        if dims:
            dims[next((i for i, dim in enumerate(dims) if not isinstance(dim, int)), 0)] = batch
        shape = tuple(dim if isinstance(dim, int) else FREE for dim in dims)
        dtype = dtype_of(info)
        if dtype.kind == "f" or dtype.name == "bfloat16":
            arrays[info.name] = rng.standard_normal(shape, np.float32).astype(dtype)
        elif dtype.kind in "iu":
            rows = _table_rows(model, info.name)
            arrays[info.name] = rng.integers(0, rows, shape).astype(dtype) if rows else np.ones(shape, dtype)
        else:
            arrays[info.name] = np.ones(shape, dtype)
    return arrays if len(arrays) != 1 else next(iter(arrays.values()))


def _table_rows(model: OnnxModel, name: str) -> int:
    """How long the shortest table is in which an input's ids are looked up; 0 if they are in none."""
    (value,) = (value for value in model.ir.graph.inputs if value.name == name)
    waiting, rows = [value], []
    while waiting:
        for use in waiting.pop().uses():
            if use.node.op_type in ("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape"):
                waiting.append(use.node.outputs[0])
            elif use.node.op_type == "Gather" and use.idx == 1 and is_constant(use.node.inputs[0]):
                rows.append(len(array_of(use.node.inputs[0])))  # type: ignore[arg-type]
    return min(rows, default=0)
