"""From a model to a plan: a network whose layers each run the way that was measured to be fastest."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from .description import Description, describe, parts
from .lookup import registered, resolve

Choices = dict[str, list[list[Any]]]
"""For each batch size, [node, {"kernel", "input", "output"}] in running order; made of JSON types."""


def compile(
    model: Any,
    *,
    batch: int | Iterable[int] = (1, 32),
    threads: int | None = None,
    target: str | None = None,
    choices: Mapping[str, Any] | None = None,
    winograd: bool = True,
) -> Any:
    """Compile a model into a plan that runs each layer the way that is measured to be fastest.

    Batch normalizations are folded into the weights before them, sums and activations fused. Then, for each
    batch size, every layer's candidates (dense and sparse kernels, in the layouts they need) are timed
    on the real shapes, and the combination that costs least in all is kept: a layer runs sparse only
    where that is faster than dense.

    Parameters
    ----------
    model : Sequential, OnnxModel or path-like
        A built model, or the path of an ONNX file. The plan keeps a copy of the weights.
    batch : int or iterable of int, default=(1, 32)
        Batch sizes to choose for. Other sizes run with the choices of the nearest one; those larger than all
        of them, and than 128 (fewer where samples are large), run in slices, which keeps the activations in
        the caches.
    threads : int, optional
        Threads of the plan; by default those of :func:`set_num_threads`. Batch sizes that one thread alone
        was measured to run faster are left to the caller's.
    target : {"scalar", "avx2", "avx512"}, optional
        CPU target; by default the fastest of this CPU.
    choices : mapping, optional
        The ``choices`` of another plan of the same network, to be taken as they are instead of timing.
        Batch sizes that it does not hold are timed.
    winograd : bool, default=True
        Whether 3x3 convolutions of stride 1 with 16 channels and filters or more may run dense by Winograd's
        algorithm F(4x4, 3x3) [1]_, where that is fastest. With random data, its rounding errors are four to
        five times those of a direct convolution; they are bounded by the size of the whole 6x6 patch that a
        tile of 4x4 outputs reads. Without it, results are within the elementwise bound of a sum of their
        terms.

    Returns
    -------
    Plan, or OnnxPlan of an ONNX model

    Raises
    ------
    UnsupportedOpError
        A layer or operator that plans cannot run; the message names it.
    ValueError
        A model that is not built, no or non-positive batch sizes, an unknown target, or choices that do
        not fit.

    References
    ----------
    .. [1] A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308.

    Examples
    --------
    >>> import numpy as np, secateur as sc
    >>> model = sc.nn.Sequential([sc.nn.Dense(8, activation="relu"), sc.nn.Dense(3)])
    >>> model = model.build((4,), random_state=0)
    >>> plan = sc.compile(model, batch=1)
    >>> x = np.ones((1, 4), dtype=np.float32)
    >>> bool(np.allclose(plan(x), model.predict(x), atol=1e-6))
    True
    """
    batches = [batch] if isinstance(batch, (int, np.integer)) else list(batch)
    if not batches or any(not isinstance(size, (int, np.integer)) or size < 1 for size in batches):
        raise ValueError(f"batch: expected one or more positive integers, got {batch!r}")
    check_threads(threads)
    settings: dict[str, Any] = {
        "threads": threads,
        "target": target,
        "choices": choices,
        "winograd": winograd,
    }
    sizes = sorted({int(size) for size in batches})
    if isinstance(model, (str, os.PathLike)):
        if not os.fspath(model).endswith(".onnx"):
            raise ValueError(
                f"model: expected a model or the path of an .onnx file, got {os.fspath(model)!r}"
            )
        model = resolve("secateur.onnx.model:OnnxModel").load(model)
    plan = registered(FOREIGN, model)
    if plan is not None:
        return plan(model, sizes, **settings)
    input_shape, description = describe(model)
    return Plan(input_shape, description, sizes, **settings)


FOREIGN = {"secateur.onnx.model.OnnxModel": "secateur.onnx.plan:OnnxPlan"}
"""The plans of foreign models, as "module:class", by the full name of the model's type."""


def check_threads(threads: Any) -> None:
    """Raise where it is neither None nor a number of threads."""
    if threads is not None and (not isinstance(threads, (int, np.integer)) or not 1 <= threads <= 1024):
        raise ValueError(f"threads: expected 1 to 1024, got {threads!r}")


class Plan:
    """A compiled network. Made by :func:`compile`; call it on a batch to run it.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one input: (features,), (steps, features), (channels, height, width), or (steps,) of ids.
    description : list of dict
        The network, a dict a node (see `describe`).
    batch : sequence of int
        Batch sizes to choose for.
    threads, target, choices, winograd
        As for :func:`compile`.
    timed : bool, default=True
        Whether choices that are not given are timed, or taken from the cost model.

    Attributes
    ----------
    choices : dict
        What was chosen, for each batch size; JSON types only.
    batch : list of int
        The batch sizes chosen for.
    winograd : bool
        Whether Winograd's algorithm may be chosen.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        description: Description,
        batch: Sequence[int],
        *,
        threads: int | None = None,
        target: str | None = None,
        choices: Mapping[str, Any] | None = None,
        winograd: bool = True,
        timed: bool = True,
    ) -> None:
        check_threads(threads)
        self.input_shape = tuple(input_shape)
        self.description = description
        self.batch = list(batch)
        self.winograd = bool(winograd)
        nodes, arrays = parts(description)
        given = None if choices is None else json.dumps(dict(choices))
        self._plan = _core.compile(
            self.input_shape,
            json.dumps(nodes),
            arrays,
            self.batch,
            threads,
            target,
            given,
            timed,
            self.winograd,
        )

    def __call__(self, x: ArrayLike, *, check_finite: bool = False) -> NDArray[np.float32]:
        """Run a batch.

        Parameters
        ----------
        x : array-like of shape (n, *input_shape)
            Inputs, converted to float32.
        check_finite : bool, default=False
            Raise for NaN and infinities, whose effect on a sparse layer is unspecified.

        Returns
        -------
        ndarray of shape (n, outputs), (n, steps, outputs) or (n, channels, height, width), float32

        Raises
        ------
        ValueError
            Inputs of another shape, ids without a vector, or not finite where that is checked.
        TypeError
            Inputs that are not real numbers.
        """
        if check_finite and not np.isfinite(np.asarray(x)).all():
            raise ValueError("x: expected finite values, got NaN or infinity")
        return self._plan.run(x, False)

    def run_open(self, x: ArrayLike) -> NDArray[np.float32]:
        """Run as many vectors as there happen to be: those that do not fill a slice are made up to one of a
        few sizes, so that weights are not packed anew for every number.

        Parameters
        ----------
        x : array-like of shape (n, features)

        Returns
        -------
        ndarray of shape (n, outputs), float32
        """
        return self._plan.run(x, True)

    def inputs(self, batch: int) -> NDArray[np.float32]:
        """`batch` samples to measure with: random numbers, or ids where the network looks some up."""
        rng, shape = np.random.default_rng(0), (batch, *self.input_shape)
        ids = [len(node["weight"]) for node in self.description if node["op"] == "embedding"]
        return rng.integers(0, min(ids), shape).astype(np.float32) if ids else rng.random(shape, np.float32)

    def tune(self) -> Plan:
        """Time every node again on this machine, as it is now, and take the new choices."""
        self._plan.tune()
        return self

    @property
    def choices(self) -> Choices:
        chosen: Choices = json.loads(self._plan.choices)
        return chosen

    @property
    def target(self) -> str:
        """The CPU target."""
        return self._plan.target

    @property
    def threads(self) -> int:
        """The number of threads that a run may use; `explain` says how many it does."""
        return self._plan.threads

    def activation_bytes(self, batch: int) -> int:
        """The memory of activations that a run holds at its peak, inputs and outputs aside."""
        return self._plan.activation_bytes(int(batch))

    def report(
        self, batch: int | None = None, *, dense: bool = True, seconds: float = 0.05
    ) -> list[dict[str, Any]]:
        """Time the steps of a run, now; of a batch that is run in slices, those of the first.

        Parameters
        ----------
        batch : int, optional
            Batch size; by default the largest that was compiled for.
        dense : bool, default=True
            Also time the best dense kernel in the place of each node with weights, its relayouts included.
        seconds : float, default=0.05
            Time to spend on a node.

        Returns
        -------
        list of dict
            For each step: ``name``, ``op``, ``kernel``, ``format``, ``density``, ``input_layout``,
            ``output_layout``, ``us`` (minimum microseconds of the step alone), ``us_chosen`` and
            ``us_dense`` (the node with its relayouts, as chosen and dense; None without weights),
            ``macs``, ``nonzero_macs``, ``roofline`` (nonzero multiply-adds over the peak of this CPU)
            and ``nbytes`` of packed weights.
        """
        size = max(self.batch) if batch is None else int(batch)
        return self._plan.report(size, dense, float(seconds))

    def explain(self, batch: int | None = None) -> str:
        """A table of the steps of a run, timed now, with the speed-up over dense.

        Parameters
        ----------
        batch : int, optional
            Batch size; by default a table for each that was compiled for.

        Returns
        -------
        str
        """
        tables = []
        for size in self.batch if batch is None else [int(batch)]:
            rows = self.report(size)
            total = sum(row["us"] for row in rows)
            used = self._plan.threads_for(size)
            at_once = self._plan.at_once(size)
            batch_line = f"batch {size}" + (f", {at_once} at a time" if at_once < size else "")
            head = f"{batch_line}, {used} thread(s), {self.target}: {total:.1f} us in {len(rows)} steps"
            lines = [
                head,
                _ROW.format("node", "op", "density", "kernel", "layout", "us", "dense", "x", "roof"),
            ]
            for row in rows:
                weighted = row["us_dense"] is not None
                lines.append(
                    _ROW.format(
                        row["name"],
                        row["op"],
                        f"{row['density']:.3f}" if weighted else "",
                        row["kernel"],
                        row["output_layout"],
                        f"{row['us_chosen'] if weighted else row['us']:.1f}",
                        f"{row['us_dense']:.1f}" if weighted else "",
                        f"{row['us_dense'] / row['us_chosen']:.2f}" if weighted else "",
                        f"{row['roofline']:.0%}" if weighted else "",
                    ).rstrip()
                )
            memory = self.activation_bytes(size) / 1024
            lines.append(f"peak activations {memory:.0f} KiB; us of weighted nodes include their relayouts")
            tables.append("\n".join(lines))
        return "\n\n".join(tables)

    def __repr__(self) -> str:
        nodes = len(self.description)
        return f"Plan({nodes} nodes, batch {self.batch}, {self.threads} thread(s), {self.target})"


_ROW = "{:<14} {:<10} {:>7}  {:<30} {:<15} {:>9} {:>9} {:>6} {:>5}"
