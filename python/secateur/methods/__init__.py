"""Dynamic pruning: methods that remove weights while the model trains."""

from .acdc import ACDC
from .base import DynamicPruner, Method
from .dns import DNS
from .gradient_dynamic import GradientDynamic
from .gradual import Gradual
from .rigl import RigL
from .set import SET
from .snip import SNIP
from .sparse_dynamic import SparseDynamic
from .threshold import dynamic_pruning

__all__ = [
    "ACDC",
    "DNS",
    "SET",
    "SNIP",
    "DynamicPruner",
    "GradientDynamic",
    "Gradual",
    "Method",
    "RigL",
    "SparseDynamic",
    "dynamic_pruning",
]
