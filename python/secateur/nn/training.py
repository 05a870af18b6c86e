"""The training loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .callbacks import Callback, FitState, callback_keys, check_callbacks
from .checkpoint import TrainingCheckpoint
from .data import same_length, samples
from .distillation import Distillation
from .history import History
from .layers import FloatArray, Shape, positive
from .losses import Loss, get_loss
from .optimizers import OPTIMIZERS, Optimizer, get_optimizer
from .packed import Packer, check_packed
from .progress import ProgressBar

if TYPE_CHECKING:
    from .sequential import Sequential

EVALUATION_BATCH = 256

LARGEST_KEPT = (32 << 20) - (64 << 10)
"""Bytes: almost the largest block that glibc takes as a measure of how much freed memory to keep."""


@dataclass
class FitArguments:
    """The arguments of `Sequential.fit`, which documents them."""

    x: ArrayLike
    y: ArrayLike
    epochs: int
    batch_size: int
    optimizer: str | Optimizer | None
    loss: str | Loss
    shuffle: bool
    validation_data: tuple[ArrayLike, ArrayLike] | None
    callbacks: Iterable[Callback] | None
    random_state: int | np.random.Generator | None
    progress: bool
    resume: TrainingCheckpoint | None
    teacher: Any
    temperature: float
    alpha: float
    packed: str | float | None


class _Mean:
    """Means of the metrics over the samples seen so far."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, float] = {}

    def add(self, samples: int, values: dict[str, float]) -> None:
        self.count += samples
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * samples

    def means(self, prefix: str = "") -> dict[str, float]:
        return {prefix + name: total / max(1, self.count) for name, total in self.sums.items()}


def _metrics(loss: Loss, value: float, outputs: FloatArray, targets: NDArray[Any]) -> dict[str, float]:
    return (
        {"loss": value, "accuracy": loss.accuracy(outputs, targets)} if loss.has_accuracy else {"loss": value}
    )


def evaluate(
    model: Sequential, x: FloatArray, targets: NDArray[Any], loss: Loss, batch_size: int
) -> dict[str, float]:
    """The metrics of checked data."""
    mean = _Mean()
    for start in range(0, len(x), batch_size):
        batch = targets[start : start + batch_size]
        outputs = model.forward(x[start : start + batch_size])
        mean.add(loss.count(batch), _metrics(loss, loss.value(outputs, batch), outputs, batch))
    return mean.means()


def _optimizer(given: str | Optimizer | None, resume: TrainingCheckpoint | None) -> Optimizer:
    """The optimizer to use: the given one, else the checkpoint's kind, else Adam."""
    if resume is None:
        return get_optimizer("adam" if given is None else given)
    name = str(resume.optimizer_state.get("name"))
    if given is None and name not in OPTIMIZERS:
        raise ValueError(f"optimizer: the checkpoint's is {name!r}; pass an optimizer of that kind")
    return get_optimizer(name if given is None else given)


def _output_shape(model: Sequential, shape: Shape) -> Shape:
    """The model's output shape for samples of `shape`; an unbuilt model stays so."""
    if model.built:
        return model.output_shape
    trial = model.copy()
    trial.build(shape)
    return trial.output_shape


def _resume(model: Sequential, state: FitState, resume: TrainingCheckpoint) -> None:
    """Put model, optimizer, random numbers, history and callbacks into the state of a checkpoint."""
    keys = callback_keys(state.callbacks)
    lost = [key for key in resume.callbacks_state if key not in keys]
    if lost:
        raise ValueError(f"callbacks: the checkpoint holds the state of {', '.join(lost)}, not given here")
    state.optimizer.load_state_dict(resume.optimizer_state)
    if resume.model is not model:
        model.restore(resume.model.snapshot(), resize=_narrower(resume.model, model))
    state.rng.bit_generator.state = resume.rng_state
    state.history = [dict(logs) for logs in resume.history]
    state.epoch, state.batch, state.resumed = resume.epoch, resume.batch, True
    for key, callback_state in resume.callbacks_state.items():
        keys[key].load_state_dict(callback_state)
    state.restored = tuple(keys[key] for key in resume.callbacks_state)


def _narrower(model: Sequential, other: Sequential) -> bool:
    """Whether a model may be the other one after losing neurons: it has not gained any."""
    one, two = model._shapes(), other._shapes()
    return one.keys() == two.keys() and all(
        len(one[name]) == len(two[name]) and all(m <= n for m, n in zip(one[name], two[name], strict=True))
        for name in one
    )


def _keep_memory() -> None:
    """Let the allocator keep what a step frees for the next one.

    glibc gives freed memory back to the system beyond twice the largest block freed so far, and a step's
    activations are many blocks of a few megabytes. They came anew from the system at every step, page by
    page: 300 page faults for the reference CNN at batch 32, 7% of its time. The block is never touched, so
    it takes no memory itself.
    """
    np.empty(LARGEST_KEPT, np.uint8)


def fit(model: Sequential, arguments: FitArguments) -> History:
    """Check the arguments, then train."""
    x = samples(arguments.x, model.input_shape)
    epochs, batch_size = positive("epochs", arguments.epochs), positive("batch_size", arguments.batch_size)
    loss = get_loss(arguments.loss)
    model.check_loss(loss)
    loss.bind(model)
    resume = arguments.resume
    if resume is not None and not isinstance(resume, TrainingCheckpoint):
        raise ValueError(f"resume: expected a TrainingCheckpoint, got {type(resume).__name__}")
    callbacks = check_callbacks(arguments.callbacks)
    output_shape = _output_shape(model, x.shape[1:])
    targets = loss.check(arguments.y, output_shape)
    same_length(x, targets)
    validation = None
    if arguments.validation_data is not None:
        if not isinstance(arguments.validation_data, (tuple, list)) or len(arguments.validation_data) != 2:
            raise ValueError("validation_data: expected a pair (x, y)")
        vx = samples(arguments.validation_data[0], x.shape[1:], "validation_data")
        vy = loss.check(arguments.validation_data[1], output_shape, "validation_data")
        same_length(vx, vy, ("validation_data", "validation_data"))
        validation = (vx, vy)
    optimizer = _optimizer(arguments.optimizer, resume)
    packed = check_packed(arguments.packed)
    distilled = None
    if arguments.teacher is not None:
        distilled = Distillation(
            arguments.teacher, x, output_shape, loss, arguments.temperature, arguments.alpha
        )

    rng = np.random.default_rng(arguments.random_state)
    if not model.built:
        model.build(x.shape[1:], rng)
    metrics: tuple[str, ...] = ("loss", "accuracy") if loss.has_accuracy else ("loss",)
    if validation is not None:
        metrics += tuple(f"val_{name}" for name in metrics)
    batches = -(-len(x) // batch_size)
    state = FitState(model, optimizer, loss, epochs, batches, x, targets, metrics, rng, callbacks)
    if resume is not None:
        _resume(model, state, resume)
    packer = state.packer = Packer(model, optimizer, packed, batch_size)
    if resume is not None:
        packer.limits = dict(resume.packed)
    model.loss = loss
    running = (*callbacks, ProgressBar()) if arguments.progress else callbacks
    _keep_memory()
    begun: list[Callback] = []
    try:
        for callback in running:
            callback.on_train_begin(state)
            begun.append(callback)
        while state.epoch < epochs and not state.stop:
            for callback in running:
                callback.on_epoch_begin(state)
            _epoch(state, packer, batch_size, arguments.shuffle, running, distilled)
            if validation is not None:
                state.logs |= {
                    f"val_{name}": value
                    for name, value in evaluate(model, *validation, loss, EVALUATION_BATCH).items()
                }
            state.history.append({"epoch": state.epoch, **state.logs})
            for callback in running:
                callback.on_epoch_end(state)
            state.epoch += 1
    finally:
        # However it ends: the best weights come back, files are written, the terminal is left in order.
        packer.settle()
        for callback in begun:
            callback.on_train_end(state)
        for layer in model.layers:
            layer.release()
    return History(state.history)


def _epoch(
    state: FitState,
    packer: Packer,
    batch_size: int,
    shuffle: bool,
    callbacks: Sequence[Callback],
    distilled: Distillation | None,
) -> None:
    """One pass over the data."""
    model, loss, x, targets = state.model, state.loss, state.x, state.y
    order = state.rng.permutation(len(x)) if shuffle else None
    mean = _Mean()
    state.logs = {}
    for start in range(0, len(x), batch_size):
        part: Any = slice(start, start + batch_size) if order is None else order[start : start + batch_size]
        batch, labels = x[part], targets[part]
        packer.prepare(anew=start == 0, left=state.epochs * state.batches_per_epoch - state.batch - 2)
        outputs = model.forward(batch, training=True)
        value, dy = (
            loss.gradient(outputs, labels) if distilled is None else distilled.gradient(outputs, labels, part)
        )
        model.backward(dy)
        packer.step(len(batch))
        mean.add(loss.count(labels), _metrics(loss, value, outputs, labels))
        state.batch += 1
        state.x_batch, state.y_batch = batch, labels
        state.logs = mean.means()
        for callback in callbacks:
            callback.on_batch_end(state)
        if state.stop:
            break
    if model.masks:
        state.logs["packed"] = packer.share()
