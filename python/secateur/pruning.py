"""Static pruning: remove, fine-tune, test, and so on to the target."""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import provenance
from .budgets import check_scope, check_sparsity
from .calibration import Calibration
from .criteria import Criterion, needs_norms
from .granularity import Granularity, Neurons, parse_granularity
from .layerwise import LayerwiseRemoval
from .measure import latencies, runner
from .models.view import Data, ModelView, view
from .names import select_names
from .removal import NeuronRemoval, Removal, WeightRemoval
from .result import PruneResult, sizes
from .schedules import Schedule, check_schedule
from .scoring import Scorer
from .stop import StopRule, check_stop

Validate = Data | Callable[[Any], float]
Samples = ArrayLike | Mapping[str, ArrayLike] | Callable[[], Iterable[Any]]
Finetune = Mapping[str, Any] | Callable[[Any], Any]


def prune(
    model: Any,
    sparsity: float | None = None,
    *,
    threshold: float | None = None,
    criterion: Criterion = "l1",
    granularity: str = "weight",
    scope: str = "global",
    schedule: str | Schedule | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    data: Data | Samples | None = None,
    bias_correction: bool | None = None,
    finetune: Finetune | None = None,
    validate: Validate | None = None,
    stop: StopRule | None = None,
    inplace: bool = False,
    random_state: int | np.random.Generator | None = None,
    progress: bool = True,
    lam: float | None = None,
    round_to: int | str | None = "auto",
) -> PruneResult:
    """Remove the least important part of a trained model's weights.

    Weights are scored and the lowest removed, in one step or, with a `schedule`, in several; after each step
    the model is fine-tuned, with what was removed held at zero, and tested.

    Parameters
    ----------
    model : Sequential, OnnxModel or path-like
        Built, usually trained. A path that ends in ``.onnx`` is read; the file is not changed.
    sparsity : float, optional
        The fraction of the prunable weights to remove, in [0, 1]. Prunable are weight matrices and filters;
        biases and normalizations are not counted. Exact for single weights: n - round_half_even(sparsity * n)
        of n stay. Blocks and neurons meet it to within one of them. Give either this or `threshold`; N:M
        patterns need neither.
    threshold : float, optional
        Instead: what scores less goes.
    criterion : {"l1", "l2", "gradient", "taylor", "combined", "random", "wanda", "obs"} or callable
        How to score; see `importance`. A callable takes a tensor's weights and gradients (None without
        `data`). "wanda" [1]_ and "obs" see what the layers are given, on calibration data: "wanda" scores
        |w|·‖x‖, ‖x‖ being the root mean square of the input that w is multiplied by. "obs" then goes through
        the layers and lets the weights that stay take over what the others did, see
        `secateur.reconstruction` [2]_; not for neurons, nor with a threshold.
    granularity : str
        "weight"; "neuron" (really smaller layers: a removed neuron or channel takes its bias, its
        normalization and the weights that read it along; the output layer stays); blocks such as "8x1" of the
        matrix (outputs, inputs); N:M such as "2:4", N of every M consecutive inputs kept.
    scope : {"global", "layer", "output", "erk", "lamp"}
        "global": all tensors compete; by "wanda" and "obs" with what weights are worth relative to their
        layer's output, see `secateur.budgets.relative`. "layer": the same sparsity in each. "output": in each
        row of each, as [1]_ has it. "erk", "lamp": see `secateur.budgets`. In the end N:M patterns leave the
        same in all of them; they differ in which weights the first steps of a schedule remove.
        Neurons: see `secateur.neurons.Planner`; "output" is not for them.
    schedule : {"one-shot", "linear", "cubic", "cyclic"}, Schedule or None
        None: in one step.
    include, exclude : str or iterable of str, optional
        Layers or tensors by name or pattern ("conv*"). Neurons: the layers that may lose some; the sparsity
        always counts the whole model.
    data : (x, y), x, mapping or callable, optional
        For criteria with gradients a pair: those of the mean loss over these samples, taken anew at every
        step. For "wanda", "obs" and `bias_correction` samples alone do: an array, of an ONNX model with
        several inputs a mapping of arrays, or a callable that gives an iterable of batches, the same ones at
        each call. Some hundred to some thousand are enough.
    bias_correction : bool, optional
        Whether each layer's bias takes over the mean error of its output over `data` [3]_; where a layer has
        no bias, nor a batch normalization behind it, its output stays as pruning leaves it. Not for neurons.
        None: with "obs" only.
    finetune : mapping or callable, optional
        After every step: arguments of the model's `fit`, e.g. ``dict(x=x, y=y, epochs=3)``; or what is called
        with the model. An optimizer object is used as a fresh copy each time; without one, Adam takes small
        steps (a learning rate of 3e-4), since the model is trained already.
    validate : (x, y) or callable, optional
        Scores the model before, and after every step; inference is timed then too. A pair: accuracy, or minus
        the loss. A callable: takes the model and returns a number, more is better.
    stop : AtSparsity, MaxDrop, NoImprovement or None
        When to end before the schedule does, and what to go back to.
    inplace : bool
        Whether `model` itself becomes the result; if something fails it is as it was.
    random_state : int, numpy.random.Generator or None
        For the "random" criterion and for fine-tuning, where that has none of its own.
    progress : bool
        Whether to show progress, if stderr is a terminal.
    lam : float, optional
        λ of S = |w| + λ·|∂L/∂w|, for "l1", "l2" and "combined". For "combined" the default makes both terms
        equally large on average.
    round_to : {"auto"}, int or None
        Neurons: "auto" moves widths to multiples of 16 where that is measured to be faster here; an int makes
        all changed widths multiples of it (the sparsity is then met to within that many neurons).

    Returns
    -------
    PruneResult
        ``model``, ``masks``, ``history``, ``summary()``.

    Raises
    ------
    ValueError
        Naming the argument that is wrong or does not fit the others.
    TypeError
        If the model is of an unknown kind.
    UnsupportedOpError
        If a layer cannot be pruned; the message names it.

    References
    ----------
    .. [1] Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", arXiv 2306.11695.
    .. [2] Frantar & Alistarh, "Optimal Brain Compression", arXiv 2208.11580; "SparseGPT", arXiv 2301.00774.
    .. [3] Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv
       1906.04721.

    Examples
    --------
    >>> import secateur as sc
    >>> model = sc.nn.Sequential([sc.nn.Dense(8, activation="relu"), sc.nn.Dense(2)]).build((4,), 0)
    >>> res = sc.prune(model, 0.75)
    >>> sum(int(mask.sum()) for mask in res.masks.values())
    12
    >>> smaller = sc.prune(model, 0.5, granularity="neuron", round_to=None).model
    >>> smaller.layers[0].units, model.layers[0].units
    (4, 8)
    """
    if inplace and isinstance(model, (str, os.PathLike)):
        raise ValueError("inplace: a file is not changed; save the model of the result")
    original = view(model)
    unit = parse_granularity(granularity)
    check_scope(scope, isinstance(unit, Neurons))
    steps = check_schedule(schedule)
    rule = check_stop(stop)
    reconstruct = isinstance(criterion, str) and criterion == "obs"
    biases = reconstruct if bias_correction is None else bool(bias_correction)
    calibration = _calibration(criterion, biases, data)
    scorer = Scorer(criterion, lam, calibration)
    _check_target(sparsity, threshold, unit)
    if reconstruct and (threshold is not None or isinstance(unit, Neurons)):
        argument = "threshold" if threshold is not None else "granularity"
        raise ValueError(f"{argument}: criterion 'obs' takes a sparsity, of weights, blocks or N:M")
    if biases and isinstance(unit, Neurons):
        raise ValueError("bias_correction: not for neurons, which leave with their biases")
    pair = None
    graded = scorer.needs_grads or (callable(criterion) and isinstance(data, (tuple, list)))
    if data is not None and (calibration is None or graded):
        pair = _pair("data", data)
    if scorer.needs_grads and pair is None:
        raise ValueError(f"data: criterion {criterion!r} needs (x, y) to take gradients from")
    _check_finetune(finetune)
    if validate is not None and not callable(validate):
        validate = _pair("validate", validate)
    if rule is not None and rule.needs_score and validate is None:
        raise ValueError(f"validate: the stop rule {rule!r} needs it")
    width_step = _check_round_to(round_to)
    names = select_names(original.parameters(), include, exclude)

    work = original.clone()
    removal: Removal
    if isinstance(unit, Neurons):
        if steps.cycles > 1:
            raise ValueError("schedule: removed neurons cannot come back, so cycles need another granularity")
        removal = NeuronRemoval(work, names, scope, scorer, sparsity, threshold, width_step)
    elif calibration is not None and (reconstruct or biases):
        removal = LayerwiseRemoval(
            work, names, unit, scope, scorer, sparsity, threshold, calibration,
            weights=reconstruct, biases=biases,
        )  # fmt: skip
    else:
        removal = WeightRemoval(work, names, unit, scope, scorer, sparsity, threshold)
    loop = _Loop(
        removal, steps, pair, finetune, validate, rule, np.random.default_rng(random_state), bool(progress)
    )
    final, record = loop.run()
    before = original.clone() if inplace else original
    masks = final.masks(before)
    if record["step"]:
        how = {"steps": record["step"], "finetuned": finetune is not None, "bias_correction": biases}
        how |= {"tensors": names} if include is not None or exclude is not None else {}
        final.view.record(provenance.step("prune", criterion, unit, scope, final.sparsity, **how))
    if inplace:
        final.commit(original)
    return PruneResult(
        original.model if inplace else final.view.model, masks, loop.history, record, before, final.view
    )


class _Loop:
    """The steps of one call of `prune`."""

    def __init__(
        self,
        removal: Removal,
        schedule: Schedule,
        data: Data | None,
        finetune: Finetune | None,
        validate: Validate | None,
        rule: StopRule | None,
        rng: np.random.Generator,
        progress: bool,
    ) -> None:
        self.removal, self.schedule, self.data = removal, schedule, data
        self.finetune, self.validate, self.rule = finetune, validate, copy.deepcopy(rule)
        self.rng, self.progress = rng, progress
        self.history: list[dict[str, Any]] = []

    def run(self) -> tuple[Removal, dict[str, Any]]:
        """As many steps as the stop rule allows: the removal whose model is the result, and its record."""
        record = self._record(0, time.perf_counter())
        if self.rule is not None:
            self.rule.start(record.get("score"))
        kept = self.removal.copy(), record
        for step, share in enumerate(self.schedule.shares(), 1):
            start = time.perf_counter()
            gradients = None if self.data is None else self.removal.view.gradients(self.data)
            self.removal.step(share, gradients, self.rng)
            self._finetune(self.removal.view)
            record = self._record(step, start)
            if self.rule is None or share == 0:
                continue
            end = self.rule.step(self.removal.sparsity, record.get("score"))
            if self.rule.accepted and self.rule.restores:
                kept = self.removal.copy(), record
            if end:
                break
        return kept if self.rule is not None and self.rule.restores else (self.removal, record)

    def _finetune(self, view: ModelView) -> None:
        if self.finetune is None:
            return
        masks = dict(view.masks())
        if callable(self.finetune):
            self.finetune(view.model)
        else:
            arguments = {"random_state": self.rng, "progress": self.progress, **self.finetune}
            if "optimizer" in arguments:
                arguments["optimizer"] = copy.deepcopy(arguments["optimizer"])
            view.fit(**arguments)
        view.set_masks(masks)

    def _record(self, step: int, start: float) -> dict[str, Any]:
        """Test the model as it is now."""
        view = self.removal.view
        record: dict[str, Any] = {"step": step, "sparsity": self.removal.sparsity, **sizes(view)}
        if self.validate is not None:
            tested = self.validate(view.model) if callable(self.validate) else view.score(self.validate)
            record["score"] = float(tested)
            for batch, times in latencies({"plan": runner(view)}, view).items():
                record[f"latency_{batch}"] = times["plan"].us * 1e-6
        record["seconds"] = time.perf_counter() - start
        self.history.append(record)
        if self.progress and sys.stderr.isatty():
            score = f", score {record['score']:.4f}" if "score" in record else ""
            print(f"step {step}: sparsity {self.removal.sparsity:.4f}{score}", file=sys.stderr)
        return record


def _check_target(sparsity: Any, threshold: Any, unit: Granularity) -> None:
    pattern = not isinstance(unit, Neurons) and hasattr(unit, "m")
    if threshold is not None:
        if sparsity is not None:
            raise ValueError("threshold: give either sparsity or threshold, got both")
        if pattern:
            raise ValueError("threshold: an N:M pattern has a sparsity of its own")
        number = isinstance(threshold, (int, float, np.integer, np.floating)) and not isinstance(
            threshold, bool
        )
        if not number or not threshold >= 0:
            raise ValueError(f"threshold: expected a number of at least 0, got {threshold!r}")
    elif sparsity is not None:
        check_sparsity(sparsity)
    elif not pattern:
        raise ValueError("sparsity: give either sparsity or threshold, got neither")


def _calibration(criterion: Criterion, biases: bool, data: Any) -> Calibration | None:
    """The samples to look at layers with, where anything asks for them."""
    if not needs_norms(criterion) and not biases:
        return None
    if data is None:
        what = "bias_correction" if biases and not needs_norms(criterion) else f"criterion {criterion!r}"
        raise ValueError(f"data: {what} needs samples to calibrate with")
    return Calibration(data)


def _pair(name: str, value: Any) -> Data:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name}: expected a pair (x, y)")
    x, y = np.asarray(value[0]), np.asarray(value[1])
    _check_lengths(name, x, y)
    return x, y


def _check_lengths(name: str, x: Any, y: Any) -> None:
    if np.ndim(x) == 0 or np.ndim(y) == 0 or len(x) != len(y):
        sizes = " and ".join(str(len(a)) if np.ndim(a) else "a scalar" for a in (x, y))
        raise ValueError(f"{name}: expected as many labels as samples, got {sizes}")
    if len(x) == 0:
        raise ValueError(f"{name}: expected at least one sample")


def _check_finetune(finetune: Any) -> None:
    if finetune is None or callable(finetune):
        return
    if not isinstance(finetune, Mapping) or not {"x", "y"} <= set(finetune):
        raise ValueError("finetune: expected a mapping of fit's arguments with x and y, or a callable")
    _check_lengths("finetune", np.asarray(finetune["x"]), np.asarray(finetune["y"]))


def _check_round_to(round_to: Any) -> int | str | None:
    if round_to is None or (isinstance(round_to, str) and round_to == "auto"):
        return round_to
    if isinstance(round_to, bool) or not isinstance(round_to, (int, np.integer)) or round_to < 1:
        raise ValueError(f'round_to: expected "auto", a positive integer or None, got {round_to!r}')
    return int(round_to)
