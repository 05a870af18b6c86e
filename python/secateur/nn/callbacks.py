"""What runs between the steps of training."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._json import dumps
from .checkpoint import TrainingCheckpoint
from .layers import FloatArray, in_range, positive
from .losses import Loss
from .optimizers import Optimizer

if TYPE_CHECKING:
    from .packed import Packer
    from .sequential import Sequential


@dataclass
class FitState:
    """What a callback sees of a running `Sequential.fit`.

    Attributes
    ----------
    model, optimizer, loss
        The objects in training.
    epochs, batches_per_epoch : int
        The plan.
    x, y : ndarray
        All samples and targets.
    metrics : tuple of str
        The keys that the logs of an epoch will have.
    rng : numpy.random.Generator
        Draws the order of the samples; callbacks that need randomness draw from it too, so that a resumed run
        equals an uninterrupted one.
    epoch : int
        The current epoch, from 0; in `on_train_end`, the number of epochs completed.
    batch : int
        Optimizer steps completed, over all epochs, minus one: the current batch, from 0.
    logs : dict
        The current epoch's means so far, over the samples; in `on_epoch_end` with the validation's.
    history : list of dict
        One dict per completed epoch: ``"epoch"`` and its logs.
    x_batch, y_batch : ndarray
        The current batch; its gradients are in the layers during `on_batch_end`.
    resumed : bool
        Whether this fit goes on from a checkpoint; see `continues`.
    stop : bool
        Set it to end training: after the batch, or after the epoch.
    packer : Packer
        Decides which layers run packed.
    """

    model: Sequential
    optimizer: Optimizer
    loss: Loss
    epochs: int
    batches_per_epoch: int
    x: FloatArray
    y: NDArray[Any]
    metrics: tuple[str, ...]
    rng: np.random.Generator
    callbacks: tuple[Callback, ...] = ()
    epoch: int = 0
    batch: int = -1
    logs: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    x_batch: FloatArray | None = None
    y_batch: NDArray[Any] | None = None
    resumed: bool = False
    restored: tuple[Callback, ...] = ()
    stop: bool = False
    packer: Packer | None = None

    @property
    def steps(self) -> int:
        """The batches of the whole training."""
        return self.epochs * self.batches_per_epoch

    def continues(self, callback: Callback) -> bool:
        """Whether the callback goes on from a checkpoint, and does not begin anew: that had its state."""
        return any(callback is one for one in self.restored)

    def checkpoint(self) -> TrainingCheckpoint:
        """Everything that the next epoch depends on. Only meaningful in `on_epoch_end`."""
        if self.packer is not None:
            self.packer.settle()
        return TrainingCheckpoint(
            model=self.model,
            optimizer_state=self.optimizer.state_dict(),
            rng_state=dict(self.rng.bit_generator.state),
            epoch=len(self.history),
            batch=self.batch,
            history=[dict(logs) for logs in self.history],
            packed={} if self.packer is None else dict(self.packer.limits),
            callbacks_state={
                key: state
                for key, callback in callback_keys(self.callbacks).items()
                if (state := callback.state_dict())
            },
        )


class Callback:
    """Base of the callbacks: override what you need.

    `on_train_begin` refuses what does not fit, before anything changes; the first `on_epoch_begin` comes
    after all of them. `on_batch_end` runs after the optimizer's step, while that batch's gradients are still
    in the layers. `on_train_end` runs however training ends, Ctrl-C included. A callback that must survive a
    checkpoint returns its state, JSON-able values and arrays in dicts, from `state_dict`; `load_state_dict`
    is called before `on_train_begin`.
    """

    rank = 0
    """Callbacks of a lower rank run first; within a rank, in the order in which they were given."""

    def on_train_begin(self, state: FitState) -> None: ...
    def on_epoch_begin(self, state: FitState) -> None: ...
    def on_batch_end(self, state: FitState) -> None: ...
    def on_epoch_end(self, state: FitState) -> None: ...
    def on_train_end(self, state: FitState) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, as `state_dict` made it."""


def check_callbacks(given: Any) -> tuple[Callback, ...]:
    """The callbacks, by rank; None is none of them. Else a ValueError."""
    if given is not None and not isinstance(given, Iterable):
        raise ValueError(f"callbacks: expected several Callback objects, got {type(given).__name__}")
    callbacks = () if given is None else tuple(given)
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ValueError(f"callbacks: expected Callback objects, got {type(callback).__name__}")
    return tuple(sorted(callbacks, key=lambda callback: callback.rank))


def callback_keys(callbacks: tuple[Callback, ...]) -> dict[str, Callback]:
    """Names for the callbacks' states: the class, and a number from the second of a class on."""
    keys: dict[str, Callback] = {}
    counts: dict[str, int] = {}
    for callback in callbacks:
        kind = type(callback).__name__
        count = counts[kind] = counts.get(kind, -1) + 1
        keys[f"{kind}_{count}" if count else kind] = callback
    return keys


def falls(monitor: str) -> bool:
    """Whether a smaller `monitor` is better: so it is for every loss."""
    return "loss" in monitor


class _Monitor(Callback):
    """Base of the callbacks that follow one metric: knows the best value and the epoch it came from."""

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.best: float | None = None
        self.best_epoch: int | None = None

    def on_train_begin(self, state: FitState) -> None:
        if self.monitor not in state.metrics:
            hint = "; pass validation_data" if self.monitor.startswith("val_") else ""
            raise ValueError(f"monitor: {self.monitor!r} is not among {', '.join(state.metrics)}{hint}")
        if not state.continues(self):
            self.best = self.best_epoch = None

    def _improved(self, state: FitState, min_delta: float = 0.0) -> bool:
        value = state.logs[self.monitor]
        gain = 0.0 if self.best is None else (self.best - value) * (1 if falls(self.monitor) else -1)
        if self.best is not None and not gain > min_delta:
            return False
        self.best, self.best_epoch = value, state.epoch
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_epoch = state["best"], state["best_epoch"]


class EarlyStopping(_Monitor):
    """End training when a metric has not improved for some epochs.

    Parameters
    ----------
    monitor : str
        A key of the logs; a loss should fall, anything else rise.
    patience : int
        Epochs without improvement after which training ends.
    restore_best : bool
        Whether the model gets the weights (and masks) of its best epoch back in the end.
    min_delta : float
        A change counts as improvement when it is larger than this.

    Examples
    --------
    >>> from secateur import nn
    >>> nn.EarlyStopping("val_accuracy", patience=2).monitor
    'val_accuracy'
    """

    def __init__(
        self, monitor: str = "val_loss", patience: int = 3, restore_best: bool = True, min_delta: float = 0.0
    ) -> None:
        super().__init__(monitor)
        self.patience = positive("patience", patience)
        self.restore_best = bool(restore_best)
        self.min_delta = in_range("min_delta", min_delta, 0, math.inf)
        self.wait = 0
        self._snapshot: dict[str, Any] | None = None

    def on_train_begin(self, state: FitState) -> None:
        super().on_train_begin(state)
        if not state.continues(self):
            self.wait, self._snapshot = 0, None
        # A run that had ended stays so, unless it is given more patience.
        state.stop = state.stop or self.wait >= self.patience

    def on_epoch_end(self, state: FitState) -> None:
        if self._improved(state, self.min_delta):
            self.wait = 0
            if self.restore_best:
                self._snapshot = state.model.snapshot()
            return
        self.wait += 1
        if self.wait >= self.patience:
            state.stop = True

    def on_train_end(self, state: FitState) -> None:
        if self._snapshot is not None:
            state.model.restore(self._snapshot, resize=True)

    def state_dict(self) -> dict[str, Any]:
        state = {**super().state_dict(), "wait": self.wait}
        return state if self._snapshot is None else {**state, "snapshot": self._snapshot}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.wait, self._snapshot = int(state["wait"]), state.get("snapshot")


class Checkpoint(_Monitor):
    """Keep a training run's files up to date in a folder, each written whole or not at all.

    ``best.safetensors`` is the model of the best epoch so far, ``last.safetensors`` the training checkpoint
    from which ``fit(resume=sc.load(...))`` goes on, ``history.jsonl`` one line per completed epoch. All are
    there at any time after the first epoch, and after Ctrl-C even within it.

    Parameters
    ----------
    folder : path-like
        Made if missing.
    monitor : str or None
        The key of the logs that says which epoch is best; None: ``"val_loss"`` with validation data, else
        ``"loss"``.
    """

    rank = 1  # after the callbacks whose state it saves

    def __init__(self, folder: str | os.PathLike[str], monitor: str | None = None) -> None:
        super().__init__(monitor or "loss")
        self._monitor = monitor
        self.folder = Path(folder)

    def on_train_begin(self, state: FitState) -> None:
        self.monitor = self._monitor or ("val_loss" if "val_loss" in state.metrics else "loss")
        super().on_train_begin(state)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "best.safetensors").exists():
            # Resumed into another folder: the best from now on.
            self.best = self.best_epoch = None
        self._write_history(state)

    def on_epoch_end(self, state: FitState) -> None:
        self._write_history(state)
        if self._improved(state):
            self._save(state.model, "best.safetensors")
        self._save(state.checkpoint(), "last.safetensors")

    def on_train_end(self, state: FitState) -> None:
        if self.best is None:
            self._save(state.model, "best.safetensors")

    def _save(self, obj: Any, name: str) -> None:
        # Here, because the storage stage imports this one.
        from ..storage import save

        save(obj, self.folder / name)

    def _write_history(self, state: FitState) -> None:
        lines = "".join(dumps(logs) + "\n" for logs in state.history)
        temporary = self.folder / f".history.{os.getpid()}.tmp"
        try:
            with temporary.open("w") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.folder / "history.jsonl")
        finally:
            temporary.unlink(missing_ok=True)
