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


def resnet_20() -> sc.nn.Sequential:
    """ResNet-20 for 32×32 images (He et al., 1512.03385, §4.2), with projections where shapes change: 272,474
    parameters, 40.8 million multiply-adds an image.
    """

    def convolution(filters: int, size: int = 3, strides: int = 1) -> list[sc.nn.Layer]:
        conv = sc.nn.Conv2D(filters, size, strides, padding="same", use_bias=False)
        return [conv, sc.nn.BatchNorm()]

    layers = [*convolution(16), sc.nn.ReLU()]
    channels = 16
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if block == 0 and filters != channels else 1
            body = [*convolution(filters, 3, strides), sc.nn.ReLU(), *convolution(filters)]
            shortcut = convolution(filters, 1, strides) if filters != channels else []
            layers += [sc.nn.Residual(body, shortcut), sc.nn.ReLU()]
            channels = filters
    return sc.nn.Sequential([*layers, sc.nn.AveragePool2D(8), sc.nn.Flatten(), sc.nn.Dense(10)])


def lstm_512() -> sc.nn.Sequential:
    """An LSTM of 512 units that reads an image in seven bands of four rows: 1,285,130 parameters."""
    return sc.nn.Sequential([sc.nn.LSTM(512), sc.nn.Dense(10)])


NETS = {"reference": reference_cnn, "cnn-1m": cnn_1m, "resnet-20": resnet_20, "lstm-512": lstm_512}
IMAGE = (1, 28, 28)
IMAGES = {"reference": IMAGE, "cnn-1m": IMAGE, "resnet-20": (3, 32, 32), "lstm-512": (7, 112)}
"""The shape of a sample of each."""
