"""What torch's own pruning gives on the same task: the numbers that ours stand beside.

The reference CNN on Fashion-MNIST, eager, Adam, batch 32; `torch.nn.utils.prune.global_unstructured` (L1)
removes 90% of the weights in one step, and the same fine-tuning follows as in `benches.accuracy`.
The masks stay in the graph while training and are made permanent for timing: torch's kernels still multiply
by the zeros. `ln_structured` only zeroes channels, so its network does not shrink either.

    .venv-bench/bin/python -m benches.peers.torch_baseline --seeds 3 --threads 2
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ..accuracy import EPOCHS, FINE_TUNE, RATE, SETTLE_RATE
from .machine import arguments, pin_threads, record

BATCH = 32


def network() -> Any:
    """The reference CNN."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1600, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train(model: Any, x: Any, y: Any, epochs: int, seed: int, rate: float = RATE) -> None:
    """Adam over shuffled batches."""
    import torch

    shuffle = torch.Generator().manual_seed(seed)
    optimizer, loss = torch.optim.Adam(model.parameters(), rate), torch.nn.CrossEntropyLoss()
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=shuffle).split(BATCH):
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimizer.step()


def accuracy(model: Any, x: Any, y: Any) -> float:
    """The share of right answers."""
    import torch

    model.eval()
    with torch.inference_mode():
        answers = torch.cat([model(part).argmax(1) for part in x.split(500)])
    return float((answers == y).float().mean())


def weights(model: Any) -> list[tuple[Any, str]]:
    """What is pruned: the weights of convolutions and linear layers, as torch names them."""
    return [(layer, "weight") for layer in model if hasattr(layer, "weight")]


def run_seed(seed: int, data: Any, options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Accuracies and models of one seed."""
    import copy

    import torch
    from torch.nn.utils import prune

    x, y, x_test, y_test = data
    torch.manual_seed(seed)
    dense = network()
    begin = time.perf_counter()
    train(dense, x, y, EPOCHS, seed)
    pruned = copy.deepcopy(dense)
    prune.global_unstructured(weights(pruned), pruning_method=prune.L1Unstructured, amount=0.9)
    one_shot = accuracy(pruned, x_test, y_test)
    train(pruned, x, y, FINE_TUNE - 1, seed)
    train(pruned, x, y, 1, seed, SETTLE_RATE)
    for layer, name in weights(pruned):
        prune.remove(layer, name)
    zeros = sum(int((layer.weight == 0).sum()) for layer, _ in weights(pruned))
    entry = {
        "seed": seed,
        "dense": accuracy(dense, x_test, y_test),
        "90% one-shot": one_shot,
        "90% fine-tuned": accuracy(pruned, x_test, y_test),
        "zeros": zeros,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    print(entry, file=sys.stderr)
    return entry, {"dense": dense, "90% weights": pruned}


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    pin_threads(options.threads)

    import torch

    from secateur import datasets

    from .harness import aligned, compare

    torch.set_num_threads(options.threads)
    (x, y), (x_test, y_test) = datasets.load("fashion-mnist")
    data = [torch.from_numpy(array) for array in (x, y, x_test, y_test)]
    seeds = range(options.seed, options.seed + options.seeds)
    entries, models = zip(*(run_seed(seed, data, options) for seed in seeds), strict=True)
    results: dict[str, Any] = {"seeds": entries, "latency": []}
    for name in ("dense", "90% one-shot", "90% fine-tuned"):
        values = [entry[name] for entry in entries]
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        print(f"torch {name}: {statistics.mean(values):.4f}{spread}")
    for batch in (1, 32):
        images = torch.from_numpy(aligned(x_test[:batch]))
        with torch.inference_mode():
            calls: dict[str, Callable[[], Any]] = {}
            for name, model in models[0].items():
                calls[name] = partial(model, images)
            found = compare(calls, baseline="dense", rounds=options.rounds, threads=options.threads)
        print(found.table(f"torch eager, batch {batch}, {options.threads} threads"))
        results["latency"].append({"batch": batch, "rows": found.rows()})
    if not options.no_record:
        print(f"recorded in {record(f'torch pruning, {options.threads} threads', results)}")


if __name__ == "__main__":
    main()
