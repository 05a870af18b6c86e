"""secateur prunes neural networks and makes them really faster and smaller on CPUs."""

from . import datasets, nn
from ._core import PackedConv2D, PackedMatrix, cpu_target, get_num_threads, set_num_threads
from .checkpoint import PrunedCheckpoint, prune_checkpoint
from .compiler import Plan, compile
from .criteria import importance
from .errors import FormatError, MissingExtraError, SecateurError, UnsupportedOpError
from .methods import DynamicPruner, GradientDynamic, Gradual, dynamic_pruning
from .packing import pack, pack_conv2d
from .pruning import prune
from .result import PruneResult
from .schedules import Schedule
from .selection import apply_mask, block_mask, kth_largest, nm_mask, prune_mask, topk_mask
from .shrink import remove_dead_neurons
from .stop import AtSparsity, MaxDrop, NoImprovement
from .storage import load, save
from .thresholds import grad_prune, l1_prune, l2_prune

__all__ = [
    "AtSparsity",
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
    "Schedule",
    "SecateurError",
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
    "pack",
    "pack_conv2d",
    "prune",
    "prune_checkpoint",
    "prune_mask",
    "remove_dead_neurons",
    "save",
    "set_num_threads",
    "topk_mask",
]
