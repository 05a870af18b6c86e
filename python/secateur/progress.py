"""Progress bars, on stderr, where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def terminal_bar(columns: Callable[[Any], tuple[ProgressColumn, ...]]) -> Progress | None:
    """A bar of the columns that are made of the module `rich.progress`; None without rich or a terminal."""
    try:
        # Late: importing it takes longer than importing the rest of the package.
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None
    console = Console(stderr=True)
    return progress.Progress(*columns(progress), console=console) if console.is_terminal else None


@contextmanager
def progress_bar(title: str, total: int | None, show: bool) -> Iterator[Callable[[int], object]]:
    """Shows a bar of bytes while the block runs; yields what is to be called with the bytes just done.

    Without a `total` it only shows that something is going on.
    """
    bar = terminal_bar(_columns) if show else None
    if bar is None:
        yield lambda _: None
        return
    with bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)


def _columns(rich: Any) -> tuple[ProgressColumn, ...]:
    return (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(30),
        rich.DownloadColumn(),
        rich.TimeElapsedColumn(),
    )
