"""The idx format of MNIST and its kin: a folder of four files, gzipped or not."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PIECE = 1 << 20


def read(path: Path) -> NDArray[Any]:
    """The array in an idx file: two zero bytes, type, number of axes, their lengths (big-endian), values.

    Raises
    ------
    FormatError
        If the file is missing, damaged, or of another format.
    """
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if packed:
                with gzip.open(raw) as file:
                    return _array(file)  # type: ignore[arg-type]
            return _array(raw)
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file") from error
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise FormatError(f"{path}: no idx file ({' '.join(str(error).split())})") from error


def _array(file: BinaryIO) -> NDArray[Any]:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES or not start[3]:
        raise ValueError("it begins with other bytes")
    dtype, lengths = np.dtype(_TYPES[start[2]]), file.read(4 * start[3])
    if len(lengths) != 4 * start[3]:
        raise ValueError("it ends within its header")
    shape = struct.unpack(f">{start[3]}I", lengths)
    size = dtype.itemsize
    for length in shape:
        size *= length
    # No more memory than the file has values, whatever its header claims, and no more values than that.
    content = bytearray()
    while len(content) <= size and (piece := file.read(min(_PIECE, size + 1 - len(content)))):
        content += piece
    if len(content) != size:
        raise ValueError(f"it should hold {size} bytes of values of shape {shape}")
    values = np.frombuffer(content, dtype).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a folder as ``"x"``, ``"y"`` and, where it has them, ``"x_test"``, ``"y_test"``.

    Files are told by their names: "train" or "t10k" or "test", "images" or "labels", "idx".

    Raises
    ------
    FormatError
        If there is not one file for each of them, or one is damaged.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        part = re.search(r"(train|t10k|test).*(images|labels).*idx", path.name)
        if part is None or not path.is_file():
            continue
        key = ("x" if part[2] == "images" else "y") + ("" if part[1] == "train" else "_test")
        if key in found and found[key].name.removesuffix(".gz") != path.name.removesuffix(".gz"):
            raise FormatError(f"{folder}: both {found[key].name} and {path.name} could be the {key}")
        found.setdefault(key, path)
    if not {"x", "y"} <= found.keys():
        raise FormatError(f"{folder}: no idx files of training images and labels in it")
    return {key: read(path) for key, path in found.items()}
