"""Objects to files and back: safetensors, no pickle, and after a crash the old file or the new one is there.

Each class that can be kept registers a *kind*: a function to tensors, masks and metadata, and one back. The
bytes are made by the core (``rust/core/src/store.rs`` describes them).
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias, TypeVar

import numpy as np

from . import _core, provenance
from .compiler import Plan
from .description import parts
from .errors import FormatError
from .lookup import resolve
from .nn import Embedding, Sequential, TrainingCheckpoint

Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]
T = TypeVar("T")

DRAFT_SUFFIX = ".tmp"
"""Of files that are being written; a killed process leaves them behind."""


class Contents(NamedTuple):
    """What a file holds: arrays by name, masks of some of them, and text by key."""

    tensors: Mapping[str, np.ndarray[Any, Any]]
    masks: Mapping[str, np.ndarray[Any, Any]]
    metadata: Mapping[str, str]


class _Kind(NamedTuple):
    type: type[Any]
    dump: Callable[[Any], Contents]
    restore: Callable[[Contents], Any]


_KINDS: dict[str, _Kind] = {}

LAZY = {"onnx-plan": "secateur.onnx.plan"}
"""The modules that register kinds which need an extra; imported when a file says so."""

FOREIGN = {".onnx": "secateur.onnx.model:OnnxModel"}
"""Classes of foreign files by suffix, as "module:class" with ``load`` and ``save``; imported when needed."""


def register(
    kind: str, cls: type[T], dump: Callable[[T], Contents], restore: Callable[[Contents], T]
) -> None:
    """Teach :func:`save` and :func:`load` a class.

    Parameters
    ----------
    kind : str
        The name that files of this class carry.
    cls : type
        Instances of it, and of its subclasses, are saved by `dump`.
    dump : callable
        From an instance to its :class:`Contents`. Values outside a mask must be zero; the metadata keys
        ``"format"``, ``"version"``, ``"kind"`` and those that begin with ``"shape:"`` are taken.
    restore : callable
        The inverse. Whatever it raises is reported as a damaged file.
    """
    _KINDS[kind] = _Kind(cls, dump, restore)


def save(obj: object, path: str | os.PathLike[str]) -> None:
    """Write a model, plan, training checkpoint or ONNX model to a file.

    The file is written beside its destination, synced and then renamed: whatever happens, the old file or the
    new one is there, whole. An existing file's permissions are kept. Equal objects make equal bytes.

    Parameters
    ----------
    obj : Sequential, Plan, TrainingCheckpoint, OnnxModel or OnnxPlan
        What to keep. Weights, masks and states are kept bit for bit.
    path : path-like
        Usually ends in ``.safetensors``; for an ONNX model, and for nothing else, in ``.onnx``.

    Raises
    ------
    TypeError
        If there is no kind of file for `obj`.
    ValueError
        If an ONNX model's path does not end in ``.onnx``, or it contradicts itself.
    OSError
        If the file cannot be written; nothing is left behind.

    Examples
    --------
    >>> import tempfile
    >>> import secateur as sc
    >>> model = sc.nn.Sequential([sc.nn.Dense(3)]).build((4,), random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sc.save(model, f"{folder}/model.safetensors")
    ...     again = sc.load(f"{folder}/model.safetensors")
    >>> bool((again.parameters()["dense.weight"] == model.parameters()["dense.weight"]).all())
    True
    """
    foreign = _foreign(path)
    if foreign is not None:
        if not isinstance(obj, foreign):
            raise TypeError(f"obj: expected a {foreign.__name__} for {path!s}, got {type(obj).__name__}")
        obj.save(path)
        return
    write_atomic(path, encode(obj))


def encode(obj: object) -> bytes:
    """The bytes of the file that :func:`save` writes of one of its own kinds."""
    for name, kind in _KINDS.items():
        if isinstance(obj, kind.type):
            tensors, masks, metadata = kind.dump(obj)
            return _core.encode(dict(tensors), dict(masks), {**metadata, "kind": name})
    known = ", ".join(kind.type.__name__ for kind in _KINDS.values())
    raise TypeError(f"obj: expected one of {known}, got {type(obj).__name__}")


def load(path: str | os.PathLike[str]) -> Any:
    """Read what :func:`save` wrote.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    Sequential, Plan, TrainingCheckpoint, OnnxModel or OnnxPlan
        By the kind that the file names; of a path that ends in ``.onnx`` the last.

    Raises
    ------
    FormatError
        If the file is missing, truncated, damaged, of a newer version, or no secateur file. The claims
        of a file are checked against its length before anything is read past its header.
    """
    foreign = _foreign(path)
    if foreign is not None:
        return foreign.load(path)
    tensors, masks, metadata = _core.decode(path)
    name = metadata.pop("kind")
    if name in LAZY:
        importlib.import_module(LAZY[name])
    if name not in _KINDS:
        raise FormatError(
            f"{os.fspath(path)}: unknown kind {name[:40]!r}, expected one of {', '.join(_KINDS)}"
        )
    try:
        return _KINDS[name].restore(Contents(tensors, masks, metadata))
    except Exception as error:  # a damaged description can make a constructor raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FormatError(f"{os.fspath(path)}: damaged {name}: {reason}") from error


def _foreign(path: str | os.PathLike[str]) -> Any:
    """The class of files with the suffix of `path`, if that is another maker's."""
    found = FOREIGN.get(Path(path).suffix)
    return None if found is None else resolve(found)


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the file at `path` by `data`, whole, or leave it as it was."""
    with open_atomic(path) as file:
        file.write(data)


@contextmanager
def open_atomic(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write that replaces the one at `path` when the block ends, unless by an exception."""
    # A link stays a link: what it points to is replaced.
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}{DRAFT_SUFFIX}")
    # Opened with the mode of any new file, so that the umask applies.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(descriptor, "wb") as file:
            if target.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# Kind "model": the architecture as JSON; parameters and buffers under their own names; masks.


class _Shapes(np.random.Generator):
    """Stands in for the random first weights of a model: zeros, of the shapes that a file holds, each once.

    A damaged architecture could ask for any amount of memory; this one asks for no more than its file's size.
    """

    def __init__(self, shapes: Iterable[tuple[int, ...]]) -> None:
        super().__init__(np.random.PCG64(0))
        self._left = list(shapes)

    def standard_normal(self, size: Any = None, *unused: Any, **also: Any) -> Any:
        return self.uniform(size=size)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        if size not in self._left:
            raise ValueError(f"there are no weights of shape {size}")
        self._left.remove(size)
        return np.zeros(size, np.float32)


def _dump_model(model: Sequential) -> Contents:
    tensors = {**model.parameters(), **model.buffers()} if model.built else {}
    metadata = {"config": json.dumps(model.config(), sort_keys=True)}
    if model.provenance:
        metadata[provenance.KEY] = provenance.dumps(model.provenance)
    return Contents(tensors, model.masks, metadata)


def _restore_model(contents: Contents) -> Sequential:
    tensors = contents.tensors
    config = json.loads(contents.metadata["config"])
    input_shape = config["input_shape"]
    model = Sequential.from_config({**config, "input_shape": None})
    if input_shape is None:
        return model
    # Features or channels; how many steps there are says nothing of arrays, nor how many ids.
    width = input_shape[1] if len(input_shape) == 2 else input_shape[0]
    looked_up = any(isinstance(leaf, Embedding) for leaf in model.leaves())
    longest = max((max(array.shape, default=0) for array in tensors.values()), default=width)
    if width > (max(longest, MOST_IDS) if looked_up else longest):
        raise ValueError(f"there are no weights for samples of shape {input_shape}")
    model.build(input_shape, _Shapes(array.shape for array in tensors.values()))
    parameters = model.parameters()
    unknown = [name for name in tensors if name not in parameters and name not in model.buffers()]
    if unknown:
        raise ValueError(f"the model has no array {unknown[0][:80]!r}")
    model.restore(
        {
            "parameters": {name: array for name, array in tensors.items() if name in parameters},
            "buffers": {name: array for name, array in tensors.items() if name not in parameters},
            "masks": contents.masks,
            "provenance": provenance.loads(contents.metadata.get(provenance.KEY, "[]")),
        }
    )
    return model


# Kind "checkpoint": the model's arrays as "model/NAME"; the states are trees of dicts and lists whose arrays
# become "state/PATH" and whose rest is JSON.

_ARRAY = "$array"


def _take_arrays(tree: Any, path: str, arrays: Arrays) -> Any:
    """The tree as JSON, with arrays moved to `arrays` and named by their path."""
    if isinstance(tree, Mapping):
        return {str(key): _take_arrays(value, f"{path}/{key}", arrays) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_take_arrays(value, f"{path}/{i}", arrays) for i, value in enumerate(tree)]
    if isinstance(tree, np.generic):
        return tree.item()
    if not isinstance(tree, np.ndarray):
        return tree
    array = tree
    if array.dtype.kind in "iu" and array.dtype not in (np.int64, np.uint8):
        # The core keeps few types; the others fit into them.
        array = array.view(np.int64) if array.dtype.itemsize == 8 else array.astype(np.int64)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    arrays[path] = array
    return {_ARRAY: path, "dtype": tree.dtype.str}


def _put_arrays(tree: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    """The inverse of `_take_arrays`."""
    if isinstance(tree, dict) and _ARRAY in tree:
        array, dtype = arrays[tree[_ARRAY]], np.dtype(tree["dtype"])
        return array.view(dtype) if array.dtype.itemsize == dtype.itemsize else array.astype(dtype)
    if isinstance(tree, dict):
        return {key: _put_arrays(value, arrays) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_put_arrays(value, arrays) for value in tree]
    return tree


def _dump_checkpoint(checkpoint: TrainingCheckpoint) -> Contents:
    model = _dump_model(checkpoint.model)
    tensors: Arrays = {f"model/{name}": array for name, array in model.tensors.items()}
    fields = {
        "optimizer_state": checkpoint.optimizer_state,
        "rng_state": checkpoint.rng_state,
        "epoch": checkpoint.epoch,
        "batch": checkpoint.batch,
        "history": checkpoint.history,
        "callbacks_state": checkpoint.callbacks_state,
        "packed": checkpoint.packed,
    }
    state = json.dumps(_take_arrays(fields, "state", tensors), sort_keys=True)
    masks = {f"model/{name}": mask for name, mask in model.masks.items()}
    return Contents(tensors, masks, {**model.metadata, "state": state})


def _restore_checkpoint(contents: Contents) -> TrainingCheckpoint:
    def own(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        return {name[6:]: array for name, array in arrays.items() if name.startswith("model/")}

    model = _restore_model(Contents(own(contents.tensors), own(contents.masks), contents.metadata))
    state = json.loads(contents.metadata["state"])
    return TrainingCheckpoint(model, **_put_arrays(state, contents.tensors))


# Kind "plan": the network as JSON, its arrays as "NODE.ARRAY" (zero weights as a mask), and the choices with
# the CPU that they were measured on: on another one they are no hint, and the cost model chooses.

MOST_IDS = 1 << 20
"""Ids of a sample, or of a step, that a model may have been built for."""


def _dump_plan(plan: Plan) -> Contents:
    nodes, tensors = parts(plan.description)
    matrices = {name: array for name, array in tensors.items() if name.endswith(".weight")}
    masks: Arrays = {name: array != 0 for name, array in matrices.items() if not array.all()}
    description = {
        "input_shape": plan.input_shape,
        "nodes": nodes,
        "batch": plan.batch,
        "threads": plan.threads,
        "choices": plan.choices,
        "winograd": plan.winograd,
        "cpu": _core.cpu_signature(plan.target),
    }
    # Weights that are -0.0 are as absent as those that are 0.0.
    tensors.update({name: np.where(mask, tensors[name], np.float32(0)) for name, mask in masks.items()})
    return Contents(tensors, masks, {"plan": json.dumps(description, sort_keys=True)})


def _restore_plan(contents: Contents) -> Plan:
    description = json.loads(contents.metadata["plan"])
    arrays: dict[str, Arrays] = {}
    for name, array in contents.tensors.items():
        node, _, key = name.rpartition(".")
        arrays.setdefault(node, {})[key] = array
    nodes = [{**node, **arrays.get(node["name"], {})} for node in description["nodes"]]
    known = description["cpu"] == _core.cpu_signature(_core.cpu_target())
    return Plan(
        description["input_shape"],
        nodes,
        description["batch"],
        threads=description["threads"],
        choices=description["choices"] if known else None,
        winograd=description.get("winograd", True),  # files from before it existed do not have it
        timed=False,
    )


register("model", Sequential, _dump_model, _restore_model)
register("plan", Plan, _dump_plan, _restore_plan)
register("checkpoint", TrainingCheckpoint, _dump_checkpoint, _restore_checkpoint)
