"""Dynamic pruning: methods that remove weights while the model trains."""

from .base import DynamicPruner, Method
from .gradient_dynamic import GradientDynamic
from .gradual import Gradual
from .threshold import dynamic_pruning

__all__ = ["DynamicPruner", "GradientDynamic", "Gradual", "Method", "dynamic_pruning"]
