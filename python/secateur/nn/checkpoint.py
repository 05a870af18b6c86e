"""A training run between two epochs, as a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sequential import Sequential


@dataclass
class TrainingCheckpoint:
    """Everything that ``Sequential.fit(resume=...)`` needs to go on as if it had never stopped.

    Every dict has string keys; its values are JSON-able, arrays, or again such dicts.

    Attributes
    ----------
    model : Sequential
        With weights, buffers and masks.
    optimizer_state : dict
        As `Optimizer.state_dict` returns it.
    rng_state : dict
        The state of the bit generator that orders the samples.
    epoch : int
        Epochs completed.
    batch : int
        The number of the last optimizer step, from 0, over all epochs.
    history : list of dict
        The logs of every completed epoch.
    callbacks_state : dict
        The callbacks' `state_dict`, where not empty, by class: ``"EarlyStopping"``, ``"EarlyStopping_1"``.
    packed : dict of str to float
        The densities up to which layers run packed, as measured.
    """

    model: Sequential
    optimizer_state: dict[str, Any]
    rng_state: dict[str, Any]
    epoch: int
    batch: int
    history: list[dict[str, float]] = field(default_factory=list)
    callbacks_state: dict[str, Any] = field(default_factory=dict)
    packed: dict[str, float] = field(default_factory=dict)
