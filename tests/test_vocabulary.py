"""Vocabularies: who gets which number, what is cut, padded and unknown."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secateur as sc
from secateur.vocabulary import PADDING, UNKNOWN, Vocabulary, encode_tags

TOKENS = st.text("abAéß#", max_size=3)
SENTENCES = st.lists(st.lists(TOKENS, max_size=6), max_size=5)


def test_by_falling_count_then_by_text():
    words = Vocabulary("bbaccAddd")
    assert words.tokens == ("d", "b", "c", "A", "a")
    assert len(words) == 7
    assert Vocabulary("bbaccAddd", min_count=2).tokens == ("d", "b", "c")
    assert Vocabulary("bbaccAddd", size=4).tokens == ("d", "b")
    assert Vocabulary("bbaccAddd", size=2).tokens == ()
    assert Vocabulary("bbaccAddd", size=99, min_count=9).tokens == ()
    assert Vocabulary(iter("bbaccAddd"), lower=True).tokens == ("d", "a", "b", "c")
    assert Vocabulary([]).tokens == ()


def test_unknown_padded_and_cut():
    words = Vocabulary(["a", "a", "b"])
    ids = words.encode([["b", "x", "a"], [], ["a"], ["a", "b", "a", "b"]], 3)
    assert ids.dtype == np.int64
    assert ids.tolist() == [[3, UNKNOWN, 2], [PADDING] * 3, [2, PADDING, PADDING], [2, 3, 2]]
    assert words.encode([], 3).shape == (0, 3)
    # No text is that of the padding.
    assert Vocabulary(["a"]).encode([[""]], 2).tolist() == [[UNKNOWN, PADDING]]
    assert Vocabulary([""]).encode([[""]], 2).tolist() == [[2, PADDING]]


def test_lower_case():
    words = Vocabulary(["Paris", "PARIS", "of"], lower=True)
    assert words.encode([["pARIS", "Of", "x"]], 3).tolist() == [[2, 3, UNKNOWN]]
    assert Vocabulary(["Paris"]).encode([["paris"]], 1).tolist() == [[UNKNOWN]]
    # One letter that is two in lower case is still one character.
    assert Vocabulary("İ", lower=True).encode(["İİ"], 3).tolist() == [[2, 2, PADDING]]


@given(SENTENCES, st.integers(1, 7), st.integers(1, 4), st.booleans())
def test_token_by_token(sentences, length, min_count, lower):
    tokens = [token for sentence in sentences for token in sentence]
    words = Vocabulary(tokens, min_count=min_count, lower=lower)
    counts = Counter(token.lower() if lower else token for token in tokens)
    assert set(words.tokens) == {token for token, count in counts.items() if count >= min_count}
    ids = words.encode(sentences, length)
    assert ids.shape == (len(sentences), length)
    assert ids.size == 0 or 0 <= ids.min() <= ids.max() < len(words)
    for row, sentence in zip(ids, sentences, strict=True):
        for i, number in enumerate(row):
            if i >= len(sentence):
                assert number == PADDING
                continue
            token = sentence[i].lower() if lower else sentence[i]
            known = token in words.tokens
            assert number == (words.tokens.index(token) + 2 if known else UNKNOWN)


@given(SENTENCES, st.integers(1, 7), st.integers(1, 4))
def test_characters_word_by_word(sentences, length, word_length):
    characters = Vocabulary("abA#")
    ids = characters.encode_characters(sentences, length, word_length)
    assert ids.dtype == np.int64 and ids.shape == (len(sentences), length, word_length)
    for block, sentence in zip(ids, sentences, strict=True):
        padded = (sentence + [""] * length)[:length]
        assert np.array_equal(block, characters.encode(padded, word_length))


@given(st.lists(TOKENS), st.booleans())
def test_json_round_trip(tokens, lower):
    words = Vocabulary(tokens, lower=lower)
    again = Vocabulary.from_json(json.loads(json.dumps(words.to_json())))
    assert (again.tokens, again.lower, len(again)) == (words.tokens, words.lower, len(words))
    assert np.array_equal(again.encode([tokens], 5), words.encode([tokens], 5))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "a mapping"),
        ([], "a mapping"),
        ({}, "a mapping"),
        ({"tokens": []}, "a mapping"),
        ({"tokens": [], "lower": False, "more": 1}, "a mapping"),
        ({"tokens": [], "lower": 0}, "lower: expected true or false"),
        ({"tokens": "ab", "lower": False}, "tokens: expected a list of strings"),
        ({"tokens": ["a", 1], "lower": False}, "tokens: expected a list of strings"),
        ({"tokens": ["a", ["b"]], "lower": False}, "tokens: expected a list of strings"),
        ({"tokens": ["a", "a"], "lower": False}, "tokens: expected each only once"),
        ({"tokens": ["a", "B"], "lower": True}, "tokens: expected lower case"),
    ],
)
def test_json_of_others(value, message):
    with pytest.raises(sc.FormatError, match=f"vocabulary: .*{message}"):
        Vocabulary.from_json(value)


def test_arguments():
    words = Vocabulary(["a"])
    for call in (
        lambda: Vocabulary([], min_count=0),
        lambda: Vocabulary([], size=1),
        lambda: words.encode([["a"]], 0),
        lambda: words.encode_characters([["a"]], 0, 3),
        lambda: words.encode_characters([], 3, 0),
        lambda: encode_tags([["O"]], ["O"], 0),
        lambda: encode_tags([["O"]], ["O", "O"], 2),
        lambda: encode_tags([["O"]], ["O", "B-a"], 2, ignore=1),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
    with pytest.raises(TypeError, match="length: expected an integer"):
        words.encode([["a"]], 2.5)


def test_tags_and_those_that_are_unknown():
    sentences = [("O", "B-a"), ("B-c", "B-a", "O", "B-b", "B-c"), ()]
    ids, unknown = encode_tags(sentences, ["O", "B-a"], 3)
    assert ids.dtype == np.int64
    assert ids.tolist() == [[0, 1, -1], [-1, 1, 0], [-1, -1, -1]]
    assert list(unknown.items()) == [("B-b", 1), ("B-c", 2)]
    ids, unknown = encode_tags(sentences, ["O", "B-a", "B-b", "B-c"], 5, ignore=-100)
    assert ids.tolist() == [[0, 1, -100, -100, -100], [3, 1, 0, 2, 3], [-100] * 5]
    assert unknown == {}
    assert encode_tags([], [], 4)[0].shape == (0, 4)
