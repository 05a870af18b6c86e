"""A training step: forward, loss, backward and Adam's update, against torch (eager, dense).

Both sides start from the same weights and see the same batches; their losses are compared first. Every
step takes a new batch: one learnt by heart would end in subnormal gradients, which are slow everywhere.
Pruned networks run as `fit` runs them, with masks ("masked") and on the nonzeros ("packed"); torch multiplies
by the zeros, and lets them grow.

    python -m benches.peers.training_step --threads 2                            # the reference CNN, dense
    python -m benches.peers.training_step --threads 2 --net mlp --batch 128 --sparsity 0 0.8 0.9 0.95
    python -m benches.peers.training_step --threads 2 --net lstm --sparsity 0 0.9
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

from .machine import arguments, pin_threads, record

BATCHES = 64

Batches = list[tuple[Any, Any]]


def ours(model: Any, batches: Batches, packed: str | None) -> Callable[[], float]:
    """A step as `Sequential.fit` makes it."""
    import secateur as sc
    from secateur.nn.packed import Packer

    model, optimizer, loss = model.copy(), sc.nn.Adam(), sc.nn.SparseCategoricalCrossentropy()
    packer = Packer(model, optimizer, packed, len(batches[0][0]))
    turn: Iterator[tuple[Any, Any]] = cycle(batches)

    def step() -> float:
        x, y = next(turn)
        packer.prepare()
        outputs = model.forward(x, training=True)
        value, gradient = loss.gradient(outputs, y)
        model.backward(gradient)
        packer.step(len(x))
        return value

    return step


def torch_network(net: str) -> Any:
    """The networks of `networks` in torch."""
    from torch import nn

    if net == "mlp":
        return nn.Sequential(
            nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10)
        )
    if net == "lstm":

        class Last(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lstm, self.dense = nn.LSTM(512, 512, batch_first=True), nn.Linear(512, 10)
                # Ours has one bias a gate, torch two.
                self.lstm.bias_hh_l0.requires_grad_(False).zero_()

            def forward(self, x: Any) -> Any:
                return self.dense(self.lstm(x)[0][:, -1])

        return Last()
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1600, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def torch_eager(net: str, weights: list[Any], batches: Batches, threads: int) -> Callable[[], float]:
    """The same in torch, from the same weights."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    model = torch_network(net)
    with torch.no_grad():
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter, array in zip(trained, weights, strict=True):
            parameter.copy_(torch.from_numpy(array))
    optimizer, loss = torch.optim.Adam(trained), nn.CrossEntropyLoss()
    turn = cycle([(torch.from_numpy(x), torch.from_numpy(y)) for x, y in batches])

    def step() -> float:
        x, y = next(turn)
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        return float(value.item())

    return step


def networks() -> dict[str, tuple[Callable[[], Any], tuple[int, ...]]]:
    """Ours, with the shape of their samples."""
    from secateur.nn import LSTM, Dense, Sequential

    from ..nets import IMAGE, reference_cnn

    def mlp() -> Any:
        return Sequential([Dense(2048, activation="relu"), Dense(2048, activation="relu"), Dense(10)])

    def lstm() -> Any:
        return Sequential([LSTM(512), Dense(10)])

    return {"reference": (reference_cnn, IMAGE), "mlp": (mlp, (784,)), "lstm": (lstm, (32, 512))}


def measure(sparsity: float, options: Any) -> dict[str, Any]:
    """One network at one sparsity, on all sides."""
    import numpy as np

    import secateur as sc

    from .harness import compare

    rng = np.random.default_rng(options.seed)
    make, shape = networks()[options.net]
    x = rng.random((BATCHES, options.batch, *shape), np.float32)
    y = rng.integers(0, 10, (BATCHES, options.batch))
    batches = list(zip(x, y, strict=True))
    model = make().build(shape, random_state=options.seed)
    if sparsity:
        sc.prune(model, sparsity, scope="erk", inplace=True)
    candidates = {"torch eager": torch_eager(options.net, model.get_weights(), batches, options.threads)}
    if sparsity:
        candidates |= {"masked": ours(model, batches, None), "packed": ours(model, batches, "auto")}
    else:
        candidates["secateur"] = ours(model, batches, None)
    # Beyond the first step torch's zeros have grown.
    losses = {name: [step() for _ in range(1 if sparsity else 20)] for name, step in candidates.items()}
    if not all(np.allclose(found, losses["torch eager"], rtol=1e-3) for found in losses.values()):
        raise SystemExit(f"the losses of the first steps differ: {losses}")
    found = compare(candidates, baseline="torch eager", rounds=options.rounds, threads=options.threads)
    pruned = f", {sparsity:.0%} of the weights removed" if sparsity else ""
    print(
        found.table(
            f"training step of {options.net}, batch {options.batch}, {options.threads} threads{pruned}"
        )
    )
    return {"net": options.net, "sparsity": sparsity, "rows": found.rows()}


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--net", choices=["reference", "mlp", "lstm"], default="reference")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--sparsity", type=float, nargs="+", default=[0.0], help="by the ERK rule (default 0)"
    )
    options = parser.parse_args()
    pin_threads(options.threads)

    import secateur as sc

    sc.set_num_threads(options.threads)
    results = [measure(sparsity, options) for sparsity in options.sparsity]
    if not options.no_record:
        name = f"training step, {options.net}, batch {options.batch}, {options.threads} threads"
        print(f"recorded in {record(name, {'seed': options.seed, 'results': results})}")


if __name__ == "__main__":
    main()
