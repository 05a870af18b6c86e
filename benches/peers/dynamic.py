"""What pruning in training costs: fits of the reference CNN with a method that updates after every batch.

Every fit starts from the same weights and sees the same batches; "plain" is without a pruner.

    python -m benches.peers.dynamic --rounds 10
    python -m benches.peers.dynamic --rounds 3 --batches 1875    # an epoch of 60,000: layers get packed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .machine import arguments, pin_threads, record

#: Batches of a fit, if not given. GradientDynamic is at its target, and done, after 45.
BATCHES = 40


def methods() -> dict[str, Callable[[], Any]]:
    """What each fit prunes with."""
    import secateur as sc

    always: dict[str, Any] = {"every": 1, "begin": 0}
    return {
        "gradual": lambda: sc.Gradual(0.9, end=1.0, **always),
        "gradual combined": lambda: sc.Gradual(0.9, criterion="combined", end=1.0, **always),
        "gradual layer": lambda: sc.Gradual(0.9, scope="layer", end=1.0, **always),
        "gradient dynamic": lambda: sc.GradientDynamic(0.9, **always),
        "gradient dynamic, λ given": lambda: sc.GradientDynamic(0.9, lam=10.0, **always),
        "gradient dynamic taylor": lambda: sc.GradientDynamic(0.9, criterion="taylor", **always),
    }


def fit(
    model: Any, start: Mapping[str, Any], data: tuple[Any, Any], batch: int, method: Callable[[], Any] | None
) -> None:
    """One epoch from the weights `start`."""
    import secateur as sc

    model.restore(start)
    callbacks = [sc.DynamicPruner(method())] if method else []
    model.fit(*data, batch_size=batch, callbacks=callbacks, random_state=0, progress=False)


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=BATCHES, help=f"of a fit (default {BATCHES})")
    options = parser.parse_args()
    pin_threads(options.threads)

    import numpy as np

    import secateur as sc

    from ..nets import IMAGE, reference_cnn
    from .harness import compare

    sc.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    size = options.batches * options.batch
    data = rng.random((size, *IMAGE), np.float32), rng.integers(0, 10, size)
    model = reference_cnn()
    model.build(IMAGE, random_state=options.seed)
    one = partial(fit, model, model.snapshot(), data, options.batch)
    candidates = {"plain": partial(one, None)}
    candidates |= {name: partial(one, method) for name, method in methods().items()}
    found = compare(candidates, baseline="plain", rounds=options.rounds, threads=options.threads)
    title = f"fit of {options.batches} batches of {options.batch}, {options.threads} threads"
    print(found.table(title))
    added = {name: found.timings[name].min / found.timings["plain"].min - 1 for name in methods()}
    for name, share in added.items():
        print(f"    {name}: {share:+.1%} of a step")
    if not options.no_record:
        shares = {name: round(share, 4) for name, share in added.items()}
        content = {"seed": options.seed, "batches": options.batches, "added": shares, "rows": found.rows()}
        long = "" if options.batches == BATCHES else f", {options.batches} batches"
        print(f"recorded in {record(f'dynamic pruning{long}, {options.threads} threads', content)}")


if __name__ == "__main__":
    main()
