"""Where the custom-op library for programs without Python lies: see ``secateur.ort.library_path``."""

from pathlib import Path

LIBRARY = Path(__file__).resolve().parent / "libsecateur_ort.so"
"""To be passed to ``RegisterCustomOpsLibrary_V2``; exports ``RegisterCustomOps``."""
