"""A progress bar of bytes, on stderr, where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(title: str, total: int | None, show: bool) -> Iterator[Callable[[int], object]]:
    """Shows a bar while the block runs; yields what is to be called with the bytes just done.

    Without a `total` it only shows that something is going on.
    """
    bar = _bar() if show else None
    if bar is None:
        yield lambda _: None
        return
    with bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)


def _bar() -> Any:
    try:
        # Late: importing it takes longer than importing the rest of the package.
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        return None
    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    columns = (TextColumn("{task.description}"), BarColumn(30), DownloadColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)
