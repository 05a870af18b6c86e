"""Pruned chains of an ONNX model as custom ops of ONNX Runtime, each where that was measured to be faster.

A chain becomes one node ``secateur::Plan`` whose weight is a plan's file: canonical weights and choices,
packed for the CPU that loads it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .._core import get_num_threads
from ..compiler import Plan
from ..errors import SecateurError
from ..measure import QUICK, ROUNDS, Latency, compare
from ..ort import DOMAIN
from ..storage import encode
from .chains import Chain, find_chains
from .files import one_line, read_model, write_model
from .folding import fold
from .model import OnnxModel
from .session import noise, session
from .weights import drop_constants, initializer

VERSION = 1
"""Of the domain."""
MARGIN = 1.03
"""A chain must be faster by this much, at every batch size: timing noise must not cost users speed."""
TOLERANCE = 1e-4
"""How far outputs may be from the original's, relative to the largest of them."""
FLIPPED = 0.01
"""Share of the elements that may differ where outputs are integers: a near tie may be decided otherwise."""
SLICE = 128
"""Vectors that a plan takes at a time; more would push activations out of the caches."""
WEIGHTED = ("Conv", "Gemm", "MatMul")

Feed: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass
class Part:
    """A chain, and what became of it.

    Attributes
    ----------
    chain : Chain
    density : float
        Nonzero share of its weights.
    latencies : dict of int to dict
        By batch size, of the chain as a model of its own in ONNX Runtime: ``"original"`` and ``"plan"``.
    plan : bytes
        The file of its plan.
    kept : bool
        Whether that took the chain's place.
    """

    chain: Chain
    density: float
    latencies: dict[int, dict[str, Latency]]
    plan: bytes
    kept: bool

    @property
    def speedup(self) -> float:
        """At the batch size where it is least."""
        return min(found["plan"].speedup for found in self.latencies.values())


@dataclass(repr=False)
class Rewriting:
    """What `compile_onnx` did.

    Attributes
    ----------
    out : pathlib.Path
    model : OnnxModel
        What is in that file.
    nbytes : tuple of int
        Bytes of all weights, before and after.
    threads : int
        Of the sessions that were timed.
    parts : list of Part
        The pruned chains; of one that was not faster as a whole, its layers.
    latencies : dict of int to dict
        By batch size, of the whole model in ONNX Runtime: ``"original"`` and ``"rewritten"``.
    error : float
        The largest difference between outputs, relative to the largest of them.
    """

    out: Path
    model: OnnxModel
    nbytes: tuple[int, int]
    threads: int
    parts: list[Part]
    latencies: dict[int, dict[str, Latency]]
    error: float

    def __repr__(self) -> str:
        kept = sum(part.kept for part in self.parts)
        times = ", ".join(
            f"{found['rewritten'].speedup:.2f}x at batch {size}" for size, found in self.latencies.items()
        )
        chains = f"{kept} of {len(self.parts)} chains as plans"
        return f"Rewriting({str(self.out)!r}; {chains}; {times or 'not timed'})"


def compile_onnx(
    source: str | os.PathLike[str] | OnnxModel,
    out: str | os.PathLike[str],
    *,
    batch: int | Iterable[int] = (1, 32),
    threads: int | None = None,
    rounds: int = ROUNDS,
) -> Rewriting:
    """Rewrite a pruned ONNX model so that it runs faster in ONNX Runtime.

    Chains of pruned layers and the operators around them become nodes ``secateur::Plan``, each where that was
    measured to be faster at every batch size; the rest stays as it was. At last the whole model is timed
    against the original, and what does not hold there is taken back. The file runs in every session whose
    options :func:`secateur.ort.register` was called with. Weights are packed for the CPU that loads it; the
    choices made on this one hold on others of its kind.

    Parameters
    ----------
    source : path-like or OnnxModel
        The model.
    out : path-like
        Ends in ``.onnx``. Written only when the model loads and runs in ONNX Runtime, and its outputs are the
        original's up to 1e-4 of the largest.
    batch : int or iterable of int, default=(1, 32)
        Batch sizes to choose and measure for; a model that takes one alone is measured with that. Other
        dimensions that are free are taken to be 64.
    threads : int, optional
        Of the sessions that are timed; by default those of :func:`secateur.set_num_threads`.
    rounds : int, default=31
        Of timing the whole model.

    Returns
    -------
    Rewriting

    Raises
    ------
    FormatError, UnsupportedOpError, OSError
        If the model cannot be read, or the file not be written.
    MissingExtraError
        Without onnxruntime.
    SecateurError
        If ONNX Runtime does not run the model, or outputs differ; nothing is written then.
    ValueError
        For another suffix, a folder that is not there, or batch sizes or threads that are none.

    Examples
    --------
    >>> import tempfile
    >>> import secateur as sc
    >>> net = sc.nn.Sequential([sc.nn.Dense(8), sc.nn.ReLU(), sc.nn.Dense(3)]).build((4,), random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sc.export_onnx(net, f"{folder}/m.onnx")
    ...     model = sc.prune(sc.load(f"{folder}/m.onnx"), 0.8, progress=False).model
    ...     done = sc.compile_onnx(model, f"{folder}/m.sparse.onnx", batch=1, threads=1, rounds=3)
    ...     session = sc.ort.InferenceSession(f"{folder}/m.sparse.onnx")
    >>> done.error < 1e-4
    True
    """
    sizes = [batch] if isinstance(batch, (int, np.integer)) else sorted({*batch})
    if not sizes or any(not isinstance(size, (int, np.integer)) or size < 1 for size in sizes):
        raise ValueError(f"batch: expected one or more positive integers, got {batch!r}")
    path = Path(out)
    if path.suffix != ".onnx" or not path.parent.is_dir():
        raise ValueError(f"out: expected a path in a folder that ends in .onnx, got {str(path)!r}")
    if threads is not None and not (isinstance(threads, (int, np.integer)) and 1 <= threads <= 1024):
        raise ValueError(f"threads: expected 1 to 1024, got {threads!r}")
    # As it is: what it is compared with is the file, not what was folded of it.
    original = source if isinstance(source, OnnxModel) else OnnxModel(read_model(source), source)
    feeds = _feeds(original, [int(size) for size in sizes])
    try:
        done = _rewritten(original, path, feeds, int(threads or get_num_threads()), rounds)
    except Exception as error:
        # The library has a class of its own for each kind of error, without a common base.
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise SecateurError(
            f"{original.path or 'source'}: not run by ONNX Runtime: {one_line(error)}"
        ) from None
    write_model(done.model.ir, path)
    return done


def _rewritten(
    original: OnnxModel, path: Path, feeds: Mapping[int, Feed], threads: int, rounds: int
) -> Rewriting:
    """What is to be written to a path, checked and timed."""
    folded = original.copy()
    fold(folded.ir)
    parts = _parts(folded, feeds, threads)
    while True:
        kept = [part for part in parts if part.kept]
        rewritten = replaced(folded, kept) if kept else original
        error, latencies = _compared(original, rewritten, feeds, threads, rounds)
        if error > TOLERANCE:
            raise SecateurError(f"{path}: not written: outputs differ by {error:.1e} of the largest")
        if not kept or min(found["rewritten"].speedup for found in latencies.values()) >= 1:
            nbytes = (_nbytes(original), _nbytes(rewritten))
            return Rewriting(path, rewritten, nbytes, threads, parts, latencies, error)
        # What is faster by itself need not be among ONNX Runtime's own layouts: the lesser half goes.
        for part in sorted(kept, key=lambda part: part.speedup)[: math.ceil(len(kept) / 2)]:
            part.kept = False


def _feeds(model: OnnxModel, sizes: list[int]) -> dict[int, Feed]:
    """Inputs for each batch size: for that which a model takes alone, if there is one."""
    fixed = [info.shape[0] for info in model.inputs if info.shape and isinstance(info.shape[0], int)]
    feeds = {}
    for size in fixed[:1] or sizes:
        found = noise(model, size)
        feeds[size] = found if isinstance(found, Mapping) else {model.inputs[0].name: found}
    return feeds


def _parts(model: OnnxModel, feeds: Mapping[int, Feed], threads: int) -> list[Part]:
    """The pruned chains of a model, or their layers, timed."""
    whole = [(chain, _layers(model, chain)) for chain in find_chains(model.ir.graph) if density(chain) < 1]
    values = [chain.input for chain, layers in whole for chain in (chain, *layers)]
    shapes = {size: _shapes(model, values, feed, threads) for size, feed in feeds.items()}

    def timed(chain: Chain) -> Part:
        return _timed(
            model, chain, {size: found[chain.input.name or ""] for size, found in shapes.items()}, threads
        )

    parts = []
    for chain, layers in whole:
        part = timed(chain)
        smaller = [] if part.kept else [timed(layer) for layer in layers]
        parts += smaller if any(layer.kept for layer in smaller) else [part]
    return parts


def density(chain: Chain) -> float:
    """The nonzero share of a chain's weights."""
    weights = [node["weight"] for node in chain.description if "weight" in node]
    return sum(map(np.count_nonzero, weights)) / max(1, sum(map(np.size, weights)))


def _layers(model: OnnxModel, chain: Chain) -> list[Chain]:
    """The pruned chains of one weighted layer each that a longer chain is made of."""
    cuts = {node.inputs[0] for node in chain.nodes if node.op_type in WEIGHTED} - {chain.input, None}
    if not cuts:
        return []
    # A chain ends where a graph does.
    outputs = [
        value for node in chain.nodes for value in node.outputs if value in cuts or value is chain.output
    ]
    found = find_chains(ir.convenience.extract(model.ir.graph, [chain.input], outputs))
    return [layer for layer in found if density(layer) < 1]


def _shapes(model: OnnxModel, values: list[ir.Value], feed: Feed, threads: int) -> dict[str, tuple[int, ...]]:
    """What shapes values have, by name: of those that are inputs too."""
    probe = model.copy()
    names = {value.name for value in values} - {info.name for info in probe.inputs}
    inner = [value for node in probe.ir.graph for value in node.outputs if value.name in names]
    probe.ir.graph.outputs[:] = inner or probe.ir.graph.outputs
    found = session(probe, threads).run([value.name for value in inner], dict(feed)) if inner else []
    shapes = {value.name or "": array.shape for value, array in zip(inner, found, strict=True)}
    return {**shapes, **{name: array.shape for name, array in feed.items()}}


def _timed(model: OnnxModel, chain: Chain, shapes: Mapping[int, tuple[int, ...]], threads: int) -> Part:
    """A chain in ONNX Runtime, as it is and as a plan, each a model of its own."""
    samples = {max(1, math.prod(shape[: chain.lead])) for shape in shapes.values()}
    if len(chain.input_shape) == 1:
        samples = {min(count, SLICE) for count in samples}
    plan = Plan(chain.input_shape, chain.description, sorted(samples), threads=threads)
    part = Part(chain, density(chain), {}, encode(plan), False)
    # By name: layers of a chain were found in a graph of their own.
    graph = ir.convenience.extract(model.ir.graph, [chain.input.name or ""], [chain.output.name or ""])
    alone = OnnxModel(ir.Model(graph, ir_version=model.ir.ir_version or 8))
    sessions = {"original": session(alone, threads), "plan": session(replaced(alone, [part]), threads)}
    rng = np.random.default_rng(0)
    for size, shape in shapes.items():
        feed = {chain.input.name or "": rng.standard_normal(shape, np.float32)}
        part.latencies[size] = _latencies(sessions, feed, QUICK)
    part.kept = part.speedup > MARGIN
    return part


def _latencies(sessions: Mapping[str, Any], feed: Feed, rounds: int) -> dict[str, Latency]:
    def run(running: Any) -> Any:
        return lambda x: running.run(None, feed)

    runs = {name: run(running) for name, running in sessions.items()}
    return compare(runs, np.empty(0), rounds=rounds)


def _first(node: ir.Node) -> str | None:
    """The name of the first output that has one."""
    return next((output.name for output in node.outputs if output.name), None)


def replaced(model: OnnxModel, parts: list[Part]) -> OnnxModel:
    """A copy of a model with nodes ``secateur::Plan`` for the chains of some parts."""
    made = model.copy()
    graph = made.ir.graph
    by_output = {_first(node): node for node in graph}
    for part in parts:
        chain = part.chain
        nodes = [by_output[_first(node)] for node in chain.nodes]
        (output,) = (value for node in nodes for value in node.outputs if value.name == chain.output.name)
        (x,) = {v for node in nodes for v in node.inputs if v is not None and v.name == chain.input.name}
        blob = ir.Tensor(np.frombuffer(part.plan, np.uint8), name=f"{chain.name}.{DOMAIN}")
        weights = initializer(blob.name or "", blob)
        shapes = {"input_shape": chain.input_shape, "output_shape": chain.output_shape}
        added = []
        if chain.start.hidden:
            added.append(_reshape(graph, x, chain.input_shape, f"{chain.name}.rows"))
            x = added[-1].outputs[0]
        added.append(ir.node("Plan", [x, weights], shapes, domain=DOMAIN, name=chain.name))
        if chain.end.hidden:
            inner = added[-1].outputs[0]
            inner.name = f"{chain.name}.image"
            added.append(_reshape(graph, inner, chain.end.shown, f"{chain.name}.line"))
        y = added[-1].outputs[0]
        y.shape, y.type = output.shape, output.type
        graph.insert_before(nodes[-1], added)
        output.replace_all_uses_with(y, replace_graph_outputs=True)
        graph.remove(nodes, safe=True)
        y.name = chain.name
        graph.register_initializer(weights)
    drop_constants(graph)
    graph.opset_imports[DOMAIN] = VERSION
    return made


def _reshape(graph: ir.Graph, x: ir.Value, shape: tuple[int, ...], name: str) -> ir.Node:
    """Samples of another shape, which lie as before: an axis of length 1 more or less."""
    target = ir.Tensor(np.array([0, *shape]), name=f"{name}.shape")
    value = initializer(target.name or "", target)
    graph.register_initializer(value)
    node = ir.node("Reshape", [x, value], name=name)
    node.outputs[0].name = name
    return node


def _compared(
    original: OnnxModel, rewritten: OnnxModel, feeds: Mapping[int, Feed], threads: int, rounds: int
) -> tuple[float, dict[int, dict[str, Latency]]]:
    """The largest difference between the outputs of two models, and how long they take, by batch size."""
    sessions = {"original": session(original, threads), "rewritten": session(rewritten, threads)}
    worst, latencies = 0.0, {}
    for size, feed in feeds.items():
        wanted, found = (running.run(None, dict(feed)) for running in sessions.values())
        worst = max(worst, *(_difference(a, b) for a, b in zip(wanted, found, strict=True)))
        latencies[size] = _latencies(sessions, feed, rounds)
    return worst, latencies


def _difference(wanted: Any, found: Any) -> float:
    """The largest difference between two arrays, relative to the largest element."""
    if not isinstance(wanted, np.ndarray) or not wanted.size or wanted.dtype.kind not in "fiub":
        return 0.0
    if wanted.dtype.kind != "f":
        return math.inf if np.mean(wanted != found) > FLIPPED else 0.0
    finite = np.isfinite(wanted)
    same = np.array_equal(wanted[~finite], found[~finite], equal_nan=True)
    if not same or not np.isfinite(found[finite]).all():
        return math.inf
    errors = np.abs(wanted[finite] - found[finite])
    return float(np.max(errors, initial=0) / max(np.max(np.abs(wanted[finite]), initial=0), 1e-30))


def _nbytes(model: OnnxModel) -> int:
    weights = (value.const_value for value in model.ir.graph.initializers.values())
    return sum(tensor.nbytes for tensor in weights if tensor is not None)
