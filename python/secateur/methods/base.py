"""The callback that prunes during training, and what a method has to provide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import masking, provenance, ranking
from ..budgets import check_scope, check_sparsity
from ..criteria import Criterion
from ..granularity import Blocks, Granularity, Neurons, Pattern, Weights, parse_granularity
from ..models.view import FloatArray, ModelView, Snapshot, view
from ..names import select_names
from ..neurons import Layout, Planner, alive, masks_of
from ..nn.callbacks import Callback, FitState
from ..nn.layers import positive
from ..scoring import Scorer
from ..shrink import keep_neurons
from ..stop import StopRule, check_stop
from .averages import GradientMean


class Method:
    """Base of the methods: when to prune, and to what sparsity.

    `initial` returns masks to begin with, or None. `due` says after which batches `update` runs, which
    returns new masks; `observe` sees the gradients of the others. What has to survive a checkpoint is in
    `state_dict`.

    Parameters
    ----------
    sparsity : float
        The target: the fraction of the prunable weights to remove.
    criterion, lam
        As for `importance`.
    every : int
        Batches between two updates.
    scope, granularity, include, exclude
        As for `prune`. Neurons are masked during training, with what reads them; `remove_dead_neurons` makes
        the trained model's arrays smaller.
    """

    def __init__(
        self,
        sparsity: float,
        criterion: Criterion,
        lam: float | None,
        every: int,
        scope: str,
        granularity: str,
        include: str | Iterable[str] | None,
        exclude: str | Iterable[str] | None,
    ) -> None:
        self.sparsity = check_sparsity(sparsity)
        self.scorer = Scorer(criterion, lam)
        self.every = positive("every", every)
        self.granularity: Granularity = parse_granularity(granularity)
        self.scope = check_scope(scope, isinstance(self.granularity, Neurons))
        self.include, self.exclude = include, exclude
        self.names: Sequence[str] = ()
        self.target = self.sparsity
        self._counted: Sequence[str] = ()
        self._total = 0
        self._told: provenance.Step = {}
        self._gradients = GradientMean()
        self._thresholds = ranking.Thresholds()

    def start(self, model: ModelView, state: FitState) -> None:
        """Check that the method fits the model and the training, before that begins or goes on."""
        self._thresholds = ranking.Thresholds()
        tensors = model.parameters()
        self.names = select_names(tensors, self.include, self.exclude)
        counted: Iterable[str] = self.names
        if isinstance(self.granularity, Neurons):
            layout = Layout.of(model, self.names)
            self.names = [name for name in self.names if name in layout.removable]
            counted = tensors
            if not self.names:
                raise ValueError(
                    "model: it has no layer that can lose neurons; the output layer keeps all of them"
                )
        self._counted = list(counted)
        if not self._total:
            # A resumed training, whose model may have lost neurons, knows it.
            self._total = sum(tensors[name].size for name in self._counted)
        self.target = self.sparsity
        if isinstance(self.granularity, Pattern):
            shapes = {name: tensors[name].shape for name in self.names}
            self.target = masking.target_of_pattern(self.granularity, shapes, self.sparsity)
        name, criterion = type(self).__name__, self.scorer.criterion
        chosen = self.include is not None or self.exclude is not None
        only = {"tensors": list(self.names)} if chosen else {}
        # Once: updates may come after every batch.
        self._told = provenance.step(name, criterion, self.granularity, self.scope, 0.0, **only)

    def reset(self) -> None:
        """Begin a new training: forget what earlier ones left."""
        self._gradients.reset()
        self._total = 0

    def initial(self, model: ModelView, state: FitState) -> masking.Masks | None:
        """The masks that a new training begins with; None: those that the model has."""
        return None

    @property
    def _sees_gradients(self) -> bool:
        return self.scorer.needs_grads or callable(self.scorer.criterion)

    def observe(self, model: ModelView) -> None:
        """Look at the latest batch's gradients."""
        if self._sees_gradients:
            self._gradients.add(model.gradients())

    def mean_gradients(self, model: ModelView) -> Mapping[str, FloatArray] | None:
        """The means of |gradient| since the last update, the latest batch included, which begin anew.

        Of a single batch the gradients themselves where a score of weights drops the sign anyway. None where
        the criterion takes none.
        """
        if not self._sees_gradients:
            return None
        alone = not self._gradients and isinstance(self.granularity, Weights)
        if alone and not callable(self.scorer.criterion):
            return model.gradients()
        self._gradients.add(model.gradients())
        return self._gradients.take()

    def due(self, step: int) -> bool:
        """Whether to update after batch number `step` (from 1)."""
        return step % self.every == 0

    def update(self, model: ModelView, step: int, rng: np.random.Generator) -> masking.Masks:
        """The masks from now on."""
        raise NotImplementedError

    def finished(self, step: int, sparsity: float) -> bool:
        """Whether nothing more will be removed."""
        raise NotImplementedError

    def late(self, step: int) -> bool:
        """Whether it would do nothing in a training that begins after batch number `step`."""
        return False

    def reached(self, model: ModelView) -> float:
        """The sparsity of the tensors that the method prunes."""
        masks = model.masks()
        tensors = {} if all(name in masks for name in self._counted) else model.parameters()
        left = sum(
            int(np.count_nonzero(masks[name])) if name in masks else tensors[name].size
            for name in self._counted
        )
        return (self._total - left) / max(1, self._total)

    def describe(self, sparsity: float) -> provenance.Step:
        """What a model's file will say of the method that brought it to a sparsity."""
        return {**self._told, "sparsity": sparsity}

    def _held(self, model: ModelView) -> masking.Masks:
        """A mask for every tensor that the method prunes."""
        tensors, masks = model.parameters(), model.masks()
        return {
            name: masks[name] if name in masks else np.ones(tensors[name].shape, bool) for name in self.names
        }

    def _without_neurons(self) -> Weights | Blocks | Pattern:
        """The granularity of a method that takes no neurons."""
        if isinstance(self.granularity, Neurons):
            raise ValueError(
                f"granularity: {type(self).__name__} takes single weights, blocks and N:M, no neurons"
            )
        return self.granularity

    def select(
        self,
        model: ModelView,
        sparsity: float,
        gradients: Mapping[str, FloatArray] | None,
        rng: np.random.Generator,
    ) -> masking.Masks:
        """The masks that bring the model to `sparsity`, by the method's criterion."""
        if isinstance(self.granularity, Neurons):
            return self._select_neurons(model, sparsity, gradients, rng)
        return ranking.choose(
            model,
            self.names,
            gradients,
            self.granularity,
            self.scope,
            sparsity,
            self.scorer,
            rng,
            self._thresholds,
        )

    def _select_neurons(
        self,
        model: ModelView,
        sparsity: float,
        gradients: Mapping[str, FloatArray] | None,
        rng: np.random.Generator,
    ) -> masking.Masks:
        layout = Layout.of(model, self.names)
        scores = self.scorer.neuron_scores(model, self.names, gradients, rng)
        masks = model.masks()
        for name in self.names:
            if name in masks:
                # Below every score: neurons that are gone stay gone.
                scores[name] = np.where(alive(model, name), scores[name], -1.0)
        planner = Planner(layout, scores, self.scope)
        kept = planner.kept(planner.widths(round((1 - sparsity) * self._total)))
        return masks_of(model, kept, layout.removable)

    def state_dict(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        return {"gradients": self._gradients.state_dict(), "total": self._total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, as `state_dict` made it."""
        self._gradients.load_state_dict(state["gradients"])
        self._total = int(state["total"])


class DynamicPruner(Callback):
    """Prunes a model while it trains.

    Parameters
    ----------
    method : Method
        `Gradual`, `RigL`, …
    stop : AtSparsity, MaxDrop, NoImprovement or None
        Looked at after every epoch from the first removal on. `AtSparsity` ends the pruning, and training
        goes on; the others end the training and bring the last accepted epoch's model back, by the
        validation's accuracy or else its loss.
    shrink : bool
        With the granularity "neuron": removed neurons leave the model's arrays, and the optimizer's, at once,
        and the next steps are cheaper; else they are masked, for `remove_dead_neurons` to take out.

    Attributes
    ----------
    history : list of dict
        One per update: ``"batch"`` (-1: before the first), ``"epoch"``, ``"sparsity"``.

    Raises
    ------
    ValueError
        If an argument is of another kind; at the start of training, if method and model do not fit, or the
        stop rule lacks validation data.

    Examples
    --------
    >>> import numpy as np
    >>> import secateur as sc
    >>> model = sc.nn.Sequential([sc.nn.Dense(16, activation="relu"), sc.nn.Dense(2)])
    >>> x = np.random.default_rng(0).normal(size=(256, 4))
    >>> pruner = sc.DynamicPruner(sc.Gradual(sparsity=0.75, every=4))
    >>> _ = model.fit(x, (x[:, 0] > 0).astype(int), epochs=10, callbacks=[pruner], random_state=0)
    >>> pruner.sparsity
    0.75
    """

    def __init__(self, method: Method, stop: StopRule | None = None, shrink: bool = False) -> None:
        if not isinstance(method, Method):
            raise ValueError(f"method: expected a method such as Gradual or RigL, got {method!r}")
        self.method = method
        self.stop = check_stop(stop)
        if shrink and not isinstance(method.granularity, Neurons):
            raise ValueError('shrink: only neurons leave the arrays; the method needs granularity="neuron"')
        self.shrink = bool(shrink)
        self.history: list[dict[str, float]] = []
        self._view: ModelView | None = None
        self._begun = self._ended = self._stopped = False
        self._snapshot: Snapshot | None = None

    @property
    def sparsity(self) -> float:
        """The sparsity after the latest update."""
        return self.history[-1]["sparsity"] if self.history else 0.0

    def on_train_begin(self, state: FitState) -> None:
        if self.stop is not None and self.stop.needs_score and "val_loss" not in state.metrics:
            raise ValueError(f"stop: {self.stop!r} needs validation_data")
        self._view = view(state.model)
        self._begun = state.continues(self)
        if not self._begun:
            self.history, self._snapshot = [], None
            self._ended = self._stopped = False
            self.method.reset()
            if self.stop is not None:
                self.stop.start(None)
        self.method.start(self._view, state)
        if not self._begun and self.method.late(state.batch + 1):
            kind = type(self.method).__name__
            raise ValueError(f"end: {kind} is over before batch {state.batch + 1}, where the run goes on")
        state.stop = state.stop or self._stopped

    def on_epoch_begin(self, state: FitState) -> None:
        if self._begun:
            return
        self._begun = True
        assert self._view is not None
        masks = self.method.initial(self._view, state)
        if masks is not None:
            self._apply(self._view, masks, state)

    def on_batch_end(self, state: FitState) -> None:
        if self._ended:
            return
        assert self._view is not None
        step = state.batch + 1
        if self.method.due(step):
            self._apply(self._view, self.method.update(self._view, step, state.rng), state)
        else:
            self.method.observe(self._view)

    def _apply(self, model: ModelView, masks: masking.Masks, state: FitState) -> None:
        model.set_masks(masks)
        sparsity = self.method.reached(model)
        model.record(self.method.describe(sparsity), goes_on=True)
        self.history.append({"batch": state.batch, "epoch": state.epoch, "sparsity": sparsity})
        self._ended = self.method.finished(state.batch + 1, sparsity)
        if self.shrink:
            self._take_out(model, state)

    def _take_out(self, model: ModelView, state: FitState) -> None:
        """Leave out the neurons that are masked."""
        left = {name: alive(model, name) for name in model.masks() if name in self.method.names}
        kept = {name: np.flatnonzero(neurons) for name, neurons in left.items() if not neurons.all()}
        if kept:
            if state.packer is not None:
                state.packer.settle()
            layout = Layout.of(model, self.method.names)
            keep_neurons(model, kept, layout.removable, state.optimizer.slots.values())

    def on_epoch_end(self, state: FitState) -> None:
        state.logs["sparsity"] = self.sparsity
        if state.history:
            state.history[-1]["sparsity"] = self.sparsity
        if self.stop is None or self.sparsity == 0:
            return
        logs = state.logs
        end = self.stop.step(self.sparsity, logs.get("val_accuracy", -logs.get("val_loss", np.inf)))
        if self.stop.restores:
            if self.stop.accepted:
                assert self._view is not None
                self._snapshot = self._view.snapshot()
            self._stopped = end
            state.stop = state.stop or end
        else:
            self._ended = self._ended or end

    def on_train_end(self, state: FitState) -> None:
        if self._snapshot is not None and self._view is not None:
            self._view.restore(self._snapshot)
        self._view = None

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "history": [dict(record) for record in self.history],
            "ended": self._ended,
            "stopped": self._stopped,
            "method": self.method.state_dict(),
        }
        if self.stop is not None:
            state["stop"] = self.stop.state_dict()
        if self._snapshot is not None:
            state["snapshot"] = self._snapshot
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history = [dict(record) for record in state["history"]]
        self._ended, self._stopped = bool(state["ended"]), bool(state.get("stopped", False))
        self.method.load_state_dict(state["method"])
        if self.stop is not None and "stop" in state:
            self.stop.load_state_dict(state["stop"])
        self._snapshot = state.get("snapshot")
