"""Pruned chains of an ONNX model as custom ops of ONNX Runtime, each where that was measured to be faster.

A chain becomes one node ``secateur::Plan`` with a plan's file as a weight, so layouts change once a chain.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from .._core import get_num_threads
from ..compiler import Plan
from ..errors import SecateurError
from ..measure import QUICK, ROUNDS, Latency, compare
from ..storage import dump
from .chains import Chain, find_chains
from .files import infer_shapes, write_model
from .model import OnnxModel
from .session import Batch, noise, session

DOMAIN = "secateur"
VERSION = 1
"""Of the domain."""
MARGIN = 1.03
"""A chain must be faster by this much, at every batch size: timing noise must not cost users speed."""
TOLERANCE = 1e-4
"""How far outputs may be from the original's, relative to the largest of them."""
SLICE = 128
"""Vectors that a plan takes at a time; more would push activations out of the caches."""


@dataclass
class ChainReport:
    """What became of a chain.

    Attributes
    ----------
    name : str
        Of the first layer, and of the node that took the chain's place.
    nodes : list of str
        The operators, in running order.
    density : float
        Nonzero share of its weights.
    latencies : dict of int to dict
        By batch size, of the chain as a model of its own in ONNX Runtime: ``{"original", "plan"}``.
    kept : bool
        Whether the node is in the file.
    """

    name: str
    nodes: list[str]
    density: float
    latencies: dict[int, dict[str, Latency]]
    kept: bool

    @property
    def speedup(self) -> float:
        """At the batch size where it is least."""
        return min(found["plan"].speedup for found in self.latencies.values())


@dataclass
class Rewriting:
    """What `compile_onnx` did.

    Attributes
    ----------
    out : pathlib.Path
    nbytes : tuple of int
        Bytes of the weights, before and after.
    threads : int
    chains : list of ChainReport
    latencies : dict of int to dict
        By batch size, of the whole model in ONNX Runtime: ``{"original", "rewritten"}``.
    error : float
        The largest difference between the outputs, relative to the largest of them.
    """

    out: Path
    nbytes: tuple[int, int]
    threads: int
    chains: list[ChainReport]
    latencies: dict[int, dict[str, Latency]]
    error: float


def compile_onnx(
    source: str | os.PathLike[str] | OnnxModel,
    out: str | os.PathLike[str],
    *,
    batch: int | Iterable[int] = (1, 32),
    threads: int | None = None,
    rounds: int = ROUNDS,
) -> Rewriting:
    """Rewrite a pruned ONNX model so that it runs faster in ONNX Runtime.

    Chains of pruned layers and the operators around them become nodes ``secateur::Plan``, each where that was
    measured to be faster at every batch size; the rest stays as it was. At last the whole model is timed
    against the original, and what does not hold there is taken back. The file runs wherever
    :func:`secateur.ort.register` was called: its weights are packed for the CPU that loads it, and the
    choices of this one are a hint.

    Parameters
    ----------
    source : path-like or OnnxModel
    out : path-like
        Ends in ``.onnx``. Written only when the model loads and runs in ONNX Runtime, and its outputs are the
        original's up to 1e-4 of the largest.
    batch : int or iterable of int, default=(1, 32)
        Batch sizes to choose and measure for; of a model that takes one alone, that one counts.
    threads : int, optional
        Of the sessions that are timed; by default those of :func:`secateur.set_num_threads`.
    rounds : int, default=31
        Of the last comparison.

    Returns
    -------
    Rewriting

    Raises
    ------
    FormatError, OSError
        As `read_model` and `write_model`.
    MissingExtraError
        Without onnxruntime.
    SecateurError
        If the outputs differ; nothing is written then.
    ValueError
        For a suffix other than ``.onnx``, or no positive batch sizes.
    """
    sizes = [batch] if isinstance(batch, int) else sorted(set(batch))
    if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"batch: expected one or more positive integers, got {batch!r}")
    path = Path(out)
    if path.suffix != ".onnx":
        raise ValueError(f"out: expected a path that ends in .onnx, got {str(path)!r}")
    model = source if isinstance(source, OnnxModel) else OnnxModel.load(source)
    threads = threads or get_num_threads()
    feeds = _feeds(model, sizes)
    chains = find_chains(model.ir)
    candidates = [i for i, chain in enumerate(chains) if density(chain) < 1]
    shapes = {size: _shapes(model, feed) for size, feed in feeds.items()}
    blobs: dict[int, bytes] = {}
    reports: dict[int, ChainReport] = {}
    for i in candidates:
        inputs = {size: found.get(chains[i].input.name or "") for size, found in shapes.items()}
        if all(shape is not None for shape in inputs.values()):
            reports[i], blobs[i] = _try(model, chains[i], inputs, threads)  # type: ignore[arg-type]
    while True:
        kept = {i: blobs[i] for i, report in reports.items() if report.kept}
        rewritten = replace(model, kept)
        error, latencies = _against(model, rewritten, feeds, threads, rounds)
        if not kept or min(found["rewritten"].speedup for found in latencies.values()) >= 1:
            break
        # What was faster by itself was not here, beside ONNX Runtime's own layouts: the lesser half goes.
        for i in sorted(kept, key=lambda i: reports[i].speedup)[: math.ceil(len(kept) / 2)]:
            reports[i].kept = False
    if error > TOLERANCE:
        raise SecateurError(f"{path}: not written: outputs differ by {error:.1e} of the largest")
    write_model(rewritten.ir, path)
    nbytes = (_nbytes(model), _nbytes(rewritten))
    return Rewriting(path, nbytes, threads, list(reports.values()), latencies, error)
