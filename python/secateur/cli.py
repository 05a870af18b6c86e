"""The command line: results on standard output, progress and errors on standard error.

Exit codes: 0 done, 1 failed (a missing or damaged file, Ctrl-C), 2 wrong arguments. Errors are one line.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from . import datasets, nn
from ._json import dumps
from .checkpoint import prune_checkpoint
from .compiler import compile as compile_model
from .criteria import check_criterion, needs_grads, needs_norms
from .demo import PRESETS, Demo
from .errors import SecateurError
from .measure import ROUNDS, compare
from .models.view import view
from .ner import Ner
from .pruning import prune as prune_model
from .reporting import MODELS, STEPS, Column, kept_parameters, model_rows, nonzero_macs, print_table
from .reporting.plans import plan_inspection
from .reporting.tagging import format_report
from .shards import is_checkpoint
from .storage import load, save

app = typer.Typer(
    name="secateur",
    help="Prune neural networks and make them really faster and smaller on CPUs.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Shapes = Annotated[
    list[str] | None,
    typer.Option(help="Of an ONNX model's input, where it is free: NAME=N,3,224,224, N staying free."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Threads = Annotated[int, typer.Option(min=1, max=1024, help="Threads of the plans that are timed.")]
Batches = Annotated[
    list[int], typer.Option(min=1, max=1 << 31, help="A batch size; may be given more than once.")
]
Seed = Annotated[
    int, typer.Option(min=0, help="Seeds all draws; what is chosen by timing (widths, packing) may differ.")
]
Data = Annotated[str, typer.Option(help="digits, fashion-mnist or FILE.npz with x and y.")]
MODEL_SUFFIX = ".safetensors"
ONNX_SUFFIX = ".onnx"
TAGGERS = [
    *(column for column in MODELS if column.key != "accuracy"),
    Column("token F1", "token_f1", "{:.4f}".format),
    Column("entity F1", "entity_f1", "{:.4f}".format),
]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(result: Mapping[str, Any], as_json: bool, *tables: Any) -> None:
    """Print `result` as JSON, or the tables."""
    if as_json:
        print(dumps(result, 1))
        return
    for table in tables:
        print_table(*table)


def _writable(out: Path, source: Path, suffix: str = MODEL_SUFFIX) -> Path:
    """`out`, if what is made of `source` can be written there with that suffix; asked before any work."""
    if out.suffix != suffix:
        raise ValueError(f"out: unknown suffix {out.suffix!r}; choose from {suffix}")
    if not out.parent.is_dir():
        raise ValueError(f"out: there is no folder {str(out.parent)!r}")
    if out.exists() and source.exists() and out.samefile(source):
        raise ValueError(f"out: {str(out)!r} is the model's own file")
    return out


def _load_model(path: Path) -> nn.Sequential:
    """The model in a file, or that of a training checkpoint."""
    return _model_of(load(path), path)


def _model_of(found: Any, path: Path) -> nn.Sequential:
    model = found.model if isinstance(found, nn.TrainingCheckpoint) else found
    if not isinstance(model, nn.Sequential):
        raise ValueError(f"{path}: expected a model, got a {type(found).__name__.lower()}")
    if not model.built:
        raise ValueError(f"{path}: the model is not built yet")
    return model


@app.command()
def demo(
    data: Data = "digits",
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "reference",
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training from scratch.")] = 10,
    random_state: Seed = 0,
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/demo"),
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Train a network on images, prune it three ways, compile it, and measure."""
    run = Demo(data, preset, epochs, random_state, out, threads, say=_say)
    try:
        run.run()
    except KeyboardInterrupt:
        _say(f"secateur: interrupted; the best models so far and history.jsonl are in {out}")
        raise typer.Exit(1) from None
    title = (
        f"{data}, {preset}: {len(run.test[0]):,} test images; latency with {threads} thread(s), measured here"
    )
    _show({**run.about(), "rows": run.rows}, as_json, (run.rows, MODELS, title))
    _say(f"written: {out}")


@app.command()
def ner(
    train: Annotated[Path | None, typer.Option(help="A CoNLL file; WNUT-17's files if not given.")] = None,
    valid: Annotated[Path | None, typer.Option(help="One to choose the best epoch by.")] = None,
    test: Annotated[Path | None, typer.Option(help="One to report on.")] = None,
    tag_column: Annotated[int, typer.Option(help="Column of the tags, from 0; -1 is the last.")] = -1,
    sparsity: Annotated[float, typer.Option(help="Share of the prunable weights to remove.")] = 0.8,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training.")] = 30,
    units: Annotated[int, typer.Option(min=1, help="Of the LSTM, in each direction.")] = 128,
    length: Annotated[int, typer.Option(min=1, help="Tokens of a sentence; longer ones are cut.")] = 64,
    crf: Annotated[bool, typer.Option(help="Choose the tags of a sentence together.")] = False,
    random_state: Seed = 0,
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/ner"),
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Train a named-entity tagger on CoNLL files, prune it two ways, and report by tag and by entity."""
    run = Ner(
        train, valid, test, tag_column, sparsity, epochs, units, length, crf=crf,
        random_state=random_state, out=out, threads=threads, say=_say,
    )  # fmt: skip
    try:
        run.run()
    except KeyboardInterrupt:
        _say(f"secateur: interrupted; history.jsonl and what was finished are in {out}")
        raise typer.Exit(1) from None
    title = f"{len(run.test):,} test sentences; latency with {threads} thread(s), measured here"
    _show({**run.about(), "rows": run.rows, "reports": run.reports}, as_json, (run.rows, TAGGERS, title))
    if not as_json:
        for name, report in run.reports.items():
            print(f"\n{name}, by tag\n{format_report(report['tokens'])}")
            print(f"\n{name}, by entity\n{format_report(report['entities'])}")
    _say(f"written: {out}")


@app.command()
def inspect(file: Path, shape: Shapes = None, as_json: Json = False) -> None:
    """Show what is in a file: a model, plan or training checkpoint; an ONNX model and where its time goes."""
    shapes = _shapes(shape, file)
    found = load(file)
    if file.suffix == ONNX_SUFFIX:
        found = found.with_shapes(shapes) if shapes else found
        onnx_about, table = importlib.import_module("secateur.reporting.onnx").inspection(found, file)
        _show({**onnx_about, "provenance": found.provenance}, as_json, table, *_steps(found))
        return
    if hasattr(found, "choices"):
        plan_about, table = plan_inspection(found, file)
        _show(plan_about, as_json, table)
        return
    about: dict[str, Any] = {"file": str(file), "bytes": file.stat().st_size, "kind": "model"}
    if isinstance(found, nn.TrainingCheckpoint):
        about |= {"kind": "checkpoint", "epoch": found.epoch, "history": found.history}
    model = _model_of(found, file)
    rows = [_layer_row(layer) for layer in model.leaves()]
    about |= {
        "input_shape": list(model.input_shape or ()),
        "parameters": model.num_parameters(),
        "kept": kept_parameters(model),
        "macs": model.macs(),
        "nonzero_macs": nonzero_macs(model),
        "provenance": model.provenance,
        "layers": rows,
    }
    title = (
        f"{file}: {about['kind']}, {about['kept']:,} of {about['parameters']:,} parameters, "
        f"{about['nonzero_macs']:,} of {about['macs']:,} MACs, {about['bytes']:,} bytes"
    )
    columns = [
        Column("layer", "name"),
        Column("output", "output_shape", lambda shape: "×".join(map(str, shape))),
        Column("parameters", "parameters", "{:,}".format),
        Column("kept", "kept", "{:,}".format),
        Column("density", "density", "{:.3f}".format),
        Column("MACs", "macs", "{:,}".format),
    ]
    _show(about, as_json, (rows, columns, title), *_steps(model))


def _steps(model: Any) -> list[tuple[Any, ...]]:
    """The table of how a model was pruned, if it was."""
    return [(model.provenance, STEPS)] if model.provenance else []


def _layer_row(layer: nn.Layer) -> dict[str, Any]:
    size = sum(array.size for array in layer.params.values())
    kept = size - sum(int(np.count_nonzero(~mask)) for mask in layer.masks.values())
    weights = [layer.params[key] for key in layer.prunable]
    return {
        "name": layer.name,
        "kind": layer.kind,
        "output_shape": list(layer.output_shape),
        "parameters": size,
        "kept": kept,
        "density": sum(map(np.count_nonzero, weights)) / sum(map(np.size, weights)) if weights else None,
        "macs": layer.macs() * layer.times,
    }


@app.command()
def prune(
    model: Annotated[
        Path,
        typer.Argument(
            help="The model's file, ours or ONNX; or a checkpoint: FILE, FILE.index.json or its folder."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where the pruned model goes; a folder for one with an index.")
    ],
    sparsity: Annotated[
        float | None, typer.Option(help="Share of the weights to remove, in [0, 1]; N:M has its own.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Instead: what scores less goes.")] = None,
    criterion: Annotated[str, typer.Option(help="How to score weights.")] = "l1",
    granularity: Annotated[str, typer.Option(help="weight, neuron, blocks (8x1), N:M (2:4).")] = "weight",
    scope: Annotated[str, typer.Option(help="global, layer, output, erk or lamp.")] = "global",
    schedule: Annotated[str, typer.Option(help="one-shot, linear, cubic or cyclic.")] = "one-shot",
    include: Annotated[
        list[str] | None, typer.Option(help="The layers to prune, all if not given; a name or pattern.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Layers to leave alone; a name or pattern.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images to calibrate, fine-tune and test with, as for demo; of ONNX models FILE.npz with an "
            "array for each input, or x."
        ),
    ] = None,
    bias_correction: Annotated[
        bool | None,
        typer.Option(
            "--bias-correction/--no-bias-correction",
            help="Let biases take over the mean error of a layer; with obs they do unless told not to.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=0, help="Epochs of fine-tuning after each step.")] = 0,
    random_state: Seed = 0,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Prune a model, fine-tune it where there is data, and say what that brought.

    Safetensors checkpoints of any maker and size are pruned by magnitude without being loaded: weight by
    weight over all tensors, or N:M along the last axis. Pruned and counted are tensors of F64, F32, F16 and
    BF16 with two or more dimensions, so neither biases nor norms; the others are copied.

    ONNX models (.onnx) are pruned as they are, into another such file: they cannot be trained here, but they
    can be run, on data for the criteria wanda and obs.
    """
    calibrated = needs_norms(criterion) or bool(bias_correction)
    if model.suffix == ONNX_SUFFIX:
        _writable(out, model, ONNX_SUFFIX)
        check_criterion(criterion)
        if (data is not None and not calibrated) or epochs or needs_grads(criterion):
            raise ValueError(
                "data, epochs, criterion: ONNX models cannot be trained here, nor have gradients"
            )
        _prune_onnx(
            model, out, as_json, threads, data, bias_correction=bias_correction, sparsity=sparsity,
            threshold=threshold, criterion=criterion, granularity=granularity, scope=scope,
            schedule=schedule, include=include or None, exclude=exclude or None, random_state=random_state,
        )  # fmt: skip
        return
    if is_checkpoint(model):
        for option, value, allowed in (
            ("threshold", threshold, (None,)),
            ("criterion", criterion, ("l1", "l2")),
            ("scope", scope, ("global",)),
            ("schedule", schedule, ("one-shot",)),
            ("data", data, (None,)),
            ("bias-correction", bias_correction, (None, False)),
            ("epochs", epochs, (0,)),
            ("random-state", random_state, (0,)),
            ("threads", threads, (1,)),
        ):
            if value not in allowed:
                raise ValueError(
                    f"{option}: not for checkpoints, which are pruned by magnitude at once, got {value!r}"
                )
        _prune_checkpoint(model, out, sparsity, granularity, include, exclude, as_json)
        return
    _writable(out, model)
    check_criterion(criterion)
    if data is None and (epochs or needs_grads(criterion) or calibrated):
        raise ValueError("data: needed to fine-tune, to calibrate, and for criteria that take gradients")
    original = _load_model(model)
    train, test = (None, None) if data is None else datasets.load(data)
    seen = calibrated or needs_grads(criterion)
    finetune = None
    if train is not None and epochs:
        finetune = {"x": train[0], "y": train[1], "epochs": epochs, "optimizer": nn.Adam()}
    result = prune_model(
        original,
        sparsity,
        threshold=threshold,
        criterion=criterion,
        granularity=granularity,
        scope=scope,
        schedule=schedule,
        include=include or None,
        exclude=exclude or None,
        data=None if train is None or not seen else (train[0][:1024], train[1][:1024]),
        bias_correction=bias_correction,
        finetune=finetune,
        validate=test,
        random_state=random_state,
    )
    save(result.model, out)
    x = view(original).inputs(32)
    files = {str(model): (original, model), str(out): (result.model, out)}
    rows, _ = model_rows(files, x if test is None else test[0], test, threads)
    _show({"rows": rows, "history": result.history}, as_json, (rows, MODELS))


def _prune_onnx(path: Path, out: Path, as_json: bool, threads: int, data: str | None, **options: Any) -> None:
    original = load(path)
    samples = None if data is None else _samples(Path(data), [info.name for info in original.inputs])
    result = prune_model(original, data=samples, **options)
    save(result.model, out)
    files = {str(path): (original, path), str(out): (result.model, out)}
    rows = importlib.import_module("secateur.reporting.onnx").onnx_rows(files, threads)
    _show({"rows": rows, "history": result.history}, as_json, (rows, MODELS))


def _samples(path: Path, inputs: list[str]) -> dict[str, Any]:
    """The arrays of an .npz file by input; of a data set's file the training images."""
    arrays = datasets.npz_arrays(path)
    if len(inputs) == 1:
        found = [arrays[name] for name in (inputs[0], "x", "x_train") if name in arrays]
        arrays = dict(zip(inputs, found, strict=False))
    missing = [name for name in inputs if name not in arrays]
    if missing:
        raise ValueError(f"data: {path} has no array {missing[0]!r}")
    return {name: arrays[name] for name in inputs}


def _prune_checkpoint(
    source: Path,
    out: Path,
    sparsity: float | None,
    granularity: str,
    include: list[str] | None,
    exclude: list[str] | None,
    as_json: bool,
) -> None:
    if source.suffix == MODEL_SUFFIX:
        _writable(out, source)
    try:
        done = prune_checkpoint(
            source,
            out,
            sparsity,
            granularity=granularity,
            include=include or None,
            exclude=exclude or None,
        )
    except KeyboardInterrupt:
        _say("secateur: interrupted; the same command goes on where it was")
        raise typer.Exit(1) from None
    columns = [
        Column("checkpoint", "out"),
        Column("files", "files"),
        Column("bytes", "bytes", "{:,}".format),
        Column("tensors", "tensors", "{:,}".format),
        Column("weights", "weights", "{:,}".format),
        Column("kept", "kept", "{:,}".format),
        Column("sparsity", "sparsity", "{:.4f}".format),
    ]
    _show(asdict(done), as_json, ([asdict(done)], columns))


@app.command()
def compile(
    model: Annotated[Path, typer.Argument(help="The model's file.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="A plan (.safetensors); of an ONNX model also an ONNX model (.onnx)."
        ),
    ],
    batch: Batches = [1, 32],  # noqa: B006  (typer reads it)
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Threads to run with.")] = None,
    target: Annotated[
        str | None, typer.Option(help="CPU target; the fastest of this CPU if not given.")
    ] = None,
    shape: Shapes = None,
    as_json: Json = False,
) -> None:
    """Compile a model into a plan: each layer runs the way that is measured to be fastest here.

    From an ONNX model into another one: its pruned chains become plans within it, where that is faster, and
    ONNX Runtime runs it once `secateur.ort.register` was called.
    """
    shapes = _shapes(shape, model)
    if model.suffix == out.suffix == ONNX_SUFFIX:
        if target is not None:
            raise ValueError("target: not for ONNX models, which are packed for the CPU that loads them")
        rewrite = importlib.import_module("secateur.onnx.rewrite").compile_onnx
        _writable(out, model, ONNX_SUFFIX)
        source = load(model).with_shapes(shapes) if shapes else model
        done = rewrite(source, out, batch=batch, threads=threads)
        about, *tables = importlib.import_module("secateur.reporting.onnx").rewriting(done, model)
        _show(about, as_json, *tables)
        return
    _writable(out, model)
    found = load(model)
    if model.suffix != ONNX_SUFFIX:
        found = _model_of(found, model)
    elif shapes:
        found = found.with_shapes(shapes)
    plan = compile_model(found, batch=batch, threads=threads, target=target)
    save(plan, out)
    if not as_json:
        print(plan.explain())
        return
    reports = {size: plan.report(size) for size in plan.batch}
    _show({"file": str(out), "bytes": out.stat().st_size, "report": reports}, as_json)


def _shapes(texts: list[str] | None, model: Path) -> dict[str, list[int | str]]:
    """Each NAME=N,3,224,224 as a name and its dimensions."""
    if texts and model.suffix != ONNX_SUFFIX:
        raise ValueError("shape: for ONNX models")
    shapes: dict[str, list[int | str]] = {}
    for text in texts or ():
        name, equals, dims = text.rpartition("=")
        if not equals or not name:
            raise ValueError(f"shape: expected NAME=N,3,224,224, got {text!r}")
        shapes[name] = [int(dim) if dim.isdecimal() else dim for dim in map(str.strip, dims.split(","))]
        wrong = [dim for dim in shapes[name] if isinstance(dim, str) and not dim.isidentifier()]
        if wrong:
            raise ValueError(f"shape: expected numbers and names in {text!r}, got {wrong[0]!r}")
    return shapes


@app.command()
def bench(
    files: Annotated[list[Path], typer.Argument(help="Models or plans; the first is compared with.")],
    batch: Batches = [1, 32],  # noqa: B006
    threads: Threads = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which each takes its turn.")] = ROUNDS,
    as_json: Json = False,
) -> None:
    """Time models and plans against each other, in turns, on this machine."""
    plans: dict[str, Any] = {}
    for file in files:
        if str(file) in plans:
            raise ValueError(f"files: {file} is given twice")
        found = load(file)
        if not hasattr(found, "choices"):
            model = found if file.suffix == ONNX_SUFFIX else _model_of(found, file)
            found = compile_model(model, batch=batch, threads=threads)
        if plans and _shape_of(found) != _shape_of(next(iter(plans.values()))):
            raise ValueError(f"files: {file} takes other inputs than {files[0]}")
        plans[str(file)] = found
    rows = []
    for size in batch:
        x = next(iter(plans.values())).inputs(size)
        for name, latency in compare(plans, x, rounds=rounds).items():
            threads_used = plans[name].threads
            rows.append({"file": name, "batch": size, "threads": threads_used, **latency._asdict()})
    columns = [
        Column("file", "file"),
        Column("batch", "batch"),
        Column("threads", "threads"),
        Column("µs", "us", "{:,.1f}".format),
        Column("speed-up", "speedup", "{:.2f}×".format),
    ]
    _show({"rows": rows}, as_json, (rows, columns))


def _shape_of(plan: Any) -> Any:
    """What a plan takes."""
    x = plan.inputs(1)
    return {name: array.shape for name, array in x.items()} if isinstance(x, dict) else x.shape


# typer brings click along, under one name or another: the base of all its usage errors.
_ClickException: Any = typer.BadParameter.__mro__[2]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: whatever goes wrong is one line."""
    try:
        code = app(args=arguments, prog_name="secateur", standalone_mode=False)
    except _ClickException as error:
        code = _fail(error.format_message(), 2)
    except (typer.Abort, KeyboardInterrupt):
        code = _fail("interrupted", 1)
    except (SecateurError, OSError, MemoryError) as error:
        code = _fail(error, 1)
    except (TypeError, ValueError, OverflowError) as error:
        code = _fail(error, 2)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: object, code: int) -> int:
    message = " ".join(str(error).split()) or type(error).__name__
    _say(f"secateur: error: {message}")
    return code
