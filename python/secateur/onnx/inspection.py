"""What is in an ONNX model, and where its time goes."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..errors import MissingExtraError
from ..ort import onnxruntime
from .files import one_line
from .model import OnnxModel
from .session import FREE, noise, session
from .weights import DOMAINS, RECURRENT, array_of, attribute, find_weights, is_open, lengths_of

SECONDS = 0.5
"""How long a model runs to be timed, at least; and five times."""
MATTERS = 0.05
"""The share of the time from which a node is worth a hint."""
SHOWN = 0.01
"""The share of the time from which any node is worth a row."""


def inspect_model(model: OnnxModel, batch: int = 1, threads: int = 1) -> dict[str, Any]:
    """Describe a model, node by node, and time it in ONNX Runtime.

    Parameters
    ----------
    model : OnnxModel
    batch : int
        Samples (of noise) to time with. A free dimension that is no batch counts as 64.
    threads : int

    Returns
    -------
    dict
        ``inputs`` and ``outputs``; ``parameters``, ``kept`` (nonzero), ``macs`` and ``nonzero_macs`` of one
        sample; ``us`` of one run, or None and ``not_timed``, which says why; and ``layers``, a list of dict
        with ``name``, ``op``, ``output_shape``, ``parameters``, ``kept``, ``macs``, ``nonzero_macs``,
        ``density`` (of the prunable weights, else None), ``share`` of the time (or None) and ``hint``.
    """
    readers = defaultdict(list)
    for weight in find_weights(model.ir.graph).values():
        readers[weight.readers[0]].append(weight)
    seen: set[ir.Value] = set()
    rows: list[dict[str, Any]] = []
    for node in model.ir.graph:
        own = [
            v for v in node.inputs if v is not None and v.is_initializer() and v not in seen and _counts(v)
        ]
        seen.update(own)
        size = sum(array_of(value).size for value in own)
        kept = sum(int(np.count_nonzero(array_of(value))) for value in own)
        weights = [weight.read(array_of(weight.value)) for weight in readers[node]]
        density = sum(map(np.count_nonzero, weights)) / sum(w.size for w in weights) if weights else None
        macs = _macs(node)
        rows.append(
            {
                "name": node.name or node.outputs[0].name,
                "op": node.op_type,
                "output_shape": _shape(node.outputs[0]),
                "parameters": size,
                "kept": kept,
                "macs": macs,
                "nonzero_macs": macs if density is None else round(macs * density),
                "density": density,
                "share": None,
                "hint": "",
            }
        )
    about: dict[str, Any] = {
        "inputs": [info._asdict() for info in model.inputs],
        "outputs": [info._asdict() for info in model.outputs],
        **{key: sum(row[key] for row in rows) for key in ("parameters", "kept", "macs", "nonzero_macs")},
        "us": None,
    }
    try:
        about["us"], shares = _profile(model, batch, threads)
    except MissingExtraError as error:
        about["not_timed"] = str(error)
    except Exception as error:  # noise is not every model's input, and ONNX Runtime has errors of its own
        about["not_timed"] = one_line(error)
    else:
        for row, share in zip(rows, shares, strict=True):
            row["share"], row["hint"] = share, _hint(row["density"], share)
    return {**about, "layers": rows}


def rows_worth_showing(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The layers that multiply or take time; the others together in one row."""
    shown: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for row in layers:
        (shown if row["macs"] or (row["share"] or 0) >= SHOWN else rest).append(row)
    if rest:
        timed = rest[0]["share"] is not None
        others = {
            **dict.fromkeys(("output_shape", "density"), None),
            **{key: sum(row[key] for row in rest) for key in ("parameters", "kept", "macs", "nonzero_macs")},
            "share": sum(row["share"] for row in rest) if timed else None,
        }
        shown.append({"name": f"{len(rest)} others", "op": "", "hint": "", **others})
    return shown


def _counts(value: ir.Value) -> bool:
    """Whether it is of numbers that were learned, not of axes and shapes."""
    return value.const_value is not None and value.dtype is not None and value.dtype.is_floating_point()


def _shape(value: ir.Value) -> list[int | str | None] | None:
    lengths = lengths_of(value)
    return None if lengths is None else [None if is_open(length) else length for length in lengths]


def _macs(node: ir.Node) -> int:
    """Multiply-adds for one sample; a dimension without a size counts as `FREE`."""

    def sizes(value: ir.Value | None) -> list[int]:
        found = None if value is None else _shape(value)
        return [size if isinstance(size, int) else FREE for size in found or []]

    if node.domain not in DOMAINS or len(node.inputs) < 2:
        return 0
    output, x, weight = (sizes(value) for value in (node.outputs[0], node.inputs[0], node.inputs[1]))
    if node.op_type == "Conv" and weight:
        return prod(output[1:]) * prod(weight[1:])
    if node.op_type == "ConvTranspose" and weight:
        return prod(x[1:]) * prod(weight[1:])
    if node.op_type == "MatMul" and x:
        return prod(output[1:]) * x[-1]
    if node.op_type == "Gemm" and len(x) == 2:
        return prod(output[1:]) * x[0 if attribute(node, "transA", 0) else 1]
    if node.op_type in RECURRENT and x:
        return x[0] * (prod(weight) + prod(sizes(node.inputs[2])))
    return 0


def _profile(model: OnnxModel, batch: int, threads: int) -> tuple[float, list[float]]:
    """Microseconds of a run, and the share of each node: ONNX Runtime's own account of its kernels.

    Only its basic optimizations are on, under which nodes are still those of the model.
    """
    named = model.copy()
    for i, node in enumerate(named.ir.graph):
        node.name = f"{i}:"
    given = noise(model, batch)
    feeds = given if isinstance(given, dict) else {model.inputs[0].name: given}
    level = onnxruntime("onnx").GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        running = session(
            named,
            threads,
            enable_profiling=True,
            graph_optimization_level=level,
            profile_file_prefix=str(Path(folder) / "profile"),
        )
        runs, start = 0, time.perf_counter()
        while runs < 5 or time.perf_counter() - start < SECONDS:
            running.run(None, feeds)
            runs += 1
        seconds = time.perf_counter() - start
        events = json.loads(Path(running.end_profiling()).read_text())
    times = [0.0] * len(model.ir.graph)
    total = 0.0
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            total += event["dur"]
            index = event["name"].partition(":")[0]
            if index.isdecimal():
                times[int(index)] += event["dur"]
    return seconds / runs * 1e6, [spent / max(total, 1e-9) for spent in times]


def _hint(density: float | None, share: float) -> str:
    """What would make a node faster, if it takes much of the time."""
    if density is None or share < MATTERS:
        return ""
    if density > 0.5:
        return f"prune: {share:.0%} of the time, {density:.0%} dense"
    return f"run sparse: {share:.0%} of the time, zeros are multiplied too"
