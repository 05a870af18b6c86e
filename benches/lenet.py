"""Accuracy by sparsity: LeNet-300-100 and LeNet-5 on Fashion-MNIST, our methods and torch's pruning.

Every point is trained with the same budget (``examples/lenet.py`` has the recipe) for several seeds. Finished
points are kept in the work folder, so a run that was stopped goes on; the table shows what is there. A seed's
points are paired: the differences are from torch's best method at that sparsity, seed by seed.

    python -m benches.lenet --net 300-100 --seeds 5                              # our side
    .venv-bench/bin/python -m benches.lenet --net 300-100 --seeds 5 --side torch
    python -m benches.lenet --net 300-100 --seeds 5 --side none                  # the table, and the record
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from .accuracy_report import paired
from .peers.machine import record

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
OURS = ("static", "gradual", "sdp", "gdp", "set", "rigl", "dns", "acdc", "snip")
TORCH = ("one-shot", "gradual")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", choices=["300-100", "5"], default="300-100")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--sparsity", type=float, nargs="+", default=list(SPARSITIES))
    parser.add_argument("--method", nargs="+", help="of the side that trains; all by default")
    parser.add_argument("--side", choices=["ours", "torch", "none"], default="ours")
    parser.add_argument("--work", type=Path, default=Path("runs/lenet"), help="folder of the points")
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.side != "none":
        train(options)
    found = summarise(options)
    print(table(found, options))
    if options.side == "none" and not options.no_record:
        content = {"seeds": options.seeds, "epochs": options.epochs, "results": found}
        print(f"recorded in {record(f'lenet-{options.net} fashion-mnist', content)}")


def train(options: Any) -> None:
    """Train what the work folder still misses of one side, seed by seed."""
    import secateur as sc

    sc.set_num_threads(1)
    data, test = sc.datasets.load("fashion-mnist")
    methods = options.method or (OURS if options.side == "ours" else TORCH)
    for seed in range(options.seeds):
        points = [("dense", 0.0), *((m, s) for s in options.sparsity for m in methods)]
        for method, sparsity in points:
            target = _path(options, options.side, method, sparsity, seed)
            if target.exists():
                continue
            begin = time.perf_counter()
            entry = POINTS[options.side](options, method, sparsity, data, test, seed)
            entry["seconds"] = round(time.perf_counter() - begin, 1)
            target.write_text(json.dumps(entry) + "\n")
            print(f"{target.stem}: {entry['accuracy']:.4f} in {entry['seconds']:.0f} s", file=sys.stderr)


def _ours(options: Any, method: str, sparsity: float, data: Any, test: Any, seed: int) -> dict[str, Any]:
    path = Path(__file__).parent.parent / "examples" / "lenet.py"
    spec = importlib.util.spec_from_file_location("lenet", path)
    assert spec is not None and spec.loader is not None
    lenet = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lenet)
    model = lenet.train(options.net, method, sparsity, data, options.epochs, seed, quiet=True)
    found: dict[str, Any] = lenet.report(model, options.net, method, seed, options.epochs, test, 0.0)
    return {"accuracy": found["accuracy"], "kept": found["kept"], "weights": found["weights"]}


def _torch(options: Any, method: str, sparsity: float, data: Any, test: Any, seed: int) -> dict[str, Any]:
    import torch

    from .peers import torch_baseline, torch_lenet

    torch.set_num_threads(1)
    model = torch_lenet.train(options.net, method, sparsity, data, options.epochs, seed)
    kept, weights = torch_lenet.kept(model)
    accuracy = torch_baseline.accuracy(model, *map(torch.from_numpy, test))
    return {"accuracy": accuracy, "kept": kept, "weights": weights}


POINTS = {"ours": _ours, "torch": _torch}


def _path(options: Any, side: str, method: str, sparsity: float, seed: int) -> Path:
    work: Path = options.work
    return work / f"{options.net}-{options.epochs}-{side}-{method}-{sparsity:g}-{seed}.json"


def summarise(options: Any) -> list[dict[str, Any]]:
    """Every point of which all seeds are there: mean, deviation, and the difference from torch's best."""
    found = []
    for sparsity in (0.0, *options.sparsity):
        rows: dict[tuple[str, str], list[float]] = {}
        for side, methods in (("torch", TORCH), ("ours", OURS)):
            for method in ("dense",) if sparsity == 0 else methods:
                paths = [_path(options, side, method, sparsity, seed) for seed in range(options.seeds)]
                if all(path.exists() for path in paths):
                    rows[side, method] = [json.loads(path.read_text())["accuracy"] for path in paths]
        theirs = [values for (side, _), values in rows.items() if side == "torch"]
        best = max(theirs, key=statistics.mean, default=None)
        for (side, method), values in rows.items():
            many = len(values) > 1
            entry = {
                "sparsity": sparsity,
                "side": side,
                "method": method,
                "accuracy": values,
                "mean": statistics.mean(values),
                "std": statistics.stdev(values) if many else None,
            }
            if best is not None and side == "ours":
                gap = paired(values, best)
                entry |= {"difference": gap["mean"], "standard_error": gap["standard_error"]}
            found.append(entry)
    return found


def table(found: list[dict[str, Any]], options: Any) -> str:
    """Accuracies in percent, by sparsity and method."""
    lines = [f"LeNet-{options.net}, {options.seeds} seeds, {options.epochs} epochs: accuracy in %"]
    lines.append(f"{'sparsity':>8}  {'side':5}  {'method':9}  {'mean':>6}  {'std':>5}  from torch's best")
    for row in found:
        spread = f"{100 * row['std']:5.2f}" if row["std"] is not None else "     "
        gap = ""
        if "difference" in row:
            gap = f"  {100 * row['difference']:+.2f}"
            if row["standard_error"] is not None:
                gap += f" ± {100 * row['standard_error']:.2f}"
        point = f"{row['sparsity']:8g}  {row['side']:5}  {row['method']:9}"
        lines.append(f"{point}  {100 * row['mean']:6.2f}  {spread}{gap}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
