"""secateur prunes neural networks and makes them really faster and smaller on CPUs."""

from typing import TYPE_CHECKING, Any

from . import datasets, nn, ort
from ._core import PackedConv2D, PackedMatrix, cpu_target, get_num_threads, set_num_threads
from .applying import apply_mask
from .checkpoint import PrunedCheckpoint, prune_checkpoint
from .compiler import Plan, compile
from .criteria import importance
from .cutting import Cut, topk_cut
from .errors import FormatError, MissingExtraError, SecateurError, UnsupportedOpError
from .groups import block_mask, nm_mask
from .lookup import resolve
from .methods import (
    ACDC,
    DNS,
    SET,
    SNIP,
    DynamicPruner,
    GradientDynamic,
    Gradual,
    RigL,
    SparseDynamic,
    dynamic_pruning,
)
from .packing import pack, pack_conv2d
from .pruning import prune
from .result import PruneResult
from .schedules import Schedule
from .selection import kth_largest, prune_mask, topk_mask, topk_prune
from .sensitivity import sensitivity
from .shrink import remove_dead_neurons
from .sketch import Sketch
from .stop import AtSparsity, MaxDrop, NoImprovement
from .storage import load, save
from .thresholds import grad_prune, l1_prune, l2_prune

if TYPE_CHECKING:
    from .onnx.export import export_onnx as export_onnx
    from .onnx.model import OnnxModel as OnnxModel
    from .onnx.rewrite import compile_onnx as compile_onnx

_LAZY = {"OnnxModel": "model", "compile_onnx": "rewrite", "export_onnx": "export"}
"""Public names that need an extra, and where in ``secateur.onnx`` they are; not in `__all__`, so that
``import *`` does without."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve(f"{__name__}.onnx.{_LAZY[name]}:{name}")


__all__ = [
    "ACDC",
    "DNS",
    "SET",
    "SNIP",
    "AtSparsity",
    "Cut",
    "DynamicPruner",
    "FormatError",
    "GradientDynamic",
    "Gradual",
    "MaxDrop",
    "MissingExtraError",
    "NoImprovement",
    "PackedConv2D",
    "PackedMatrix",
    "Plan",
    "PruneResult",
    "PrunedCheckpoint",
    "RigL",
    "Schedule",
    "SecateurError",
    "Sketch",
    "SparseDynamic",
    "UnsupportedOpError",
    "apply_mask",
    "block_mask",
    "compile",
    "cpu_target",
    "datasets",
    "dynamic_pruning",
    "get_num_threads",
    "grad_prune",
    "importance",
    "kth_largest",
    "l1_prune",
    "l2_prune",
    "load",
    "nm_mask",
    "nn",
    "ort",
    "pack",
    "pack_conv2d",
    "prune",
    "prune_checkpoint",
    "prune_mask",
    "remove_dead_neurons",
    "save",
    "sensitivity",
    "set_num_threads",
    "topk_cut",
    "topk_mask",
    "topk_prune",
]
