"""A progress bar per epoch, on stderr, where that is a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..progress import terminal_bar
from .callbacks import Callback, FitState

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

REFRESH = 0.1
"""Seconds between two updates of the bar."""


class ProgressBar(Callback):
    """Shows the running epoch's loss and accuracy."""

    rank = 2  # after the callbacks that may add to the logs

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._updated = 0.0

    def on_train_begin(self, state: FitState) -> None:
        self._bar = terminal_bar(_columns)
        if self._bar is not None:
            self._bar.start()

    def on_batch_end(self, state: FitState) -> None:
        if self._bar is None:
            return
        now = time.monotonic()
        if self._task is None:
            description = f"Epoch {state.epoch + 1}/{state.epochs}"
            self._task = self._bar.add_task(description, total=state.batches_per_epoch, logs="")
        elif now - self._updated < REFRESH:
            return
        self._updated = now
        self._show(state, state.batch % state.batches_per_epoch + 1)

    def on_epoch_end(self, state: FitState) -> None:
        if self._bar is not None and self._task is not None:
            self._show(state, state.batches_per_epoch)
            self._bar.stop_task(self._task)
            self._task = None

    def on_train_end(self, state: FitState) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def _show(self, state: FitState, completed: int) -> None:
        assert self._bar is not None and self._task is not None
        logs = "  ".join(f"{name} {value:.4f}" for name, value in state.logs.items())
        self._bar.update(self._task, completed=completed, logs=logs)


def _columns(rich: Any) -> tuple[ProgressColumn, ...]:
    return (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(bar_width=30),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("{task.fields[logs]}"),
    )
