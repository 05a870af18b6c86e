"""The main job from end to end: train a network on images, prune it three ways, compile it, measure it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from . import datasets, nn
from ._core import cpu_target
from ._json import dumps
from .errors import MissingExtraError
from .methods import DynamicPruner, Gradual
from .pruning import prune
from .reporting import model_rows, save_figure
from .reporting.phases import PhaseLog
from .schedules import Schedule
from .storage import save, write_atomic

STEPS = 5
"""Steps of static weight pruning."""


@dataclass(frozen=True)
class Preset:
    """A network for so many classes, and the shares of its weights that the methods remove."""

    layers: Callable[[int], list[nn.Layer]]
    weights: float
    neurons: float
    rows: bool = False
    """Whether it reads an image row by row, as a sequence, and not as a whole."""


def _cnn(first: int, second: int, units: int) -> Callable[[int], list[nn.Layer]]:
    return lambda classes: [
        nn.Conv2D(first, 3, activation="relu"),
        nn.MaxPool2D(2),
        nn.Conv2D(second, 3, activation="relu"),
        nn.MaxPool2D(2),
        nn.Flatten(),
        nn.Dense(units, activation="relu"),
        nn.Dense(classes),
    ]


PRESETS = {
    "reference": Preset(_cnn(32, 64, 64), weights=0.9, neurons=0.5),
    "cnn-1m": Preset(_cnn(64, 128, 288), weights=0.5, neurons=0.5),
    "rnn-500k": Preset(
        lambda classes: [nn.LSTM(338), nn.Dense(classes)], weights=0.8, neurons=0.8, rows=True
    ),
}
"""On 28×28 images and 10 classes: 121,930, 999,274 and 499,574 parameters."""


def network(preset: str = "reference", classes: int = 10) -> nn.Sequential:
    """The network of a preset, not built yet; its outputs are logits.

    A recurrent one takes images of shape (rows, columns), the others (channels, rows, columns).

    Examples
    --------
    >>> from secateur.demo import network
    >>> network().build((1, 28, 28)).num_parameters()
    121930
    """
    return nn.Sequential(PRESETS[preset].layers(classes))


def _rows(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images (n, channels, rows, columns) as sequences of rows."""
    return np.ascontiguousarray(x.swapaxes(1, 2).reshape(len(x), x.shape[2], -1))


class Demo:
    """One run of the main job.

    Parameters
    ----------
    data : str or path-like
        As for `datasets.load`.
    preset : {"reference", "cnn-1m", "rnn-500k"}
        Which network, and how much of it goes; the last one is an LSTM that reads images row by row.
    epochs : int
        Epochs of training from scratch. Static pruning fine-tunes for as many in all after weights went,
        half as many after neurons went; dynamic pruning happens within them.
    random_state : int
        Same number, same weights, for any number of threads.
    out : path-like
        The run's folder; made if missing.
    threads : int or None
        Threads of the plans that are timed; 1 is the steadiest.
    say : callable
        Is told what happens, a line at a time.

    Attributes
    ----------
    rows, layers : list of dict, dict
        As `reporting.model_rows` returns them, the dense model first.
    curves : dict
        (sparsity, accuracy) on the way, by method.

    Raises
    ------
    ValueError
        If an argument is wrong, before anything is written.
    """

    def __init__(
        self,
        data: str | os.PathLike[str] = "digits",
        preset: str = "reference",
        epochs: int = 10,
        random_state: int = 0,
        out: str | os.PathLike[str] = "runs/demo",
        threads: int | None = 1,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        if preset not in PRESETS:
            raise ValueError(f"preset: unknown name {preset!r}; choose from {', '.join(PRESETS)}")
        if epochs < 1:
            raise ValueError(f"epochs: expected a positive integer, got {epochs}")
        if random_state < 0:
            raise ValueError(f"random_state: expected an integer of at least 0, got {random_state}")
        if threads is not None and not 1 <= threads <= 1024:
            raise ValueError(f"threads: expected 1 to 1024, got {threads}")
        self.data, self.preset, self.epochs, self.random_state = data, preset, epochs, random_state
        self.out, self.threads, self.say = Path(out), threads, say
        self.train, self.test = datasets.load(data)
        if PRESETS[preset].rows:
            # Channels side by side: a row of the image is a step.
            self.train, self.test = ((_rows(x), y) for x, y in (self.train, self.test))
        self.classes = 1 + int(max(self.train[1].max(), self.test[1].max()))
        # Fails here, before anything is written, where the images are too small.
        self._fresh()
        self.rows: list[dict[str, Any]] = []
        self.layers: dict[str, dict[str, float]] = {}
        self.curves: dict[str, list[tuple[float, float]]] = {}

    def _fresh(self) -> nn.Sequential:
        """The network with its first weights: the same for the dense and the dynamic training."""
        return network(self.preset, self.classes).build(self.train[0].shape[1:], self.random_state)

    def run(self) -> None:
        """Train, prune, compile, measure, and write the run's folder.

        It holds a model file for each row, ``history.jsonl`` (a line an epoch, written as training goes),
        ``table.json``, ``figures.png`` where matplotlib is installed, and for each phase a folder with the
        best model so far.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        share = PRESETS[self.preset]
        with (self.out / "history.jsonl").open("w") as history:
            callbacks = partial(self._callbacks, history)
            models = {"dense": self._dense(callbacks("dense"))}
            dense = models["dense"]
            name = f"{share.weights:.0%} weights"
            models[name] = self._static(dense, name, share.weights, callbacks("weights"), STEPS, scope="erk")
            name = f"{share.neurons:.0%} neurons"
            models[name] = self._static(
                dense, name, share.neurons, callbacks("neurons"), 1, granularity="neuron"
            )
            name = f"{share.weights:.0%} dynamic"
            models[name] = self._dynamic(name, share.weights, callbacks("dynamic"))
        files = {}
        for name, model in models.items():
            files[name] = (model, self.out / f"{name.replace('% ', '-')}.safetensors")
            save(*files[name])
        self.say("compiling and timing")
        self.rows, self.layers = model_rows(files, self.test[0], self.test, self.threads)
        table = {**self.about(), "rows": self.rows, "layers": self.layers, "curves": self.curves}
        write_atomic(self.out / "table.json", (dumps(table, 1) + "\n").encode())
        try:
            save_figure(self.curves, self.layers, self.out / "figures.png", f"{self.data}, {self.preset}")
        except MissingExtraError as error:
            self.say(str(error))

    def about(self) -> dict[str, Any]:
        """What was run, on what."""
        return {
            "data": str(self.data),
            "preset": self.preset,
            "epochs": self.epochs,
            "random_state": self.random_state,
            "threads": self.threads,
            "target": cpu_target(),
            "machine": platform.machine(),
            "train_images": len(self.train[0]),
            "test_images": len(self.test[0]),
        }

    def _callbacks(self, history: TextIO, phase: str) -> list[nn.Callback]:
        return [PhaseLog(history, phase), nn.Checkpoint(self.out / phase, monitor="loss")]

    def _fit(self, epochs: int, callbacks: list[nn.Callback]) -> dict[str, Any]:
        """Arguments of `fit`: Adam, batches of 32, shuffled."""
        x, y = self.train
        return {
            "x": x,
            "y": y,
            "epochs": epochs,
            "batch_size": 32,
            "optimizer": nn.Adam(),
            "callbacks": callbacks,
            "packed": 0.2,  # not by measuring: the same number gives the same weights
        }

    def _dense(self, callbacks: list[nn.Callback]) -> nn.Sequential:
        model = self._fresh()
        self.say(f"dense: {model.num_parameters():,} parameters, {self.epochs} epochs")
        model.fit(**self._fit(self.epochs, callbacks), random_state=self.random_state)
        return model

    def _static(
        self,
        dense: nn.Sequential,
        name: str,
        sparsity: float,
        callbacks: list[nn.Callback],
        steps: int,
        **how: Any,
    ) -> nn.Sequential:
        """Prune in `steps`, with as many epochs of fine-tuning in all as training had (at least one each)."""
        epochs = max(1, self.epochs // steps)
        self.say(f"{name}: {steps} step(s) of pruning, {epochs} epoch(s) of fine-tuning after each")
        result = prune(
            dense,
            sparsity,
            schedule=Schedule("cubic", steps),
            finetune=self._fit(epochs, callbacks),
            validate=self.test,
            random_state=self.random_state,
            **how,
        )
        self.curves[name] = [(float(r["sparsity"]), float(r["score"])) for r in result.history]
        model: nn.Sequential = result.model
        return model

    def _dynamic(self, name: str, sparsity: float, callbacks: list[nn.Callback]) -> nn.Sequential:
        model = self._fresh()
        self.say(f"{name}: {self.epochs} epochs from the same first weights, pruned on the way")
        batches = -(-len(self.train[0]) // 32)
        pruner = DynamicPruner(Gradual(sparsity, scope="erk", every=max(1, min(100, batches // 4))))
        fit = self._fit(self.epochs, [pruner, *callbacks])
        history = model.fit(**fit, validation_data=self.test, random_state=self.random_state)
        self.curves[name] = list(zip(history["sparsity"], history["val_accuracy"], strict=True))
        return model
