"""torch's own pruning of LeNet, with the budget of ours: `global_unstructured` at once or in cubic steps.

The same layers, epochs, batches, optimizer and learning rates as in ``examples/lenet.py``; torch's own first
weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .torch_baseline import weights

BATCH, RATE = 100, 2e-3


def network(net: str) -> Any:
    """LeNet-300-100, or Caffe's LeNet-5."""
    from torch import nn

    if net == "300-100":
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(784, 300),
            nn.ReLU(),
            nn.Linear(300, 100),
            nn.ReLU(),
            nn.Linear(100, 10),
        )
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def train(net: str, method: str, sparsity: float, data: Any, epochs: int, seed: int) -> Any:
    """The network after all its epochs.

    "dense"; "one-shot": half of the epochs dense, one cut, half of them fine-tuning; "gradual": a cubic
    schedule over the first half of the training, every 300th of it.
    """
    import torch

    torch.manual_seed(seed)
    x, y = (torch.from_numpy(array) for array in data)
    model, shuffle = network(net), torch.Generator().manual_seed(seed)
    if method == "one-shot":
        _fit(model, x, y, epochs // 2, RATE, shuffle)
        _cut(model, sparsity)
        _fit(model, x, y, epochs - epochs // 2, RATE / 2, shuffle)
    elif method == "gradual":
        total = epochs * -(-len(x) // BATCH)
        last, every = total // 2, max(1, total // 300)

        def prune(step: int) -> None:
            if step == last or (step < last and step % every == 0):
                _cut(model, sparsity * (1 - (1 - step / last) ** 3))

        _fit(model, x, y, epochs, RATE, shuffle, prune)
    else:
        _fit(model, x, y, epochs, RATE, shuffle)
    return model


def kept(model: Any) -> tuple[int, int]:
    """How many weights are left, and how many there are."""
    found = [layer.weight for layer, _ in weights(model)]
    return sum(int((w != 0).sum()) for w in found), sum(w.numel() for w in found)


def _fit(
    model: Any,
    x: Any,
    y: Any,
    epochs: int,
    rate: float,
    shuffle: Any,
    after: Callable[[int], None] | None = None,
) -> None:
    """Adam over shuffled batches, its rate falling along half a cosine."""
    import torch

    optimizer = torch.optim.Adam(model.parameters(), rate)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss, step = torch.nn.CrossEntropyLoss(), 0
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=shuffle).split(BATCH):
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
            step += 1
            if after is not None:
                after(step)


def _cut(model: Any, sparsity: float) -> None:
    """Prune to a sparsity in all, over all layers."""
    from torch.nn.utils import prune

    left, size = kept(model)
    remove = left - (size - round(sparsity * size))
    if remove > 0:
        prune.global_unstructured(weights(model), pruning_method=prune.L1Unstructured, amount=remove)
