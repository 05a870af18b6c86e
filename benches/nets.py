"""The networks that figures are stated on."""

from __future__ import annotations

import secateur as sc


def reference_cnn() -> sc.nn.Sequential:
    """The reference CNN on 28×28 images: 121,930 parameters, 2.5 million multiply-adds an image."""
    return _cnn(32, 64, 64)


def cnn_1m() -> sc.nn.Sequential:
    """The same net, wider: 999,274 parameters, 10.2 million multiply-adds an image."""
    return _cnn(64, 128, 288)


def _cnn(first: int, second: int, hidden: int) -> sc.nn.Sequential:
    return sc.nn.Sequential(
        [
            sc.nn.Conv2D(first, 3, activation="relu"),
            sc.nn.MaxPool2D(2),
            sc.nn.Conv2D(second, 3, activation="relu"),
            sc.nn.MaxPool2D(2),
            sc.nn.Flatten(),
            sc.nn.Dense(hidden, activation="relu"),
            sc.nn.Dense(10),
        ]
    )


NETS = {"reference": reference_cnn, "cnn-1m": cnn_1m}
IMAGE = (1, 28, 28)
