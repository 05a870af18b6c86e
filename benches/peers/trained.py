"""Weights that are really pruned: a network trained on Fashion-MNIST and cut by magnitude."""

from __future__ import annotations

from functools import cache
from typing import Any

from numpy.typing import NDArray

EPOCHS = 3
WIDTH = 1024
#: Layers of the network, by the shape (outputs, inputs) of their weights.
LAYERS = {(WIDTH, 784): 1, (WIDTH, WIDTH): 2}


@cache
def _trained(seed: int) -> Any:
    import secateur as sc

    model = sc.nn.Sequential(
        [
            sc.nn.Flatten(),
            sc.nn.Dense(WIDTH, activation="relu"),
            sc.nn.Dense(WIDTH, activation="relu"),
            sc.nn.Dense(10),
        ]
    )
    (x, y), _ = sc.datasets.load("fashion-mnist")
    model.fit(x, y, epochs=EPOCHS, batch_size=128, optimizer=sc.nn.Adam(), random_state=seed, progress=False)
    return model


def weights(shape: tuple[int, int], density: float, seed: int) -> NDArray[Any]:
    """The weights of the layer of that shape, of which the largest `density` are left.

    Raises
    ------
    SystemExit
        If the network has no such layer.
    """
    import secateur as sc

    if shape not in LAYERS:
        raise SystemExit(f"shapes: the trained network has {list(LAYERS)}, not {shape}")
    model = _trained(seed)
    dense = model.layers[LAYERS[shape]].get_weights()[0]
    return sc.apply_mask(dense, sc.topk_mask(abs(dense), sparsity=1 - density))
