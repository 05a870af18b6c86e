"""Pruning of safetensors checkpoints that need not fit the memory.

The weights are ranked through memory maps, which says where their order is cut: `secateur.checkpoint_cut`.
Then the files are copied with zeros behind the cut: headers, and with them every offset, stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray

from . import _core
from ._arguments import as_number
from .checkpoint_cut import find_cut, pieces_of, refuse_nan
from .checkpoint_draft import Draft
from .cutting import Cut
from .errors import FormatError
from .granularity import Granularity, Pattern, Weights, parse_granularity
from .names import select_names
from .progress import progress_bar
from .shards import Checkpoint, TensorInfo, open_checkpoint, view_of

__all__ = ["PrunedCheckpoint", "prune_checkpoint"]


@dataclass(frozen=True)
class PrunedCheckpoint:
    """What :func:`prune_checkpoint` wrote.

    Attributes
    ----------
    out : str
        The file or folder.
    files : int
        The number of safetensors files in it.
    bytes : int
        Their size.
    tensors : int
        The number of tensors that were pruned.
    weights, kept : int
        How many weights these have, and how many were not removed.
    sparsity : float
        The share that was.
    """

    out: str
    files: int
    bytes: int
    tensors: int
    weights: int
    kept: int
    sparsity: float


def prune_checkpoint(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    sparsity: float | None = None,
    *,
    granularity: str = "weight",
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    progress: bool = True,
) -> PrunedCheckpoint:
    """Zero the smallest weights of a safetensors checkpoint of any maker and size.

    The files are read through memory maps; beyond them no more memory is needed than for the weights close to
    the cut and a few pieces of a tensor (tensors that a file holds at odd addresses are copied). The result
    has the headers, and thereby the names, order, dtypes and metadata, of the source.

    Prunable are tensors of F64, F32, F16 and BF16 with at least two dimensions: biases and norms are neither
    removed nor counted. What is not pruned is copied bit by bit.

    Parameters
    ----------
    source : path-like
        A safetensors file; or, of a checkpoint in several, its ``*.safetensors.index.json`` or the folder
        that holds one. Its files must not be changed meanwhile.
    out : path-like
        A file, which is replaced if it exists, or for a checkpoint in several files a new folder, which gets
        files of the same names and the index. Until it is whole everything is in the folder ``OUT.partial``.
        A call that was interrupted can be repeated: finished files there are not made again.
    sparsity : float in [0, 1]
        The share of the prunable weights to remove, the smallest magnitudes of all tensors together:
        n − round_half_even(sparsity · n) of n stay. Equal ones are kept in the order of their tensors' names,
        then of their flat indices. Not with N:M, which is a sparsity of its own.
    granularity : str
        "weight", or N:M such as "2:4": of every M weights along the last axis, N stay; see `nm_mask`.
    include, exclude : str or iterable of str, optional
        Tensors by name or pattern (``"*.mlp.*"``); all prunable ones by default.
    progress : bool
        Whether to show a progress bar, if stderr is a terminal.

    Returns
    -------
    PrunedCheckpoint
        Counts of files, tensors and weights.

    Raises
    ------
    ValueError
        Naming the argument that is wrong; if `out` is in the way or another process writes there.
    FormatError
        Naming the file that is missing, truncated or damaged, or the weight that is NaN; nothing is written.
    OSError
        If a file cannot be written.

    Examples
    --------
    >>> import json, tempfile
    >>> import numpy as np
    >>> import secateur as sc
    >>> w = np.array([[1.0, -4.0], [0.5, 2.0]], np.float32)
    >>> header = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    >>> text = json.dumps(header).encode()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open(f"{folder}/model.safetensors", "wb") as file:
    ...         _ = file.write(len(text).to_bytes(8, "little") + text + w.tobytes())
    ...     done = sc.prune_checkpoint(f"{folder}/model.safetensors", f"{folder}/pruned.safetensors", 0.5)
    ...     pruned = np.fromfile(f"{folder}/pruned.safetensors", np.float32, offset=8 + len(text))
    >>> pruned
    array([ 0., -4.,  0.,  2.], dtype=float32)
    >>> done.kept, done.weights
    (2, 4)
    """
    unit = parse_granularity(granularity)
    fraction = _check_target(sparsity, granularity, unit)
    checkpoint = open_checkpoint(source)
    draft = Draft(out, checkpoint)
    chosen = _select(checkpoint, include, exclude)
    weights = sum(info.size for info in chosen.values())
    if isinstance(unit, Pattern):
        kept = sum(info.size // info.shape[-1] * unit.kept(info.shape[-1]) for info in chosen.values())
    else:
        kept = _core.kept(fraction, weights)
    job: dict[str, Any] = {"granularity": granularity, "kept": kept, "tensors": sorted(chosen)}
    if (earlier := draft.earlier(job)) is None:
        with progress_bar("ranking", None, progress):
            cut = _cut_of(checkpoint, chosen, None if isinstance(unit, Pattern) else kept)
        job["cut"] = None if cut is None else asdict(cut)
    else:
        job = earlier
        cut = None if job["cut"] is None else Cut(**job["cut"])

    rule = unit if isinstance(unit, Pattern) else cut
    draft.write(job, chosen, lambda info: pieces_of(info, rule), progress)
    size = sum(shard.size for shard in checkpoint.shards)
    return PrunedCheckpoint(
        os.fspath(out), len(checkpoint.shards), size, len(chosen), weights, kept, 1 - kept / weights
    )


def _check_target(sparsity: Any, granularity: str, unit: Granularity) -> float:
    """The sparsity, checked; N:M has its own."""
    if isinstance(unit, Pattern):
        if sparsity is not None:
            raise ValueError(f"sparsity: {granularity} has one of its own, got {sparsity!r} beside it")
        return 1 - unit.n / unit.m
    if not isinstance(unit, Weights):
        raise ValueError(f"granularity: a checkpoint takes weight or N:M (2:4), got {granularity!r}")
    if sparsity is None:
        raise ValueError("sparsity: missing")
    return as_number(sparsity, "sparsity", 0.0, 1.0)


def _select(checkpoint: Checkpoint, include: Any, exclude: Any) -> dict[str, TensorInfo]:
    """The tensors to prune."""
    for shard in checkpoint.shards:
        if shard.metadata.get("format") == "secateur":
            raise ValueError(f"source: {shard.path} is a file of secateur.save; load it and prune the model")
    found = {info.name: info for shard in checkpoint.shards for info in shard.tensors if info.prunable}
    if not found:
        raise ValueError("source: no tensor of F64, F32, F16 or BF16 has two or more dimensions")
    return {name: found[name] for name in select_names(found, include, exclude)}


def _cut_of(checkpoint: Checkpoint, chosen: Collection[str], kept: int | None) -> Cut | None:
    """The cut that keeps so many; none where every tensor is masked by itself. NaN is refused either way."""
    tensors: dict[str, NDArray[Any]] = {}
    for shard in checkpoint.shards:
        mapped = shard.map()
        tensors |= {info.name: view_of(info, mapped) for info in shard.tensors if info.name in chosen}
    try:
        if kept is not None:
            return find_cut(tensors, kept)
        refuse_nan(tensors)
        return None
    except ValueError as error:
        raise FormatError(f"{checkpoint.index or checkpoint.shards[0].path}: {error}") from None
