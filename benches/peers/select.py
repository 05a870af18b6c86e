"""Exact selection: `topk_mask` against what NumPy and SciPy users write, on magnitudes of normal weights.

NumPy's partition gives a threshold in one pass but keeps too many where scores tie at it; argpartition and
argsort keep exactly k. Ours keeps exactly k, the earlier of equal scores, from the same float32 array.

    python -m benches.peers.select --sizes 1000000 25000000
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .machine import arguments, pin_threads, record


def measure(size: int, options: Any) -> dict[str, Any]:
    """Time one size and print the table."""
    import numpy as np

    import secateur as sc

    from .harness import aligned, compare

    scores = aligned(np.abs(np.random.default_rng(options.seed).standard_normal(size)))
    k = size - round(options.sparsity * size)

    def argpartition() -> Any:
        mask = np.zeros(size, bool)
        mask[np.argpartition(scores, size - k)[size - k :]] = True
        return mask

    candidates: dict[str, Callable[[], Any]] = {
        "numpy partition": lambda: scores >= np.partition(scores, size - k)[size - k],
        "numpy argpartition": argpartition,
        "secateur topk_mask": lambda: sc.topk_mask(scores, k),
    }
    wanted = np.zeros(size, bool)
    wanted[np.argsort(-scores, kind="stable")[:k]] = True
    if not np.array_equal(candidates["secateur topk_mask"](), wanted):
        raise SystemExit(f"topk_mask of {size} scores: wrong mask")
    found = compare(candidates, baseline="numpy partition", rounds=options.rounds, threads=options.threads)
    print(found.table(f"{size} scores, keep {k}, {options.threads} threads"))
    best = found.timings["secateur topk_mask"].min
    print(f"    ours reads the scores at {4 * size / best / 1e3:.1f} GB/s")
    return {"size": size, "k": k, "rows": found.rows()}


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[121_824, 1_000_000, 25_000_000])
    parser.add_argument("--sparsity", type=float, default=0.9)
    options = parser.parse_args()
    pin_threads(options.threads)

    import secateur as sc

    sc.set_num_threads(options.threads)
    results = [measure(size, options) for size in options.sizes]
    if not options.no_record:
        content = {"seed": options.seed, "sparsity": options.sparsity, "results": results}
        print(f"recorded in {record(f'select, {options.threads} threads', content)}")


if __name__ == "__main__":
    main()
