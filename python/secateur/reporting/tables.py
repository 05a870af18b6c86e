"""Tables on a terminal or in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


class Column(NamedTuple):
    """A column: its head, the key of its values in a row, and how they are written."""

    head: str
    key: str
    text: Callable[[Any], str] = str


def _thousands(value: float) -> str:
    return f"{value:,.0f}"


def _kilobytes(value: float) -> str:
    return f"{value / 1000:,.0f} kB"


def _times(value: float) -> str:
    return f"{value:.2f}×"


def _microseconds(value: float) -> str:
    return f"{value:,.1f} µs" if value < 100 else f"{value:,.0f} µs"


MODELS = [
    Column("model", "name"),
    Column("parameters", "kept", _thousands),
    Column("MACs", "nonzero_macs", _thousands),
    Column("accuracy", "accuracy", "{:.4f}".format),
    Column("file", "bytes", _kilobytes),
    Column("batch 1", "us_1", _microseconds),
    Column("", "speedup_1", _times),
    Column("batch 32", "us_32", _microseconds),
    Column("", "speedup_32", _times),
]
"""The table of the main job: what is left, what it costs in accuracy, what it gains in time."""


STEPS = [
    Column("pruned by", "method"),
    Column("criterion", "criterion"),
    Column("granularity", "granularity"),
    Column("scope", "scope"),
    Column("sparsity", "sparsity", "{:.4f}".format),
    Column("secateur", "version"),
]
"""The table of a model's provenance."""


def _plain(text: str) -> Text:
    """The text as it is: names from files are neither rich's markup nor a terminal's commands."""
    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str = "") -> None:
    """Print one row a mapping to standard output; the first column to the left, numbers to the right."""
    head = _plain(title) if title else None
    table = Table(box=box.SIMPLE_HEAD, title=head, title_justify="left", pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column.head, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_plain("" if row[c.key] is None else c.text(row[c.key])) for c in columns))
    console = Console()
    if not console.is_terminal:
        # Nobody wraps lines in a file.
        console = Console(width=200)
    console.print(table, highlight=False)
