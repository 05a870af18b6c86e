"""Results as tables and pictures."""

from .models import kept_parameters, model_rows, nonzero_macs
from .plots import save_figure
from .tables import MODELS, STEPS, Column, print_table

__all__ = [
    "MODELS",
    "STEPS",
    "Column",
    "kept_parameters",
    "model_rows",
    "nonzero_macs",
    "print_table",
    "save_figure",
]
