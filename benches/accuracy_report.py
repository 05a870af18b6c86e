"""What `benches.accuracy` found: files of the work folder, statistics over seeds, latencies."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

#: For each network its variants; the others are compared with "dense", and the static ones with CONTROL too.
CONTROL = "dense+fine-tuning"
PLANS = {
    "reference": ("dense", CONTROL, "50% neurons", "90% weights", "90% gradual", "90% gradient"),
    "cnn-1m": ("dense", CONTROL, "50% neurons"),
    "lstm-512": ("dense", CONTROL, "80% weights", "80% blocks", "80% units", "80% gradual"),
}
STATIC = ("50% neurons", "90% weights", "80% weights", "80% blocks", "80% units")


def path(net: str, variant: str, seed: int, options: Any) -> Path:
    """The file of a trained model; its entry lies beside it with the suffix .json."""
    name = f"{net}-{variant}-{seed}".replace("%", "").replace(" ", "-").replace("+", "-").replace(",", "")
    return Path(options.work) / f"{name}.safetensors"


def summarise(net: str, seeds: range, options: Any) -> dict[str, Any]:
    """Mean ± standard deviation of every variant, and paired differences from dense ± standard error."""
    variants: dict[str, Any] = {}
    entries = {
        variant: [
            json.loads(path(net, variant, seed, options).with_suffix(".json").read_text()) for seed in seeds
        ]
        for variant in PLANS[net]
    }
    scores = {variant: [entry["accuracy"] for entry in rows] for variant, rows in entries.items()}
    for variant, accuracy in scores.items():
        variants[variant] = {
            "accuracy": accuracy,
            "mean": statistics.mean(accuracy),
            "std": statistics.stdev(accuracy) if len(accuracy) > 1 else None,
            "difference": paired(accuracy, scores["dense"]),
            "entries": entries[variant],
        }
        if variant in STATIC:
            variants[variant]["difference_from_control"] = paired(accuracy, scores[CONTROL])
    return {"variants": variants}


def paired(mine: list[float], theirs: list[float]) -> dict[str, float | None]:
    """The mean difference over the seeds and its standard error."""
    differences = [a - b for a, b in zip(mine, theirs, strict=True)]
    many = len(differences) > 1
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if many else None
    return {"mean": statistics.mean(differences), "standard_error": error}


def time_net(net: str, seeds: range, options: Any) -> list[dict[str, Any]]:
    """Latency of the variants' plans against the dense plan, in interleaved rounds, seed by seed."""
    import numpy as np

    import secateur as sc

    from .nets import IMAGES
    from .peers.harness import aligned, compare

    found: list[dict[str, Any]] = []
    for seed in seeds:
        models = {variant: sc.load(path(net, variant, seed, options)) for variant in PLANS[net]}
        del models[CONTROL]
        plans = {
            variant: sc.compile(model, batch=(1, 32), threads=options.threads)
            for variant, model in models.items()
        }
        for batch in (1, 32):
            x = aligned(np.random.default_rng(seed).random((batch, *IMAGES[net])))
            calls = {variant: partial(plan, x) for variant, plan in plans.items()}
            timed = compare(calls, baseline="dense", rounds=options.rounds, threads=options.threads)
            print(
                timed.table(f"{net}, seed {seed}, batch {batch}, {options.threads} threads"), file=sys.stderr
            )
            found.append({"seed": seed, "batch": batch, "threads": options.threads, "rows": timed.rows()})
    return found


def table(net: str, result: Mapping[str, Any]) -> str:
    """Accuracy and the mean speed-up over the seeds."""
    lines = [f"{net} on Fashion-MNIST"]
    for variant, row in result["variants"].items():
        line = f"  {variant:18} {row['mean']:.4f}"
        if row["std"] is not None:
            line += f" ± {row['std']:.4f}"
            for name, label in (("difference", "dense"), ("difference_from_control", CONTROL)):
                if name in row:
                    found = row[name]
                    line += f", {found['mean']:+.4f} ± {found['standard_error']:.4f} vs {label}"
        for batch in (1, 32):
            rows = [
                each
                for timing in result.get("latency", ())
                if timing["batch"] == batch
                for each in timing["rows"]
            ]
            if ratios := [each["ratio"] for each in rows if each["name"] == variant]:
                line += f", batch {batch} x{statistics.geometric_mean(ratios):.2f}"
        lines.append(line)
    return "\n".join(lines)
