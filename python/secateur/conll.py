"""CoNLL column files: one token a line with its tag, a blank line between sentences."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from .errors import FormatError

__all__ = ["Entity", "Sentence", "entities", "read", "tag_set"]

Entity: TypeAlias = tuple[str, int, int]
"""Type, first token, and the token after the last one."""

OUTSIDE = "O"
"""The tag of a token that is in no entity."""

_DOCUMENT = "-DOCSTART-"
_TAG = re.compile(r"O|[BI]-.+")
# Of what a file holds, no more than this goes into a message.
_SHOWN = 40


@dataclass(frozen=True)
class Sentence:
    """The tokens of a sentence, their tags, and the line of the first one in its file, from 1."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    line: int


def read(path: str | os.PathLike[str], *, tag_column: int = -1, token_column: int = 0) -> list[Sentence]:
    """Read a file of tagged sentences.

    Columns are separated by one tab, or by spaces in lines without a tab. Lines of nothing but white space
    end a sentence, as do CoNLL-2003's ``-DOCSTART-`` lines; neither gives a sentence without tokens. Nothing
    is a comment: tweets begin with ``#``.

    Parameters
    ----------
    path : path-like
        UTF-8, with or without a byte order mark at its beginning.
    tag_column, token_column : int
        Where the tag and the token are, from 0; negative ones count from the last column.

    Returns
    -------
    list of Sentence
        At least one, each with at least one token. Tags are ``O``, ``B-type`` or ``I-type``, as they are in
        the file: ``I-`` may begin an entity.

    Raises
    ------
    FormatError
        If the file is missing or not of this format; the message names the line.
    ValueError
        If both columns are the same.

    Examples
    --------
    >>> import os, tempfile
    >>> from secateur import conll
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "train.conll")
    ...     with open(path, "w") as file:
    ...         _ = file.write("in\\tO\\nNew\\tB-location\\nYork\\tI-location\\n\\n#paris\\tB-location\\n")
    ...     for sentence in conll.read(path):
    ...         print(sentence)
    Sentence(tokens=('in', 'New', 'York'), tags=('O', 'B-location', 'I-location'), line=1)
    Sentence(tokens=('#paris',), tags=('B-location',), line=5)
    """
    if token_column == tag_column:
        raise ValueError(f"tag_column: expected another column than that of the token, got {tag_column}")
    sentences: list[Sentence] = []
    tokens: list[str] = []
    tags: list[str] = []
    start = 0

    def end() -> None:
        if tokens:
            sentences.append(Sentence(tuple(tokens), tuple(tags), start))
            tokens.clear()
            tags.clear()

    # Not splitlines(): tokens may hold what Unicode takes for the end of a line.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        columns = _columns(line)
        if not line.strip() or columns[0] == _DOCUMENT:
            end()
            continue
        try:
            token, tag = _token(columns, token_column, tag_column)
        except ValueError as error:
            raise FormatError(f"{path}:{number}: {error}") from None
        if not tokens:
            start = number
        tokens.append(token)
        tags.append(tag)
    end()
    if not sentences:
        raise FormatError(f"{path}: no sentences in it")
    return sentences


def read_text(path: str | os.PathLike[str]) -> str:
    """A file of UTF-8 without its byte order mark; a FormatError, which names the line, where it is none."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file") from error
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}") from error
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FormatError(f"{path}:{line}: no UTF-8 ({error.reason})") from error


def _columns(line: str) -> list[str]:
    line = line.removesuffix("\r")
    if "\t" in line:
        return [column.strip(" ") for column in line.split("\t")]
    # Not split(): it would also split at the no-break spaces within a token.
    return [column for column in line.split(" ") if column]


def _token(columns: list[str], token_column: int, tag_column: int) -> tuple[str, str]:
    """The token and its tag, checked."""
    at, tag_at = (i + len(columns) if i < 0 else i for i in (token_column, tag_column))
    if not (0 <= at < len(columns) and 0 <= tag_at < len(columns)) or at == tag_at:
        raise ValueError(f"expected columns {token_column} and {tag_column}, got {len(columns)} in all")
    token, tag = columns[at], columns[tag_at]
    if not token:
        raise ValueError("empty token")
    if not _TAG.fullmatch(tag):
        raise ValueError(f"expected a tag O, B-type or I-type, got {tag[:_SHOWN]!r}")
    return token, tag


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, by the rules of the CoNLL shared tasks' ``conlleval``.

    ``B-`` begins an entity. So does ``I-`` after ``O``, at the beginning, and after another type.

    Parameters
    ----------
    tags : sequence of str
        ``O``, ``B-type`` or ``I-type`` for each token.

    Returns
    -------
    list of (type, start, stop)
        In their order; `stop` is the token after the last one.

    Raises
    ------
    ValueError
        If one is no such tag.

    Examples
    --------
    >>> from secateur import conll
    >>> conll.entities(["B-person", "I-person", "B-person", "O", "I-group", "I-product"])
    [('person', 0, 2), ('person', 2, 3), ('group', 4, 5), ('product', 5, 6)]
    """
    found: list[Entity] = []
    running, start = "", 0
    for i, tag in enumerate(tags):
        if not _TAG.fullmatch(tag):
            raise ValueError(f"tags: expected O, B-type or I-type, got {tag!r}")
        kind = tag[2:]
        if running and (kind != running or tag.startswith("B-")):
            found.append((running, start, i))
            running = ""
        if kind and not running:
            running, start = kind, i
    if running:
        found.append((running, start, len(tags)))
    return found


def tag_set(sentences: Iterable[Sentence]) -> list[str]:
    """The tags that occur: ``O``, then by type, ``B-`` before ``I-``.

    Examples
    --------
    >>> from secateur import conll
    >>> conll.tag_set([conll.Sentence(("a", "b", "c"), ("B-x", "I-a", "O"), 1)])
    ['O', 'I-a', 'B-x']
    """
    tags = {tag for sentence in sentences for tag in sentence.tags}
    return sorted(tags, key=lambda tag: (tag != OUTSIDE, tag[2:], tag))
