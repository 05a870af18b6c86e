"""Data sets of plain text, for models of language: tiny-shakespeare, and any file."""

from __future__ import annotations

import os

from .conll import read_text
from .datasets import check_hash, folder_of
from .errors import FormatError

__all__ = ["load_text"]

_SHAKESPEARE = "input.txt"
_SOURCE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def load_text(data: str | os.PathLike[str]) -> str:
    """Load a text.

    Parameters
    ----------
    data : {"shakespeare"} or path-like
        - ``"shakespeare"``: tiny-shakespeare, 1,115,394 characters, 65 different ones, of Shakespeare's plays
          (Karpathy, char-rnn, 2015), looked for in ``$SECATEUR_DATA/shakespeare``, then in the cache
          (``$XDG_CACHE_HOME/secateur`` or ``~/.cache/secateur``), then downloaded into it.
        - the path of a file of text in UTF-8, with or without a byte order mark at its beginning.

    Returns
    -------
    str
        At least one character; line ends are those of the file.

    Raises
    ------
    FormatError
        If the file is missing, empty, damaged, or not UTF-8.
    MissingExtraError
        If pooch is needed and not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> from secateur.text_datasets import load_text
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "text.txt")
    ...     with open(path, "w") as file:
    ...         _ = file.write("To be, or not to be")
    ...     load_text(path)
    'To be, or not to be'
    """
    if data == "shakespeare":
        path = folder_of(data, _SOURCE, {_SHAKESPEARE: f"sha256:{_SHA256}"}) / _SHAKESPEARE
        text = read_text(path)
        check_hash(path, text.encode(), _SHA256)
        return text
    text = read_text(data)
    if not text:
        raise FormatError(f"{os.fspath(data)}: no text in it")
    return text
