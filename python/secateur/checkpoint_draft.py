"""The output of a job on a checkpoint: built beside its place, moved there when it is whole, resumable.

::

    OUT.partial/
      secateur.json     the job: what is done to which files
      files/            finished files under their own names, and drafts of unfinished ones

A killed process leaves this folder behind. The next one of the same job goes on there, one of another anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from .checkpoint_copy import Piece, copy_pieces, unchanged
from .errors import FormatError
from .progress import progress_bar
from .shards import Checkpoint, Shard, TensorInfo
from .storage import DRAFT_SUFFIX, open_atomic, sync_folder, write_atomic

__all__ = ["Draft", "Pieces"]

_JOB, _FILES = "secateur.json", "files"

Pieces: TypeAlias = Callable[[TensorInfo], Iterable[Piece]]
"""From a tensor to the pieces of its bytes, and how they are changed."""


class Draft:
    """The folder beside `out` in which a changed copy of `checkpoint` is built.

    Raises
    ------
    ValueError
        If `out` cannot be written, or exists where it must not.
    """

    def __init__(self, out: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
        # A link stays a link: what it points to is replaced.
        self._target = Path(os.path.realpath(out))
        self._checkpoint = checkpoint
        if not self._target.parent.is_dir():
            raise ValueError(f"out: there is no folder {str(self._target.parent)!r}")
        if checkpoint.index is not None and self._target.exists():
            raise ValueError(f"out: {os.fspath(out)!r} exists; a checkpoint with an index needs a new folder")
        if self._target.is_dir():
            raise ValueError(f"out: {os.fspath(out)!r} is a folder; a checkpoint in one file needs a file")
        self._folder = self._target.with_name(f"{self._target.name}.partial")
        self._files = self._folder / _FILES
        self._inputs = self._stat()
        self._read()

    def earlier(self, job: Mapping[str, Any]) -> dict[str, Any] | None:
        """The description that an interrupted :meth:`write` left, if it contains that of `job`."""
        found = self._read()
        wanted = {**job, "inputs": self._inputs}
        return found if {key: found.get(key) for key in wanted} == wanted else None

    def write(
        self, job: Mapping[str, Any], chosen: Collection[str], pieces: Pieces, progress: bool = True
    ) -> None:
        """Copy the checkpoint, with `pieces` of the chosen tensors, and put it in its place.

        Parameters
        ----------
        job : mapping
            Describes in JSON what is done: files of one job are taken to be equal.
        chosen : collection of str
            Tensors to change.
        pieces : callable
            How.
        progress : bool
            Whether to show a progress bar, if stderr is a terminal.
        """
        shards = self._checkpoint.shards
        with self._lock():
            self._prepare({**job, "inputs": self._inputs})
            with progress_bar("writing", sum(shard.size for shard in shards), progress) as advance:
                for shard in shards:
                    if (path := self._files / shard.path.name).exists():
                        advance(shard.size)
                        continue
                    with open_atomic(path) as file:
                        _copy(shard, file, chosen, pieces, advance)
            if self._stat() != self._inputs:
                raise FormatError(f"{shards[0].path}: it, or a file beside it, was changed while it was read")
            self._publish()

    def _stat(self) -> dict[str, list[int]]:
        """What tells whether files are still the same."""
        index = self._checkpoint.index
        paths = [shard.path for shard in self._checkpoint.shards] + ([] if index is None else [index])
        return {os.path.realpath(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}

    def _read(self) -> dict[str, Any]:
        """The job in the folder; empty if there is none."""
        if not os.path.lexists(self._folder):
            return {}
        if not self._folder.is_dir() or not all(
            entry.name in (_JOB, _FILES) or entry.name.endswith(DRAFT_SUFFIX)
            for entry in self._folder.iterdir()
        ):
            raise ValueError(f"out: {str(self._folder)!r} is in the way; move it")
        try:
            found = json.loads((self._folder / _JOB).read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the folder, made if need be, against other processes; the lock ends with the process."""
        self._folder.mkdir(exist_ok=True)
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # It may have been removed before the lock was got.
                free = self._folder.exists() and os.path.samestat(os.fstat(handle), self._folder.stat())
            except BlockingIOError:
                free = False
            except OSError:  # a file system without locks
                free = True
            if not free:
                raise ValueError(f"out: another process is writing {str(self._folder)!r}")
            yield
        finally:
            os.close(handle)

    def _prepare(self, job: Mapping[str, Any]) -> None:
        """Clear the folder of drafts, and of what another job left."""
        if self._read() != job:
            if self._files.exists():
                shutil.rmtree(self._files)
            write_atomic(self._folder / _JOB, json.dumps(job, indent=1).encode())
        self._files.mkdir(exist_ok=True)
        for folder in (self._folder, self._files):
            for draft in folder.glob(f".*{DRAFT_SUFFIX}"):
                draft.unlink()

    def _publish(self) -> None:
        """Move what is finished to its place, by one rename."""
        index = self._checkpoint.index
        built = self._files
        if index is not None:
            write_atomic(self._files / index.name, index.read_bytes())
        else:
            built /= self._checkpoint.shards[0].path.name
            if self._target.exists():
                shutil.copymode(self._target, built)
        os.replace(built, self._target)
        sync_folder(self._target.parent)
        shutil.rmtree(self._folder)


def _copy(
    shard: Shard, file: BinaryIO, chosen: Collection[str], pieces: Pieces, advance: Callable[[int], object]
) -> None:
    """Write a shard with its chosen tensors changed."""
    copy_pieces(shard.path, file.fileno(), _all_pieces(shard, chosen, pieces), advance)


def _all_pieces(shard: Shard, chosen: Collection[str], pieces: Pieces) -> Iterator[Piece]:
    """The pieces of the chosen tensors, and those of what lies between."""
    at = 0
    for info in shard.tensors:
        if info.name in chosen:
            yield from unchanged(at, info.begin)
            yield from pieces(info)
            at = info.end
    yield from unchanged(at, shard.size)
