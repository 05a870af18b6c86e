"""Sparse times one vector, weights from cache and from memory, against NumPy's, MKL's and SciPy's products.

One column is bound by how fast weights arrive, so each shape is timed twice. *In cache* calls the same
weights again and again. *From memory* goes round copies of the weights, in every candidate enough of them
to fill the last cache more than twice. The read bandwidth that `byte limit` is measured against is the best
of NumPy's sdot of a large buffer with itself and its maximum of that buffer, in the same process. Dense
products are the fastest of sgemv and sgemm, row-major or column-major. The masks are random; those of blocks
have whole blocks removed, at the same density, and so have those of N:M patterns, where one has it. What is
stored in 16 bits is compared with the product of the rounded weights.

    python -m benches.peers.spmv --densities 0.5 0.1 --threads 1
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .machine import arguments, last_cache, pin_threads, record
from .spmm import SHAPES, random_mask, read_shapes

DENSE = ("numpy", "numpy column-major", "mkl sgemv", "mkl sgemm", "gemm crate")
HEIGHTS = (4, 8, 16)
PATTERNS = ((1, 4), (2, 4), (4, 8))


def bandwidth(seconds: float = 0.5) -> float:
    """Bytes a second that this process reads from memory."""
    import numpy as np

    buffer = np.ones(8 * last_cache() // 4, np.float32)
    best, begin = np.inf, time.perf_counter()
    while time.perf_counter() < begin + seconds:
        for read in (lambda: np.dot(buffer, buffer), buffer.max):
            start = time.perf_counter()
            read()
            best = min(best, time.perf_counter() - start)
    return float(buffer.nbytes / best)


def rotating(prepare: Callable[[], Callable[[], object]], copies: int) -> Callable[[], object]:
    """A call that goes round `copies` calls, each prepared with weights of its own."""
    calls = itertools.cycle([prepare() for _ in range(copies)])
    return lambda: next(calls)()


def measure(m: int, k: int, density: float, memory: bool, speed: float, options: Any) -> dict[str, Any]:
    """Time one shape at one density and print the table."""
    import numpy as np
    import scipy.sparse

    import secateur as sc

    from . import mkl
    from .harness import aligned, compare

    rng = np.random.default_rng(options.seed)
    w = rng.standard_normal((m, k)).astype(np.float32) * random_mask(rng, (m, k), density)
    x, out = aligned(rng.standard_normal(k)), aligned(np.empty(m))
    # By candidate: the weights' matrix, their bytes, and what prepares a call with a copy of them.
    entries: dict[str, tuple[Any, int, Callable[[], Callable[[], object]]]] = {
        "numpy": (w, w.nbytes, lambda: partial(np.dot, aligned(w), x, out=out)),
        "numpy column-major": (w, w.nbytes, lambda: partial(np.dot, aligned(w.T).T, x, out=out)),
    }
    if lib := mkl.library():
        column, out_column = x[:, None], out[:, None]
        entries["mkl sgemv"] = (w, w.nbytes, lambda: mkl.sgemv(lib, aligned(w), x, out))
        entries["mkl sgemm"] = (w, w.nbytes, lambda: mkl.sgemm(lib, aligned(w), column, out_column))
    entries["gemm crate"] = (
        w,
        w.nbytes,
        lambda: partial(sc.pack(w, "dense", columns=1).matmul, x, out=out),
    )
    kernels = {}

    def ours(name: str, format: str, weights: Any, height: int, storage: str = "f32") -> None:
        def pack() -> Any:
            return sc.pack(weights, format, columns=1, block=(height, 1), storage=storage)

        packed = pack()
        plain = sc.pack(weights, format, block=(height, 1), storage=storage).nbytes
        kernels[name] = packed.kernel
        size = packed.nbytes - plain
        entries[name] = (packed.to_dense(), size, lambda: partial(pack().matmul, x, out=out))
        if storage == "f32" and format in ("auto", "block", "nm"):
            for other in options.storages:
                ours(f"{name} {other}", format, weights, height, other)

    for format in options.formats:
        ours(f"secateur {format}", format, w, 8)
    for height in HEIGHTS:
        mask = random_mask(rng, (-(-m // height), k), density).repeat(height, axis=0)[:m]
        blocks = rng.standard_normal((m, k)).astype(np.float32) * mask
        ours(f"secateur block {height}x1", "block", blocks, height)
    for kept, of in PATTERNS:
        if kept == density * of:
            pattern = rng.standard_normal((m, k)).astype(np.float32)
            ours(f"secateur nm {kept}:{of}", "nm", pattern * sc.nm_mask(rng.random((m, k)), kept, of), 8)
    candidates = {}
    for name, (weights, size, prepare) in entries.items():
        call = rotating(prepare, 2 * last_cache() // size + 1 if memory else 1)
        out.fill(np.nan)
        call()
        wanted = weights.astype(np.float64) @ x.astype(np.float64)
        if not np.allclose(out, wanted, rtol=1e-3, atol=1e-3):
            raise SystemExit(f"{name} at {m}x{k}, density {density}: wrong result")
        candidates[name] = call
    csr = scipy.sparse.csr_array(w)
    size = csr.nnz * 8
    copies = 2 * last_cache() // size + 1 if memory else 1
    candidates["scipy csr"] = rotating(lambda: partial(csr.copy().dot, x), copies)
    if multiply := mkl.sparse_dot():
        candidates["mkl csr"] = rotating(lambda: partial(multiply, csr.copy(), x), copies)
    found = compare(candidates, baseline="numpy", rounds=options.rounds, threads=options.threads)
    best = found.fastest([name for name in DENSE if name in candidates])
    found = type(found)(best, found.timings)
    where = "from memory" if memory else "in cache"
    work = {name: 2.0 * np.count_nonzero(entries[name][0]) for name in kernels}
    print(
        found.table(f"{m}x{k}, density {density:g}, {where}, {options.threads} threads, x best dense", work)
    )
    rows = found.rows()
    for row in rows:
        name = str(row["name"])
        if name not in entries:
            continue
        row["bytes"] = entries[name][1]
        row["byte_limit"] = round(entries[name][1] / speed * 1e6 / found.timings[name].min, 4)
        if name in kernels:
            row["kernel"] = kernels[name]
            limit = f", {row['byte_limit']:.0%} of the byte limit" if memory else ""
            print(f"    {name}: {kernels[name]}, {entries[name][1] / w.nbytes:.3f} of the dense bytes{limit}")
    return {"shape": (m, k), "density": density, "memory": memory, "best_dense": best, "rows": rows}


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.5, 0.3, 0.25, 0.2, 0.1, 0.05])
    parser.add_argument("--shapes", type=Path, default=SHAPES / "vectors.txt", help="file of m k 1 lines")
    parser.add_argument("--formats", nargs="+", default=["auto", "bitmap", "window", "stream", "csr"])
    parser.add_argument("--storages", nargs="*", choices=["bf16", "f16"], default=["bf16"])
    parser.add_argument("--where", nargs="+", choices=["cache", "memory"], default=["cache", "memory"])
    options = parser.parse_args()
    pin_threads(options.threads)

    import secateur as sc

    sc.set_num_threads(options.threads)
    speed = bandwidth()
    print(f"reads {speed / 1e9:.1f} GB/s from memory; the last cache holds {last_cache() >> 20} MiB")
    results = [
        measure(m, k, density, where == "memory", speed, options)
        for where in options.where
        for m, k, _ in read_shapes(options.shapes)
        if where == "memory" or m * k * 4 <= last_cache() // 2
        for density in options.densities
    ]
    if not options.no_record:
        content = {"seed": options.seed, "read_bytes_per_second": round(speed), "results": results}
        print(f"recorded in {record(f'spmv {options.shapes.stem}, {options.threads} threads', content)}")


if __name__ == "__main__":
    main()
