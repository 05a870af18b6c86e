"""Backward through a pruned Conv2D layer: dX and dW on the mask, against the dense layer's both gradients.

NCHW in and out on all sides but our own dense layer, which gets the channels-last arrays that it likes best.
The dense sides compute all of dW, as frameworks with masks do. torch takes part where it is installed (``make
bench-env``). "secateur + update" also takes new values for the weights, as an optimizer hands them over.

    python -m benches.peers.conv_backward --threads 1 --batch 32
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from .conv import SETS, Layer
from .machine import arguments, pin_threads, record
from .spmm import random_mask

DENSE = ("secateur dense", "torch")


def dense_sides(layer: Layer, weight: Any, x: Any, dy: Any, threads: int) -> dict[str, Callable[[], object]]:
    """Both gradients of the dense layer, by whoever can."""
    import numpy as np

    from secateur import _core

    pads = layer.size // 2
    last = [np.ascontiguousarray(images.transpose(0, 2, 3, 1)) for images in (x, dy)]
    geometry = ((1, 1), (1, 1), 1, (pads, pads, pads, pads))
    sides: dict[str, Callable[[], object]] = {
        "secateur dense": lambda: _core.conv2d_backward(last[0], weight, last[1], None, *geometry)
    }
    try:
        import torch
    except ImportError:
        return sides
    torch.set_num_threads(threads)
    tensors = [torch.from_numpy(array) for array in (x, weight, dy)]
    images, filters, gradient = tensors

    def both() -> None:
        torch.nn.grad.conv2d_input(images.shape, filters, gradient, padding=pads)
        torch.nn.grad.conv2d_weight(images, filters.shape, gradient, padding=pads)

    return sides | {"torch": both}


def measure(layer: Layer, batch: int, density: float, options: Any) -> dict[str, Any]:
    """Time one layer at one density and print the table."""
    import numpy as np

    import secateur as sc

    from .harness import aligned, compare

    rng = np.random.default_rng(options.seed)
    shape = (layer.filters, layer.channels, layer.size, layer.size)
    mask = random_mask(rng, (layer.filters, layer.channels * layer.size**2), density).reshape(shape)
    weight = aligned(rng.standard_normal(shape) * mask)
    size = (layer.pixels, layer.pixels)
    x = aligned(rng.standard_normal((batch, layer.channels, *size)))
    dy = aligned(rng.standard_normal((batch, layer.filters, *size)))
    conv = sc.pack_conv2d(weight, padding=layer.size // 2)
    values, dx, dv = conv.values, aligned(np.empty(x.shape)), aligned(np.empty(conv.nnz))

    def secateur() -> None:
        conv.grad_input(dy, size, out=dx)
        conv.sddmm(dy, x, out=dv)

    def updating() -> None:
        conv.update(values)
        secateur()

    candidates = dense_sides(layer, weight, x, dy, options.threads) | {
        "secateur": secateur,
        "secateur dX": lambda: conv.grad_input(dy, size, out=dx),
        "secateur dW": lambda: conv.sddmm(dy, x, out=dv),
        "secateur + update": updating,
    }
    secateur()
    wanted_dx, wanted_dw, _ = candidates["secateur dense"]()  # type: ignore[misc]
    if not (
        np.allclose(dx, wanted_dx.transpose(0, 3, 1, 2), rtol=1e-3, atol=1e-2)
        and np.allclose(dv, wanted_dw[weight != 0], rtol=1e-3, atol=1e-1)
    ):
        raise SystemExit(f"backward of {layer}, density {density}: wrong result")
    found = compare(candidates, baseline="secateur dense", rounds=options.rounds, threads=options.threads)
    best = found.fastest([name for name in DENSE if name in candidates])
    found = type(found)(best, found.timings)
    macs = float(layer.macs * batch)
    work = {name: 4.0 * macs for name in DENSE if name in candidates}
    nonzero = 2.0 * macs * conv.density
    work |= {"secateur": 2 * nonzero, "secateur dX": nonzero, "secateur dW": nonzero}
    title = f"{layer}, batch {batch}, density {density:g}, {options.threads} threads, against the best dense"
    print(found.table(title, work))
    return {
        "layer": asdict(layer),
        "batch": batch,
        "density": density,
        "best_dense": best,
        "rows": found.rows(),
    }


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.5, 0.3, 0.2, 0.1, 0.05])
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    pin_threads(options.threads)

    import secateur as sc

    sc.set_num_threads(options.threads)
    results = [
        measure(layer, options.batch, density, options)
        for layer in SETS["3x3"]
        for density in options.densities
    ]
    if not options.no_record:
        name = f"conv_backward 3x3, batch {options.batch}, {options.threads} threads"
        print(f"recorded in {record(name, {'seed': options.seed, 'results': results})}")


if __name__ == "__main__":
    main()
