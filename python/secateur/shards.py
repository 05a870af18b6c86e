"""Safetensors checkpoints of any maker, in one file or several: headers read strictly, data mapped.

A checkpoint in several files has an index, ``NAME.safetensors.index.json``, of which tensor is where::

    {"metadata": {...}, "weight_map": {"layers.0.weight": "model-00001-of-00004.safetensors", ...}}

What the headers claim is checked against the files before any tensor is looked at. See
``rust/core/src/store/header.rs`` for the layout of a file.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError

__all__ = ["Checkpoint", "Shard", "TensorInfo", "is_checkpoint", "open_checkpoint", "read_shard"]

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"

LONGEST = 16 << 20
"""Longest header or index that is read, in bytes: as in the core. Parsing takes ten times as much memory."""
MOST_DIMENSIONS = 32
"""Most dimensions of a tensor: as in the core."""

FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""The dtypes that are pruned, and how NumPy sees them: it has no bfloat16, so that is its bits."""

_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_BITS |= dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
_BITS |= dict.fromkeys(("I16", "U16", "F16", "BF16"), 16)
_BITS |= dict.fromkeys(("I32", "U32", "F32"), 32)
_BITS |= dict.fromkeys(("I64", "U64", "F64", "C64"), 64)


class TensorInfo(NamedTuple):
    """A tensor's entry in a header; `begin` and `end` count from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def prunable(self) -> bool:
        """Whether it is a matrix or more, of floating-point numbers."""
        return self.dtype in FLOATS and len(self.shape) >= 2 and self.size > 0


@dataclass(frozen=True)
class Shard:
    """A file: its metadata, its tensors in the order of their data, and where their data begin."""

    path: Path
    size: int
    data: int
    metadata: dict[str, str] = field(repr=False)
    tensors: tuple[TensorInfo, ...] = field(repr=False)

    def map(self) -> mmap.mmap:
        """The file's bytes, read-only, as the kernel pages them in: none is held in memory of ours."""
        with open(self.path, "rb") as file:
            return mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)


@dataclass(frozen=True)
class Checkpoint:
    """All files of a checkpoint; `index` is None where there is but one."""

    index: Path | None
    shards: tuple[Shard, ...]


def view_of(info: TensorInfo, mapped: mmap.mmap) -> NDArray[Any]:
    """A tensor of one of the `FLOATS` in the mapped file; bfloat16 as uint16. It may be misaligned."""
    view: NDArray[Any] = np.ndarray(info.shape, FLOATS[info.dtype], mapped, info.begin)
    return view


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a folder, an index, or a safetensors file that is not of :func:`secateur.save`."""
    place = Path(path)
    if place.is_dir() or place.name.endswith(INDEX_SUFFIX):
        return True
    return read_shard(place).metadata.get("format") != "secateur"


def open_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Read the headers of a checkpoint: a file, an index, or the folder that holds one.

    Raises
    ------
    FormatError
        Naming the file and what is wrong with it: one that is missing, truncated or damaged, and an index
        that does not fit its files.
    """
    path = Path(source)
    if path.is_dir():
        found = sorted(path.glob(f"*{INDEX_SUFFIX}"))
        if len(found) != 1:
            several = f"{len(found)} indices, {found[0].name} and others" if found else "no index"
            raise FormatError(f"{path}: the folder holds {several} (*{INDEX_SUFFIX}); name a file")
        path = found[0]
    if not path.name.endswith(INDEX_SUFFIX):
        return Checkpoint(None, (read_shard(path),))
    names = _read_index(path)
    files = dict.fromkeys(names.values())
    shards = tuple(read_shard(path.parent / file) for file in files)
    for shard in shards:
        there = {info.name for info in shard.tensors}
        wanted = {name for name, file in names.items() if file == shard.path.name}
        for name in sorted(wanted - there):
            raise FormatError(f"{path}: names {name!r} in {shard.path.name}, which does not hold it")
        for name in sorted(there - wanted):
            place = f"says that it is in {names[name]}" if name in names else "does not name it"
            raise FormatError(f"{shard.path}: holds {name!r}, but the index {place}")
    return Checkpoint(path, shards)


def read_shard(path: Path) -> Shard:
    """Read and check the header of a file; see :func:`open_checkpoint`."""
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            claim = f"a header of {length} bytes in " if size >= 8 else ""
            raise FormatError(f"{path}: truncated or no safetensors file: {claim}{size} bytes")
        if length > LONGEST:
            raise FormatError(f"{path}: a header of {length} bytes, more than the {LONGEST} that are read")
        header = _parse(file.read(length), path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise FormatError(f"{path}: damaged file: its metadata are no map of strings")
    data = 8 + length
    tensors = sorted((_entry(*item, data, path) for item in header.items()), key=lambda info: info[3:])
    end = data
    for info in tensors:
        if info.begin != end:
            kind = "overlap" if info.begin < end else "leave a gap before"
            raise FormatError(
                f"{path}: damaged file: its data {kind} {info.name!r} at byte {info.begin - data}"
            )
        end = info.end
    if end != size:
        kind = "truncated" if end > size else "damaged"
        bytes_ = f"{end - data} bytes, but {size - data} bytes follow the header"
        raise FormatError(f"{path}: {kind} file: its tensors take {bytes_}")
    return Shard(path, size, data, metadata, tuple(tensors))


def _read_index(path: Path) -> dict[str, str]:
    """The file of every tensor."""
    with _open(path) as file:
        text = file.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise FormatError(f"{path}: longer than the {LONGEST} bytes that are read")
    names = _parse(text, path).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise FormatError(f"{path}: damaged index: it has no weight_map of names to files")
    for name, file in names.items():
        # Files are written under their names: a path could lead anywhere.
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(SUFFIX) or "\0" in file:
            raise FormatError(f"{path}: damaged index: {name!r} is in {file!r}, no file name *{SUFFIX}")
    return names


def _open(path: Path) -> Any:
    # Asked before opening: opening a pipe that nobody writes to would wait for ever.
    if not path.exists():
        raise FormatError(f"{path}: no such file")
    if not path.is_file():
        raise FormatError(f"{path}: not a regular file")
    try:
        return open(path, "rb")
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}") from None


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in `text`, in which no name occurs twice."""
    try:
        found = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: damaged or no safetensors file: {error}") from None
    if not isinstance(found, dict):
        raise FormatError(f"{path}: damaged or no safetensors file: its JSON is no object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the name {twice[:80]!r} occurs twice")
    for name in found:
        name.encode()  # half a surrogate pair is no text, and has no place in the order of names
    return found


def _entry(name: str, entry: Any, data: int, path: Path) -> TensorInfo:
    """A tensor's entry, checked by itself."""
    damaged = f"{path}: damaged file: {name[:80]!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{damaged} has no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise FormatError(f"{damaged} has the unknown dtype {str(dtype)[:40]!r}")
    if not _naturals(shape) or len(shape) > MOST_DIMENSIONS:
        raise FormatError(f"{damaged} has the shape {str(shape)[:80]}")
    if not _naturals(offsets) or len(offsets) != 2:
        raise FormatError(f"{damaged} has the data_offsets {str(offsets)[:80]}")
    size = offsets[1] - offsets[0]
    if _BITS[dtype] * math.prod(shape) != 8 * size:
        raise FormatError(f"{damaged} has {size} bytes for the shape {shape} of {dtype}")
    return TensorInfo(name, dtype, tuple(shape), data + offsets[0], data + offsets[1])


def _naturals(values: Any) -> bool:
    """Whether `values` is a list of integers that a file can count; JSON's true is none."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)
