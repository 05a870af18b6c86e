"""Exact selection: `prune_mask` against what NumPy users write, on normal weights and on pruned ones.

NumPy's partition of the magnitudes gives a threshold but keeps too many where scores tie at it; argpartition
keeps exactly k. Ours keeps exactly k, the earlier of equal scores, and makes no array of magnitudes. `read`
is the largest of the weights' integers: a pass that does nothing but read them. torch takes part where it is
installed (`make bench-env`): kthvalue and a comparison, which keeps too many where scores tie, and topk.

    python -m benches.peers.select --sizes 1000000 100000000
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from .machine import arguments, pin_threads, record

#: Above this size argpartition and the check against a stable sort would take the most of the run.
SLOW = 20_000_000


def measure(size: int, sparsity: float, zeros: float, options: Any) -> dict[str, Any]:
    """Time one size and sparsity, `zeros` of the weights being pruned already, and print the table."""
    import numpy as np

    import secateur as sc

    from .harness import aligned, compare

    weights = aligned(np.random.default_rng(options.seed).standard_normal(size))
    if zeros:
        sc.topk_prune(weights, sparsity=zeros, out=weights)
    k = size - round(sparsity * size)
    threshold = sc.topk_cut(weights, k=k).score
    work = weights.copy()

    def partition() -> Any:
        scores = np.abs(weights)
        return scores >= np.partition(scores, size - k)[size - k]

    def argpartition() -> Any:
        mask = np.zeros(size, bool)
        mask[np.argpartition(np.abs(weights), size - k)[size - k :]] = True
        return mask

    candidates: dict[str, Callable[[], Any]] = {
        "numpy partition": partition,
        "secateur mask": lambda: sc.prune_mask(weights, k=k),
        "secateur bits": lambda: sc.prune_mask(weights, k=k, bits=True),
        "secateur bits, guessed": lambda: sc.prune_mask(weights, k=k, bits=True, near=threshold),
        "secateur cut": lambda: sc.topk_cut(weights, k=k),
        "secateur zeroed in place": lambda: sc.topk_prune(work, k=k, out=work),
        "read": lambda: weights.view(np.int32).max(),
    }
    candidates |= _torch(weights, k, options.threads)
    if size <= SLOW:
        candidates["numpy argpartition"] = argpartition
        wanted = np.zeros(size, bool)
        wanted[np.argsort(-np.abs(weights), kind="stable")[:k]] = True
        if not np.array_equal(candidates["secateur mask"](), wanted):
            raise SystemExit(f"prune_mask of {size} weights: wrong mask")
    found = compare(candidates, baseline="numpy partition", rounds=options.rounds, threads=options.threads)
    title = f"{size} weights{f', {zeros:.0%} zeros' if zeros else ''}, keep {k}, {options.threads} threads"
    print(found.table(title))
    for name in ("secateur bits", "secateur bits, guessed"):
        share = found.timings["read"].min / found.timings[name].min
        print(f"    {name}: {4 * size / found.timings[name].min / 1e3:.1f} GB/s, {share:.0%} of reading")
    extra = _extra_memory(candidates["secateur bits"])
    print(f"    secateur bits: at most {extra / weights.nbytes:.2%} of the weights' memory beside the mask")
    return {"size": size, "k": k, "zeros": zeros, "extra_bytes": extra, "rows": found.rows()}


def _extra_memory(call: Callable[[], Any]) -> int:
    """Resident bytes that a call takes for a while, beside its result (Linux)."""

    def status(field: str) -> int:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024

    # What earlier calls have left to the allocator would hide it.
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = status("VmRSS")
    result = call()
    return max(0, status("VmHWM") - before - int(result.nbytes))


def _torch(weights: Any, k: int, threads: int) -> dict[str, Callable[[], Any]]:
    """What torch's users write, where torch is installed."""
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(threads)
    tensor = torch.from_numpy(weights)

    def kthvalue() -> Any:
        scores = tensor.abs()
        return scores >= torch.kthvalue(scores, tensor.numel() - k + 1).values

    def topk() -> Any:
        mask = torch.zeros(tensor.numel(), dtype=torch.bool)
        mask[torch.topk(tensor.abs(), k, sorted=False).indices] = True
        return mask

    return {"torch kthvalue": kthvalue, "torch topk": topk}


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[121_824, 1_000_000, 100_000_000])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.9, 0.99])
    options = parser.parse_args()
    pin_threads(options.threads)

    import secateur as sc

    sc.set_num_threads(options.threads)
    results = [
        measure(size, sparsity, 0.0, options) for size in options.sizes for sparsity in options.sparsities
    ]
    # Nets that are pruned again: most weights are 0.
    results += [measure(max(options.sizes), sparsity, 0.8, options) for sparsity in (0.5, 0.9)]
    if not options.no_record:
        content = {"seed": options.seed, "results": results}
        print(f"recorded in {record(f'select, {options.threads} threads', content)}")


if __name__ == "__main__":
    main()
