"""What a model has and takes: the table of its layers, and its bytes in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .optimizers import Optimizer

if TYPE_CHECKING:
    from .sequential import Sequential


def memory(model: Sequential, samples: int, optimizer: Optimizer | None) -> dict[str, int]:
    """Of a built model; see `Sequential.memory`."""
    leaves = list(model.leaves())
    held = [array for layer in leaves for array in (*layer.arrays(), *layer.masks.values())]
    packed = sum(layer.packed_bytes() for layer in leaves)
    slots = () if optimizer is None else optimizer.slots.values()
    shapes = [(model.input_shape or (), 1), *((leaf.output_shape, leaf.times) for leaf in leaves)]
    floats = sum(int(np.prod(shape)) * times for shape, times in shapes)
    return {
        "weights": sum(array.nbytes for array in held) + packed,
        "state": sum(array.nbytes for memory in slots for array in memory.values()),
        "activations": 4 * samples * floats,
    }


def table(model: Sequential) -> str:
    """Of a built model; see `Sequential.summary`."""
    rows: list[tuple[str, ...]] = [("layer", "output shape", "parameters", "nonzero", "MACs")]
    for layer in model.leaves():
        arrays = layer.params.values()
        size, nonzero = (sum(int(count(array)) for array in arrays) for count in (np.size, np.count_nonzero))
        macs = layer.macs() * layer.times
        rows.append((layer.name, str(layer.output_shape), f"{size:,}", f"{nonzero:,}", f"{macs:,}"))
    totals = (model.num_parameters(), model.num_parameters(nonzero=True), model.macs())
    rows.append(("total", "", *(f"{total:,}" for total in totals)))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
