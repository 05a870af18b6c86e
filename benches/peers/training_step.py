"""A training step of the reference CNN: forward, loss, backward and Adam's update, against torch (eager).

Both sides start from the same weights and see the same batches; their losses are compared first. Every
step takes a new batch: one learnt by heart would end in subnormal gradients, which are slow everywhere.

    python -m benches.peers.training_step --threads 2
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

from .machine import arguments, pin_threads, record

BATCHES = 64

Batches = list[tuple[Any, Any]]


def ours(model: Any, batches: Batches) -> Callable[[], float]:
    """A step as `Sequential.fit` makes it."""
    import secateur as sc

    optimizer, loss = sc.nn.Adam(), sc.nn.SparseCategoricalCrossentropy()
    turn: Iterator[tuple[Any, Any]] = cycle(batches)

    def step() -> float:
        x, y = next(turn)
        outputs = model.forward(x, training=True)
        value, gradient = loss.gradient(outputs, y)
        model.backward(gradient)
        optimizer.step(model.parameters(), model.gradients(), model.masks)
        return value

    return step


def torch_eager(weights: list[Any], batches: Batches, threads: int) -> Callable[[], float]:
    """The same in torch, from the same weights."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1600, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    with torch.no_grad():
        for parameter, array in zip(model.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(array))
    optimizer, loss = torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss()
    turn = cycle([(torch.from_numpy(x), torch.from_numpy(y)) for x, y in batches])

    def step() -> float:
        x, y = next(turn)
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        return float(value.item())

    return step


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    pin_threads(options.threads)

    import numpy as np

    import secateur as sc

    from ..nets import IMAGE, reference_cnn
    from .harness import compare

    sc.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    x = rng.random((BATCHES, options.batch, 1, 28, 28), np.float32)
    y = rng.integers(0, 10, (BATCHES, options.batch))
    batches = list(zip(x, y, strict=True))
    model = reference_cnn()
    model.build(IMAGE, random_state=options.seed)
    theirs = torch_eager(model.get_weights(), batches, options.threads)
    candidates = {"torch eager": theirs, "secateur": ours(model, batches)}
    losses = {name: [step() for _ in range(20)] for name, step in candidates.items()}
    if not np.allclose(losses["secateur"], losses["torch eager"], rtol=1e-3):
        raise SystemExit(f"the losses of the first steps differ: {losses}")
    found = compare(candidates, baseline="torch eager", rounds=options.rounds, threads=options.threads)
    print(found.table(f"training step, batch {options.batch}, {options.threads} threads"))
    if not options.no_record:
        name = f"training step, batch {options.batch}, {options.threads} threads"
        print(f"recorded in {record(name, {'seed': options.seed, 'rows': found.rows()})}")


if __name__ == "__main__":
    main()
