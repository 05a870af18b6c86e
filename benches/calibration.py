"""Accuracy right after pruning, without fine-tuning: magnitude, Wanda, reconstruction, on Fashion-MNIST.

For every seed a network is trained, and pruned at once, its weights chosen and corrected on calibration
images: the first ones of the training set, without labels. Finished networks are kept in the work folder, so
that a run that was stopped goes on.

    python -m benches.calibration --seeds 3    # the tables, their record, and docs/img/calibration.png
    python -m benches.calibration --seeds 1 --no-record --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from .peers.machine import record

SPARSITIES = (0.7, 0.8, 0.9, 0.95)
METHODS = [
    (criterion, scope, biases)
    for criterion, scopes in (
        ("l1", ("layer", "global", "lamp")),
        ("wanda", ("output", "layer", "global", "lamp")),
        ("obs", ("layer", "global", "lamp")),
    )
    for scope in scopes
    for biases in (False, True)
]
DRAWN = {
    ("l1", "layer", False): "C7",
    ("l1", "global", False): "C0",
    ("l1", "lamp", False): "C9",
    ("wanda", "layer", False): "C8",
    ("wanda", "global", False): "C2",
    ("wanda", "lamp", False): "C4",
    ("obs", "layer", True): "C1",
    ("obs", "global", True): "C3",
}
CHART = Path(__file__).parent.parent / "docs" / "img" / "calibration.png"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", choices=list(NETS), nargs="+", default=list(NETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=1024, help="of the calibration set")
    parser.add_argument("--work", type=Path, default=Path("runs/calibration"), help="folder of the networks")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    parser.add_argument("--no-record", action="store_true", help="print only: no record, no chart")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    import secateur as sc

    sc.set_num_threads(1)
    data, test = sc.datasets.load("fashion-mnist")
    results = {net: measure(net, data, test, options) for net in options.net}
    print(json.dumps(results, indent=1) if options.json else "\n\n".join(map(table, results.values())))
    if not options.no_record:
        draw(results)
        content = {"seeds": options.seeds, "epochs": options.epochs, "images": options.images}
        print(f"recorded in {record('calibration fashion-mnist', {**content, 'results': results})}")


def _mlp() -> Any:
    import secateur as sc

    widths = [sc.nn.Dense(units, activation="relu") for units in (300, 100)]
    return sc.nn.Sequential([sc.nn.Flatten(), *widths, sc.nn.Dense(10)])


def _cnn() -> Any:
    from .nets import reference_cnn

    return reference_cnn()


NETS = {"mlp": _mlp, "cnn": _cnn}


def trained(net: str, seed: int, data: Any, options: Any) -> Any:
    """The network of a seed, from the work folder if it is there."""
    import secateur as sc

    path: Path = options.work / f"{net}-{options.epochs}-{seed}.safetensors"
    if not path.exists():
        model = NETS[net]().build(data[0].shape[1:], random_state=seed)
        model.fit(*data, epochs=options.epochs, random_state=seed, progress=False)
        sc.save(model, path)
    return sc.load(path)


def measure(net: str, data: Any, test: Any, options: Any) -> dict[str, Any]:
    """Test accuracies of one network, by method, sparsity and seed."""
    import secateur as sc

    images = data[0][: options.images]
    dense: list[float] = []
    points = [
        {"criterion": criterion, "scope": scope, "bias_correction": biases, "sparsity": s, "accuracy": []}
        for criterion, scope, biases in METHODS
        for s in SPARSITIES
    ]
    for seed in range(options.seeds):
        model = trained(net, seed, data, options)
        dense.append(model.evaluate(*test)["accuracy"])
        for point in points:
            how = {key: point[key] for key in ("sparsity", "criterion", "scope", "bias_correction")}
            pruned = sc.prune(model, data=images if _calibrates(point) else None, progress=False, **how).model
            point["accuracy"].append(pruned.evaluate(*test)["accuracy"])
        print(f"{net}, seed {seed}: dense {dense[-1]:.4f}", file=sys.stderr)
    spread = [{**point, **_spread(point["accuracy"])} for point in points]
    return {"net": net, "dense": {"accuracy": dense, **_spread(dense)}, "points": spread}


def _calibrates(point: dict[str, Any]) -> bool:
    return point["criterion"] != "l1" or point["bias_correction"]


def _spread(values: list[float]) -> dict[str, Any]:
    return {"mean": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def _cell(point: dict[str, Any]) -> str:
    std = "" if point["std"] is None else f" ± {100 * point['std']:.1f}"
    return f"{100 * point['mean']:.1f}{std}"


def table(result: dict[str, Any]) -> str:
    """Accuracies in percent, in Markdown: a line for each method, a column for each sparsity."""
    dense = result["dense"]
    lines = [f"{result['net']}, {len(dense['accuracy'])} seeds, dense {_cell(dense)}", ""]
    lines.append(f"| criterion | scope | bias correction | {' | '.join(f'{s:.0%}' for s in SPARSITIES)} |")
    lines.append("|---|---|---|" + "---:|" * len(SPARSITIES))
    for criterion, scope, biases in METHODS:
        points = [point for point in result["points"] if _method(point) == (criterion, scope, biases)]
        start = f"{_name(criterion)} | {scope} | {'yes' if biases else 'no'}"
        lines.append(f"| {start} | {' | '.join(map(_cell, points))} |")
    return "\n".join(lines)


def _name(criterion: str) -> str:
    return "magnitude" if criterion == "l1" else criterion


def _method(point: dict[str, Any]) -> tuple[str, str, bool]:
    return point["criterion"], point["scope"], point["bias_correction"]


def draw(results: dict[str, Any]) -> None:
    """One picture for each network: accuracy against sparsity, mean ± standard deviation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, len(results), squeeze=False)[0]
    for axis, (net, result) in zip(axes, results.items(), strict=True):
        axis.axhline(100 * result["dense"]["mean"], color="black", lw=0.8, ls=":", label="dense")
        for method, color in DRAWN.items():
            points = [point for point in result["points"] if _method(point) == method]
            criterion, scope, biases = method
            axis.errorbar(
                [100 * point["sparsity"] for point in points],
                [100 * point["mean"] for point in points],
                [100 * (point["std"] or 0) for point in points],
                color=color, marker="o", ms=3.5, capsize=2,
                label=f"{_name(criterion)}, {scope}{', biases corrected' if biases else ''}",
            )  # fmt: skip
        axis.set(xlabel="weights removed (%)", ylabel="test accuracy (%)", title=f"Fashion-MNIST, {net}")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    figure.savefig(CHART, dpi=130)
    print(f"drawn: {CHART.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
