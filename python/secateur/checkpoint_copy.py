"""A file copied in pieces, some of them changed on the way.

::

    source   | header, biases | matrix                | norms | matrix        |
    pieces   |                |      |      |      |  |       |      |      | |
                                changed by one of several threads, each: read, change, write, next

Pieces are small enough to stay in a core's cache from reading to writing, and only a few are held at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _core
from .errors import FormatError

__all__ = ["Piece", "copy_pieces", "unchanged"]

_COPIED = 1 << 20
"""Bytes of a piece that is not changed."""


class Piece(NamedTuple):
    """Bytes of a file, and what changes them in place, if anything does."""

    begin: int
    end: int
    change: Callable[[NDArray[np.uint8]], object] | None = None


def unchanged(begin: int, end: int) -> Iterator[Piece]:
    """The pieces of a range that is copied as it is."""
    for at in range(begin, end, _COPIED):
        yield Piece(at, min(at + _COPIED, end))


def copy_pieces(
    source: Path, target: int, pieces: Iterable[Piece], advance: Callable[[int], object] = lambda _: None
) -> None:
    """Write pieces of the file `source`, changed, to their places in the open file `target`.

    One thread more than the core uses, since one may wait for the disk, take them one by one; `advance` is
    told the bytes that are written. An error in one ends them all.
    """
    left, taking, stop = iter(pieces), Lock(), Event()

    def work() -> None:
        buffer = np.empty(0, np.uint8)
        while not stop.is_set():
            with taking:  # an iterator may be asked by one at a time
                piece = next(left, None)
            if piece is None:
                return
            size = piece.end - piece.begin
            if size > len(buffer):
                buffer = np.empty(size, np.uint8)
            part = buffer[:size]
            if not _transfer(os.preadv, file.fileno(), part, piece.begin):
                raise FormatError(f"{source}: became shorter while it was read")
            if piece.change is not None:
                piece.change(part)
            _transfer(os.pwritev, target, part, piece.begin)
            _start_writing(target, piece)
            advance(size)

    threads = _core.get_num_threads() + 1
    with open(source, "rb") as file, ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(work) for _ in range(threads)]
        try:
            wait(jobs, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    for job in jobs:
        job.result()


def _transfer(call: Callable[..., int], file: int, part: NDArray[np.uint8], at: int) -> bool:
    """Read or write all of a part, for which the system may need several calls; False at the file's end."""
    left = part.data
    while left:
        done = call(file, [left], at)
        if not done:
            return False
        left, at = left[done:], at + done
    return True


def _start_writing(file: int, piece: Piece) -> None:
    """Have the system bring what was just written to the disk while the next pieces are made.

    Otherwise it lets gigabytes gather first, and the disk rests until the final sync. The advice to drop the
    piece starts that; what is on its way to the disk is not dropped.
    """
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(file, piece.begin, piece.end - piece.begin, os.POSIX_FADV_DONTNEED)
