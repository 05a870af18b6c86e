"""Sparse times dense: packed weights against NumPy's, MKL's and the gemm crate's dense products, and SciPy.

Every candidate is the whole call from Python, writes to an output that exists already (SciPy cannot) and
gets the same number of threads. Ours includes laying out X in panels. The mask is random, of single weights
or of blocks of rows; with `--trained` the weights are those of a trained network, cut by magnitude. In the
environment of `make bench-env` torch takes part, dense and CSR.

    python -m benches.peers.spmm --densities 0.5 0.2 0.1 --threads 1
    python -m benches.peers.spmm --shapes benches/shapes/transformer.txt --rows 8 --formats block
    python -m benches.peers.spmm --shapes benches/shapes/trained.txt --trained
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from .machine import arguments, pin_threads, record

DENSE = ("numpy", "mkl", "gemm crate", "torch")
SHAPES = Path(__file__).resolve().parent.parent / "shapes"
Shape = tuple[int, int, int]


def read_shapes(path: Path) -> list[Shape]:
    """Lines of three integers m k n; `#` starts a comment."""
    shapes: list[Shape] = []
    for line in path.read_text().splitlines():
        if words := line.partition("#")[0].split():
            m, k, n = (int(word) for word in words)
            shapes.append((m, k, n))
    return shapes


def measure(shape: Shape, density: float, formats: Iterable[str], options: Any) -> dict[str, Any]:
    """Time one shape at one density and print the table."""
    import numpy as np
    import scipy.sparse

    import secateur as sc

    from . import mkl, torch_spmm, trained
    from .harness import aligned, compare

    m, k, n = shape
    rng = np.random.default_rng(options.seed)
    if options.trained:
        w = aligned(trained.weights((m, k), density, options.seed))
    else:
        mask = random_mask(rng, (-(-m // options.rows), k), density).repeat(options.rows, axis=0)[:m]
        w = aligned(rng.standard_normal((m, k)) * mask)
    x, out = aligned(rng.standard_normal((k, n))), aligned(np.empty((m, n)))
    wanted = w.astype(np.float64) @ x.astype(np.float64)
    csr = scipy.sparse.csr_array(w)
    candidates: dict[str, Callable[[], object]] = {"numpy": lambda: np.matmul(w, x, out=out)}
    if lib := mkl.library():
        candidates["mkl"] = mkl.sgemm(lib, w, x, out)
    # One column is a vector to our formats.
    ours_x, ours_out = (x[:, 0], out[:, 0]) if n == 1 else (x, out)
    packed = {"gemm crate": sc.pack(w, "dense", columns=n)}
    block = (options.rows, 1) if options.rows in (4, 8, 16) else (8, 1)
    packed |= {f"secateur {name}": sc.pack(w, name, columns=n, block=block) for name in formats}
    for name, weights in packed.items():
        candidates[name] = partial(weights.matmul, ours_x, out=ours_out)
    candidates |= torch_spmm.candidates(w, x, out)
    for name, call in candidates.items():
        out.fill(np.nan)
        call()
        if not np.allclose(out, wanted, rtol=1e-3, atol=1e-3):
            raise SystemExit(f"{name} at {shape}, density {density}: wrong result")
    candidates["scipy csr"] = lambda: csr @ x
    if multiply := mkl.sparse_dot():
        candidates["mkl csr"] = lambda: multiply(csr, x, out=out, out_scalar=0.0)
    found = compare(candidates, baseline="numpy", rounds=options.rounds, threads=options.threads)
    best = found.fastest([name for name in DENSE if name in candidates])
    found = type(found)(best, found.timings)
    # Sparse candidates are credited with the arithmetic that they do, not with the zeros that they skip.
    work = {name: 2.0 * m * k * n if name in DENSE else 2.0 * int((w != 0).sum()) * n for name in candidates}
    print(
        found.table(
            f"{m}x{k}x{n}, density {density:g}, {options.threads} threads, against the best dense", work
        )
    )
    for name, weights in packed.items():
        print(f"    {name}: {weights.kernel}, {weights.nbytes / w.nbytes:.2f} of the dense bytes")
    kernels = {name: weights.kernel for name, weights in packed.items()}
    return {
        "shape": shape,
        "density": density,
        "nnz": int(csr.nnz),
        "best_dense": best,
        "kernels": kernels,
        "rows": found.rows(),
    }


def random_mask(rng: Any, shape: tuple[int, int], density: float) -> Any:
    """A random mask with exactly `density` of its elements set."""
    import numpy as np

    mask = np.zeros(shape[0] * shape[1], np.float32)
    mask[rng.permutation(mask.size)[: round(density * mask.size)]] = 1
    return mask.reshape(shape)


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.5, 0.2, 0.1])
    parser.add_argument("--shapes", type=Path, default=SHAPES / "spine.txt", help="file of m k n lines")
    parser.add_argument("--rows", type=int, default=1, help="rows of the blocks that the mask is made of")
    parser.add_argument(
        "--trained", action="store_true", help="weights of a trained network, not random ones"
    )
    parser.add_argument("--formats", nargs="+", default=["auto"], help="ours; default auto")
    options = parser.parse_args()
    pin_threads(options.threads)

    import secateur as sc

    sc.set_num_threads(options.threads)
    results = [
        measure(shape, density, options.formats, options)
        for shape in read_shapes(options.shapes)
        for density in options.densities
    ]
    if not options.no_record:
        of = "single weights" if options.rows == 1 else f"{options.rows}x1 blocks"
        of = "trained weights" if options.trained else of
        name = f"spmm {options.shapes.stem}, {of}, {options.threads} threads"
        print(f"recorded in {record(name, {'seed': options.seed, 'results': results})}")


if __name__ == "__main__":
    main()
