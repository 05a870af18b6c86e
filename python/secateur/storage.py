"""Objects to files and back: safetensors, no pickle, and after a crash the old file or the new one is there.

Each class that can be kept registers a *kind*: a function to tensors, masks and metadata, and one back. The
bytes are made by the core (``rust/core/src/store.rs`` describes them).
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from . import _core
from .errors import FormatError

Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]
T = TypeVar("T")


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
    """Write a model, plan or training checkpoint to a file.

    The file is written beside its destination, synced and then renamed: whatever happens, the old file or the
    new one is there, whole. An existing file's permissions are kept. Equal objects make equal bytes.

    Parameters
    ----------
    obj : Sequential, Plan or TrainingCheckpoint
        What to keep. Weights, masks and states are kept bit for bit.
    path : path-like
        Usually ends in ``.safetensors``.

    Raises
    ------
    TypeError
        If there is no kind of file for `obj`.
    OSError
        If the file cannot be written; nothing is left behind.
    """
    for name, kind in _KINDS.items():
        if isinstance(obj, kind.type):
            tensors, masks, metadata = kind.dump(obj)
            write_atomic(path, _core.encode(dict(tensors), dict(masks), {**metadata, "kind": name}))
            return
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
    Sequential, Plan or TrainingCheckpoint
        By the kind that the file names.

    Raises
    ------
    FormatError
        If the file is missing, truncated, damaged, of a newer version, or no secateur file. The claims
        of a file are checked against its length before anything is read past its header.
    """
    tensors, masks, metadata = _core.decode(path)
    name = metadata.pop("kind")
    if name not in _KINDS:
        raise FormatError(
            f"{os.fspath(path)}: unknown kind {name[:40]!r}, expected one of {', '.join(_KINDS)}"
        )
    try:
        return _KINDS[name].restore(Contents(tensors, masks, metadata))
    except Exception as error:  # a damaged description can make a constructor raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FormatError(f"{os.fspath(path)}: damaged {name}: {reason}") from error


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the file at `path` by `data`, whole, or leave it as it was."""
    # A link stays a link: what it points to is replaced.
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    # Opened with the mode of any new file, so that the umask applies.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(descriptor, "wb") as file:
            if target.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
