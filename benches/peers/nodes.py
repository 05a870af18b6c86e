"""Is any node of a tuned plan slower than dense? Re-timed by a process that did not do the tuning.

A plan is compiled and tuned here; a new process gets its weights and choices, and times every node as
chosen and with the best dense kernel in its place, relayouts included. The figure of a node is the median
over the repeats of chosen / dense. Then whole plans: the tuned one against the same weights with the
choices of the dense network's plan.

    python -m benches.peers.nodes --threads 1
    python -m benches.peers.nodes --model pruned.safetensors
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from .machine import arguments, pin_threads, record

#: A chosen kernel may be this much slower than dense before it counts as a wrong choice: the clock's own
#: scatter.
TOLERANCE = 1.05


def retime(parts: Mapping[str, Any], repeats: int, seconds: float) -> list[dict[str, Any]]:
    """Rebuild the plan from its parts and time its nodes; runs in a process of its own."""
    from secateur.compiler import Plan

    plan = Plan(**parts)
    ratios: dict[tuple[int, str], list[float]] = {}
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for _ in range(repeats):
        for batch in plan.batch:
            for row in plan.report(batch, seconds=seconds):
                if row["us_dense"] is not None:
                    key = (batch, row["name"])
                    ratios.setdefault(key, []).append(row["us_chosen"] / row["us_dense"])
                    rows[key] = row
    names = ("kernel", "density", "us_chosen", "us_dense")
    return [
        {
            "batch": key[0],
            "node": key[1],
            "chosen_over_dense": round(statistics.median(values), 4),
            "repeats": [round(value, 4) for value in values],
            **{name: rows[key][name] for name in names},
        }
        for key, values in ratios.items()
    ]


def check(name: str, model: Any, dense_choices: Any, options: Any) -> dict[str, Any]:
    """Tune a plan of `model`, re-time it elsewhere, compare it whole with dense choices, and print both."""
    import numpy as np

    import secateur as sc

    from .harness import aligned, compare

    plan = sc.compile(model, batch=options.batch, threads=options.threads).tune()
    parts = {
        "input_shape": plan.input_shape,
        "description": plan.description,
        "batch": plan.batch,
        "threads": options.threads,
        "choices": plan.choices,
    }
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as elsewhere:
        nodes = elsewhere.submit(retime, parts, options.repeats, options.seconds).result()
    print(f"{name}: chosen / dense of every node")
    for row in nodes:
        mark = "" if row["chosen_over_dense"] <= TOLERANCE else "   <- slower than dense"
        node = f"batch {row['batch']:<4} {row['node']:<12} {row['kernel']:<30} density {row['density']:.2f}"
        print(
            f"  {row['chosen_over_dense']:6.3f}  {node}{row['us_chosen']:7.1f} of {row['us_dense']:.1f}{mark}"
        )
    wholes = []
    if dense_choices is not None:
        pinned = sc.compile(model, batch=options.batch, threads=options.threads, choices=dense_choices)
        for batch in options.batch:
            x = aligned(np.random.default_rng(options.seed).random((batch, *plan.input_shape)))
            calls = {"dense choices": partial(pinned, x), "tuned": partial(plan, x)}
            found = compare(calls, baseline="dense choices", rounds=options.rounds, threads=options.threads)
            print(found.table(f"  whole plan, batch {batch}"))
            wholes.append({"batch": batch, "rows": found.rows()})
    return {"nodes": nodes, "whole": wholes}


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument(
        "--model", type=Path, help="a saved model; default: pruned versions of the reference CNN"
    )
    parser.add_argument("--net", choices=["reference", "cnn-1m"], default="reference")
    parser.add_argument("--repeats", type=int, default=5, help="reports taken; the median counts")
    parser.add_argument("--seconds", type=float, default=0.1, help="time spent on a node in each report")
    options = parser.parse_args()
    pin_threads(options.threads)

    import secateur as sc

    from ..nets import IMAGE, NETS
    from .cnn import variants

    dense_choices = None
    if options.model:
        models = {options.model.stem: sc.load(options.model)}
    else:
        model = NETS[options.net]()
        model.build(IMAGE, random_state=options.seed)
        models = variants(model)
        dense_choices = sc.compile(model, batch=options.batch, threads=options.threads).choices
    # A network that lost neurons has other shapes: the dense network's choices say nothing about it.
    full = None if options.model else models["dense"].num_parameters()
    results = {
        name: check(name, each, dense_choices if each.num_parameters() == full else None, options)
        for name, each in models.items()
    }
    worst = max(
        (row for result in results.values() for row in result["nodes"]),
        key=lambda row: row["chosen_over_dense"],
    )
    ratio = worst["chosen_over_dense"]
    print(
        f"worst node: {worst['node']} at batch {worst['batch']}, {ratio:.3f} of dense (at most {TOLERANCE})"
    )
    if not options.no_record:
        content = {"seed": options.seed, "worst": ratio, "results": results}
        print(f"recorded in {record(f'nodes {options.net}, {options.threads} threads', content)}")


if __name__ == "__main__":
    main()
