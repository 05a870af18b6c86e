"""Backward through a pruned Dense layer: dX = Wᵀ·dY and dW on the mask, against two dense products.

``dY`` is (m, n), ``X`` (k, n), as they are beside ``W @ X``. The dense side computes all of dW, as frameworks
with masks do. "secateur + update" also takes new values for the weights, as an optimizer hands them over.

    python -m benches.peers.backward --threads 1 --batch 128 384
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .machine import arguments, pin_threads, record
from .spmm import DENSE, SHAPES, random_mask, read_shapes


def measure(shape: tuple[int, int, int], density: float, options: Any) -> dict[str, Any]:
    """Time one shape at one density and print the table."""
    import numpy as np

    import secateur as sc
    from secateur import _core

    from . import mkl
    from .harness import aligned, compare

    m, k, n = shape
    rng = np.random.default_rng(options.seed)
    w = aligned(rng.standard_normal((m, k)) * random_mask(rng, (m, k), density))
    x, dy = aligned(rng.standard_normal((k, n))), aligned(rng.standard_normal((m, n)))
    dx, dw = aligned(np.empty((k, n))), aligned(np.empty((m, k)))
    packed = sc.pack(w)
    values = packed.values
    dv = aligned(np.empty(packed.nnz))
    across = packed.T

    def numpy() -> None:
        np.matmul(w.T, dy, out=dx)
        np.matmul(dy, x.T, out=dw)

    def gemm() -> None:
        # Its results' memory is new every time, but comes from the last call's.
        _core.matmul(w, dy, transpose_a=True)
        _core.matmul(dy, x, transpose_b=True)

    def secateur() -> None:
        across.matmul(dy, out=dx)
        packed.sddmm(dy, x, out=dv)

    def updating() -> None:
        packed.update(values)
        secateur()

    candidates: dict[str, Callable[[], object]] = {
        "numpy": numpy,
        "gemm crate": gemm,
        "secateur": secateur,
        "secateur dX": lambda: across.matmul(dy, out=dx),
        "secateur dW": lambda: packed.sddmm(dy, x, out=dv),
        "secateur + update": updating,
    }
    if lib := mkl.library():
        candidates["mkl"] = mkl.backward(lib, w, x, dy, dx, dw)
    secateur()
    wanted = (w.astype(np.float64).T @ dy, (dy.astype(np.float64) @ x.T)[w != 0])
    if not (
        np.allclose(dx, wanted[0], rtol=1e-3, atol=1e-3) and np.allclose(dv, wanted[1], rtol=1e-3, atol=1e-3)
    ):
        raise SystemExit(f"backward at {shape}, density {density}: wrong result")
    found = compare(candidates, baseline="numpy", rounds=options.rounds, threads=options.threads)
    best = found.fastest([name for name in DENSE if name in candidates])
    found = type(found)(best, found.timings)
    work = {name: 4.0 * m * k * n for name in DENSE if name in candidates}
    work |= {
        "secateur": 4.0 * packed.nnz * n,
        "secateur dX": 2.0 * packed.nnz * n,
        "secateur dW": 2.0 * packed.nnz * n,
    }
    title = f"{m}x{k}, batch {n}, density {density:g}, {options.threads} threads, against the best dense"
    print(found.table(title, work))
    return {"shape": shape, "density": density, "best_dense": best, "rows": found.rows()}


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.5, 0.3, 0.2, 0.1, 0.05])
    parser.add_argument("--shapes", type=Path, default=SHAPES / "transformer.txt", help="file of m k n lines")
    options = parser.parse_args()
    pin_threads(options.threads)

    import secateur as sc

    sc.set_num_threads(options.threads)
    shapes = [shape for shape in read_shapes(options.shapes) if shape[2] > 1]
    results = [measure(shape, density, options) for shape in shapes for density in options.densities]
    if not options.no_record:
        name = f"backward {options.shapes.stem}, {options.threads} threads"
        print(f"recorded in {record(name, {'seed': options.seed, 'results': results})}")


if __name__ == "__main__":
    main()
