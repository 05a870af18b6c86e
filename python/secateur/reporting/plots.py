"""Pictures, where matplotlib is installed."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence

from ..errors import MissingExtraError
from ..storage import write_atomic

Curve = Sequence[tuple[float, float]]


def save_figure(
    curves: Mapping[str, Curve],
    layers: Mapping[str, Mapping[str, float]],
    path: str | os.PathLike[str],
    title: str = "",
) -> None:
    """Draw accuracy against sparsity, and every layer's time in every model, into a PNG file.

    Parameters
    ----------
    curves : mapping of str to sequence of (sparsity, accuracy)
        A line for each method; the first point of one may be the model before pruning.
    layers : mapping of str to mapping of str to float
        For each model, the microseconds of each layer by name; the first model is what the others are
        compared with.
    path : path-like
        The file, written whole or not at all.
    title : str
        Over both pictures.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("figures need matplotlib: pip install 'secateur[demo]'") from error
    # Figure without pyplot: no display, no global state.
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    if title:
        figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    for name, points in curves.items():
        left.plot([100 * s for s, _ in points], [100 * a for _, a in points], marker="o", ms=3.5, label=name)
    left.set(xlabel="weights removed (%)", ylabel="test accuracy (%)", title="Accuracy against sparsity")
    left.grid(alpha=0.3)
    left.legend()

    names = list(next(iter(layers.values()), {}))
    width = 0.8 / max(1, len(layers))
    for i, (model, times) in enumerate(layers.items()):
        places = [j + (i - (len(layers) - 1) / 2) * width for j in range(len(names))]
        right.bar(places, [times.get(name, 0.0) for name in names], width, label=model)
    right.set_xticks(range(len(names)), names)
    right.set(ylabel="µs, batch 32", title="Time of each layer", yscale="log")
    right.grid(axis="y", alpha=0.3)
    right.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_atomic(path, buffer.getvalue())
