"""ONNX models that run here: chains of layers as plans, whatever is around them on arrays."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from .. import _core
from ..compiler import Plan, check_threads
from ..errors import UnsupportedOpError
from ..storage import Contents, register
from .chains import Chain, find_chains
from .feeds import checked
from .model import Info, OnnxModel
from .session import FREE, Batch, noise
from .steps import Values, fold_constants, run_steps, steps_of
from .weights import array_of

ROUNDS = 20
"""Runs that a report takes its minima from."""


class OnnxPlan:
    """An ONNX model that was compiled; made by :func:`secateur.compile`.

    What can be computed from constants is. Of the rest, every chain of layers with constant weights, as long
    as can be, is a :class:`secateur.Plan`, which runs each layer the way that was measured to be fastest;
    other operators run one by one on arrays.

    Parameters
    ----------
    model : OnnxModel
        Not changed, nor are changes to it seen.
    batch : iterable of int
        Batch sizes to choose for.
    threads, target, winograd, timed
        As for :class:`secateur.Plan`.
    choices : mapping, optional
        The ``choices`` of another plan of the same model.

    Raises
    ------
    UnsupportedOpError
        An operator that plans cannot run; the message names it and its node.

    Attributes
    ----------
    model : OnnxModel
        What it was made of.
    batch : list of int
    plans : dict of str to Plan
        By the name of what they make.
    """

    def __init__(
        self,
        model: OnnxModel,
        batch: Iterable[int],
        *,
        threads: int | None = None,
        target: str | None = None,
        choices: Mapping[str, Any] | None = None,
        winograd: bool = True,
        timed: bool = True,
    ) -> None:
        check_threads(threads)
        self.model = model.copy()
        self.batch = list(batch)
        graph = self.model.copy().ir.graph
        for value in (*graph.inputs, *graph.outputs):
            if not isinstance(value.type, ir.TensorType):
                raise UnsupportedOpError(f"{value.name}: plans take and give tensors, not {value.type}")
        self._inputs, self._outputs = model.inputs, model.outputs
        fold_constants(graph, threads)
        found = find_chains(graph)
        if choices is not None:
            _check_choices(choices, found)
        self.plans = {
            chain.name: Plan(
                chain.input_shape,
                chain.description,
                _sizes(chain, self.batch),
                threads=threads,
                target=target,
                choices=None if choices is None else choices[chain.name],
                winograd=winograd,
                timed=timed,
            )
            for chain in found
        }
        self._steps = steps_of(
            graph, {chain: _runner(chain, self.plans[chain.name]) for chain in found}, threads
        )
        self._constants = {name: array_of(value) for name, value in graph.initializers.items() if name}
        self._settings: dict[str, Any] = {"batch": self.batch, "threads": threads, "winograd": bool(winograd)}
        self._target = target or _core.cpu_target()

    def __call__(self, x: Batch | ArrayLike, *, check_finite: bool = False) -> Any:
        """Run a batch.

        Parameters
        ----------
        x : array-like, or mapping of str to array-like
            What the model takes, converted to its types; for several inputs by name.
        check_finite : bool, default=False
            Raise for NaN and infinities, whose effect on a sparse layer is unspecified.

        Returns
        -------
        ndarray, or list of ndarray
            The output; of several, all in the model's order.

        Raises
        ------
        ValueError
            Inputs that are missing, unknown, of another shape, or not finite where that is checked.
        TypeError
            What is no array of real numbers.
        """
        values: Values = dict(checked(self._inputs, x, "x"))
        for name, array in values.items() if check_finite else ():
            if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"x: expected finite values, got NaN or infinity for {name}")
        run_steps(self._steps, values, self._constants)
        outputs = [self._output(info, values) for info in self._outputs]
        return outputs[0] if len(outputs) == 1 else outputs

    def _output(self, info: Info, values: Values) -> NDArray[Any]:
        array = values[info.name] if info.name in values else self._constants[info.name]
        return np.array(array, order="C")  # it may be a view of what the caller gave, or of a constant

    def inputs(self, batch: int) -> Batch:
        """`batch` samples of noise to measure with; a mapping for several inputs."""
        return noise(self.model, batch)

    def tune(self) -> OnnxPlan:
        """Time every layer again on this machine, as it is now, and take the new choices."""
        for plan in self.plans.values():
            plan.tune()
        return self

    @property
    def choices(self) -> dict[str, Any]:
        """What was chosen, for each chain; JSON types only."""
        return {name: plan.choices for name, plan in self.plans.items()}

    @property
    def target(self) -> str:
        """The CPU target."""
        return self._target

    @property
    def threads(self) -> int:
        """The number of threads that a run may use."""
        threads = self._settings["threads"]
        return _core.get_num_threads() if threads is None else int(threads)

    def report(
        self, batch: int | None = None, *, dense: bool = True, seconds: float = 0.05
    ) -> list[dict[str, Any]]:
        """Time the steps of a run, now.

        Parameters
        ----------
        batch : int, optional
            Batch size; by default the largest that was compiled for.
        dense, seconds
            As for :meth:`secateur.Plan.report`.

        Returns
        -------
        list of dict
            For each step of the graph ``name``, ``op``, ``us`` (minimum microseconds), and for a chain
            ``steps``, the report of its plan.
        """
        samples = self.inputs(max(self.batch) if batch is None else int(batch))
        values: Values = dict(checked(self._inputs, samples, "x"))
        best = [math.inf] * len(self._steps)
        rows: dict[str, int] = {}
        for _ in range(ROUNDS):
            run = dict(values)
            for at, step in enumerate(self._steps):
                if step.chain is not None:
                    array = run[step.reads[0]]
                    rows[step.name] = 0 if array is None else math.prod(array.shape[: step.chain.lead])
                start = time.perf_counter()
                run_steps([step], run, self._constants)
                best[at] = min(best[at], (time.perf_counter() - start) * 1e6)
        return [
            {"name": step.name, "op": step.op, "us": us}
            | (
                {}
                if step.chain is None
                else {"steps": self.plans[step.name].report(rows[step.name], dense=dense, seconds=seconds)}
            )
            for step, us in zip(self._steps, best, strict=True)
        ]

    def explain(self, batch: int | None = None) -> str:
        """A table of the steps of a run, timed now, and one for each chain, with the speed-up over dense.

        Parameters
        ----------
        batch : int, optional
            Batch size; by default the largest that was compiled for.

        Returns
        -------
        str
        """
        size = max(self.batch) if batch is None else int(batch)
        report = self.report(size, dense=False, seconds=0.01)
        total = sum(step["us"] for step in report)
        lines = [f"batch {size}, {self.target}: {total:.1f} us in {len(report)} steps"]
        lines += [
            f"{step['us']:>10.1f} us {step['us'] / total:>6.1%}  {step['op']:<20} {step['name']}"
            for step in report
        ]
        tables = ["\n".join(lines)]
        for chain in (step.chain for step in self._steps if step.chain is not None):
            (rows,) = _sizes(chain, [size])
            tables.append(f"{chain.name}\n{self.plans[chain.name].explain(rows)}")
        return "\n\n".join(tables)

    def __repr__(self) -> str:
        return (
            f"OnnxPlan({len(self.plans)} chains, {len(self._steps)} steps, batch {self.batch}, "
            f"{self.threads} thread(s), {self.target})"
        )


def _sizes(chain: Chain, batch: Sequence[int]) -> list[int]:
    """The batch sizes of a chain: where several axes are its batch, those that are not given are `FREE`."""
    dims = list(chain.input.shape or ())[1 : chain.lead]
    times = math.prod(dim if isinstance(dim, int) else FREE for dim in dims)
    return sorted({size * times for size in batch if size * times > 0}) or list(batch)


def _runner(chain: Chain, plan: Plan) -> Callable[[NDArray[Any]], NDArray[Any]]:
    shape = chain.input.shape
    given = shape is not None and all(isinstance(dim, int) for dim in shape[1 : chain.lead])
    call = plan if given else plan.run_open

    def run(array: NDArray[Any]) -> NDArray[Any]:
        batch = array.shape[: chain.lead]
        y = call(array.reshape(math.prod(batch), *chain.input_shape))
        return y.reshape(*batch, *chain.end.shown)

    return run


def _check_choices(choices: Mapping[str, Any], chains: Sequence[Chain]) -> None:
    wrong = set(choices) ^ {chain.name for chain in chains}
    if wrong:
        raise ValueError(f"choices: {min(wrong)!r} is a chain of only one of both models")


# Kind "onnx-plan": the model's bytes and the choices, which are a hint where they were measured.


def _dump(plan: OnnxPlan) -> Contents:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        plan.model.save(path)
        if path.stat().st_size == sum(file.stat().st_size for file in path.parent.iterdir()):
            model = np.frombuffer(path.read_bytes(), np.uint8)
        else:
            raise ValueError("obj: a model of more than 2 GB is not kept in a plan; save the model")
    about = {**plan._settings, "choices": plan.choices, "cpu": _core.cpu_signature(plan.target)}
    return Contents({"model": model}, {}, {"plan": json.dumps(about, sort_keys=True)})


def _restore(contents: Contents) -> OnnxPlan:
    about = json.loads(contents.metadata["plan"])
    known = about.pop("cpu") == _core.cpu_signature(_core.cpu_target())
    choices = about.pop("choices")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(contents.tensors["model"].tobytes())
        model = OnnxModel.load(path)
    return OnnxPlan(model, about.pop("batch"), choices=choices if known else None, timed=False, **about)


register("onnx-plan", OnnxPlan, _dump, _restore)
