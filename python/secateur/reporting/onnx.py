"""ONNX models on the command line: what is in one, and what pruning brought."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError
from ..measure import BATCHES, QUICK, Latency, compare
from ..models.view import view
from ..onnx.inspection import inspect_model, rows_worth_showing
from ..onnx.model import OnnxModel
from ..onnx.rewrite import Rewriting
from ..onnx.session import runner
from ..result import sizes
from .tables import Column

LAYERS = [
    Column("layer", "name"),
    Column("operator", "op"),
    Column("output", "output_shape", lambda shape: "×".join("?" if d is None else str(d) for d in shape)),
    Column("parameters", "parameters", "{:,}".format),
    Column("MACs", "macs", "{:,}".format),
    Column("density", "density", "{:.3f}".format),
    Column("time", "share", "{:.1%}".format),
    Column("would be faster", "hint"),
]

CHAINS = [
    Column("chain", "name"),
    Column("operators", "ops", " ".join),
    Column("density", "density", "{:.3f}".format),
    Column("batch", "batch"),
    Column("ONNX Runtime", "us_original", "{:,.1f} µs".format),
    Column("as a plan", "us", "{:,.1f} µs".format),
    Column("speed-up", "speedup", "{:.2f}×".format),
    Column("", "kept", {True: "kept", False: "left as it was"}.__getitem__),
]
WHOLE = [
    Column("batch", "batch"),
    Column("original", "us_original", "{:,.1f} µs".format),
    Column("rewritten", "us", "{:,.1f} µs".format),
    Column("speed-up", "speedup", "{:.2f}×".format),
]


def inspection(model: OnnxModel, path: Path) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """All about a model as data, and its table."""
    found = inspect_model(model)
    about = {"file": str(path), "bytes": path.stat().st_size, "kind": "onnx", **found}
    time = f"{about['us']:,.0f} µs" if about["us"] else f"not timed ({about['not_timed']})"
    title = (
        f"{path}: {about['kept']:,} of {about['parameters']:,} parameters, {about['nonzero_macs']:,} of "
        f"{about['macs']:,} MACs, {about['bytes']:,} bytes; batch 1, 1 thread, ONNX Runtime: {time}"
    )
    return about, (rows_worth_showing(about["layers"]), LAYERS, title)


def onnx_rows(models: Mapping[str, tuple[OnnxModel, Path]], threads: int = 1) -> list[dict[str, Any]]:
    """Describe models and time them in ONNX Runtime against the first one; see `model_rows`.

    Parameters and multiply-adds are those of the prunable weights. Without onnxruntime nothing is timed.
    """
    views = {name: view(model) for name, (model, _) in models.items()}
    times: dict[int, Any] = {}
    try:
        runs = {name: runner(model, threads) for name, (model, _) in models.items()}
        first = next(iter(views.values()))
        times = {batch: compare(runs, first.inputs(batch), rounds=QUICK) for batch in BATCHES}
    except MissingExtraError:
        pass
    rows = []
    for name, (_, path) in models.items():
        counts = sizes(views[name])
        row = {
            "name": name,
            "parameters": counts["weights"],
            "kept": counts["nonzero"],
            "macs": counts["macs"],
            "nonzero_macs": counts["nonzero_macs"],
            "accuracy": None,
            "bytes": path.stat().st_size,
        }
        for batch in BATCHES:
            latency = times[batch][name] if times else None
            row |= {f"us_{batch}": latency and latency.us, f"speedup_{batch}": latency and latency.speedup}
        rows.append(row)
    return rows


def rewriting(done: Rewriting, source: Path) -> tuple[Any, ...]:
    """All about a model with plans in it as data, and its tables."""
    chains = [
        {
            "name": part.chain.name,
            "ops": [node.op_type for node in part.chain.nodes],
            "density": part.density,
            "kept": part.kept,
            **_against(batch, found, "plan"),
        }
        for part in done.parts
        for batch, found in part.latencies.items()
    ]
    whole = [_against(batch, found, "rewritten") for batch, found in done.latencies.items()]
    before, after = (path.stat().st_size for path in (source, done.out))
    about = {
        "file": str(done.out),
        "bytes": after,
        "bytes_original": before,
        "weights": done.nbytes[1],
        "weights_original": done.nbytes[0],
        "threads": done.threads,
        "error": done.error,
        "chains": chains,
        "whole": whole,
    }
    kept = sum(part.kept for part in done.parts)
    title = (
        f"{done.out}: {after:,} bytes of {before:,}; {kept} of {len(done.parts)} pruned chains run as plans; "
        f"ONNX Runtime with {done.threads} thread(s), measured here"
    )
    return about, *([(chains, CHAINS)] if chains else []), (whole, WHOLE, title)


def _against(batch: int, found: Mapping[str, Latency], name: str) -> dict[str, Any]:
    latency = found[name]
    return {"batch": batch, "us_original": found["original"].us, "us": latency.us, "speedup": latency.speedup}
