"""Tokens, characters and tags as numbers: what an embedding takes and a tagger is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import as_integer
from .errors import FormatError

__all__ = ["PADDING", "UNKNOWN", "Vocabulary", "encode_tags"]

PADDING = 0
"""The id of the places after the end of a sentence or word."""

UNKNOWN = 1
"""The id of what the vocabulary has not."""


class Vocabulary:
    """Numbers for tokens: 0 is padding, 1 any unknown token, then by falling count.

    Of strings it is a vocabulary of characters, as a string is a sequence of them.

    Parameters
    ----------
    tokens : iterable of str
        All tokens of the training data, each as often as it occurs.
    min_count : int
        Rarer tokens are left out.
    lower : bool
        Whether tokens are the same in upper and lower case.
    size : int or None
        The most numbers there may be, `PADDING` and `UNKNOWN` among them: the rows of an embedding.
        Where tokens are as frequent, those first by code point stay.

    Attributes
    ----------
    tokens : tuple of str
        The known tokens; that at ``i`` has the number ``i + 2``.
    lower : bool
        As given.

    Raises
    ------
    ValueError
        If `min_count` is below 1 or `size` below 2.

    Examples
    --------
    >>> from secateur.vocabulary import Vocabulary
    >>> words = Vocabulary(["the", "cat", "saw", "the", "dog"], size=4)
    >>> words.tokens, len(words)
    (('the', 'cat'), 4)
    >>> words.encode([["the", "dog"], ["the", "cat", "saw", "the", "dog"]], length=3)
    array([[2, 1, 0],
           [2, 3, 1]])
    >>> characters = Vocabulary("the cat saw".replace(" ", ""))
    >>> characters.encode_characters([["cat", "at"]], length=3, word_length=4)
    array([[[4, 2, 3, 0],
            [2, 3, 0, 0],
            [0, 0, 0, 0]]])
    """

    def __init__(
        self, tokens: Iterable[str], *, min_count: int = 1, lower: bool = False, size: int | None = None
    ) -> None:
        if as_integer(min_count, "min_count") < 1:
            raise ValueError(f"min_count: expected at least 1, got {min_count}")
        if size is not None and as_integer(size, "size") < 2:
            raise ValueError(f"size: expected at least 2, for padding and unknown tokens, got {size}")
        counts = Counter(token.lower() for token in tokens) if lower else Counter(tokens)
        kept = sorted((-count, token) for token, count in counts.items() if count >= min_count)
        self._set((token for _, token in kept[: None if size is None else size - 2]), lower)

    def _set(self, tokens: Iterable[str], lower: bool) -> None:
        self.tokens = tuple(tokens)
        self.lower = lower
        self._ids = {token: i for i, token in enumerate(self.tokens, 2)}

    def __len__(self) -> int:
        """The numbers there are, padding and unknown among them."""
        return len(self.tokens) + 2

    def encode(self, sentences: Sequence[Sequence[str]], length: int) -> NDArray[np.int64]:
        """Numbers of the tokens of sentences, or of the characters of words.

        Parameters
        ----------
        sentences : sequence of (sequence of str)
        length : int
            Longer sentences are cut: what comes after the first `length` tokens is lost. Shorter ones are
            padded at their end.

        Returns
        -------
        ndarray of shape (n, length), int64
            From 0 to ``len(self) - 1``.

        Raises
        ------
        ValueError
            If `length` is below 1.
        """
        _check_length("length", length)
        ids = np.full((len(sentences), length), PADDING, np.int64)
        for row, sentence in zip(ids, sentences, strict=True):
            found = [self._id(token) for token in sentence[:length]]
            row[: len(found)] = found
        return ids

    def encode_characters(
        self, sentences: Sequence[Sequence[str]], length: int, word_length: int
    ) -> NDArray[np.int64]:
        """Numbers of the characters of the words of sentences, in a vocabulary of characters.

        Parameters
        ----------
        sentences : sequence of (sequence of str)
            The words of each sentence.
        length, word_length : int
            Longer sentences and longer words are cut at their end, shorter ones are padded there.

        Returns
        -------
        ndarray of shape (n, length, word_length), int64

        Raises
        ------
        ValueError
            If a length is below 1.
        """
        _check_length("length", length)
        _check_length("word_length", word_length)
        ids = np.full((len(sentences), length, word_length), PADDING, np.int64)
        for block, sentence in zip(ids, sentences, strict=True):
            words = sentence[:length]
            block[: len(words)] = self.encode(words, word_length)
        return ids

    def _id(self, token: str) -> int:
        return self._ids.get(token.lower() if self.lower else token, UNKNOWN)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes, of nothing but what JSON has."""
        return {"tokens": list(self.tokens), "lower": self.lower}

    @classmethod
    def from_json(cls, value: Any) -> Vocabulary:
        """The vocabulary that `to_json` described.

        Parameters
        ----------
        value : dict
            It may come from a file of others.

        Raises
        ------
        FormatError
            If it describes none.

        Examples
        --------
        >>> from secateur.vocabulary import Vocabulary
        >>> words = Vocabulary(["the", "cat"])
        >>> words.to_json()
        {'tokens': ['cat', 'the'], 'lower': False}
        >>> Vocabulary.from_json(words.to_json()).tokens
        ('cat', 'the')
        """
        if not isinstance(value, Mapping) or value.keys() != {"tokens", "lower"}:
            raise FormatError("vocabulary: expected a mapping with tokens and lower")
        tokens, lower = value["tokens"], value["lower"]
        if not isinstance(lower, bool):
            raise FormatError("vocabulary: lower: expected true or false")
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise FormatError("vocabulary: tokens: expected a list of strings")
        if len(set(tokens)) != len(tokens):
            raise FormatError("vocabulary: tokens: expected each only once")
        if lower and any(token != token.lower() for token in tokens):
            raise FormatError("vocabulary: tokens: expected lower case")
        vocabulary = cls(())
        vocabulary._set(tokens, lower)
        return vocabulary


def encode_tags(
    sentences: Sequence[Sequence[str]], tags: Sequence[str], length: int, ignore: int = -1
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Numbers of tags: their places in `tags`.

    Parameters
    ----------
    sentences : sequence of (sequence of str)
        The tags of each sentence.
    tags : sequence of str
        The tags that a model knows, each once.
    length : int
        Longer sentences are cut: the tags after the first `length` are lost.
    ignore : int
        The number of what no model can get right: the places after the end of a sentence, and tags that are
        not in `tags`.

    Returns
    -------
    ids : ndarray of shape (n, length), int64
    unknown : dict of str to int
        The tags that are not in `tags`, and how many tokens of the uncut sentences have them: data for
        testing may have types that those for training have not.

    Raises
    ------
    ValueError
        If `length` is below 1, a tag is twice in `tags`, or `ignore` is the number of a tag.

    Examples
    --------
    >>> from secateur.vocabulary import encode_tags
    >>> ids, unknown = encode_tags([["O", "B-a"], ["B-b", "O", "O", "B-b"]], ["O", "B-a"], length=3)
    >>> ids
    array([[ 0,  1, -1],
           [-1,  0,  0]])
    >>> unknown
    {'B-b': 2}
    """
    _check_length("length", length)
    numbers = {tag: i for i, tag in enumerate(tags)}
    if len(numbers) != len(tags):
        raise ValueError("tags: expected each only once")
    if 0 <= ignore < len(tags):
        raise ValueError(f"ignore: expected no tag's number, got {ignore}, that of {tags[ignore]!r}")
    ids = np.full((len(sentences), length), ignore, np.int64)
    for row, sentence in zip(ids, sentences, strict=True):
        found = [numbers.get(tag, ignore) for tag in sentence[:length]]
        row[: len(found)] = found
    counts = Counter(tag for sentence in sentences for tag in sentence if tag not in numbers)
    return ids, dict(sorted(counts.items()))


def _check_length(argument: str, length: int) -> None:
    if as_integer(length, argument) < 1:
        raise ValueError(f"{argument}: expected at least 1, got {length}")
