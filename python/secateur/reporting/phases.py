"""What a job with several trainings writes of them as they go."""

from __future__ import annotations

from typing import TextIO

from .. import nn
from .._json import dumps


class PhaseLog(nn.Callback):
    """Appends every epoch to the run's history, so that it is on disk whatever happens next."""

    rank = 2  # after the callbacks that add to the logs

    def __init__(self, file: TextIO, phase: str) -> None:
        self.file, self.phase = file, phase

    def on_epoch_end(self, state: nn.FitState) -> None:
        self.file.write(dumps({"phase": self.phase, "epoch": state.epoch, **state.logs}) + "\n")
        self.file.flush()
